import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ANY_SPACE, CacheDomain, TagNumbers, TranslationCache, addressRange } from './cache.ts';

const SPACE = 5;
const OTHER = 6;

/** What a cache must do, without any structure: entries in a list. */
class Plain {
  entries: { domain: number; space: number; start: bigint; size: number; info: number }[] = [];

  insert(domain: number, space: number, address: bigint, size: number, info: number): void {
    const start = (address >> BigInt(size)) << BigInt(size);
    this.entries = this.entries.filter(
      (each) =>
        !(each.domain === domain && each.space === space && each.start === start && each.size === size),
    );
    this.entries.push({ domain, space, start, size, info });
  }

  /** The smallest entry that covers the address. */
  lookup(domain: number, space: number, other: number, address: bigint): number {
    const covering = this.entries.filter(
      (each) =>
        each.domain === domain &&
        (each.space === space || each.space === other) &&
        covers(each, address, address),
    );
    return Math.min(...covering.map((each) => each.size), 99);
  }

  remove(
    domain: number,
    spaces: readonly number[] | null,
    first: bigint,
    last: bigint,
    mask: number,
    value: number,
  ): void {
    this.entries = this.entries.filter(
      (each) =>
        each.domain !== domain ||
        !(spaces === null || spaces.includes(each.space)) ||
        (each.info & mask) !== value ||
        !covers(each, first, last),
    );
  }
}

function covers(entry: { start: bigint; size: number }, first: bigint, last: bigint): boolean {
  return entry.start <= last && entry.start + (1n << BigInt(entry.size)) > first;
}

const hi = (address: bigint): number => Number(BigInt.asIntN(32, address >> 32n));
const lo = (address: bigint): number => Number(BigInt.asIntN(32, address));

const sizes = fc.constantFrom(12, 14, 16, 21, 25, 29, 30, 39, 47);
/** Addresses that meet one another, in both halves of the address space. */
const addresses = fc
  .tuple(
    fc.constantFrom(0n, 0x4000_0000n, 0xffff_f000n, 0xffff_8000_0000_0000n, 0xffff_ffff_ffff_0000n),
    fc.bigInt(0n, 0xf_ffffn),
  )
  .map(([base, offset]) => BigInt.asUintN(64, base + offset));
const spaces = fc.constantFrom(SPACE, OTHER, 7);
const steps = fc.array(
  fc.oneof(
    fc.record({
      op: fc.constant('insert' as const),
      space: spaces,
      address: addresses,
      size: sizes,
      info: fc.nat(15),
    }),
    fc.record({ op: fc.constant('lookup' as const), space: spaces, address: addresses }),
    fc.record({
      op: fc.constant('address' as const),
      space: fc.option(spaces),
      address: addresses,
      mask: fc.constantFrom(0, 3, 15),
    }),
    fc.record({
      op: fc.constant('range' as const),
      space: fc.option(spaces),
      address: addresses,
      pages: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 2 ** 40 })),
    }),
    fc.record({ op: fc.constant('renew' as const) }),
  ),
  { maxLength: 60 },
);

