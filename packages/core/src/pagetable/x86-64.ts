// The paging structures of Intel 64 processors in 64-bit mode, 4 and 5 levels, as IOMMUs walk them: the first stage of
// VT-d (D51397 rev 5.10 §3.6, §9.7) and the guest tables (v2) of AMD's IOMMU (48882 rev 3.10 §2.2.6). What a
// configuration means is worked out once, so that the walk only shifts and masks. Levels count up from 1, the page
// table, to the root.

import { big, hi32, lo32 } from '../base/u64.ts';
import type { PhysicalMemory } from '../memory/physical.ts';
import { type TableCache, type TableSpace, addressOf } from './walk.ts';

/** Why a walk ended. */
export const X86_FAULT = {
  NONE: 0,
  /** Bits above the input size differ from the highest one. */
  NOT_CANONICAL: 1,
  /** P is 0 in the entry at `level`. */
  NOT_PRESENT: 2,
  /** A reserved bit is set in the present entry at `level`. */
  RESERVED: 3,
  /** The entries do not grant what was asked. */
  PERMISSION: 4,
  /** Memory refused to load the entry at `level`. */
  FETCH: 5,
  /** Memory refused the update of an Accessed or Dirty flag. */
  UPDATE: 6,
  /** A flag had to be set, and the configuration keeps hardware from writing to tables. */
  UPDATE_BLOCKED: 7,
} as const;
export type X86Fault = (typeof X86_FAULT)[keyof typeof X86_FAULT];

/** Permissions of supervisor (privileged) and user accesses; the values are those of armv8.ts PERM. */
export const X86_PERM = { SR: 1, SW: 2, SX: 4, UR: 8, UW: 16, UX: 32 } as const;
export const X86_READ = X86_PERM.SR | X86_PERM.UR;
export const X86_WRITE = X86_PERM.SW | X86_PERM.UW;

/** Bits of an entry, by the word they lie in. */
export const X86_ENTRY = {
  P: 1 << 0,
  RW: 1 << 1,
  US: 1 << 2,
  PWT: 1 << 3,
  PCD: 1 << 4,
  A: 1 << 5,
  D: 1 << 6,
  /** PS of a PDPE or PDE; PAT of a PTE. */
  PS: 1 << 7,
  G: 1 << 8,
  /** VT-d's Extended Accessed. */
  EA: 1 << 10,
  /** PAT of a PDPE or PDE that maps a page. */
  PAT_LARGE: 1 << 12,
  XD_HI: 0x8000_0000,
} as const;

export interface X86PermissionOptions {
  /** Supervisor writes need R/W: CR0.WP, VT-d's WPE. */
  readonly writeProtect: boolean;
  /** Supervisors do not execute what users can: CR4.SMEP. */
  readonly smep: boolean;
  /** XD is looked at: EFER.NXE. */
  readonly noExecute: boolean;
}

/** What each combination of R/W (bit 0), U/S (bit 1) and XD (bit 2) of all entries of a walk allows, as X86_PERM. */
export function x86Permissions(options: X86PermissionOptions): Uint8Array {
  const table = new Uint8Array(8);
  for (let index = 0; index < 8; index++) {
    const write = (index & 1) !== 0;
    const user = (index & 2) !== 0;
    const execute = (index & 4) === 0 || !options.noExecute;
    table[index] =
      X86_PERM.SR |
      (write || !options.writeProtect ? X86_PERM.SW : 0) |
      (execute && !(options.smep && user) ? X86_PERM.SX : 0) |
      (user ? X86_PERM.UR : 0) |
      (user && write ? X86_PERM.UW : 0) |
      (user && execute ? X86_PERM.UX : 0);
  }
  return table;
}

export interface X86Options {
  readonly levels: 4 | 5;
  /** Address of the root table, a multiple of 4096. */
  readonly root: number;
  /** Bits of physical addresses; those above, up to bit 51, are reserved in entries. */
  readonly addressBits: number;
  /** A PDPE may map 1 GiB; else its PS is reserved. */
  readonly pages1G: boolean;
  /** Bit 63 is reserved: EFER.NXE is 0. */
  readonly xdReserved?: boolean;
  /** Walks set Accessed, and Extended Accessed with it; writes set Dirty. */
  readonly accessed: boolean;
  readonly extendedAccessed?: boolean;
  readonly dirty: boolean;
  /** False where a flag that would have to be set is a fault instead (VT-d §3.10); true where absent. */
  readonly updates?: boolean;
  /** What {@link x86Permissions} gives. */
  readonly permissions: Uint8Array;
}

