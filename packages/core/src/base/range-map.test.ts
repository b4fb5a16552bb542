import { expect, test } from 'vitest';
import fc from 'fast-check';
import { RangeMap, type Entry } from './range-map.ts';
import { U64_MAX } from './u64.ts';

interface Named extends Entry {
  readonly name: number;
}

const entry = (start: bigint, last: bigint, name = 0): Named => ({ start, last, name });

/** u64s near powers of two, page edges and both ends. */
const u64 = fc
  .tuple(
    fc.constantFrom(0n, 12n, 21n, 31n, 32n, 33n, 47n, 62n, 63n, 64n),
    fc.bigInt(-64n, 64n),
    fc.bigInt(0n, 3n),
  )
  .map(([shift, delta, pages]) => BigInt.asUintN(64, (1n << shift) + delta + pages * 4096n));

class Naive {
  entries: Named[] = [];
  over(start: bigint, last: bigint): Named[] {
    return this.entries.filter((e) => e.start <= last && start <= e.last);
  }
  add(e: Named): void {
    this.entries.push(e);
    this.entries.sort((a, b) => (a.start < b.start ? -1 : 1));
  }
  holes(start: bigint, last: bigint): { start: bigint; last: bigint }[] {
    const out = [];
    let from = start;
    for (const e of this.over(start, last)) {
      if (e.start > from) out.push({ start: from, last: e.start - 1n });
      from = e.last + 1n;
    }
    if (from <= last) out.push({ start: from, last });
    return out;
  }
}

function walk(map: RangeMap<Named>, start: bigint, last: bigint): Named[] {
  const out: Named[] = [];
  for (let e = map.first(start, last); e !== null; e = map.next(e, last)) out.push(e);
  return out;
}

function compare(map: RangeMap<Named>, naive: Naive, start: bigint, last: bigint): void {
  expect(map.first(start, last)).toBe(naive.over(start, last)[0] ?? null);
  expect(map.find(start)).toBe(naive.over(start, start)[0] ?? null);
  expect(map.size).toBe(naive.entries.length);
}

test('any sequence of inserts and deletes answers as a sorted array does', () => {
  const step = fc.tuple(fc.constantFrom('insert', 'insert', 'delete', 'look'), u64, u64);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300, size: 'max' }), (steps) => {
      const map = new RangeMap<Named>();
      const naive = new Naive();
      steps.forEach(([what, a, b], name) => {
        const [start, last] = a <= b ? [a, b] : [b, a];
        const over = naive.over(start, last);
        compare(map, naive, start, last);
        if (what === 'insert') {
          const narrow = over.length === 0 ? entry(start, last, name) : entry(start, start, name);
          if (naive.over(narrow.start, narrow.last).length > 0) return;
          map.insert(narrow);
          naive.add(narrow);
        } else if (what === 'delete' && over[0]) {
          map.delete(over[0]);
          naive.entries = naive.entries.filter((e) => e !== over[0]);
        } else {
          expect(walk(map, start, last)).toEqual(over);
          expect([...map.holes(start, last)]).toEqual(naive.holes(start, last));
        }
      });
      expect([...map]).toEqual(naive.entries);
      expect([...map.holes(0n, U64_MAX)]).toEqual(naive.holes(0n, U64_MAX));
    }),
    { numRuns: 200 },
  );
});

