import { describe, expect, it } from 'vitest';
import { EVENT } from '../../spec/events.ts';
import {
  type Fields,
  Rig,
  invalidateAll,
  invalidateDevice,
  invalidatePages,
  pte,
  sized,
} from '../testing/rig.ts';
import type { ConfigOverrides } from '../registers/config.ts';

const DEVICE = 0x20;

/** A rig, its root table, and a device with `mode` levels and domain 7. */
function host(
  mode: number,
  overrides: ConfigOverrides = {},
  fields: Fields = {},
): { rig: Rig; root: number } {
  const rig = new Rig(overrides);
  const root = rig.page();
  rig.hostDte(DEVICE, root, mode, fields);
  return { rig, root };
}

describe('leaves', () => {
  it.each([
    [1, 12],
    [2, 21],
    [3, 30],
    [4, 39],
    [5, 48],
  ])('§2.2.3, table 15: Next Level 0 at level %i maps 2^%i bytes', (level, bits) => {
    const { rig, root } = host(6);
    const size = 1n << BigInt(bits);
    const iova = 5n * size + (size >> 1n) + 0x123n;
    rig.map(root, 6, iova, pte(2n * size), level);
    expect(rig.where(DEVICE, iova)).toBe(2n * size + (iova % size));
    expect(rig.dma(DEVICE, iova)).toMatchObject({ bytes: Number(size - (iova % size)) });
  });

  it.each([
    [1, 13],
    [1, 16],
    [1, 20],
    [2, 22],
    [2, 29],
    [3, 31],
    [3, 38],
    [4, 40],
    [4, 47],
    [5, 49],
    [5, 51],
  ])('§2.2.3, table 14: Next Level 7 at level %i maps 2^%i bytes', (level, bits) => {
    const { rig, root } = host(6);
    const size = 1n << BigInt(bits);
    const iova = 5n * size + size - 0x88n;
    rig.map(root, 6, iova, pte(sized(size, bits), { next: 7 }), level);
    expect(rig.where(DEVICE, iova)).toBe(2n * size - 0x88n);
  });

  it('§2.2.3, table 14: 2^52 bytes are all that a leaf can map', () => {
    const { rig, root } = host(6);
    rig.map(root, 6, 0n, pte(sized(0n, 52), { next: 7 }), 5);
    expect(rig.where(DEVICE, 0x8_7654_3210n)).toBe(0x8_7654_3210n);
  });

  it.each([
    ['a size of the level itself', 2, 21],
    ['a size of the level below', 2, 13],
    ['a size of the level above', 1, 21],
    ['a size far above', 1, 40],
  ])('§2.2.3: Next Level 7 with %s is no page size', (_name, level, bits) => {
    const { rig, root } = host(4);
    rig.map(root, 4, 0n, pte(sized(0n, bits), { next: 7 }), level);
    expect(rig.where(DEVICE, 0n)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 1, RZ: 0, PE: 0 });
  });

  it('§2.2.3: Next Level 7 with an address field of ones is no page size', () => {
    const { rig, root } = host(4);
    rig.map(root, 4, 0n, pte(0xf_ffff_ffff_f000n, { next: 7 }));
    expect(rig.where(DEVICE, 0n)).toBe('IO_PAGE_FAULT');
  });

  it.each([0, 7])('§2.2.3, table 15: the sixth level has no leaves (Next Level %i)', (next) => {
    const { rig, root } = host(6);
    rig.map(root, 6, 0n, pte(sized(0n, 52), { next }), 6);
    expect(rig.where(DEVICE, 0n)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 1, RZ: 0 });
  });

  it('§2.2.3: address bits below the size of a leaf do not count', () => {
    const { rig, root } = host(3);
    rig.map(root, 3, 0n, pte(0x4000_0000n | 0x1f_f000n), 2);
    expect(rig.where(DEVICE, 0x1234n)).toBe(0x4000_1234n);
  });

  it('§2.2.3: bits 4:1, 8:7 and 63 of an entry are ignored', () => {
    const { rig, root } = host(2);
    const bits = 0x19en | (1n << 63n);
    rig.map(root, 2, 0n, pte(0x9000n, { bits }));
    const directory = rig.at(root);
    rig.put(root, directory | bits);
    expect(rig.where(DEVICE, 0x10n)).toBe(0x9010n);
  });

  it.each([52, 53, 54, 55, 56, 57, 58])('§2.2.3: bit %i of a leaf is reserved', (bit) => {
    const { rig, root } = host(2);
    rig.map(root, 2, 0n, pte(0x9000n, { bits: 1n << BigInt(bit) }));
    expect(rig.where(DEVICE, 0n)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 1, RZ: 1, PE: 0 });
  });
});

