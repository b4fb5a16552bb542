import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { PhysicalSpace } from '../../memory/physical-space.ts';
import { AMD_V1_FORMAT } from './amd-v1.ts';
import type { TableFormat } from './format.ts';
import { GenericTable } from './table.ts';
import { SecondStageFormat, SS_SW_SYNCED } from './vtd-second-stage.ts';
import { x86TableFormat, X86_SW_SYNCED } from './x86-64.ts';

// Tables in memory against a description of what has to be there, which knows nothing of how they are kept: an entry is
// named by its level and by the first page that it translates, and its value is written down from the specifications
// (Intel SDM 4.5; D51397 §9.7, §9.8; AMD 48882 §2.2.3) and from what Linux's formats put in (drivers/iommu/generic_pt/fmt).

const LEVEL = 512n;
/** Pages that an entry of a level translates. */
const spanOf = (level: number): bigint => LEVEL ** BigInt(level);

interface Golden {
  readonly name: string;
  readonly topLevel: number;
  /** Levels are added above where an address needs them, up to this one. */
  readonly topLevelMax?: number;
  format(): TableFormat;
  /** log2 of the pages that a leaf can translate, descending. */
  readonly sizes: readonly number[];
  /** What an entry that leads to a table says beside the address. */
  table(level: number): bigint;
  /** Each entry of a leaf of 2^size pages. */
  leaf(size: number, page: bigint, prot: number): bigint;
  isLeaf(entry: bigint, level: number): boolean;
}

/** The level that the entries of a leaf are in. */
const levelOf = (size: number): number => Math.floor(size / 9);

// A page in each of the three lowest levels; PS is bit 7 in all but the lowest.
const INTEL_SIZES = [18, 9, 0];
const intelIsLeaf = (entry: bigint, level: number): boolean => level === 0 || (entry & (1n << 7n)) !== 0n;
const pageSize = (size: number): bigint => (size > 0 ? 1n << 7n : 0n);

const secondStage = (name: string, topLevel: number, snoop: boolean, marked: boolean): Golden => ({
  name,
  topLevel,
  format() {
    const format = new SecondStageFormat({
      pages2M: true,
      pages1G: true,
      tableLo: marked ? SS_SW_SYNCED : 0,
    });
    format.forceCoherence = snoop;
    return format;
  },
  sizes: INTEL_SIZES,
  // R, W; bit 10 is ignored by hardware.
  table: () => (marked ? 0x403n : 0x3n),
  leaf: (size, page, prot) => (page << 12n) | BigInt(prot) | pageSize(size) | (snoop ? 1n << 11n : 0n),
  isLeaf: intelIsLeaf,
});

const firstStage = (name: string, topLevel: number, marked: boolean): Golden => ({
  name,
  topLevel,
  format: () => x86TableFormat(marked ? X86_SW_SYNCED : 0),
  sizes: INTEL_SIZES,
  // P, RW, U, A; bit 9 is ignored by hardware.
  table: () => (marked ? 0x227n : 0x27n),
  // A page that may be written to is dirty from the start.
  leaf: (size, page, prot) => (page << 12n) | ((prot & 2) !== 0 ? 0x67n : 0x25n) | pageSize(size),
  isLeaf: intelIsLeaf,
});

const amdHost = (name: string, topLevel: number, topLevelMax = topLevel): Golden => ({
  name,
  topLevel,
  ...(topLevelMax > topLevel && { topLevelMax }),
  format: () => AMD_V1_FORMAT,
  // Every power of two but 512 GB, which hardware has wrong, and what is as large as the table.
  sizes: Array.from({ length: 9 * topLevelMax + 8 }, (_, i) => 9 * topLevelMax + 7 - i).filter(
    (size) => size !== 27,
  ),
  // PR, Next Level, IR, IW.
  table: (level) => 1n | (BigInt(level) << 9n) | (3n << 61n),
  // PR, FC, IR and IW. A leaf as large as what its level has an entry for has Next Level 0. Any other has 7, and below
  // the address ones up to the bit before its size.
  leaf: (size, page, prot) =>
    1n |
    (page << 12n) |
    (1n << 60n) |
    (BigInt(prot) << 61n) |
    (size % 9 === 0 ? 0n : (7n << 9n) | (((1n << BigInt(size - 1)) - 1n) << 12n)),
  isLeaf: (entry, level) => level === 0 || [0n, 7n].includes((entry >> 9n) & 7n),
});

