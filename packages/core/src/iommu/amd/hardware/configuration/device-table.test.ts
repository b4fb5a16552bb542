import { describe, expect, it } from 'vitest';
import { EVENT } from '../../spec/events.ts';
import { CONTROL, OFFSET } from '../../spec/registers.ts';
import { BASIC, type Fields, Rig, invalidateAll, invalidateDevice, pte, sized } from '../testing/rig.ts';
import type { ConfigOverrides } from '../registers/config.ts';

const DEVICE = 0x20;
const IOVA = 0x1234_5678n;

/** A rig whose device has host tables of four levels, with IOVA's page mapped to 0xaaaa000. */
function mapped(fields: Fields = {}, overrides: ConfigOverrides = {}): { rig: Rig; root: number } {
  const rig = new Rig(overrides);
  const root = rig.page();
  rig.map(root, 4, IOVA, pte(0xaaaa000n));
  rig.hostDte(DEVICE, root, 4, fields);
  return { rig, root };
}

describe('what a DTE makes of a transaction', () => {
  it('§3.4, 0018h: with IommuEn 0 nothing is translated and no DTE is read', () => {
    const { rig } = mapped();
    rig.control(0);
    expect(rig.where(DEVICE, IOVA)).toBe(IOVA);
    expect([...rig.iommu.cachedDevices()]).toEqual([]);
  });

  it('§2.2.2, table 8: with V 0 the address is forwarded, whatever else the entry says', () => {
    const { rig } = mapped({ V: 0, IR: 0, IW: 0, HAD: 2 });
    expect(rig.where(DEVICE, IOVA)).toBe(IOVA);
    expect(rig.where(DEVICE, IOVA, { write: true, pasid: 5 })).toBe(IOVA);
    expect(rig.events()).toEqual([]);
  });

  it('§2.2.2, table 8: with V 1 and TV 0 the walk is terminated: IO_PAGE_FAULT, not present', () => {
    const { rig } = mapped({ TV: 0 });
    expect(rig.where(DEVICE, IOVA)).toBe('IO_PAGE_FAULT');
    const [event] = rig.events();
    expect(event!.fields).toMatchObject({
      DeviceID: DEVICE,
      DomainID: 7,
      PR: 0,
      PE: 0,
      RZ: 0,
      RW: 0,
      Address: IOVA,
    });
  });

  it('§2.2.2, Mode 0: GPA is SPA, under IR and IW', () => {
    const rig = new Rig();
    rig.dte(DEVICE, { IW: 0 });
    expect(rig.where(DEVICE, IOVA)).toBe(IOVA);
    expect(rig.where(DEVICE, IOVA, { write: true })).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 1, PE: 1, RW: 1 });
  });

  it('§2.2.2, Mode 0: an address of more than 52 bits is none', () => {
    const rig = new Rig();
    rig.dte(DEVICE);
    expect(rig.where(DEVICE, 1n << 52n)).toBe('the address has more than 52 bits');
    expect(rig.where(DEVICE, (1n << 52n) - 1n)).toBe((1n << 52n) - 1n);
    expect(rig.events()).toEqual([]);
  });

  it.each([1, 2, 3, 4, 5, 6])('§2.2.2, Mode %i: that many levels translate', (mode) => {
    const rig = new Rig();
    const root = rig.page();
    const iova = (1n << BigInt(Math.min(64, 12 + 9 * mode) - 1)) | (0x5_4321n % (1n << 20n));
    rig.map(root, mode, iova, pte(0xbbbb000n));
    rig.hostDte(DEVICE, root, mode);
    expect(rig.where(DEVICE, iova)).toBe(0xbbbb000n + (iova & 0xfffn));
  });

  it('§2.2.2, Mode 7 is reserved: IO_PAGE_FAULT, an invalid level', () => {
    const { rig } = mapped({ Mode: 7 });
    expect(rig.where(DEVICE, IOVA)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PR: 1, RZ: 0, PE: 0 });
  });

  it('§3.4, 0030h: Mode is at most what HATS says', () => {
    for (const [hats, most] of [
      [0, 4],
      [1, 5],
      [2, 6],
    ] as const) {
      for (const mode of [4, 5, 6]) {
        const rig = new Rig({ EFR: { HATS: hats } });
        const root = rig.page();
        rig.map(root, mode, IOVA, pte(0xaaaa000n));
        rig.hostDte(DEVICE, root, mode);
        const expected = mode <= most ? 0xaaaa678n : 'IO_PAGE_FAULT';
        expect([hats, mode, rig.where(DEVICE, IOVA)]).toEqual([hats, mode, expected]);
      }
    }
  });

  it('§2.2.2, IR and IW: deny before a table is read', () => {
    const { rig } = mapped({ IR: 0 });
    expect(rig.where(DEVICE, IOVA)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, IOVA, { write: true })).toBe(0xaaaa678n);
    expect(rig.where(DEVICE, IOVA, { atomic: true })).toBe('IO_PAGE_FAULT');
    expect(rig.events().map(({ fields }) => fields['PE'])).toEqual([1, 1]);
  });

  it('§2.2.2, IR and IW are of the device: another one of the domain has its own', () => {
    const { rig, root } = mapped();
    rig.hostDte(DEVICE + 1, root, 4, { IR: 0 });
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
    expect(rig.where(DEVICE + 1, IOVA)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
  });

  it('§2.2.3: a leaf that forces coherence says so', () => {
    const rig = new Rig();
    const root = rig.page();
    rig.map(root, 3, 0x1000n, pte(0xaaaa000n, { bits: 1n << 60n }));
    rig.map(root, 3, 0x2000n, pte(0xbbbb000n));
    rig.hostDte(DEVICE, root, 3);
    for (const iova of [0x1000n, 0x2000n, 0x1000n]) {
      expect(rig.dma(DEVICE, iova)).toMatchObject({ kind: 'translated', forceCoherent: iova === 0x1000n });
    }
  });

  it('§2.2.2, Mode0FC: stands for a leaf where nothing is translated, with AttrV', () => {
    const rig = new Rig();
    rig.dte(DEVICE, { AttrV: 1, Mode0FC: 1 });
    rig.dte(DEVICE + 1, { Mode0FC: 1 });
    expect(rig.dma(DEVICE, IOVA)).toMatchObject({ forceCoherent: true });
    expect(rig.dma(DEVICE + 1, IOVA)).toMatchObject({ forceCoherent: false });
  });
});

