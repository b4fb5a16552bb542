// What the walkers of all formats share. An address is two words, bits 63:32 (51:32 where it leaves the tables) and
// 31:0 as any 32-bit integer: a walk shifts and masks integers, and makes a number of an address for memory alone.

/** An address from its words. Mostly the upper one is zero. */
export function addressOf(hi: number, lo: number): number {
  return hi === 0 ? lo >>> 0 : hi * 0x1_0000_0000 + (lo >>> 0);
}

/** The bits of an address, by word, that are not an offset in 2^bits bytes. */
export function aboveLo(bits: number): number {
  return bits < 32 ? -1 << bits : 0;
}

export function aboveHi(bits: number): number {
  return bits <= 32 ? -1 : -1 << (bits - 32);
}

/** Where tables are whose addresses another stage translates. */
export interface TableSpace {
  /**
   * Finds the physical address of the entry at an address in the output space of its tables, and leaves it in the two
   * fields; false where the other stage faulted (the resolver keeps the fault). `write` says that hardware is about to
   * update the entry.
   */
  descriptor(hi: number, lo: number, write: boolean): boolean;
  readonly descriptorHi: number;
  readonly descriptorLo: number;
}

/** Remembers the lowest tables that earlier walks went through: the paging-structure caches. */
export interface TableCache {
  /** The level of a table on the way to the address, as the format's walker numbers them from 1; 0 where none is known. */
  find(hi: number, lo: number): number;
  /** The table's address. */
  readonly baseHi: number;
  readonly baseLo: number;
  /** What the entries above the table say of permissions, in the walker's own encoding. */
  readonly inherited: number;
  /** Keeps the table at `level`, which resolves the address bits below `regionBits`. */
  fill(
    hi: number,
    lo: number,
    level: number,
    baseHi: number,
    baseLo: number,
    inherited: number,
    regionBits: number,
  ): void;
}
