import { expect, test } from 'vitest';
import fc from 'fast-check';
import { exact, U64_MAX, wrap64 } from '../../base/u64.ts';
import type { AddressSpace, Vma } from '../../memory/process.ts';
import { MockPageTable } from '../../pagetable/mock.ts';
import { UserBitmap } from './dirty-bitmap.ts';

const PAGE = 4096n;

/** Memory in which every page can be written but those named, filled with a pattern. */
class FakeMemory implements AddressSpace {
  readonly mayMapDevices = false;
  readonly id = 1;
  readonly alive = true;
  lockedPages = 0;
  pinnedPages = 0;
  writes = 0;
  readonly pages = new Map<bigint, Uint8Array>();
  private readonly absent: ReadonlySet<bigint>;
  private readonly pattern: number;

  constructor(absent: Iterable<bigint> = [], pattern = 0) {
    this.absent = new Set(absent);
    this.pattern = pattern;
  }

  usable(page: bigint): boolean {
    return page >= 0n && page < 1n << 35n && !this.absent.has(page);
  }

  page(number: bigint): Uint8Array {
    let bytes = this.pages.get(number);
    if (!bytes) this.pages.set(number, (bytes = new Uint8Array(4096).fill(this.pattern)));
    return bytes;
  }

  read(va: bigint, into: Uint8Array): boolean {
    return this.each(va, into.length, (page, offset, i) => (into[i] = page[offset]!));
  }

  readPinned(va: bigint, into: Uint8Array): boolean {
    return this.read(va, into);
  }

  writePinned(va: bigint, from: Uint8Array): boolean {
    return this.write(va, from);
  }

  gather(): boolean {
    return false;
  }

  write(va: bigint, from: Uint8Array): boolean {
    this.writes++;
    return this.each(va, from.length, (page, offset, i) => (page[offset] = from[i]!));
  }

  mappings(): readonly Vma[] {
    return [];
  }

  /** Every page that is no longer filled with the pattern. */
  changed(): Map<bigint, string> {
    const out = new Map<bigint, string>();
    for (const [number, bytes] of [...this.pages].sort((a, b) => (a[0] < b[0] ? -1 : 1))) {
      const text = [...bytes].flatMap((byte, i) => (byte === this.pattern ? [] : [`${i}:${byte}`])).join(' ');
      if (text !== '') out.set(number, text);
    }
    return out;
  }

  private each(
    va: bigint,
    length: number,
    visit: (page: Uint8Array, offset: number, i: number) => void,
  ): boolean {
    for (let page = va / PAGE; page <= (va + BigInt(length) - 1n) / PAGE; page++) {
      if (!this.usable(page)) return false;
    }
    for (let i = 0; i < length; i++) {
      const at = va + BigInt(i);
      visit(this.page(at / PAGE), exact(at % PAGE), i);
    }
    return true;
  }
}

/** The kernel's way to do it, with a window of pinned pages that moves (iova_bitmap.c). */
class Windowed {
  private readonly shift: bigint;
  private readonly totalBytes: bigint;
  private window: { iova: bigint; length: bigint; page: bigint; pages: bigint; offset: bigint } | null = null;

  private readonly memory: FakeMemory;
  private readonly va: bigint;
  private readonly iova: bigint;
  private readonly length: bigint;

  constructor(memory: FakeMemory, va: bigint, iova: bigint, length: bigint, pageSize: bigint) {
    this.memory = memory;
    this.va = va;
    this.iova = iova;
    this.length = length;
    this.shift = BigInt((pageSize & -pageSize).toString(2).length - 1);
    this.totalBytes = ((length - 1n) >> this.shift) / 8n + 1n;
  }

