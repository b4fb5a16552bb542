// Event records as they stand in the log (§2.5).

import { encode, nameOf } from '../../../../base/bit-fields.ts';
import { u64 } from '../../../../base/u64.ts';
import {
  COMMAND_RECORD,
  EVENT,
  HARDWARE_ERROR,
  HARDWARE_ERROR_RECORD,
  ILLEGAL_DTE_RECORD,
  INVALID_PPR_RECORD,
  INVALID_REQUEST_RECORD,
  IO_PAGE_FAULT_RECORD,
} from '../../spec/events.ts';
import type { EventRecord, EventType } from '../transaction.ts';
import type { TranslationFault } from '../translation/translation-fault.ts';

/** The name of an event, such as `IO_PAGE_FAULT`. */
export function eventName(type: number): string {
  return nameOf(EVENT, type);
}

/** What a device asked for, as records tell it. */
export interface Request {
  readonly deviceId: number;
  readonly pasid: number | null;
  readonly hi: number;
  readonly lo: number;
  readonly write: boolean;
  readonly execute: boolean;
  readonly privileged: boolean;
  /** A translation request (ATS). */
  readonly translation: boolean;
  /** An interrupt. */
  readonly interrupt: boolean;
}

/** The low 16 bits and the upper 4 of a PASID. */
function pasidFields(pasid: number | null): { readonly low: number; readonly high: number } {
  const value = pasid ?? 0;
  return { low: value & 0xffff, high: value >>> 16 };
}

/** ILLEGAL_DEV_TABLE_ENTRY */
export function illegalDteEvent(request: Request, reservedBit: boolean): EventRecord {
  const pasid = pasidFields(request.pasid);
  const words = encode(ILLEGAL_DTE_RECORD, {
    DeviceID: request.deviceId,
    PASID_19_16: pasid.high,
    PASID_15_0: pasid.low,
    GN: request.pasid !== null,
    I: request.interrupt,
    RW: request.write,
    RZ: reservedBit,
    TR: request.translation,
    EventCode: EVENT.ILLEGAL_DEV_TABLE_ENTRY,
  });
  words[2] = (request.lo & ~3) >>> 0;
  words[3] = request.hi >>> 0;
  return { type: EVENT.ILLEGAL_DEV_TABLE_ENTRY, words };
}

/** What of IO_PAGE_FAULT does not come from the request. */
export type PageFaultDetail = Pick<
  TranslationFault,
  'gn' | 'hi' | 'lo' | 'present' | 'permission' | 'reserved'
>;

/** IO_PAGE_FAULT. `domainId` is of the DTE, 0 where there is none. */
export function pageFaultEvent(request: Request, fault: PageFaultDetail, domainId: number): EventRecord {
  const pasid = pasidFields(request.pasid);
  const words = encode(IO_PAGE_FAULT_RECORD, {
    DeviceID: request.deviceId,
    PASID_19_16: fault.gn ? pasid.high : 0,
    DomainID: fault.gn ? pasid.low : domainId,
    GN: fault.gn,
    NX: fault.gn && request.execute,
    US: fault.gn && !request.privileged,
    I: request.interrupt,
    PR: fault.present,
    RW: request.write,
    PE: fault.permission,
    RZ: fault.reserved,
    TR: request.translation,
    EventCode: EVENT.IO_PAGE_FAULT,
  });
  words[2] = fault.lo >>> 0;
  words[3] = fault.hi >>> 0;
  return { type: EVENT.IO_PAGE_FAULT, words };
}

/** DEV_TAB_HARDWARE_ERROR */
export function deviceTableErrorEvent(request: Request, address: number): EventRecord {
  const words = encode(HARDWARE_ERROR_RECORD, {
    DeviceID: request.deviceId,
    I: request.interrupt,
    RW: request.write,
    TR: request.translation,
    Type: HARDWARE_ERROR.MASTER_ABORT,
    EventCode: EVENT.DEV_TAB_HARDWARE_ERROR,
    Address: address,
  });
  return { type: EVENT.DEV_TAB_HARDWARE_ERROR, words };
}

/** PAGE_TAB_HARDWARE_ERROR: the address is the physical one of the entry. */
export function pageTableErrorEvent(
  request: Request,
  fault: TranslationFault,
  domainId: number,
): EventRecord {
  const pasid = pasidFields(request.pasid);
  const words = encode(HARDWARE_ERROR_RECORD, {
    DeviceID: request.deviceId,
    PASID_19_16: fault.gn ? pasid.high : 0,
    DomainID: fault.gn ? pasid.low : domainId,
    GN: fault.gn,
    I: request.interrupt,
    RW: request.write,
    TR: request.translation,
    Type: HARDWARE_ERROR.MASTER_ABORT,
    EventCode: EVENT.PAGE_TAB_HARDWARE_ERROR,
    Address: u64(fault.hi, fault.lo),
  });
  return { type: EVENT.PAGE_TAB_HARDWARE_ERROR, words };
}

/** INVALID_DEVICE_REQUEST; `kind` is INVALID_ACCESS, or INVALID_TRANSLATION for a translation request. */
export function invalidRequestEvent(request: Request, kind: number): EventRecord {
  const pasid = pasidFields(request.pasid);
  const words = encode(INVALID_REQUEST_RECORD, {
    DeviceID: request.deviceId,
    PASID_19_16: pasid.high,
    PASID_15_0: pasid.low,
    GN: request.pasid !== null,
    TR: request.translation,
    Type: kind,
    EventCode: EVENT.INVALID_DEVICE_REQUEST,
  });
  words[2] = request.lo >>> 0;
  words[3] = request.hi >>> 0;
  return { type: EVENT.INVALID_DEVICE_REQUEST, words };
}

/** ILLEGAL_COMMAND_ERROR and IOTLB_INV_TIMEOUT: the address is the command's. */
export function commandEvent(
  type: typeof EVENT.ILLEGAL_COMMAND_ERROR | typeof EVENT.IOTLB_INV_TIMEOUT,
  address: number,
  deviceId = 0,
): EventRecord {
  const words = encode(COMMAND_RECORD, {
    DeviceID: deviceId,
    EventCode: type,
    Address: Math.floor(address / 16),
  });
  return { type, words };
}

/** COMMAND_HARDWARE_ERROR: the address that was accessed. */
export function commandErrorEvent(address: number): EventRecord {
  const type: EventType = EVENT.COMMAND_HARDWARE_ERROR;
  const words = encode(HARDWARE_ERROR_RECORD, {
    Type: HARDWARE_ERROR.MASTER_ABORT,
    EventCode: type,
    Address: address,
  });
  return { type, words };
}

/** INVALID_PPR_REQUEST. `tag` is the PRG index with Last above it. */
export function invalidPprEvent(request: Request, tag: number): EventRecord {
  const pasid = pasidFields(request.pasid);
  const words = encode(INVALID_PPR_RECORD, {
    DeviceID: request.deviceId,
    PASID_15_0: pasid.low,
    PPRTag: tag,
    PASID_19_16: pasid.high,
    GN: request.pasid !== null,
    EventCode: EVENT.INVALID_PPR_REQUEST,
  });
  words[2] = (request.lo & ~0xfff) >>> 0;
  words[3] = request.hi >>> 0;
  return { type: EVENT.INVALID_PPR_REQUEST, words };
}
