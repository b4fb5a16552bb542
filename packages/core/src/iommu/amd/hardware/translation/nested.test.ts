import { describe, expect, it } from 'vitest';
import { addressRange } from '../../../caches/cache.ts';
import { CONTROL } from '../../spec/registers.ts';
import { BASIC, type Fields, Rig, gcr3Fields, invalidateAll, invalidatePages, pte } from '../testing/rig.ts';

const DEVICE = 0x20;
const PASID = 5;
const GUEST = BASIC | CONTROL.GTEn.inPlace;
const ALL = 7n;
const ACCESSED = 0x20n;
const DIRTY = 0x40n;
const withPasid = { pasid: PASID };

interface Nested {
  readonly rig: Rig;
  readonly gcr3: number;
  readonly cr3: number;
  readonly root: number;
  readonly gpa: (spa: number) => number;
}

/** The guest's GPAs lie 1 GiB above the SPAs, through host tables of three levels. */
function nested(fields: Fields = {}, control = 0): Nested {
  const rig = new Rig();
  const [gcr3, cr3, root] = [rig.page(), rig.page(), rig.page()];
  const gpa = (spa: number): number => 0x4000_0000 + spa;
  // The guest's own tables: whatever the rig allocates next.
  for (let page = 0; page < 64; page++) {
    const spa = BigInt(gcr3 + page * 4096);
    rig.map(root, 3, 0x4000_0000n + spa, pte(spa));
  }
  rig.put(gcr3 + PASID * 8, BigInt(gpa(cr3)) | 1n);
  rig.hostDte(DEVICE, root, 3, { GV: 1, ...gcr3Fields(gcr3), ...fields });
  rig.control(GUEST, control);
  return { rig, gcr3, cr3, root, gpa };
}

/** Fills guest tables whose table addresses are GPAs. */
function mapNested({ rig, cr3, gpa }: Nested, gva: bigint, leaf: bigint): number[] {
  const entries: number[] = [];
  let table = cr3;
  for (let level = 4; level > 1; level--) {
    const entry = table + Number((gva >> BigInt(3 + 9 * level)) & 511n) * 8;
    if ((rig.at(entry) & 1n) === 0n) rig.put(entry, BigInt(gpa(rig.page())) | ALL);
    entries.push(entry);
    table = Number(rig.at(entry) & 0xf_ffff_ffff_f000n) - 0x4000_0000;
  }
  const entry = table + Number((gva >> 12n) & 511n) * 8;
  rig.put(entry, leaf);
  return [...entries, entry];
}

