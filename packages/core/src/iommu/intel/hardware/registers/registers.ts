// The register file: values, masks and what a write sets in motion. It knows no queue and no table; whoever does is
// told through `onChange`.

import { hi32, lo32, u64, wrap64 } from '../../../../base/u64.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { FRCD, FRCD_BYTES } from '../../spec/faults.ts';
import {
  FSTS,
  GCMD,
  GSTS,
  IOTLB,
  IVA,
  type Need,
  OFFSET,
  REGISTERS,
  RTADDR,
  type RegisterSpec,
} from '../../spec/registers.ts';
import type { IntelConfig, IntelFeatures } from './config.ts';

/** What changed, and so what may have to happen: named after the register or the command. */
export type RegisterChange =
  | 'SRTP'
  | 'TE'
  | 'QIE'
  | 'CCMD'
  | 'IOTLB'
  | 'FSTS'
  | 'FRCD'
  | 'FECTL'
  | 'ICS'
  | 'IECTL'
  | 'IQT'
  | 'PRS'
  | 'PECTL';

const CHANGES: Readonly<Record<number, RegisterChange>> = {
  [OFFSET.FSTS]: 'FSTS',
  [OFFSET.FECTL]: 'FECTL',
  [OFFSET.ICS]: 'ICS',
  [OFFSET.IECTL]: 'IECTL',
  [OFFSET.IQT]: 'IQT',
  [OFFSET.PRS]: 'PRS',
  [OFFSET.PECTL]: 'PECTL',
};

/** ICC and IVT start an invalidation when the upper half of their register is written with them set. */
const COMMAND_BIT = 0x8000_0000;
/** Registers whose bits 63:HAW are not implemented. */
const ADDRESS_REGISTERS: ReadonlySet<number> = new Set([OFFSET.RTADDR, OFFSET.IQA, OFFSET.PQA]);

export class RegisterFile {
  /** Told after a write took effect; for GCMD when the command completes. */
  onChange: (change: RegisterChange) => void = () => {};
  /** Offset of IOTLB_REG, after IVA_REG. */
  readonly iotlb: number;
  readonly #words: Uint32Array;
  /** Writable bits per word, and which of them are write-one-to-clear. */
  readonly #writable: Uint32Array;
  readonly #clearing: Uint32Array;
  /** Bits that read as zero whatever they are. */
  readonly #hidden: Uint32Array;
  readonly #specs = new Map<number, RegisterSpec>();
  readonly #config: IntelConfig;
  readonly #features: IntelFeatures;
  readonly #trace: Trace | null;
  /** Commands of GCMD that have not completed, as a value of the register; null where there are none. */
  #pending: number | null = null;

  constructor(config: IntelConfig, features: IntelFeatures, trace: Trace | null) {
    this.#config = config;
    this.#features = features;
    this.#trace = trace;
    this.iotlb = features.iotlbOffset + 8;
    const words = features.registerBytes / 4;
    this.#words = new Uint32Array(words);
    this.#writable = new Uint32Array(words);
    this.#clearing = new Uint32Array(words);
    this.#hidden = new Uint32Array(words);
    for (const spec of this.#all()) if (this.#present(spec)) this.#add(spec);
    this.reset();
  }

  *#all(): Iterable<RegisterSpec> {
    yield* REGISTERS;
    const { iotlbOffset, frcdOffset, frcdCount } = this.#features;
    yield { name: 'IVA_REG', offset: iotlbOffset, bytes: 8, layout: IVA.$, section: '§11.4.6.4' };
    yield { name: 'IOTLB_REG', offset: this.iotlb, bytes: 8, layout: IOTLB.$, section: '§11.4.6.3' };
    for (let i = 0; i < frcdCount; i++) {
      const offset = frcdOffset + i * FRCD_BYTES;
      yield { name: `FRCD_REG[${i}]`, offset, bytes: 8, layout: FRCD.$, section: '§11.4.7.6' };
    }
  }

