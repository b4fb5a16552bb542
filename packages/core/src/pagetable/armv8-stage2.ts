// The stage 2 walk: IPA to PA.

import type { PhysicalMemory } from '../memory/physical.ts';
import { stage2IsDevice } from './armv8-attributes.ts';
import {
  DESC_AF_LO,
  DESC_BIT7_LO,
  DESC_CONTIGUOUS_HI,
  DESC_DBM_HI,
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

/** One stage 2 translation regime, as an STE configures it. */
export interface Stage2Config {
  readonly table: TableGeometry;
  /** What S2AP and XN mean: armv8-permissions.ts stage2Permissions(). */
  readonly permissions: Uint8Array;
  /** AF == 0 never faults. */
  readonly affd: boolean;
  /** Hardware updates the Access flag, and the dirty state. */
  readonly ha: boolean;
  readonly hd: boolean;
  /** Accesses of stage 1 walks and CD fetches to Device memory fault. */
  readonly ptw: boolean;
  readonly fwb: boolean;
  /** Shareability of all cacheable memory, with LPA2; null takes the descriptor's. */
  readonly sh: number | null;
}

/** Remembers the deepest tables that earlier walks went through. */
export interface TableCache {
  /** The level of a table on the way to the address, plus 2; 0 where there is none. Leaves the two fields. */
  find(hi: number, lo: number): number;
  /** The table's address. */
  readonly base: number;
  /** Hierarchical permissions of the tables above it (stage 1). */
  readonly inherited: number;
  /** Keeps the table at `level`, which resolves the address bits below `regionBits`. */
  fill(hi: number, lo: number, level: number, base: number, inherited: number, regionBits: number): void;
}

/**
 * Walks stage 2 tables. One walker is used again and again: `walk()` answers true and leaves the translation in the
 * fields, or false and leaves the fault.
 */
export class Stage2Walker {
  /** The start of the leaf in the output space, and log2 of its bytes. */
  pa = 0;
  leafBits = 0;
  /** log2 of the bytes of the contiguous run that the leaf belongs to, or leafBits. */
  spanBits = 0;
  level = 0;
  /** PERM bits; writes include those that only await the dirty state. */
  permissions = 0;
  /** Whether a write must still make the descriptor dirty. */
  clean = false;
  /** MemAttr[3:0] and Shareability of the descriptor. */
  memAttr = 0;
  sh = 0;
  fault: WalkFault = WALK_FAULT.NONE;
  /** The descriptor whose load or store aborted. */
  fetchAddress = 0;
  /** The table cache to use in the next walks, or null. */
  cache: TableCache | null = null;
  readonly #memory: PhysicalMemory;
  readonly #word = new Uint32Array(2);

  constructor(memory: PhysicalMemory) {
    this.#memory = memory;
  }

  /**
   * Translates `ipa`. `need` are the PERM bits that the access has to have; 0 asks for none and so updates no dirty
   * state. `implicit` says that a stage 1 walk or a CD fetch makes the access (PTW).
   */
  walk(config: Stage2Config, ipa: number, need: number, implicit: boolean): boolean {
    const table = config.table;
    if (ipa >= table.inputLimit) return this.#end(WALK_FAULT.TRANSLATION);
    const hi = (ipa / 0x1_0000_0000) >>> 0;
    const lo = ipa >>> 0;
    const { granuleBits, stride, highBits } = table;
    let level = table.startLevel;
    let shift = table.startShift;
    let mask = table.startMask;
    let base = table.base;
    if (this.cache !== null) {
      const found = this.cache.find(hi, lo);
      if (found !== 0) {
        level = found - 2;
        shift = granuleBits + stride * (3 - level);
        mask = table.indexMask;
        base = this.cache.base;
      }
    }
    const firstLevel = level;
    for (;;) {
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & mask;
      const address = base + index * 8;
      if (!this.#memory.load64(address, this.#word)) return this.#abort(address);
      let dlo = this.#word[0]!;
      let dhi = this.#word[1]!;
      if (table.bigEndian) [dlo, dhi] = [swap32(dhi), swap32(dlo)];
      if ((dlo & (DESC_VALID | DESC_TABLE)) === (DESC_VALID | DESC_TABLE) && level < 3) {
        base = outputAddress(dlo, dhi, granuleBits, highBits);
        if (base >= table.outputLimit) return this.#end(WALK_FAULT.ADDRESS_SIZE);
        level++;
        shift -= stride;
        mask = table.indexMask;
        continue;
      }
      if (this.cache !== null && level > firstLevel) {
        this.cache.fill(hi, lo, level, base, 0, shift + stride);
      }
      if ((dlo & DESC_VALID) === 0) return this.#end(WALK_FAULT.TRANSLATION);
      if ((dlo & DESC_TABLE) === 0 && (level === 3 || level < table.blockLevel)) {
        return this.#end(WALK_FAULT.TRANSLATION);
      }
      return this.#leaf(config, address, dlo, dhi, level, shift, need, implicit);
    }
  }

  #leaf(
    config: Stage2Config,
    address: number,
    lo: number,
    hi: number,
    level: number,
    shift: number,
    need: number,
    implicit: boolean,
  ): boolean {
    const table = config.table;
    const pa = outputAddress(lo, hi, shift, table.highBits);
    if (pa >= table.outputLimit) return this.#end(WALK_FAULT.ADDRESS_SIZE);
    const setAccess = (lo & DESC_AF_LO) === 0 && config.ha;
    if ((lo & DESC_AF_LO) === 0 && !config.ha && !config.affd) return this.#end(WALK_FAULT.ACCESS_FLAG);
    const s2ap = (lo >>> 6) & 3;
    const clean = config.hd && (hi & DESC_DBM_HI) !== 0 && (s2ap & 2) === 0;
    const index = (clean ? s2ap | 2 : s2ap) | (((hi >>> 21) & 3) << 2);
    const permissions = config.permissions[index]!;
    const memAttr = (lo >>> 2) & 15;
    if ((permissions & need) !== need || (implicit && config.ptw && stage2IsDevice(memAttr, config.fwb))) {
      return this.#end(WALK_FAULT.PERMISSION);
    }
    const setDirty = clean && (need & PERM_WRITE) !== 0;
    if (setAccess || setDirty) {
      const next = lo | (setAccess ? DESC_AF_LO : 0) | (setDirty ? DESC_BIT7_LO : 0);
      const stored = table.bigEndian
        ? this.#memory.store64(address, swap32(hi), swap32(next))
        : this.#memory.store64(address, next >>> 0, hi);
      if (!stored) return this.#abort(address);
    }
    this.pa = pa;
    this.leafBits = shift;
    this.spanBits = shift;
    if ((hi & DESC_CONTIGUOUS_HI) !== 0 && !config.ha) {
      this.spanBits = contiguousBits(table.granuleBits, level, shift);
    }
    this.level = level;
    this.permissions = permissions;
    this.clean = clean && !setDirty;
    this.memAttr = memAttr;
    this.sh = config.sh ?? (table.highBits === HIGH_BITS.LPA2 ? 0 : (lo >>> 8) & 3);
    this.fault = WALK_FAULT.NONE;
    return true;
  }

  #end(fault: WalkFault): false {
    this.fault = fault;
    return false;
  }

  #abort(address: number): false {
    this.fetchAddress = address;
    return this.#end(WALK_FAULT.EXTERNAL_ABORT);
  }
}
