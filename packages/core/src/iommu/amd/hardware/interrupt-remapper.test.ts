import { describe, expect, it } from 'vitest';
import { CONTROL } from '../spec/registers.ts';
import { BASIC, type Fields, Rig, irte } from './testing/rig.ts';

const DEVICE = 0x20;

describe('interrupt remapping', () => {
  const MSI = { deviceId: DEVICE, address: 0xfee0_0000 };

  function remapping(fields: Fields = {}, control: [number, number?] = [BASIC]): { rig: Rig; table: number } {
    const rig = new Rig();
    const table = rig.page();
    rig.dte(DEVICE, { IV: 1, IntCtl: 2, IntTabLen: 8, IntTabRoot: table / 64, ...fields });
    rig.control(...control);
    return { rig, table };
  }
  const put32 = (rig: Rig, address: number, value: number): void => {
    const word = rig.at(address & ~7);
    const shift = address % 8 === 0 ? 0n : 32n;
    rig.put(address & ~7, (word & ~(0xffff_ffffn << shift)) | (BigInt(value) << shift));
  };

  it('§2.2.5: with IommuEn 0, V and IV 0 it passes as it is', () => {
    const { rig } = remapping({ IV: 0 });
    const message = { hi: 0, lo: 0xfee0_0000, data: 0x31 };
    expect(rig.iommu.interrupt({ ...MSI, data: 0x31 })).toEqual({
      kind: 'delivered',
      message,
      remapped: false,
    });
    rig.control(0);
    expect(rig.iommu.interrupt({ ...MSI, deviceId: 0x9000, data: 0x31 })).toMatchObject({ remapped: false });
  });

  it.each([
    [0, 'aborted'],
    [1, 'delivered'],
  ])('§2.2.2, IntCtl %i: the interrupt is %s', (control, kind) => {
    const { rig } = remapping({ IntCtl: control });
    expect(rig.iommu.interrupt({ ...MSI, data: 0x31 }).kind).toBe(kind);
    expect(rig.events()).toEqual([]);
  });

  it.each([0, 1, 255])('§2.2.5.1: bits 10:0 of the data are the index of a 32-bit entry (%i)', (index) => {
    const { rig, table } = remapping();
    put32(rig, table + index * 4, irte({ Destination: 0x21, Vector: 0x55, IntType: 1, DM: 1 }));
    expect(rig.iommu.interrupt({ ...MSI, data: index })).toEqual({
      kind: 'delivered',
      message: { hi: 0, lo: 0xfee2_1004, data: 0x155 },
      remapped: true,
    });
  });

  it('§2.2.5.2: with GAEn entries have 128 bits, and 32 bits of destination with XTEn', () => {
    const { rig, table } = remapping({}, [BASIC | CONTROL.GAEn.inPlace, CONTROL.XTEn.inPlace]);
    rig.put(table + 16 * 3, 1n | (0x34_5678n << 8n));
    rig.put(table + 16 * 3 + 8, 0x41n | (0x12n << 56n));
    expect(rig.iommu.interrupt({ ...MSI, data: 3 })).toMatchObject({
      message: { hi: 0x1234_5600, lo: 0xfee7_8000, data: 0x41 },
    });
    rig.control(BASIC | CONTROL.GAEn.inPlace);
    rig.submit(Uint32Array.of(DEVICE, 0x5000_0000, 0, 0));
    expect(rig.iommu.interrupt({ ...MSI, data: 3 })).toMatchObject({ message: { hi: 0, lo: 0xfee7_8000 } });
  });

  it('§2.2.2, IntTabLen: an index beyond the table is IO_PAGE_FAULT with I', () => {
    const { rig } = remapping({ IntTabLen: 4 });
    expect(rig.iommu.interrupt({ ...MSI, data: 16 })).toMatchObject({ kind: 'aborted', recorded: true });
    expect(rig.events()).toMatchObject([
      { name: 'IO_PAGE_FAULT', fields: { DeviceID: DEVICE, I: 1, PR: 0, RW: 1, Address: 0xfee0_0000n } },
    ]);
  });

  it('§2.2.5.1: RemapEn 0 is IO_PAGE_FAULT', () => {
    const { rig } = remapping();
    rig.iommu.interrupt({ ...MSI, data: 5 });
    expect(rig.events()).toMatchObject([{ name: 'IO_PAGE_FAULT', fields: { I: 1, PR: 0 } }]);
  });

  it.each<[string, Fields]>([
    ['IntType 2', { IntType: 2 }],
    ['GuestMode', { GuestMode: 1 }],
  ])('§2.2.5.1: %s is reserved: PR and RZ', (_name, fields) => {
    const { rig, table } = remapping();
    put32(rig, table, irte(fields));
    rig.iommu.interrupt({ ...MSI, data: 0 });
    expect(rig.events()).toMatchObject([{ fields: { I: 1, PR: 1, RZ: 1 } }]);
  });

  it.each<[string, Fields, number]>([
    ['DTE.IG', { IG: 1 }, 0],
    ['IRTE.SupIOPF', {}, 2],
  ])('§2.2.5: %s suppresses the event', (_name, fields, entry) => {
    const { rig, table } = remapping(fields);
    put32(rig, table, entry);
    expect(rig.iommu.interrupt({ ...MSI, data: 0 })).toMatchObject({ kind: 'aborted', recorded: false });
    expect(rig.events()).toEqual([]);
  });

  it.each<[string, number, Fields]>([
    ['NMIPass', 4, { NMIPass: 1 }],
    ['InitPass', 5, { InitPass: 1 }],
    ['EIntPass', 7, { EIntPass: 1 }],
  ])('§2.2.2: %s lets type %i pass', (_name, type, fields) => {
    const data = type << 8;
    const { rig } = remapping(fields);
    expect(rig.iommu.interrupt({ ...MSI, data })).toMatchObject({ kind: 'delivered', remapped: false });
    expect(rig.iommu.interrupt({ ...MSI, address: 0xfee0_0004, data }).kind).toBe('aborted');
    expect(remapping().rig.iommu.interrupt({ ...MSI, data }).kind).toBe('aborted');
  });

  it('§2.5.2: an illegal entry of the device table is ILLEGAL_DEV_TABLE_ENTRY with I', () => {
    const { rig } = remapping({ IntTabLen: 12 });
    rig.iommu.interrupt({ ...MSI, data: 0 });
    expect(rig.events()).toMatchObject([
      { name: 'ILLEGAL_DEV_TABLE_ENTRY', fields: { I: 1, RZ: 0, RW: 1, Address: 0xfee0_0000n >> 2n } },
    ]);
  });

  it('§2.4.5: entries are cached until INVALIDATE_INTERRUPT_TABLE names the device', () => {
    const { rig, table } = remapping();
    const vector = (): unknown => rig.iommu.interrupt({ ...MSI, data: 0 });
    put32(rig, table, irte({ Vector: 0x31 }));
    expect(vector()).toMatchObject({ message: { data: 0x31 } });
    put32(rig, table, irte({ Vector: 0x32 }));
    rig.submit(Uint32Array.of(DEVICE + 1, 0x5000_0000, 0, 0), Uint32Array.of(DEVICE, 0x2000_0000, 0, 0));
    expect(vector()).toMatchObject({ message: { data: 0x31 } });
    expect(rig.iommu.cachedInterrupts).toBe(1);
    rig.submit(Uint32Array.of(DEVICE, 0x5000_0000, 0, 0));
    expect(vector()).toMatchObject({ message: { data: 0x32 } });
  });

  it('§3.4, 0018h: with IRTCacheDis they are not', () => {
    const { rig, table } = remapping({}, [BASIC, CONTROL.IRTCacheDis.inPlace]);
    for (const vector of [0x31, 0x32]) {
      put32(rig, table, irte({ Vector: vector }));
      expect(rig.iommu.interrupt({ ...MSI, data: 0 })).toMatchObject({ message: { data: vector } });
    }
    expect(rig.iommu.cachedInterrupts).toBe(0);
  });

  it('a write of access() to the interrupt range is one', () => {
    const { rig, table } = remapping();
    put32(rig, table + 4, irte({ Vector: 0x44, Destination: 3 }));
    const request = { deviceId: DEVICE, hi: 0, lo: 0xfee0_0000, write: true };
    expect(rig.iommu.access(request, Uint8Array.of(1, 0, 0, 0))).toEqual({ done: 4, stopped: null });
    expect(rig.deviceMsis).toEqual([{ hi: 0, lo: 0xfee0_3000, data: 0x44 }]);
    expect(rig.iommu.access(request, Uint8Array.of(1, 0)).stopped).toMatchObject({ event: null });
    expect(rig.iommu.access(request, Uint8Array.of(9, 0, 0, 0)).stopped).toMatchObject({ recorded: true });
  });
});
