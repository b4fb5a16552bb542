import { expect, test } from 'vitest';
import fc from 'fast-check';
import { RangeSet, type OwnedRange } from './range-set.ts';
import type { Range } from './range.ts';
import { U64_MAX } from './u64.ts';

type Owned = OwnedRange<string>;

/** Few distinct u64s, so that ranges touch, nest and repeat; both ends among them. */
const u64 = fc
  .tuple(fc.constantFrom(0n, 16n, 1n << 32n, 1n << 63n, U64_MAX), fc.bigInt(-5n, 5n))
  .map(([base, delta]) => {
    const sum = base + delta;
    return sum < 0n ? 0n : sum > U64_MAX ? U64_MAX : sum;
  });
const range = fc.tuple(u64, u64).map(([a, b]) => (a <= b ? { start: a, last: b } : { start: b, last: a }));

/** Holes as the complement, found by asking of every edge and its neighbours. */
function naiveHoles(all: readonly Owned[], start: bigint, last: bigint): Range[] {
  const covered = (at: bigint): boolean => all.some((r) => r.start <= at && at <= r.last);
  const edges = new Set([start, last]);
  for (const r of all) for (const edge of [r.start - 1n, r.start, r.last, r.last + 1n]) edges.add(edge);
  const points = [...edges].filter((at) => at >= start && at <= last).sort((a, b) => (a < b ? -1 : 1));
  const out: { start: bigint; last: bigint }[] = [];
  let open = false;
  for (const at of points) {
    if (covered(at)) open = false;
    else if (open) out.at(-1)!.last = at;
    else {
      out.push({ start: at, last: at });
      open = true;
    }
  }
  return out;
}

test('any sequence of adds and removals answers as a sorted array does', () => {
  const owner = fc.constantFrom('a', 'b', 'c');
  const step = fc.tuple(fc.constantFrom('add', 'add', 'add', 'remove'), range, owner, range);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const set = new RangeSet<string>();
      let naive: Owned[] = [];
      for (const [what, { start, last }, by, asked] of steps) {
        if (what === 'add') {
          set.add(start, last, by);
          naive.push({ start, last, owner: by });
          naive.sort((x, y) => (x.start < y.start ? -1 : x.start > y.start ? 1 : 0));
        } else {
          set.removeOwner(by);
          naive = naive.filter((r) => r.owner !== by);
        }
        expect([...set]).toEqual(naive);
        expect(set.size).toBe(naive.length);
        const over = naive.find((r) => r.start <= asked.last && asked.start <= r.last);
        expect(set.firstOverlap(asked.start, asked.last)).toEqual(over ?? null);
        expect([...set.holes(asked.start, asked.last)]).toEqual(naiveHoles(naive, asked.start, asked.last));
      }
    }),
    { numRuns: 500 },
  );
});

test('equal ranges of two owners stand until both owners are removed', () => {
  const set = new RangeSet<number>();
  set.add(0n, U64_MAX, 1);
  set.add(0n, U64_MAX, 2);
  set.removeOwner(1);
  expect(set.firstOverlap(5n, 5n)).toEqual({ start: 0n, last: U64_MAX, owner: 2 });
  set.removeOwner(2);
  expect(set.firstOverlap(0n, U64_MAX)).toBeNull();
  expect([...set.holes(0n, U64_MAX)]).toEqual([{ start: 0n, last: U64_MAX }]);
});

test('a range that ends before it starts is a broken invariant', () => {
  const set = new RangeSet<number>();
  expect(() => set.add(1n, 0n, 1)).toThrow('starts');
  expect(set.size).toBe(0);
});
