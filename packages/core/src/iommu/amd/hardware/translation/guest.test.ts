import { describe, expect, it } from 'vitest';
import { CONTROL, OFFSET } from '../../spec/registers.ts';
import { BASIC, type Fields, Rig, invalidateAll, invalidateDevice, invalidatePages } from '../testing/rig.ts';
import type { ConfigOverrides } from '../registers/config.ts';

const DEVICE = 0x20;
const PASID = 5;
const GUEST = BASIC | CONTROL.GTEn.inPlace;
const PRESENT = 1n;
const WRITABLE = 2n;
const USER = 4n;
const LARGE = 0x80n;
const ALL = PRESENT | WRITABLE | USER;
const ACCESSED = 0x20n;
const DIRTY = 0x40n;
const NO_EXECUTE = 1n << 63n;

interface Guest {
  readonly rig: Rig;
  readonly gcr3: number;
  readonly cr3: number;
}

/** A device with guest tables for one PASID, whose addresses are physical. */
function guest(fields: Fields = {}, overrides: ConfigOverrides = {}, pasid = PASID): Guest {
  const rig = new Rig(overrides);
  const [gcr3, cr3] = [rig.page(), rig.page()];
  rig.put(gcr3 + pasid * 8, BigInt(cr3) | 1n);
  rig.guestDte(DEVICE, gcr3, fields);
  rig.control(GUEST);
  return { rig, gcr3, cr3 };
}

const withPasid = { pasid: PASID };

describe('GCR3 tables', () => {
  it('§2.2.6: one level is indexed by bits 8:0 of the PASID', () => {
    const { rig, cr3 } = guest();
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x1234n, withPasid)).toBe(0x5234n);
    expect(rig.where(DEVICE, 0x1234n, { pasid: PASID + 1 })).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 0x1234n, { pasid: 512 + PASID })).toBe('IO_PAGE_FAULT');
  });

  it.each([
    [1, 0x1_0305, [0x81, 0x105]],
    [2, 0xe_0305, [3, 0x101, 0x105]],
  ])('§2.2.6: GLX %i resolves PASID %i in nine bits per level', (glx, pasid, indices) => {
    const { rig, gcr3, cr3 } = guest({ GLX: glx }, { EFR: { PASMax: 19 } });
    let table = gcr3;
    for (const index of indices.slice(0, -1)) {
      const next = rig.page();
      rig.put(table + index * 8, BigInt(next) | 1n);
      table = next;
    }
    rig.put(table + indices.at(-1)! * 8, BigInt(cr3) | 1n);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x1000n, { pasid })).toBe(0x5000n);
    expect(rig.where(DEVICE, 0x1000n, { pasid: pasid ^ 0x200 })).toBe('IO_PAGE_FAULT');
  });

  it('§3.4, 0030h: PASMax bounds PASIDs, however large the table is', () => {
    const pasid = 0x100;
    const { rig, cr3 } = guest({}, { EFR: { PASMax: 7 } }, pasid);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x1000n, { pasid })).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, PR: 0, DomainID: pasid });
  });

  it('§2.5.3: an entry that is not valid is PR 0, with GN, the PASID and the address', () => {
    const { rig } = guest({}, { EFR: { PASMax: 19 } });
    rig.dte(DEVICE, { GV: 1, GLX: 2, GCR3_14_12: 1, DomainID: 7 });
    rig.put(0x1000, 0n);
    expect(rig.where(DEVICE, 0x7000_1234n, { pasid: 0x3_1234, write: true })).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({
      DeviceID: DEVICE,
      GN: 1,
      PR: 0,
      RW: 1,
      DomainID: 0x1234,
      PASID_19_16: 3,
      Address: 0x7000_1234n,
    });
  });

  it.each([1n, 2n, 5n, 11n, 52n, 63n])('§2.2.6: bit %i of an entry is reserved', (bit) => {
    const { rig, gcr3, cr3 } = guest();
    rig.put(gcr3 + PASID * 8, BigInt(cr3) | 1n | (1n << bit));
    expect(rig.where(DEVICE, 0x1000n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, PR: 1, RZ: 1 });
  });

  it('§2.2.6: PWT and PCD of an entry change nothing', () => {
    const { rig, gcr3, cr3 } = guest();
    rig.put(gcr3 + PASID * 8, BigInt(cr3) | 0x19n);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x1000n, withPasid)).toBe(0x5000n);
  });

  it('§2.5.5: an entry that memory refuses is PAGE_TAB_HARDWARE_ERROR with GN', () => {
    const rig = new Rig();
    rig.guestDte(DEVICE, 0x7f_0000_0000);
    rig.control(GUEST);
    expect(rig.where(DEVICE, 0x1000n, withPasid)).toBe('PAGE_TAB_HARDWARE_ERROR');
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, Type: 1, Address: 0x7f_0000_0000n + 40n });
  });
});

