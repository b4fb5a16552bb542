// The register file: values, masks, guards. It knows no log and no table; whoever does is told through `onChange`.

import { type Field, readField, writeField } from '../../../../base/bit-fields.ts';
import { hi32, lo32, u64, wrap64 } from '../../../../base/u64.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { CAP, CAP_BASE } from '../../spec/features.ts';
import {
  CONTROL,
  OFFSET,
  REGISTERS,
  REGISTER_BYTES,
  RING_BASE,
  RING_ENTRY_BYTES,
  RING_LOG2_MIN,
  type RegisterGuard,
  type RegisterNeed,
  type RegisterSpec,
  STATUS,
} from '../../spec/registers.ts';
import type { AmdIommuConfig, AmdIommuFeatures } from './config.ts';

/** A ring in memory: the command buffer or a log. */
export interface Ring {
  readonly base: number;
  /** 0 where Len is reserved: the ring does not run. */
  readonly bytes: number;
}

const GUARDS: Readonly<Record<RegisterGuard, number>> = {
  CmdBufRun: STATUS.CmdBufRun.inPlace,
  EventLogRun: STATUS.EventLogRun.inPlace,
  PprLogRun: STATUS.PprLogRun.inPlace,
};

/** Offsets in the PCI capability blocks, and where the same words are in MMIO space. */
const MIRRORS: ReadonlyMap<number, number> = new Map([
  [0x24, OFFSET.MSI_CAP],
  [0x28, OFFSET.MSI_ADDR_LOW],
  [0x2c, OFFSET.MSI_ADDR_HIGH],
  [0x30, OFFSET.MSI_DATA],
  [0x34, OFFSET.MSI_MAPPING],
]);

function present(need: RegisterNeed | undefined, features: AmdIommuFeatures): boolean {
  switch (need) {
    case undefined:
      return true;
    case 'PPRSup':
      return features.ppr;
    case 'HESup':
      return features.he;
    case 'XTSup':
      return features.xt;
    case 'MsiCapMmioSup':
      return features.msiCapMmio;
    case 'PPRAutoRspSup':
      return features.pprAutoResponse;
    case 'PprOvrflwEarlySup':
      return features.pprOverflowEarly;
    case 'exclusion':
      return features.exclusion;
    case 'segments2':
      return features.segments >= 2;
    case 'segments4':
      return features.segments >= 4;
    case 'segments8':
      return features.segments >= 8;
  }
}

/** Fields of CONTROL that this implementation does not have: they read as zero. */
function absentControls(features: AmdIommuFeatures): readonly Field[] {
  const absent: Field[] = [
    CONTROL.SmiFEn,
    CONTROL.SlfWBdis,
    CONTROL.SmiFLogEn,
    CONTROL.GAMEn,
    CONTROL.GALogEn,
    CONTROL.GAIntEn,
    CONTROL.DualPprLogEn,
    CONTROL.DualEventLogEn,
    CONTROL.PrivAbrtEn,
    CONTROL.MarcEn,
    CONTROL.BlkStopMrkEn,
    CONTROL.GAPPIEn,
    CONTROL.TMPMEn,
    CONTROL.SNPAVICEn,
  ];
  const unless = (has: boolean, ...fields: readonly Field[]): void => {
    if (!has) absent.push(...fields);
  };
  unless(features.ppr, CONTROL.PPRLogEn, CONTROL.PprIntEn, CONTROL.PPREn);
  unless(features.gt, CONTROL.GTEn);
  unless(features.ga, CONTROL.GAEn);
  unless(features.segments > 1, CONTROL.DevTblSegEn);
  unless(features.pprAutoResponse, CONTROL.PprAutoRspEn, CONTROL.PprAutoRspAon);
  unless(features.interrupts2K, CONTROL.NumIntRemapMode);
  unless(features.eph, CONTROL.EPHEn);
  unless(features.hostAccessed, CONTROL.HADUpdate);
  unless(features.guestDirtyDisable, CONTROL.GDUpdateDis);
  unless(features.guestAccessedDisable, CONTROL.GAUpdateDis);
  unless(features.xt, CONTROL.XTEn, CONTROL.IntCapXTEn);
  unless(features.gcr3TrpMode, CONTROL.GCR3TRPMode);
  unless(features.viommu, CONTROL.vCmdEn, CONTROL.vIommuEn, CONTROL.GstBufferTRPMode);
  unless(features.irtCacheDis, CONTROL.IRTCacheDis);
  return absent;
}

