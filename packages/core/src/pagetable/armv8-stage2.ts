// The stage 2 walk: IPA to PA.

import type { PhysicalMemory } from '../memory/physical.ts';
import { stage2IsDevice } from './armv8-attributes.ts';
import {
  CACHED_LEVEL,
  DESC_AF_LO,
  DESC_BIT7_LO,
  DESC_CONTIGUOUS_HI,
  DESC_DBM_HI,
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
import { type TableCache, aboveHi, aboveLo, addressOf } from './walk.ts';

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

/**
 * Walks stage 2 tables. One walker is used again and again: `walk()` answers true and leaves the translation in the
 * fields, or false and leaves the fault.
 */
export class Stage2Walker {
  /** The start of the leaf in the output space, by word, and log2 of its bytes. */
  outHi = 0;
  outLo = 0;
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
  /** Why the last walk that failed did. */
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

  /** The start of the leaf. */
  get out(): number {
    return addressOf(this.outHi, this.outLo);
  }

  /**
   * Translates the IPA in `hi` and `lo`. `need` are the PERM bits that the access has to have; 0 asks for none and so
   * updates no dirty state. `implicit` says that a stage 1 walk or a CD fetch makes the access (PTW).
   */
  walk(config: Stage2Config, hi: number, lo: number, need: number, implicit: boolean): boolean {
    const table = config.table;
    if (((hi & table.inputTooHi) | (lo & table.inputTooLo)) !== 0) return this.#end(WALK_FAULT.TRANSLATION);
    const { granuleBits, stride, highBits, tooHigh, tableMask, indexMask } = table;
    // A boolean for certain: else each step looks at what else could be false.
    const bigEndian = table.bigEndian === true;
    const word = this.#word;
    let shift = table.startShift;
    let mask = table.startMask;
    let baseHi = table.baseHi;
    let baseLo = table.baseLo;
    if (this.cache !== null) {
      const found = this.cache.find(hi, lo);
      if (found !== 0) {
        shift = granuleBits + stride * (3 + CACHED_LEVEL - found);
        mask = indexMask;
        baseHi = this.cache.baseHi;
        baseLo = this.cache.baseLo;
      }
    }
    const firstShift = shift;
    for (;;) {
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & mask;
      const at = baseLo | (index << 3);
      if (!this.#memory.load64(addressOf(baseHi, at), word)) return this.#abort(baseHi, at);
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
        shift -= stride;
        mask = indexMask;
        continue;
      }
      const level = levelOf(table, shift);
      if (this.cache !== null && shift < firstShift) {
        this.cache.fill(hi, lo, level + CACHED_LEVEL, baseHi, baseLo, 0, shift + stride);
      }
      if ((dlo & DESC_VALID) === 0) return this.#end(WALK_FAULT.TRANSLATION);
      if ((dlo & DESC_TABLE) === 0 && (level === 3 || level < table.blockLevel)) {
        return this.#end(WALK_FAULT.TRANSLATION);
      }
      return this.#leaf(config, baseHi, at, dlo, dhi, level, shift, need, implicit);
    }
  }

  #leaf(
    config: Stage2Config,
    atHi: number,
    atLo: number,
    lo: number,
    hi: number,
    level: number,
    shift: number,
    need: number,
    implicit: boolean,
  ): boolean {
    const table = config.table;
    const outHi = addressHi(lo, hi, table.highBits) & aboveHi(shift);
    if ((outHi & table.tooHigh) !== 0) return this.#end(WALK_FAULT.ADDRESS_SIZE);
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
        ? this.#memory.store64(addressOf(atHi, atLo), swap32(hi), swap32(next))
        : this.#memory.store64(addressOf(atHi, atLo), next >>> 0, hi >>> 0);
      if (!stored) return this.#abort(atHi, atLo);
    }
    this.outHi = outHi;
    this.outLo = lo & aboveLo(shift);
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
    return true;
  }

  #end(fault: WalkFault): false {
    this.fault = fault;
    return false;
  }

  #abort(hi: number, lo: number): false {
    this.fetchAddress = addressOf(hi, lo);
    return this.#end(WALK_FAULT.EXTERNAL_ABORT);
  }
}
