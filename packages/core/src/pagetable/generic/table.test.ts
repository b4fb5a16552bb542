import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EADDRINUSE, EINVAL, ENOMEM, ERANGE } from '../../abi/errno.ts';
import { PhysicalSpace } from '../../memory/physical-space.ts';
import { AmdV1Walker, amdV1Config } from '../amd-v1.ts';
import { x86Config, X86_WRITE, X86Walker, x86Permissions } from '../x86-64.ts';
import { AMD_V1_FORMAT } from './amd-v1.ts';
import { PROT, type TableFormat } from './format.ts';
import { GenericTable, type TableMemory } from './table.ts';
import { x86TableFormat } from './x86-64.ts';

const RW = PROT.READ | PROT.WRITE;
const MIB2 = 512;
const GIB = 512 * 512;

/** A table over memory of its own, with what the driver is told. */
class Rig {
  readonly memory = new PhysicalSpace();
  readonly tables = new Set<number>();
  readonly synced: { start: number; last: number; tables: number }[] = [];
  readonly tops: [level: number, root: number][] = [];
  budget = Infinity;
  readonly table: GenericTable;

  constructor(format: TableFormat, options: { topLevel: number; vaBits: number; dynamic: boolean }) {
    const { memory, tables } = this;
    const tableMemory: TableMemory = {
      allocateTable: () => {
        if (this.budget-- <= 0) return 0;
        const pa = memory.allocate(1);
        tables.add(pa);
        return pa;
      },
      freeTable: (pa) => {
        if (!tables.delete(pa)) throw new Error('freed twice');
        memory.free(pa, 1);
      },
      load64: (pa, out) => memory.load64(pa, out),
      store64: (pa, lo, hi) => memory.store64(pa, lo, hi),
    };
    const table = GenericTable.make({
      format,
      memory: tableMemory,
      topLevel: options.topLevel,
      vaBits: options.vaBits,
      outBits: 52,
      sync: (gather) =>
        this.synced.push({ start: gather.start, last: gather.last, tables: gather.tables.length }),
      ...(options.dynamic
        ? { changeTop: (root: number, level: number) => void this.tops.push([level, root]) }
        : {}),
    });
    if (table === null) throw new Error('no table');
    this.table = table;
  }

  /** One entry, as 16 digits. */
  entry(table: number, index: number): string {
    const word = new Uint32Array(2);
    this.memory.load64(table + index * 8, word);
    return [word[1]!, word[0]!].map((half) => half.toString(16).padStart(8, '0')).join('');
  }
}

const amd = (vaBits = 64): Rig => new Rig(AMD_V1_FORMAT, { topLevel: 2, vaBits, dynamic: true });
const x86 = (): Rig => new Rig(x86TableFormat(), { topLevel: 3, vaBits: 47, dynamic: false });
const errno = (result: unknown): number => (failed(result) ? result.errno : 0);

