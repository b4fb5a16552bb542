// The register file: values, masks, guards and what a write sets in motion. It knows no queue and no table; whoever
// does is told through `onChange`.

import { hi32, lo32, u64, wrap64 } from '../../../../base/u64.ts';
import type { Trace } from '../../../../trace/trace.ts';
import {
  CR0,
  CR1,
  GBPA,
  type Guard,
  IRQ_CTRL,
  OFFSET,
  PRIQ_IRQ_CFG2,
  REGISTERS,
  REGISTER_BYTES,
  type RegisterSpec,
} from '../../spec/registers.ts';
import type { SmmuV3Config, SmmuV3Features } from './config.ts';

/** What changed, and so what may have to happen: named after the register. */
export type RegisterChange =
  | 'CR0'
  | 'CR2'
  | 'GERRORN'
  | 'STRTAB'
  | 'CMDQ_BASE'
  | 'CMDQ_PROD'
  | 'CMDQ_CONS'
  | 'EVENTQ_BASE'
  | 'EVENTQ_PROD'
  | 'EVENTQ_CONS'
  | 'PRIQ_BASE'
  | 'PRIQ_PROD'
  | 'PRIQ_CONS';

const CHANGES: Readonly<Record<number, RegisterChange>> = {
  [OFFSET.CR2]: 'CR2',
  [OFFSET.GERRORN]: 'GERRORN',
  [OFFSET.STRTAB_BASE]: 'STRTAB',
  [OFFSET.STRTAB_BASE + 4]: 'STRTAB',
  [OFFSET.STRTAB_BASE_CFG]: 'STRTAB',
  [OFFSET.CMDQ_BASE]: 'CMDQ_BASE',
  [OFFSET.CMDQ_BASE + 4]: 'CMDQ_BASE',
  [OFFSET.CMDQ_PROD]: 'CMDQ_PROD',
  [OFFSET.CMDQ_CONS]: 'CMDQ_CONS',
  [OFFSET.EVENTQ_BASE]: 'EVENTQ_BASE',
  [OFFSET.EVENTQ_BASE + 4]: 'EVENTQ_BASE',
  [OFFSET.EVENTQ_PROD]: 'EVENTQ_PROD',
  [OFFSET.EVENTQ_CONS]: 'EVENTQ_CONS',
  [OFFSET.PRIQ_BASE]: 'PRIQ_BASE',
  [OFFSET.PRIQ_BASE + 4]: 'PRIQ_BASE',
  [OFFSET.PRIQ_PROD]: 'PRIQ_PROD',
  [OFFSET.PRIQ_CONS]: 'PRIQ_CONS',
};

const ENABLES: Readonly<Record<Guard, readonly [control: number, ack: number, bit: number]>> = {
  SMMUEN: [OFFSET.CR0, OFFSET.CR0ACK, CR0.SMMUEN.inPlace],
  CMDQEN: [OFFSET.CR0, OFFSET.CR0ACK, CR0.CMDQEN.inPlace],
  EVENTQEN: [OFFSET.CR0, OFFSET.CR0ACK, CR0.EVENTQEN.inPlace],
  PRIQEN: [OFFSET.CR0, OFFSET.CR0ACK, CR0.PRIQEN.inPlace],
  GERROR_IRQEN: [OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, IRQ_CTRL.GERROR_IRQEN.inPlace],
  EVENTQ_IRQEN: [OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, IRQ_CTRL.EVENTQ_IRQEN.inPlace],
  PRIQ_IRQEN: [OFFSET.IRQ_CTRL, OFFSET.IRQ_CTRLACK, IRQ_CTRL.PRIQ_IRQEN.inPlace],
};

const TABLE_FIELDS = CR1.TABLE_SH.inPlace | CR1.TABLE_OC.inPlace | CR1.TABLE_IC.inPlace;
const QUEUE_FIELDS = CR1.QUEUE_SH.inPlace | CR1.QUEUE_OC.inPlace | CR1.QUEUE_IC.inPlace;

export class RegisterFile {
  /** Told after a write took effect; for CR0 when the update completes. */
  onChange: (change: RegisterChange) => void = () => {};
  readonly #words = new Uint32Array(REGISTER_BYTES / 4);
  /** Writable bits per word, and the register a word belongs to. */
  readonly #writable = new Uint32Array(REGISTER_BYTES / 4);
  readonly #specs = new Map<number, RegisterSpec>();
  readonly #config: SmmuV3Config;
  readonly #features: SmmuV3Features;
  readonly #trace: Trace | null;
  /** CR0, IRQ_CTRL and GBPA as they will be when their update completes. */
  #pending = false;

