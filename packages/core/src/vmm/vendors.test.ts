import { describe, expect, it } from 'vitest';
import type { IommuType } from '../machine/machine-file/parts.ts';
import type { AssignedDevice } from './assigned-device.ts';
import { bootGuest, type BootedGuest } from './guests/boot.ts';
import { DmaEngineGuest } from './guests/dma-engine.ts';
import type { GuestPages } from './guests/guest-pages.ts';
import { found, machine, ok, type MachineOptions } from './testing/vm.ts';
import { VirtualMachine } from './virtual-machine.ts';

// The thread as one guest sees it, on every vendor's IOMMU: its own tables, nested on the host's, and stale until it
// says what has changed.

const IOVA = 0x1234_5000n;
/** What the guest calls its device. */
const DEVICE = 0x18;
const VENDORS: readonly IommuType[] = ['arm-smmu-v3', 'intel-iommu', 'amd-iommu'];

async function start(
  type: IommuType,
  options: MachineOptions = {},
): Promise<BootedGuest & { readonly device: AssignedDevice; readonly pages: GuestPages }> {
  const vm = ok(VirtualMachine.create(await machine(type, options)));
  const device = ok(vm.openDevice('/dev/vfio/devices/vfio0'));
  const booted = ok(bootGuest(vm, new Map([[DEVICE, device]])));
  return { ...booted, device, pages: booted.driver.pages };
}

describe.each(VENDORS)('a guest behind its own %s', (type) => {
  it('translates by the tables that its driver builds', async () => {
    const { driver, device, pages } = await start(type);
    const page = pages.page('old');
    const space = driver.space();
    expect(found(device, IOVA)).toBe('fault');
    space.tables.map(IOVA, page);
    driver.attach(DEVICE, space);
    expect(found(device, IOVA)).toBe('old');
    ok(device.dmaWrite(IOVA + 8n, Uint8Array.of(0x78)));
    expect(pages.text(page + 8, 1)).toBe('x');
  });

  it('drives a device whose DMA goes through them', async () => {
    const { driver, device, pages } = await start(type);
    const [from, to] = [pages.page('by DMA'), pages.take()];
    const space = driver.space();
    space.tables.map(IOVA, from);
    space.tables.map(IOVA + 0x1000n, to);
    driver.attach(DEVICE, space);
    expect(new DmaEngineGuest(device).copy({ iova: IOVA }, { iova: IOVA + 0x1000n }, 6)).toBe('done');
    expect(pages.text(to, 6)).toBe('by DMA');
  });

  it('keeps what it forgets to invalidate, and no longer when it does', async () => {
    const { driver, device, pages } = await start(type);
    const space = driver.space();
    space.tables.map(IOVA, pages.page('old'));
    driver.attach(DEVICE, space);
    expect(found(device, IOVA)).toBe('old');
    space.tables.map(IOVA, pages.page('new'));
    expect(found(device, IOVA)).toBe('old');
    driver.invalidate(DEVICE, space, IOVA);
    expect(found(device, IOVA)).toBe('new');
    driver.detach(DEVICE);
    expect(found(device, IOVA)).toBe('fault');
  });

  it('lets a device pass, blocks it, and has it translate again', async () => {
    const { driver, device, pages } = await start(type);
    const page = pages.page('abc');
    driver.bypass(DEVICE);
    expect(found(device, BigInt(page))).toBe('abc');
    expect(found(device, IOVA)).toBe('fault');
    driver.detach(DEVICE);
    expect(found(device, BigInt(page))).toBe('fault');
    const space = driver.space();
    space.tables.map(IOVA, page);
    driver.attach(DEVICE, space);
    expect(found(device, IOVA)).toBe('abc');
    expect(found(device, BigInt(page))).toBe('fault');
  });
});

describe.each(VENDORS)('PASIDs of a guest behind its own %s', (type) => {
  const PASIDS = [1, 5];

  /** One address space without PASID, and one for each of the two. */
  async function withPasids() {
    const guest = await start(type);
    const { driver, pages } = guest;
    const spaces = new Map([0, ...PASIDS].map((pasid) => [pasid, driver.space()]));
    for (const [pasid, space] of spaces) {
      space.tables.map(IOVA, pages.page(`in${pasid}`));
      driver.attach(DEVICE, space, pasid);
    }
    const reads = (): string[] => [null, ...PASIDS].map((pasid) => found(guest.device, IOVA, pasid));
    return { ...guest, spaces, reads };
  }

  it('have an address space each', async () => {
    const { device, reads } = await withPasids();
    expect(reads()).toEqual(['in0', 'in1', 'in5']);
    expect(found(device, IOVA, 6)).toBe('fault');
  });

  it('are invalidated one by one', async () => {
    const { driver, pages, spaces, reads } = await withPasids();
    expect(reads()).toEqual(['in0', 'in1', 'in5']);
    for (const [pasid, space] of spaces) space.tables.map(IOVA, pages.page(`to${pasid}`));
    expect(reads()).toEqual(['in0', 'in1', 'in5']);
    driver.invalidate(DEVICE, spaces.get(5)!, IOVA, 5);
    expect(reads()).toEqual(['in0', 'in1', 'to5']);
    driver.invalidate(DEVICE, spaces.get(1)!, IOVA, 1);
    expect(reads()).toEqual(['in0', 'to1', 'to5']);
    // Without a PASID all of the device's translation cache goes.
    driver.invalidate(DEVICE, spaces.get(0)!, IOVA);
    expect(reads()).toEqual(['to0', 'to1', 'to5']);
  });

  it('come and go one by one, and come back with other tables', async () => {
    const { driver, pages, spaces, reads } = await withPasids();
    expect(reads()).toEqual(['in0', 'in1', 'in5']);
    driver.detach(DEVICE, 1);
    expect(reads()).toEqual(['in0', 'fault', 'in5']);
    const space = driver.space();
    space.tables.map(IOVA, pages.page('new'));
    driver.attach(DEVICE, space, 1);
    expect(reads()).toEqual(['in0', 'new', 'in5']);
    // Two PASIDs, one address space.
    driver.attach(DEVICE, spaces.get(5)!, 1);
    driver.invalidate(DEVICE, spaces.get(5)!, IOVA, 1);
    expect(reads()).toEqual(['in0', 'in5', 'in5']);
    driver.detach(DEVICE);
    expect(reads()[0]).toBe('fault');
  });

  it('move data from one to the other on a device that has them', async () => {
    const { driver, device, pages, spaces } = await withPasids();
    const to = pages.take();
    spaces.get(0)!.tables.map(IOVA + 0x1000n, to);
    driver.invalidate(DEVICE, spaces.get(0)!, IOVA + 0x1000n);
    const engine = new DmaEngineGuest(device);
    expect(engine.copy({ iova: IOVA, pasid: 5 }, { iova: IOVA + 0x1000n }, 3)).toBe('done');
    expect(pages.text(to, 3)).toBe('in5');
  });
});
