import { nameOf, readField } from '../../../../base/bit-fields.ts';
import { hex, u64 } from '../../../../base/u64.ts';
import { EVENT, EVENT_COMMON, INVALID_PPR_RECORD, IO_PAGE_FAULT_RECORD } from '../../spec/events.ts';
import { OFFSET, STATUS } from '../../spec/registers.ts';
import { IOMMU_PAGE_RESP_FAILURE } from '../../../iopf.ts';
import { restartLog } from '../bring-up.ts';
import { completePpr } from './commands.ts';
import { readDte } from '../configuration/dte.ts';
import type { Ivhd } from '../ivhd.ts';

// The event log: drivers/iommu/amd/iommu.c iommu_poll_events() and iommu_print_event(). Linux tells nobody of a fault.

/** EVENT_FLAGS_SHIFT: bits 59:48 of a record. */
function flagsOf(words: Uint32Array): string {
  return `0x${((words[1]! >>> 16) & 0xfff).toString(16).padStart(4, '0')}`;
}

/** bus:device.function, with the segment in front. */
function nameOfDevice(ivhd: Ivhd, id: number): string {
  const part = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
  const bus = part(id >>> 8, 2);
  return `${part(ivhd.segment.id, 4)}:${bus}:${part((id >>> 3) & 0x1f, 2)}.${id & 7}`;
}

export function serveEventLog(ivhd: Ivhd): void {
  const overflow = STATUS.EventOverflow.inPlace;
  ivhd.eventLog.serve(
    STATUS.EventLogInt.inPlace,
    overflow,
    (words) => reportEvent(ivhd, words),
    () => restartLog(ivhd, 'Event', STATUS.EventLogRun.inPlace, overflow),
  );
}

// iommu_print_event()
function reportEvent(ivhd: Ivhd, words: Uint32Array): void {
  const type = readField(EVENT_COMMON.EventCode, words);
  const id = readField(EVENT_COMMON.DeviceID, words);
  const address = hex(u64(words[3]!, words[2]!));
  const flags = flagsOf(words);
  const device = `device=${nameOfDevice(ivhd, id)}`;
  const pasid = `pasid=${hex(((words[0]! & 0xf_0000) | (words[1]! & 0xffff)) >>> 0)}`;
  const name = nameOf(EVENT, type);
  const log = (text: string): void => ivhd.log(`Event logged [${text}]`);
  switch (type) {
    case EVENT.IO_PAGE_FAULT:
      return reportPageFault(ivhd, words, id, address, flags);
    case EVENT.ILLEGAL_DEV_TABLE_ENTRY:
      log(`${name} ${device} ${pasid} address=${address} flags=${flags}`);
      ivhd.log(`Control Reg : ${hex(ivhd.mmio.read64(OFFSET.CONTROL))}`);
      return logDte(ivhd, id);
    case EVENT.PAGE_TAB_HARDWARE_ERROR:
    case EVENT.INVALID_DEVICE_REQUEST:
      return log(`${name} ${device} ${pasid} address=${address} flags=${flags}`);
    case EVENT.DEV_TAB_HARDWARE_ERROR:
      return log(`${name} ${device} address=${address} flags=${flags}`);
    case EVENT.ILLEGAL_COMMAND_ERROR:
      return log(`${name} address=${address}`);
    case EVENT.COMMAND_HARDWARE_ERROR:
      return log(`${name} address=${address} flags=${flags}`);
    case EVENT.IOTLB_INV_TIMEOUT:
      return log(`${name} ${device} address=${address}`);
    case EVENT.INVALID_PPR_REQUEST:
      return reportInvalidPpr(ivhd, words, id, address, flags);
    default:
      return log(`UNKNOWN ${[...words].map((word, i) => `event[${i}]=${hex(word)}`).join(' ')}`);
  }
}

// amd_iommu_report_page_fault()
function reportPageFault(ivhd: Ivhd, words: Uint32Array, id: number, address: string, flags: string): void {
  const device = ivhd.devices.get(id);
  const interrupt = readField(IO_PAGE_FAULT_RECORD.I, words) !== 0;
  const domain = `domain=0x${readField(IO_PAGE_FAULT_RECORD.DomainID, words).toString(16).padStart(4, '0')}`;
  if (device === undefined) {
    const name = nameOfDevice(ivhd, id);
    return ivhd.log(
      `Event logged [IO_PAGE_FAULT device=${name} ${domain} address=${address} flags=${flags}]`,
    );
  }
  if (!interrupt && device.domain === null) {
    ivhd.log('Event logged [Device not attached to domain properly]');
    return ivhd.log(`  device=${nameOfDevice(ivhd, id)} ${domain}`);
  }
  ivhd.log(`${device.name}: Event logged [IO_PAGE_FAULT ${domain} address=${address} flags=${flags}]`);
}

// amd_iommu_report_ppr_err(): refused at the device, unless the IOMMU has answered it.
function reportInvalidPpr(ivhd: Ivhd, words: Uint32Array, id: number, address: string, flags: string): void {
  const get = (field: (typeof INVALID_PPR_RECORD)['RX']): number => readField(field, words);
  const pasid = get(INVALID_PPR_RECORD.PASID_19_16) * 0x1_0000 + get(INVALID_PPR_RECORD.PASID_15_0);
  const tag = get(INVALID_PPR_RECORD.PPRTag);
  const where = `device=${nameOfDevice(ivhd, id)} pasid=0x${pasid.toString(16).padStart(5, '0')}`;
  const what = `address=${address} flags=${flags} tag=0x${tag.toString(16).padStart(3, '0')}`;
  ivhd.log(`Event logged [INVALID_PPR_REQUEST ${where} ${what}]`);
  if (get(INVALID_PPR_RECORD.RX) !== 0 || !ivhd.devices.has(id)) return;
  ivhd.queue(completePpr(id, pasid, IOMMU_PAGE_RESP_FAILURE, tag, get(INVALID_PPR_RECORD.GN) !== 0));
}

// dump_dte_entry()
function logDte(ivhd: Ivhd, id: number): void {
  const dte = readDte(ivhd.kernel, ivhd.segment.dteAddress(id));
  for (let i = 0; i < 4; i++) {
    const value = u64(dte[i * 2 + 1]!, dte[i * 2]!);
    ivhd.log(`DTE[${i}]: ${value.toString(16).padStart(16, '0')}`);
  }
}
