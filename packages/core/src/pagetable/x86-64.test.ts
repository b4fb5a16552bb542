import { describe, expect, it } from 'vitest';
import { Tables } from './testing/tables.ts';
import {
  X86_ENTRY,
  X86_FAULT,
  X86_PERM,
  X86_READ,
  X86_WRITE,
  type X86Options,
  X86Walker,
  x86Config,
  x86Permissions,
} from './x86-64.ts';
import { type TableCache, type TableSpace, addressOf } from './walk.ts';

const { P, RW, US, A, D, PS, G, EA } = X86_ENTRY;
const PERMISSIONS = x86Permissions({ writeProtect: true, smep: false, noExecute: true });
const ROOT = 0x1000;

function options(rest: Partial<X86Options> = {}): X86Options {
  return {
    levels: 4,
    root: ROOT,
    addressBits: 46,
    pages1G: true,
    accessed: true,
    dirty: true,
    permissions: PERMISSIONS,
    ...rest,
  };
}

const tables = (): Tables<X86Walker> => new Tables(P | RW | US, X86Walker);

describe('x86-64 page tables', () => {
  it('translate through 4 and 5 levels to pages of 4 KiB, 2 MiB and 1 GiB', () => {
    for (const levels of [4, 5] as const) {
      for (const [level, leaf] of [
        [1, 0x7000],
        [2, 0x20_0000 | PS],
        [3, 0x4000_0000 | PS],
      ] as const) {
        const t = tables().chain(levels, level, leaf | P | RW | US);
        expect(t.walker.walk(x86Config(options({ levels })), 0, 0x123, X86_PERM.UR, null)).toBe(true);
        expect(t.walker.leafBits).toBe(3 + 9 * level);
        expect(t.walker.out).toBe(leaf & ~PS);
        expect(t.walker.level).toBe(level);
      }
    }
  });

  it('select the entry of every level by nine bits of the address', () => {
    const t = tables();
    t.put(0x1000 + 0x1ab * 8, 0x2000 | P | RW | US);
    t.put(0x2000 + 0x0cd * 8, 0x3000 | P | RW | US);
    t.put(0x3000 + 0x155 * 8, 0x4000 | P | RW | US);
    t.put(0x4000 + 0x0ff * 8, 0x5000 | P | RW | US);
    t.put(0x5000 + 0x1fe * 8, 0x9000 | P | RW | US, 0x12);
    const address = (0x1abn << 48n) | (0x0cdn << 39n) | (0x155n << 30n) | (0x0ffn << 21n) | (0x1fen << 12n);
    const canonical = BigInt.asUintN(64, BigInt.asIntN(57, address));
    const hi = Number(canonical >> 32n);
    const lo = Number(canonical & 0xffff_ffffn);
    expect(t.walker.walk(x86Config(options({ levels: 5 })), hi, lo, X86_READ, null)).toBe(true);
    expect(t.walker.out).toBe(0x12_0000_9000);
  });

  it('refuse addresses that are not canonical', () => {
    const t = tables().chain(4, 1, 0x7000 | P | RW | US);
    const four = x86Config(options());
    const five = x86Config(options({ levels: 5 }));
    for (const [config, hi] of [
      [four, 0x0000_8000],
      [four, 0x0001_0000],
      [four, 0xffff_0000],
      [four, 0x7fff_ffff],
      [five, 0x0100_0000],
      [five, 0xfe00_0000],
    ] as const) {
      expect(t.walker.walk(config, hi, 0, 0, null)).toBe(false);
      expect(t.walker.fault).toBe(X86_FAULT.NOT_CANONICAL);
    }
    t.walker.walk(four, 0xffff_8000, 0, 0, null);
    expect(t.walker.fault).toBe(X86_FAULT.NOT_PRESENT);
  });

  it('say at which level an entry is absent', () => {
    for (let level = 1; level <= 4; level++) {
      const t = tables().chain(4, level, 0x7000 | RW | US | 0xf00);
      expect(t.walker.walk(x86Config(options()), 0, 0, 0, null)).toBe(false);
      expect([t.walker.fault, t.walker.level]).toEqual([X86_FAULT.NOT_PRESENT, level]);
    }
  });

  it('refuse reserved bits of present entries', () => {
    const config = x86Config(options({ pages1G: false, xdReserved: true }));
    const bad: [number, number, number][] = [
      [4, 0x2000 | PS, 0],
      [3, 0x4000_0000 | PS, 0],
      [2, 0x20_2000 | PS, 0],
      [2, 0x30_0000 | PS, 0],
      [1, 0x7000, 0x0000_4000],
      [1, 0x7000, 0x0008_0000],
      [3, 0x4000, 0x8000_0000],
    ];
    for (const [level, lo, hi] of bad) {
      const t = tables().chain(4, level, lo | P | RW | US, hi);
      expect(t.walker.walk(config, 0, 0, 0, null)).toBe(false);
      expect([t.walker.fault, t.walker.level]).toEqual([X86_FAULT.RESERVED, level]);
    }
    // Bits 62:52 are ignored, the PAT bit of a large page is no address bit, bit 63 is XD.
    const t = tables().chain(4, 2, 0x20_1000 | PS | P | RW | US, 0x7ff0_0000);
    expect(t.walker.walk(config, 0, 0, 0, null)).toBe(true);
    expect([t.walker.out, t.walker.pat]).toEqual([0x20_0000, 4]);
  });

  it('grant what every entry on the way grants', () => {
    const read = X86_PERM.SR | X86_PERM.UR;
    const execute = X86_PERM.SX | X86_PERM.UX;
    for (const [upper, lower, xd, granted] of [
      [RW | US, RW | US, 0, 63],
      [US, RW | US, 0, read | execute],
      [RW | US, US, 0, read | execute],
      [RW, RW | US, 0, X86_PERM.SR | X86_PERM.SW | X86_PERM.SX],
      [RW | US, RW | US, 1, read | X86_WRITE],
    ] as const) {
      const t = tables().chain(4, 1, 0x7000 | P | lower, xd ? 0x8000_0000 : 0);
      t.put(0x2000, 0x3000 | P | upper);
      expect(t.walker.walk(x86Config(options()), 0, 0, 0, null)).toBe(true);
      expect(t.walker.permissions).toBe(granted);
    }
  });

  it('let supervisors write anywhere without write protection, and not execute user pages with SMEP', () => {
    const t = tables().chain(4, 1, 0x7000 | P | US);
    const lax = x86Permissions({ writeProtect: false, smep: true, noExecute: true });
    const config = x86Config(options({ permissions: lax }));
    expect(t.walker.walk(config, 0, 0, X86_PERM.SW, null)).toBe(true);
    expect(t.walker.walk(config, 0, 0, X86_PERM.UW, null)).toBe(false);
    expect(t.walker.walk(config, 0, 0, X86_PERM.SX, null)).toBe(false);
    expect(t.walker.fault).toBe(X86_FAULT.PERMISSION);
    expect(t.walker.walk(config, 0, 0, X86_PERM.UX, null)).toBe(true);
  });

  it('set Accessed in every entry they use, Dirty in the last one at a write', () => {
    const t = tables().chain(4, 1, 0x7000 | P | RW | US | G);
    const config = x86Config(options({ extendedAccessed: true }));
    expect(t.walker.walk(config, 0, 0, X86_PERM.UR, null)).toBe(true);
    expect([t.walker.clean, t.walker.global]).toEqual([true, true]);
    for (let at = 0x1000; at <= 0x4000; at += 0x1000) expect(t.get(at) & (A | EA | D)).toBe(A | EA);
    expect(t.walker.walk(config, 0, 0, X86_PERM.UW, null)).toBe(true);
    expect(t.walker.clean).toBe(false);
    expect(t.get(0x4000) & D).toBe(D);
    expect(t.get(0x3000) & D).toBe(0);
  });

  it('leave the last entry alone where permission is missing, and tables too without Accessed', () => {
    const t = tables().chain(4, 1, 0x7000 | P | US);
    expect(t.walker.walk(x86Config(options()), 0, 0, X86_PERM.UW, null)).toBe(false);
    expect(t.get(0x4000) & (A | D)).toBe(0);
    const plain = tables().chain(4, 1, 0x7000 | P | RW | US);
    const off = x86Config(options({ accessed: false, dirty: false }));
    expect(plain.walker.walk(off, 0, 0, X86_PERM.UW, null)).toBe(true);
    for (let at = 0x1000; at <= 0x4000; at += 0x1000) expect(plain.get(at) & (A | D)).toBe(0);
  });

  it('set Dirty for an ATS request that will write where it may', () => {
    const want = X86_PERM.UR | X86_PERM.UW;
    const t = tables().chain(4, 1, 0x7000 | P | RW | US);
    expect(t.walker.walk(x86Config(options()), 0, 0, 0, null, want)).toBe(true);
    expect(t.get(0x4000) & D).toBe(D);
    const readOnly = tables().chain(4, 1, 0x7000 | P | US);
    expect(readOnly.walker.walk(x86Config(options()), 0, 0, 0, null, want)).toBe(true);
    expect(readOnly.get(0x4000) & D).toBe(0);
  });

  it('tell a refused load from a refused update', () => {
    const t = tables().chain(4, 1, 0x7000 | P | RW | US);
    t.put(0x3000, 0x99_0000 | P | RW | US);
    expect(t.walker.walk(x86Config(options()), 0, 0, 0, null)).toBe(false);
    expect([t.walker.fault, t.walker.level, t.walker.fetchAddress]).toEqual([X86_FAULT.FETCH, 1, 0x99_0000]);
    const readOnly = new X86Walker({
      load64: (pa: number, out: Uint32Array) => t.ram.load64(pa, out),
      store64: () => false,
      read: () => false,
      write: () => false,
    });
    t.put(0x1000, 0x2000 | P | RW | US);
    expect(readOnly.walk(x86Config(options()), 0, 0, 0, null)).toBe(false);
    expect([readOnly.fault, readOnly.level, readOnly.fetchAddress]).toEqual([X86_FAULT.UPDATE, 4, 0x1000]);
  });

  it('fault where a flag must be set and may not be, and go on where it is set already', () => {
    const t = tables().chain(4, 1, 0x7000 | P | RW | US | A | D);
    const config = x86Config(options({ updates: false }));
    expect(t.walker.walk(config, 0, 0, X86_PERM.UW, null)).toBe(false);
    expect([t.walker.fault, t.walker.level]).toEqual([X86_FAULT.UPDATE_BLOCKED, 4]);
    for (let at = 0x1000; at <= 0x3000; at += 0x1000) t.put(at, (at + 0x1000) | P | RW | US | A);
    expect(t.walker.walk(config, 0, 0, X86_PERM.UW, null)).toBe(true);
  });

  it('resolve the address of every entry through the space they lie in', () => {
    const t = tables().chain(4, 1, 0x7000 | P | RW | US);
    const seen: [number, boolean][] = [];
    const space = (writable: boolean): TableSpace & { descriptorHi: number; descriptorLo: number } => ({
      descriptorHi: 0,
      descriptorLo: 0,
      descriptor(hi, lo, write) {
        seen.push([addressOf(hi, lo), write]);
        this.descriptorHi = hi;
        this.descriptorLo = lo;
        return !write || writable;
      },
    });
    expect(t.walker.walk(x86Config(options()), 0, 0, X86_PERM.UW, space(true))).toBe(true);
    expect(seen.map(([address]) => address)).toEqual([
      0x1000, 0x1000, 0x2000, 0x2000, 0x3000, 0x3000, 0x4000, 0x4000,
    ]);
    t.put(0x4000, 0x7000 | P | RW | US);
    expect(t.walker.walk(x86Config(options()), 0, 0, X86_PERM.UW, space(false))).toBe(false);
    expect([t.walker.nestedFault, t.walker.nestedUpdate, t.walker.level]).toEqual([true, true, 1]);
  });

  it('start from a cached table, with the permissions above it', () => {
    const t = tables().chain(4, 1, 0x7000 | P | RW | US);
    t.put(0x2000, 0x3000 | P | US);
    const known = new Map<number, { level: number; baseHi: number; baseLo: number; inherited: number }>();
    const cache: TableCache = {
      baseHi: 0,
      baseLo: 0,
      inherited: 0,
      find() {
        const lowest = [...known.values()].sort((a, b) => a.level - b.level)[0];
        if (lowest === undefined) return 0;
        Object.assign(this, lowest);
        return lowest.level;
      },
      fill: (_hi, _lo, level, baseHi, baseLo, inherited, regionBits) => {
        expect(regionBits).toBe(12 + 9 * level);
        known.set(level, { level, baseHi, baseLo, inherited });
      },
    };
    t.walker.cache = cache;
    expect(t.walker.walk(x86Config(options()), 0, 0, X86_PERM.UR, null)).toBe(true);
    expect([...known.keys()]).toEqual([3, 2, 1]);
    t.put(0x2000, 0).put(0x1000, 0);
    expect(t.walker.walk(x86Config(options()), 0, 0, X86_PERM.UR, null)).toBe(true);
    expect(t.walker.walk(x86Config(options()), 0, 0, X86_PERM.UW, null)).toBe(false);
  });
});