describe('a translation cache', () => {
  it('is as a plain list of entries, as long as there is room', () => {
    fc.assert(
      fc.property(steps, (all) => {
        const cache = new TranslationCache(4096);
        const numbers = new TagNumbers();
        const domain = new CacheDomain(numbers.take());
        const plain = new Plain();
        let generation = 0;
        for (const step of all) {
          if (step.op === 'insert') {
            const slot = cache.insert(domain, step.space, hi(step.address), lo(step.address), step.size);
            cache.info[slot] = step.info;
            plain.insert(generation, step.space, step.address, step.size, step.info);
          } else if (step.op === 'lookup') {
            const slot = cache.lookup(domain, step.space, OTHER, hi(step.address), lo(step.address));
            const size = plain.lookup(generation, step.space, OTHER, step.address);
            expect(slot < 0 ? 99 : cache.sizeOf(slot)).toBe(size);
          } else if (step.op === 'address') {
            const space = step.space ?? ANY_SPACE;
            const filter = { mask: step.mask, value: 1 & step.mask };
            cache.removeAddress(domain, space, OTHER, 0, hi(step.address), lo(step.address), filter);
            const which = step.space === null ? null : [step.space, OTHER];
            plain.remove(generation, which, step.address, step.address, filter.mask, filter.value);
          } else if (step.op === 'range') {
            const space = step.space ?? ANY_SPACE;
            const range = addressRange(hi(step.address), lo(step.address & ~0xfffn), step.pages * 4096);
            cache.removeRange(domain, space, OTHER, 0, range);
            const first = step.address & ~0xfffn;
            const last = first + BigInt(step.pages) * 4096n - 1n;
            const end = last > 0xffff_ffff_ffff_ffffn ? 0xffff_ffff_ffff_ffffn : last;
            plain.remove(generation, step.space === null ? null : [step.space, OTHER], first, end, 0, 0);
          } else {
            domain.renew(numbers.take());
            generation++;
          }
        }
        const alive = plain.entries.filter((each) => each.domain === generation);
        for (const each of alive) {
          expect(cache.lookup(domain, each.space, 0, hi(each.start), lo(each.start))).toBeGreaterThanOrEqual(
            0,
          );
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('never answers for what was not put in, however full it is', () => {
    const cache = new TranslationCache(64);
    const domain = new CacheDomain(1);
    const kept = new Map<number, number>();
    for (let page = 0; page < 4096; page++) kept.set(cache.insert(domain, SPACE, 0, page << 12, 12), page);
    let hits = 0;
    for (let page = 0; page < 4096; page++) {
      const slot = cache.lookup(domain, SPACE, 0, 0, page << 12);
      if (slot < 0) continue;
      expect(kept.get(slot)).toBe(page);
      hits++;
    }
    expect(hits).toBeLessThanOrEqual(cache.capacity);
    expect(hits).toBeGreaterThan(cache.capacity / 2);
  });

  it('has room for pages that follow one another, wherever they begin, up to three quarters of its slots', () => {
    fc.assert(
      fc.property(fc.nat(0xf_ffff), fc.constantFrom(0, 1, -1), (start, upper) => {
        const cache = new TranslationCache(256);
        const domain = new CacheDomain(1);
        for (let page = start; page < start + 192; page++) cache.insert(domain, SPACE, upper, page << 12, 12);
        for (let page = start; page < start + 192; page++)
          expect(cache.lookup(domain, SPACE, 0, upper, page << 12)).toBeGreaterThanOrEqual(0);
      }),
      { numRuns: 500 },
    );
  });

  it('has room for the same pages of as many domains as it has ways', () => {
    const cache = new TranslationCache(256);
    const domains = [1, 2, 3, 4].map((id) => new CacheDomain(id));
    for (const domain of domains)
      for (let page = 0x40; page < 0x80; page++) cache.insert(domain, SPACE, 0, page << 12, 12);
    for (const domain of domains)
      for (let page = 0x40; page < 0x80; page++)
        expect(cache.lookup(domain, SPACE, 0, 0, page << 12)).toBeGreaterThanOrEqual(0);
  });

  it('tells of what gives way, and of nothing else', () => {
    const cache = new TranslationCache(4);
    const domain = new CacheDomain(1);
    const gone: number[] = [];
    cache.onEvict = (slot) => gone.push(cache.addressLo(slot));
    for (let page = 1; page <= 5; page++) cache.insert(domain, SPACE, 0, page << 12, 12);
    expect(gone.length).toBe(1);
    expect(gone[0]).toBeLessThan(0x5000);
    cache.insert(domain, SPACE, 0, 0x5000, 12);
    expect(gone.length).toBe(1);
  });

  it('probes one set per size for an address, however full it is', () => {
    const work = (entries: number): number => {
      const cache = new TranslationCache(1 << 14);
      const domain = new CacheDomain(1);
      for (const size of [12, 21]) {
        for (let page = 0; page < entries; page++)
          cache.insert(domain, SPACE, page >>> 11, page << size, size);
      }
      cache.removeAddress(domain, SPACE, 0, 0, 0, 7 << 12);
      return cache.probed;
    };
    expect([work(10), work(16_000)]).toEqual([8, 8]);
  });

  it('empties a domain without looking at it', () => {
    const cache = new TranslationCache(1 << 14);
    const domain = new CacheDomain(1);
    for (let page = 0; page < 16_000; page++) cache.insert(domain, SPACE, 0, page << 12, 12);
    domain.renew(2);
    expect([cache.lookup(domain, SPACE, 0, 0, 0x1000), cache.probed]).toEqual([-1, 0]);
  });

  it('looks at no more slots for a range than it has', () => {
    const cache = new TranslationCache(64);
    const domain = new CacheDomain(1);
    for (const size of [12, 21, 30]) cache.insert(domain, SPACE, 0, 0x4000_0000, size);
    expect(cache.removeRange(domain, SPACE, 0, 0, addressRange(0, 0, 2 ** 52))).toBe(3);
    expect(cache.probed).toBe(64);
  });
});

describe('answers', () => {
  const none = { pa: -1, bytes: -1 };

  it('say where an address leads and how far, and are what the entry says under the mask', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 12, max: 30 }),
        fc.bigInt({ min: 0n, max: (1n << 57n) - 1n }),
        fc.bigInt({ min: 0n, max: (1n << 52n) - 1n }),
        (size, address, to) => {
          const cache = new TranslationCache(16);
          const domain = new CacheDomain(3);
          const [hi, lo] = [Number(address >> 32n) | 0, Number(BigInt.asIntN(32, address))];
          const bits = BigInt(size);
          const out = (to >> bits) << bits;
          const slot = cache.insert(domain, SPACE, hi, lo, size);
          cache.fill(slot, Number(out >> 32n), Number(BigInt.asIntN(32, out)), 0b1011);
          const found = { ...none };
          expect(cache.answer(domain, SPACE, 0, hi, lo, 0b0110, 0b0010, found)).toBe(0b1011);
          const offset = address & ((1n << bits) - 1n);
          expect(found).toEqual({ pa: Number(out + offset), bytes: Number((1n << bits) - offset) });
          for (const [space, mask, value] of [
            [OTHER, 0b0110, 0b0010],
            [SPACE, 0b0110, 0b0110],
          ] as const) {
            expect(cache.answer(domain, space, 0, hi, lo, mask, value, { ...none })).toBe(0);
          }
          expect(cache.answer(domain, OTHER, SPACE, hi, lo, 1, 1, { ...none })).toBe(0b1011);
          domain.renew(4);
          expect(cache.answer(domain, SPACE, 0, hi, lo, 1, 1, { ...none })).toBe(0);
        },
      ),
    );
  });

  it('are given by nothing that was never there', () => {
    const cache = new TranslationCache(16);
    for (const id of [-1, 1]) {
      expect(cache.answer(new CacheDomain(id), -1, 0, 0, 0, 1, 1, { ...none })).toBe(0);
    }
  });
});

describe('address ranges', () => {
  it('end at the top of the address space', () => {
    expect(addressRange(-1, -4096, 8192)).toMatchObject({ lastHi: -1, lastLo: -1 });
    expect(addressRange(0, 0, 4096)).toMatchObject({ lastHi: 0, lastLo: 4095 });
    expect(addressRange(0, -4096, 8192)).toMatchObject({ lastHi: 1, lastLo: 4095 });
  });
});

describe('tags', () => {
  it('never come twice, until they are given up', () => {
    const numbers = new TagNumbers(10);
    expect([numbers.take(), numbers.take(), numbers.low]).toEqual([10, 11, false]);
    numbers.reset();
    expect(numbers.take()).toBe(10);
  });
});