const GOLDEN: readonly Golden[] = [
  secondStage('second stage of 3 levels', 2, false, false),
  secondStage('second stage of 4 levels that forces snoops', 3, true, false),
  secondStage('second stage of 5 levels for a walker that is not coherent', 4, false, true),
  firstStage('first stage of 4 levels', 3, false),
  firstStage('first stage of 5 levels for a walker that is not coherent', 4, true),
  amdHost('AMD host tables of 3 levels', 2),
  amdHost('AMD host tables of 4 levels', 3),
  amdHost('AMD host tables that grow', 2, 4),
];

interface Leaf {
  readonly page: bigint;
  /** log2 of pages. */
  readonly size: number;
  readonly out: bigint;
  readonly prot: number;
}

/** What has to be in memory: leaves by first page, tables by the level of the entry that leads there and first page. */
class Expected {
  readonly leaves = new Map<bigint, Leaf>();
  readonly tables = new Map<string, { page: bigint; level: number }>();
  topLevel: number;
  readonly #golden: Golden;

  constructor(golden: Golden) {
    this.#golden = golden;
    this.topLevel = golden.topLevel;
  }

  #covered(page: bigint, count: bigint): boolean {
    for (const leaf of this.leaves.values())
      if (leaf.page < page + count && page < leaf.page + 2n ** BigInt(leaf.size)) return true;
    return false;
  }

  #grow(end: bigint): void {
    while (end > spanOf(this.topLevel + 1)) {
      this.topLevel++;
      this.tables.set(`${this.topLevel}:0`, { page: 0n, level: this.topLevel });
    }
  }

  /** False where something is in the way: then nothing of it stays mapped, but tables that were made do. */
  map(page: bigint, out: bigint, count: bigint, prot: number): boolean {
    if (page + count > spanOf((this.#golden.topLevelMax ?? this.topLevel) + 1)) return false;
    this.#grow(page + count);
    for (let done = 0n; done < count;) {
      const [at, to, left] = [page + done, out + done, count - done];
      const size = this.#golden.sizes.find((each) => {
        const pages = 2n ** BigInt(each);
        return levelOf(each) <= this.topLevel && [at, to].every((a) => a % pages === 0n) && pages <= left;
      })!;
      const pages = 2n ** BigInt(size);
      if (!this.#leadTo(at, levelOf(size)) || !this.#clear(at, levelOf(size), pages)) {
        if (done > 0n) this.unmap(page, done);
        return false;
      }
      this.leaves.set(at, { page: at, size, out: to, prot });
      done += pages;
    }
    return true;
  }

  /** Tables on the way to an entry of a level; false where a larger page is in the way. */
  #leadTo(page: bigint, level: number): boolean {
    for (let above = this.topLevel; above > level; above--) {
      const first = page - (page % spanOf(above));
      const larger = [...this.leaves.values()].some(
        (leaf) =>
          levelOf(leaf.size) === above && leaf.page <= first && first < leaf.page + 2n ** BigInt(leaf.size),
      );
      if (larger) return false;
      this.tables.set(`${above}:${first}`, { page: first, level: above });
    }
    return true;
  }

  /** Empty tables give way to a large page, entry by entry; false at the first that is not empty. */
  #clear(page: bigint, level: number, pages: bigint): boolean {
    for (let at = page; at < page + pages; at += spanOf(level)) {
      if (this.#covered(at, spanOf(level))) return false;
      for (const [key, table] of this.tables)
        if (table.level <= level && table.page >= at && table.page < at + spanOf(level))
          this.tables.delete(key);
    }
    return true;
  }

  /** Pages from `page` on, up to a hole; large ones whole. Answers how many. */
  unmap(page: bigint, count: bigint): bigint {
    if (page + count > spanOf(this.topLevel + 1)) return 0n;
    let at = page;
    for (;;) {
      const leaf = this.leaves.get(at);
      if (at >= page + count || leaf === undefined) break;
      this.leaves.delete(at);
      at += 2n ** BigInt(leaf.size);
    }
    // Tables go whose whole range was asked for, and reached.
    const end = at < page + count ? at : page + count;
    for (const [key, table] of this.tables)
      if (table.page >= page && table.page + spanOf(table.level) <= end) this.tables.delete(key);
    return at - page;
  }

  entries(): string[] {
    const found = [...this.tables.entries()].map(
      ([key, { level }]) => `${key} ${this.#golden.table(level).toString(16)}`,
    );
    for (const { page, size, out, prot } of this.leaves.values()) {
      const level = levelOf(size);
      const value = this.#golden.leaf(size, out, prot).toString(16);
      for (let at = page; at < page + 2n ** BigInt(size); at += spanOf(level))
        found.push(`${level}:${at} ${value}`);
    }
    return found.toSorted();
  }
}

