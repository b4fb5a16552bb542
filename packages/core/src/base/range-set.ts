import { assert } from './assert.ts';
import type { Range } from './range.ts';

/** A range and what it was added for. */
export interface OwnedRange<O> extends Range {
  readonly owner: O;
}

/**
 * Inclusive ranges of u64 that may overlap and repeat, each with an owner: reserved_itree and allowed_itree of an IOAS
 * (drivers/iommu/iommufd/io_pagetable.h struct io_pagetable). For few entries: every operation takes O(size).
 */
export class RangeSet<O = unknown> {
  private readonly ranges: OwnedRange<O>[] = [];

  /** The number of ranges. */
  get size(): number {
    return this.ranges.length;
  }

  /** Adds a range, behind those with the same start. */
  add(start: bigint, last: bigint, owner: O): void {
    assert(start <= last, 'a range must not end before it starts');
    let at = this.ranges.length;
    while (at > 0 && this.ranges[at - 1]!.start > start) at--;
    this.ranges.splice(at, 0, { start, last, owner });
  }

  /** Removes every range of the owner. */
  removeOwner(owner: O): void {
    let kept = 0;
    for (const range of this.ranges) {
      if (range.owner === owner) continue;
      this.ranges[kept] = range;
      kept++;
    }
    this.ranges.length = kept;
  }

  /** Removes everything. */
  clear(): void {
    this.ranges.length = 0;
  }

  /** The range with the lowest start among those that share a byte with [start, last]. */
  firstOverlap(start: bigint, last: bigint): OwnedRange<O> | null {
    for (const range of this.ranges) {
      if (range.start > last) return null;
      if (range.last >= start) return range;
    }
    return null;
  }

  /** All ranges, ascending by start. The set must not change meanwhile. */
  [Symbol.iterator](): Iterator<OwnedRange<O>> {
    return this.ranges[Symbol.iterator]();
  }

  /** What no range covers within the inclusive range, ascending. */
  *holes(start: bigint, last: bigint): Generator<Range, void> {
    let from = start;
    for (const range of this.ranges) {
      if (range.start > last) break;
      if (range.last < from) continue;
      if (range.start > from) yield { start: from, last: range.start - 1n };
      if (range.last >= last) return;
      from = range.last + 1n;
    }
    if (from <= last) yield { start: from, last };
  }
}
