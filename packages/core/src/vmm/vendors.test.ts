import { describe, expect, it } from 'vitest';
import type { IommuType } from '../machine/parts.ts';
import { VirtualAmdIommu } from './amd/virtual-iommu.ts';
import type { AssignedDevice } from './assigned-device.ts';
import { AmdGuest } from './guests/amd.ts';
import { DmaEngineGuest } from './guests/dma-engine.ts';
import { GuestPages } from './guests/guest-pages.ts';
import { VtdGuest } from './guests/intel.ts';
import { SmmuGuest } from './guests/smmuv3.ts';
import { VirtualVtd } from './intel/virtual-iommu.ts';
import { VirtualSmmu } from './smmuv3/virtual-smmu.ts';
import { BASE, found, machine, ok } from './testing/vm.ts';
import { VirtualMachine } from './virtual-machine.ts';

// The thread as one guest sees it, on every vendor's IOMMU: its own tables, nested on the host's, and stale until it
// says what has changed.

const IOVA = 0x1234_5000n;
/** What the guest calls its device, and an address space. */
const DEVICE = 0x18;
const SPACE = 7;

/** A guest's driver of its IOMMU, with one device and one address space. */
interface Driver {
  readonly pages: GuestPages;
  map(iova: bigint, page: number): void;
  attach(): void;
  detach(): void;
  invalidate(iova: bigint): void;
}

interface VendorCase {
  readonly type: IommuType;
  /** What the guest's own driver drives, in front of `device`. */
  boot(vm: VirtualMachine, device: AssignedDevice): Driver;
}

const VENDORS: readonly VendorCase[] = [
  {
    type: 'arm-smmu-v3',
    boot(vm, device) {
      const smmu = ok(VirtualSmmu.create(vm, device));
      ok(smmu.addDevice(device, DEVICE));
      const driver = new SmmuGuest(new GuestPages(vm.memory, BASE), smmu);
      const { tables, cd } = driver.addressSpace(SPACE);
      return {
        pages: driver.pages,
        map: (iova, page) => tables.map(iova, page),
        attach: () => driver.attach(DEVICE, cd),
        detach: () => driver.detach(DEVICE),
        invalidate: (iova) => driver.invalidate(DEVICE, SPACE, iova),
      };
    },
  },
  {
    type: 'intel-iommu',
    boot(vm, device) {
      const unit = ok(VirtualVtd.create(vm, device));
      ok(unit.addDevice(device, DEVICE));
      const driver = new VtdGuest(new GuestPages(vm.memory, BASE), unit);
      const tables = driver.addressSpace();
      return {
        pages: driver.pages,
        map: (iova, page) => tables.map(iova, page),
        attach: () => driver.attach(DEVICE, tables, SPACE),
        detach: () => driver.detach(DEVICE, SPACE),
        invalidate: (iova) => driver.invalidate(SPACE, iova),
      };
    },
  },
  {
    type: 'amd-iommu',
    boot(vm, device) {
      const iommu = ok(VirtualAmdIommu.create(vm, device));
      ok(iommu.addDevice(device, DEVICE));
      const driver = new AmdGuest(new GuestPages(vm.memory, BASE), iommu);
      const space = driver.addressSpace();
      return {
        pages: driver.pages,
        map: (iova, page) => space.tables.map(iova, page),
        attach: () => driver.attach(DEVICE, space, SPACE),
        detach: () => driver.detach(DEVICE),
        invalidate: (iova) => driver.invalidate(DEVICE, SPACE, iova),
      };
    },
  },
];

describe.each(VENDORS)('a guest behind its own $type', ({ type, boot }) => {
  const start = async (): Promise<{ driver: Driver; device: AssignedDevice }> => {
    const vm = ok(VirtualMachine.create(await machine(type)));
    const device = ok(vm.openDevice('/dev/vfio/devices/vfio0'));
    return { device, driver: boot(vm, device) };
  };

  it('translates by the tables that its driver builds', async () => {
    const { driver, device } = await start();
    const page = driver.pages.take();
    driver.pages.write(page, 'old');
    expect(found(device, IOVA)).toBe('fault');
    driver.map(IOVA, page);
    driver.attach();
    expect(found(device, IOVA)).toBe('old');
    ok(device.dmaWrite(IOVA + 8n, Uint8Array.of(0x78)));
    expect(driver.pages.text(page + 8, 1)).toBe('x');
  });

  it('drives a device whose DMA goes through them', async () => {
    const { driver, device } = await start();
    const [from, to] = [driver.pages.take(), driver.pages.take()];
    driver.pages.write(from, 'by DMA');
    driver.map(IOVA, from);
    driver.attach();
    const engine = new DmaEngineGuest(device);
    expect(engine.copy(IOVA, IOVA + 0x1000n, 6)).toBe(false);
    driver.map(IOVA + 0x1000n, to);
    expect(engine.copy(IOVA, IOVA + 0x1000n, 6)).toBe(true);
    expect(driver.pages.text(to, 6)).toBe('by DMA');
  });

  it('keeps what it forgets to invalidate, and no longer when it does', async () => {
    const { driver, device } = await start();
    const [before, after] = [driver.pages.take(), driver.pages.take()];
    driver.pages.write(before, 'old');
    driver.pages.write(after, 'new');
    driver.map(IOVA, before);
    driver.attach();
    expect(found(device, IOVA)).toBe('old');
    driver.map(IOVA, after);
    expect(found(device, IOVA)).toBe('old');
    driver.invalidate(IOVA);
    expect(found(device, IOVA)).toBe('new');
    driver.detach();
    expect(found(device, IOVA)).toBe('fault');
  });
});