describe('which tables a request uses', () => {
  it('§2.2.2, table 8: with GTEn 0 a PASID is IO_PAGE_FAULT', () => {
    const { rig, cr3 } = guest();
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    rig.control(BASIC);
    expect(rig.where(DEVICE, 0x1000n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, PR: 0, DomainID: PASID });
  });

  it('§2.2.2, table 8: with GV 0 a PASID is IO_PAGE_FAULT', () => {
    const { rig } = guest({ GV: 0 });
    expect(rig.where(DEVICE, 0x1000n, withPasid)).toBe('IO_PAGE_FAULT');
  });

  it('§2.2.2, GIOV 0: requests without a PASID use the host tables', () => {
    const { rig } = guest();
    expect(rig.where(DEVICE, 0x1234n)).toBe(0x1234n);
  });

  it('§2.2.2, GIOV 1: requests without a PASID use those of PASID 0', () => {
    const { rig, cr3 } = guest({ GIOV: 1 }, {}, 0);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x1234n)).toBe(0x5234n);
    expect(rig.where(DEVICE, 0x1234n, { pasid: 0 })).toBe(0x5234n);
    expect(rig.where(DEVICE, 0x2000n)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, DomainID: 0, US: 1, Address: 0x2000n });
  });

  it('§2.2.2, GIOV 1: with GTEn 0 they use the host tables', () => {
    const { rig } = guest({ GIOV: 1 }, {}, 0);
    rig.control(BASIC);
    expect(rig.where(DEVICE, 0x1234n)).toBe(0x1234n);
  });

  it('§2.1.2: with a PASID the interrupt range is memory', () => {
    const { rig, cr3 } = guest();
    rig.mapGuest(cr3, 4, 0xfee0_0000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0xfee0_0000n, { ...withPasid, write: true })).toBe(0x5000n);
    expect(rig.where(DEVICE, 0xfee0_0000n, { write: true })).toBe('interrupt');
  });
});

