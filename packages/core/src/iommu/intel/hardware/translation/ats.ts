// Device-TLB support (§4.1, §4.2): translation requests, and what is done with translated ones.

import { FAULT, FAULT_TYPE, type FaultCondition, INTERRUPT_RANGE, ADDRESS_TYPE } from '../../spec/faults.ts';
import { PGTT } from '../../spec/pasid.ts';
import { TT } from '../../spec/context.ts';
import type { IntelFeatures } from '../registers/config.ts';
import type { ConfigTable, Route } from '../configuration/config-table.ts';
import type { LegacyContext, ScalableContext } from '../configuration/context-config.ts';
import type { Blocked, Fault, FaultedRequest, Outcome, Transaction } from '../transaction.ts';
import { NEED, type Translator } from './translator.ts';

/** A translation request. `write` is NW == 0; the last two count with a PASID alone. */
export interface AtsRequest {
  readonly requesterId: number;
  readonly pasid?: number | null;
  /** The untranslated address, as two u32. */
  readonly hi: number;
  readonly lo: number;
  readonly write: boolean;
  readonly execute?: boolean;
  readonly privileged?: boolean;
}

/** Translation completion data. */
export interface AtsTranslation {
  /** The translated address of the first byte of the aligned block of 2^sizeBits bytes. */
  readonly translated: number;
  readonly sizeBits: number;
  readonly read: boolean;
  readonly write: boolean;
  /** Always false: there are no execute requests. */
  readonly execute: boolean;
  readonly privileged: boolean;
  /** U: the range may be accessed by untranslated requests alone. */
  readonly untranslatedOnly: boolean;
  /** N: translated requests must clear No Snoop. */
  readonly nonSnooped: boolean;
}

/** A translation completion: always a single translation (§4.2.3.2). Unsupported Request and Completer Abort carry none. */
export interface AtsCompletion {
  readonly status: 'success' | 'UR' | 'CA';
  readonly entries: readonly AtsTranslation[];
  /** The condition that ended it, if any. */
  readonly fault: FaultCondition | null;
  readonly recorded: boolean;
}

export class Ats {
  readonly #features: IntelFeatures;
  readonly #table: ConfigTable;
  readonly #translator: Translator;
  readonly #enabled: () => boolean;
  readonly #report: (fault: Fault, request: FaultedRequest) => boolean;

  constructor(
    features: IntelFeatures,
    table: ConfigTable,
    translator: Translator,
    enabled: () => boolean,
    report: (fault: Fault, request: FaultedRequest) => boolean,
  ) {
    this.#features = features;
    this.#table = table;
    this.#translator = translator;
    this.#enabled = enabled;
    this.#report = report;
  }

  /** Answers a translation request (§4.2.3). */
  request(request: AtsRequest): AtsCompletion {
    // Translation requests are Unsupported Requests while remapping is disabled (§4.2.1).
    if (!this.#features.dt || !this.#enabled()) {
      return { status: 'UR', entries: [], fault: null, recorded: false };
    }
    const route = this.#route(request);
    if ('condition' in route) return this.#refuse(request, route);
    return this.#translate(request, route);
  }

