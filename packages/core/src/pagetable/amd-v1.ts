// Host page tables ("v1") of AMD's IOMMU: AMD 48882 rev 3.10 §2.2.3. One to six levels of 512 entries, each entry says
// the level that it leads to, levels may be skipped, and a leaf may map any power of two. What a configuration means
// is worked out once. An input address is two u32; entries and outputs are plain numbers below 2^52. Levels count up
// from 1, the table of 4 KiB pages, to the root.

import type { PhysicalMemory } from '../memory/physical.ts';
import type { TableCache } from './x86-64.ts';

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
export const AMD_V1_LEVELS_MAX = 6;

/** Bits 60:52 of a directory entry and 58:52 of a leaf, in the upper word. */
const DIRECTORY_RESERVED_HI = 0x1ff0_0000;
const LEAF_RESERVED_HI = 0x07f0_0000;

/** One set of tables, as a DTE configures them. */
export interface AmdV1Config {
  /** Levels: 1 to 6. */
  readonly mode: number;
  /** Address of the root table, a multiple of 4096. */
  readonly root: number;
  /** Walks set Accessed; writes set Dirty (DTE.HAD). */
  readonly accessed: boolean;
  readonly dirty: boolean;
}

/** log2 of the bytes that an entry of `level` resolves: 12 at level 1. */
export function amdV1LevelBits(level: number): number {
  return 3 + 9 * level;
}

/** False where the address has bits that `mode` levels do not resolve: it must not alias a lower one. */
export function amdV1InWidth(mode: number, hi: number, lo: number): boolean {
  const bits = 12 + 9 * mode;
  if (bits >= 64) return true;
  if (bits >= 32) return hi >>> (bits - 32) === 0;
  return hi === 0 && lo >>> bits === 0;
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

/** Bits 51:`bits` of an entry. */
export function amdV1Output(lo: number, hi: number, bits: number): number {
  const below = bits < 32 ? (lo & (-1 << bits)) >>> 0 : 0;
  const above = bits <= 32 ? hi & 0xf_ffff : bits >= 52 ? 0 : hi & 0xf_ffff & (-1 << (bits - 32));
  return above * 0x1_0000_0000 + below;
}

/**
 * Walks the tables. One walker is used again and again: `walk()` answers true and leaves the translation in the fields,
 * or false and leaves the fault.
 */
export class AmdV1Walker {
  /** The start of the page in the output space, and log2 of its bytes. */
  out = 0;
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

  /**
   * Translates the address in `hi` and `lo`. `need` are the AMD_V1_PERM bits that the access must have, or it faults;
   * `want` are those it will use where they are granted (an ATS request), `need` again for anything else.
   */
  walk(config: AmdV1Config, hi: number, lo: number, need: number, want: number = need): boolean {
    let level = config.mode;
    let base = config.root;
    let rights: number = AMD_V1_PERM.IR | AMD_V1_PERM.IW;
    this.level = level;
    if (!amdV1InWidth(level, hi, lo)) return this.#end(AMD_V1_FAULT.WIDTH);
    if (this.cache !== null) {
      const found = this.cache.find(hi, lo);
      if (found !== 0) {
        level = found;
        base = this.cache.base;
        rights = this.cache.inherited;
      }
    }
    for (;;) {
      this.level = level;
      const shift = 3 + 9 * level;
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & 0x1ff;
      const address = base + index * 8;
      if (!this.#memory.load64(address, this.#word)) return this.#refused(AMD_V1_FAULT.FETCH, address);
      const elo = this.#word[0]!;
      const ehi = this.#word[1]!;
      if ((elo & AMD_V1_ENTRY.PR) === 0) return this.#end(AMD_V1_FAULT.NOT_PRESENT);
      const next = (elo >>> AMD_V1_ENTRY.NEXT_LEVEL_SHIFT) & 7;
      const granted = rights & (ehi >>> 29);
      if (next === NEXT_LEVEL_LEAF || next === NEXT_LEVEL_SIZED) {
        return this.#leaf(config, elo, ehi, address, next, granted, need, want);
      }
      if (next >= level) return this.#end(AMD_V1_FAULT.LEVEL);
      if ((ehi & DIRECTORY_RESERVED_HI) !== 0) return this.#end(AMD_V1_FAULT.RESERVED);
      if (next < level - 1 && !skippedAreZero(hi, lo, level, next)) return this.#end(AMD_V1_FAULT.SKIPPED);
      if (config.accessed && (elo & AMD_V1_ENTRY.A) === 0) {
        if (!this.#update(address, elo | AMD_V1_ENTRY.A, ehi)) return false;
      }
      base = (ehi & 0xf_ffff) * 0x1_0000_0000 + ((elo & ~0xfff) >>> 0);
      rights = granted;
      level = next;
      if (this.cache !== null) this.cache.fill(hi, lo, level, base, rights, 12 + 9 * level);
    }
  }

  #leaf(
    config: AmdV1Config,
    lo: number,
    hi: number,
    address: number,
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
    const flags = (config.accessed ? AMD_V1_ENTRY.A : 0) | (config.dirty && writes ? AMD_V1_ENTRY.D : 0);
    if ((lo & flags) !== flags && !this.#update(address, lo | flags, hi)) return false;
    this.out = amdV1Output(lo, hi, bits);
    this.leafBits = bits;
    this.permissions = permissions;
    this.clean = ((lo | flags) & AMD_V1_ENTRY.D) === 0;
    this.forceCoherent = (hi & AMD_V1_ENTRY.FC_HI) !== 0;
    this.untranslatedOnly = (hi & AMD_V1_ENTRY.U_HI) !== 0;
    this.fault = AMD_V1_FAULT.NONE;
    return true;
  }

  #update(address: number, lo: number, hi: number): boolean {
    return this.#memory.store64(address, lo >>> 0, hi) || this.#refused(AMD_V1_FAULT.UPDATE, address);
  }

  #end(fault: AmdV1Fault): false {
    this.fault = fault;
    return false;
  }

  #refused(fault: AmdV1Fault, address: number): false {
    this.fetchAddress = address;
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