describe('guest addresses', () => {
  it.each([
    [0, 0xffff_8000_0000_0000n, 0x0000_8000_0000_0000n],
    [1, 0xff00_0000_0000_0000n, 0x0100_0000_0000_0000n],
  ])('§2.2.6: with a PASID they are canonical (GuestPagingMode %i)', (mode, good, bad) => {
    const { rig, cr3 } = guest({ GuestPagingMode: mode });
    rig.mapGuest(cr3, 4 + mode, good, 0x5000n | ALL);
    expect(rig.where(DEVICE, good, withPasid)).toBe(0x5000n);
    expect(rig.where(DEVICE, bad, withPasid)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, PR: 0, Address: bad });
  });

  it.each([
    [0, 0x0000_8000_0000_0000n, 0xffff_8000_0000_0000n],
    [1, 0x0100_0000_0000_0000n, 0xff00_0000_0000_0000n],
  ])('§2.2.2, GIOV: without one they are zero-extended (GuestPagingMode %i)', (mode, good, bad) => {
    const { rig, cr3 } = guest({ GIOV: 1, GuestPagingMode: mode }, {}, 0);
    rig.mapGuest(cr3, 4 + mode, good, 0x5000n | ALL);
    expect(rig.where(DEVICE, good)).toBe(0x5000n);
    expect(rig.where(DEVICE, bad)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, good << 1n)).toBe('IO_PAGE_FAULT');
  });

  it('§2.2.2, GIOV: neither form is let through by what the other one left in the IOTLB', () => {
    const { rig, cr3 } = guest({ GIOV: 1 }, {}, 0);
    rig.mapGuest(cr3, 4, 0x8000_0000_0000n, 0x5000n | ALL);
    const [high, low] = [0xffff_8000_0000_0000n, 0x8000_0000_0000n];
    expect(rig.where(DEVICE, low)).toBe(0x5000n);
    expect(rig.where(DEVICE, high, { pasid: 0 })).toBe(0x5000n);
    expect(rig.where(DEVICE, high)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, low, { pasid: 0 })).toBe('IO_PAGE_FAULT');
  });

  it('§2.2.2, GIOV: what a PASID left in the IOTLB lets no write without one by the interrupt range', () => {
    const { rig, cr3 } = guest({ GIOV: 1 }, {}, 0);
    rig.mapGuest(cr3, 4, 0xfee0_0000n, 0x5000_0000n | ALL | LARGE, 2);
    const write = { write: true };
    for (let i = 0; i < 3; i++) {
      expect(rig.where(DEVICE, 0xfee0_1000n, { ...write, pasid: 0 })).toBe(0x5000_1000n);
      expect(rig.where(DEVICE, 0xfef0_1000n, write)).toBe(0x5010_1000n);
      expect(rig.where(DEVICE, 0xfee0_1000n, write)).toBe('interrupt');
    }
  });

  it('§2.2.2, GuestPagingMode 1: five levels translate 57 bits', () => {
    const { rig, cr3 } = guest({ GuestPagingMode: 1 });
    const address = 0x00ab_cdef_0123_4000n;
    rig.mapGuest(cr3, 5, address, 0x9_8765_4000n | ALL);
    expect(rig.where(DEVICE, address + 0x567n, withPasid)).toBe(0x9_8765_4567n);
  });
});

describe('guest page tables', () => {
  it.each([
    [1, 12],
    [2, 21],
    [3, 30],
  ])('§2.2.6: a leaf at level %i maps 2^%i bytes', (level, bits) => {
    const { rig, cr3 } = guest();
    const size = 1n << BigInt(bits);
    const address = 7n * size + 0x321n;
    rig.mapGuest(cr3, 4, address, (5n * size) | ALL | (level > 1 ? LARGE : 0n), level);
    expect(rig.where(DEVICE, address, withPasid)).toBe(5n * size + 0x321n);
    expect(rig.dma(DEVICE, address, withPasid)).toMatchObject({ bytes: Number(size - 0x321n) });
  });

  it.each([
    [2, 13n],
    [2, 20n],
    [3, 13n],
    [3, 29n],
  ])('§2.2.6: a large leaf of level %i has bit %i reserved', (level, bit) => {
    const { rig, cr3 } = guest();
    rig.mapGuest(cr3, 4, 0n, ALL | LARGE | (1n << bit), level);
    expect(rig.where(DEVICE, 0n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, PR: 1, RZ: 1, PE: 0 });
  });

  it('§2.2.6: the fourth level has no leaves', () => {
    const { rig, cr3 } = guest();
    rig.mapGuest(cr3, 4, 0n, ALL | LARGE, 4);
    expect(rig.where(DEVICE, 0n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 1, RZ: 1 });
  });

  it('§3.2.5: address bits above PAsize are reserved', () => {
    const { rig, cr3 } = guest({}, { miscInfo0: { PAsize: 40 } });
    rig.mapGuest(cr3, 4, 0x1000n, (1n << 40n) | ALL);
    rig.mapGuest(cr3, 4, 0x2000n, (1n << 39n) | ALL);
    expect(rig.where(DEVICE, 0x1000n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 0x2000n, withPasid)).toBe(1n << 39n);
  });

  it('§2.5.3: what is not present is PR 0', () => {
    const { rig, cr3 } = guest();
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x2000n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 1n << 40n, withPasid)).toBe('IO_PAGE_FAULT');
    expect(rig.events().map((e) => [e.fields['PR'], e.fields['PE'], e.fields['US']])).toEqual([
      [0, 0, 1],
      [0, 0, 1],
    ]);
  });

  it('§2.5.5: an entry that memory refuses is PAGE_TAB_HARDWARE_ERROR with its address', () => {
    const { rig, cr3 } = guest();
    rig.put(cr3, 0x7f_0000_0000n | ALL);
    expect(rig.where(DEVICE, 0x4000_0000n, withPasid)).toBe('PAGE_TAB_HARDWARE_ERROR');
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, Address: 0x7f_0000_0008n, DeviceID: DEVICE });
  });
});

