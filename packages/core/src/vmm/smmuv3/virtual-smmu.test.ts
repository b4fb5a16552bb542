import { describe, expect, it } from 'vitest';
import { EEXIST, EINVAL } from '../../abi/errno.ts';
import { CERROR, OFFSET } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import { machineSchema } from '../../machine/machine-file/description.ts';
import { Kernel } from '../../machine/kernel.ts';
import { loadParts } from '../../machine/machine-file/parts.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import { GuestPages } from '../guests/guest-pages.ts';
import { SmmuGuest } from '../guests/smmuv3.ts';
import { BASE, found, machine, ok } from '../testing/vm.ts';
import { VirtualMachine } from '../virtual-machine.ts';
import { VirtualSmmu } from './virtual-smmu.ts';

const SID = 0x18;
const IOVA = 0x1234_5000n;

/** A VM with one device behind its SMMU, and the guest's driver. */
async function guest(ats = true): Promise<{
  kernel: Kernel;
  vm: VirtualMachine;
  smmu: VirtualSmmu;
  device: AssignedDevice;
  driver: SmmuGuest;
}> {
  const kernel = await machine('arm-smmu-v3', { ats });
  const vm = ok(VirtualMachine.create(kernel));
  const device = ok(vm.openDevice('/dev/vfio/devices/vfio0'));
  const smmu = ok(VirtualSmmu.create(vm, device, { trace: kernel.trace }));
  ok(smmu.addDevice(device, SID));
  return { kernel, vm, smmu, device, driver: new SmmuGuest(new GuestPages(vm.memory, BASE), smmu) };
}

describe('a guest behind a virtual SMMUv3', () => {
  it('has its device blocked until it says otherwise, as GBPA does', async () => {
    const kernel = await machine('arm-smmu-v3');
    const vm = ok(VirtualMachine.create(kernel));
    const device = ok(vm.openDevice('/dev/vfio/devices/vfio0'));
    const smmu = ok(VirtualSmmu.create(vm, device));
    ok(smmu.addDevice(device, SID));
    vm.memory.write(BASE, Uint8Array.of(0x61, 0x62, 0x63));
    expect(found(device, BigInt(BASE))).toBe('abc');
    smmu.writeRegister(0x44, 4, 0x8010_0000n); // GBPA: Update, ABORT
    expect(found(device, BigInt(BASE))).toBe('fault');
    expect(smmu.readRegister(0x44, 4)).toBe(0x0010_0000n);
  });

  it('sends invalidations in one batch, in order, up to the CMD_SYNC', async () => {
    const { kernel, driver, device } = await guest();
    const space = driver.space();
    space.tables.map(IOVA, driver.pages.take());
    driver.attach(SID, space);
    found(device, IOVA);
    const seen: string[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'command' && event['unit'] === 'smmuv3') seen.push(String(event['name']));
      if (event.kind === 'ioctl') seen.push('request');
    });
    for (let page = 0n; page < 3n; page++)
      driver.command(0x12n | (BigInt(space.id) << 48n), (IOVA + page * 4096n) | 1n);
    driver.command(0x40n | (BigInt(SID) << 32n), IOVA);
    expect(driver.sync()).toBe(CERROR.NONE);
    expect(seen.filter((name) => name === 'request')).toHaveLength(1);
    expect(seen.filter((name) => name !== 'request')).toEqual([
      'CMD_TLBI_NH_VA',
      'CMD_TLBI_NH_VA',
      'CMD_TLBI_NH_VA',
      'CMD_ATC_INV',
      'CMD_SYNC',
    ]);
  });

  it('stops at a command that cannot be, with those before it done', async () => {
    const { driver, smmu } = await guest();
    driver.command(0x30n);
    driver.command(0x28n); // CMD_TLBI_S12_VMALL: it has no stage 2
    driver.command(0x30n);
    expect(driver.sync()).toBe(CERROR.ILL);
    const cons = Number(smmu.readRegister(0x9c, 4)) & 0xf_ffff;
    const first = 3; // CMD_CFGI_ALL, CMD_TLBI_NSNH_ALL and CMD_SYNC of the bring-up
    expect(cons).toBe(first + 1);
    expect(Number(smmu.readRegister(0x60, 4)) & 1).toBe(1); // GERROR.CMDQ_ERR
  });

  it('knows no page requests, and no stalls where the physical one has none', async () => {
    const { driver } = await guest();
    driver.command(0x44n | (BigInt(SID) << 32n)); // CMD_RESUME of nothing
    expect(driver.sync()).toBe(CERROR.NONE);
    driver.command(0x41n | (BigInt(SID) << 32n)); // CMD_PRI_RESP
    expect(driver.sync()).toBe(CERROR.ILL);
    const kernel = await machine('arm-smmu-v3', { registers: { IDR0: { STALL_MODEL: 1 } } });
    const vm = ok(VirtualMachine.create(kernel));
    const smmu = ok(VirtualSmmu.create(vm, ok(vm.openDevice('/dev/vfio/devices/vfio0'))));
    const without = new SmmuGuest(new GuestPages(vm.memory, BASE), smmu);
    without.command(0x44n | (BigInt(SID) << 32n));
    expect(without.sync()).toBe(CERROR.ILL);
  });

  it('hears of faults with its own stream id', async () => {
    // A Translation Request that fails is answered and not recorded (§13.1.3): the device has no ATC.
    const { driver, device, smmu } = await guest(false);
    driver.attach(SID, driver.space());
    expect(found(device, IOVA)).toBe('fault');
    expect(smmu.poll()).toBe(true);
    const event = driver.event();
    expect(event).not.toBeNull();
    expect(event![0]! & 0xffn).toBe(0x10n); // F_TRANSLATION
    expect(event![0]! >> 32n).toBe(BigInt(SID));
    expect(event![2]).toBe(IOVA);
    expect(driver.event()).toBeNull();
  });
});

