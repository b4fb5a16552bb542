import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { PhysicalSpace } from '../../memory/physical-space.ts';
import type { TableFormat } from './format.ts';
import { GenericTable } from './table.ts';
import { SecondStageFormat, SS_SW_SYNCED } from './vtd-second-stage.ts';
import { x86TableFormat, X86_SW_SYNCED } from './x86-64.ts';

// Tables in memory against a description of what has to be there, which knows nothing of how they are kept: an entry is
// named by its level and by the first page that it translates, and its value is written down from the specifications
// (Intel SDM 4.5; D51397 §9.7, §9.8) and from what Linux's formats put in (drivers/iommu/generic_pt/fmt).

const LEVEL = 512n;
/** Pages that an entry of a level translates. */
const spanOf = (level: number): bigint => LEVEL ** BigInt(level);

interface Golden {
  readonly name: string;
  readonly topLevel: number;
  format(): TableFormat;
  /** What an entry that leads to a table says beside the address. */
  readonly table: bigint;
  leaf(level: number, page: bigint, prot: number): bigint;
}

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
  // R, W; bit 10 is ignored by hardware.
  table: marked ? 0x403n : 0x3n,
  leaf: (level, page, prot) =>
    (page << 12n) | BigInt(prot) | (level > 0 ? 1n << 7n : 0n) | (snoop ? 1n << 11n : 0n),
});

const firstStage = (name: string, topLevel: number, marked: boolean): Golden => ({
  name,
  topLevel,
  format: () => x86TableFormat(marked ? X86_SW_SYNCED : 0),
  // P, RW, U, A; bit 9 is ignored by hardware.
  table: marked ? 0x227n : 0x27n,
  // A page that may be written to is dirty from the start.
  leaf: (level, page, prot) =>
    (page << 12n) | ((prot & 2) !== 0 ? 0x67n : 0x25n) | (level > 0 ? 1n << 7n : 0n),
});

const GOLDEN: readonly Golden[] = [
  secondStage('second stage of 3 levels', 2, false, false),
  secondStage('second stage of 4 levels that forces snoops', 3, true, false),
  secondStage('second stage of 5 levels for a walker that is not coherent', 4, false, true),
  firstStage('first stage of 4 levels', 3, false),
  firstStage('first stage of 5 levels for a walker that is not coherent', 4, true),
];

/** What has to be in memory: leaves and tables by level and first page. */
class Expected {
  readonly leaves = new Map<string, { page: bigint; level: number; out: bigint; prot: number }>();
  readonly tables = new Map<string, { page: bigint; level: number }>();
  readonly #topLevel: number;

  constructor(topLevel: number) {
    this.#topLevel = topLevel;
  }

  #covered(page: bigint, count: bigint): boolean {
    for (const leaf of this.leaves.values())
      if (leaf.page < page + count && page < leaf.page + spanOf(leaf.level)) return true;
    return false;
  }

  /** False where something is in the way: then nothing of it stays mapped, but tables that were made do. */
  map(page: bigint, out: bigint, count: bigint, prot: number): boolean {
    const made: string[] = [];
    for (let done = 0n; done < count;) {
      const [at, to, left] = [page + done, out + done, count - done];
      const level = [2, 1, 0].find(
        (each) =>
          each <= this.#topLevel && [at, to].every((a) => a % spanOf(each) === 0n) && spanOf(each) <= left,
      )!;
      const free = this.#leadTo(at, level) && !this.#covered(at, spanOf(level));
      if (!free) {
        if (done > 0n) this.unmap(page, done);
        return false;
      }
      // Empty tables give way to a large page.
      for (const [key, table] of this.tables)
        if (table.level <= level && table.page >= at && table.page < at + spanOf(level))
          this.tables.delete(key);
      const key = `${level}:${at}`;
      made.push(key);
      this.leaves.set(key, { page: at, level, out: to, prot });
      done += spanOf(level);
    }
    return true;
  }

  /** Tables on the way to an entry of a level; false where a larger page is in the way. */
  #leadTo(page: bigint, level: number): boolean {
    for (let above = this.#topLevel; above > level; above--) {
      const first = page - (page % spanOf(above));
      if (this.leaves.has(`${above}:${first}`)) return false;
      this.tables.set(`${above}:${first}`, { page: first, level: above });
    }
    return true;
  }

  /** Pages from `page` on, up to a hole; large ones whole. Answers how many. */
  unmap(page: bigint, count: bigint): bigint {
    let at = page;
    for (;;) {
      const leaf = [0, 1, 2]
        .map((level) => this.leaves.get(`${level}:${at}`))
        .find((each) => each !== undefined);
      if (at >= page + count || leaf === undefined) break;
      this.leaves.delete(`${leaf.level}:${at}`);
      at += spanOf(leaf.level);
    }
    // Tables go whose whole range was asked for, and reached.
    const end = at < page + count ? at : page + count;
    for (const [key, table] of this.tables)
      if (table.page >= page && table.page + spanOf(table.level) <= end) this.tables.delete(key);
    return at - page;
  }

  entries(golden: Golden): string[] {
    const leaves = [...this.leaves.entries()].map(
      ([key, { level, out, prot }]) => `${key} ${golden.leaf(level, out, prot).toString(16)}`,
    );
    return [
      ...leaves,
      ...[...this.tables.keys()].map((key) => `${key} ${golden.table.toString(16)}`),
    ].toSorted();
  }
}

/** Every entry that is not zero; addresses of tables are left out. */
function entriesOf(memory: PhysicalSpace, root: number, topLevel: number): string[] {
  const found: string[] = [];
  const word = new Uint32Array(2);
  const walk = (table: number, level: number, first: bigint): void => {
    for (let index = 0; index < 512; index++) {
      memory.load64(table + index * 8, word);
      const entry = (BigInt(word[1]!) << 32n) | BigInt(word[0]!);
      if (entry === 0n) continue;
      const page = first + BigInt(index) * spanOf(level);
      const isLeaf = level === 0 || (entry & (1n << 7n)) !== 0n;
      found.push(`${level}:${page} ${(isLeaf ? entry : entry & 0xfffn).toString(16)}`);
      if (!isLeaf) walk(word[1]! * 2 ** 32 + ((word[0]! & 0xffff_f000) >>> 0), level - 1, page);
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
);
const count = fc.oneof(
  fc.bigInt({ min: 1n, max: 8n }),
  fc.constantFrom(1n, 512n, 513n, 1024n, LEVEL ** 2n, LEVEL ** 2n + 1n),
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
  .map((each) => (each.shift % 512n === 0n || each.count < 1024n ? each : { ...each, count: 8n }));

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
          vaBits: 12 + 9 * (golden.topLevel + 1),
          outBits: 52,
          sync: () => {},
        })!;
        const expected = new Expected(golden.topLevel);
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
          expect(entriesOf(memory, table.root, golden.topLevel)).toEqual(expected.entries(golden));
        }
        expect(memory.ram.size).toBe(expected.tables.size + 1);
        table.free();
        expect(memory.ram.size).toBe(0);
      }),
      { numRuns: 30 },
    );
  });
});