describe('generic tables in the format of AMD v1', () => {
  it('have every power of two from 4 KiB to 2 PiB as a page, but 512 GiB', () => {
    const sizes = Array.from({ length: 40 }, (_, i) => i + 12).filter((bits) => bits !== 39);
    expect(amd().table.sizes.bits).toEqual(sizes);
  });

  it('map 32 KiB as eight equal entries that say their size', () => {
    const rig = amd();
    rig.table.map(8, 0x1_2348, 8, RW);
    const level1 = Number.parseInt(rig.entry(rig.table.root, 0).slice(-11), 16) & ~0xfff;
    const level0 = Number.parseInt(rig.entry(level1, 0).slice(-11), 16) & ~0xfff;
    // 12348000h with 3000h of ones: Next Level 7, IW, IR, FC, PR.
    for (let i = 8; i < 16; i++) expect(rig.entry(level0, i)).toBe('700000001234be01');
    expect(rig.entry(level0, 7)).toBe('0000000000000000');
    expect(rig.table.lookup(13)).toBe(0x1_234d);
  });

  it('grow a level where an address needs it, and tell the hardware before the table is used', () => {
    const rig = amd();
    const first = rig.table.root;
    rig.table.map(0, 7, 1, RW);
    expect(rig.tops).toEqual([]);
    rig.table.map(2 ** 50, 9, 1, RW);
    expect(rig.tops).toEqual([[5, rig.table.root]]);
    expect(rig.table.topLevel).toBe(5);
    expect(rig.table.lookup(0)).toBe(7);
    expect(rig.table.lookup(2 ** 50)).toBe(9);
    expect(rig.table.root).not.toBe(first);
  });

  it('grow as much as a large page needs', () => {
    const rig = amd();
    rig.table.map(0, 0, 2 ** 28, PROT.READ);
    expect(rig.table.topLevel).toBe(3);
    expect(rig.table.lookup(2 ** 28 - 1)).toBe(2 ** 28 - 1);
  });

  it('split what has 512 GiB', () => {
    const rig = amd();
    rig.table.map(0, 0, 2 ** 27, RW);
    expect(rig.table.topLevel).toBe(2);
    // Two pages of 256 GiB in the top table: 3f_ffff_f000h of ones below bit 37, and 40_0000_0000h.
    expect(rig.entry(rig.table.root, 0)).toBe('7000001fffffFe01'.toLowerCase());
    expect(rig.entry(rig.table.root, 256)).toBe('7000005ffffffe01');
  });

  it('refuse what is beyond their width, and give back what growing took', () => {
    const rig = amd(48);
    const before = rig.tables.size;
    expect(errno(rig.table.map(2 ** 36, 0, 1, RW))).toBe(ERANGE);
    expect(rig.tables.size).toBe(before);
    rig.budget = 0;
    expect(errno(rig.table.map(2 ** 35, 0, 1, RW))).toBe(ENOMEM);
    expect(rig.tables.size).toBe(before);
    expect(rig.tops).toEqual([]);
  });

  it('unmap a large page whole from its start, and not from its middle', () => {
    const rig = amd();
    rig.table.map(0, 0, 64, RW);
    expect(rig.table.unmap(32, 32)).toBe(0);
    expect(rig.table.unmap(0, 1)).toBe(64);
    expect(rig.synced).toEqual([{ start: 0, last: 63, tables: 0 }]);
  });

  it('find what any entry of a large page says is dirty, and clean all of them', () => {
    const rig = amd();
    rig.table.map(16, 16, 16, RW);
    const level1 = Number.parseInt(rig.entry(rig.table.root, 0).slice(-11), 16) & ~0xfff;
    const level0 = Number.parseInt(rig.entry(level1, 0).slice(-11), 16) & ~0xfff;
    const word = new Uint32Array(2);
    for (const index of [19, 30]) {
      rig.memory.load64(level0 + index * 8, word);
      rig.memory.store64(level0 + index * 8, word[0]! | 0x40, word[1]!);
    }
    const seen: [number, number][] = [];
    const read = (clear: boolean) =>
      rig.table.readAndClearDirty(0, 512, clear, (page, pages) => seen.push([page, pages]));
    read(false);
    read(true);
    read(true);
    expect(seen).toEqual([
      [16, 16],
      [16, 16],
    ]);
  });
});

describe('generic tables in the format of x86', () => {
  it('have pages of 4 KiB, 2 MiB and 1 GiB', () => {
    expect(x86().table.sizes.bits).toEqual([12, 21, 30]);
  });

  it('write what Linux writes', () => {
    const rig = x86();
    rig.table.map(GIB, 2 * GIB, GIB + MIB2 + 1, RW);
    const top = rig.entry(rig.table.root, 0);
    expect(top.slice(-3)).toBe('027');
    const level2 = Number.parseInt(top, 16) - 0x27;
    // 1 GiB, then 2 MiB and a page.
    expect(rig.entry(level2, 1)).toBe('00000000800000e7');
    const level1 = Number.parseInt(rig.entry(level2, 2), 16) - 0x27;
    expect(rig.entry(level1, 0)).toBe('00000000c00000e7');
    const level0 = Number.parseInt(rig.entry(level1, 1), 16) - 0x27;
    expect(rig.entry(level0, 0)).toBe('00000000c0200067');
    rig.table.map(0, 5, 1, PROT.READ);
    const low1 = Number.parseInt(rig.entry(level2, 0), 16) - 0x27;
    const low0 = Number.parseInt(rig.entry(low1, 0), 16) - 0x27;
    expect(rig.entry(low0, 0)).toBe('0000000000005025');
  });

  it('keep nothing of a mapping that fails', () => {
    const rig = x86();
    rig.table.map(2 * MIB2, 1, 1, RW);
    expect(errno(rig.table.map(0, 0, 4 * MIB2, RW))).toBe(EADDRINUSE);
    expect(rig.table.lookup(0)).toBe(-1);
    expect(rig.table.lookup(2 * MIB2)).toBe(1);
    expect(errno(rig.table.map(0, 0, 1, 0))).toBe(EINVAL);
  });

  it('give empty tables up for a large page, and invalidate them before they are freed', () => {
    const rig = x86();
    rig.table.map(5, 5, 1, RW);
    rig.table.unmap(5, 1);
    const before = rig.tables.size;
    expect(rig.synced).toEqual([{ start: 5, last: 5, tables: 0 }]);
    rig.table.map(0, 0, MIB2, RW);
    expect(rig.tables.size).toBe(before - 1);
    expect(rig.synced.at(-1)).toEqual({ start: 0, last: MIB2 - 1, tables: 1 });
  });

  it('free the tables that an unmap covers', () => {
    const rig = x86();
    rig.table.map(0, 1, MIB2, RW);
    const before = rig.tables.size;
    rig.table.unmap(0, MIB2);
    expect(rig.tables.size).toBe(before - 1);
    expect(rig.synced.at(-1)).toEqual({ start: 0, last: MIB2 - 1, tables: 1 });
  });
});

