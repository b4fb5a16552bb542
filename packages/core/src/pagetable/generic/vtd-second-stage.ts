import { SS_ENTRY } from '../vtd-second-stage.ts';
import { ENTRY, itemBits, PROT, type EntryBits, type EntryKind, type TableFormat } from './format.ts';

// VT-d's second-stage tables as Linux writes them: drivers/iommu/generic_pt/fmt/vtdss.h. There is no present bit: an
// entry that permits nothing is none.

const { R, W, PS, D, SNP } = SS_ENTRY;
const LEAF_LEVEL_MAX = 2;

const PLAIN: EntryBits = { lo: 0, hi: 0 };
const LARGE: EntryBits = { lo: PS, hi: 0 };

/** pt_sw_bit(0) of vtdss.h, which hardware ignores: the walker has been told of the table. */
export const SS_SW_SYNCED = 1 << 10;

export interface SecondStageFormatOptions {
  readonly pages2M: boolean;
  readonly pages1G: boolean;
  /** Goes into every entry that leads to a table: {@link SS_SW_SYNCED} for a walker that is not coherent. */
  readonly tableLo?: number;
}

export class SecondStageFormat implements TableFormat {
  readonly topLevelMax = 4;
  readonly dirtyLo = D;
  /** PT_FEAT_VTDSS_FORCE_COHERENCE: leaves that are made from now on have SNP. */
  forceCoherence = false;
  readonly #sizes: readonly (readonly number[])[];
  readonly #table: EntryBits;

  constructor({ pages2M, pages1G, tableLo = 0 }: SecondStageFormatOptions) {
    this.#sizes = [true, pages2M, pages1G, false, false].map((has, level) => (has ? [itemBits(level)] : []));
    this.#table = { lo: R | W | tableLo, hi: 0 };
  }

  leafSizes(level: number): readonly number[] {
    return this.#sizes[level]!;
  }

  kind(lo: number, hi: number, level: number): EntryKind {
    if ((lo | hi) === 0) return ENTRY.EMPTY;
    return level === 0 || (level <= LEAF_LEVEL_MAX && (lo & PS) !== 0) ? ENTRY.LEAF : ENTRY.TABLE;
  }

  tableBits(): EntryBits {
    return this.#table;
  }

  leafBits(prot: number): EntryBits {
    const read = (prot & PROT.READ) !== 0 ? R : 0;
    const write = (prot & PROT.WRITE) !== 0 ? W : 0;
    return { lo: read | write | (this.forceCoherence ? SNP : 0), hi: 0 };
  }

  sizeBits(level: number): EntryBits {
    return level === 0 ? PLAIN : LARGE;
  }

  contiguous(): number {
    return 0;
  }
}