/** One address space, ready to be walked. */
export interface X86Config {
  readonly levels: 4 | 5;
  /** The root table's address. */
  readonly rootHi: number;
  readonly rootLo: number;
  /** Bits that must equal the highest bit of the input, that bit included; they all lie in the upper word. */
  readonly canonicalHi: number;
  /** Reserved bits, by word: of all entries, of tables, and of leaves besides the offset in their page. */
  readonly reservedHi: number;
  readonly tableReservedLo: number;
  readonly leafReservedLo: number;
  /** The highest level at which PS makes a leaf. */
  readonly leafLevel: number;
  /** What a walk sets in each entry it uses, and what a write adds in the last one. */
  readonly accessedBits: number;
  readonly dirtyBits: number;
  readonly updates: boolean;
  readonly permissions: Uint8Array;
}

/** Works out an address space. */
export function x86Config(options: X86Options): X86Config {
  const { levels, addressBits } = options;
  const above = ((1n << 52n) - 1n) & ~((1n << big(addressBits)) - 1n);
  const always = above | (options.xdReserved === true ? 1n << 63n : 0n);
  const leafLevel = options.pages1G ? 3 : 2;
  return {
    levels,
    rootHi: Math.floor(options.root / 0x1_0000_0000),
    rootLo: options.root | 0,
    canonicalHi: levels === 4 ? 0xffff_8000 | 0 : 0xff00_0000 | 0,
    reservedHi: hi32(always) | 0,
    // PS makes a leaf wherever it is not reserved.
    tableReservedLo: lo32(always) | X86_ENTRY.PS,
    leafReservedLo: lo32(always) | 0,
    leafLevel,
    accessedBits: options.accessed ? X86_ENTRY.A | (options.extendedAccessed === true ? X86_ENTRY.EA : 0) : 0,
    dirtyBits: options.dirty ? X86_ENTRY.D : 0,
    updates: options.updates ?? true,
    permissions: options.permissions,
  };
}

/** True when the bits above the input size equal the highest bit of the input. */
export function isCanonical(config: X86Config, hi: number): boolean {
  const top = hi & config.canonicalHi;
  return top === 0 || top === config.canonicalHi;
}

/**
 * Walks the tables. One walker is used again and again: `walk()` answers true and leaves the translation in the fields,
 * or false and leaves the fault.
 */
