import { describe, expect, it } from 'vitest';
import { hi32, lo32 } from '../../../../base/u64.ts';
import { AtsFunction } from '../../../testing/ats-function.ts';
import { CONTROL, OFFSET } from '../../spec/registers.ts';
import type { AtsCompletion, AtsRequest } from './ats.ts';
import type { ConfigOverrides } from '../registers/config.ts';
import {
  BASIC,
  type Fields,
  Rig,
  completePpr,
  invalidateAll,
  invalidateDevice,
  invalidateIotlb,
  invalidatePages,
  pte,
  sized,
} from '../testing/rig.ts';
import type { Outcome } from '../transaction.ts';

const DEVICE = 0x20;
const GUEST = BASIC | CONTROL.GTEn.inPlace;

interface Host {
  readonly rig: Rig;
  readonly root: number;
}

/** A device with ATS and host tables that map one page. */
function host(fields: Fields = {}, overrides: ConfigOverrides = {}): Host {
  const rig = new Rig(overrides);
  const root = rig.page();
  rig.hostDte(DEVICE, root, 3, { I: 1, ...fields });
  rig.map(root, 3, 0x1000n, pte(0x12_3000n));
  return { rig, root };
}

/** A device that uses ATS. */
function atsFunction({ iommu }: Rig): AtsFunction<Outcome> {
  const device = new AtsFunction<Outcome>({
    requestTranslation: (packet) => {
      const { status, entry } = iommu.requestTranslation({ deviceId: DEVICE, ...packet });
      return { status, entries: entry === null ? [] : [entry] };
    },
    translate: (packet) => iommu.translate({ deviceId: DEVICE, ...packet }),
  });
  iommu.attachEndpoint(DEVICE, {
    invalidate: (request) => device.invalidate(request),
    pageResponse: () => {},
  });
  return device;
}

function ask(rig: Rig, address: bigint, rest: Partial<AtsRequest> = {}): AtsCompletion {
  return rig.iommu.requestTranslation({
    deviceId: DEVICE,
    hi: hi32(address),
    lo: lo32(address),
    write: true,
    ...rest,
  });
}