describe('a guest with one SMMU for devices behind two', () => {
  const IDS = [SID, SID + 8];

  async function two(ats = true) {
    const kernel = await machine('arm-smmu-v3', { iommus: 2, devices: 2, ats });
    const vm = ok(VirtualMachine.create(kernel));
    const devices = [0, 1].map((index) => ok(vm.openDevice(`/dev/vfio/devices/vfio${index}`)));
    const smmu = ok(VirtualSmmu.create(vm, devices[0]!));
    for (const [index, device] of devices.entries()) ok(smmu.addDevice(device, IDS[index]!));
    const driver = new SmmuGuest(new GuestPages(vm.memory, BASE), smmu);
    const commands = (): string[] => {
      const seen: string[] = [];
      kernel.trace.subscribe((event) => {
        if (event.kind === 'command' && event['unit'] === 'smmuv3') seen.push(String(event['name']));
      });
      return seen;
    };
    return { kernel, smmu, driver, devices, commands };
  }

  it('invalidates an address space on both of them with one command', async () => {
    const { driver, devices } = await two();
    const space = driver.space();
    const [before, after] = [driver.pages.page('old'), driver.pages.page('new')];
    space.tables.map(IOVA, before);
    for (const id of IDS) driver.attach(id, space);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['old', 'old']);
    space.tables.map(IOVA, after);
    driver.command(0x12n | (BigInt(space.id) << 48n), IOVA | 1n);
    for (const id of IDS) driver.command(0x40n | (BigInt(id) << 32n), IOVA);
    expect(driver.sync()).toBe(CERROR.NONE);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['new', 'new']);
  });

  it('sends each of them what is for it, in order, in one request', async () => {
    const { driver, commands } = await two();
    const space = driver.space();
    for (const id of IDS) driver.attach(id, space);
    const seen = commands();
    driver.command(0x12n | (BigInt(space.id) << 48n), IOVA | 1n);
    for (const id of IDS) driver.command(0x40n | (BigInt(id) << 32n), IOVA);
    driver.sync();
    const one = ['CMD_TLBI_NH_VA', 'CMD_ATC_INV', 'CMD_SYNC'];
    expect(seen).toEqual([...one, ...one]);
  });

  it('stops where one of them refuses a command, and what was before it has reached both', async () => {
    const { driver, devices, smmu } = await two();
    const space = driver.space();
    const [before, after] = [driver.pages.page('old'), driver.pages.page('new')];
    space.tables.map(IOVA, before);
    for (const id of IDS) driver.attach(id, space);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['old', 'old']);
    space.tables.map(IOVA, after);
    const start = Number(smmu.readRegister(OFFSET.CMDQ_CONS, 4)) & 0xf_ffff;
    driver.command(0x12n | (BigInt(space.id) << 48n), IOVA | 1n);
    for (const id of IDS) driver.command(0x40n | (BigInt(id) << 32n), IOVA);
    driver.command(0x12n | (1n << 9n), IOVA); // a reserved bit
    expect(driver.sync()).toBe(CERROR.ILL);
    expect(Number(smmu.readRegister(OFFSET.CMDQ_CONS, 4)) & 0xf_ffff).toBe(start + 3);
    expect(devices.map((device) => found(device, IOVA))).toEqual(['new', 'new']);
  });

  it('is told of faults behind both', async () => {
    const { driver, devices, smmu } = await two(false);
    for (const id of IDS) driver.attach(id, driver.space());
    for (const device of devices) expect(found(device, IOVA)).toBe('fault');
    expect(smmu.poll()).toBe(true);
    expect([driver.event()![0]! >> 32n, driver.event()![0]! >> 32n]).toEqual(IDS.map(BigInt));
  });

  it('takes no device whose SMMU has less than the guest was told', async () => {
    const description = machineSchema.parse({
      iommus: [
        { name: 'smmu0', type: 'arm-smmu-v3' },
        { name: 'smmu1', type: 'arm-smmu-v3', registers: { IDR0: { ATS: 0, PRI: 0 } } },
      ],
      devices: [
        { name: '0000:01:00.0', iommu: 'smmu0' },
        { name: '0000:02:00.0', iommu: 'smmu1' },
      ],
    });
    const vm = ok(VirtualMachine.create(new Kernel({ parts: await loadParts(description) })));
    const devices = [0, 1].map((index) => ok(vm.openDevice(`/dev/vfio/devices/vfio${index}`)));
    const smmu = ok(VirtualSmmu.create(vm, devices[0]!));
    ok(smmu.addDevice(devices[0]!, SID));
    expect(smmu.addDevice(devices[1]!, SID + 8)).toMatchObject({
      errno: EINVAL,
      reason: '/dev/vfio/devices/vfio1 is behind an SMMU that differs in IDR0.ATS',
    });
    expect(smmu.addDevice(devices[0]!, SID)).toMatchObject({ errno: EEXIST });
  });
});