describe('permissions of guest tables', () => {
  const read = withPasid;
  const write = { ...withPasid, write: true };
  const execute = { ...withPasid, execute: true };
  const privileged = { ...withPasid, privileged: true };

  function page(leaf: bigint, overrides: ConfigOverrides = {}): Rig {
    const { rig, cr3 } = guest({}, overrides);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | leaf);
    return rig;
  }

  it('§2.2.6: R/W 0 denies writes, to privileged requests too', () => {
    const rig = page(PRESENT | USER);
    expect(rig.where(DEVICE, 0x1000n, read)).toBe(0x5000n);
    expect(rig.where(DEVICE, 0x1000n, write)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 0x1000n, { ...write, privileged: true })).toBe('IO_PAGE_FAULT');
    expect(
      rig.events().map(({ fields }) => [fields['PR'], fields['PE'], fields['RW'], fields['US']]),
    ).toEqual([
      [1, 1, 1, 1],
      [1, 1, 1, 0],
    ]);
  });

  it('§2.2.6: U/S 0 denies user requests', () => {
    const rig = page(PRESENT | WRITABLE);
    expect(rig.where(DEVICE, 0x1000n, privileged)).toBe(0x5000n);
    expect(rig.where(DEVICE, 0x1000n, read)).toBe('IO_PAGE_FAULT');
  });

  it('§3.4, 0030h: without USSup the U/S bits do not count', () => {
    const rig = page(PRESENT | WRITABLE, { EFR: { USSup: 0 } });
    expect(rig.where(DEVICE, 0x1000n, read)).toBe(0x5000n);
  });

  it('§2.2.6: NX denies execution, and IO_PAGE_FAULT says so', () => {
    const rig = page(ALL | NO_EXECUTE);
    expect(rig.where(DEVICE, 0x1000n, read)).toBe(0x5000n);
    expect(rig.where(DEVICE, 0x1000n, execute)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ NX: 1, PR: 1, PE: 1, RW: 0 });
  });

  it('§3.4, 0030h: without NXSup it does not', () => {
    const rig = page(ALL | NO_EXECUTE, { EFR: { NXSup: 0 } });
    expect(rig.where(DEVICE, 0x1000n, execute)).toBe(0x5000n);
  });

  it.each([
    ['R/W', PRESENT | USER, write],
    ['U/S', PRESENT | WRITABLE, read],
    ['NX', ALL | NO_EXECUTE, execute],
  ])('§2.2.6: %s counts in every entry on the way', (_name, bits, request) => {
    const { rig, cr3 } = guest();
    rig.put(cr3, BigInt(rig.page()) | bits);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x1000n, request)).toBe('IO_PAGE_FAULT');
  });

  it('§2.2.6: answers from the IOTLB check permissions again', () => {
    const rig = page(PRESENT);
    expect(rig.where(DEVICE, 0x1000n, privileged)).toBe(0x5000n);
    expect(rig.where(DEVICE, 0x1000n, { ...privileged, write: true })).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 0x1000n, read)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 0x1000n, { ...privileged, execute: true })).toBe(0x5000n);
  });

  it('§2.2.2, IR and IW: deny what guest tables grant', () => {
    const { rig, cr3 } = guest({ IW: 0 });
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x1000n, read)).toBe(0x5000n);
    expect(rig.where(DEVICE, 0x1000n, write)).toBe('IO_PAGE_FAULT');
  });

  it('§2.2.2, IR and IW: bound the device, not the walk', () => {
    const { rig, cr3 } = guest({ IR: 0, IW: 1 });
    const leaf = rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(rig.where(DEVICE, 0x1000n, write)).toBe(0x5000n);
    expect(rig.at(leaf) & DIRTY).toBe(DIRTY);
  });

  it('requests without a PASID are neither privileged nor do they execute', () => {
    const { rig, cr3 } = guest({ GIOV: 1 }, {}, 0);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | PRESENT);
    rig.mapGuest(cr3, 4, 0x2000n, 0x5000n | ALL | NO_EXECUTE);
    expect(rig.where(DEVICE, 0x1000n, { privileged: true })).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, 0x2000n, { execute: true })).toBe(0x5000n);
  });
});