  set(start: bigint, bytes: bigint): void {
    let [iova, length] = [start, bytes];
    for (;;) {
      const old = this.window;
      const held = old && iova >= old.iova && iova + length - 1n <= old.iova + old.length - 1n;
      if (!held && !this.advance(iova)) return;
      const { iova: base, page, pages, offset } = this.window!;
      let bit = (wrap64(iova - base) >> this.shift) + offset * 8n;
      const last = (wrap64(iova + length - 1n - base) >> this.shift) + offset * 8n;
      while (bit <= last && bit / 32768n < pages) {
        const byte = bit % 8n === 0n && bit + 7n <= last;
        this.memory.page(page + bit / 32768n)[exact((bit / 8n) % PAGE)]! |= byte
          ? 0xff
          : 1 << exact(bit % 8n);
        bit += byte ? 8n : 1n;
      }
      if (bit > last) return;
      const left = (last - bit + 1n) << this.shift;
      iova += length - left;
      length = left;
    }
  }

  private advance(iova: bigint): boolean {
    const index = (wrap64(iova - this.iova) >> this.shift) / 8n;
    if (index >= this.totalBytes) return false;
    this.window = null;
    const address = this.va + index;
    const offset = address % PAGE;
    let want = (this.totalBytes - index + PAGE - 1n) / PAGE + (offset ? 1n : 0n);
    if (want > 512n) want = 512n;
    let pages = 0n;
    while (pages < want && this.memory.usable(address / PAGE + pages)) pages++;
    if (pages === 0n) return false;
    const base = this.iova + ((index * 8n) << this.shift);
    const bytes =
      pages * PAGE - offset < this.totalBytes - index ? pages * PAGE - offset : this.totalBytes - index;
    let length = (bytes * 8n) << this.shift;
    const lastIova = this.iova + this.length - 1n;
    if (base + length - 1n > lastIova) length = lastIova - base + 1n;
    this.window = { iova: base, length, page: address / PAGE, pages, offset };
    return true;
  }
}

const pageSizes = fc.constantFrom(1n, 2048n, 4096n, 0x3000n, 1n << 21n, 1n << 33n);

/** A bitmap of up to a few pages, and records in, around and across it, in units of its page. */
const scenario = fc.record({
  pageSize: pageSizes,
  offset: fc.constantFrom(0n, 1n, 8n, 100n, 4088n, 4095n),
  base: fc.bigInt(0n, 70_000n),
  bits: fc.oneof(fc.bigInt(1n, 100n), fc.bigInt(1n, 120_000n), fc.constantFrom(32768n, 65536n)),
  absent: fc.subarray([0n, 1n, 2n, 3n]),
  records: fc.array(
    fc.tuple(fc.oneof(fc.bigInt(-100n, 300n), fc.bigInt(0n, 130_000n)), fc.bigInt(1n, 40_000n), fc.boolean()),
    { maxLength: 12 },
  ),
});

test('any records leave the memory that the windowed walk of the kernel leaves', () => {
  fc.assert(
    fc.property(scenario, ({ pageSize, offset, base, bits, absent, records }) => {
      const unit = pageSize & -pageSize;
      const va = 0x10000n + offset;
      const range = [va, base * unit, bits * unit, pageSize] as const;
      const absentPages = absent.map((page) => 0x10n + page);
      const [mine, model] = [new FakeMemory(absentPages, 0x10), new FakeMemory(absentPages, 0x10)];
      const bitmap = new UserBitmap(mine, ...range);
      const windowed = new Windowed(model, ...range);
      for (const [at, count, small] of records) {
        const iova = (base + at) * unit;
        if (iova < 0n) continue;
        // A record finer than the bitmap's page, or one of several pages.
        const [start, length] = small && unit > 1n ? [iova + unit / 2n, unit / 2n] : [iova, count * unit];
        bitmap.set(start, length);
        windowed.set(start, length);
      }
      bitmap.flush();
      expect(mine.changed()).toEqual(model.changed());
    }),
    { numRuns: 1500 },
  );
});