describe('context descriptors of a guest', () => {
  it('may stand in tables of two levels', async () => {
    const { driver, device } = await guest();
    const { pages } = driver;
    // Borrows the descriptor that the driver writes, for substream 65 of 128: the second table of 64.
    const space = driver.space();
    const page = pages.page('abc');
    space.tables.map(IOVA, page);
    driver.attach(SID + 8, space);
    const [directory, second] = [pages.take(), pages.take()];
    pages.store(directory + 8, BigInt(second) | 1n);
    const words = [16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 41n) | (3n << 45n)];
    pages.store(second + 64 + 8, BigInt(space.tables.root));
    pages.store(second + 64 + 24, 0xffn);
    pages.store(second + 64, words[0]! | (BigInt(space.id) << 48n));
    const low = 1n | (5n << 1n) | (1n << 4n) | BigInt(directory) | (7n << 59n);
    driver.storeSte(SID, low, 1n << 28n);
    expect(found(device, IOVA, 65)).toBe('abc');
    // S1DSS 0: what has no substream is terminated.
    expect(found(device, IOVA)).toBe('fault');
    driver.storeSte(SID, low, (1n << 28n) | 1n);
    // S1DSS 1: it bypasses stage 1.
    expect(found(device, BigInt(page))).toBe('abc');
    expect(found(device, IOVA, 65)).toBe('abc');
    pages.store(second + 64, 0n);
    expect(found(device, IOVA, 65)).toBe('abc');
    driver.command(0x06n | (BigInt(SID) << 32n)); // CMD_CFGI_CD_ALL
    driver.command(0x11n | (BigInt(space.id) << 48n)); // CMD_TLBI_NH_ASID
    driver.command(0x40n | (BigInt(SID) << 32n), 52n); // CMD_ATC_INV
    driver.sync();
    expect(found(device, IOVA, 65)).toBe('fault');
  });
});