describe('guest and host tables together', () => {
  it('§2.2.6: GVA to GPA to SPA, and tables of the guest are at GPAs', () => {
    const all = nested();
    mapNested(all, 0x7000n, 0x12_3000n | ALL);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x9_8765_4000n));
    expect(all.rig.where(DEVICE, 0x7abcn, withPasid)).toBe(0x9_8765_4abcn);
  });

  it('§2.2.6: without a PASID the host tables alone translate', () => {
    const all = nested();
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x9_8765_4000n));
    expect(all.rig.where(DEVICE, 0x12_3abcn)).toBe(0x9_8765_4abcn);
  });

  it('§2.2.6: the translation is as large as the smaller page', () => {
    const all = nested();
    mapNested(all, 0x7000n, 0x8000_0000n | ALL);
    all.rig.map(all.root, 3, 0x8000_0000n, pte(0x1_8000_0000n), 3);
    expect(all.rig.dma(DEVICE, 0x7000n, withPasid)).toMatchObject({ pa: 0x1_8000_0000, bytes: 4096 });
  });

  it.each([
    [0, false, 'IO_PAGE_FAULT'],
    [1, false, 0x5000n],
    [1, true, 'IO_PAGE_FAULT'],
    [2, false, 'IO_PAGE_FAULT'],
  ])('§2.2.6: IR and IW %i of the host bound the guest (write %s)', (rights, write, expected) => {
    const all = nested();
    mapNested(all, 0x7000n, 0x12_3000n | ALL);
    const [ir, iw] = [(rights & 1) as 0 | 1, (rights >> 1) as 0 | 1];
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x5000n, { ir, iw }));
    expect(all.rig.where(DEVICE, 0x7000n, { ...withPasid, write })).toBe(expected);
  });

  it('§2.2.6: execution needs IR', () => {
    const all = nested();
    mapNested(all, 0x7000n, 0x12_3000n | ALL);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x5000n, { ir: 0 }));
    expect(all.rig.where(DEVICE, 0x7000n, { ...withPasid, execute: true })).toBe('IO_PAGE_FAULT');
  });

  it('§2.5.3: a fault of the host tables has GN 0, the domain and the GPA', () => {
    const all = nested();
    mapNested(all, 0x7000n, 0x12_3000n | ALL);
    expect(all.rig.where(DEVICE, 0x7abcn, { ...withPasid, write: true })).toBe('IO_PAGE_FAULT');
    expect(all.rig.events()[0]!.fields).toMatchObject({
      GN: 0,
      DomainID: 7,
      PASID_19_16: 0,
      Address: 0x12_3abcn,
      PR: 0,
      RW: 1,
      US: 0,
    });
  });

  it('§2.5.3: so has one on the way to an entry of the guest', () => {
    const all = nested();
    all.rig.put(all.cr3, 0x77_7000n | ALL);
    expect(all.rig.where(DEVICE, 0x8000_0000n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(all.rig.events()[0]!.fields).toMatchObject({ GN: 0, DomainID: 7, Address: 0x77_7010n });
  });

  it('§2.2.6: setting Accessed in a guest entry is a write under the host tables', () => {
    const all = nested();
    const entries = mapNested(all, 0x7000n, 0x12_3000n | ALL);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x5000n));
    const spa = BigInt(entries.at(-1)!) & ~0xfffn;
    all.rig.map(all.root, 3, 0x4000_0000n + spa, pte(spa, { iw: 0 }));
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(all.rig.events()[0]!.fields).toMatchObject({ GN: 0, PR: 1, PE: 1 });
    for (const entry of entries) all.rig.put(entry, all.rig.at(entry) | ACCESSED);
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x5000n);
  });

  it('§2.2.2, HAD: host Accessed and Dirty follow guest walks and accesses', () => {
    const all = nested({ HAD: 3 });
    const entries = mapNested(all, 0x7000n, 0x12_3000n | ALL);
    const data = all.rig.map(all.root, 3, 0x12_3000n, pte(0x5000n));
    const spa = BigInt(entries.at(-1)!) & ~0xfffn;
    const table = all.rig.map(all.root, 3, 0x4000_0000n + spa, pte(spa));
    all.rig.where(DEVICE, 0x7000n, withPasid);
    expect(all.rig.at(data) & (ACCESSED | DIRTY)).toBe(ACCESSED);
    expect(all.rig.at(table) & (ACCESSED | DIRTY)).toBe(ACCESSED | DIRTY);
    all.rig.where(DEVICE, 0x7000n, { ...withPasid, write: true });
    expect(all.rig.at(data) & (ACCESSED | DIRTY)).toBe(ACCESSED | DIRTY);
  });

  it('§3.4, 0018h: with GCR3TRPMode the pointer in the DTE is a GPA', () => {
    const all = nested({}, CONTROL.GCR3TRPMode.inPlace);
    all.rig.hostDte(DEVICE, all.root, 3, { GV: 1, ...gcr3Fields(all.gpa(all.gcr3)) });
    mapNested(all, 0x7000n, 0x12_3000n | ALL);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x5000n));
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x5000n);
    all.rig.control(GUEST);
    all.rig.submit(invalidateAll());
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe('PAGE_TAB_HARDWARE_ERROR');
  });

  it('§2.2.6: entries of a GCR3 table point to GPAs in both modes', () => {
    const all = nested({ GLX: 1 });
    const second = all.rig.page();
    all.rig.put(all.gcr3, BigInt(all.gpa(second)) | 1n);
    all.rig.put(second + PASID * 8, BigInt(all.gpa(all.cr3)) | 1n);
    mapNested(all, 0x7000n, 0x12_3000n | ALL);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x5000n));
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x5000n);
  });

  it('§2.4.3: INVALIDATE_IOMMU_PAGES without GN is enough for a host page that has moved', () => {
    const all = nested();
    mapNested(all, 0x7000n, 0x12_3000n | ALL);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x5000n));
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x5000n);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x6000n));
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x5000n);
    all.rig.submit(invalidatePages(7, 0x7000n));
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x5000n);
    all.rig.submit(invalidatePages(7, 0x12_3000n));
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x6000n);
  });

  it('knows no host page from before as many invalidations as it can count', () => {
    const all = nested();
    mapNested(all, 0x7000n, 0x12_3000n | ALL);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x5000n));
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x5000n);
    all.rig.map(all.root, 3, 0x12_3000n, pte(0x6000n));
    const { iotlb } = all.rig.iommu;
    const range = addressRange(0, 0x12_3000, 4096);
    for (let i = 0; i < 2 ** 22; i++) iotlb.invalidateHost(7, range, false);
    expect([...iotlb.domains()].find(({ id }) => id === 7)!.age).toBe(0);
    expect(all.rig.where(DEVICE, 0x7000n, withPasid)).toBe(0x6000n);
  });
});
