// Host page tables ("v1") of AMD's IOMMU: AMD 48882 rev 3.10 §2.2.3. One to six levels of 512 entries, each entry says
// the level that it leads to, levels may be skipped, and a leaf may map any power of two. What a configuration means
// is worked out once. Levels count up from 1, the table of 4 KiB pages, to the root.

import type { PhysicalMemory } from '../memory/physical.ts';
import { type TableCache, aboveHi, aboveLo, addressOf } from './walk.ts';

/** Why a walk ended. */
export const AMD_V1_FAULT = {
  NONE: 0,
  /** The address has bits above those that the mode resolves. */
  WIDTH: 1,
  /** PR is 0 in the entry at `level`. */
  NOT_PRESENT: 2,
  /** Next Level of the entry at `level` is not below it, or it makes a leaf where there are none. */
  LEVEL: 3,
  /** The address has bits set that a skipped level would have resolved. */
  SKIPPED: 4,
  /** A reserved bit is set in the present entry at `level`. */
  RESERVED: 5,
  /** Next Level is 7 and the address field says no size of this level. */
  PAGE_SIZE: 6,
  /** The entries do not grant what was asked. */
  PERMISSION: 7,
  /** Memory refused to load the entry at `level`. */
  FETCH: 8,
  /** Memory refused the update of the Accessed or the Dirty bit. */
  UPDATE: 9,
} as const;
export type AmdV1Fault = (typeof AMD_V1_FAULT)[keyof typeof AMD_V1_FAULT];

/** IR and IW, of an entry, of a walk and of a DTE. */
export const AMD_V1_PERM = { IR: 1, IW: 2 } as const;

/** Bits of an entry, by the word they lie in. */
export const AMD_V1_ENTRY = {
  PR: 1 << 0,
  A: 1 << 5,
  D: 1 << 6,
  NEXT_LEVEL_SHIFT: 9,
  /** Untranslated accesses only: goes into ATS completions. */
  U_HI: 1 << 27,
  FC_HI: 1 << 28,
  IR_HI: 1 << 29,
  IW_HI: 1 << 30,
} as const;

/** Next Level of a leaf: the size of the level, or the size that the address field says. */
export const NEXT_LEVEL_LEAF = 0;
export const NEXT_LEVEL_SIZED = 7;
const AMD_V1_LEVELS_MAX = 6;

/** Bits 60:52 of a directory entry and 58:52 of a leaf, in the upper word. */
const DIRECTORY_RESERVED_HI = 0x1ff0_0000;
const LEAF_RESERVED_HI = 0x07f0_0000;

export interface AmdV1Options {
  /** Levels: 1 to 6. */
  readonly mode: number;
  /** Address of the root table, a multiple of 4096. */
  readonly root: number;
  /** Walks set Accessed; writes set Dirty (DTE.HAD). */
  readonly accessed: boolean;
  readonly dirty: boolean;
}

/** One set of tables, ready to be walked. */
export interface AmdV1Config {
  readonly mode: number;
  /** The root table's address. */
  readonly rootHi: number;
  readonly rootLo: number;
  /** Bits that input addresses must not have, by word. */
  readonly tooHi: number;
  readonly tooLo: number;
  /** What a walk sets in each entry it uses, and what a write adds in the last one. */
  readonly accessedBits: number;
  readonly dirtyBits: number;
}

/** Works out a set of tables. */
export function amdV1Config(options: AmdV1Options): AmdV1Config {
  const { mode, root, accessed, dirty } = options;
  const bits = 12 + 9 * mode;
  return {
    mode,
    rootHi: Math.floor(root / 0x1_0000_0000),
    rootLo: root | 0,
    tooHi: bits >= 64 ? 0 : aboveHi(bits),
    tooLo: aboveLo(bits),
    accessedBits: accessed ? AMD_V1_ENTRY.A : 0,
    dirtyBits: dirty ? AMD_V1_ENTRY.D : 0,
  };
}

/** False where the address has bits that the levels do not resolve: it must not alias a lower one. */
export function amdV1InWidth(config: AmdV1Config, hi: number, lo: number): boolean {
  return ((hi & config.tooHi) | (lo & config.tooLo)) === 0;
}

/**
 * log2 of the bytes of a leaf with Next Level 7: twice the unit of the lowest clear bit from bit 12 on (table 14). 0
 * where no bit of 51:12 is clear.
 */
export function amdV1SizedBits(lo: number, hi: number): number {
  const low = ~(lo >>> 12) & 0xf_ffff;
  if (low !== 0) return 13 + ctz(low);
  const high = ~hi & 0xf_ffff;
  return high === 0 ? 0 : 33 + ctz(high);
}

function ctz(value: number): number {
  return 31 - Math.clz32(value & -value);
}

/** Bits 51:32 of the output of an entry for 2^bits bytes. */
export function amdV1OutputHi(hi: number, bits: number): number {
  return hi & 0xf_ffff & aboveHi(bits);
}

/**
 * Walks the tables. One walker is used again and again: `walk()` answers true and leaves the translation in the fields,
 * or false and leaves the fault.
 */
