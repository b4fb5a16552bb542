// The stage 1 walk: VA to IPA, or to PA where there is no stage 2.

import { big, hi32, lo32 } from '../base/u64.ts';
import type { PhysicalMemory } from '../memory/physical.ts';
import { permissionIndex } from './armv8-permissions.ts';
import {
  CACHED_LEVEL,
  DESC_AF_LO,
  DESC_BIT7_LO,
  DESC_CONTIGUOUS_HI,
  DESC_DBM_HI,
  DESC_NG_LO,
  DESC_TABLE,
  DESC_TYPE,
  DESC_VALID,
  HIGH_BITS,
  PERM_WRITE,
  type TableGeometry,
  WALK_FAULT,
  type WalkFault,
  addressHi,
  contiguousBits,
  levelOf,
  swap32,
} from './armv8.ts';
import { type TableCache, type TableSpace, aboveHi, aboveLo, addressOf } from './walk.ts';

/** One half of a stage 1 regime's addresses: what TTB0 or TTB1 translates. */
export interface Stage1Region {
  /** Null where EPD disables walks. */
  readonly table: TableGeometry | null;
  /** Address bits above the input size that must equal bit 55, as masks of the two words. */
  readonly topHi: number;
  readonly topLo: number;
  /** Hierarchical permissions of table descriptors are ignored. */
  readonly had: boolean;
  /** Unprivileged accesses fault. */
  readonly e0pd: boolean;
  /** Shareability of all cacheable memory, with LPA2. */
  readonly sh: number;
}

/** True where a lookup has more to look at than the address: tags (TBI) and E0PD, or no tables. */
export function needsCare(region: Stage1Region): boolean {
  return region.table === null || region.e0pd || (region.topHi > 0 && region.topHi <= 0x00ff_ffff);
}

/** One stage 1 translation regime, as a CD configures it. */
export interface Stage1Config {
  readonly regions: readonly [Stage1Region, Stage1Region | null];
  /** False where all accesses are privileged and TTB0 alone is used. */
  readonly unprivileged: boolean;
  /** What AP, APTable, UXN and PXN mean: armv8-permissions.ts stage1Permissions(). */
  readonly permissions: Uint8Array;
  readonly affd: boolean;
  readonly ha: boolean;
  readonly hd: boolean;
  /** Attributes by AttrIndx, as armv8-attributes.ts has them, without Shareability. */
  readonly mair: Uint8Array;
}

/**
 * The masks of the address bits that must be alike: from AddrTop (63, or 55 with TBI) down to the input size.
 * IHI 0070G.b §3.4.1.
 */
export function topMasks(inputBits: number, tbi: boolean): { topHi: number; topLo: number } {
  const top = tbi ? 56 : 64;
  if (inputBits >= top) return { topHi: 0, topLo: 0 };
  const bits = ((1n << big(top)) - 1n) & ~((1n << big(inputBits)) - 1n);
  return { topHi: hi32(bits), topLo: lo32(bits) };
}

