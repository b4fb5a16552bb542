import { readField, type Field } from '../../../../base/bit-fields.ts';
import { u64 } from '../../../../base/u64.ts';
import {
  IOMMU_PGFAULT_PERM_EXEC,
  IOMMU_PGFAULT_PERM_PRIV,
  IOMMU_PGFAULT_PERM_READ,
  IOMMU_PGFAULT_PERM_WRITE,
} from '../../../../abi/iommufd.ts';
import {
  IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
  IOMMU_FAULT_PAGE_REQUEST_PASID_VALID,
  IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID,
  IOMMU_PAGE_RESP_FAILURE,
  reportDeviceFault,
} from '../../../iopf.ts';
import { PAGE_SERVICE_REQUEST, PPR_RECORD } from '../../spec/events.ts';
import { STATUS } from '../../spec/registers.ts';
import { restartLog } from '../bring-up.ts';
import { completePpr } from './commands.ts';
import type { AmdIommuDevice } from '../device.ts';
import type { Ivhd } from '../ivhd.ts';

// Page requests of devices: drivers/iommu/amd/ppr.c.

/** amd_iommu_poll_ppr_log() */
export function servePprLog(ivhd: Ivhd): void {
  const overflow = STATUS.PprOverflow.inPlace;
  ivhd.pprLog?.serve(
    STATUS.PprInt.inPlace,
    overflow,
    (words) => reportRequest(ivhd, words),
    () => restartLog(ivhd, 'PPR', STATUS.PprLogRun.inPlace, overflow),
  );
}

// ppr_flag_to_fault_perm()
function permissionsOf(words: Uint32Array): number {
  const bit = (field: Field, value: number): number => (readField(field, words) !== 0 ? value : 0);
  return (
    bit(PPR_RECORD.READ, IOMMU_PGFAULT_PERM_READ) |
    bit(PPR_RECORD.WRITE, IOMMU_PGFAULT_PERM_WRITE) |
    bit(PPR_RECORD.EXE, IOMMU_PGFAULT_PERM_EXEC) |
    (bit(PPR_RECORD.US, 1) === 0 ? IOMMU_PGFAULT_PERM_PRIV : 0)
  );
}

// iommu_call_iopf_notifier()
function reportRequest(ivhd: Ivhd, words: Uint32Array): void {
  const get = (field: Field): number => readField(field, words);
  if (get(PPR_RECORD.PPRCode) !== PAGE_SERVICE_REQUEST) return ivhd.log('Unknown PPR request received');
  const device = ivhd.devices.get(get(PPR_RECORD.DeviceID));
  if (device === undefined) return;
  const pasid = get(PPR_RECORD.PASID_19_16) * 0x1_0000 + get(PPR_RECORD.PASID_15_0);
  const tag = get(PPR_RECORD.PRGIndex);
  const valid = get(PPR_RECORD.GN) !== 0 && get(PPR_RECORD.RZ) === 0;
  // PASID 0 stands for requests without one.
  if (valid && (pasid === 0 || pasid >= device.pasidLimit))
    ivhd.log(`Invalid PASID : 0x${pasid.toString(16)}, device : ${device.deviceId}`);
  if (!valid || pasid === 0 || pasid >= device.pasidLimit)
    return answerPageRequest(device, pasid, IOMMU_PAGE_RESP_FAILURE, tag);
  const last = get(PPR_RECORD.Last) !== 0 ? IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE : 0;
  reportDeviceFault(ivhd.kernel, device, {
    flags: IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID | IOMMU_FAULT_PAGE_REQUEST_PASID_VALID | last,
    pasid,
    grpid: tag,
    perm: permissionsOf(words),
    addr: u64(words[3]!, words[2]!) & ~0xfffn,
  });
}

/**
 * amd_iommu_complete_ppr(). As in Linux, the answer carries the PASID where the device's own domain has guest tables,
 * and IOMMU_PAGE_RESP_FAILURE is sent as 2, which PCIe reserves.
 */
export function answerPageRequest(device: AmdIommuDevice, pasid: number, code: number, tag: number): void {
  const gn = device.domain?.mode === 'v2' || device.nested !== null;
  device.ivhd.queue(completePpr(device.deviceId, pasid, code, tag, gn));
}