describe('an illegal DTE', () => {
  const reserved = (bit: number): Rig => {
    const { rig } = mapped();
    const address = rig.deviceTable + DEVICE * 32 + (bit >> 6) * 8;
    rig.put(address, rig.at(address) | (1n << BigInt(bit & 63)));
    return rig;
  };

  it.each([2, 3, 4, 5, 6, 63, 106])('§2.5.2: bit %i is reserved with V 1', (bit) => {
    const rig = reserved(bit);
    expect(rig.where(DEVICE, IOVA, { write: true })).toBe('ILLEGAL_DEV_TABLE_ENTRY');
    expect(rig.events()[0]!.fields).toEqual({
      DeviceID: DEVICE,
      PASID_19_16: 0,
      PASID_15_0: 0,
      GN: 0,
      I: 0,
      RW: 1,
      RZ: 1,
      TR: 0,
      EventCode: EVENT.ILLEGAL_DEV_TABLE_ENTRY,
      Address: IOVA >> 2n,
    });
  });

  it.each([192, 206, 240])('§2.2.2: bit %i is of interrupts, and not looked at for memory', (bit) => {
    expect(reserved(bit).where(DEVICE, IOVA)).toBe(0xaaaa678n);
  });

  it('§2.5.2: tells the PASID of the request', () => {
    const rig = reserved(2);
    rig.dma(DEVICE, IOVA, { pasid: 0x4_3210 });
    expect(rig.events()[0]!.fields).toMatchObject({ GN: 1, PASID_19_16: 4, PASID_15_0: 0x3210, RW: 0 });
  });

  it.each<[string, Fields, ConfigOverrides]>([
    ['HAD 2', { HAD: 2 }, {}],
    ['HAD 3 without HDSup', { HAD: 3 }, { EFR: { HDSup: 0 } }],
    ['IoCtl 3', { IoCtl: 3 }, {}],
    ['GLX 3', { GV: 1, GLX: 3 }, {}],
    ['GLX above GLXSup', { GV: 1, GLX: 2 }, { EFR: { GLXSup: 1 } }],
    ['GuestPagingMode 2', { GV: 1, GuestPagingMode: 2 }, {}],
    ['GuestPagingMode above GATS', { GV: 1, GuestPagingMode: 1 }, { EFR: { GATS: 0 } }],
  ])('§2.2.2: %s is an encoding that is not there', (_name, fields, overrides) => {
    const { rig } = mapped(fields, overrides);
    expect(rig.where(DEVICE, IOVA)).toBe('ILLEGAL_DEV_TABLE_ENTRY');
    expect(rig.events()[0]!.fields).toMatchObject({ RZ: 0 });
  });

  it.each<[string, Fields, ConfigOverrides]>([
    ['HAD without HASup', { HAD: 1 }, { EFR: { HASup: 0, HDSup: 0 } }],
    [
      'PPR without PPRSup',
      { PPR: 1 },
      { EFR: { PPRSup: 0, EPHSup: 0, PPRAutoRspSup: 0, PprOvrflwEarlySup: 0 } },
    ],
    ['GIOV without GIoSup', { GIOV: 1 }, { EFR: { GIoSup: 0 } }],
    ['GV without GTSup', { GV: 1 }, { EFR: { GTSup: 0, GIoSup: 0 } }],
    ['a GCR3 root without GTSup', { GCR3_51_31: 1 }, { EFR: { GTSup: 0, GIoSup: 0 } }],
  ])('§2.2.2: %s is a reserved bit', (_name, fields, overrides) => {
    const { rig } = mapped(fields, overrides);
    expect(rig.where(DEVICE, IOVA)).toBe('ILLEGAL_DEV_TABLE_ENTRY');
    expect(rig.events()[0]!.fields).toMatchObject({ RZ: 1 });
  });

  it('§2.2.2: GLX and GuestPagingMode count with TV and GV alone', () => {
    expect(mapped({ GLX: 3, GuestPagingMode: 3 }).rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
  });
});

describe('the device table', () => {
  it('§3.4, 0000h: has 128 entries per page of Size', () => {
    const rig = new Rig({}, 2);
    rig.dte(255, { IR: 0, IW: 0 });
    expect(rig.where(255, 0x1000n)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({ PE: 1 });
    expect(rig.where(256, 0x1000n)).toBe('IO_PAGE_FAULT');
    expect(rig.events()[0]!.fields).toMatchObject({
      DeviceID: 256,
      DomainID: 0,
      PR: 0,
      PE: 0,
      Address: 0x1000n,
    });
  });

  it('§2.5.4: an entry that memory refuses is DEV_TAB_HARDWARE_ERROR', () => {
    const rig = new Rig();
    rig.set(OFFSET.DEV_TAB_BASE, 0x7000_0000n);
    expect(rig.where(2, 0x1000n, { write: true })).toBe('DEV_TAB_HARDWARE_ERROR');
    expect(rig.events()[0]!.fields).toEqual({
      DeviceID: 2,
      PASID_19_16: 0,
      DomainID: 0,
      GN: 0,
      I: 0,
      RW: 1,
      TR: 0,
      Type: 1,
      EventCode: EVENT.DEV_TAB_HARDWARE_ERROR,
      Address: 0x7000_0040n,
    });
  });

  it('§2.4.2: an entry is cached until INVALIDATE_DEVTAB_ENTRY names its device', () => {
    const { rig, root } = mapped();
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
    rig.hostDte(DEVICE, root, 4, { V: 0 });
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
    rig.submit(invalidateDevice(DEVICE + 1));
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.where(DEVICE, IOVA)).toBe(IOVA);
  });

  it('§2.4.2: an illegal entry is cached like a legal one', () => {
    const { rig, root } = mapped({ IoCtl: 3 });
    expect(rig.where(DEVICE, IOVA)).toBe('ILLEGAL_DEV_TABLE_ENTRY');
    rig.hostDte(DEVICE, root, 4);
    expect(rig.where(DEVICE, IOVA)).toBe('ILLEGAL_DEV_TABLE_ENTRY');
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
  });

  it('§2.4.2: what memory refused is not cached', () => {
    const { rig } = mapped();
    const base = rig.get(OFFSET.DEV_TAB_BASE);
    rig.set(OFFSET.DEV_TAB_BASE, 0x7000_0000n);
    expect(rig.where(DEVICE, IOVA)).toBe('DEV_TAB_HARDWARE_ERROR');
    rig.set(OFFSET.DEV_TAB_BASE, base);
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
  });

  it('§2.4.8: INVALIDATE_IOMMU_ALL takes every entry', () => {
    const { rig, root } = mapped();
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
    rig.hostDte(DEVICE, root, 4, { V: 0 });
    rig.submit(invalidateAll());
    expect(rig.where(DEVICE, IOVA)).toBe(IOVA);
  });

  it('keeps no more entries than the cache has, the youngest', () => {
    const rig = new Rig({ caches: { devices: 2 } });
    for (const id of [1, 2, 3]) {
      rig.dte(id);
      rig.where(id, 0x1000n);
    }
    expect([...rig.iommu.cachedDevices()].map(({ config }) => config.deviceId)).toEqual([2, 3]);
  });

  it.each([
    [1, 0x8000, 2],
    [2, 0x4000, 4],
    [3, 0x2000, 8],
  ])('§3.4, 0100h: with DevTblSegEn %i the table has segments of %i devices', (enable, each, count) => {
    const rig = new Rig();
    const tables: number[] = [];
    for (let i = 0; i < count; i++) {
      const table = rig.page();
      tables.push(table);
      rig.set(i === 0 ? OFFSET.DEV_TAB_BASE : OFFSET.DEV_TAB_SEG1 + 8 * (i - 1), table);
    }
    rig.control(BASIC, enable << 2);
    for (let i = 0; i < count; i++) {
      const leaf = rig.page();
      rig.put(leaf, pte(BigInt((i + 1) * 0x10_0000)));
      rig.put(tables[i]! + 5 * 32, BigInt(leaf) | 0x6000_0000_0000_0203n);
      rig.put(tables[i]! + 5 * 32 + 8, BigInt(i));
      expect(rig.where(i * each + 5, 0n)).toBe(BigInt((i + 1) * 0x10_0000));
      expect(rig.where(i * each + 128, 0n)).toBe('IO_PAGE_FAULT');
    }
  });

  it('§3.4, 0100h: a segment has its own size', () => {
    const rig = new Rig();
    const second = rig.pages(2);
    rig.set(OFFSET.DEV_TAB_SEG1, second + 1);
    rig.control(BASIC, 1 << 2);
    rig.put(second + 255 * 32, 0n);
    expect(rig.where(0x8000 + 255, 0x5000n)).toBe(0x5000n);
    expect(rig.where(0x8000 + 256, 0x5000n)).toBe('IO_PAGE_FAULT');
  });
});

describe('suppressed events', () => {
  it('§2.2.2, SA: no IO_PAGE_FAULT of the device is logged', () => {
    const rig = new Rig();
    rig.hostDte(DEVICE, rig.page(), 4, { SA: 1 });
    expect(rig.dma(DEVICE, IOVA)).toMatchObject({ kind: 'aborted', recorded: false });
    expect(rig.events()).toEqual([]);
  });

  it('§2.2.2, SE: only the first one since the entry was fetched', () => {
    const rig = new Rig();
    rig.hostDte(DEVICE, rig.page(), 4, { SE: 1 });
    expect(rig.dma(DEVICE, IOVA)).toMatchObject({ recorded: true });
    expect(rig.dma(DEVICE, IOVA)).toMatchObject({ recorded: false });
    rig.submit(invalidateDevice(DEVICE));
    expect(rig.dma(DEVICE, IOVA)).toMatchObject({ recorded: true });
    expect(rig.events().length).toBe(2);
  });

  it('§2.2.2, SA: other events are logged', () => {
    const rig = new Rig();
    rig.hostDte(DEVICE, 0x7000_0000, 4, { SA: 1 });
    expect(rig.where(DEVICE, IOVA)).toBe('PAGE_TAB_HARDWARE_ERROR');
    expect(rig.events().length).toBe(1);
  });
});

describe('the exclusion range', () => {
  const START = 0x1234_0000n;
  const LIMIT = 0x1234_5000n;
  const excluding = (base: bigint, fields: Fields = {}): Rig => {
    const { rig } = mapped(fields);
    rig.set(OFFSET.EXCL_LIMIT, LIMIT);
    rig.set(OFFSET.EXCL_BASE, START | base);
    return rig;
  };

  it('§3.4, 0020h: with Allow every device passes untranslated in it', () => {
    const rig = excluding(3n);
    expect(rig.where(DEVICE, IOVA)).toBe(IOVA);
    expect(rig.where(DEVICE, START)).toBe(START);
  });

  it('§3.4, 0028h: ends with the last byte of the page of its limit', () => {
    const rig = excluding(3n);
    expect(rig.where(DEVICE, LIMIT + 0xfffn)).toBe(LIMIT + 0xfffn);
    expect(rig.where(DEVICE, LIMIT + 0x1000n)).toBe('IO_PAGE_FAULT');
    expect(rig.where(DEVICE, START - 1n)).toBe('IO_PAGE_FAULT');
  });

  it('§2.2.2, EX: without Allow the DTE decides', () => {
    expect(excluding(1n).where(DEVICE, IOVA)).toBe(0xaaaa678n);
    expect(excluding(1n, { EX: 1 }).where(DEVICE, IOVA)).toBe(IOVA);
  });

  it('§3.4, 0020h: is nothing without ExEn', () => {
    expect(excluding(2n, { EX: 1 }).where(DEVICE, IOVA)).toBe(0xaaaa678n);
  });

  it('is nothing where it is not advertised', () => {
    const { rig } = mapped({ EX: 1 }, { exclusionRange: false });
    rig.set(OFFSET.EXCL_LIMIT, LIMIT);
    rig.set(OFFSET.EXCL_BASE, START | 3n);
    expect(rig.where(DEVICE, IOVA)).toBe(0xaaaa678n);
  });

  it('ends a translation that a larger page would carry into it', () => {
    const rig = new Rig();
    const root = rig.page();
    rig.map(root, 3, 0n, pte(sized(0n, 31), { next: 7 }), 3);
    rig.map(root, 3, 1n << 30n, pte(sized(0n, 31), { next: 7 }), 3);
    rig.hostDte(DEVICE, root, 3);
    rig.set(OFFSET.EXCL_LIMIT, LIMIT);
    rig.set(OFFSET.EXCL_BASE, START | 3n);
    expect(rig.dma(DEVICE, START - 0x10n)).toMatchObject({ kind: 'translated', bytes: 0x10 });
    expect(rig.dma(DEVICE, 0x2000_0000n)).toMatchObject({ kind: 'translated', bytes: 0x6000_0000 });
  });
});

describe('registers that change', () => {
  it('§3.4: count for the next request, whatever is cached', () => {
    const rig = new Rig();
    const root = rig.page();
    rig.hostDte(DEVICE, root, 3);
    rig.map(root, 3, 0x8000n, pte(0x5000n));
    for (let i = 0; i < 2; i++) expect(rig.where(DEVICE, 0x8000n)).toBe(0x5000n);
    rig.set(OFFSET.EXCL_LIMIT, 0x8000);
    rig.set(OFFSET.EXCL_BASE, 0x8003);
    expect(rig.where(DEVICE, 0x8000n)).toBe(0x8000n);
    rig.set(OFFSET.EXCL_BASE, 0);
    expect(rig.where(DEVICE, 0x8000n)).toBe(0x5000n);
    rig.control(0);
    expect(rig.where(DEVICE, 0x8000n)).toBe(0x8000n);
    rig.control(BASIC);
    expect(rig.where(DEVICE, 0x8000n)).toBe(0x5000n);
  });

  it('§3.4, 0018h: GTEn decides for a PASID that is cached', () => {
    const rig = new Rig();
    const [gcr3, cr3] = [rig.page(), rig.page()];
    rig.put(gcr3, BigInt(cr3) | 1n);
    rig.guestDte(DEVICE, gcr3, { GIOV: 1 });
    rig.mapGuest(cr3, 4, 0x8000n, 0x5007n);
    const guest = BASIC | CONTROL.GTEn.inPlace;
    const both = (): unknown => [rig.where(DEVICE, 0x8000n), rig.where(DEVICE, 0x8000n, { pasid: 0 })];
    for (const control of [guest, guest, BASIC, guest]) {
      rig.control(control);
      expect(both()).toEqual(control === guest ? [0x5000n, 0x5000n] : [0x8000n, 'IO_PAGE_FAULT']);
    }
  });

  it('forgets everything at a reset', () => {
    const rig = new Rig();
    rig.hostDte(DEVICE, rig.page(), 3);
    expect(rig.where(DEVICE, 0x8000n)).toBe('IO_PAGE_FAULT');
    rig.iommu.reset();
    expect(rig.where(DEVICE, 0x8000n)).toBe(0x8000n);
    expect([...rig.iommu.cachedDevices()]).toEqual([]);
    expect([rig.get(OFFSET.DEV_TAB_BASE), rig.get(OFFSET.EVT_TAIL), rig.status]).toEqual([0n, 0n, 0]);
  });
});
