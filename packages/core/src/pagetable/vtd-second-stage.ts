// VT-d second-stage paging structures (D51397 rev 5.10 §3.7, §9.8): 3, 4 or 5 levels. Levels count
// up from 1, the page table, to the root.

import { big, hi32, lo32 } from '../base/u64.ts';
import type { PhysicalMemory } from '../memory/physical.ts';
import { type TableCache, addressOf } from './walk.ts';

/** Why a walk ended. */
export const SS_FAULT = {
  NONE: 0,
  /** The address lies above the width of the tables or of the implementation. */
  ADDRESS: 1,
  /** The entry at `level`, or all of them together, grant neither read nor write. */
  NOT_PRESENT: 2,
  /** A reserved bit is set in the entry at `level`, which grants something. */
  RESERVED: 3,
  /** The entries do not grant all that was asked. */
  PERMISSION: 4,
  /** Memory refused to load the entry at `level`. */
  FETCH: 5,
  /** Memory refused the update of an Accessed or Dirty flag. */
  UPDATE: 6,
  /** A flag had to be set, and the configuration keeps hardware from writing to tables. */
  UPDATE_BLOCKED: 7,
} as const;
export type SsFault = (typeof SS_FAULT)[keyof typeof SS_FAULT];

/** What a walk can grant. */
export const SS_RIGHTS = { READ: 1, WRITE: 2 } as const;

/** Bits of an entry, by the word they lie in. */
export const SS_ENTRY = {
  R: 1 << 0,
  W: 1 << 1,
  PS: 1 << 7,
  A: 1 << 8,
  D: 1 << 9,
  SNP: 1 << 11,
  /** IR and IW count instead of R and W where RTADDR.SSIRWE is set. */
  IR_HI: 1 << 29,
  IW_HI: 1 << 30,
} as const;

export interface SecondStageOptions {
  readonly levels: 3 | 4 | 5;
  /** Address of the root table, a multiple of 4096. */
  readonly root: number;
  /** Bits of input addresses that the implementation has (MGAW); the levels limit them too. */
  readonly inputBits: number;
  /** Bits of physical addresses; those above, up to bit 51, are reserved in entries. */
  readonly addressBits: number;
  readonly pages2M: boolean;
  readonly pages1G: boolean;
  /** SNP is there; else it is reserved. */
  readonly snoopControl: boolean;
  /** IR and IW grant, rather than R and W. */
  readonly ioReadWrite: boolean;
  /** Walks set Accessed, writes Dirty. */
  readonly accessedDirty: boolean;
  /** False where a flag that would have to be set is a fault instead. */
  readonly updates: boolean;
}

/** One set of tables, ready to be walked. */
export interface SecondStageConfig {
  readonly levels: 3 | 4 | 5;
  /** The root table's address. */
  readonly rootHi: number;
  readonly rootLo: number;
  /** Bits that must be zero in an input address, by word. */
  readonly aboveHi: number;
  readonly aboveLo: number;
  /** The same as a number: they are below it. */
  readonly inputLimit: number;
  /** Reserved bits, by word: of all entries, of tables, and of leaves besides the offset in their page. */
  readonly reservedHi: number;
  readonly tableReservedLo: number;
  readonly leafReservedLo: number;
  /** The highest level at which PS makes a leaf. */
  readonly leafLevel: number;
  /** Which bits grant: of the lower word, and of the upper one shifted to where those are. */
  readonly grantsLo: number;
  readonly grantsHi: number;
  readonly accessedDirty: boolean;
  /** What a walk sets in each entry it uses, and what a write adds in the last one. */
  readonly accessedBits: number;
  readonly dirtyBits: number;
  readonly updates: boolean;
}

/** Works out a set of tables. */
export function secondStageConfig(options: SecondStageOptions): SecondStageConfig {
  const { levels, addressBits } = options;
  const inputBits = Math.min(options.inputBits, 12 + 9 * levels);
  let always = ((1n << 52n) - 1n) & ~((1n << big(addressBits)) - 1n);
  // IW is reserved where it does not count; IR is ignored (Table 41 and those after it).
  if (!options.ioReadWrite) always |= 1n << 62n;
  const leafLevel = options.pages1G ? 3 : options.pages2M ? 2 : 1;
  return {
    levels,
    rootHi: Math.floor(options.root / 0x1_0000_0000),
    rootLo: options.root | 0,
    aboveHi: hi32(~((1n << big(Math.max(inputBits, 32))) - 1n)) | 0,
    aboveLo: lo32(~((1n << big(inputBits)) - 1n)) | 0,
    inputLimit: 2 ** inputBits,
    reservedHi: hi32(always) | 0,
    // PS makes a leaf wherever it is not reserved.
    tableReservedLo: lo32(always) | SS_ENTRY.SNP | SS_ENTRY.PS,
    leafReservedLo: lo32(always) | (options.snoopControl ? 0 : SS_ENTRY.SNP),
    leafLevel,
    grantsLo: options.ioReadWrite ? 0 : 3,
    grantsHi: options.ioReadWrite ? 3 : 0,
    accessedDirty: options.accessedDirty,
    accessedBits: options.accessedDirty ? SS_ENTRY.A : 0,
    dirtyBits: options.accessedDirty ? SS_ENTRY.D : 0,
    updates: options.updates,
  };
}

