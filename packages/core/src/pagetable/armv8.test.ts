import { describe, expect, it } from 'vitest';
import { Ram } from '../memory/physical.ts';
import { stage1Permissions, stage2Permissions } from './armv8-permissions.ts';
import { type Stage1Config, Stage1Walker, topMasks } from './armv8-stage1.ts';
import { type Stage2Config, Stage2Walker } from './armv8-stage2.ts';
import {
  HIGH_BITS,
  PERM,
  WALK_FAULT,
  contiguousBits,
  stage1StartLevel,
  stage2StartLevel,
  tableGeometry,
} from './armv8.ts';

const full = { ds: true, smallTables: true, physicalBits: 52 };

describe('start levels', () => {
  it('of stage 1 are as many as the input size needs', () => {
    expect([48, 39, 30, 25].map((bits) => stage1StartLevel(12, bits))).toEqual([0, 1, 2, 2]);
    expect(stage1StartLevel(12, 52)).toBe(-1);
    expect([48, 47, 36, 25].map((bits) => stage1StartLevel(14, bits))).toEqual([0, 1, 2, 3]);
    expect([52, 48, 42, 29].map((bits) => stage1StartLevel(16, bits))).toEqual([1, 1, 2, 3]);
  });

  it('of stage 2 follow SL0, and concatenate at most 16 tables', () => {
    // 40 bits of IPA: level 1 with two tables side by side.
    expect(stage2StartLevel(12, 1, 40, full)).toBe(1);
    expect(stage2StartLevel(12, 1, 43, full)).toBe(1);
    expect(stage2StartLevel(12, 1, 44, full)).toBe(null);
    expect(stage2StartLevel(12, 0, 40, full)).toBe(null);
    expect(stage2StartLevel(12, 2, 40, full)).toBe(0);
    expect(stage2StartLevel(12, 4, 52, full)).toBe(-1);
    expect(stage2StartLevel(12, 4, 48, { ...full, ds: false })).toBe(null);
    expect(stage2StartLevel(14, 3, 52, full)).toBe(0);
    expect(stage2StartLevel(14, 2, 40, full)).toBe(1);
    expect(stage2StartLevel(16, 3, 48, full)).toBe(null);
    expect(stage2StartLevel(16, 1, 42, full)).toBe(2);
  });

  it('of stage 2 are refused where the implementation is too small for them', () => {
    expect(stage2StartLevel(12, 2, 42, { ds: false, smallTables: false, physicalBits: 42 })).toBe(null);
    expect(stage2StartLevel(12, 3, 18, { ds: false, smallTables: false, physicalBits: 48 })).toBe(null);
    expect(stage2StartLevel(12, 3, 18, { ds: false, smallTables: true, physicalBits: 48 })).toBe(3);
    expect(stage2StartLevel(14, 2, 40, { ...full, physicalBits: 40 })).toBe(null);
    expect(stage2StartLevel(16, 2, 42, { ...full, physicalBits: 42 })).toBe(null);
  });
});

describe('table geometry', () => {
  it('aligns the base to the size of the start-level table, concatenated ones included', () => {
    const table = tableGeometry({
      granuleBits: 12,
      inputBits: 40,
      startLevel: 1,
      base: 0x8000_1fff,
      outputBits: 48,
      physicalBits: 48,
      ds: false,
    });
    expect(table).toMatchObject({ base: 0x8000_0000, startMask: 1023, startShift: 30, blockLevel: 1 });
  });

  it('imposes 64 bytes where addresses have 52 bits', () => {
    const options = {
      granuleBits: 16,
      inputBits: 43,
      base: 0x8000_0030,
      physicalBits: 52,
      ds: false,
    } as const;
    expect(tableGeometry({ ...options, outputBits: 52 }).base).toBe(0x8000_0000);
    expect(tableGeometry({ ...options, outputBits: 48 }).base).toBe(0x8000_0030);
    expect(tableGeometry({ ...options, outputBits: 52 }).highBits).toBe(HIGH_BITS.LPA);
  });

  it('knows the contiguous runs of table D8-104', () => {
    const runs = ([12, 14, 16] as const).map((granule) =>
      [1, 2, 3].map((level) => contiguousBits(granule, level, 0)),
    );
    expect(runs).toEqual([
      [4, 4, 4],
      [0, 5, 7],
      [0, 5, 5],
    ]);
  });

  it('ignores VA[63:56] with TBI alone', () => {
    expect(topMasks(48, false)).toEqual({ topHi: 0xffff_0000, topLo: 0 });
    expect(topMasks(48, true)).toEqual({ topHi: 0x00ff_0000, topLo: 0 });
    expect(topMasks(25, true)).toEqual({ topHi: 0x00ff_ffff, topLo: 0xfe00_0000 });
  });
});

