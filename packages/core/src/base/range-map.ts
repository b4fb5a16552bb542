import { assert } from './assert.ts';
import { U64_MAX } from './u64.ts';
import type { Range } from './range.ts';

// A B+tree. Keys are the values' starts, held as two int32 with the sign bit flipped, so that signed comparison orders
// them as u64 and no comparison touches a bigint. A separator is a lower bound of its child's keys; a node's separator 0
// is never read, it stands for minus infinity.

const CAPACITY = 64;
/** A node that falls below is merged with a neighbour where both fill at most MERGED_MAX. */
const MERGE_BELOW = CAPACITY / 4;
const MERGED_MAX = (CAPACITY * 3) / 4;
const LASTS = 2 * CAPACITY;
const SIGN = 0x8000_0000 | 0;
const VACANT: readonly null[] = Array.from({ length: CAPACITY }, () => null);

// Number(value >> 32n) and Number(value & 0xffffffffn) take 60 ns, a store and two loads 2 to 5.
const word = new BigUint64Array(1);
const halves = new Int32Array(word.buffer);
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
const HI = LITTLE_ENDIAN ? 1 : 0;
const LO = LITTLE_ENDIAN ? 0 : 1;

/** What a {@link RangeMap} holds: a value that carries its own inclusive range, which must not change inside the map. */
export interface Entry {
  readonly start: bigint;
  readonly last: bigint;
}

class Node<V> {
  count = 0;
  readonly keys: Int32Array;
  /** One per key in an inner node, empty in a leaf. */
  readonly children: (Node<V> | null)[];
  /** One per key in a leaf, empty in an inner node; null beyond `count`. */
  readonly values: (V | null)[];

  constructor(leaf: boolean) {
    // In a leaf the ends of the values stand behind the keys: looking for a neighbour touches no value.
    this.keys = new Int32Array(leaf ? 4 * CAPACITY : 2 * CAPACITY);
    this.children = leaf ? [] : VACANT.slice();
    this.values = leaf ? VACANT.slice() : [];
  }

