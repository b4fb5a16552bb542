import { expect, test } from 'vitest';
import fc from 'fast-check';
import { EADDRINUSE, EINVAL, ENXIO, EOVERFLOW, ERANGE } from '../abi/errno.ts';
import { Failure } from '../base/result.ts';
import { big, exact, U64_MAX } from '../base/u64.ts';
import { MockPageTable, type MockEntry } from './mock.ts';

const RW = 3;
const KIB = 1024n;
const MIB = 1024n * KIB;
const GIB = 1024n * MIB;

function errno(result: unknown): number | undefined {
  return result instanceof Failure ? result.errno : undefined;
}

/** Cuts a range as generic_pt does: a page size, how many of it, then the next (pt_pgsz_count()). */
function cut(sizes: readonly bigint[], iova: bigint, pa: bigint, length: bigint): bigint[] {
  const out: bigint[] = [];
  let [at, oa, left] = [iova, pa, length];
  while (left > 0n) {
    const size = sizes.findLast((s) => at % s === 0n && oa % s === 0n && s <= left)!;
    const next = sizes.find((s) => s > size);
    let span = left;
    if (next !== undefined && (at ^ oa) % next === 0n && next - (at % next) < span) span = next - (at % next);
    const count = span / size;
    for (let i = 0n; i < count; i++) out.push(size);
    at += count * size;
    oa += count * size;
    left -= count * size;
  }
  return out;
}

/** The same table as a list of entries. */
class Naive {
  entries: MockEntry[] = [];
  sizes: bigint[] = [];
  lastIova: bigint;

  constructor(bitmap: bigint, lastIova: bigint) {
    for (let bit = 0n; bit < 64n; bit++) if ((bitmap >> bit) & 1n) this.sizes.push(1n << bit);
    this.lastIova = lastIova;
  }

  at(iova: bigint): MockEntry | undefined {
    return this.entries.find((e) => e.iova <= iova && iova < e.iova + e.length);
  }

  map(iova: bigint, pa: number, length: bigint, prot: number): number | undefined {
    const [smallest] = this.sizes as [bigint];
    if (length === 0n) return EINVAL;
    if (iova + length - 1n > U64_MAX) return EOVERFLOW;
    if ([iova, big(pa), length].some((v) => v % smallest !== 0n)) return ENXIO;
    if (iova + length - 1n > this.lastIova) return ERANGE;
    if (this.entries.some((e) => e.iova < iova + length && iova < e.iova + e.length)) return EADDRINUSE;
    let done = 0n;
    for (const size of cut(this.sizes, iova, big(pa), length)) {
      this.entries.push({ iova: iova + done, length: size, pa: pa + exact(done), prot, dirty: false });
      done += size;
    }
    return undefined;
  }

  unmap(iova: bigint, length: bigint): bigint {
    if (length === 0n || iova + length - 1n > this.lastIova) return 0n;
    let done = 0n;
    while (done < length) {
      const entry = this.entries.find((e) => e.iova === iova + done);
      if (!entry) break;
      this.entries = this.entries.filter((e) => e !== entry);
      done += entry.length;
    }
    return done;
  }

  dirty(iova: bigint, length: bigint, clear: boolean): [bigint, bigint][] {
    const hit = this.entries.filter((e) => e.dirty && e.iova < iova + length && iova < e.iova + e.length);
    if (clear) this.entries = this.entries.map((e) => (hit.includes(e) ? { ...e, dirty: false } : e));
    return hit.map((e): [bigint, bigint] => [e.iova, e.length]).sort((a, b) => (a[0] < b[0] ? -1 : 1));
  }
}

/** Addresses in a few neighbourhoods: the start, a table's edge at each level, the end of the table. */
function addresses(lastIova: bigint): fc.Arbitrary<bigint> {
  const base = fc.constantFrom(0n, 64n * KIB, MIB, 2n * MIB, 512n * MIB, GIB, lastIova + 1n - MIB);
  const delta = fc.tuple(fc.constantFrom(2n * KIB, 4n * KIB, 64n * KIB, 512n * KIB), fc.bigInt(0n, 6n));
  return fc.tuple(base, delta).map(([b, [unit, n]]) => b + unit * n);
}

const lengths = fc
  .tuple(fc.constantFrom(1n, 2n * KIB, 4n * KIB, 64n * KIB, MIB, 512n * MIB), fc.bigInt(0n, 9n))
  .map(([unit, n]) => unit * n);
/** How far physical addresses run from virtual ones: decides the largest common page. */
const skews = fc.constantFrom(0, 2048, 4096, 2 ** 16, 2 ** 20, 2 ** 30, 77);

function step(lastIova: bigint) {
  const what = fc.constantFrom('map', 'map', 'map', 'unmap', 'dirty', 'read', 'look');
  return fc.tuple(what, addresses(lastIova), lengths, skews, fc.constantFrom(1, 2, 3), fc.boolean());
}

