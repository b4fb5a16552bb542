import { describe, expect, it } from 'vitest';
import { CERROR } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import type { Kernel } from '../../machine/kernel.ts';
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
