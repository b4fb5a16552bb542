import { X86_ENTRY } from '../x86-64.ts';
import { ENTRY, itemBits, PROT, type EntryBits, type TableFormat } from './format.ts';

// First-stage tables, which are those of x86's CPUs, as Linux writes them for an IOMMU:
// drivers/iommu/generic_pt/fmt/x86_64.h. All permissions are the leaf's.

const { P, RW, US, A, D, PS } = X86_ENTRY;
const LEAF_LEVEL_MAX = 2;

const SIZES = [0, 1, 2, 3, 4].map((level) => (level <= LEAF_LEVEL_MAX ? [itemBits(level)] : []));
const NONE: readonly number[] = [];
const PLAIN: EntryBits = { lo: 0, hi: 0 };
const LARGE: EntryBits = { lo: PS, hi: 0 };

/**
 * `tableLo` goes into every entry that leads to a table: {@link X86_SW_SYNCED} for a walker that is not coherent. Pages of
 * levels above `leafLevel` are not made.
 */
export function x86TableFormat(tableLo = 0, leafLevel = LEAF_LEVEL_MAX): TableFormat {
  const table: EntryBits = { lo: P | RW | US | A | tableLo, hi: 0 };
  return {
    topLevelMax: 4,
    dirtyLo: 0,
    leafSizes: (level) => (level <= leafLevel ? SIZES[level]! : NONE),
    kind(lo, _hi, level) {
      if ((lo & P) === 0) return ENTRY.EMPTY;
      return level === 0 || (level <= LEAF_LEVEL_MAX && (lo & PS) !== 0) ? ENTRY.LEAF : ENTRY.TABLE;
    },
    tableBits: () => table,
    leafBits: (prot) => ({ lo: P | US | A | ((prot & PROT.WRITE) !== 0 ? RW | D : 0), hi: 0 }),
    sizeBits: (level) => (level === 0 ? PLAIN : LARGE),
    contiguous: () => 0,
  };
}

/** pt_sw_bit(0) of x86_64.h, which hardware ignores: the walker has been told of the table. */
export const X86_SW_SYNCED = 1 << 9;
