// VMSAv8-64 translation tables (Arm DDI 0487 issue M.a.a, chapter D8), both stages: what a table's configuration means,
// worked out once so that the walkers (armv8-stage1.ts, armv8-stage2.ts) only shift and mask. Addresses that stage 2
// translates or that leave the tables are plain numbers below 2^52; a virtual address is two u32.

/** log2 of the bytes of a translation granule: 4K, 16K, 64K. */
export type GranuleBits = 12 | 14 | 16;

/** Why a walk ended. The order of checks is that of IHI 0070G.b §7.3.22. */
export const WALK_FAULT = {
  NONE: 0,
  /** No valid descriptor for the address, or the address is outside of the tables' range. */
  TRANSLATION: 1,
  /** A descriptor's output address does not fit the configured size. */
  ADDRESS_SIZE: 2,
  ACCESS_FLAG: 3,
  PERMISSION: 4,
  /** The memory system refused to load or store a descriptor. */
  EXTERNAL_ABORT: 5,
} as const;
export type WalkFault = (typeof WALK_FAULT)[keyof typeof WALK_FAULT];

/** Permissions: what a privileged and an unprivileged access may do. */
export const PERM = { PR: 1, PW: 2, PX: 4, UR: 8, UW: 16, UX: 32 } as const;
export const PERM_READ = PERM.PR | PERM.UR;
export const PERM_WRITE = PERM.PW | PERM.UW;

// Descriptor bits, by the word they lie in: lo is 31:0, hi is 63:32.
export const DESC_VALID = 1;
/** Table above level 3, page at level 3. */
export const DESC_TABLE = 2;
/** DESC_VALID and DESC_TABLE. */
export const DESC_TYPE = 3;
export const DESC_AF_LO = 1 << 10;
/** Stage 1 AP[2] (read-only); stage 2 S2AP[1] (writable). */
export const DESC_BIT7_LO = 1 << 7;
export const DESC_NG_LO = 1 << 11;
export const DESC_DBM_HI = 1 << 19;
export const DESC_CONTIGUOUS_HI = 1 << 20;

/** What the tables of one region of one stage look like. */
export interface TableGeometry {
  readonly granuleBits: GranuleBits;
  /** Bits of the address that one level resolves. */
  readonly stride: number;
  /** Bits of the address that the tables translate: 64 - TxSZ. */
  readonly inputBits: number;
  /** -1 to 3. */
  readonly startLevel: number;
  /** Lowest address bit that the start level resolves, and the mask of its index after the shift. */
  readonly startShift: number;
  readonly startMask: number;
  readonly indexMask: number;
  /** Address of the start-level table, aligned. */
  readonly base: number;
  /** Lowest level at which a block may be. */
  readonly blockLevel: number;
  /** Where descriptors hold address bits above 47. */
  readonly highBits: HighBits;
  /** Bits that input addresses (of stage 2) must not have, by word. */
  readonly inputTooHi: number;
  readonly inputTooLo: number;
  /** `base` as two words. */
  readonly baseHi: number;
  readonly baseLo: number;
  /** Bits 51:32 of an address, as bits 19:0, that the output size has no room for. */
  readonly tooHigh: number;
  /** Bits 31:0 of the address of a table of one granule. */
  readonly tableMask: number;
  readonly bigEndian: boolean;
}

/** NONE: 48-bit addresses. LPA: bits 15:12 of a 64K descriptor. LPA2: bits 9:8 and 49:48 of a 4K or 16K one. */
export const HIGH_BITS = { NONE: 0, LPA: 1, LPA2: 2 } as const;
export type HighBits = (typeof HIGH_BITS)[keyof typeof HIGH_BITS];

export interface TableOptions {
  readonly granuleBits: GranuleBits;
  /** 64 - TxSZ, already checked against {@link inputBitsValid}. */
  readonly inputBits: number;
  /** TTB, as written; its low bits are ignored as the alignment of the table asks. */
  readonly base: number;
  /** The effective output size in bits (capped to the implemented size). */
  readonly outputBits: number;
  /** The implemented physical address size in bits. */
  readonly physicalBits: number;
  /** FEAT_LPA2: DS in effect (4K and 16K only). */
  readonly ds: boolean;
  readonly bigEndian?: boolean;
  /** Stage 2 only: the start level that SL0 names. */
  readonly startLevel?: number;
}

