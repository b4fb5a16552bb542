// DTEs: what makes one illegal (§2.2.2, §2.5.2), and what a legal one says.

import { type Field, readAddress, readField } from '../../../../base/bit-fields.ts';
import { type AmdV1Config, amdV1Config } from '../../../../pagetable/amd-v1.ts';
import { DTE, GLX_RESERVED, HAD, INT_CTL, INT_TAB_LEN_MAX, IO_CTL } from '../../spec/dte.ts';
import type { AmdIommuFeatures } from '../registers/config.ts';

/** Why a DTE is illegal. */
export interface IllegalDte {
  /** A reserved bit is set; else a field has a reserved encoding. */
  readonly reservedBit: boolean;
  /** For people. */
  readonly reason: string;
}

/** A DTE, decoded. */
export interface DeviceConfig {
  readonly deviceId: number;
  readonly v: boolean;
  readonly tv: boolean;
  /** Bits 127:1 are not as V == 1 needs them. */
  readonly illegal: IllegalDte | null;
  readonly mode: number;
  /** Host tables; null with Mode 0, and with a mode that is not implemented. */
  readonly host: AmdV1Config | null;
  /** DTE.IR and DTE.IW, as AMD_V1_PERM. */
  readonly rights: number;
  /** Writes set Dirty in host tables. */
  readonly dirty: boolean;
  readonly domainId: number;
  readonly gv: boolean;
  readonly giov: boolean;
  readonly gcr3Levels: number;
  readonly gcr3Root: number;
  readonly guestLevels: 4 | 5;
  readonly ppr: boolean;
  readonly grpr: boolean;
  /** DTE.I: the device may use ATS. */
  readonly iotlb: boolean;
  /** DTE.Cache: what ATS requests find is cached here too. */
  readonly cacheHint: boolean;
  readonly suppressFurther: boolean;
  readonly suppressAll: boolean;
  readonly ioCtl: number;
  readonly sysMgt: number;
  readonly exclusion: boolean;
  /** DTE.Mode0FC, where AttrV makes it count. */
  readonly mode0Coherent: boolean;
  readonly interrupts: InterruptConfig;
  /** What concerns the device's own guest goes to it, by the hardware vIOMMU. */
  readonly viommu: boolean;
  readonly guestDeviceId: number;
  readonly guestId: number;
}

/** Bits 255:128. */
export interface InterruptConfig {
  readonly iv: boolean;
  readonly illegal: IllegalDte | null;
  /** log2 of the entries of the table. */
  readonly log2Entries: number;
  readonly root: number;
  readonly ignoreUnmapped: boolean;
  readonly control: number;
  readonly pass: { readonly init: boolean; readonly extInt: boolean; readonly nmi: boolean };
}

/** Bits that are reserved in 127:1 and in 255:129, by word. Bit 245 is never checked. */
function reservedMasks(features: AmdIommuFeatures): Uint32Array {
  const masks = new Uint32Array(8);
  for (let i = 0; i < 8; i++) masks[i] = ~DTE.$.writable[i]! >>> 0;
  const reserve = (...fields: readonly Field[]): void => {
    for (const field of fields) {
      for (let bit = field.lsb; bit <= field.msb; bit++) masks[bit >>> 5]! |= 1 << (bit & 31);
    }
  };
  if (!features.hostAccessed) reserve(DTE.HAD);
  if (!features.ppr) reserve(DTE.PPR, DTE.GRPR);
  if (!features.gio) reserve(DTE.GIOV);
  if (!features.gt) reserve(DTE.GV, DTE.GLX, DTE.GCR3_14_12, DTE.GCR3_30_15, DTE.GCR3_51_31);
  if (!features.viommu) reserve(DTE.vImuEn, DTE.GDeviceID, DTE.GuestID);
  reserve(DTE.SATS, DTE.SnoopAttribute);
  return masks;
}

/** Decodes DTEs of one IOMMU. */
export class DteDecoder {
  readonly #features: AmdIommuFeatures;
  readonly #reserved: Uint32Array;

  constructor(features: AmdIommuFeatures) {
    this.#features = features;
    this.#reserved = reservedMasks(features);
  }