/** Edges of levels, and pages near them. */
const page = (bits: number): fc.Arbitrary<number> =>
  fc
    .tuple(fc.integer({ min: 0, max: bits - 1 }), fc.integer({ min: 0, max: 3 }), fc.nat(7))
    .map(([log2, times, more]) => (2 ** log2 * times + more) % (2 ** bits - 2 ** 12));

type Step = readonly [kind: 'map' | 'unmap', page: number, out: number, count: number];

function steps(bits: number): fc.Arbitrary<Step[]> {
  const step = fc.tuple(
    fc.constantFrom('map' as const, 'map' as const, 'unmap' as const),
    page(bits),
    page(40),
    fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(512, 1024, 513, 2048)),
  );
  return fc.array(step, { minLength: 1, maxLength: 30 });
}

/** Runs steps on a table and on a map of pages; `walk` is what hardware finds. */
function agree(rig: Rig, list: readonly Step[], walk: (page: number) => number): void {
  const model = new Map<number, number>();
  for (const [kind, at, out, count] of list) {
    const pages = Array.from({ length: count }, (_, i) => i);
    if (kind === 'map') {
      const free = pages.every((i) => !model.has(at + i));
      expect(errno(rig.table.map(at, out, count, RW))).toBe(free ? 0 : EADDRINUSE);
      if (free) for (const i of pages) model.set(at + i, out + i);
    } else {
      const unmapped = rig.table.unmap(at, count);
      expect(pages.slice(0, unmapped).every((i) => model.has(at + i))).toBe(true);
      for (let i = 0; i < unmapped; i++) model.delete(at + i);
      // It stops at a hole, or within a larger page.
      if (unmapped < count && model.has(at + unmapped))
        expect(model.get(at + unmapped)! - 1).toBe(model.get(at + unmapped - 1));
    }
  }
  const wrong = [...model].filter(
    ([at, out]) =>
      rig.table.lookup(at) !== out || walk(at) !== out || (!model.has(at + 1) && walk(at + 1) !== -1),
  );
  expect(wrong).toEqual([]);
  rig.table.free();
  expect(rig.tables.size).toBe(0);
}

function walkX86(rig: Rig, at: number): number {
  const walker = new X86Walker(rig.memory);
  const permissions = x86Permissions({ writeProtect: true, smep: false, noExecute: true });
  const config = x86Config({
    levels: 4,
    root: rig.table.root,
    addressBits: 52,
    pages1G: true,
    accessed: false,
    dirty: false,
    permissions,
  });
  const found = walker.walk(config, Math.floor(at / 0x10_0000), (at % 0x10_0000) * 4096, X86_WRITE, null);
  return found ? walker.out / 4096 + (at % 2 ** (walker.leafBits - 12)) : -1;
}

describe('generic tables and the walkers of the hardware', () => {
  it('agree about AMD v1', () => {
    fc.assert(
      fc.property(steps(52), (list) => {
        const rig = amd();
        const walker = new AmdV1Walker(rig.memory);
        agree(rig, list, (at) => {
          const { root, topLevel } = rig.table;
          const config = amdV1Config({ mode: topLevel + 1, root, accessed: false, dirty: false });
          if (at >= 2 ** Math.min(52, 9 * (topLevel + 1))) return -1;
          const lo = (at % 0x10_0000) * 4096;
          const found = walker.walk(config, Math.floor(at / 0x10_0000), lo, 3);
          return found ? walker.out / 4096 + (at % 2 ** (walker.leafBits - 12)) : -1;
        });
      }),
      { numRuns: 100 },
    );
  });

  it('agree about x86', () => {
    fc.assert(
      fc.property(steps(34), (list) => {
        const rig = x86();
        agree(rig, list, (at) => walkX86(rig, at));
      }),
      { numRuns: 100 },
    );
  });
});