const ADDRESS = 0x000f_ffff_ffff_f000n;

/** Every entry that is not zero; addresses of tables are left out. */
function entriesOf(golden: Golden, memory: PhysicalSpace, root: number, topLevel: number): string[] {
  const found: string[] = [];
  const word = new Uint32Array(2);
  const walk = (table: number, level: number, first: bigint): void => {
    for (let index = 0; index < 512; index++) {
      memory.load64(table + index * 8, word);
      const entry = (BigInt(word[1]!) << 32n) | BigInt(word[0]!);
      if (entry === 0n) continue;
      const page = first + BigInt(index) * spanOf(level);
      const isLeaf = golden.isLeaf(entry, level);
      found.push(`${level}:${page} ${(isLeaf ? entry : entry & ~ADDRESS).toString(16)}`);
      if (!isLeaf) walk(Number.parseInt(`${entry & ADDRESS}`, 10), level - 1, page);
    }
  };
  walk(root, topLevel, 0n);
  return found.toSorted();
}

const REGION = 2n ** 20n;
/** Pages near edges of tables, and a few far away. */
const page = fc.oneof(
  fc.bigInt({ min: 0n, max: 2048n }),
  fc.constantFrom(0n, 511n, 512n, 1024n, LEVEL ** 2n - 1n, LEVEL ** 2n, LEVEL ** 2n * 2n),
  // Beyond the lowest two levels that a table can end with.
  fc.constantFrom(LEVEL ** 3n - 1n, LEVEL ** 3n, LEVEL ** 4n - 512n),
);
const count = fc.oneof(
  fc.bigInt({ min: 1n, max: 8n }),
  fc.constantFrom(1n, 512n, 513n, 1024n, LEVEL ** 2n, LEVEL ** 2n + 1n, LEVEL ** 3n),
);
const step = fc
  .record({
    unmap: fc.boolean(),
    page,
    /** Where the output is, relative to the input: alike where large pages are to fit. */
    shift: fc.constantFrom(0n, 512n, LEVEL ** 2n * 7n, 1n, 77n),
    count,
    prot: fc.constantFrom(1, 2, 3),
  })
  // A gigabyte of small pages shows nothing that a few do not.
  .map((each) => (each.shift % 512n === 0n || each.count < 1024n ? each : { ...each, count: 8n }))
  .map((each) => (each.count < LEVEL ** 3n ? each : { ...each, shift: LEVEL ** 3n - REGION, page: 0n }));

describe.each(GOLDEN)('tables in memory: $name', (golden) => {
  it('are what the specifications and the kernel say, entry by entry, whatever is mapped and unmapped', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 15 }), (steps) => {
        const memory = new PhysicalSpace();
        const table = GenericTable.make({
          format: golden.format(),
          memory: {
            allocateTable: () => memory.allocate(1),
            freeTable: (pa) => memory.free(pa, 1),
            load64: (pa, out) => memory.load64(pa, out),
            store64: (pa, lo, hi) => memory.store64(pa, lo, hi),
          },
          topLevel: golden.topLevel,
          vaBits: 12 + 9 * ((golden.topLevelMax ?? golden.topLevel) + 1),
          outBits: 52,
          ...(golden.topLevelMax !== undefined && { changeTop: () => {} }),
          sync: () => {},
        })!;
        const expected = new Expected(golden);
        for (const { unmap, page: at, shift, count: pages, prot } of steps) {
          const [first, out, length] = [at, at + shift + REGION, pages].map((value) =>
            Number.parseInt(`${value}`, 10),
          );
          if (unmap) {
            expect(BigInt(table.unmap(first!, length!))).toBe(expected.unmap(at, pages));
          } else {
            const mapped = !failed(table.map(first!, out!, length!, prot));
            expect(mapped).toBe(expected.map(at, at + shift + REGION, pages, prot));
          }
          expect(table.topLevel).toBe(expected.topLevel);
          expect(entriesOf(golden, memory, table.root, table.topLevel)).toEqual(expected.entries());
        }
        expect(memory.ram.size).toBe(expected.tables.size + 1);
        table.free();
        expect(memory.ram.size).toBe(0);
      }),
      { numRuns: 30 },
    );
  });
});