describe('permissions', () => {
  const plain = { unprivileged: true, wxn: false, pan: false, epan: false };

  it('of stage 1 follow AP[2:1], and forbid privileged execution of what unprivileged accesses write', () => {
    const table = stage1Permissions(plain);
    expect(table[0b00]).toBe(PERM.PR | PERM.PW | PERM.PX | PERM.UX);
    expect(table[0b01]).toBe(PERM.PR | PERM.PW | PERM.UR | PERM.UW | PERM.UX);
    expect(table[0b10]).toBe(PERM.PR | PERM.PX | PERM.UX);
    expect(table[0b11]).toBe(PERM.PR | PERM.PX | PERM.UR | PERM.UX);
  });

  it('of stage 1 take APTable into account', () => {
    const table = stage1Permissions(plain);
    expect(table[0b0101]! & (PERM.UR | PERM.UW)).toBe(0);
    expect(table[0b1001]! & (PERM.PW | PERM.UW)).toBe(0);
    expect(table[0b1101]! & (PERM.PW | PERM.UW | PERM.UR)).toBe(0);
  });

  it('of stage 1 with WXN execute nothing that is writable', () => {
    expect(stage1Permissions({ ...plain, wxn: true })[0b00]! & PERM.PX).toBe(0);
    expect(stage1Permissions({ ...plain, wxn: true })[0b10]! & PERM.PX).toBe(PERM.PX);
  });

  it('of stage 1 with PAN keep privileged data accesses away from unprivileged pages', () => {
    expect(stage1Permissions({ ...plain, pan: true })[0b01]! & (PERM.PR | PERM.PW)).toBe(0);
    expect(stage1Permissions({ ...plain, pan: true })[0b00]! & PERM.PR).toBe(PERM.PR);
    expect(stage1Permissions({ ...plain, pan: true, epan: true })[0b00]! & PERM.PR).toBe(0);
  });

  it('of EL2 ignore AP[1], APTable[0] and PXN', () => {
    const table = stage1Permissions({ ...plain, unprivileged: false });
    expect(table[0b00]).toBe(63);
    expect(table[0b100000 | 0b0100]).toBe(63);
    expect(table[0b10]! & (PERM.PW | PERM.UW)).toBe(0);
    expect(table[0b10000]! & (PERM.PX | PERM.UX)).toBe(0);
  });

  it('of stage 2 tell execution by privilege with XNX only', () => {
    const execute = (xnx: boolean) =>
      [0, 1, 2, 3].map((xn) => stage2Permissions(xnx)[(xn << 2) | 3]! & (PERM.PX | PERM.UX));
    expect(execute(true)).toEqual([PERM.PX | PERM.UX, PERM.UX, 0, PERM.PX]);
    expect(execute(false)).toEqual([PERM.PX | PERM.UX, PERM.PX | PERM.UX, 0, 0]);
  });
});