test('where a window of 512 pages ends decides how far a record reaches past the bitmap', () => {
  const [mine, model] = [new FakeMemory([0x110n]), new FakeMemory([0x110n])];
  const range = [0x100010n, 0n, (700n << 15n) - (1n << 14n), 1n] as const;
  const bitmap = new UserBitmap(mine, ...range);
  const windowed = new Windowed(model, ...range);
  for (const start of [20n << 15n, 100n << 15n]) {
    bitmap.set(start, 650n << 15n);
    windowed.set(start, 650n << 15n);
  }
  expect(bitmap.flush()).toBe(true);
  expect(mine.changed().size).toBeGreaterThan(600);
  expect(mine.changed()).toEqual(model.changed());
});

test('bits of the program stay, and untouched pages are not written', () => {
  const memory = new FakeMemory([], 0x81);
  const bitmap = new UserBitmap(memory, 0x10000n, 0n, 1n << 30n, 4096n);
  bitmap.set(0x3000n, 0x2000n);
  expect(bitmap.flush()).toBe(true);
  expect(memory.changed()).toEqual(new Map([[0x10n, '0:153']]));
  expect(memory.writes).toBe(1);
  expect(bitmap.flush()).toBe(true);
  expect(memory.writes).toBe(1);
});

test('a page that cannot be written loses its bits and the rest of the record, and flush tells', () => {
  const memory = new FakeMemory([0x11n]);
  const bitmap = new UserBitmap(memory, 0x10000n, 0n, 3n << 15n, 1n);
  bitmap.set(0n, 3n << 15n);
  expect([...memory.changed().keys()]).toEqual([0x10n]);
  bitmap.set(2n << 15n, 1n);
  expect(bitmap.flush()).toBe(false);
  expect([...memory.changed()].at(-1)).toEqual([0x12n, '0:1']);
});

test('a record that begins before the range is lost as a whole', () => {
  const memory = new FakeMemory();
  const bitmap = new UserBitmap(memory, 0x10000n, 0x100000n, 0x100000n, 4096n);
  bitmap.set(0n, 0x200000n);
  expect(bitmap.flush()).toBe(true);
  expect(memory.changed().size).toBe(0);
});

test('a record that reaches past the range sets bits behind the end of the bitmap', () => {
  const memory = new FakeMemory();
  const bitmap = new UserBitmap(memory, 0x10000n, 0n, 8n * 4096n, 4096n);
  bitmap.set(0n, 32n * 4096n);
  bitmap.flush();
  expect(memory.changed()).toEqual(new Map([[0x10n, '0:255 1:255 2:255 3:255']]));
});

test('a bitmap outside of any memory is a fault and nothing else', () => {
  for (const va of [1n << 60n, U64_MAX]) {
    const memory = new FakeMemory();
    const bitmap = new UserBitmap(memory, va, 0n, U64_MAX, 1n);
    bitmap.set(0n, 100n);
    bitmap.set(U64_MAX - 200n, 100n);
    expect(bitmap.flush()).toBe(false);
    expect(memory.changed().size).toBe(0);
  }
});

test('the bits of a page table arrive in the bitmap', () => {
  const memory = new FakeMemory();
  const table = new MockPageTable();
  table.map(0n, 2 ** 30, 0x200000n, 3);
  table.map(0x200000n, 2 ** 40 + 4096, 0x8000n, 3);
  table.setDirty(0x12345n);
  table.setDirty(0x203000n);
  const bitmap = new UserBitmap(memory, 0x10004n, 0n, 0x400000n, 4096n);
  const whole = bitmap.forEach((iova, length) => {
    table.readAndClearDirty(iova, length, true, (at, bytes) => bitmap.set(at, bytes));
  });
  expect(whole).toBe(true);
  const page = memory.page(0x10n);
  expect(page.subarray(0, 4)).toEqual(new Uint8Array(4));
  expect(page.subarray(4, 68)).toEqual(new Uint8Array(64).fill(0xff));
  expect(page.subarray(68, 70)).toEqual(Uint8Array.of(0x08, 0));
});