describe('translation requests', () => {
  it('§2.1.4: are answered with the page and its rights', () => {
    const { rig } = host();
    expect(ask(rig, 0x1abcn)).toEqual({
      status: 'success',
      entry: {
        translated: 0x12_3000,
        sizeBits: 12,
        read: true,
        write: true,
        execute: false,
        untranslatedOnly: false,
        forceCoherent: false,
      },
      event: null,
      recorded: false,
    });
  });

  it.each([
    [1, 16],
    [2, 21],
    [2, 25],
    [3, 30],
  ])('§2.1.4: tell the size of a page of level %i: 2^%i bytes', (level, bits) => {
    const { rig, root } = host();
    const size = 1n << BigInt(bits);
    const whole = bits === 3 + 9 * level;
    rig.map(root, 3, 4n * size, whole ? pte(2n * size) : pte(sized(2n * size, bits), { next: 7 }), level);
    const inside = level === 1 ? 0x765n : 0x1f_7000n;
    expect(ask(rig, 4n * size + inside).entry).toMatchObject({
      translated: Number(2n * size),
      sizeBits: bits,
    });
  });

  it.each([
    [1, 1, true, true, true],
    [1, 0, true, true, false],
    [0, 1, true, false, true],
    [1, 1, false, true, false],
    [0, 1, false, false, false],
    [0, 0, true, false, false],
  ])('§2.1.4: IR %i and IW %i, asked with write %s: read %s, write %s', (ir, iw, write, r, w) => {
    const { rig, root } = host();
    rig.map(root, 3, 0x2000n, pte(0x5000n, { ir: ir as 0 | 1, iw: iw as 0 | 1 }));
    const completion = ask(rig, 0x2000n, { write });
    expect(completion).toMatchObject({ status: 'success', entry: { read: r, write: w } });
    if (!r && !w) expect(completion.entry!.translated).toBe(0);
    expect(rig.events()).toEqual([]);
  });

  it('§2.1.4: the rights are also those of the DTE', () => {
    const { rig } = host({ IW: 0 });
    expect(ask(rig, 0x1000n).entry).toMatchObject({ read: true, write: false });
  });

  it('§2.2.3: U and FC of the leaf are told', () => {
    const { rig, root } = host();
    rig.map(root, 3, 0x2000n, pte(0x5000n, { bits: (1n << 59n) | (1n << 60n) }));
    expect(ask(rig, 0x2000n).entry).toMatchObject({ untranslatedOnly: true, forceCoherent: true });
  });

  it('§2.1.2: a large page with the interrupt range in it is told in parts without it', () => {
    const { rig, root } = host();
    rig.map(root, 3, 0xc000_0000n, pte(0x1_4000_0000n), 3);
    expect(ask(rig, 0xc000_1000n).entry).toMatchObject({ translated: 0x1_4000_0000, sizeBits: 29 });
    expect(ask(rig, 0xfef0_1000n).entry).toMatchObject({ translated: 0x1_7ef0_0000, sizeBits: 20 });
    expect(ask(rig, 0xfedf_f000n).entry).toMatchObject({ translated: 0x1_7ec0_0000, sizeBits: 21 });
  });

  it('§3.4, 0020h: so is one with the exclusion range in it', () => {
    const { rig, root } = host({ EX: 1 });
    rig.map(root, 3, 0x4000_0000n, pte(0x1_4000_0000n), 3);
    rig.set(OFFSET.EXCL_LIMIT, 0x4000_3000);
    rig.set(OFFSET.EXCL_BASE, 0x4000_2001);
    expect(ask(rig, 0x4000_1000n).entry).toMatchObject({ translated: 0x1_4000_0000, sizeBits: 13 });
    expect(ask(rig, 0x4000_4000n).entry).toMatchObject({ translated: 0x1_4000_4000, sizeBits: 14 });
    expect(ask(rig, 0x6000_0000n).entry).toMatchObject({ translated: 0x1_6000_0000, sizeBits: 29 });
  });

  it('§2.1.3.2: what is not mapped is granted nothing, and is no event', () => {
    const { rig } = host();
    const completion = ask(rig, 0x9000n);
    expect(completion).toMatchObject({
      status: 'success',
      recorded: false,
      entry: { read: false, write: false, sizeBits: 12 },
    });
    expect(completion.event!.words[1]! >>> 28).toBe(2);
    expect((completion.event!.words[1]! >>> 24) & 1).toBe(1);
    expect(rig.events()).toEqual([]);
  });

  it('§2.1.4: so is an address above the width', () => {
    const { rig } = host();
    expect(ask(rig, 1n << 39n).entry).toMatchObject({ read: false, write: false });
  });

  it.each<[string, Fields, number]>([
    ['DTE.I is 0', { I: 0 }, 1],
    ['DTE.V is 0', { V: 0 }, 1],
    ['DTE.TV is 0', { TV: 0 }, 1],
  ])('§2.5.9: where %s it is Unsupported Request and INVALID_DEVICE_REQUEST', (_name, fields, type) => {
    const { rig } = host(fields);
    expect(ask(rig, 0x1000n)).toMatchObject({ status: 'UR', entry: null, recorded: true });
    expect(rig.events()).toMatchObject([
      { name: 'INVALID_DEVICE_REQUEST', fields: { DeviceID: DEVICE, TR: 1, Type: type, Address: 0x1000n } },
    ]);
  });

  it('§2.5.9: for the interrupt range, and for a DeviceID outside of the table', () => {
    const { rig } = host();
    expect(ask(rig, 0xfee0_1000n).status).toBe('UR');
    expect(ask(rig, 0x1000n, { deviceId: 0x1000 }).status).toBe('UR');
    expect(rig.events().map(({ fields }) => [fields['TR'], fields['Type']])).toEqual([
      [1, 0],
      [1, 2],
    ]);
  });

  it('§2.5.2: with an illegal DTE it is Completer Abort and ILLEGAL_DEV_TABLE_ENTRY with TR', () => {
    const { rig } = host({ HAD: 2 });
    expect(ask(rig, 0x1000n).status).toBe('CA');
    expect(rig.events()).toMatchObject([{ name: 'ILLEGAL_DEV_TABLE_ENTRY', fields: { TR: 1, RZ: 0 } }]);
  });

  it('§2.5.5: where memory refuses an entry it is Completer Abort and logged', () => {
    const rig = new Rig();
    rig.hostDte(DEVICE, 0x7f_0000_0000, 3, { I: 1 });
    expect(ask(rig, 0x1000n).status).toBe('CA');
    expect(rig.events()).toMatchObject([{ name: 'PAGE_TAB_HARDWARE_ERROR', fields: { TR: 1 } }]);
  });

  it('§3.2.1: without IotlbSup, and with IommuEn 0, it is Unsupported Request', () => {
    expect(ask(host({}, { capHeader: { IotlbSup: 0 } }).rig, 0x1000n).status).toBe('UR');
    const { rig } = host();
    rig.control(0);
    expect(ask(rig, 0x1000n)).toMatchObject({ status: 'UR', event: null });
  });

  it('§2.2.2, Mode 0: every page is its own', () => {
    const rig = new Rig();
    rig.dte(DEVICE, { I: 1, IW: 0 });
    expect(ask(rig, 0x7_1234n).entry).toMatchObject({
      translated: 0x7_1000,
      sizeBits: 12,
      read: true,
      write: false,
    });
  });

  it('§3.4, 0020h: in the exclusion range every address is its own', () => {
    const { rig } = host({ EX: 1 });
    rig.set(OFFSET.EXCL_LIMIT, 0x9000);
    rig.set(OFFSET.EXCL_BASE, 0x8001);
    expect(ask(rig, 0x8000n).entry).toMatchObject({ translated: 0x8000, read: true, write: true });
  });

  it('§2.2.2, HAD 3: Dirty is set where writing is granted', () => {
    const { rig, root } = host({ HAD: 3 });
    const leaf = rig.map(root, 3, 0x2000n, pte(0x5000n));
    ask(rig, 0x2000n, { write: false });
    expect(rig.at(leaf) & 0x60n).toBe(0x20n);
    ask(rig, 0x2000n);
    expect(rig.at(leaf) & 0x60n).toBe(0x60n);
  });
});

