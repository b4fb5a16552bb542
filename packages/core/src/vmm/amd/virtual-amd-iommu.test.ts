import { describe, expect, it } from 'vitest';
import { EEXIST, EINVAL, ENODEV } from '../../abi/errno.ts';
import { OFFSET } from '../../iommu/amd/spec/registers.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import { AmdGuest } from '../guests/amd.ts';
import { GuestPages } from '../guests/guest-pages.ts';
import { BASE, found, machine, ok } from '../testing/vm.ts';
import { VirtualMachine } from '../virtual-machine.ts';
import { VirtualAmdIommu } from './virtual-amd-iommu.ts';

const ID = 0x18;
const IOVA = 0x5000_0000n;

interface Booted {
  readonly vm: VirtualMachine;
  readonly iommu: VirtualAmdIommu;
  readonly device: AssignedDevice;
  readonly driver: AmdGuest;
}

/** A guest whose device reads 'abc' at IOVA. Without an ATC, so that faults are recorded. */
async function boot(): Promise<Booted> {
  const vm = ok(VirtualMachine.create(await machine('amd-iommu', { ats: false })));
  const device = ok(vm.openDevice('/dev/vfio/devices/vfio0'));
  const iommu = ok(VirtualAmdIommu.create(vm, device));
  ok(iommu.addDevice(device, ID));
  const driver = new AmdGuest(new GuestPages(vm.memory, BASE), iommu);
  const space = driver.space();
  const page = driver.pages.page('abc');
  space.tables.map(IOVA, page);
  driver.attach(ID, space);
  expect(found(device, IOVA)).toBe('abc');
  return { vm, iommu, device, driver };
}

/** What the guest's event log has. */
function events({ iommu, driver }: Booted): readonly bigint[] {
  const base = Number(iommu.readRegister(OFFSET.EVT_LOG_BASE, 8) & 0xf_ffff_ffff_f000n);
  const tail = Number(iommu.readRegister(OFFSET.EVT_TAIL, 4));
  const head = Number(iommu.readRegister(OFFSET.EVT_HEAD, 4));
  const records: bigint[] = [];
  for (let at = head; at !== tail; at = (at + 16) % 4096) records.push(driver.pages.load(base + at));
  iommu.writeRegister(OFFSET.EVT_HEAD, 4, BigInt(tail));
  return records;
}

describe("a guest's AMD IOMMU", () => {
  it('has faults of its tables in its event log, under its own id', async () => {
    const guest = await boot();
    expect(found(guest.device, IOVA + 0x1000n)).toBe('fault');
    const [record] = events(guest);
    // IO_PAGE_FAULT
    expect([record! >> 60n, record! & 0xffffn]).toEqual([2n, BigInt(ID)]);
    expect(events(guest)).toEqual([]);
  });

  it('loses events when the log is full, and goes on when the guest starts it anew', async () => {
    const guest = await boot();
    const { iommu, device } = guest;
    for (let i = 0; i < 300; i++) found(device, IOVA + 0x1000n);
    // EventOverflow, and EventLogRun is 0.
    expect(iommu.readRegister(OFFSET.STATUS, 4) & 9n).toBe(1n);
    expect(events(guest)).toHaveLength(255);
    const control = iommu.readRegister(OFFSET.CONTROL, 8);
    iommu.writeRegister(OFFSET.CONTROL, 8, control & ~4n);
    iommu.writeRegister(OFFSET.STATUS, 4, 1n);
    iommu.writeRegister(OFFSET.CONTROL, 8, control);
    expect(iommu.readRegister(OFFSET.STATUS, 4) & 8n).toBe(8n);
    expect(found(device, IOVA + 0x1000n)).toBe('fault');
    expect(events(guest)).toHaveLength(1);
  });

  it('takes no commands up to a tail that is none, and no stores beside its registers', async () => {
    const { iommu, device, driver } = await boot();
    const tail = iommu.readRegister(OFFSET.CMD_TAIL, 4);
    for (const wrong of [tail + 8n, 0x1_0000n]) iommu.writeRegister(OFFSET.CMD_TAIL, 4, wrong);
    for (const offset of [0x2ffd, 0x3000, 0x10_0000, -4]) {
      iommu.writeRegister(offset, 4, 1n);
      expect(iommu.readRegister(offset, 4)).toBe(0n);
    }
    iommu.writeRegister(OFFSET.CMD_TAIL, 4, tail);
    driver.detach(ID);
    expect(found(device, IOVA)).toBe('fault');
  });

  it('passes what an entry without tables lets pass, which is both ways or nothing', async () => {
    const { iommu, device, driver } = await boot();
    const page = driver.pages.page('xyz');
    const table = Number(iommu.readRegister(OFFSET.DEV_TAB_BASE, 8) & ~0xfffn);
    const now = (low: bigint): string => {
      driver.pages.store(table + ID * 32, low);
      driver.command((2n << 60n) | BigInt(ID)); // INVALIDATE_DEVTAB_ENTRY
      driver.wait();
      return found(device, BigInt(page));
    };
    const [V, TV, IR, IW] = [1n, 2n, 1n << 61n, 1n << 62n];
    expect(now(V | TV | IR | IW)).toBe('xyz');
    expect(now(V | TV | IR)).toBe('fault');
    expect(now(0n)).toBe('xyz');
    // V without TV; and tables of the guest's own for host addresses.
    expect(now(V)).toBe('fault');
    expect(now(V | TV | IR | IW | (4n << 9n) | BigInt(page))).toBe('fault');
  });

  it('takes devices behind one physical IOMMU; those behind another need another', async () => {
    const kernel = await machine('amd-iommu', { iommus: 2, devices: 2 });
    const vm = ok(VirtualMachine.create(kernel));
    const devices = [0, 1].map((index) => ok(vm.openDevice(`/dev/vfio/devices/vfio${index}`)));
    const first = ok(VirtualAmdIommu.create(vm, devices[0]!));
    ok(first.addDevice(devices[0]!, ID));
    expect(first.addDevice(devices[0]!, ID)).toMatchObject({ errno: EEXIST });
    expect(first.addDevice(devices[1]!, ID + 8)).toMatchObject({ errno: EINVAL });
    ok(ok(VirtualAmdIommu.create(vm, devices[1]!)).addDevice(devices[1]!, ID));
  });

  it('stands in front of AMD IOMMUs alone', async () => {
    const vm = ok(VirtualMachine.create(await machine('intel-iommu')));
    const device = ok(vm.openDevice('/dev/vfio/devices/vfio0'));
    expect(VirtualAmdIommu.create(vm, device)).toMatchObject({ errno: ENODEV });
  });
});