describe('Accessed and Dirty in guest tables', () => {
  function page(): { rig: Rig; cr3: number; leaf: number } {
    const { rig, cr3 } = guest();
    return { rig, cr3, leaf: rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL) };
  }

  it('§2.2.6: a read sets Accessed in every entry', () => {
    const { rig, cr3, leaf } = page();
    rig.where(DEVICE, 0x1000n, withPasid);
    expect(rig.at(leaf) & (ACCESSED | DIRTY)).toBe(ACCESSED);
    expect(rig.at(cr3) & (ACCESSED | DIRTY)).toBe(ACCESSED);
  });

  it('§2.2.6: a write sets Dirty in the leaf, after a read as well', () => {
    const { rig, cr3, leaf } = page();
    rig.where(DEVICE, 0x1000n, withPasid);
    rig.where(DEVICE, 0x1000n, { ...withPasid, write: true });
    expect(rig.at(leaf) & (ACCESSED | DIRTY)).toBe(ACCESSED | DIRTY);
    expect(rig.at(cr3) & DIRTY).toBe(0n);
  });

  it('§3.4, 0018h: with GDUpdateDis Dirty stays as it is', () => {
    const { rig, leaf } = page();
    rig.control(GUEST, CONTROL.GDUpdateDis.inPlace);
    expect(rig.where(DEVICE, 0x1000n, { ...withPasid, write: true })).toBe(0x5000n);
    expect(rig.at(leaf) & (ACCESSED | DIRTY)).toBe(ACCESSED);
  });

  it('§3.4, 0018h: with GAUpdateDis Accessed does', () => {
    const { rig, cr3, leaf } = page();
    rig.control(GUEST, CONTROL.GAUpdateDis.inPlace | CONTROL.GDUpdateDis.inPlace);
    expect(rig.where(DEVICE, 0x1000n, { ...withPasid, write: true })).toBe(0x5000n);
    expect([rig.at(leaf), rig.at(cr3)].map((entry) => entry & (ACCESSED | DIRTY))).toEqual([0n, 0n]);
  });

  it('§2.2.6: what is denied sets nothing in the leaf', () => {
    const { rig, cr3 } = guest();
    const leaf = rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | PRESENT | USER);
    rig.where(DEVICE, 0x1000n, { ...withPasid, write: true });
    expect(rig.at(leaf)).toBe(0x5000n | PRESENT | USER);
  });
});