export class AmdV1Walker {
  /** The start of the page in the output space, by word, and log2 of its bytes. */
  outHi = 0;
  outLo = 0;
  leafBits = 0;
  /** The level of the leaf, or of the entry at fault. */
  level = 0;
  /** IR and IW of all entries. */
  permissions = 0;
  /** Dirty is still clear in the leaf. */
  clean = false;
  forceCoherent = false;
  untranslatedOnly = false;
  fault: AmdV1Fault = AMD_V1_FAULT.NONE;
  /** The entry whose load or update was refused. */
  fetchAddress = 0;
  /** The table cache to use in the next walks, or null. */
  cache: TableCache | null = null;
  readonly #memory: PhysicalMemory;
  readonly #word = new Uint32Array(2);

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
  }

  /** The start of the page in the output space. */
  get out(): number {
    return addressOf(this.outHi, this.outLo);
  }

  /**
   * Translates the address in `hi` and `lo`. `need` are the AMD_V1_PERM bits that the access must have, or it faults;
   * `want` are those it will use where they are granted (an ATS request), `need` again for anything else.
   */
  walk(config: AmdV1Config, hi: number, lo: number, need: number, want: number = need): boolean {
    let level = config.mode;
    let baseHi = config.rootHi;
    let baseLo = config.rootLo;
    let rights: number = AMD_V1_PERM.IR | AMD_V1_PERM.IW;
    this.level = level;
    if (!amdV1InWidth(config, hi, lo)) return this.#end(AMD_V1_FAULT.WIDTH);
    const { accessedBits } = config;
    const { cache } = this;
    if (cache !== null) {
      const found = cache.find(hi, lo);
      if (found !== 0) {
        level = found;
        baseHi = cache.baseHi;
        baseLo = cache.baseLo;
        rights = cache.inherited;
      }
    }
    const word = this.#word;
    for (;;) {
      this.level = level;
      const shift = 3 + 9 * level;
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & 0x1ff;
      const at = baseLo | (index << 3);
      if (!this.#memory.load64(addressOf(baseHi, at), word))
        return this.#refused(AMD_V1_FAULT.FETCH, baseHi, at);
      const elo = word[0]! | 0;
      const ehi = word[1]! | 0;
      if ((elo & AMD_V1_ENTRY.PR) === 0) return this.#end(AMD_V1_FAULT.NOT_PRESENT);
      const next = (elo >>> AMD_V1_ENTRY.NEXT_LEVEL_SHIFT) & 7;
      const granted = rights & (ehi >>> 29);
      if (next === NEXT_LEVEL_LEAF || next === NEXT_LEVEL_SIZED) {
        return this.#leaf(config, elo, ehi, baseHi, at, next, granted, need, want);
      }
      if (next >= level) return this.#end(AMD_V1_FAULT.LEVEL);
      if ((ehi & DIRECTORY_RESERVED_HI) !== 0) return this.#end(AMD_V1_FAULT.RESERVED);
      if (next < level - 1 && !skippedAreZero(hi, lo, level, next)) return this.#end(AMD_V1_FAULT.SKIPPED);
      if ((elo & accessedBits) !== accessedBits) {
        if (!this.#update(baseHi, at, elo | accessedBits, ehi)) return false;
      }
      baseHi = ehi & 0xf_ffff;
      baseLo = elo & ~0xfff;
      rights = granted;
      level = next;
      if (cache !== null) cache.fill(hi, lo, level, baseHi, baseLo, rights, 12 + 9 * level);
    }
  }

  #leaf(
    config: AmdV1Config,
    lo: number,
    hi: number,
    atHi: number,
    atLo: number,
    next: number,
    permissions: number,
    need: number,
    want: number,
  ): boolean {
    const { level } = this;
    // The highest level maps nothing (table 15).
    if (level === AMD_V1_LEVELS_MAX) return this.#end(AMD_V1_FAULT.LEVEL);
    if ((hi & LEAF_RESERVED_HI) !== 0) return this.#end(AMD_V1_FAULT.RESERVED);
    let bits = 3 + 9 * level;
    if (next === NEXT_LEVEL_SIZED) {
      const sized = amdV1SizedBits(lo, hi);
      if (sized <= bits || sized >= bits + 9) return this.#end(AMD_V1_FAULT.PAGE_SIZE);
      bits = sized;
    }
    if ((permissions & need) !== need) return this.#end(AMD_V1_FAULT.PERMISSION);
    const writes = (permissions & want & AMD_V1_PERM.IW) !== 0;
    const flags = config.accessedBits | (writes ? config.dirtyBits : 0);
    if ((lo & flags) !== flags && !this.#update(atHi, atLo, lo | flags, hi)) return false;
    this.outHi = amdV1OutputHi(hi, bits);
    this.outLo = lo & aboveLo(bits);
    this.leafBits = bits;
    this.permissions = permissions;
    this.clean = ((lo | flags) & AMD_V1_ENTRY.D) === 0;
    this.forceCoherent = (hi & AMD_V1_ENTRY.FC_HI) !== 0;
    this.untranslatedOnly = (hi & AMD_V1_ENTRY.U_HI) !== 0;
    this.fault = AMD_V1_FAULT.NONE;
    return true;
  }

  #update(atHi: number, atLo: number, lo: number, hi: number): boolean {
    const stored = this.#memory.store64(addressOf(atHi, atLo), lo >>> 0, hi >>> 0);
    return stored || this.#refused(AMD_V1_FAULT.UPDATE, atHi, atLo);
  }

  #end(fault: AmdV1Fault): false {
    this.fault = fault;
    return false;
  }

  #refused(fault: AmdV1Fault, hi: number, lo: number): false {
    this.fetchAddress = addressOf(hi, lo);
    return this.#end(fault);
  }
}

/** True when the address bits between those that `next` levels resolve and those of `level` are zero. */
function skippedAreZero(hi: number, lo: number, level: number, next: number): boolean {
  const from = 12 + 9 * next;
  const to = 3 + 9 * level;
  const low = from < 32 ? (lo >>> from) & (to >= 32 ? -1 : 2 ** (to - from) - 1) : 0;
  if (low !== 0) return false;
  if (to <= 32) return true;
  const start = Math.max(0, from - 32);
  return ((hi >>> start) & (2 ** (to - 32 - start) - 1)) === 0;
}