describe('directories', () => {
  it.each([52, 56, 59, 60])('§2.2.3: bit %i of a directory entry is reserved', (bit) => {
    const { rig, root } = host(2);
    rig.map(root, 2, 0n, pte(0x9000n));
    rig.put(root, rig.at(root) | (1n << BigInt(bit)));
    expect(rig.where(DEVICE, 0n)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 1, RZ: 1 });
  });

  it.each([
    [4, 4],
    [4, 5],
    [3, 6],
    [1, 1],
    [1, 6],
  ])('§2.2.3: an entry of level %i cannot lead to level %i', (level, next) => {
    const { rig, root } = host(4);
    rig.map(root, 4, 0n, pte(BigInt(rig.page()), { next }), level);
    expect(rig.where(DEVICE, 0n)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 1, RZ: 0, PE: 0 });
  });

  it('§2.2.3: levels may be skipped', () => {
    const { rig, root } = host(5);
    const table = rig.page();
    rig.put(root, pte(BigInt(table), { next: 1 }));
    rig.put(table + 8, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1abcn)).toBe(0x9abcn);
  });

  it('§2.2.3: address bits that a skipped level would resolve have to be zero', () => {
    const { rig, root } = host(5);
    const table = rig.page();
    rig.put(root, pte(BigInt(table), { next: 1 }));
    rig.put(table + 8, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    for (let bit = 21n; bit < 48n; bit++)
      expect(rig.where(DEVICE, 0x1000n | (1n << bit))).toBe('IO_PAGE_FAULT');
    for (const { fields } of rig.events()) expect(fields).toMatchObject({ PR: 1, RZ: 0, PE: 0 });
  });

  it('§2.2.3: levels may be skipped on the way down to a large page', () => {
    const { rig, root } = host(6);
    const table = rig.page();
    rig.put(root + 8, pte(BigInt(table), { next: 3 }));
    rig.put(table + 16, pte(0x40_0000_0000n));
    const iova = (1n << 57n) | (2n << 30n) | 0x55_5555n;
    expect(rig.where(DEVICE, iova)).toBe(0x40_0055_5555n);
    expect(rig.where(DEVICE, iova | (1n << 39n))).toBe('IO_PAGE_FAULT');
  });

  it.each([
    [1, 1],
    [2, 2],
    [3, 0],
  ])('§2.2.3: IR and IW of all entries are ANDed (directory %i)', (rights, leaf) => {
    const { rig, root } = host(3);
    const entry = (value: number): { ir: 0 | 1; iw: 0 | 1 } => ({
      ir: (value & 1) as 0 | 1,
      iw: ((value >> 1) & 1) as 0 | 1,
    });
    rig.map(root, 3, 0n, pte(0x9000n, entry(3 - leaf === 0 ? 3 : leaf === 0 ? 1 : 3)));
    rig.put(root, pte(rig.at(root) & 0xf_ffff_ffff_f000n, { next: 2, ...entry(rights) }));
    const effective = rights & (leaf === 0 ? 1 : 3);
    expect(rig.where(DEVICE, 0n)).toBe((effective & 1) !== 0 ? 0x9000n : 'IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 0n, { write: true })).toBe((effective & 2) !== 0 ? 0x9000n : 'IO_PAGE_FAULT');
  });

  it('§2.5.3: what the entries deny is PR and PE, with RW for a write', () => {
    const { rig, root } = host(2, {}, { DomainID: 0xabcd });
    rig.map(root, 2, 0n, pte(0x9000n, { iw: 0 }));
    expect(rig.where(DEVICE, 0x8n, { write: true })).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toEqual({
      DeviceID: DEVICE,
      PASID_19_16: 0,
      DomainID: 0xabcd,
      GN: 0,
      NX: 0,
      US: 0,
      I: 0,
      PR: 1,
      RW: 1,
      PE: 1,
      RZ: 0,
      TR: 0,
      EventCode: EVENT.IO_PAGE_FAULT,
      Address: 8n,
    });
  });

  it('§2.5.3: an entry that is not present is PR 0, at any level', () => {
    for (const level of [1, 2, 3]) {
      const { rig, root } = host(3);
      rig.map(root, 3, 0x1000n, pte(0x9000n));
      rig.map(root, 3, 0x1000n, 0x6000_0000_0000_9000n, level);
      expect(rig.where(DEVICE, 0x1fffn)).toBe('IO_PAGE_FAULT');
      expect(rig.events()[0]!.fields).toMatchObject({ PR: 0, PE: 0, RZ: 0, Address: 0x1fffn });
    }
  });

  it('§2.5.5: an entry that memory refuses is PAGE_TAB_HARDWARE_ERROR with its address', () => {
    const { rig, root } = host(2, {}, { DomainID: 9 });
    rig.put(root + 3 * 8, pte(0x7_7000_0000_000n, { next: 1 }));
    expect(rig.where(DEVICE, 0x60_5000n, { write: true })).toBe('PAGE_TAB_HARDWARE_ERROR');
    expect(rig.events()[0]!.fields).toEqual({
      DeviceID: DEVICE,
      PASID_19_16: 0,
      DomainID: 9,
      GN: 0,
      I: 0,
      RW: 1,
      TR: 0,
      Type: 1,
      EventCode: EVENT.PAGE_TAB_HARDWARE_ERROR,
      Address: 0x7_7000_0000_000n + 5n * 8n,
    });
  });

  it.each([1, 2, 3, 4, 5])('§2.2.3: with Mode %i an address above its width faults', (mode) => {
    const { rig, root } = host(mode);
    rig.map(root, mode, 0n, pte(0x9000n));
    const width = BigInt(12 + 9 * mode);
    expect(rig.where(DEVICE, 0n)).toBe(0x9000n);
    for (let bit = width; bit < 64n; bit++) expect(rig.where(DEVICE, 1n << bit)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 0, Address: 1n << width });
  });
});

