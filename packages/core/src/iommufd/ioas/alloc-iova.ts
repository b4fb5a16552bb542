import type { Range } from '../../base/range.ts';
import type { RangeMap } from '../../base/range-map.ts';
import { fail, type Result } from '../../base/result.ts';
import { big, hex, lowestBit, pageOffset, PAGE_SIZE_N, roundUpPowerOfTwo, U64_MAX } from '../../base/u64.ts';
import { EINVAL, ENOSPC, EOVERFLOW } from '../../abi/errno.ts';
import type { IoPagetable } from './io-pagetable.ts';

// drivers/iommu/iommufd/io_pagetable.c: where a mapping goes whose program leaves that to the kernel.

/** HPAGE_SIZE on x86-64 and arm64 with 4 KiB pages: what an automatic IOVA is aligned to at most. */
const HUGE_PAGE_SIZE = 2n << 20n;

/** iopt_alloc_iova(): the lowest hole that keeps the source's alignment; never IOVA 0. */
export function allocIova(iopt: IoPagetable, address: bigint, length: bigint): Result<bigint> {
  if (length === 0n || length >= U64_MAX / 2n) return fail(EOVERFLOW, 'length is zero or too large');
  let alignment = roundUpPowerOfTwo(length);
  if (address !== 0n && lowestBit(address) < alignment) alignment = lowestBit(address);
  if (alignment >= HUGE_PAGE_SIZE) alignment = HUGE_PAGE_SIZE;
  if (alignment < iopt.iovaAlignment)
    return fail(EINVAL, `the source is not aligned to the iova alignment ${hex(iopt.iovaAlignment)}`);
  const inPage = big(pageOffset(address));
  for (const allowed of allowedSpans(iopt)) {
    const from = fit(allowed, length, alignment, inPage);
    if (from === null) continue;
    for (const hole of unusedHoles(iopt, from, allowed.last)) {
      const iova = fit(hole, length, alignment, inPage);
      if (iova !== null) return iova;
    }
  }
  return fail(ENOSPC, `no hole of ${hex(length)} bytes is left`);
}

function allowedSpans({ allowed }: IoPagetable): Iterable<Range> {
  const whole = { start: PAGE_SIZE_N, last: U64_MAX - PAGE_SIZE_N };
  return allowed.size === 0 ? [whole] : spans(allowed, whole.start, whole.last);
}

// Holes that are neither reserved nor mapped, ascending: interval_tree_for_each_double_span().
function* unusedHoles({ reserved, areas }: IoPagetable, start: bigint, last: bigint): Generator<Range> {
  for (const hole of reserved.holes(start, last)) yield* areas.holes(hole.start, hole.last);
}

// interval_tree_for_each_span(): neighbours count as one.
function* spans(ranges: RangeMap<Range>, start: bigint, last: bigint): Generator<Range> {
  let span: { start: bigint; last: bigint } | null = null;
  for (let range = ranges.first(start, last); range !== null; range = ranges.next(range, last)) {
    const from = range.start > start ? range.start : start;
    const to = range.last < last ? range.last : last;
    if (span !== null && span.last + 1n === from) {
      span.last = to;
      continue;
    }
    if (span !== null) yield span;
    span = { start: from, last: to };
  }
  if (span !== null) yield span;
}

// __alloc_iova_check_range()
function fit(range: Range, length: bigint, alignment: bigint, inPage: bigint): bigint | null {
  const up = range.start + (alignment - 1n);
  if (up > U64_MAX) return null;
  const start = (up & ~(alignment - 1n)) | inPage;
  if (start >= range.last || range.last - start < length - 1n) return null;
  return start;
}