  /** The number of keys from index `from` on that are at most (hi, lo), plus `from`. */
  upperBound(from: number, hi: number, lo: number): number {
    const keys = this.keys;
    let low = from;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const keyHi = keys[2 * middle]!;
      if (keyHi < hi || (keyHi === hi && keys[2 * middle + 1]! <= lo)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Puts a value at index `at` of a leaf with room. */
  putValue(at: number, hi: number, lo: number, lastHi: number, lastLo: number, value: V): void {
    const { keys, count } = this;
    this.put(at, hi, lo, value, null);
    for (let i = LASTS + 2 * count - 1; i >= LASTS + 2 * at; i--) keys[i + 2] = keys[i]!;
    keys[LASTS + 2 * at] = lastHi;
    keys[LASTS + 2 * at + 1] = lastLo;
  }

  /** Puts one key and its value or child at index `at`; there must be room. */
  put(at: number, hi: number, lo: number, value: V | null, child: Node<V> | null): void {
    const { keys, count } = this;
    if (child === null) openSlot(this.values, at, count, value);
    else openSlot(this.children, at, count, child);
    for (let i = 2 * count - 1; i >= 2 * at; i--) keys[i + 2] = keys[i]!;
    keys[2 * at] = hi;
    keys[2 * at + 1] = lo;
    this.count = count + 1;
  }

  remove(at: number): void {
    const { keys, count } = this;
    if (this.values.length > 0) {
      closeSlot(this.values, at, count);
      for (let i = LASTS + 2 * at; i < LASTS + 2 * count - 2; i++) keys[i] = keys[i + 2]!;
    } else {
      closeSlot(this.children, at, count);
    }
    for (let i = 2 * at; i < 2 * count - 2; i++) keys[i] = keys[i + 2]!;
    this.count = count - 1;
  }

  /** Moves what stands at index `from` and above to the end of `to`. */
  moveTail(from: number, to: Node<V>): void {
    const moved = this.count - from;
    to.keys.set(this.keys.subarray(2 * from, 2 * this.count), 2 * to.count);
    const leaf = this.values.length > 0;
    if (leaf) {
      const lasts = this.keys.subarray(LASTS + 2 * from, LASTS + 2 * this.count);
      to.keys.set(lasts, LASTS + 2 * to.count);
    }
    for (let i = 0; i < moved; i++) {
      if (leaf) {
        to.values[to.count + i] = this.values[from + i]!;
        this.values[from + i] = null;
      } else {
        to.children[to.count + i] = this.children[from + i]!;
        this.children[from + i] = null;
      }
    }
    to.count += moved;
    this.count = from;
  }
}

function openSlot<T>(slots: (T | null)[], at: number, count: number, item: T | null): void {
  for (let i = count; i > at; i--) slots[i] = slots[i - 1]!;
  slots[at] = item;
}

function closeSlot<T>(slots: (T | null)[], at: number, count: number): void {
  for (let i = at; i < count - 1; i++) slots[i] = slots[i + 1]!;
  slots[count - 1] = null;
}

// The leaf of every map that holds nothing: most never hold anything, and a leaf of one's own costs half a microsecond.
const NOTHING = new Node<never>(true);

function nothing<V>(): Node<V> {
  return NOTHING as Node<unknown> as Node<V>;
}

/**
 * An ordered map from disjoint inclusive ranges of u64 to the values that carry them: the area tree of an IOAS
 * (drivers/iommu/iommufd/io_pagetable.h struct io_pagetable area_itree). Every operation takes O(log size).
 */
export class RangeMap<V extends Entry> {
  private count = 0;
  private root = nothing<V>();
  /** Levels of inner nodes above the leaves. */
  private height = 0;
  // The last descent: inner nodes and the child taken in each from the root down, the leaf, and the index in it of the
  // first key above the one looked for.
  private readonly path: Node<V>[] = [];
  private readonly taken: number[] = [];
  private leaf = this.root;
  private at = 0;
  // Its key, while nothing has changed since: an insert usually follows a look at the same place.
  private fresh = false;
  private lastHi = 0;
  private lastLo = 0;
  // Where the last value that was handed out stood. A slot that still holds the same value is still its place, since
  // slots out of use are null.
  private hintLeaf = this.root;
  private hintAt = 0;

  /** The number of values. */
  get size(): number {
    return this.count;
  }

  /** Adds a value. It must overlap none that is here. */
  insert(value: V): void {
    assert(value.start <= value.last, 'a range must not end before it starts');
    if (this.root === nothing<V>()) {
      this.root = new Node<V>(true);
      this.fresh = false;
    }
    this.descend(value.start);
    const hi = halves[HI]! ^ SIGN;
    const lo = halves[LO]! ^ SIGN;
    word[0] = value.last;
    const lastHi = halves[HI]! ^ SIGN;
    const lastLo = halves[LO]! ^ SIGN;
    assert(!this.seekBefore() || !this.endsAtOrAbove(hi, lo), 'ranges of a RangeMap must be disjoint');
    assert(
      !this.seekAfter() || !this.startsAtOrBelow(lastHi, lastLo),
      'ranges of a RangeMap must be disjoint',
    );
    const { leaf, at } = this;
    if (leaf.count < CAPACITY) leaf.putValue(at, hi, lo, lastHi, lastLo, value);
    else this.splitLeaf(leaf, at, hi, lo, lastHi, lastLo, value);
    this.fresh = false;
    this.count++;
  }

  /** Removes a value, which must be here. */
  delete(value: V): void {
    const { hintLeaf, hintAt } = this;
    this.fresh = false;
    if (hintLeaf.values[hintAt] === value && hintLeaf.count > MERGE_BELOW) {
      hintLeaf.remove(hintAt);
      this.count--;
      return;
    }
    this.descend(value.start);
    const at = this.at - 1;
    assert(
      at >= 0 && this.leaf.values[at]!.start === value.start,
      'the range to delete is not in the RangeMap',
    );
    this.fresh = false;
    this.leaf.remove(at);
    this.count--;
    if (this.leaf.count < MERGE_BELOW && this.height > 0) this.shrink();
  }

  /** The lowest value that overlaps the inclusive range. */
  first(start: bigint, last: bigint): V | null {
    this.descend(start);
    if (this.seekBefore() && this.endsAtOrAbove(halves[HI]! ^ SIGN, halves[LO]! ^ SIGN)) return this.hinted();
    return this.afterUpTo(last);
  }

  /** The value that follows `value` and starts at or below `last`. `value` itself may have been deleted meanwhile. */
  next(value: V, last: bigint): V | null {
    const { hintLeaf, hintAt } = this;
    if (hintLeaf.values[hintAt] === value && hintAt + 1 < hintLeaf.count) {
      word[0] = last;
      this.hintAt = hintAt + 1;
      return this.startsAtOrBelow(halves[HI]! ^ SIGN, halves[LO]! ^ SIGN) ? this.hinted() : null;
    }
    this.descend(value.start);
    return this.afterUpTo(last);
  }

  /** The value whose range holds `at`. */
  find(at: bigint): V | null {
    this.descend(at);
    const found = this.seekBefore() && this.endsAtOrAbove(halves[HI]! ^ SIGN, halves[LO]! ^ SIGN);
    return found ? this.hinted() : null;
  }

  /** All values, ascending. The map may change meanwhile. */
  *[Symbol.iterator](): Iterator<V> {
    for (let value = this.first(0n, U64_MAX); value !== null; value = this.next(value, U64_MAX)) yield value;
  }

  /** What no value covers within the inclusive range, ascending. */
  *holes(start: bigint, last: bigint): Generator<Range, void> {
    let from = start;
    for (let value = this.first(start, last); value !== null; value = this.next(value, last)) {
      if (value.start > from) yield { start: from, last: value.start - 1n };
      if (value.last >= last) return;
      from = value.last + 1n;
    }
    if (from <= last) yield { start: from, last };
  }

  /** Removes everything. */
  clear(): void {
    this.root = nothing<V>();
    this.leaf = this.root;
    this.hintLeaf = this.root;
    this.path.length = 0;
    this.taken.length = 0;
    this.height = 0;
    this.count = 0;
    this.fresh = false;
  }

  /** Sets `leaf` and `at` to the first key above `key`, and leaves the halves of `key` in `halves`. */
  private descend(key: bigint): void {
    word[0] = key;
    const hi = halves[HI]! ^ SIGN;
    const lo = halves[LO]! ^ SIGN;
    if (this.fresh && hi === this.lastHi && lo === this.lastLo) return;
    this.fresh = true;
    this.lastHi = hi;
    this.lastLo = lo;
    let node = this.root;
    for (let level = 0; level < this.height; level++) {
      const index = node.upperBound(1, hi, lo) - 1;
      this.path[level] = node;
      this.taken[level] = index;
      node = node.children[index]!;
    }
    this.leaf = node;
    this.at = node.upperBound(0, hi, lo);
  }

  private hinted(): V | null {
    return this.hintLeaf.values[this.hintAt]!;
  }

  /** Whether the hinted value ends at (hi, lo) or above. */
  private endsAtOrAbove(hi: number, lo: number): boolean {
    const { keys } = this.hintLeaf;
    const index = LASTS + 2 * this.hintAt;
    const lastHi = keys[index]!;
    return lastHi > hi || (lastHi === hi && keys[index + 1]! >= lo);
  }

  /** Whether the hinted value starts at (hi, lo) or below. */
  private startsAtOrBelow(hi: number, lo: number): boolean {
    const { keys } = this.hintLeaf;
    const index = 2 * this.hintAt;
    const startHi = keys[index]!;
    return startHi < hi || (startHi === hi && keys[index + 1]! <= lo);
  }

  /** The value above the key of the last descent, if it starts at or below `last`. */
  private afterUpTo(last: bigint): V | null {
    word[0] = last;
    return this.seekAfter() && this.startsAtOrBelow(halves[HI]! ^ SIGN, halves[LO]! ^ SIGN)
      ? this.hinted()
      : null;
  }

  /** Hints at the highest key that the last descent found at or below its key; false where there is none. */
  private seekBefore(): boolean {
    let { leaf, at } = this;
    if (at === 0) {
      const left = this.leafBeside(-1);
      if (left === null) return false;
      leaf = left;
      at = left.count;
    }
    this.hintLeaf = leaf;
    this.hintAt = at - 1;
    return true;
  }

  /** Hints at the lowest key above the one of the last descent; false where there is none. */
  private seekAfter(): boolean {
    let { leaf, at } = this;
    if (at === leaf.count) {
      const right = this.leafBeside(1);
      if (right === null) return false;
      leaf = right;
      at = 0;
    }
    this.hintLeaf = leaf;
    this.hintAt = at;
    return true;
  }

  /** The leaf before (-1) or after (1) the one of the last descent. */
  private leafBeside(step: -1 | 1): Node<V> | null {
    for (let level = this.height - 1; level >= 0; level--) {
      const index = this.taken[level]! + step;
      const parent = this.path[level]!;
      if (index < 0 || index >= parent.count) continue;
      let node = parent.children[index]!;
      for (let below = level + 1; below < this.height; below++) {
        node = node.children[step < 0 ? node.count - 1 : 0]!;
      }
      return node;
    }
    return null;
  }

  /** Inserts into a full leaf. Runs of ascending or descending ranges fill their leaves instead of halving them. */
  private splitLeaf(
    leaf: Node<V>,
    at: number,
    hi: number,
    lo: number,
    lastHi: number,
    lastLo: number,
    value: V,
  ): void {
    const cut = at === CAPACITY ? CAPACITY : at === 0 ? 0 : CAPACITY / 2;
    const right = new Node<V>(true);
    leaf.moveTail(cut, right);
    if (at < CAPACITY && at <= cut) leaf.putValue(at, hi, lo, lastHi, lastLo, value);
    else right.putValue(at - cut, hi, lo, lastHi, lastLo, value);
    this.addChild(this.height - 1, right.keys[0]!, right.keys[1]!, right);
  }

  /** Puts `child` behind the one that the last descent took at `level`. */
  private addChild(level: number, hi: number, lo: number, child: Node<V>): void {
    if (level < 0) {
      const root = new Node<V>(false);
      root.put(0, 0, 0, null, this.root);
      root.put(1, hi, lo, null, child);
      this.root = root;
      this.height++;
      return;
    }
    const parent = this.path[level]!;
    const at = this.taken[level]! + 1;
    if (parent.count < CAPACITY) {
      parent.put(at, hi, lo, null, child);
      return;
    }
    const cut = at === CAPACITY ? CAPACITY - 1 : CAPACITY / 2;
    const right = new Node<V>(false);
    parent.moveTail(cut, right);
    if (at <= cut) parent.put(at, hi, lo, null, child);
    else right.put(at - cut, hi, lo, null, child);
    this.addChild(level - 1, right.keys[0]!, right.keys[1]!, right);
  }

  /** Merges or drops nodes on the path of the last descent, from the leaf up, for as long as they are too empty. */
  private shrink(): void {
    let node = this.leaf;
    for (let level = this.height - 1; level >= 0; level--) {
      const parent = this.path[level]!;
      const at = this.taken[level]!;
      if (node.count === 0) parent.remove(at);
      else if (node.count >= MERGE_BELOW || !this.mergeBeside(parent, at)) break;
      node = parent;
    }
    while (this.height > 0 && this.root.count <= 1) {
      this.root = this.root.count === 1 ? this.root.children[0]! : new Node<V>(true);
      this.height = this.root.values.length > 0 ? 0 : this.height - 1;
      this.path.length = this.height;
    }
  }

  /** Merges child `at` of `parent` with the child before or after it. False where neither leaves room to spare. */
  private mergeBeside(parent: Node<V>, at: number): boolean {
    for (const left of [at - 1, at]) {
      if (left < 0 || left + 1 >= parent.count) continue;
      const into = parent.children[left]!;
      const from = parent.children[left + 1]!;
      if (into.count + from.count > MERGED_MAX) continue;
      // A lower bound stands in the parent; the one inside `from` was never kept up.
      from.keys[0] = from.values.length > 0 ? from.keys[0]! : parent.keys[2 * left + 2]!;
      from.keys[1] = from.values.length > 0 ? from.keys[1]! : parent.keys[2 * left + 3]!;
      from.moveTail(0, into);
      parent.remove(left + 1);
      return true;
    }
    return false;
  }
}
