// What tells one format of 4 KiB tables with 512 entries from another: drivers/iommu/generic_pt/fmt. Levels count up
// from 0, the table of 4 KiB pages. Addresses that leave a table are in bits 51:12 of an entry, in every format. An
// entry, and what goes into one, is a low and a high u32.

/** IOMMU_READ, IOMMU_WRITE (include/linux/iommu.h). */
export const PROT = { READ: 1, WRITE: 2 } as const;

/** Bits of an entry. */
export interface EntryBits {
  readonly lo: number;
  readonly hi: number;
}

/** enum pt_entry_type */
export const ENTRY = { EMPTY: 0, TABLE: 1, LEAF: 2 } as const;
export type EntryKind = (typeof ENTRY)[keyof typeof ENTRY];

/** A format as a driver uses it: struct pt_common's features are in what the functions answer. */
export interface TableFormat {
  /** PT_MAX_TOP_LEVEL */
  readonly topLevelMax: number;
  /** The bit, in the lower word, that hardware sets where it writes; 0 where the format keeps no dirty state. */
  readonly dirtyLo: number;
  /** pt_possible_sizes(): log2 of the bytes of leaves at a level, ascending. */
  leafSizes(level: number): readonly number[];
  /** pt_load_entry_raw() */
  kind(lo: number, hi: number, level: number): EntryKind;
  /** pt_install_table(): an entry at `level` that leads to a table, without the address. */
  tableBits(level: number): EntryBits;
  /** pt_iommu_set_prot(): what a leaf says beside its address and size. `prot` has bits of {@link PROT}. */
  leafBits(prot: number): EntryBits;
  /** pt_install_leaf_entry(): what a leaf at `level` of 2^`sizeBits` bytes says of its size. */
  sizeBits(level: number, sizeBits: number): EntryBits;
  /** pt_entry_num_contig_lg2(): log2 of the entries that say the same as this leaf. */
  contiguous(lo: number, hi: number, level: number): number;
}

/** Index bits of every level. */
export const LEVEL_BITS = 9;
/** log2 of the bytes of the smallest page. */
export const GRANULE_BITS = 12;

/** pt_table_item_lg2sz(): log2 of the bytes that one entry of a level translates. */
export function itemBits(level: number): number {
  return GRANULE_BITS + LEVEL_BITS * level;
}