  decode(deviceId: number, words: Uint32Array): DeviceConfig {
    const get = (field: Field): number => readField(field, words);
    const is = (field: Field): boolean => get(field) !== 0;
    const features = this.#features;
    const mode = get(DTE.Mode);
    const had = get(DTE.HAD);
    const accessed = features.hostAccessed && (had & HAD.ACCESSED) !== 0;
    const dirty = features.hostDirty && had === HAD.ACCESSED_DIRTY;
    const gv = features.gt && is(DTE.GV);
    const host =
      mode === 0 || mode > features.hostLevels
        ? null
        : amdV1Config({ mode, root: readAddress(DTE.HostPTRoot, words), accessed, dirty });
    return {
      deviceId,
      v: is(DTE.V),
      tv: is(DTE.TV),
      illegal: this.#checkMemory(words),
      mode,
      host,
      rights: (is(DTE.IR) ? 1 : 0) | (is(DTE.IW) ? 2 : 0),
      dirty,
      domainId: get(DTE.DomainID),
      gv,
      giov: gv && is(DTE.GIOV),
      gcr3Levels: get(DTE.GLX) + 1,
      gcr3Root: gcr3Root(words),
      guestLevels: get(DTE.GuestPagingMode) === 0 ? 4 : 5,
      ppr: is(DTE.PPR),
      grpr: is(DTE.GRPR),
      iotlb: is(DTE.I),
      cacheHint: is(DTE.Cache),
      suppressFurther: is(DTE.SE),
      suppressAll: is(DTE.SA),
      ioCtl: get(DTE.IoCtl),
      sysMgt: get(DTE.SysMgt),
      exclusion: is(DTE.EX),
      mode0Coherent: is(DTE.AttrV) && is(DTE.Mode0FC),
      interrupts: this.#interrupts(words),
      viommu: features.viommu && is(DTE.vImuEn),
      guestDeviceId: get(DTE.GDeviceID),
      guestId: get(DTE.GuestID),
    };
  }

  #checkMemory(words: Uint32Array): IllegalDte | null {
    const features = this.#features;
    for (let i = 0; i < 4; i++) {
      if ((words[i]! & this.#reserved[i]!) !== 0) return reservedBit('a reserved bit of 127:0 is set');
    }
    const had = readField(DTE.HAD, words);
    if (had === 2) return encoding('HAD is reserved at 2');
    if (had === HAD.ACCESSED_DIRTY && !features.hostDirty)
      return encoding('HAD asks for Dirty without HDSup');
    if (readField(DTE.IoCtl, words) === IO_CTL.RESERVED) return encoding('IoCtl is reserved at 3');
    if (readField(DTE.TV, words) === 0 || readField(DTE.GV, words) === 0) return null;
    const glx = readField(DTE.GLX, words);
    if (glx === GLX_RESERVED || glx >= features.gcr3Levels) return encoding('GLX is above GLXSup');
    if (readField(DTE.GuestPagingMode, words) + 4 > features.guestLevels) {
      return encoding('GuestPagingMode is above GATS');
    }
    return null;
  }

  #interrupts(words: Uint32Array): InterruptConfig {
    const is = (field: Field): boolean => readField(field, words) !== 0;
    return {
      iv: is(DTE.IV),
      illegal: this.#checkInterrupts(words),
      log2Entries: readField(DTE.IntTabLen, words),
      root: readAddress(DTE.IntTabRoot, words),
      ignoreUnmapped: is(DTE.IG),
      control: readField(DTE.IntCtl, words),
      pass: { init: is(DTE.InitPass), extInt: is(DTE.EIntPass), nmi: is(DTE.NMIPass) },
    };
  }

  #checkInterrupts(words: Uint32Array): IllegalDte | null {
    for (let i = 4; i < 8; i++) {
      if ((words[i]! & this.#reserved[i]!) !== 0) return reservedBit('a reserved bit of 255:128 is set');
    }
    const control = readField(DTE.IntCtl, words);
    if (control === INT_CTL.RESERVED) return encoding('IntCtl is reserved at 3');
    if (control === INT_CTL.REMAP && readField(DTE.IntTabLen, words) > INT_TAB_LEN_MAX) {
      return encoding('IntTabLen is above 11');
    }
    return null;
  }
}

function reservedBit(reason: string): IllegalDte {
  return { reservedBit: true, reason };
}
function encoding(reason: string): IllegalDte {
  return { reservedBit: false, reason };
}

/** The root of the GCR3 table: bits 51:12 in three pieces. */
export function gcr3Root(words: Uint32Array): number {
  return (
    readField(DTE.GCR3_51_31, words) * 2 ** 31 +
    readField(DTE.GCR3_30_15, words) * 2 ** 15 +
    readField(DTE.GCR3_14_12, words) * 2 ** 12
  );
}
