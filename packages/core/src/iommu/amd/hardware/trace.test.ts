import { describe, expect, it } from 'vitest';
import { CONTROL, OFFSET } from '../spec/registers.ts';
import { BASIC, Rig, completionWait, invalidateDevice, invalidatePages, irte, pte } from './testing/rig.ts';

const DEVICE = 0x20;

/** Device 20h has host tables that map 1000h, device 21h guest ones for PASID 5 that do. */
function traced(): { rig: Rig; kinds: (what: () => void) => unknown[] } {
  const rig = new Rig({ caches: { devices: 2 } });
  const root = rig.page();
  rig.hostDte(DEVICE, root, 3);
  rig.map(root, 3, 0x1000n, pte(0x5000n));
  const [gcr3, cr3] = [rig.page(), rig.page()];
  rig.put(gcr3 + 5 * 8, BigInt(cr3) | 1n);
  rig.guestDte(DEVICE + 1, gcr3, { I: 1 });
  rig.mapGuest(cr3, 4, 0x1000n, 0x5007n);
  rig.control(BASIC | CONTROL.GTEn.inPlace);
  return { rig, kinds: (what) => rig.traced(what) };
}

describe('the trace', () => {
  it('has register accesses by name', () => {
    const { rig, kinds } = traced();
    expect(kinds(() => rig.iommu.readRegister(OFFSET.EFR, 4))).toMatchObject([
      { kind: 'register', unit: 'amd-iommu', write: false, offset: 0x30, name: 'EFR' },
    ]);
    expect(kinds(() => rig.iommu.writeRegister(OFFSET.EVT_HEAD, 8, 0n))).toMatchObject([
      { write: true, offset: 0x2010, name: 'EventHeadPtr', value: 0 },
      { write: true, offset: 0x2014, name: 'EventHeadPtr', value: 0 },
    ]);
  });

  it('has what caches fill and hit', () => {
    const { rig, kinds } = traced();
    const host = {
      kind: 'cache-fill',
      cache: 'iotlb',
      domainId: 7,
      pasid: null,
      hi: 0,
      lo: 0x1000,
      bits: 12,
    };
    expect(kinds(() => rig.where(DEVICE, 0x1000n))).toMatchObject([
      { kind: 'cache-fill', cache: 'dte', deviceId: DEVICE, domainId: 7, illegal: null },
      host,
    ]);
    expect(kinds(() => rig.where(DEVICE, 0x1000n))).toEqual([{ ...host, kind: 'cache-hit' }]);
    expect(kinds(() => rig.where(DEVICE + 1, 0x1000n, { pasid: 5 }))).toMatchObject([
      { kind: 'cache-fill', cache: 'dte' },
      { kind: 'cache-fill', cache: 'gcr3', domainId: 7, pasid: 5 },
      { kind: 'cache-fill', cache: 'iotlb-guest', pasid: 5, bits: 12 },
    ]);
    expect(kinds(() => rig.where(DEVICE + 1, 0x1000n, { pasid: 5 }))).toMatchObject([
      { kind: 'cache-hit', cache: 'iotlb-guest' },
    ]);
    expect(kinds(() => rig.where(DEVICE + 2, 0x1000n))).toMatchObject([
      { kind: 'cache-evict', cache: 'dte', deviceId: DEVICE },
      { kind: 'cache-fill', cache: 'dte', deviceId: DEVICE + 2 },
    ]);
  });

  it('says the same whether or not a hit was quick', () => {
    const { rig } = traced();
    const request = { deviceId: DEVICE + 1, pasid: 5, hi: 0, lo: 0x1004 };
    for (const each of [request, { ...request, deviceId: DEVICE, pasid: null }]) {
      const first = rig.iommu.translate(each);
      expect(rig.iommu.translate(each)).toEqual(first);
      rig.traced(() => expect(rig.iommu.translate(each)).toEqual(first));
    }
  });

  it('has commands, and what stopped them', () => {
    const { rig, kinds } = traced();
    const names = (events: unknown[]): unknown[] =>
      events.filter((event) => !['register'].includes((event as { kind: string }).kind));
    expect(
      names(
        kinds(() => rig.submit(invalidateDevice(DEVICE), invalidatePages(7, 0n), Uint32Array.of(0, 0, 0, 0))),
      ),
    ).toMatchObject([
      { kind: 'command', name: 'INVALIDATE_DEVTAB_ENTRY' },
      { kind: 'command', name: 'INVALIDATE_IOMMU_PAGES' },
      { kind: 'command' },
      { kind: 'fault', event: 'ILLEGAL_COMMAND_ERROR' },
      { kind: 'command-error', error: 'ILLEGAL_COMMAND_ERROR' },
    ]);
  });

  it('has faults with the fields of their records', () => {
    const { rig, kinds } = traced();
    expect(kinds(() => rig.where(DEVICE, 0x9000n, { write: true })).at(-1)).toMatchObject({
      kind: 'fault',
      event: 'IO_PAGE_FAULT',
      DeviceID: DEVICE,
      DomainID: 7,
      RW: 1,
      Address: 0x9000n,
    });
  });

  it('has interrupts, messages and page requests', () => {
    const { rig, kinds } = traced();
    rig.control(
      BASIC |
        CONTROL.ComWaitIntEn.inPlace |
        CONTROL.PPREn.inPlace |
        CONTROL.PPRLogEn.inPlace |
        CONTROL.GTEn.inPlace,
    );
    rig.iommu.writeCapability(0x24, 1 << 16);
    const events = kinds(() => rig.submit(completionWait({ i: 1 }))) as { kind: string }[];
    expect(events.filter((event) => event.kind !== 'register')).toMatchObject([
      { kind: 'command', name: 'COMPLETION_WAIT' },
      { kind: 'interrupt', interrupt: 'completion-wait' },
      { kind: 'msi', hi: 0, lo: 0, data: 0 },
    ]);
    const page = { read: true, write: false, execute: false, privileged: false, last: true, prgIndex: 3 };
    expect(
      kinds(() => rig.iommu.requestPage({ ...page, deviceId: DEVICE + 1, pasid: 5, hi: 0, lo: 0x7000 })).at(
        -1,
      ),
    ).toMatchObject({ kind: 'page-request', deviceId: DEVICE + 1, pasid: 5, prgIndex: 3 });
  });

  it('has interrupt remapping entries that are cached', () => {
    const { rig, kinds } = traced();
    const table = rig.page();
    rig.dte(DEVICE + 3, { IV: 1, IntCtl: 2, IntTabLen: 1, IntTabRoot: table / 64 });
    rig.put(table, BigInt(irte({ Vector: 0x31 })));
    const events = kinds(() => rig.iommu.interrupt({ deviceId: DEVICE + 3, address: 0xfee0_0000, data: 0 }));
    expect(events.at(-1)).toMatchObject({
      kind: 'cache-fill',
      cache: 'irte',
      deviceId: DEVICE + 3,
      index: 0,
    });
  });
});