/**
 * Walks the tables. One walker is used again and again: `walk()` answers true and leaves the translation in the fields,
 * or false and leaves the fault.
 */
export class SecondStageWalker {
  /** The start of the page in physical memory, by word, and log2 of its bytes: 12, 21 or 30. */
  outHi = 0;
  outLo = 0;
  leafBits = 0;
  /** The level of the leaf, or of the entry at fault. */
  level = 0;
  /** SS_RIGHTS; writes include those that must first set Dirty. */
  rights = 0;
  /** Whether a write must first set Dirty. */
  clean = false;
  snoop = false;
  fault: SsFault = SS_FAULT.NONE;
  /** The entry whose load or update was refused. */
  fetchAddress = 0;
  /** The table cache to use in the next walks, or null; it keeps rights as `inherited`. */
  cache: TableCache | null = null;
  readonly #memory: PhysicalMemory;
  readonly #word = new Uint32Array(2);

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
  }

  /** The start of the page in physical memory. */
  get out(): number {
    return addressOf(this.outHi, this.outLo);
  }

  /**
   * Translates the address in `hi` and `lo`. `need` are the SS_RIGHTS that the access must have, or it faults; `want`
   * are those it will use where they are granted, `need` again for anything but an ATS request.
   */
  walk(config: SecondStageConfig, hi: number, lo: number, need: number, want: number = need): boolean {
    if (((hi & config.aboveHi) | (lo & config.aboveLo)) !== 0) return this.#end(SS_FAULT.ADDRESS);
    const { leafLevel, reservedHi, tableReservedLo, grantsLo, grantsHi, accessedBits } = config;
    const { cache } = this;
    const word = this.#word;
    const memory = this.#memory;
    let level: number = config.levels;
    let baseHi = config.rootHi;
    let baseLo = config.rootLo;
    let rights = 3;
    if (cache !== null) {
      const found = cache.find(hi, lo);
      if (found !== 0) {
        level = found;
        baseHi = cache.baseHi;
        baseLo = cache.baseLo;
        rights = cache.inherited;
      }
    }
    for (let shift = 3 + 9 * level; ; shift -= 9) {
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & 0x1ff;
      const at = baseLo | (index << 3);
      this.level = level;
      if (!memory.load64(addressOf(baseHi, at), word)) return this.#refused(SS_FAULT.FETCH, baseHi, at);
      const elo = word[0]! | 0;
      const ehi = word[1]! | 0;
      const own = (elo & grantsLo) | ((ehi >>> 29) & grantsHi);
      if (own === 0) return this.#end(SS_FAULT.NOT_PRESENT);
      if (level === 1 || ((elo & SS_ENTRY.PS) !== 0 && level <= leafLevel)) {
        const offset = (1 << shift) - 4096;
        if (((elo & (config.leafReservedLo | offset)) | (ehi & reservedHi)) !== 0) {
          return this.#end(SS_FAULT.RESERVED);
        }
        return this.#leaf(config, elo, ehi, baseHi, at, rights & own, need, want);
      }
      if (((elo & tableReservedLo) | (ehi & reservedHi)) !== 0) {
        return this.#end(SS_FAULT.RESERVED);
      }
      rights &= own;
      if ((elo & accessedBits) !== accessedBits) {
        if (!this.#update(config, baseHi, at, elo | accessedBits, ehi)) return false;
      }
      baseHi = ehi & 0xf_ffff;
      baseLo = elo & ~0xfff;
      level--;
      if (cache !== null) cache.fill(hi, lo, level, baseHi, baseLo, rights, shift);
    }
  }

  #leaf(
    config: SecondStageConfig,
    lo: number,
    hi: number,
    atHi: number,
    atLo: number,
    rights: number,
    need: number,
    want: number,
  ): boolean {
    if (rights === 0) return this.#end(SS_FAULT.NOT_PRESENT);
    if ((rights & need) !== need) {
      this.rights = rights;
      return this.#end(SS_FAULT.PERMISSION);
    }
    const writes = (rights & want & SS_RIGHTS.WRITE) !== 0;
    const { dirtyBits } = config;
    const flags = config.accessedBits | (writes ? dirtyBits : 0);
    if ((lo & flags) !== flags && !this.#update(config, atHi, atLo, lo | flags, hi)) return false;
    const leafBits = 3 + 9 * this.level;
    this.leafBits = leafBits;
    this.outHi = hi & 0xf_ffff;
    this.outLo = lo & (-1 << leafBits);
    this.rights = rights;
    this.clean = !writes && (lo & dirtyBits) !== dirtyBits;
    this.snoop = (lo & SS_ENTRY.SNP) !== 0;
    this.fault = SS_FAULT.NONE;
    return true;
  }

  #update(config: SecondStageConfig, atHi: number, atLo: number, lo: number, hi: number): boolean {
    if (!config.updates) return this.#refused(SS_FAULT.UPDATE_BLOCKED, atHi, atLo);
    const stored = this.#memory.store64(addressOf(atHi, atLo), lo >>> 0, hi >>> 0);
    return stored || this.#refused(SS_FAULT.UPDATE, atHi, atLo);
  }

  #end(fault: SsFault): false {
    this.fault = fault;
    return false;
  }

  #refused(fault: SsFault, hi: number, lo: number): false {
    this.fetchAddress = addressOf(hi, lo);
    return this.#end(fault);
  }
}