test('many levels grow and shrink away in any order, with every neighbour right on the way', () => {
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom('random', 'ascending', 'descending'), (seed, order) => {
      const count = 6000;
      let state = seed | 1;
      const random = (below: number): number => {
        state = Math.imul(state, 1664525) + 1013904223;
        return Math.floor(((state >>> 0) / 2 ** 32) * below);
      };
      const shuffled = (): number[] => {
        const order = Array.from({ length: count }, (_, i) => i);
        for (let i = count - 1; i > 0; i--) {
          const j = random(i + 1);
          [order[i], order[j]] = [order[j]!, order[i]!];
        }
        return order;
      };
      const all = Array.from({ length: count }, (_, i) =>
        entry(BigInt(i) << 51n, (BigInt(i) << 51n) + 0xfffn, i),
      );
      const map = new RangeMap<Named>();
      const inserts =
        order === 'random' ? shuffled() : all.map((_, i) => (order === 'ascending' ? i : count - 1 - i));
      const here = new Set<number>();
      for (const i of inserts) {
        map.insert(all[i]!);
        here.add(i);
      }
      expect([...map]).toEqual(all);
      for (const i of shuffled()) {
        if (random(2) === 0) expect(map.find(all[i]!.last)).toBe(all[i]!);
        map.delete(all[i]!);
        here.delete(i);
        expect(map.find(all[i]!.start)).toBeNull();
        const next = map.next(all[i]!, U64_MAX);
        let j = i + 1;
        while (j < count && !here.has(j)) j++;
        if (here.size > 200) expect(next?.name ?? count).toBe(j);
        if (here.size % 500 === 0) {
          expect([...map].map((e) => e.name)).toEqual([...here].sort((a, b) => a - b));
          const back = all[random(count)]!;
          if (!here.has(back.name)) {
            map.insert(back);
            map.delete(back);
          }
        }
      }
      expect(map.size).toBe(0);
      expect([...map]).toEqual([]);
    }),
    { numRuns: 9 },
  );
});

test('a key below a separator that outlived its value is still found after inner nodes merged', () => {
  const map = new RangeMap<Named>();
  const at = (i: number): Named => entry(BigInt(i) * 16n, BigInt(i) * 16n + 3n, i);
  const values = Array.from({ length: 5000 }, (_, i) => at(i));
  for (const value of values) map.insert(value);
  const kept = values.filter((_, i) => i % 61 === 60);
  for (const value of values) if (!kept.includes(value)) map.delete(value);
  const between = values.filter((_, i) => i % 61 === 59);
  for (const value of between) map.insert(value);
  expect([...map]).toEqual([...kept, ...between].sort((a, b) => a.name - b.name));
  for (const value of between) expect(map.find(value.last)).toBe(value);
});

test('the whole of u64 is one range and leaves no hole', () => {
  const map = new RangeMap<Named>();
  expect([...map.holes(0n, U64_MAX)]).toEqual([{ start: 0n, last: U64_MAX }]);
  const all = entry(0n, U64_MAX);
  map.insert(all);
  expect(map.find(U64_MAX)).toBe(all);
  expect([...map.holes(0n, U64_MAX)]).toEqual([]);
  map.clear();
  expect(map.size).toBe(0);
  expect(map.first(0n, U64_MAX)).toBeNull();
});

test('an overlapping insert, a range that ends before it starts and an absent delete are broken invariants', () => {
  const map = new RangeMap<Named>();
  map.insert(entry(0x1000n, 0x1fffn));
  expect(() => map.insert(entry(0x1fffn, 0x2fffn))).toThrow('disjoint');
  expect(() => map.insert(entry(0n, 0x1000n))).toThrow('disjoint');
  expect(() => map.insert(entry(0x1000n, 0x1fffn))).toThrow('disjoint');
  expect(() => map.insert(entry(0x3000n, 0x2fffn))).toThrow('starts');
  expect(() => map.delete(entry(0x1001n, 0x1fffn))).toThrow('not in');
  expect(map.size).toBe(1);
});

test('a walk goes on after the value it stands on was deleted', () => {
  const map = new RangeMap<Named>();
  const values = Array.from({ length: 1000 }, (_, i) =>
    entry(BigInt(i) * 4096n, BigInt(i) * 4096n + 4095n, i),
  );
  for (const value of values) map.insert(value);
  const seen: number[] = [];
  for (const value of map) {
    seen.push(value.name);
    map.delete(value);
  }
  expect(seen).toEqual(values.map((_, i) => i));
  expect(map.size).toBe(0);
});