/** Walks stage 1 tables; used as Stage2Walker is. */
export class Stage1Walker {
  /** The start of the leaf in the output space, by word, and log2 of its bytes. */
  outHi = 0;
  outLo = 0;
  leafBits = 0;
  spanBits = 0;
  level = 0;
  /** PERM bits; writes include those that only await the dirty state. */
  permissions = 0;
  clean = false;
  /** A byte of MAIR and the Shareability. */
  mair = 0;
  sh = 0;
  nonGlobal = false;
  /** Why the last walk that failed did. */
  fault: WalkFault = WALK_FAULT.NONE;
  /** The fault is stage 2's, on the access to a descriptor; the TableSpace has it. */
  nestedFault = false;
  fetchAddress = 0;
  cache: TableCache | null = null;
  /** Where the descriptor that was last accessed is, before stage 2. */
  #virtualHi = 0;
  #virtualLo = 0;
  readonly #memory: PhysicalMemory;
  readonly #word = new Uint32Array(2);

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
  }

  /** The start of the leaf. */
  get out(): number {
    return addressOf(this.outHi, this.outLo);
  }

  /** True when the address lies in the region's range: its top bits are copies of bit 55. */
  static inRange(config: Stage1Config, hi: number, lo: number): boolean {
    const upper = config.unprivileged && (hi & 0x80_0000) !== 0;
    const region = upper ? config.regions[1]! : config.regions[0];
    return upper
      ? (~hi & region.topHi) === 0 && (~lo & region.topLo) === 0
      : (hi & region.topHi) === 0 && (lo & region.topLo) === 0;
  }

  /**
   * Translates the VA in `hi` and `lo`. `need` as for Stage2Walker. `space` translates the addresses of descriptors,
   * null where they are physical.
   */
  walk(config: Stage1Config, hi: number, lo: number, need: number, space: TableSpace | null): boolean {
    this.nestedFault = false;
    const upper = config.unprivileged && (hi & 0x80_0000) !== 0;
    const region = upper ? config.regions[1]! : config.regions[0];
    const table = region.table;
    if (table === null || !Stage1Walker.inRange(config, hi, lo)) return this.#end(WALK_FAULT.TRANSLATION);
    const { granuleBits, stride, highBits, tooHigh, tableMask, indexMask } = table;
    // A boolean for certain: else each step looks at what else could be false.
    const bigEndian = table.bigEndian === true;
    const hierarchical = region.had !== true;
    const word = this.#word;
    let shift = table.startShift;
    let mask = table.startMask;
    let baseHi = table.baseHi;
    let baseLo = table.baseLo;
    // Hierarchical permissions: APTable in 1:0, UXNTable or XNTable in 2, PXNTable in 3.
    let inherited = 0;
    if (this.cache !== null) {
      const found = this.cache.find(hi, lo);
      if (found !== 0) {
        shift = granuleBits + stride * (3 + CACHED_LEVEL - found);
        mask = indexMask;
        baseHi = this.cache.baseHi;
        baseLo = this.cache.baseLo;
        inherited = this.cache.inherited;
      }
    }
    const firstShift = shift;
    for (;;) {
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & mask;
      let atHi = baseHi;
      let atLo = baseLo | (index << 3);
      if (space !== null) {
        this.#virtualHi = atHi;
        this.#virtualLo = atLo;
        if (!space.descriptor(atHi, atLo, false)) return this.#nested();
        atHi = space.descriptorHi;
        atLo = space.descriptorLo;
      }
      if (!this.#memory.load64(addressOf(atHi, atLo), word)) return this.#abort(atHi, atLo);
      let dlo = word[0]! | 0;
      let dhi = word[1]! | 0;
      if (bigEndian) {
        const low = swap32(dhi);
        dhi = swap32(dlo);
        dlo = low;
      }
      if ((dlo & DESC_TYPE) === DESC_TYPE && shift > granuleBits) {
        baseHi = addressHi(dlo, dhi, highBits);
        baseLo = dlo & tableMask;
        if ((baseHi & tooHigh) !== 0) return this.#end(WALK_FAULT.ADDRESS_SIZE);
        if (hierarchical)
          inherited |= ((dhi >>> 29) & 3) | (((dhi >>> 28) & 1) << 2) | (((dhi >>> 27) & 1) << 3);
        shift -= stride;
        mask = indexMask;
        continue;
      }
      const level = levelOf(table, shift);
      if (this.cache !== null && shift < firstShift) {
        this.cache.fill(hi, lo, level + CACHED_LEVEL, baseHi, baseLo, inherited, shift + stride);
      }
      if ((dlo & DESC_VALID) === 0) return this.#end(WALK_FAULT.TRANSLATION);
      if ((dlo & DESC_TABLE) === 0 && (level === 3 || level < table.blockLevel)) {
        return this.#end(WALK_FAULT.TRANSLATION);
      }
      this.level = level;
      this.leafBits = shift;
      return this.#leaf(config, region, table, atHi, atLo, dlo, dhi, inherited, need, space);
    }
  }

  #leaf(
    config: Stage1Config,
    region: Stage1Region,
    table: TableGeometry,
    atHi: number,
    atLo: number,
    lo: number,
    hi: number,
    inherited: number,
    need: number,
    space: TableSpace | null,
  ): boolean {
    const leafBits = this.leafBits;
    const outHi = addressHi(lo, hi, table.highBits) & aboveHi(leafBits);
    if ((outHi & table.tooHigh) !== 0) return this.#end(WALK_FAULT.ADDRESS_SIZE);
    const setAccess = (lo & DESC_AF_LO) === 0 && config.ha;
    if ((lo & DESC_AF_LO) === 0 && !config.ha && !config.affd) return this.#end(WALK_FAULT.ACCESS_FLAG);
    const ap = (lo >>> 6) & 3;
    const clean = config.hd && (hi & DESC_DBM_HI) !== 0 && (ap & 2) !== 0;
    const xn = ((hi >>> 22) & 1) | ((inherited >>> 2) & 1);
    const pxn = ((hi >>> 21) & 1) | ((inherited >>> 3) & 1);
    const index = permissionIndex(clean ? ap & 1 : ap, inherited & 3, xn, pxn);
    const permissions = config.permissions[index]!;
    if ((permissions & need) !== need) return this.#end(WALK_FAULT.PERMISSION);
    const setDirty = clean && (need & PERM_WRITE) !== 0;
    if (setAccess || setDirty) {
      let next = setAccess ? lo | DESC_AF_LO : lo;
      if (setDirty) next &= ~DESC_BIT7_LO;
      if (!this.#update(table, space, atHi, atLo, next, hi)) return false;
    }
    this.outHi = outHi;
    this.outLo = lo & aboveLo(leafBits);
    this.spanBits = leafBits;
    if ((hi & DESC_CONTIGUOUS_HI) !== 0 && !config.ha) {
      this.spanBits = contiguousBits(table.granuleBits, this.level, leafBits);
    }
    this.permissions = permissions;
    // Where the tables above forbid writing there is no dirty state to wait for.
    this.clean = clean && !setDirty && (permissions & PERM_WRITE) !== 0;
    this.mair = config.mair[(lo >>> 2) & 7]!;
    this.sh = table.highBits === HIGH_BITS.LPA2 ? region.sh : (lo >>> 8) & 3;
    this.nonGlobal = (lo & DESC_NG_LO) !== 0;
    return true;
  }

  /** The hardware update of a descriptor: a write, which stage 2 must allow too. */
  #update(
    table: TableGeometry,
    space: TableSpace | null,
    atHi: number,
    atLo: number,
    lo: number,
    hi: number,
  ): boolean {
    if (space !== null) {
      if (!space.descriptor(this.#virtualHi, this.#virtualLo, true)) return this.#nested();
      atHi = space.descriptorHi;
      atLo = space.descriptorLo;
    }
    const stored = table.bigEndian
      ? this.#memory.store64(addressOf(atHi, atLo), swap32(hi), swap32(lo))
      : this.#memory.store64(addressOf(atHi, atLo), lo >>> 0, hi >>> 0);
    return stored || this.#abort(atHi, atLo);
  }

  #end(fault: WalkFault): false {
    this.fault = fault;
    return false;
  }

  #nested(): false {
    this.nestedFault = true;
    return false;
  }

  #abort(hi: number, lo: number): false {
    this.fetchAddress = addressOf(hi, lo);
    return this.#end(WALK_FAULT.EXTERNAL_ABORT);
  }
}