type Step = [string, bigint, bigint, number, number, boolean];

function apply(table: MockPageTable, naive: Naive, [what, iova, length, skew, prot, flag]: Step): void {
  if (what === 'map') {
    // Keep the number of pages that the list must hold small: none is larger than the skew is aligned.
    const largest = naive.sizes.at(-1)!;
    const page = skew !== 0 && big(skew & -skew) < largest ? big(skew & -skew) : largest;
    const bytes = length < 100n * page ? length : 100n * page;
    const pa = exact(iova % 2n ** 50n) + skew;
    expect(errno(table.map(iova, pa, bytes, prot))).toBe(naive.map(iova, pa, bytes, prot));
  } else if (what === 'unmap') {
    expect(table.unmap(iova, length)).toBe(naive.unmap(iova, length));
  } else if (what === 'dirty') {
    table.setDirty(iova + big(skew));
    const entry = naive.at(iova + big(skew));
    naive.entries = naive.entries.map((e) => (e === entry ? { ...e, dirty: true } : e));
  } else if (what === 'read') {
    const seen: [bigint, bigint][] = [];
    const answer = table.readAndClearDirty(iova, length, flag, (at, bytes) => seen.push([at, bytes]));
    if (length === 0n) expect(errno(answer)).toBe(EINVAL);
    else if (iova + length - 1n > naive.lastIova) expect(errno(answer)).toBe(ERANGE);
    else expect(seen).toEqual(naive.dirty(iova, length, flag));
  }
  const probe = iova + big(skew);
  const entry = naive.at(probe);
  expect(table.entryAt(probe)).toEqual(entry ?? null);
  expect(table.iovaToPhys(probe)).toBe(entry ? entry.pa + exact(probe - entry.iova) : 0);
  expect(table.empty).toBe(naive.entries.length === 0);
}

function agree(options: { pgsizeBitmap?: bigint; startingLevel?: number }): void {
  const { lastIova } = new MockPageTable(options);
  fc.assert(
    fc.property(fc.array(step(lastIova), { maxLength: 60, size: 'max' }), (steps) => {
      const table = new MockPageTable(options);
      const naive = new Naive(table.pgsizeBitmap, lastIova);
      for (const each of steps) apply(table, naive, each);
      const seen: bigint[] = [];
      table.readAndClearDirty(0n, lastIova + 1n, true, (iova) => seen.push(iova));
      expect(seen).toEqual(naive.dirty(0n, lastIova + 1n, true).map(([iova]) => iova));
      for (const entry of naive.entries) {
        expect(table.entryAt(entry.iova)).toEqual(naive.at(entry.iova));
        expect(table.unmap(entry.iova, 1n)).toBe(entry.length);
      }
      expect(table.empty).toBe(true);
    }),
    { numRuns: 150 },
  );
}

test('any sequence of calls answers as a list of entries does', () => {
  agree({});
});

test('any sequence of calls answers as a list of entries does with 4 KiB and 1 MiB pages only', () => {
  agree({ pgsizeBitmap: MIB | (4n * KIB) });
});

test('any sequence of calls answers as a list of entries does in a table of five levels', () => {
  agree({ startingLevel: 4 });
});

test('the format has every power of two from 2 KiB to half of the table, but never 512 GiB', () => {
  expect(new MockPageTable().pgsizeBitmap).toBe(0x1f_ffff_f800n);
  expect(new MockPageTable().lastIova).toBe(256n * GIB - 1n);
  expect(new MockPageTable({ startingLevel: 3 }).pgsizeBitmap).toBe(0x3f7f_ffff_f800n);
  expect(new MockPageTable({ startingLevel: 3 }).lastIova).toBe(2n ** 47n - 1n);
  expect(new MockPageTable({ startingLevel: 4 }).pgsizeBitmap).toBe(0x7f7f_ffff_f800n);
  expect(new MockPageTable({ startingLevel: 4 }).lastIova).toBe(2n ** 56n - 1n);
  expect(() => new MockPageTable({ pgsizeBitmap: 1024n })).toThrow('sizes');
});

test('a range is cut into the largest pages that both addresses and the rest of the length allow', () => {
  const table = new MockPageTable();
  expect(table.map(6n * KIB, 6 * 1024, MIB, RW)).toBeUndefined();
  const sizes: bigint[] = [];
  for (let at = 6n * KIB; at < MIB + 6n * KIB;) {
    const entry = table.entryAt(at)!;
    sizes.push(entry.length / KIB);
    at += entry.length;
  }
  expect(sizes).toEqual([2n, 8n, 16n, 32n, 64n, 128n, 256n, 512n, 4n, 2n]);
});

