import { AMD_V1_ENTRY, NEXT_LEVEL_LEAF, NEXT_LEVEL_SIZED, amdV1SizedBits } from '../amd-v1.ts';
import {
  ENTRY,
  GRANULE_BITS,
  itemBits,
  LEVEL_BITS,
  PROT,
  type EntryBits,
  type TableFormat,
} from './format.ts';

// AMD's host tables as Linux writes them: drivers/iommu/generic_pt/fmt/amdv1.h, with PT_FEAT_AMDV1_FORCE_COHERENCE. Its
// level 0 is mode 1 of the specification.

const { PR, D, NEXT_LEVEL_SHIFT, FC_HI, IR_HI, IW_HI } = AMD_V1_ENTRY;
const TOP_LEVEL_MAX = 5;
const LEAF_BITS_MAX = 51;
/** "512GB Pages are not supported due to a hardware bug." */
const BROKEN_BITS = 39;

function sizesAt(level: number): number[] {
  const sizes: number[] = [];
  if (level >= TOP_LEVEL_MAX) return sizes;
  const first = itemBits(level);
  for (let bits = first; bits <= Math.min(LEAF_BITS_MAX, first + LEVEL_BITS - 1); bits++)
    if (bits !== BROKEN_BITS) sizes.push(bits);
  return sizes;
}

const SIZES = [0, 1, 2, 3, 4, 5].map(sizesAt);

function nextLevel(lo: number): number {
  return (lo >>> NEXT_LEVEL_SHIFT) & 7;
}

/** Next Level 7, and a string of ones in the address that ends one bit below the size (table 14). */
function sizedLeaf(sizeBits: number): EntryBits {
  const ones = 2 ** (sizeBits - 1) - 2 ** GRANULE_BITS;
  return {
    lo: ((NEXT_LEVEL_SIZED << NEXT_LEVEL_SHIFT) | ones) >>> 0,
    hi: Math.floor(ones / 0x1_0000_0000),
  };
}

const PLAIN: EntryBits = { lo: NEXT_LEVEL_LEAF << NEXT_LEVEL_SHIFT, hi: 0 };
const SIZED = Array.from({ length: LEAF_BITS_MAX + 1 }, (_, bits) => sizedLeaf(Math.max(bits, GRANULE_BITS)));

export const AMD_V1_FORMAT: TableFormat = {
  topLevelMax: TOP_LEVEL_MAX,
  dirtyLo: D,
  leafSizes: (level) => SIZES[level]!,
  kind(lo, _hi, level) {
    if ((lo & PR) === 0) return ENTRY.EMPTY;
    const next = nextLevel(lo);
    return level === 0 || next === NEXT_LEVEL_LEAF || next === NEXT_LEVEL_SIZED ? ENTRY.LEAF : ENTRY.TABLE;
  },
  tableBits: (level) => ({ lo: PR | (level << NEXT_LEVEL_SHIFT), hi: IR_HI | IW_HI }),
  leafBits: (prot) => ({
    lo: PR,
    hi: FC_HI | ((prot & PROT.READ) !== 0 ? IR_HI : 0) | ((prot & PROT.WRITE) !== 0 ? IW_HI : 0),
  }),
  sizeBits: (level, sizeBits) => (sizeBits === itemBits(level) ? PLAIN : SIZED[sizeBits]!),
  contiguous: (lo, hi, level) =>
    nextLevel(lo) === NEXT_LEVEL_SIZED ? amdV1SizedBits(lo, hi) - itemBits(level) : 0,
};