describe('the IOTLB', () => {
  const changed = (overrides: ConfigOverrides = {}): { rig: Rig; root: number; entry: number } => {
    const { rig, root } = host(3, overrides);
    const entry = rig.map(root, 3, 0x1000n, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    rig.put(entry, pte(0xb000n));
    return { rig, root, entry };
  };

  it('§2.4.3: keeps a translation until INVALIDATE_IOMMU_PAGES takes it', () => {
    const { rig } = changed();
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    rig.submit(invalidatePages(7, 0x1000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0xb000n);
  });

  it('§2.4.3: keeps it where the command names another domain, or another page', () => {
    const { rig } = changed();
    rig.submit(invalidatePages(8, 0x1000n), invalidatePages(7, 0x2000n), invalidatePages(7, 0n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
  });

  it('§2.4.3: keeps it where GN says guest translations', () => {
    const { rig } = changed();
    rig.submit(invalidatePages(7, 0x1000n, { pasid: 0 }), invalidatePages(7, 0n, { pasid: 0, size: 64 }));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
  });

  it('§2.4.2: keeps it when the DTE is invalidated', () => {
    const { rig } = changed();
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
  });

  it('§2.4.4: keeps it when the device IOTLB is invalidated', () => {
    const { rig } = changed();
    rig.submit(Uint32Array.of(DEVICE, 0x4000_0020, 0xffff_f001, 0x7fff_ffff));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
  });

  it('§2.4.8: loses it to INVALIDATE_IOMMU_ALL', () => {
    const { rig } = changed();
    rig.submit(invalidateAll());
    expect(rig.where(DEVICE, 0x1000n)).toBe(0xb000n);
  });

  it.each([13, 16, 21, 30, 39, 48, 52, 64])('§2.4.3, table 14: S and the address say 2^%i bytes', (size) => {
    const { rig } = changed();
    if (size < 52) {
      rig.submit(invalidatePages(7, 1n << BigInt(size), { size }));
      expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    }
    rig.submit(invalidatePages(7, 0n, { size }));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0xb000n);
  });

  it('§2.4.3: a command for one page takes the large page that it lies in', () => {
    const { rig, root } = host(3);
    const entry = rig.map(root, 3, 0n, pte(0x20_0000n), 2);
    expect(rig.where(DEVICE, 0x1f_f000n)).toBe(0x3f_f000n);
    rig.put(entry, pte(0x60_0000n));
    rig.submit(invalidatePages(7, 0x8000n));
    expect(rig.where(DEVICE, 0x1f_f000n)).toBe(0x7f_f000n);
  });

  it('§2.4.3: a range takes all pages in it and none beside it', () => {
    const { rig, root } = host(3);
    const entries = [0x7000n, 0x8000n, 0xb000n, 0xc000n].map((iova) => {
      const entry = rig.map(root, 3, iova, pte(0x10_0000n + iova));
      rig.where(DEVICE, iova);
      return [iova, entry] as const;
    });
    for (const [iova, entry] of entries) rig.put(entry, pte(0x20_0000n + iova));
    rig.submit(invalidatePages(7, 0x8000n, { size: 14 }));
    expect(rig.where(DEVICE, 0x7000n)).toBe(0x10_7000n);
    expect(rig.where(DEVICE, 0x8000n)).toBe(0x20_8000n);
    expect(rig.where(DEVICE, 0xb000n)).toBe(0x20_b000n);
    expect(rig.where(DEVICE, 0xc000n)).toBe(0x10_c000n);
  });

  it('§2.2.2, DomainID: is shared by the devices of a domain', () => {
    const { rig, root, entry } = changed();
    rig.hostDte(DEVICE + 1, root, 3);
    rig.hostDte(DEVICE + 2, root, 3, { DomainID: 8 });
    expect(rig.at(entry) & 0xf000n).toBe(0xb000n);
    expect(rig.where(DEVICE + 1, 0x1000n)).toBe(0x9000n);
    expect(rig.where(DEVICE + 2, 0x1000n)).toBe(0xb000n);
  });

  it('§2.4.3: PDE 0 leaves page directory entries, PDE 1 takes them', () => {
    const { rig, root } = host(3);
    rig.map(root, 3, 0x1000n, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    // Another table of leaves takes the place of the first one.
    const other = rig.page();
    rig.put(other + 8, pte(0xb000n));
    rig.map(root, 3, 0x1000n, pte(BigInt(other), { next: 1 }), 2);
    rig.submit(invalidatePages(7, 0x1000n, { pde: 0 }));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    rig.submit(invalidatePages(7, 0n, { pde: 0, size: 64 }));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    rig.submit(invalidatePages(7, 0x1000n, { pde: 1 }));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0xb000n);
  });

  it('§2.4.3: PDE 1 takes the directory entries of its range alone', () => {
    const { rig, root } = host(3);
    rig.map(root, 3, 0x1000n, pte(0x9000n));
    rig.where(DEVICE, 0x1000n);
    const other = rig.page();
    rig.put(other + 16, pte(0xb000n));
    rig.map(root, 3, 0x1000n, pte(BigInt(other), { next: 1 }), 2);
    rig.submit(invalidatePages(7, 0x40_0000n, { pde: 1 }));
    expect(rig.where(DEVICE, 0x2000n)).toBe('IO_PAGE_FAULT');
    rig.submit(invalidatePages(7, 0x3000n, { pde: 1 }));
    expect(rig.where(DEVICE, 0x2000n)).toBe(0xb000n);
  });

  it('keeps no directory entries where caches.tables says so', () => {
    const { rig, root } = host(3, { caches: { tables: false } });
    rig.map(root, 3, 0x1000n, pte(0x9000n));
    rig.where(DEVICE, 0x1000n);
    const other = rig.page();
    rig.put(other + 8, pte(0xb000n));
    rig.map(root, 3, 0x1000n, pte(BigInt(other), { next: 1 }), 2);
    rig.submit(invalidatePages(7, 0x1000n, { pde: 0 }));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0xb000n);
  });

  it('§3.2.1, NpCache 0: does not keep that nothing is mapped', () => {
    const { rig, root } = host(3);
    expect(rig.where(DEVICE, 0x1000n)).toBe('IO_PAGE_FAULT');
    rig.map(root, 3, 0x1000n, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
  });

  it('§3.2.1, NpCache 1: keeps that nothing is mapped until it is invalidated', () => {
    const { rig, root } = host(3, { capHeader: { NpCache: 1 } });
    expect(rig.where(DEVICE, 0x1000n)).toBe('IO_PAGE_FAULT');
    rig.map(root, 3, 0x1000n, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 0x2000n)).toBe('IO_PAGE_FAULT');
    rig.submit(invalidatePages(7, 0x1000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
  });

  it('does not keep what faulted for any other reason', () => {
    const { rig, root } = host(3, { capHeader: { NpCache: 1 } });
    const entry = rig.map(root, 3, 0x1000n, pte(0x9000n, { bits: 1n << 55n }));
    expect(rig.where(DEVICE, 0x1000n)).toBe('IO_PAGE_FAULT');
    rig.put(entry, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
  });

  it('answers from the cache what the entries deny', () => {
    const { rig, root } = host(3);
    const entry = rig.map(root, 3, 0x1000n, pte(0x9000n, { iw: 0 }));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    rig.put(entry, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1000n, { write: true })).toBe('IO_PAGE_FAULT');
    rig.submit(invalidatePages(7, 0x1000n));
    expect(rig.where(DEVICE, 0x1000n, { write: true })).toBe(0x9000n);
  });

  it('finds the smaller page where a stale larger one overlaps it', () => {
    const { rig, root } = host(3);
    rig.map(root, 3, 0n, pte(0x20_0000n), 2);
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x20_1000n);
    rig.submit(invalidatePages(7, 0x1000n));
    rig.put(rig.map(root, 3, 0n, 0n, 2), pte(BigInt(rig.page()), { next: 1 }));
    rig.map(root, 3, 0x1000n, pte(0x9000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
  });

  it('starts over when there are more domains than it tells apart', () => {
    const { rig, root } = host(3);
    rig.map(root, 3, 0x1000n, pte(0x9000n));
    for (let domain = 0; domain < 40; domain++) {
      rig.hostDte(DEVICE, root, 3, { DomainID: domain * 1000 });
      rig.submit(invalidateDevice(DEVICE));
      expect(rig.where(DEVICE, 0x1000n)).toBe(0x9000n);
    }
    expect([...rig.iommu.iotlb.domains()].length).toBe(40);
  });
});

describe('Accessed and Dirty in host tables', () => {
  const A = 1n << 5n;
  const D = 1n << 6n;
  const had = (value: number, overrides: ConfigOverrides = {}) => {
    const { rig, root } = host(2, overrides, { HAD: value });
    const leaf = rig.map(root, 2, 0x1000n, pte(0x9000n));
    return { rig, root, leaf };
  };

  it('§2.2.2, HAD 0: nothing is updated', () => {
    const { rig, root, leaf } = had(0);
    rig.dma(DEVICE, 0x1000n, { write: true });
    expect([rig.at(leaf) & (A | D), rig.at(root) & (A | D)]).toEqual([0n, 0n]);
  });

  it('§2.2.2, HAD 1: Accessed is set in every entry of the walk, Dirty is not', () => {
    const { rig, root, leaf } = had(1);
    rig.dma(DEVICE, 0x1000n, { write: true });
    expect([rig.at(leaf) & (A | D), rig.at(root) & (A | D)]).toEqual([A, A]);
  });

  it('§2.2.2, HAD 3: a write sets Dirty in the leaf, a read does not', () => {
    const { rig, root, leaf } = had(3);
    rig.dma(DEVICE, 0x1000n);
    expect(rig.at(leaf) & (A | D)).toBe(A);
    rig.dma(DEVICE, 0x1000n, { write: true });
    expect([rig.at(leaf) & (A | D), rig.at(root) & (A | D)]).toEqual([A | D, A]);
  });

  it('§2.2.2, HAD 3: Dirty that software has cleared is set again when the IOTLB was invalidated', () => {
    const { rig, leaf } = had(3);
    rig.dma(DEVICE, 0x1000n, { write: true });
    rig.put(leaf, rig.at(leaf) & ~D);
    rig.dma(DEVICE, 0x1000n, { write: true });
    expect(rig.at(leaf) & D).toBe(0n);
    rig.submit(invalidatePages(7, 0x1000n));
    rig.dma(DEVICE, 0x1000n, { write: true });
    expect(rig.at(leaf) & D).toBe(D);
  });

  it('§2.2.2, HAD 3: a write that is denied sets no Dirty', () => {
    const { rig, root } = host(2, {}, { HAD: 3 });
    const leaf = rig.map(root, 2, 0x1000n, pte(0x9000n, { iw: 0 }));
    rig.dma(DEVICE, 0x1000n, { write: true });
    expect(rig.at(leaf) & D).toBe(0n);
  });

  it('§2.2.2, HAD: a device without it leaves a page clean that one with it then makes dirty', () => {
    const { rig, root, leaf } = had(3);
    rig.hostDte(DEVICE + 1, root, 2);
    rig.dma(DEVICE + 1, 0x1000n, { write: true });
    expect(rig.at(leaf) & D).toBe(0n);
    rig.dma(DEVICE, 0x1000n, { write: true });
    expect(rig.at(leaf) & D).toBe(D);
  });

  it('§2.2.3: a page of Next Level 7 gets Dirty in the entry that was used', () => {
    const { rig, root } = host(2, {}, { HAD: 3 });
    const entries = [0n, 0x1000n, 0x2000n, 0x3000n].map((iova) =>
      rig.map(root, 2, iova, pte(sized(0x8000n, 14), { next: 7 })),
    );
    expect(rig.where(DEVICE, 0x2010n, { write: true })).toBe(0xa010n);
    expect(entries.map((entry) => rig.at(entry) & D)).toEqual([0n, 0n, D, 0n]);
  });
});