test('a map that meets an entry half way leaves nothing behind and the entry as it was', () => {
  const table = new MockPageTable();
  table.map(MIB, 2 ** 30, 4n * KIB, RW);
  table.setDirty(MIB);
  expect(errno(table.map(0n, 2 ** 31, 2n * MIB, RW))).toBe(EADDRINUSE);
  expect(errno(table.map(2n * KIB, 2 ** 31 + 2048, 2n * MIB, RW))).toBe(EADDRINUSE);
  expect(table.entryAt(2n * KIB)).toBeNull();
  expect(table.entryAt(MIB)).toEqual({ iova: MIB, length: 4n * KIB, pa: 2 ** 30, prot: RW, dirty: true });
  expect(table.unmap(MIB, 4n * KIB)).toBe(4n * KIB);
  expect(table.empty).toBe(true);
});

test('a large page goes over tables that once held small ones', () => {
  const table = new MockPageTable();
  for (let page = 0n; page < 512n; page++) table.map(page * 2n * KIB, 2 ** 40, 2n * KIB, RW);
  expect(table.unmap(0n, MIB)).toBe(MIB);
  expect(table.map(0n, 2 ** 30, GIB, RW)).toBeUndefined();
  expect(table.entryAt(0n)?.length).toBe(GIB);
});

test('unmapping inside a large page does nothing, and from its start removes all of it', () => {
  const table = new MockPageTable();
  table.map(0n, 2 ** 30, MIB, RW);
  table.map(MIB, 2 ** 30, MIB, RW);
  expect(table.unmap(4n * KIB, 4n * KIB)).toBe(0n);
  expect(table.unmap(1n, 4n * KIB)).toBe(0n);
  expect(table.unmap(0n, MIB + 1n)).toBe(2n * MIB);
  expect(table.empty).toBe(true);
});

test('unmap stops at the first hole', () => {
  const table = new MockPageTable();
  table.map(0n, 2 ** 30, 8n * KIB, RW);
  table.map(12n * KIB, 2 ** 31, 4n * KIB, RW);
  expect(table.unmap(0n, 16n * KIB)).toBe(8n * KIB);
  expect(table.iovaToPhys(12n * KIB)).toBe(2 ** 31);
  expect(table.unmap(0n, 0n)).toBe(0n);
  expect(table.unmap(12n * KIB, U64_MAX)).toBe(0n);
});

test('arguments are refused in the order of the kernel', () => {
  const table = new MockPageTable();
  expect(errno(table.map(1n, 2 ** 51, 0n, 0))).toBe(EINVAL);
  expect(errno(table.map(1n, 2 ** 51, 0n, RW))).toBe(ERANGE);
  expect(errno(table.map(1n, 1, 0n, RW))).toBe(EINVAL);
  expect(errno(table.map(U64_MAX, 1, 2n, RW))).toBe(EOVERFLOW);
  expect(errno(table.map(U64_MAX - 2047n, 0, U64_MAX, RW))).toBe(EOVERFLOW);
  expect(errno(table.map(256n * GIB + 1n, 0, 4096n, RW))).toBe(ENXIO);
  expect(errno(table.map(256n * GIB - 2048n, 0, 4096n, RW))).toBe(ERANGE);
  expect(errno(table.map(U64_MAX - 2047n, 0, 2048n, RW))).toBe(ERANGE);
  expect(errno(table.readAndClearDirty(U64_MAX, 2n, true, null))).toBe(EOVERFLOW);
  expect(table.iovaToPhys(U64_MAX)).toBe(0);
  expect(table.empty).toBe(true);
});

test('a clean terabyte costs nothing to ask, and its dirty pages are found', () => {
  const table = new MockPageTable({ startingLevel: 3 });
  for (let part = 0n; part < 64n; part++) {
    table.map(part * 16n * GIB, 2 ** 50, 16n * GIB, RW);
    for (let page = 0n; page < 16n; page++)
      table.map(1024n * GIB + part * GIB + page * 4n * KIB, 2 ** 49, 4n * KIB, RW);
  }
  const dirty = [5n * GIB, 700n * GIB, 1024n * GIB + 3n * GIB + 8n * KIB];
  for (const iova of dirty) table.setDirty(iova + 77n);
  const read = (clear: boolean): [bigint, bigint][] => {
    const seen: [bigint, bigint][] = [];
    table.readAndClearDirty(0n, 2048n * GIB, clear, (iova, length) => seen.push([iova, length]));
    return seen;
  };
  const expected = [
    [0n, 16n * GIB],
    [688n * GIB, 16n * GIB],
    [1027n * GIB + 8n * KIB, 4n * KIB],
  ];
  expect(read(false)).toEqual(expected);
  expect(read(true)).toEqual(expected);
  expect(read(true)).toEqual([]);
});