  constructor(config: SmmuV3Config, features: SmmuV3Features, trace: Trace | null) {
    this.#config = config;
    this.#features = features;
    this.#trace = trace;
    for (const spec of REGISTERS) {
      if (!this.#present(spec)) continue;
      for (let word = 0; word < spec.bytes / 4; word++) {
        this.#specs.set(spec.offset + 4 * word, spec);
        this.#writable[spec.offset / 4 + word] = this.#mask(spec, word);
      }
    }
    this.reset();
  }

  #present(spec: RegisterSpec): boolean {
    return (spec.needs ?? []).every((need) => (need === 'MSI' ? this.#features.msi : this.#features.pri));
  }

  /** What the layout lets software write, less what this implementation does not have. */
  #mask(spec: RegisterSpec, word: number): number {
    const features = this.#features;
    let mask = spec.layout.writable[word]!;
    if (spec.offset === OFFSET.CR0) {
      if (!features.pri) mask &= ~CR0.PRIQEN.inPlace;
      if (!features.ats) mask &= ~CR0.ATSCHK.inPlace;
      if (!features.vmw) mask &= ~CR0.VMW.inPlace;
    } else if (spec.offset === OFFSET.CR2) {
      // E2H with Hyp, REC_CFG_ATS with ATSRECERR, PTM with BTM, which is not there.
      mask &= ~0b100;
      if (!features.hyp) mask &= ~0b1;
      if (!features.atsRecErr) mask &= ~0b1000;
    } else if (spec.offset === OFFSET.IRQ_CTRL && !features.pri) mask &= ~IRQ_CTRL.PRIQ_IRQEN.inPlace;
    else if (spec.offset === OFFSET.GERRORN) {
      if (!features.pri) mask &= ~0b0100_1000;
      if (!features.msi) mask &= ~0b1111_0000;
    } else if (spec.offset === OFFSET.STRTAB_BASE_CFG && !features.twoLevelStreams) mask &= 0x3f;
    else if (spec.offset === OFFSET.PRIQ_IRQ_CFG2 && !features.msi) mask &= PRIQ_IRQ_CFG2.LO.inPlace;
    // Address bits above the OAS are RES0; the hint at bit 62 is none of them.
    if (spec.bytes === 8 && word === 1) mask &= (2 ** (features.oas - 32) - 1) | 0x4000_0000;
    return mask >>> 0;
  }

  reset(): void {
    this.#words.fill(0);
    const { idr, iidr, aidr, gbpa } = this.#config;
    idr.forEach((value, i) => (this.#words[i] = value));
    this.#words[OFFSET.IIDR / 4] = iidr;
    this.#words[OFFSET.AIDR / 4] = aidr;
    this.#words[OFFSET.GBPA / 4] = gbpa & GBPA.$.writable[0]! & ~GBPA.Update.inPlace;
    this.#pending = false;
  }

  /** The word at `offset`, as the hardware has it. */
  get(offset: number): number {
    return this.#words[offset >>> 2]!;
  }

  /** Stores a word past all masks: what the hardware itself changes. */
  set(offset: number, value: number): void {
    this.#words[offset >>> 2] = value;
  }

  /** A u64 register as a number; only for addresses. */
  getAddress(offset: number, lowBits: number): number {
    const lo = (this.#words[offset >>> 2]! & ~(2 ** lowBits - 1)) >>> 0;
    return (this.#words[(offset >>> 2) + 1]! & 0xf_ffff) * 0x1_0000_0000 + lo;
  }

  /**
   * A read of 4 or 8 bytes. What is no register, and what is no aligned access, reads as zero (§6.2: RAZ/WI).
   */
  read(offset: number, size: number): bigint {
    if (!legal(offset, size)) return 0n;
    if (this.#pending && this.#acknowledges(offset)) this.completeUpdates();
    const lo = this.#read32(offset);
    return u64(size === 8 ? this.#read32(offset + 4) : 0, lo);
  }

  #read32(offset: number): number {
    const value = this.#specs.has(offset) ? this.#words[offset >>> 2]! : 0;
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({
        kind: 'register',
        unit: 'smmuv3',
        write: false,
        offset,
        name: this.nameOf(offset),
        value,
      });
    }
    return value;
  }

  #acknowledges(offset: number): boolean {
    return offset === OFFSET.CR0ACK || offset === OFFSET.IRQ_CTRLACK || offset === OFFSET.GBPA;
  }

  /** A write of 4 or 8 bytes; of 8 as two of 4, the lower word first. */
  write(offset: number, size: number, value: bigint): void {
    if (!legal(offset, size)) return;
    this.#write32(offset, lo32(value));
    if (size === 8) this.#write32(offset + 4, hi32(wrap64(value)));
  }

  #write32(offset: number, value: number): void {
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({
        kind: 'register',
        unit: 'smmuv3',
        write: true,
        offset,
        name: this.nameOf(offset),
        value,
      });
    }
    const spec = this.#specs.get(offset);
    if (spec === undefined) return;
    if (offset === OFFSET.CR0 || offset === OFFSET.IRQ_CTRL) return this.#writeControl(offset, value);
    if (offset === OFFSET.GBPA) return this.#writeGbpa(value);
    let mask = this.#writable[offset >>> 2]!;
    if (offset === OFFSET.CR1) {
      if (!this.#off('SMMUEN')) mask &= ~TABLE_FIELDS;
      if (!(this.#off('CMDQEN') && this.#off('EVENTQEN') && this.#off('PRIQEN'))) mask &= ~QUEUE_FIELDS;
    }
    if (spec.guard !== undefined && !this.#off(spec.guard)) return;
    if (mask === 0) return;
    const before = this.#words[offset >>> 2]!;
    this.#words[offset >>> 2] = ((before & ~mask) | (value & mask)) >>> 0;
    const change = CHANGES[offset];
    if (change !== undefined) this.onChange(change);
  }

  /** True when the enable bit is 0, in the register and in its acknowledgement. */
  #off(guard: Guard): boolean {
    const [control, ack, bit] = ENABLES[guard];
    return ((this.#words[control >>> 2]! | this.#words[ack >>> 2]!) & bit) === 0;
  }

  /** CR0 and IRQ_CTRL: a field whose last change is not yet acknowledged ignores another one (§6.3.9). */
  #writeControl(offset: number, value: number): void {
    const ack = offset === OFFSET.CR0 ? OFFSET.CR0ACK : OFFSET.IRQ_CTRLACK;
    const before = this.#words[offset >>> 2]!;
    const inTransition = before ^ this.#words[ack >>> 2]!;
    const mask = this.#writable[offset >>> 2]! & ~inTransition;
    this.#words[offset >>> 2] = ((before & ~mask) | (value & mask)) >>> 0;
    this.#update();
  }

  /** §6.3.14.1: a write counts with Update set, and when no update is under way. */
  #writeGbpa(value: number): void {
    if ((this.#words[OFFSET.GBPA >>> 2]! & GBPA.Update.inPlace) !== 0) return;
    if ((value & GBPA.Update.inPlace) === 0) return;
    this.#words[OFFSET.GBPA >>> 2] = (value & this.#writable[OFFSET.GBPA >>> 2]!) >>> 0;
    this.#update();
  }

  #update(): void {
    this.#pending = true;
    if (this.#config.updates === 'at once') this.completeUpdates();
  }

  /** Lets updates of CR0, IRQ_CTRL and GBPA take effect. */
  completeUpdates(): void {
    if (!this.#pending) return;
    this.#pending = false;
    this.#words[OFFSET.GBPA >>> 2]! &= ~GBPA.Update.inPlace;
    this.#words[OFFSET.IRQ_CTRLACK >>> 2] = this.#words[OFFSET.IRQ_CTRL >>> 2]!;
    if (this.#words[OFFSET.CR0ACK >>> 2] === this.#words[OFFSET.CR0 >>> 2]) return;
    this.#words[OFFSET.CR0ACK >>> 2] = this.#words[OFFSET.CR0 >>> 2]!;
    this.onChange('CR0');
  }

  /** Whether a bit of CR0 is in effect. */
  enabled(bit: number): boolean {
    return (this.#words[OFFSET.CR0ACK >>> 2]! & bit) !== 0;
  }

  irqEnabled(bit: number): boolean {
    return (this.#words[OFFSET.IRQ_CTRLACK >>> 2]! & bit) !== 0;
  }

  /** The name of the register at an offset, for people; null where there is none. */
  nameOf(offset: number): string | null {
    return this.#specs.get(offset)?.name ?? null;
  }
}

function legal(offset: number, size: number): boolean {
  return (size === 4 || size === 8) && offset % size === 0 && offset >= 0 && offset + size <= REGISTER_BYTES;
}