/** Works out a table's geometry. */
export function tableGeometry(options: TableOptions): TableGeometry {
  const { granuleBits, inputBits, ds } = options;
  const stride = granuleBits - 3;
  const startLevel = options.startLevel ?? stage1StartLevel(granuleBits, inputBits);
  const startShift = granuleBits + stride * (3 - startLevel);
  const startBits = inputBits - startShift;
  const wide = granuleBits === 16 && options.physicalBits >= 52;
  const highBits = granuleBits !== 16 && ds ? HIGH_BITS.LPA2 : wide ? HIGH_BITS.LPA : HIGH_BITS.NONE;
  // A start-level table is aligned to its size; to 64 bytes where addresses have 52 bits (IHI 0070G.b §5.4, TTB0).
  const alignment = 2 ** Math.max(startBits + 3, options.outputBits === 52 ? 6 : 4);
  // DDI 0487 AArch64.PhysicalAddressSize(): descriptors without high bits cannot say more than 48 bits.
  const outputBits = highBits === HIGH_BITS.NONE ? Math.min(options.outputBits, 48) : options.outputBits;
  const base = options.base - (options.base % alignment);
  return {
    granuleBits,
    stride,
    inputBits,
    startLevel,
    startShift,
    startMask: 2 ** startBits - 1,
    indexMask: 2 ** stride - 1,
    base,
    baseHi: Math.floor(base / 0x1_0000_0000),
    baseLo: base | 0,
    tooHigh: 0xf_ffff & ~(2 ** (outputBits - 32) - 1),
    tableMask: -1 << granuleBits,
    blockLevel: lowestBlockLevel(granuleBits, ds, options.physicalBits),
    highBits,
    inputTooHi: inputBits > 32 ? -1 << (inputBits - 32) : -1,
    inputTooLo: inputBits < 32 ? -1 << inputBits : 0,
    bigEndian: options.bigEndian ?? false,
  };
}

/** DDI 0487 AArch64.S1StartLevel(): as many levels as the input size needs. */
export function stage1StartLevel(granuleBits: GranuleBits, inputBits: number): number {
  return 3 - Math.floor((inputBits - 1 - granuleBits) / (granuleBits - 3));
}

/** DDI 0487 AArch64.BlockDescSupported(). */
function lowestBlockLevel(granuleBits: GranuleBits, ds: boolean, physicalBits: number): number {
  if (granuleBits === 12) return ds ? 0 : 1;
  if (granuleBits === 14) return ds ? 1 : 2;
  return physicalBits >= 52 ? 1 : 2;
}

/**
 * The start level that a stage 2 configuration names, or null where SL0 (three bits: SL2 and SL0) is invalid or does
 * not fit the input size: at most 16 tables are concatenated. DDI 0487 AArch64.S2StartLevel(), S2InvalidSL() and
 * S2InconsistentSL().
 */
export function stage2StartLevel(
  granuleBits: GranuleBits,
  sl0: number,
  inputBits: number,
  options: { readonly ds: boolean; readonly smallTables: boolean; readonly physicalBits: number },
): number | null {
  const level = decodeSl0(granuleBits, options.ds ? sl0 : sl0 & 3, options);
  if (level === null) return null;
  const stride = granuleBits - 3;
  const least = (3 - level) * stride + granuleBits + 1;
  const most = least + stride - 1 + 4;
  return inputBits >= least && inputBits <= most ? level : null;
}

function decodeSl0(
  granuleBits: GranuleBits,
  sl0: number,
  options: { readonly ds: boolean; readonly smallTables: boolean; readonly physicalBits: number },
): number | null {
  const { ds, smallTables, physicalBits } = options;
  if (granuleBits === 12) {
    if (sl0 === 4) return physicalBits >= 52 ? -1 : null;
    if (sl0 > 4) return null;
    if (sl0 === 2) return physicalBits >= 44 ? 0 : null;
    if (sl0 === 3) return smallTables ? 3 : null;
    return 2 - sl0;
  }
  const short = sl0 & 3;
  if (granuleBits === 14) {
    if (short === 3) return ds && physicalBits >= 52 ? 0 : null;
    if (short === 2) return physicalBits >= 42 ? 1 : null;
    return 3 - short;
  }
  if (short === 3) return null;
  if (short === 2) return physicalBits >= 44 ? 1 : null;
  return 3 - short;
}

/**
 * log2 of the bytes that a leaf at `level` with the Contiguous bit belongs to (DDI 0487 table D8-104); the leaf's own
 * size where the bit is RES0.
 */
export function contiguousBits(granuleBits: GranuleBits, level: number, leafBits: number): number {
  if (granuleBits === 12) return level >= 1 ? leafBits + 4 : leafBits;
  if (granuleBits === 14) return level === 3 ? leafBits + 7 : level === 2 ? leafBits + 5 : leafBits;
  return level >= 2 ? leafBits + 5 : leafBits;
}

/** Bits 51:32 of a descriptor's address, as bits 19:0. */
export function addressHi(lo: number, hi: number, highBits: HighBits): number {
  if (highBits === 0) return hi & 0xffff;
  const top = highBits === 1 ? (lo >>> 12) & 15 : (((lo >>> 8) & 3) << 2) | ((hi >>> 16) & 3);
  return (hi & 0xffff) | (top << 16);
}

/** The level whose index starts at bit `shift` of the address. */
export function levelOf(table: TableGeometry, shift: number): number {
  // A division would cost more than most walks' last level does.
  if (shift === table.granuleBits) return 3;
  return 3 - (shift - table.granuleBits) / table.stride;
}

/** What is added to a level where a TableCache keeps it: that numbers levels from 1. */
export const CACHED_LEVEL = 2;

/** Swaps the bytes of a word: tables may be big-endian. */
export function swap32(value: number): number {
  return ((value << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)) >>> 0;
}