  #present(spec: RegisterSpec): boolean {
    const has: Readonly<Record<Need, boolean>> = {
      QI: this.#features.qi,
      PRS: this.#features.prs,
      IR: false,
      EIM: false,
      PLMR: false,
      PHMR: false,
    };
    return (spec.needs ?? []).every((need) => has[need]);
  }

  #add(spec: RegisterSpec): void {
    for (let word = 0; word < spec.layout.width / 32; word++) {
      const at = spec.offset / 4 + word;
      this.#specs.set(at * 4, spec);
      this.#writable[at] = this.#mask(spec, word);
      for (const field of spec.layout.fields) {
        if (field.access === 'W1C' && field.word === word) this.#clearing[at]! |= field.inPlace;
      }
      this.#hidden[at] = ~spec.layout.readable[word]!;
    }
  }

  /** What the layout lets software write, less what this implementation does not have. */
  #mask(spec: RegisterSpec, word: number): number {
    const features = this.#features;
    let mask = spec.layout.writable[word]!;
    if (spec.offset === OFFSET.RTADDR && word === 0 && !features.ssirws) mask &= ~RTADDR.SSIRWE.inPlace;
    if (spec.offset === OFFSET.FSTS) {
      if (!features.dt) mask &= ~(FSTS.ICE.inPlace | FSTS.ITE.inPlace);
      if (!features.qi) mask &= ~FSTS.IQE.inPlace;
    }
    if (word === 1 && ADDRESS_REGISTERS.has(spec.offset)) mask &= 2 ** (features.haw - 32) - 1;
    return mask >>> 0;
  }

  reset(): void {
    this.#words.fill(0);
    for (const [offset, spec] of this.#specs) {
      this.#words[offset >>> 2] = spec.layout.reset[(offset - spec.offset) >>> 2]!;
    }
    const { version, cap, ecap } = this.#config;
    this.#words[OFFSET.VER >>> 2] = version & 0xff;
    this.#words.set([lo32(cap), hi32(cap)], OFFSET.CAP >>> 2);
    this.#words.set([lo32(ecap), hi32(ecap)], OFFSET.ECAP >>> 2);
    this.#pending = null;
  }

  /** The word at `offset`, as the hardware has it. */
  get(offset: number): number {
    return this.#words[offset >>> 2]!;
  }

  /** Stores a word past all masks: what the hardware itself changes. */
  set(offset: number, value: number): void {
    this.#words[offset >>> 2] = value;
  }

  /** A u64 register's address field; `lowBits` of it are no address. */
  getAddress(offset: number, lowBits: number): number {
    const lo = (this.#words[offset >>> 2]! & ~(2 ** lowBits - 1)) >>> 0;
    return (this.#words[(offset >>> 2) + 1]! & 0xf_ffff) * 0x1_0000_0000 + lo;
  }

  /** A read of 4 or 8 bytes. What is no register, and what is no aligned access, reads as zero. */
  read(offset: number, size: number): bigint {
    if (!this.#legal(offset, size)) return 0n;
    // Time passes while software polls.
    if (offset === OFFSET.GSTS || (offset === OFFSET.GCMD && size === 8)) this.completeCommands();
    const lo = this.#read32(offset);
    return u64(size === 8 ? this.#read32(offset + 4) : 0, lo);
  }

  #read32(offset: number): number {
    const value = (this.#words[offset >>> 2]! & ~this.#hidden[offset >>> 2]!) >>> 0;
    this.#traceAccess(false, offset, value);
    return value;
  }

  /** A write of 4 or 8 bytes; of 8 as two of 4, the lower word first. */
  write(offset: number, size: number, value: bigint): void {
    if (!this.#legal(offset, size)) return;
    this.#write32(offset, lo32(value));
    if (size === 8) this.#write32(offset + 4, hi32(wrap64(value)));
  }

  #write32(offset: number, value: number): void {
    this.#traceAccess(true, offset, value);
    const spec = this.#specs.get(offset);
    if (spec === undefined) return;
    if (offset === OFFSET.GCMD) return this.#command(value);
    const at = offset >>> 2;
    const before = this.#words[at]!;
    const clearing = this.#clearing[at]!;
    const mask = this.#writable[at]! & ~clearing;
    this.#words[at] = (((before & ~mask) | (value & mask)) & ~(value & clearing)) >>> 0;
    if (spec.layout === FRCD.$) {
      if ((before & value & clearing) !== 0) this.onChange('FRCD');
      return;
    }
    // Once written, the command bits are hardware's to clear: an invalidation is complete when this returns.
    if (offset === OFFSET.CCMD + 4 && (value & COMMAND_BIT) !== 0) return this.onChange('CCMD');
    if (offset === this.iotlb + 4 && (value & COMMAND_BIT) !== 0) return this.onChange('IOTLB');
    const change = CHANGES[offset];
    if (change !== undefined) this.onChange(change);
  }

  /** §11.4.4.1: a command waits for the one before it. */
  #command(value: number): void {
    this.completeCommands();
    this.#pending = value;
    if ((value & GCMD.SRTP.inPlace) !== 0) this.#status(GSTS.RTPS.inPlace, false);
    if (this.#config.updates === 'at once') this.completeCommands();
  }

  #status(bit: number, on: boolean): void {
    const status = this.#words[OFFSET.GSTS >>> 2]!;
    this.#words[OFFSET.GSTS >>> 2] = (on ? status | bit : status & ~bit) >>> 0;
  }

  /** Lets the commands of GCMD take effect: the root table pointer before translation is enabled. */
  completeCommands(): void {
    const value = this.#pending;
    if (value === null) return;
    this.#pending = null;
    if ((value & GCMD.SRTP.inPlace) !== 0) {
      this.onChange('SRTP');
      this.#status(GSTS.RTPS.inPlace, true);
    }
    const qie = (value & GCMD.QIE.inPlace) !== 0;
    if (this.#features.qi && qie !== this.enabled(GSTS.QIES.inPlace)) {
      this.#status(GSTS.QIES.inPlace, qie);
      this.onChange('QIE');
    }
    const te = (value & GCMD.TE.inPlace) !== 0;
    if (te !== this.enabled(GSTS.TES.inPlace)) {
      this.#status(GSTS.TES.inPlace, te);
      this.onChange('TE');
    }
  }

  /** Whether a bit of GSTS is set. */
  enabled(bit: number): boolean {
    return (this.#words[OFFSET.GSTS >>> 2]! & bit) !== 0;
  }

  /** The name of the register at an offset, for people; null where there is none. */
  nameOf(offset: number): string | null {
    return this.#specs.get(offset)?.name ?? null;
  }

  /** Every register that is there, with the bits that software can write per word. */
  *registers(): Iterable<{ readonly spec: RegisterSpec; readonly writable: readonly number[] }> {
    const seen = new Set<RegisterSpec>();
    for (const spec of this.#specs.values()) {
      if (seen.has(spec)) continue;
      seen.add(spec);
      const words = spec.layout.width / 32;
      yield {
        spec,
        writable: Array.from({ length: words }, (_, i) => this.#writable[spec.offset / 4 + i]!),
      };
    }
  }

  #traceAccess(write: boolean, offset: number, value: number): void {
    if (this.#trace === null || !this.#trace.active) return;
    this.#trace.emit({ kind: 'register', unit: 'vtd', write, offset, name: this.nameOf(offset), value });
  }

  #legal(offset: number, size: number): boolean {
    const { registerBytes } = this.#features;
    return (size === 4 || size === 8) && offset % size === 0 && offset >= 0 && offset + size <= registerBytes;
  }
}
