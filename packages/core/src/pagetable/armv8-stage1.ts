// The stage 1 walk: VA to IPA, or to PA where there is no stage 2.

import { big, hi32, lo32 } from '../base/u64.ts';
import type { PhysicalMemory } from '../memory/physical.ts';
import { permissionIndex } from './armv8-permissions.ts';
import type { TableCache } from './armv8-stage2.ts';
import {
  DESC_AF_LO,
  DESC_BIT7_LO,
  DESC_CONTIGUOUS_HI,
  DESC_DBM_HI,
  DESC_NG_LO,
  DESC_TABLE,
  DESC_VALID,
  HIGH_BITS,
  PERM_WRITE,
  type TableGeometry,
  WALK_FAULT,
  type WalkFault,
  contiguousBits,
  outputAddress,
  swap32,
} from './armv8.ts';

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

/** Where stage 1 tables are: finds the PA of a descriptor's IPA, through stage 2. */
export interface TableSpace {
  /**
   * The physical address of the descriptor at `ipa`, -1 where stage 2 faulted (the resolver keeps the fault). `write`
   * says that hardware is about to update the descriptor.
   */
  descriptorAddress(ipa: number, write: boolean): number;
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
  /** The start of the leaf in the output space, and log2 of its bytes. */
  out = 0;
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
  fault: WalkFault = WALK_FAULT.NONE;
  /** The fault is stage 2's, on the access to a descriptor; the TableSpace has it. */
  nestedFault = false;
  fetchAddress = 0;
  /** IPA of the descriptor that was last accessed. */
  descriptor = 0;
  cache: TableCache | null = null;
  readonly #memory: PhysicalMemory;
  readonly #word = new Uint32Array(2);

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
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
    const { granuleBits, stride } = table;
    let level = table.startLevel;
    let shift = table.startShift;
    let mask = table.startMask;
    let base = table.base;
    // Hierarchical permissions: APTable in 1:0, UXNTable or XNTable in 2, PXNTable in 3.
    let inherited = 0;
    if (this.cache !== null) {
      const found = this.cache.find(hi, lo);
      if (found !== 0) {
        level = found - 2;
        shift = granuleBits + stride * (3 - level);
        mask = table.indexMask;
        base = this.cache.base;
        inherited = this.cache.inherited;
      }
    }
    const firstLevel = level;
    for (;;) {
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & mask;
      const virtual = base + index * 8;
      this.descriptor = virtual;
      const address = space === null ? virtual : space.descriptorAddress(virtual, false);
      if (address < 0) return this.#nested();
      if (!this.#memory.load64(address, this.#word)) return this.#abort(address);
      let dlo = this.#word[0]!;
      let dhi = this.#word[1]!;
      if (table.bigEndian) [dlo, dhi] = [swap32(dhi), swap32(dlo)];
      if ((dlo & (DESC_VALID | DESC_TABLE)) === (DESC_VALID | DESC_TABLE) && level < 3) {
        base = outputAddress(dlo, dhi, granuleBits, table.highBits);
        if (base >= table.outputLimit) return this.#end(WALK_FAULT.ADDRESS_SIZE);
        if (!region.had)
          inherited |= ((dhi >>> 29) & 3) | (((dhi >>> 28) & 1) << 2) | (((dhi >>> 27) & 1) << 3);
        level++;
        shift -= stride;
        mask = table.indexMask;
        continue;
      }
      if (this.cache !== null && level > firstLevel) {
        this.cache.fill(hi, lo, level, base, inherited, shift + stride);
      }
      if ((dlo & DESC_VALID) === 0) return this.#end(WALK_FAULT.TRANSLATION);
      if ((dlo & DESC_TABLE) === 0 && (level === 3 || level < table.blockLevel)) {
        return this.#end(WALK_FAULT.TRANSLATION);
      }
      this.level = level;
      this.leafBits = shift;
      return this.#leaf(config, region, table, address, dlo, dhi, inherited, need, space);
    }
  }

  #leaf(
    config: Stage1Config,
    region: Stage1Region,
    table: TableGeometry,
    address: number,
    lo: number,
    hi: number,
    inherited: number,
    need: number,
    space: TableSpace | null,
  ): boolean {
    const leafBits = this.leafBits;
    const out = outputAddress(lo, hi, leafBits, table.highBits);
    if (out >= table.outputLimit) return this.#end(WALK_FAULT.ADDRESS_SIZE);
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
      if (!this.#update(table, space, address, next, hi)) return false;
    }
    this.out = out;
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
    this.fault = WALK_FAULT.NONE;
    return true;
  }

  /** The hardware update of a descriptor: a write, which stage 2 must allow too. */
  #update(table: TableGeometry, space: TableSpace | null, address: number, lo: number, hi: number): boolean {
    const target = space === null ? address : space.descriptorAddress(this.descriptor, true);
    if (target < 0) return this.#nested();
    const stored = table.bigEndian
      ? this.#memory.store64(target, swap32(hi), swap32(lo))
      : this.#memory.store64(target, lo >>> 0, hi);
    return stored || this.#abort(target);
  }

  #end(fault: WalkFault): false {
    this.fault = fault;
    return false;
  }

  #nested(): false {
    this.nestedFault = true;
    return false;
  }

  #abort(address: number): false {
    this.fetchAddress = address;
    return this.#end(WALK_FAULT.EXTERNAL_ABORT);
  }
}