  #route(request: AtsRequest): Route | Fault {
    const table = this.#table;
    const pasid = request.pasid ?? null;
    const wrong = table.rootFault(pasid !== null) ?? this.#executeFault(request);
    if (wrong !== null) return { condition: wrong, fpd: false };
    const context = table.context(request.requesterId);
    if (context === null) return table.fault!;
    if (!allows(context)) return blocked(context);
    return table.route(request.requesterId, context, pasid) ?? table.fault!;
  }

  /** RTA.5, from Major Version 8 on. */
  #executeFault(request: AtsRequest): FaultCondition | null {
    return hasPasid(request) && request.execute === true && this.#features.major >= 8 ? FAULT.RTA_5 : null;
  }

  #translate(request: AtsRequest, route: Route): AtsCompletion {
    const fail = (condition: FaultCondition): AtsCompletion =>
      this.#refuse(request, { condition, fpd: route.fpd });
    const pasid = hasPasid(request);
    if (pasid && request.execute === true) return fail(FAULT.SPT_5);
    const supervisor = pasid ? request.privileged === true : route.ridPrivileged;
    if (supervisor && !route.entry.supervisor) return fail(FAULT.SPT_6);
    const wanted = request.write || !this.#features.nwfs;
    const inRange = request.hi === 0 && isInterrupt(request.lo >>> 0);
    // S.1, S.2: an endpoint may ask for the address of its interrupts.
    if (inRange && !pasid) return success(nothing(request, wanted));
    // Pass-through of the range grants nothing: what it led to would be blocked (§3.15).
    if (inRange && route.entry.pgtt === PGTT.PASS_THROUGH) return success(nothing(request, false));
    const translator = this.#translator;
    const want = supervisor
      ? wanted
        ? NEED.SUPERVISOR_ATOMIC
        : NEED.SUPERVISOR_READ
      : wanted
        ? NEED.ATOMIC
        : NEED.READ;
    if (!translator.translate(route, request.hi, request.lo, NEED.NOTHING, want))
      return fail(translator.fault!);
    const both = (translator.permissions & want.first) >>> (supervisor ? 0 : 3);
    const read = (both & 1) !== 0 && (translator.rights & 1) !== 0;
    const write = wanted && (both & 2) !== 0 && (translator.rights & 2) !== 0;
    if (!read && !write) return success(nothing(request, false));
    return this.#grant(request, route, read, write);
  }

  #grant(request: AtsRequest, route: Route, read: boolean, write: boolean): AtsCompletion {
    const translator = this.#translator;
    const passThrough = route.entry.pgtt === PGTT.PASS_THROUGH;
    const sizeBits = passThrough ? this.#passThroughBits(translator.pa) : translator.sizeBits;
    const start = translator.pa - (translator.pa % 2 ** sizeBits);
    if (start <= INTERRUPT_RANGE.LAST && start + 2 ** sizeBits > INTERRUPT_RANGE.START) {
      const condition = route.entry.legacy ? FAULT.LGN_4 : FAULT.SGN_8_2;
      return this.#refuse(request, { condition, fpd: route.fpd });
    }
    return success({
      translated: start,
      sizeBits,
      read,
      write,
      execute: false,
      privileged: hasPasid(request) && request.privileged === true,
      untranslatedOnly: false,
      nonSnooped: translator.snoop,
    });
  }

  /** As large a region as there are pages for, clear of the interrupt range (§4.2.3, ADDR). */
  #passThroughBits(address: number): number {
    const { pages1G, pages2M, fs1gp, fsts } = this.#features;
    for (const bits of [pages1G || fs1gp ? 30 : 0, pages2M || fsts ? 21 : 0]) {
      const start = address - (address % 2 ** bits);
      if (bits !== 0 && (start > INTERRUPT_RANGE.LAST || start + 2 ** bits <= INTERRUPT_RANGE.START))
        return bits;
    }
    return 12;
  }

  /** Table 30: UR and CA are non-recoverable and reported; success with fewer permissions is not (§7.1.2). */
  #refuse(request: AtsRequest, fault: Fault): AtsCompletion {
    const { condition } = fault;
    const pasid = hasPasid(request);
    const answer = condition.translation[pasid ? 1 : 0];
    const refused = answer === 'UR' || answer === 'CA' || answer === null;
    const recorded = (refused || condition.always) && this.#report(fault, faulted(request));
    if (!refused)
      return { status: 'success', entries: [nothing(request, false)], fault: condition, recorded };
    return { status: answer === 'CA' ? 'CA' : 'UR', entries: [], fault: condition, recorded };
  }

  /** A translated request (§4.2.5): its address is used as it is. */
  translated(transaction: Transaction): Outcome {
    const features = this.#features;
    const pasid = transaction.pasid ?? null;
    const unsupported: Blocked = { kind: 'blocked', status: 'UR', fault: null, recorded: false };
    if (!features.dt || !this.#enabled() || (pasid !== null && !features.ptrs)) return unsupported;
    const fault = this.#checkTranslated(transaction, pasid);
    if (fault === null) {
      const pa = (transaction.hi >>> 0) * 0x1_0000_0000 + (transaction.lo >>> 0);
      return { kind: 'translated', pa, bytes: 4096 - (pa % 4096), snoop: false };
    }
    const answer = fault.condition.translated[pasid === null ? 0 : 1];
    const recorded = this.#report(fault, {
      requesterId: transaction.requesterId,
      pasid,
      hi: transaction.hi,
      lo: transaction.lo,
      type: typeOf(transaction),
      addressType: ADDRESS_TYPE.TRANSLATED,
      privileged: transaction.privileged === true,
      execute: transaction.execute === true,
    });
    return { kind: 'blocked', status: answer === 'CA' ? 'CA' : 'UR', fault: fault.condition, recorded };
  }

  #checkTranslated(transaction: Transaction, pasid: number | null): Fault | null {
    const table = this.#table;
    const execute = pasid !== null && transaction.execute === true && this.#features.major >= 8;
    const wrong = table.rootFault(pasid !== null) ?? (execute ? FAULT.RTA_5 : null);
    if (wrong !== null) return { condition: wrong, fpd: false };
    const context = table.context(transaction.requesterId);
    if (context === null) return table.fault!;
    const { fpd } = context;
    if (context.mode === 'scalable') {
      if (context.inconsistent) return { condition: FAULT.SCT_4_3, fpd };
      if (!context.deviceTlb) return { condition: FAULT.SCT_5, fpd };
      if (pasid !== null && !context.pasidInTranslated) return { condition: FAULT.SCT_10, fpd };
      if (pasid !== null && !table.acceptsPasid(context, pasid)) return table.fault!;
    } else if (context.tt !== TT.DEVICE_TLB) return { condition: FAULT.LCT_5, fpd };
    const legacy = context.mode === 'legacy';
    const address = (transaction.hi >>> 0) * 0x1_0000_0000 + (transaction.lo >>> 0);
    if (address >= 2 ** this.#features.haw) return { condition: legacy ? FAULT.LGN_1_2 : FAULT.SGN_4_1, fpd };
    if (!isInterrupt(address)) return null;
    return { condition: legacy ? FAULT.LGN_4 : FAULT.SGN_8_3, fpd };
  }
}

