// From what went wrong to the event log and the hardware event registers, less what DTE.SE and DTE.SA suppress.

import { decode } from '../../../../base/bit-fields.ts';
import type { Trace } from '../../../../trace/trace.ts';
import {
  EVENT,
  HARDWARE_ERROR_RECORD,
  ILLEGAL_DTE_RECORD,
  INVALID_PPR_RECORD,
  INVALID_REQUEST_RECORD,
  IO_PAGE_FAULT_RECORD,
} from '../../spec/events.ts';
import { HW_EVENT_STATUS, OFFSET } from '../../spec/registers.ts';
import type { CachedDevice } from '../configuration/device-table.ts';
import type { AmdIommuFeatures } from '../registers/config.ts';
import {
  type PageFaultDetail,
  type Request,
  deviceTableErrorEvent,
  eventName,
  illegalDteEvent,
  invalidRequestEvent,
  pageFaultEvent,
  pageTableErrorEvent,
} from './events.ts';
import type { Log } from './log.ts';
import type { RegisterFile } from '../registers/registers.ts';
import type { Aborted, EventRecord } from '../transaction.ts';
import type { TranslationFault } from '../translation/translation-fault.ts';

/** The fields of a record, for people. */
function fields({ type, words }: EventRecord): Record<string, number | bigint> {
  switch (type) {
    case EVENT.ILLEGAL_DEV_TABLE_ENTRY:
      return decode(ILLEGAL_DTE_RECORD, words);
    case EVENT.IO_PAGE_FAULT:
      return decode(IO_PAGE_FAULT_RECORD, words);
    case EVENT.INVALID_DEVICE_REQUEST:
      return decode(INVALID_REQUEST_RECORD, words);
    case EVENT.INVALID_PPR_REQUEST:
      return decode(INVALID_PPR_RECORD, words);
    default:
      return decode(HARDWARE_ERROR_RECORD, words);
  }
}

export class Faults {
  readonly #features: AmdIommuFeatures;
  readonly #registers: RegisterFile;
  readonly #log: Log;
  readonly #trace: Trace | null;
  /** Takes events that a device's guest brought about, where the hardware vIOMMU serves it; null: the host gets it. */
  toGuest: ((device: CachedDevice, event: EventRecord) => boolean | null) | null = null;

  constructor(features: AmdIommuFeatures, registers: RegisterFile, log: Log, trace: Trace | null) {
    this.#features = features;
    this.#registers = registers;
    this.#log = log;
    this.#trace = trace;
  }

  /** Logs an event; true when it is in the log. */
  record(event: EventRecord): boolean {
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'fault', unit: 'amd-iommu', event: eventName(event.type), ...fields(event) });
    }
    return this.#log.write(event.words) === 'written';
  }

  /** A hardware error: it goes into the registers at 0040h too (HESup), where the last one stands. */
  recordHardwareError(event: EventRecord): boolean {
    if (this.#features.he) {
      const registers = this.#registers;
      const status = registers.get(OFFSET.HW_EVENT_STATUS);
      const overflow = (status & HW_EVENT_STATUS.HEV.inPlace) !== 0 ? HW_EVENT_STATUS.HEO.inPlace : 0;
      registers.set(OFFSET.HW_EVENT_STATUS, status | HW_EVENT_STATUS.HEV.inPlace | overflow);
      registers.set(OFFSET.HW_EVENT_UPPER, event.words[0]!);
      registers.set(OFFSET.HW_EVENT_UPPER + 4, event.words[1]!);
      registers.set(OFFSET.HW_EVENT_LOWER, event.words[2]!);
      registers.set(OFFSET.HW_EVENT_LOWER + 4, event.words[3]!);
    }
    return this.record(event);
  }

  #abort(event: EventRecord, recorded: boolean, reason: string): Aborted {
    return { kind: 'aborted', event, recorded, reason };
  }

  illegalDte(request: Request, device: CachedDevice, interrupt: boolean): Aborted {
    const illegal = (interrupt ? device.config.interrupts.illegal : device.config.illegal)!;
    const event = illegalDteEvent(request, illegal.reservedBit);
    return this.#abort(event, this.record(event), illegal.reason);
  }

  deviceTableError(request: Request, address: number): Aborted {
    const event = deviceTableErrorEvent(request, address);
    return this.#abort(event, this.recordHardwareError(event), 'the DTE could not be read');
  }

  invalidRequest(request: Request, kind: number, reason: string): Aborted {
    const event = invalidRequestEvent(request, kind);
    return this.#abort(event, this.record(event), reason);
  }

  /**
   * IO_PAGE_FAULT. Translation requests are answered and log none (§2.1.3.2); SA suppresses those of memory requests,
   * SE all after the first one since the DTE was fetched. `silent` says that an interrupt's own bits suppress it.
   */
  pageFault(
    request: Request,
    detail: PageFaultDetail,
    device: CachedDevice | null,
    reason: string,
    silent = false,
  ): Aborted {
    const event = pageFaultEvent(request, detail, device?.config.domainId ?? 0);
    if (request.translation || silent || (!request.interrupt && suppressed(device))) {
      return this.#abort(event, false, reason);
    }
    if (device !== null) device.faulted = true;
    const recorded = this.#tell(detail.gn, device, event) ?? this.record(event);
    return this.#abort(event, recorded, reason);
  }

  /** A fault of guest tables is the guest's; null where it is the host's. */
  #tell(guest: boolean, device: CachedDevice | null, event: EventRecord): boolean | null {
    return guest && device !== null && this.toGuest !== null ? this.toGuest(device, event) : null;
  }

  /** What a translation ran into. */
  translation(request: Request, fault: TranslationFault, device: CachedDevice): Aborted {
    if (fault.kind === 'page-fault') return this.pageFault(request, fault, device, fault.reason);
    const event = pageTableErrorEvent(request, fault, device.config.domainId);
    const recorded = this.#tell(fault.gn, device, event) ?? this.recordHardwareError(event);
    return this.#abort(event, recorded, fault.reason);
  }
}

function suppressed(device: CachedDevice | null): boolean {
  if (device === null || !device.config.v) return false;
  return device.config.suppressAll || (device.config.suppressFurther && device.faulted);
}
