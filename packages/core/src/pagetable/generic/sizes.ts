import { POW2 } from '../page-sizes.ts';
import { GRANULE_BITS, itemBits, type TableFormat } from './format.ts';

// The choice of page sizes: drivers/iommu/generic_pt/pt_iter.h. Everything counts in pages of 4 KiB, so that a 64-bit
// address is an exact number.

/** Trailing zeroes of a page number below 2^52; 52 of zero. */
function trailingZeros(page: number): number {
  const lo = page >>> 0;
  if (lo !== 0) return 31 - Math.clz32(lo & -lo);
  const hi = Math.floor(page / 0x1_0000_0000);
  return hi === 0 ? 52 : 63 - Math.clz32(hi & -hi);
}

/** floor(log2) of a count of pages, 1 to 2^52. */
function log2Floor(count: number): number {
  const hi = Math.floor(count / 0x1_0000_0000);
  return hi === 0 ? 31 - Math.clz32(count) : 63 - Math.clz32(hi);
}

/** The sizes of a table, and which of them fits: log2 of pages. */
export class LeafSizes {
  /** log2 of bytes, ascending. */
  readonly bits: readonly number[];
  /** By log2 of pages: the largest size that is not above it, and the next that is; -1 where there is none. */
  readonly #atMost: Int8Array;
  readonly #above: Int8Array;

  constructor(bits: readonly number[]) {
    this.bits = bits;
    this.#atMost = new Int8Array(53).fill(-1);
    this.#above = new Int8Array(53).fill(-1);
    for (let log2 = 0; log2 <= 52; log2++) {
      for (const size of bits) {
        if (size - GRANULE_BITS <= log2) this.#atMost[log2] = size - GRANULE_BITS;
        else if (this.#above[log2] === -1) this.#above[log2] = size - GRANULE_BITS;
      }
    }
  }

  /** pt_compute_best_pgsize(): the largest leaf that `count` pages at `page` and `out` can start with. */
  best(page: number, out: number, count: number): number {
    const aligned = Math.min(trailingZeros(page), trailingZeros(out), log2Floor(count));
    return this.#atMost[aligned]!;
  }

  /** pt_pgsz_count(): how many of them come before larger ones fit. */
  run(page: number, out: number, count: number, log2: number): number {
    const next = this.#above[log2]!;
    let length = count;
    if (next !== -1) {
      const larger = POW2[next]!;
      const inLarger = page % larger;
      if (inLarger === out % larger) length = Math.min(length, larger - inLarger);
    }
    return Math.floor(length / POW2[log2]!);
  }
}

/** get_info() of iommu_pt.h: the sizes that a table of `vaBits` and `outBits` can have with levels up to `top`. */
export function leafSizesOf(
  format: TableFormat,
  top: number,
  vaBits: number,
  outBits: number,
): readonly number[] {
  const sizes: number[] = [];
  for (let level = 0; level <= top && itemBits(level) < vaBits; level++) {
    // A page as large as the whole table is not allowed.
    sizes.push(...format.leafSizes(level).filter((bits) => bits < vaBits - 1 && bits < outBits));
  }
  return sizes;
}