/** Whether the context lets a device use translations: DTE, or TT. */
function allows(context: LegacyContext | ScalableContext): boolean {
  return context.mode === 'legacy' ? context.tt === TT.DEVICE_TLB : context.deviceTlb;
}

function blocked(context: LegacyContext | ScalableContext): Fault {
  return { condition: context.mode === 'legacy' ? FAULT.LCT_5 : FAULT.SCT_5, fpd: context.fpd };
}

export function isInterrupt(address: number): boolean {
  return address >= INTERRUPT_RANGE.START && address <= INTERRUPT_RANGE.LAST;
}

/** FRCD.T1 and T2. */
export function typeOf(transaction: Transaction): number {
  if (transaction.atomic === true) return FAULT_TYPE.ATOMIC;
  return transaction.write === true ? FAULT_TYPE.WRITE : FAULT_TYPE.READ;
}

function hasPasid(request: AtsRequest): boolean {
  return request.pasid !== undefined && request.pasid !== null;
}

/** A translation request is a memory read. */
function faulted(request: AtsRequest): FaultedRequest {
  return {
    requesterId: request.requesterId,
    pasid: request.pasid ?? null,
    hi: request.hi,
    lo: request.lo,
    type: FAULT_TYPE.READ,
    addressType: ADDRESS_TYPE.TRANSLATION,
    privileged: request.privileged === true,
    execute: request.execute === true,
  };
}

function success(entry: AtsTranslation): AtsCompletion {
  return { status: 'success', entries: [entry], fault: null, recorded: false };
}

/** R=W=U=S=0, or W=U=1 for an interrupt. */
function nothing(request: AtsRequest, interrupt: boolean): AtsTranslation {
  return {
    translated: 0,
    sizeBits: 12,
    read: false,
    write: interrupt,
    execute: false,
    privileged: hasPasid(request) && request.privileged === true,
    untranslatedOnly: interrupt,
    nonSnooped: false,
  };
}
