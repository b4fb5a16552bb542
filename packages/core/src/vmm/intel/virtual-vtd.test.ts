import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EINVAL } from '../../abi/errno.ts';
import { FSTS, IQERCD, IQEI, OFFSET } from '../../iommu/intel/spec/registers.ts';
import type { DmaPort, PageResponseMessage } from '../../iommu/requests/dma-port.ts';
import { machineSchema } from '../../machine/machine-file/description.ts';
import { intelIommu } from '../../machine/iommus/intel-iommu.ts';
import { Kernel } from '../../machine/kernel.ts';
import { loadParts } from '../../machine/machine-file/parts.ts';
import { withPorts } from '../../machine/testing/ports.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import { GuestPages } from '../guests/guest-pages.ts';
import { VtdGuest } from '../guests/vtd.ts';
import { BASE, found, machine, ok } from '../testing/vm.ts';
import { VirtualMachine } from '../virtual-machine.ts';
import { VirtualVtd } from './virtual-vtd.ts';

const ID = 0x18;
const IOVA = 0x5000_0000n;

interface Booted {
  readonly vm: VirtualMachine;
  readonly unit: VirtualVtd;
  readonly devices: readonly AssignedDevice[];
}

async function boot(kernel: Kernel, devices = 1): Promise<Booted> {
  const vm = ok(VirtualMachine.create(kernel));
  const opened = Array.from({ length: devices }, (_, index) =>
    ok(vm.openDevice(`/dev/vfio/devices/vfio${index}`)),
  );
  return { vm, unit: ok(VirtualVtd.create(vm, opened[0]!)), devices: opened };
}