export class RegisterFile {
  /** Told after a write took effect, with the offset of the register. */
  onChange: (offset: number) => void = () => {};
  readonly #words = new Uint32Array(REGISTER_BYTES / 4);
  readonly #writable = new Uint32Array(REGISTER_BYTES / 4);
  readonly #oneToClear = new Uint32Array(REGISTER_BYTES / 4);
  readonly #reset = new Uint32Array(REGISTER_BYTES / 4);
  readonly #specs = new Map<number, RegisterSpec>();
  readonly #config: AmdIommuConfig;
  readonly #features: AmdIommuFeatures;
  readonly #trace: Trace | null;
  readonly #base = new Uint32Array(2);

  constructor(config: AmdIommuConfig, features: AmdIommuFeatures, trace: Trace | null) {
    this.#config = config;
    this.#features = features;
    this.#trace = trace;
    for (const spec of REGISTERS) this.#define(spec);
    for (const field of absentControls(features)) {
      writeField(field, this.#writable.subarray(OFFSET.CONTROL / 4), 0);
    }
    this.reset();
  }

  #define(spec: RegisterSpec): void {
    const first = spec.offset / 4;
    // The MSI capability is there whether or not MMIO shows it.
    const shown = present(spec.needs, this.#features);
    if (!shown && spec.needs !== 'MsiCapMmioSup') return;
    for (let word = 0; word < spec.bytes / 4; word++) {
      if (shown) this.#specs.set(spec.offset + 4 * word, spec);
      this.#writable[first + word] = spec.layout.writable[word]!;
      this.#reset[first + word] = spec.layout.reset[word]!;
    }
    for (const field of spec.layout.fields) {
      if (field.access === 'W1C') this.#oneToClear[first + field.word]! |= field.inPlace;
    }
  }

  reset(): void {
    this.#words.set(this.#reset);
    const { efr, efr2, miscInfo0 } = this.#config;
    this.#words.set(efr, OFFSET.EFR / 4);
    this.#words.set(efr2, OFFSET.EFR2 / 4);
    this.#words[OFFSET.MSI_VECTOR0 / 4] = miscInfo0;
    this.#base.fill(0);
  }

  /** The word at `offset`, as the hardware has it. */
  get(offset: number): number {
    return this.#words[offset >>> 2]!;
  }

  /** Stores a word past all masks: what the hardware itself changes. */
  set(offset: number, value: number): void {
    this.#words[offset >>> 2] = value >>> 0;
  }

  /** A field of CONTROL. */
  control(field: Field): number {
    return readField(field, this.#words.subarray(OFFSET.CONTROL / 4));
  }

  /** Whether a bit of CONTROL's lower word is set. */
  enabled(bit: number): boolean {
    return (this.#words[OFFSET.CONTROL / 4]! & bit) !== 0;
  }

  get status(): number {
    return this.#words[OFFSET.STATUS / 4]!;
  }

  set status(value: number) {
    this.#words[OFFSET.STATUS / 4] = value >>> 0;
  }

  /** The ring that a base register describes. */
  ring(offset: number): Ring {
    const words = this.#words.subarray(offset / 4);
    const length = readField(RING_BASE.Len, words);
    return { base: this.address(offset), bytes: length < RING_LOG2_MIN ? 0 : RING_ENTRY_BYTES << length };
  }

  /** Bits 51:12 of a base register. */
  address(offset: number): number {
    const lo = (this.#words[offset >>> 2]! & ~0xfff) >>> 0;
    return (this.#words[(offset >>> 2) + 1]! & 0xf_ffff) * 0x1_0000_0000 + lo;
  }

  // --- MMIO ---

  /** A read of 4 or 8 bytes. What is no register, and what is no aligned access, reads as zero. */
  read(offset: number, size: number): bigint {
    if (!legal(offset, size)) return 0n;
    const lo = this.#read32(offset);
    return u64(size === 8 ? this.#read32(offset + 4) : 0, lo);
  }

  #read32(offset: number): number {
    const value = this.#specs.has(offset) ? this.#words[offset >>> 2]! : 0;
    if (this.#trace !== null && this.#trace.active) this.#traceAccess(false, offset, value);
    return value;
  }

  /** A write of 4 or 8 bytes; 8 bytes take effect together. */
  write(offset: number, size: number, value: bigint): void {
    if (!legal(offset, size)) return;
    const lo = this.#specs.get(offset);
    const hi = size === 8 ? this.#specs.get(offset + 4) : undefined;
    const changedLo = this.#write32(lo, offset, lo32(value));
    const changedHi = size === 8 && this.#write32(hi, offset + 4, hi32(wrap64(value)));
    if (changedLo) this.onChange(lo!.offset);
    if (changedHi && !(changedLo && hi === lo)) this.onChange(hi!.offset);
  }

  #write32(spec: RegisterSpec | undefined, offset: number, value: number): boolean {
    if (this.#trace !== null && this.#trace.active) this.#traceAccess(true, offset, value);
    if (spec === undefined) return false;
    if (spec.guard !== undefined && (this.status & GUARDS[spec.guard]) !== 0) return false;
    const clear = this.#oneToClear[offset >>> 2]!;
    const mask = this.#writable[offset >>> 2]! & ~clear;
    const before = this.#words[offset >>> 2]!;
    let after = ((before & ~mask & ~(value & clear)) | (value & mask)) >>> 0;
    if (spec.ring !== undefined && after >= this.ring(spec.ring).bytes) return false;
    if (offset === OFFSET.CONTROL + 4) after = this.#keepSegments(before, after);
    this.#words[offset >>> 2] = after;
    return mask !== 0 || clear !== 0;
  }

  /** More segments than DevTblSegSup are not taken. */
  #keepSegments(before: number, after: number): number {
    const { DevTblSegEn: field } = CONTROL;
    if (1 << ((after >>> field.shift) & field.mask) <= this.#features.segments) return after;
    return ((after & ~field.inPlace) | (before & field.inPlace)) >>> 0;
  }

  #traceAccess(write: boolean, offset: number, value: number): void {
    this.#trace!.emit({
      kind: 'register',
      unit: 'amd-iommu',
      write,
      offset,
      name: this.nameOf(offset),
      value,
    });
  }

  /** The name of the register at an offset, for people; null where there is none. */
  nameOf(offset: number): string | null {
    return this.#specs.get(offset)?.name ?? null;
  }

  // --- PCI configuration space ---

  /** A 32-bit read in the capability blocks of the PCI function: the IOMMU's from 00h on, MSI's from 24h on. */
  readCapability(offset: number): number {
    const mirror = MIRRORS.get(offset);
    if (mirror !== undefined) return this.get(mirror);
    switch (offset) {
      case CAP.HEADER:
        return this.#config.capHeader;
      case CAP.BASE_LOW:
        return this.#base[0]!;
      case CAP.BASE_HIGH:
        return this.#base[1]!;
      case CAP.MISC0:
        return this.#config.miscInfo0;
      default:
        return 0;
    }
  }

  /** A 32-bit write there. The base address is locked by its Enable bit (§3.2.2). */
  writeCapability(offset: number, value: number): void {
    const mirror = MIRRORS.get(offset);
    if (mirror !== undefined) {
      const mask = this.#writable[mirror >>> 2]!;
      this.set(mirror, (this.get(mirror) & ~mask) | (value & mask));
      this.onChange(mirror);
    } else if ((this.#base[0]! & CAP_BASE.Enable.inPlace) === 0) {
      if (offset === CAP.BASE_LOW) this.#base[0] = value & CAP_BASE.$.writable[0]!;
      else if (offset === CAP.BASE_HIGH) this.#base[1] = value;
    }
  }
}

function legal(offset: number, size: number): boolean {
  return (size === 4 || size === 8) && offset % size === 0 && offset >= 0 && offset + size <= REGISTER_BYTES;
}