describe('DTE.Cache', () => {
  it('§2.2.2: with 0 what a translation request finds is not in the IOTLB', () => {
    const { rig, root } = host();
    ask(rig, 0x1000n);
    rig.map(root, 3, 0x1000n, pte(0x5000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x5000n);
  });

  it('§2.2.2: with 1 it is', () => {
    const { rig, root } = host({ Cache: 1 });
    ask(rig, 0x1000n);
    rig.map(root, 3, 0x1000n, pte(0x5000n));
    expect(rig.where(DEVICE, 0x1000n)).toBe(0x12_3000n);
  });
});

describe('translation requests with a PASID', () => {
  function guest(leaf: bigint): Rig {
    const rig = new Rig();
    const [gcr3, cr3] = [rig.page(), rig.page()];
    rig.put(gcr3 + 5 * 8, BigInt(cr3) | 1n);
    rig.guestDte(DEVICE, gcr3, { I: 1 });
    rig.control(GUEST);
    rig.mapGuest(cr3, 4, 0x1000n, leaf);
    return rig;
  }

  it('§2.1.4: are answered from guest tables, with execution where it is asked for', () => {
    const rig = guest(0x5000n | 7n);
    expect(ask(rig, 0x1000n, { pasid: 5 }).entry).toMatchObject({ translated: 0x5000, execute: false });
    expect(ask(rig, 0x1000n, { pasid: 5, execute: true }).entry).toMatchObject({ execute: true });
  });

  it('§2.2.6: NX grants none', () => {
    const rig = guest(0x5000n | 7n | (1n << 63n));
    expect(ask(rig, 0x1000n, { pasid: 5, execute: true }).entry).toMatchObject({
      read: true,
      execute: false,
    });
  });

  it('§2.2.6: rights depend on Privileged Mode', () => {
    const rig = guest(0x5000n | 3n);
    expect(ask(rig, 0x1000n, { pasid: 5 }).entry).toMatchObject({ translated: 0, read: false, write: false });
    expect(ask(rig, 0x1000n, { pasid: 5, privileged: true }).entry).toMatchObject({ write: true });
  });

  it('§2.1.3.2: what is not mapped is granted nothing', () => {
    const rig = guest(0x5000n | 7n);
    expect(ask(rig, 0x2000n, { pasid: 5 }).entry).toMatchObject({ read: false });
    expect(ask(rig, 0x1000n, { pasid: 6 }).entry).toMatchObject({ read: false });
    expect(rig.events()).toEqual([]);
  });
});

describe('translated requests', () => {
  it('§2.1.4: with DTE.I their address is used as it is', () => {
    const { rig } = host();
    expect(rig.where(DEVICE, 0x77_7000n, { translated: true })).toBe(0x77_7000n);
  });

  it.each<[string, Fields]>([
    ['DTE.I', { I: 0 }],
    ['DTE.V', { V: 0 }],
  ])('§2.5.9: with %s 0 they are INVALID_DEVICE_REQUEST', (_name, fields) => {
    const { rig } = host(fields);
    expect(rig.where(DEVICE, 0x77_7000n, { translated: true, write: true })).toBe('INVALID_DEVICE_REQUEST');
    expect(rig.events()).toMatchObject([{ fields: { TR: 0, Type: 1, Address: 0x77_7000n } }]);
  });

  it('§2.5.2: with an illegal DTE they are ILLEGAL_DEV_TABLE_ENTRY', () => {
    const { rig } = host({ HAD: 2 });
    expect(rig.where(DEVICE, 0x77_7000n, { translated: true })).toBe('ILLEGAL_DEV_TABLE_ENTRY');
  });

  it('§2.1.4: an address of more than 52 bits is none', () => {
    const { rig } = host();
    expect(rig.dma(DEVICE, 1n << 52n, { translated: true })).toMatchObject({ kind: 'aborted', event: null });
  });
});

describe("a device's IOTLB", () => {
  function cached(): Host & { device: AtsFunction<Outcome>; where: () => unknown } {
    const { rig, root } = host();
    const device = atsFunction(rig);
    const where = (): unknown => {
      const outcome = device.translate(0x1004n);
      return outcome.kind === 'translated' ? outcome.pa : outcome.kind;
    };
    expect(where()).toBe(0x12_3004);
    rig.map(root, 3, 0x1000n, pte(0x5000n));
    return { rig, root, device, where };
  }

  it.each([
    ['INVALIDATE_IOMMU_PAGES', invalidatePages(7, 0n, { size: 64 })],
    ['INVALIDATE_DEVTAB_ENTRY', invalidateDevice(DEVICE)],
    ['INVALIDATE_IOMMU_ALL', invalidateAll()],
    ['INVALIDATE_IOTLB_PAGES of another page', invalidateIotlb(DEVICE, 0x2000n)],
    ['INVALIDATE_IOTLB_PAGES of another device', invalidateIotlb(DEVICE + 1, 0n, { size: 64 })],
    ['INVALIDATE_IOTLB_PAGES of a PASID', invalidateIotlb(DEVICE, 0n, { size: 64, pasid: 0 })],
  ])('§2.4.4: keeps its entries after %s', (_name, command) => {
    const { rig, where } = cached();
    rig.submit(command);
    expect(where()).toBe(0x12_3004);
  });

  it.each([12, 16, 64])('§2.4.4: loses them to INVALIDATE_IOTLB_PAGES of 2^%i bytes', (size) => {
    const { rig, where } = cached();
    rig.submit(invalidatePages(7, 0x1000n), invalidateIotlb(DEVICE, size > 12 ? 0n : 0x1000n, { size }));
    expect(where()).toBe(0x5004);
  });

  it('§2.1.4: loses them when ATS is disabled, and requests are untranslated then', () => {
    const { rig, device, where } = cached();
    device.atc.enable(false);
    rig.hostDte(DEVICE, rig.page(), 3, { I: 0 });
    rig.submit(invalidateAll());
    expect(where()).toBe('aborted');
    expect(rig.events()).toMatchObject([{ name: 'IO_PAGE_FAULT' }]);
  });

  it('§2.1.4: asks again for a right that it was not granted', () => {
    const { rig, root, device } = cached();
    rig.map(root, 3, 0x3000n, pte(0x5000n, { iw: 0 }));
    expect(device.translate(0x3000n)).toMatchObject({ pa: 0x5000 });
    expect(device.translate(0x3000n, { write: true })).toMatchObject({ kind: 'denied' });
    rig.map(root, 3, 0x3000n, pte(0x5000n));
    rig.submit(invalidatePages(7, 0x3000n));
    expect(device.translate(0x3000n, { write: true })).toMatchObject({ pa: 0x5000 });
  });

  it('§2.2.3, U: what only untranslated requests may use is not kept', () => {
    const { rig, root, device } = cached();
    rig.map(root, 3, 0x3000n, pte(0x5000n, { bits: 1n << 59n }));
    expect(device.translate(0x3000n)).toMatchObject({ pa: 0x5000 });
    expect(device.atc.lookup(0, 0x3000, null, false)).toBeNull();
  });

  it('§2.1.4: a PASID has its own entries', () => {
    const rig = new Rig();
    const [gcr3, cr3] = [rig.page(), rig.page()];
    rig.put(gcr3 + 5 * 8, BigInt(cr3) | 1n);
    rig.guestDte(DEVICE, gcr3, { I: 1 });
    rig.control(GUEST);
    rig.mapGuest(cr3, 4, 0x1000n, 0x5007n);
    const device = atsFunction(rig);
    const where = (pasid: number | null): unknown => device.translate(0x1000n, { pasid, execute: true });
    expect(where(5)).toMatchObject({ pa: 0x5000 });
    expect(where(null)).toMatchObject({ pa: 0x1000 });
    expect(where(6)).toMatchObject({ kind: 'denied' });
    rig.mapGuest(cr3, 4, 0x1000n, 0x6007n);
    rig.submit(invalidatePages(7, 0x1000n, { pasid: 5 }));
    expect(where(5)).toMatchObject({ pa: 0x5000 });
    rig.submit(invalidateIotlb(DEVICE, 0x1000n, { pasid: 5 }));
    expect(where(5)).toMatchObject({ pa: 0x6000 });
  });

  it('§2.6: is told of responses to its page requests', () => {
    const { rig } = host();
    const responses: unknown[] = [];
    rig.iommu.attachEndpoint(DEVICE, {
      invalidate: () => true,
      pageResponse: (response) => void responses.push(response),
    });
    rig.submit(completePpr({ DeviceID: DEVICE, PRGIndex: 4 }));
    expect(responses).toEqual([{ deviceId: DEVICE, pasid: null, prgIndex: 4, code: 0 }]);
  });
});

describe('accesses', () => {
  it('go page by page, and stop at the first that is not translated', () => {
    const { rig, root } = host();
    rig.ram.add(0x55);
    rig.map(root, 3, 0x3000n, pte(0x5_5000n));
    const data = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const request = { deviceId: DEVICE, hi: 0, lo: 0x3ffc, write: true };
    expect(rig.iommu.access(request, data)).toMatchObject({ done: 4, stopped: { kind: 'aborted' } });
    expect(rig.at(0x5_5ff8)).toBe(0x0403_0201_0000_0000n);
    expect(rig.events()).toMatchObject([{ name: 'IO_PAGE_FAULT', fields: { Address: 0x4000n, RW: 1 } }]);
  });

  it('tell when memory refuses what was translated', () => {
    const { rig, root } = host();
    rig.map(root, 3, 0x3000n, pte(0x7f_0000_0000n));
    const request = { deviceId: DEVICE, hi: 0, lo: 0x3000 };
    expect(rig.iommu.access(request, new Uint8Array(4))).toEqual({ done: 0, stopped: 'bus' });
  });

  it('§2.2.3: an atomic one needs both rights', () => {
    const { rig, root } = host();
    rig.map(root, 3, 0x3000n, pte(0x5000n, { ir: 0 }));
    expect(rig.where(DEVICE, 0x3000n, { write: true })).toBe(0x5000n);
    expect(rig.where(DEVICE, 0x3000n, { atomic: true })).toBe('IO_PAGE_FAULT');
  });
});

describe('HyperTransport addresses', () => {
  const HT: ConfigOverrides = { EFR2: { HTRangeIgnore: 0 } };

  function identity(fields: Fields = {}, overrides: ConfigOverrides = HT): Rig {
    const rig = new Rig(overrides);
    const root = rig.page();
    rig.hostDte(DEVICE, root, 5, fields);
    for (const at of [0n, 1n, 2n]) rig.map(root, 5, at << 39n, pte(at << 39n), 4);
    return rig;
  }

  it('§3.4, 01A0h: with HTRangeIgnore they are memory', () => {
    const rig = identity({}, {});
    for (const address of [0xfd_f800_0000n, 0xfd_fc00_0000n, 0xff_ffff_f000n]) {
      expect(rig.where(DEVICE, address, { write: true })).toBe(address);
    }
  });

  it.each<[bigint, boolean, number]>([
    [0xfd_0000_0000n, false, 0],
    [0xfd_0000_0000n, true, 5],
    [0xfd_f800_0000n, true, 4],
    [0xfd_f900_0000n, true, 5],
    [0xfd_f910_0000n, true, 3],
    [0xfd_fc00_0000n, true, 2],
    [0xfd_fe00_0000n, true, 5],
    [0xff_ffff_f000n, false, 5],
  ])('§2.1.2, table 3: %i (write %s) is INVALID_DEVICE_REQUEST of type %i', (address, write, type) => {
    const rig = identity();
    expect(rig.where(DEVICE, address, { write })).toBe('INVALID_DEVICE_REQUEST');
    expect(rig.events()).toMatchObject([{ fields: { TR: 0, Type: type, Address: address } }]);
  });

  it.each<[string, Fields, bigint]>([
    ['IoCtl 1', { IoCtl: 1 }, 0xfd_fc00_0000n],
    ['IoCtl 2', { IoCtl: 2 }, 0xfd_fdff_f000n],
    ['SysMgt 1', { SysMgt: 1 }, 0xfd_f910_0000n],
    ['SysMgt 3', { SysMgt: 3 }, 0xfd_f91f_f000n],
  ])('§2.2.2: %s lets the address through', (_name, fields, address) => {
    expect(identity(fields).where(DEVICE, address, { write: true })).toBe(address);
  });

  it('§2.1.2: pages below and above are translated, and a large one ends where they begin', () => {
    const rig = identity();
    expect(rig.dma(DEVICE, 0xfc_ffff_0000n)).toMatchObject({ pa: 0xfc_ffff_0000, bytes: 0x1_0000 });
    expect(rig.where(DEVICE, 0x100_0000_0000n)).toBe(0x100_0000_0000n);
  });

  it('§2.5.9: a translation request for one is of type 0', () => {
    const rig = identity({ I: 1 });
    expect(ask(rig, 0xfd_fc00_0000n).status).toBe('UR');
    expect(rig.events()).toMatchObject([{ fields: { TR: 1, Type: 0 } }]);
  });

  it('§2.1.2: the interrupt range takes writes alone', () => {
    const rig = identity();
    expect(rig.where(DEVICE, 0xfee0_0000n, { write: true })).toBe('interrupt');
    expect(rig.where(DEVICE, 0xfeef_ffffn)).toBe('INVALID_DEVICE_REQUEST');
    expect(rig.events()).toMatchObject([{ fields: { TR: 0, Type: 0, Address: 0xfeef_ffffn } }]);
    expect(rig.where(DEVICE, 0xfef0_0000n)).toBe(0xfef0_0000n);
  });
});
