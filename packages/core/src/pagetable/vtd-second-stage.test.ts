import { describe, expect, it } from 'vitest';
import { Tables } from './testing/tables.ts';
import type { TableCache } from './walk.ts';
import {
  SS_ENTRY,
  SS_FAULT,
  SS_RIGHTS,
  type SecondStageOptions,
  SecondStageWalker,
  secondStageConfig,
} from './vtd-second-stage.ts';

const { READ, WRITE } = SS_RIGHTS;
const { R, W, PS, A, D, SNP } = SS_ENTRY;

function options(rest: Partial<SecondStageOptions> = {}): SecondStageOptions {
  return {
    levels: 4,
    root: 0x1000,
    inputBits: 48,
    addressBits: 46,
    pages2M: true,
    pages1G: true,
    snoopControl: true,
    ioReadWrite: false,
    accessedDirty: false,
    updates: true,
    ...rest,
  };
}

const tables = (): Tables<SecondStageWalker> => new Tables(R | W, SecondStageWalker);

describe('second-stage tables', () => {
  it('translate through 3, 4 and 5 levels to pages of three sizes', () => {
    for (const levels of [3, 4, 5] as const) {
      for (const [level, leaf] of [
        [1, 0x7000],
        [2, 0x20_0000 | PS],
        [3, 0x4000_0000 | PS],
      ] as const) {
        const t = tables().chain(levels, level, leaf | R | W);
        const config = secondStageConfig(options({ levels, inputBits: 57 }));
        expect(t.walker.walk(config, 0, 0x123, READ)).toBe(true);
        expect([t.walker.out, t.walker.leafBits, t.walker.rights]).toEqual([leaf & ~PS, 3 + 9 * level, 3]);
      }
    }
  });

  it('refuse addresses above the tables or the implementation', () => {
    const t = tables().chain(4, 1, 0x7000 | R | W);
    for (const [inputBits, levels, hi, lo, fits] of [
      [57, 3, 0x7f, 0xffff_ffff, true],
      [57, 3, 0x80, 0, false],
      [40, 4, 0xff, 0, true],
      [40, 4, 0x100, 0, false],
      [57, 5, 0x1ff_ffff, 0, true],
      [57, 5, 0x200_0000, 0, false],
      [32, 4, 0, 0xffff_ffff, true],
      [32, 4, 1, 0, false],
    ] as const) {
      t.walker.walk(secondStageConfig(options({ inputBits, levels })), hi, lo, 0);
      expect([inputBits, levels, t.walker.fault !== SS_FAULT.ADDRESS]).toEqual([inputBits, levels, fits]);
    }
  });

  it('map nothing where an entry, or all of them together, grant nothing', () => {
    const config = secondStageConfig(options());
    const t = tables().chain(4, 1, 0x7000 | A);
    expect([t.walker.walk(config, 0, 0, 0), t.walker.fault]).toEqual([false, SS_FAULT.NOT_PRESENT]);
    t.put(0x4000, 0x7000 | R).put(0x2000, 0x3000 | W);
    expect([t.walker.walk(config, 0, 0, 0), t.walker.fault]).toEqual([false, SS_FAULT.NOT_PRESENT]);
    t.put(0x4000, 0x7000 | R | W);
    expect([t.walker.walk(config, 0, 0, 0), t.walker.rights]).toEqual([true, WRITE]);
    expect([t.walker.walk(config, 0, 0, READ), t.walker.fault]).toEqual([false, SS_FAULT.PERMISSION]);
  });

  it('count IR and IW instead of R and W where asked', () => {
    const io = (SS_ENTRY.IR_HI | SS_ENTRY.IW_HI) >>> 0;
    const t = tables().chain(4, 1, 0x7000, SS_ENTRY.IR_HI, io);
    const config = secondStageConfig(options({ ioReadWrite: true }));
    expect([t.walker.walk(config, 0, 0, READ), t.walker.rights]).toEqual([true, READ]);
    t.put(0x4000, 0x7000 | R | W);
    expect(t.walker.walk(config, 0, 0, 0)).toBe(false);
  });

  it('refuse reserved bits of entries that grant something', () => {
    const cases: [number, number, number, Partial<SecondStageOptions>][] = [
      [1, 0x7000, 0x4000, {}],
      [1, 0x7000, SS_ENTRY.IW_HI, {}],
      [1, 0x7000 | SNP, 0, { snoopControl: false }],
      [2, 0x4000 | SNP, 0, {}],
      [2, 0x20_1000 | PS, 0, {}],
      [3, 0x4000_0000 | PS, 0, { pages1G: false }],
      [2, 0x20_0000 | PS, 0, { pages1G: false, pages2M: false }],
      [4, 0x2000 | PS, 0, {}],
    ];
    for (const [level, lo, hi, rest] of cases) {
      const t = tables().chain(4, level, lo | R, hi);
      expect(t.walker.walk(secondStageConfig(options(rest)), 0, 0, 0)).toBe(false);
      expect([t.walker.fault, t.walker.level]).toEqual([SS_FAULT.RESERVED, level]);
    }
  });

  it('set Accessed on the way and Dirty at writes, or fault where they may not', () => {
    const t = tables().chain(4, 1, 0x7000 | R | W);
    const config = secondStageConfig(options({ accessedDirty: true }));
    expect([t.walker.walk(config, 0, 0, READ), t.walker.clean]).toEqual([true, true]);
    expect([1, 2, 3, 4].map((page) => t.get(page * 0x1000) & (A | D))).toEqual([A, A, A, A]);
    expect([t.walker.walk(config, 0, 0, WRITE), t.walker.clean]).toEqual([true, false]);
    expect(t.get(0x4000) & D).toBe(D);
    const blocked = tables().chain(4, 1, 0x7000 | R | W);
    const frozen = secondStageConfig(options({ accessedDirty: true, updates: false }));
    expect([blocked.walker.walk(frozen, 0, 0, 0), blocked.walker.fault]).toEqual([
      false,
      SS_FAULT.UPDATE_BLOCKED,
    ]);
  });

  it('tell which entry memory refused', () => {
    const t = tables()
      .chain(4, 1, 0x7000 | R | W)
      .put(0x2000, 0x99_0000 | R);
    expect(t.walker.walk(secondStageConfig(options()), 0, 0x8000, READ)).toBe(false);
    expect([t.walker.fault, t.walker.level, t.walker.fetchAddress]).toEqual([SS_FAULT.FETCH, 2, 0x99_0000]);
  });

  it('start from a cached table with the rights above it', () => {
    const t = tables()
      .chain(4, 1, 0x7000 | R | W)
      .put(0x1000, 0);
    const cache: TableCache = { baseHi: 0, baseLo: 0x4000, inherited: READ, find: () => 1, fill: () => {} };
    t.walker.cache = cache;
    const config = secondStageConfig(options());
    expect([t.walker.walk(config, 0, 0, READ), t.walker.rights]).toEqual([true, READ]);
    expect(t.walker.walk(config, 0, 0, WRITE)).toBe(false);
  });
});