describe('a guest behind a virtual VT-d', () => {
  it('has its device reach memory by its addresses until translation is on', async () => {
    const { vm, unit, devices } = await boot(await machine('intel-iommu'));
    ok(unit.addDevice(devices[0]!, ID));
    vm.memory.write(BASE + 0x10_0000, Uint8Array.of(0x61, 0x62, 0x63));
    expect(found(devices[0]!, BigInt(BASE + 0x10_0000))).toBe('abc');
    const driver = new VtdGuest(new GuestPages(vm.memory, BASE), unit);
    expect(driver.unit.wait()).toBe(true);
    expect(found(devices[0]!, BigInt(BASE + 0x10_0000))).toBe('fault');
  });

  it('is told nothing of what the host keeps for itself', async () => {
    const { unit } = await boot(await machine('intel-iommu'));
    const ecap = unit.readRegister(OFFSET.ECAP, 8);
    const bit = (at: bigint): number => (((ecap >> at) & 1n) === 1n ? 1 : 0);
    // FSTS, SMTS and PRS; NEST and SSTS.
    expect([bit(47n), bit(43n), bit(29n)]).toEqual([1, 1, 1]);
    expect([bit(26n), bit(46n)]).toEqual([0, 0]);
  });

  it('stops at a descriptor that it does not know, and goes on when that is acknowledged', async () => {
    const { vm, unit, devices } = await boot(await machine('intel-iommu'));
    ok(unit.addDevice(devices[0]!, ID));
    const driver = new VtdGuest(new GuestPages(vm.memory, BASE), unit);
    driver.unit.submit(0xen);
    expect(driver.unit.wait()).toBe(false);
    expect(Number(unit.readRegister(OFFSET.FSTS, 4)) & FSTS.IQE.inPlace).toBe(FSTS.IQE.inPlace);
    expect(Number(unit.readRegister(OFFSET.IQERCD, 4)) & IQERCD.IQEI.inPlace).toBe(IQEI.TYPE);
    const head = Number(unit.readRegister(OFFSET.IQH, 8));
    driver.pages.store(driver.unit.queue + head, 0x2n | (1n << 4n)); // iotlb_inv_dsc in its place
    unit.writeRegister(OFFSET.FSTS, 4, BigInt(FSTS.IQE.inPlace));
    expect(Number(unit.readRegister(OFFSET.IQH, 8))).toBe(Number(unit.readRegister(OFFSET.IQT, 8)));
  });

  it('has one first stage for devices behind two units', async () => {
    const { vm, unit, devices } = await boot(await machine('intel-iommu', { iommus: 2, devices: 2 }), 2);
    for (const [index, device] of devices.entries()) ok(unit.addDevice(device, ID + index * 8));
    const driver = new VtdGuest(new GuestPages(vm.memory, BASE), unit);
    const space = driver.space();
    const { tables } = space;
    const [before, after] = [driver.pages.page('old'), driver.pages.page('new')];
    tables.map(IOVA, before);
    for (const index of [0, 1]) driver.attach(ID + index * 8, space);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['old', 'old']);
    tables.map(IOVA, after);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['old', 'old']);
    // One descriptor of the guest's: one domain id, two units.
    driver.invalidate(ID, space, IOVA);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['new', 'new']);
  });

  it('takes no device whose unit has less than the guest was told', async () => {
    const description = machineSchema.parse({
      iommus: [
        { name: 'dmar0', type: 'intel-iommu' },
        { name: 'dmar1', type: 'intel-iommu', registers: { CAP: { FS5LP: 0 } } },
      ],
      devices: [
        { name: '0000:01:00.0', iommu: 'dmar0' },
        { name: '0000:02:00.0', iommu: 'dmar1' },
      ],
    });
    const { unit, devices } = await boot(new Kernel({ parts: await loadParts(description) }), 2);
    ok(unit.addDevice(devices[0]!, ID));
    const refused = unit.addDevice(devices[1]!, ID + 8);
    expect(failed(refused) && [refused.errno, refused.reason]).toEqual([
      EINVAL,
      '/dev/vfio/devices/vfio1 is behind a unit without FS5LP',
    ]);
  });

  it('gives devices PASIDs behind one unit or several, whether the first has them or not', async () => {
    const description = machineSchema.parse({
      iommus: [
        { name: 'dmar0', type: 'intel-iommu' },
        { name: 'dmar1', type: 'intel-iommu' },
      ],
      devices: [
        { name: '0000:01:00.0', iommu: 'dmar0' },
        { name: '0000:02:00.0', iommu: 'dmar0', pasids: 128 },
        { name: '0000:03:00.0', iommu: 'dmar1', pasids: 128 },
      ],
    });
    const { vm, unit, devices } = await boot(new Kernel({ parts: await loadParts(description) }), 3);
    for (const [index, device] of devices.entries()) ok(unit.addDevice(device, ID + index * 8));
    const driver = new VtdGuest(new GuestPages(vm.memory, BASE), unit);
    const space = driver.space();
    const [before, after] = [driver.pages.page('old'), driver.pages.page('new')];
    space.tables.map(IOVA, before);
    // Beyond the first table of 64; a device without PASIDs has none, whatever the guest says.
    for (const index of [0, 1, 2]) driver.attach(ID + index * 8, space, 100);
    driver.bypass(ID + 8);
    const all = (): string[] => devices.map((device) => found(device, IOVA, 100));
    expect(all()).toEqual(['fault', 'old', 'old']);
    space.tables.map(IOVA, after);
    driver.invalidate(ID, space, IOVA, 100);
    expect(all()).toEqual(['fault', 'new', 'new']);
  });

  it('takes any PASID for requests without one', async () => {
    const { vm, unit, devices } = await boot(await machine('intel-iommu'));
    ok(unit.addDevice(devices[0]!, ID));
    const driver = new VtdGuest(new GuestPages(vm.memory, BASE), unit);
    const space = driver.space();
    const page = driver.pages.page('abc');
    space.tables.map(IOVA, page);
    driver.attach(ID, space, 7);
    expect([found(devices[0]!, IOVA), found(devices[0]!, IOVA, 7)]).toEqual(['fault', 'abc']);
    const context = driver.pages.addressAt(driver.unit.root) + ID * 32;
    driver.pages.store(context + 8, 7n); // RID_PASID
    driver.unit.submit(0x1n | (1n << 4n)); // cc_inv_dsc, global
    driver.unit.wait();
    expect([found(devices[0]!, IOVA), found(devices[0]!, IOVA, 7)]).toEqual(['abc', 'abc']);
    // The entry changes for both.
    driver.detach(ID, 7);
    expect([found(devices[0]!, IOVA), found(devices[0]!, IOVA, 7)]).toEqual(['fault', 'fault']);
  });

  it('has no page requests of a device without them, and translates it all the same', async () => {
    const { vm, unit, devices } = await boot(await machine('intel-iommu', { ats: false }));
    ok(unit.addDevice(devices[0]!, ID));
    const driver = new VtdGuest(new GuestPages(vm.memory, BASE), unit);
    const space = driver.space();
    const page = driver.pages.page('abc');
    space.tables.map(IOVA, page);
    driver.attach(ID, space);
    expect(found(devices[0]!, IOVA)).toBe('abc');
    expect(found(devices[0]!, IOVA + 0x1000n)).toBe('fault');
    expect(unit.poll()).toBe(false);
  });

  it('is asked for several pages at once, and answers them with one descriptor', async () => {
    const ports: DmaPort[] = [];
    const vendor = withPorts(intelIommu, ports);
    const { iommus, devices } = await loadParts({
      iommus: [{ name: 'dmar0', type: 'intel-iommu' }],
      devices: [{ name: '0000:01:00.0', iommu: 'dmar0', model: 'none', ats: true, pasids: 64 }],
    });
    const parts = { iommus: iommus.map((iommu) => ({ ...iommu, vendor })), devices };
    const { vm, unit, devices: opened } = await boot(new Kernel({ parts }));
    ok(unit.addDevice(opened[0]!, ID));
    const driver = new VtdGuest(new GuestPages(vm.memory, BASE), unit);
    driver.attach(ID, driver.space(), 3);
    const answers: PageResponseMessage[] = [];
    ports[0]!.connect({ invalidate: () => true, pageResponse: (each) => void answers.push(each) });
    for (const page of [0n, 1n, 2n]) {
      const address = IOVA + page * 0x1000n;
      ports[0]!.requestPage({ pasid: 3, address, prgIndex: 9, read: true, write: false, last: page === 2n });
    }
    unit.poll();
    const requests = [1, 2, 3].map(() => driver.pageRequest()!);
    expect(requests.map(({ address }) => address)).toEqual([IOVA, IOVA + 0x1000n, IOVA + 0x2000n]);
    expect(requests.map(({ pasid, tag }) => [pasid, tag])).toEqual([0, 1, 2].map(() => [3, 9]));
    expect(driver.pageRequest()).toBeNull();
    expect(answers).toEqual([]);
    driver.answer(requests[2]!, true);
    expect(answers).toEqual([{ pasid: 3, prgIndex: 9, code: 0 }]);
    // The same number again, which the guest refuses; and without PASID, where nobody serves it.
    for (const pasid of [3, null])
      ports[0]!.requestPage({ pasid, address: IOVA, prgIndex: 9, read: true, write: true, last: true });
    unit.poll();
    const [first] = [driver.pageRequest()!, driver.pageRequest()];
    driver.answer(first, false);
    expect(answers.filter(({ pasid }) => pasid === 3).map(({ code }) => code)).toEqual([0, 1]);
  });
});
