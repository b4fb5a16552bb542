// Primary fault logging and the fault event (§7.2.1, §7.3, §11.4.7).

import { encode } from '../../../../base/bit-fields.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { ADDRESS_TYPE, FAULT_TYPE, FRCD, FRCD_BYTES } from '../../spec/faults.ts';
import { FSTS, IQERCD, type Iqei, OFFSET } from '../../spec/registers.ts';
import type { IntelConfig, IntelFeatures } from '../registers/config.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import type { RegisterFile } from '../registers/registers.ts';
import type { Fault, FaultedRequest } from '../transaction.ts';

/** Statuses that are interrupt conditions. */
const CONDITIONS =
  FSTS.PFO.inPlace | FSTS.PPF.inPlace | FSTS.IQE.inPlace | FSTS.ICE.inPlace | FSTS.ITE.inPlace;
const F = FRCD.F.inPlace;

export class FaultLog {
  readonly #config: IntelConfig;
  readonly #features: IntelFeatures;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #trace: Trace | null;
  /** The fault recording register that the next fault goes into. */
  #index = 0;

  constructor(
    config: IntelConfig,
    features: IntelFeatures,
    registers: RegisterFile,
    interrupts: Interrupts,
    trace: Trace | null,
  ) {
    this.#config = config;
    this.#features = features;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#trace = trace;
  }

  /** Translation is disabled: the index starts over. */
  restart(): void {
    this.#index = 0;
  }

  /** Reports a fault, unless an FPD keeps it from that. Answers whether it went into a register. */
  report(fault: Fault, request: FaultedRequest): boolean {
    if (this.#trace !== null && this.#trace.active) {
      const { code, reason } = fault.condition;
      this.#trace.emit({ kind: 'fault', unit: 'vtd', code, reason, fpd: fault.fpd, ...request });
    }
    if (fault.fpd && fault.condition.qualified) return false;
    return this.#record(fault.condition.reason, request);
  }

  #record(reason: number, request: FaultedRequest): boolean {
    const registers = this.#registers;
    if ((registers.get(OFFSET.FSTS) & FSTS.PFO.inPlace) !== 0) return false;
    if (this.#config.collapseFaults && this.#isPending(request.requesterId)) return false;
    const at = this.#features.frcdOffset + this.#index * FRCD_BYTES;
    if ((registers.get(at + 12) & F) !== 0) {
      this.setStatus(FSTS.PFO.inPlace, false);
      return false;
    }
    const words = this.#encode(reason, request);
    for (let word = 0; word < 4; word++) registers.set(at + word * 4, words[word]!);
    const before = registers.get(OFFSET.FSTS);
    if ((before & FSTS.PPF.inPlace) === 0) {
      const index = (this.#index << FSTS.FRI.shift) >>> 0;
      registers.set(OFFSET.FSTS, ((before & ~FSTS.FRI.inPlace) | index) >>> 0);
      this.setStatus(FSTS.PPF.inPlace, true);
    }
    this.#index = (this.#index + 1) % this.#features.frcdCount;
    return true;
  }

  #isPending(requesterId: number): boolean {
    const { frcdOffset, frcdCount } = this.#features;
    for (let i = 0; i < frcdCount; i++) {
      const at = frcdOffset + i * FRCD_BYTES;
      if ((this.#registers.get(at + 12) & F) === 0) continue;
      if ((this.#registers.get(at + 8) & 0xffff) === requesterId) return true;
    }
    return false;
  }

  /** Fields of what is not implemented stay zero. */
  #encode(reason: number, request: FaultedRequest): Uint32Array {
    const { dt, pasid: hasPasid, faultAddressBits } = this.#features;
    const { pasid, type, addressType } = request;
    const withPasid = hasPasid && pasid !== null;
    const words = encode(FRCD, {
      F: 1,
      FR: reason,
      SID: request.requesterId,
      T1: type >>> 1,
      T2: type & 1,
      AT: dt && type !== FAULT_TYPE.PAGE_REQUEST ? addressType : ADDRESS_TYPE.UNTRANSLATED,
      PP: withPasid,
      PV: withPasid ? pasid : 0,
      PRIV: withPasid && request.privileged,
      EXE: withPasid && request.execute,
    });
    words[0] = (request.lo & ~0xfff) >>> 0;
    words[1] = faultAddressBits > 32 ? (request.hi & (2 ** (faultAddressBits - 32) - 1)) >>> 0 : 0;
    return words;
  }

  /**
   * Sets a status of FSTS. It is an interrupt condition where no other status is pending; overflow alone is none.
   */
  setStatus(bit: number, interrupts: boolean): void {
    const registers = this.#registers;
    const before = registers.get(OFFSET.FSTS);
    registers.set(OFFSET.FSTS, (before | bit) >>> 0);
    if (interrupts && (before & CONDITIONS) === 0) this.#interrupts.raise('fault');
  }

  /** Whether errors keep descriptors from being fetched (§6.5.2). */
  get invalidationStopped(): boolean {
    return (this.#registers.get(OFFSET.FSTS) & (FSTS.IQE.inPlace | FSTS.ITE.inPlace)) !== 0;
  }

  queueError(info: Iqei): void {
    const words = this.#registers.get(OFFSET.IQERCD);
    this.#registers.set(OFFSET.IQERCD, ((words & ~IQERCD.IQEI.inPlace) | info) >>> 0);
    if (this.#trace !== null && this.#trace.active)
      this.#trace.emit({ kind: 'command-error', unit: 'vtd', error: info });
    this.setStatus(FSTS.IQE.inPlace, true);
  }

  /** A Device-TLB invalidation did not complete in time, or a completion fits none. */
  completionError(kind: 'ITE' | 'ICE', requesterId: number): void {
    const bit = FSTS[kind].inPlace;
    if ((this.#registers.get(OFFSET.FSTS) & bit) === 0) {
      const shift = kind === 'ITE' ? 0 : 16;
      const words = this.#registers.get(OFFSET.IQERCD + 4);
      this.#registers.set(OFFSET.IQERCD + 4, ((words & ~(0xffff << shift)) | (requesterId << shift)) >>> 0);
    }
    this.setStatus(bit, true);
  }

  /** Software wrote FSTS or cleared an F: PPF is computed anew; nothing is pending where no status is. */
  serviced(): void {
    const registers = this.#registers;
    const { frcdOffset, frcdCount } = this.#features;
    let pending = false;
    for (let i = 0; i < frcdCount; i++) {
      if ((registers.get(frcdOffset + i * FRCD_BYTES + 12) & F) !== 0) pending = true;
    }
    const status = registers.get(OFFSET.FSTS) & ~FSTS.PPF.inPlace;
    registers.set(OFFSET.FSTS, (status | (pending ? FSTS.PPF.inPlace : 0)) >>> 0);
    if ((registers.get(OFFSET.FSTS) & CONDITIONS) === 0) this.#interrupts.serviced('fault');
  }
}