export class X86Walker {
  /** The start of the page in the output space, by word, and log2 of its bytes: 12, 21 or 30. */
  outHi = 0;
  outLo = 0;
  leafBits = 0;
  /** The level of the leaf, or of the entry at fault. */
  level = 0;
  /** X86_PERM bits; writes include those that must first set Dirty. Also there where they were not enough. */
  permissions = 0;
  /** Whether a write must first set Dirty. */
  clean = false;
  global = false;
  /** Index into the PAT: PWT, PCD, PAT. */
  pat = 0;
  fault: X86Fault = X86_FAULT.NONE;
  /** The TableSpace could not resolve an entry's address; it has the fault. */
  nestedFault = false;
  /** The nested fault was met setting a flag. */
  nestedUpdate = false;
  /** Physical address of the entry whose load or update was refused. */
  fetchAddress = 0;
  /** The table cache to use in the next walks, or null. */
  cache: TableCache | null = null;
  readonly #memory: PhysicalMemory;
  readonly #word = new Uint32Array(2);
  /** Where the entry that was last accessed is, in the output space. */
  #virtualHi = 0;
  #virtualLo = 0;
  #leafLo = 0;
  #leafHi = 0;

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
  }

  /** The start of the page in the output space. */
  get out(): number {
    return addressOf(this.outHi, this.outLo);
  }

  /**
   * Translates the address in `hi` and `lo`. `need` are the X86_PERM bits that the access must have, or it faults;
   * `want` are those it will use where they are granted (an ATS request), `need` again for anything else. `space`
   * translates the addresses of tables, null where they are physical.
   */
  walk(
    config: X86Config,
    hi: number,
    lo: number,
    need: number,
    space: TableSpace | null,
    want: number = need,
  ): boolean {
    this.nestedFault = false;
    if (!isCanonical(config, hi)) return this.#end(X86_FAULT.NOT_CANONICAL);
    const { accessedBits, leafLevel, reservedHi, tableReservedLo } = config;
    const { cache } = this;
    const word = this.#word;
    let level: number = config.levels;
    let baseHi = config.rootHi;
    let baseLo = config.rootLo;
    // R/W and U/S of all entries in 1:0, XD of any in 2.
    let inherited = 3;
    if (cache !== null) {
      const found = cache.find(hi, lo);
      if (found !== 0) {
        level = found;
        baseHi = cache.baseHi;
        baseLo = cache.baseLo;
        inherited = cache.inherited;
      }
    }
    for (let shift = 3 + 9 * level; ; shift -= 9) {
      this.level = level;
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & 0x1ff;
      let atHi = baseHi;
      let atLo = baseLo | (index << 3);
      this.#virtualHi = atHi;
      this.#virtualLo = atLo;
      if (space !== null) {
        if (!space.descriptor(atHi, atLo, false)) return this.#nested(false);
        atHi = space.descriptorHi;
        atLo = space.descriptorLo;
      }
      if (!this.#memory.load64(addressOf(atHi, atLo), word))
        return this.#refused(X86_FAULT.FETCH, atHi, atLo);
      const elo = word[0]! | 0;
      const ehi = word[1]! | 0;
      if ((elo & X86_ENTRY.P) === 0) return this.#end(X86_FAULT.NOT_PRESENT);
      const isLeaf = level === 1 || ((elo & X86_ENTRY.PS) !== 0 && level <= leafLevel);
      // Bit 12 of a large page is PAT.
      const reservedLo = isLeaf ? config.leafReservedLo | (((1 << shift) - 4096) & ~0x1000) : tableReservedLo;
      if (((elo & reservedLo) | (ehi & reservedHi)) !== 0) return this.#end(X86_FAULT.RESERVED);
      inherited = (inherited & (4 | ((elo >>> 1) & 3))) | ((ehi >>> 31) << 2);
      if (isLeaf) return this.#leaf(config, elo, ehi, atHi, atLo, inherited, need, want, space);
      if ((elo & accessedBits) !== accessedBits) {
        if (!this.#update(config, space, atHi, atLo, elo | accessedBits, ehi)) return false;
      }
      baseHi = ehi & 0xf_ffff;
      baseLo = elo & ~0xfff;
      level--;
      if (cache !== null) cache.fill(hi, lo, level, baseHi, baseLo, inherited, shift);
    }
  }

  #leaf(
    config: X86Config,
    lo: number,
    hi: number,
    atHi: number,
    atLo: number,
    rights: number,
    need: number,
    want: number,
    space: TableSpace | null,
  ): boolean {
    const permissions = config.permissions[rights]!;
    this.permissions = permissions;
    if ((permissions & need) !== need) return this.#end(X86_FAULT.PERMISSION);
    const { dirtyBits } = config;
    const writes = (permissions & want & X86_WRITE) !== 0;
    const flags = config.accessedBits | (writes ? dirtyBits : 0);
    if ((lo & flags) !== flags && !this.#update(config, space, atHi, atLo, lo | flags, hi)) return false;
    const { level } = this;
    const leafBits = 3 + 9 * level;
    this.leafBits = leafBits;
    this.outHi = hi & 0xf_ffff;
    this.outLo = lo & (-1 << leafBits);
    this.#leafLo = lo | flags;
    this.#leafHi = hi;
    this.clean = !writes && (lo & dirtyBits) !== dirtyBits;
    this.global = (lo & X86_ENTRY.G) !== 0;
    const patBit = level === 1 ? X86_ENTRY.PS : X86_ENTRY.PAT_LARGE;
    this.pat = ((lo >>> 3) & 3) | ((lo & patBit) !== 0 ? 4 : 0);
    this.fault = X86_FAULT.NONE;
    return true;
  }

  /**
   * Sets Dirty in the leaf of the walk that has just succeeded, where `clean` says that it is missing: for whoever
   * checks more before it lets a write through. Answers false and leaves the fault as walk() does.
   */
  setDirty(config: X86Config, space: TableSpace | null): boolean {
    this.#leafLo |= config.dirtyBits;
    if (!this.#update(config, space, this.#virtualHi, this.#virtualLo, this.#leafLo, this.#leafHi))
      return false;
    this.clean = false;
    return true;
  }

  /** Sets flags in an entry: an atomic write, which a nested stage must allow too. */
  #update(
    config: X86Config,
    space: TableSpace | null,
    atHi: number,
    atLo: number,
    lo: number,
    hi: number,
  ): boolean {
    if (!config.updates) return this.#refused(X86_FAULT.UPDATE_BLOCKED, atHi, atLo);
    if (space !== null) {
      if (!space.descriptor(this.#virtualHi, this.#virtualLo, true)) return this.#nested(true);
      atHi = space.descriptorHi;
      atLo = space.descriptorLo;
    }
    const stored = this.#memory.store64(addressOf(atHi, atLo), lo >>> 0, hi >>> 0);
    return stored || this.#refused(X86_FAULT.UPDATE, atHi, atLo);
  }

  #end(fault: X86Fault): false {
    this.fault = fault;
    return false;
  }

  #nested(update: boolean): false {
    this.nestedFault = true;
    this.nestedUpdate = update;
    return false;
  }

  #refused(fault: X86Fault, hi: number, lo: number): false {
    this.fetchAddress = addressOf(hi, lo);
    return this.#end(fault);
  }
}
