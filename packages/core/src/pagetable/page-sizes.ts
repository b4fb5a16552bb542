// Page sizes as ascending lists of their log2, and the choice between them: drivers/iommu/iommu.c iommu_pgsize().

/** Powers of two: `2 ** n` costs as much as a look into memory does. */
export const POW2: Readonly<Float64Array> = Float64Array.from({ length: 64 }, (_, n) => 2 ** n);

export function pageBitmap(sizes: readonly number[]): bigint {
  return sizes.reduce((bitmap, bits) => bitmap | (1n << BigInt(bits)), 0n);
}

/** Pages of one size that a range starts with. */
export interface PageRun {
  readonly bits: number;
  readonly count: number;
}

function aligned(address: number, bits: number): boolean {
  const size = POW2[bits]!;
  return address % size === 0;
}

/**
 * The largest pages that `length` bytes at `iova` and `pa` can start with, and how many of them come before larger ones
 * fit. Everything is a multiple of the smallest size.
 */
export function pickPages(sizes: readonly number[], iova: number, pa: number, length: number): PageRun {
  let index = sizes.length - 1;
  while (index > 0) {
    const bits = sizes[index]!;
    if (POW2[bits]! <= length && aligned(iova, bits) && aligned(pa, bits)) break;
    index--;
  }
  const bits = sizes[index]!;
  const next = sizes[index + 1];
  if (length === POW2[bits]) return { bits, count: 1 };
  let run = length;
  if (next !== undefined) {
    const larger = POW2[next]!;
    const inLarger = iova % larger;
    // A larger page only ever fits where both addresses are equally far into theirs.
    if (inLarger === pa % larger) {
      const offset = larger - inLarger;
      if (offset + larger <= length) run = offset;
    }
  }
  return { bits, count: Math.floor(run / POW2[bits]!) };
}