describe('walks', () => {
  const ram = new Ram();
  for (let page = 0; page < 16; page++) ram.add(page);
  const geometry = (base: number) =>
    tableGeometry({ granuleBits: 12, inputBits: 39, base, outputBits: 40, physicalBits: 40, ds: false });
  const stage1: Stage1Config = {
    regions: [
      { table: geometry(0x1000), ...topMasks(39, false), had: false, e0pd: false, sh: 0 },
      { table: null, ...topMasks(39, false), had: false, e0pd: false, sh: 0 },
    ],
    unprivileged: true,
    permissions: stage1Permissions({ unprivileged: true, wxn: false, pan: false, epan: false }),
    affd: false,
    ha: true,
    hd: true,
    mair: Uint8Array.of(0xff, 0x44, 0, 0, 0, 0, 0, 0),
  };

  it('find a page and its attributes', () => {
    ram.store64(0x1000 + 8 * 1, 0x2003, 0);
    ram.store64(0x2000 + 8 * 2, 0x3003, 0);
    ram.store64(0x3000 + 8 * 3, 0x9000 | 0xc47 | (1 << 2) | (3 << 8), 0);
    const walker = new Stage1Walker(ram);
    expect(walker.walk(stage1, 0, 0x4040_3010, PERM.UR, null)).toBe(true);
    expect(walker).toMatchObject({
      outHi: 0,
      outLo: 0x9000,
      leafBits: 12,
      level: 3,
      mair: 0x44,
      sh: 3,
      nonGlobal: true,
    });
  });

  it('set the Access flag and the dirty state where hardware manages them', () => {
    ram.store64(0x3000 + 8 * 4, 0xa000 | 0xc3 | 0x803, 1 << 19);
    const walker = new Stage1Walker(ram);
    const word = new Uint32Array(2);
    expect(walker.walk(stage1, 0, 0x4040_4000, PERM.UR, null)).toBe(true);
    expect(walker.clean).toBe(true);
    ram.load64(0x3000 + 8 * 4, word);
    expect(word[0]).toBe(0xa000 | 0xcc3);
    expect(walker.walk(stage1, 0, 0x4040_4000, PERM.UW, null)).toBe(true);
    expect(walker.clean).toBe(false);
    ram.load64(0x3000 + 8 * 4, word);
    expect(word[0]).toBe(0xa000 | 0xc43);
  });

  it('end in a Translation fault through a disabled half', () => {
    const walker = new Stage1Walker(ram);
    expect(walker.walk(stage1, 0xffff_ffff, 0xffff_0000, PERM.UR, null)).toBe(false);
    expect(walker.fault).toBe(WALK_FAULT.TRANSLATION);
  });

  it('report the address whose load aborted', () => {
    ram.store64(0x1000 + 8 * 2, 0x1234_5003, 0);
    const walker = new Stage1Walker(ram);
    expect(walker.walk(stage1, 0, 0x8020_0000, PERM.UR, null)).toBe(false);
    expect(walker).toMatchObject({ fault: WALK_FAULT.EXTERNAL_ABORT, fetchAddress: 0x1234_5008 });
  });

  it('of stage 2 refuse implicit accesses to Device memory with PTW', () => {
    const stage2: Stage2Config = {
      table: tableGeometry({
        granuleBits: 12,
        inputBits: 39,
        startLevel: 1,
        base: 0x4000,
        outputBits: 40,
        physicalBits: 40,
        ds: false,
      }),
      permissions: stage2Permissions(true),
      affd: true,
      ha: false,
      hd: false,
      ptw: true,
      fwb: false,
      sh: null,
    };
    ram.store64(0x4000, 0xc1 | (1 << 2), 0);
    const walker = new Stage2Walker(ram);
    expect(walker.walk(stage2, 0, 0x1000, PERM.PR, false)).toBe(true);
    expect(walker).toMatchObject({ outLo: 0, leafBits: 30, memAttr: 1, level: 1 });
    expect(walker.walk(stage2, 0, 0x1000, PERM.PR, true)).toBe(false);
    expect(walker.fault).toBe(WALK_FAULT.PERMISSION);
    expect(walker.walk({ ...stage2, ptw: false }, 0, 0x1000, PERM.PR, true)).toBe(true);
  });
});