describe('what the IOTLB keeps of guests', () => {
  function cached(): Guest & { leaf: number } {
    const all = guest();
    const leaf = all.rig.mapGuest(all.cr3, 4, 0x1000n, 0x5000n | ALL);
    all.rig.mapGuest(all.cr3, 4, 0x2000n, 0x7000n | ALL);
    expect(all.rig.where(DEVICE, 0x1000n, withPasid)).toBe(0x5000n);
    expect(all.rig.where(DEVICE, 0x2000n, withPasid)).toBe(0x7000n);
    all.rig.put(leaf, 0x6000n | ALL);
    return { ...all, leaf };
  }
  const now = (rig: Rig): bigint | string => rig.where(DEVICE, 0x1000n, withPasid);

  it.each([
    ['the page', invalidatePages(7, 0x1000n, { pasid: PASID })],
    ['a range', invalidatePages(7, 0n, { pasid: PASID, size: 16 })],
    ['all', invalidatePages(7, 0n, { pasid: PASID, size: 64 })],
    ['everything', invalidateAll()],
  ])('§2.4.3: goes with %s of its PASID', (_name, command) => {
    const { rig } = cached();
    expect(now(rig)).toBe(0x5000n);
    rig.submit(command);
    expect(now(rig)).toBe(0x6000n);
  });

  it.each([
    ['another page', invalidatePages(7, 0x2000n, { pasid: PASID })],
    ['another PASID', invalidatePages(7, 0n, { pasid: PASID + 1, size: 64 })],
    ['another domain', invalidatePages(8, 0n, { pasid: PASID, size: 64 })],
    ['host translations', invalidatePages(7, 0n, { size: 64 })],
    ['the DTE', invalidateDevice(DEVICE)],
  ])('§2.4.3: stays when the command names %s', (_name, command) => {
    const { rig } = cached();
    rig.submit(command);
    expect(now(rig)).toBe(0x5000n);
  });

  it('§2.2.6: PASIDs have their own entries', () => {
    const { rig, gcr3 } = cached();
    const other = rig.page();
    rig.put(gcr3 + 8, BigInt(other) | 1n);
    rig.mapGuest(other, 4, 0x1000n, 0x8000n | ALL);
    expect(rig.where(DEVICE, 0x1000n, { pasid: 1 })).toBe(0x8000n);
    expect(now(rig)).toBe(0x5000n);
  });

  it('§2.4.3: a CR3 is kept until PDE says that directories go', () => {
    const { rig, gcr3 } = cached();
    const other = rig.page();
    rig.mapGuest(other, 4, 0x1000n, 0x9000n | ALL);
    rig.put(gcr3 + PASID * 8, BigInt(other) | 1n);
    rig.submit(invalidatePages(7, 0n, { pasid: PASID, size: 64, pde: 0 }));
    expect(now(rig)).toBe(0x6000n);
    rig.submit(invalidatePages(7, 0n, { pasid: PASID, size: 64, pde: 1 }));
    expect(now(rig)).toBe(0x9000n);
  });

  it('§2.4.3: so are directories', () => {
    const { rig, cr3 } = cached();
    const other = rig.page();
    rig.put(cr3, BigInt(other) | ALL);
    rig.mapGuest(cr3, 4, 0x1000n, 0x9000n | ALL);
    rig.submit(invalidatePages(7, 0x1000n, { pasid: PASID, pde: 0 }));
    expect(now(rig)).toBe(0x6000n);
    rig.submit(invalidatePages(7, 0x1000n, { pasid: PASID, pde: 1 }));
    expect(now(rig)).toBe(0x9000n);
  });

  it('§3.2.1, NpCache 1: keeps that nothing is mapped', () => {
    const { rig, cr3 } = guest({}, { capHeader: { NpCache: 1 } });
    rig.mapGuest(cr3, 4, 0x2000n, 0x5000n | ALL);
    expect(now(rig)).toBe('IO_PAGE_FAULT');
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(now(rig)).toBe('IO_PAGE_FAULT');
    rig.submit(invalidatePages(7, 0x1000n, { pasid: PASID }));
    expect(now(rig)).toBe(0x5000n);
  });

  it('forgets all CR3s where there is no room for one more', () => {
    const { rig, gcr3, cr3 } = guest({}, { caches: { gcr3: 1 } });
    rig.put(gcr3 + 8, BigInt(cr3) | 1n);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5000n | ALL);
    expect(now(rig)).toBe(0x5000n);
    rig.put(gcr3 + PASID * 8, 0n);
    rig.submit(invalidatePages(7, 0x1000n, { pasid: PASID, pde: 0 }));
    expect(now(rig)).toBe(0x5000n);
    expect(rig.where(DEVICE, 0x1000n, { pasid: 1 })).toBe(0x5000n);
    rig.submit(invalidatePages(7, 0x1000n, { pasid: PASID, pde: 0 }));
    expect(now(rig)).toBe('IO_PAGE_FAULT');
    expect(rig.get(OFFSET.EVT_TAIL)).toBe(16n);
  });
});
