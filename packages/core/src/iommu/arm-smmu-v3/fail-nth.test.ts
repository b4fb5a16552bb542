import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import * as abi from '../../abi/iommufd.ts';
import { attachDevice, detachDevice, replaceDevice } from '../../iommufd/device/attach.ts';
import { bindDevice, unbindDevice } from '../../iommufd/device/device.ts';
import { Kernel } from '../../machine/kernel.ts';
import { failEverywhere } from '../testing/fail-nth.ts';
import { IPA, TestMachine, TestVm, VA } from './testing/machine.ts';
import { guestSte, STE_BYPASS, writeGuestCd } from './testing/guest.ts';
import { GuestTables } from '../testing/guest.ts';

const iommufd = { bindDevice, unbindDevice, attachDevice, replaceDevice, detachDevice };

function vmWithStage1(): { vm: TestVm; tables: GuestTables } {
  const machine = new TestMachine(new Kernel(), iommufd);
  const pci = { maxPasids: 16, pasidExec: false, pasidPriv: false, ats: 'optional' } as const;
  const vm = new TestVm(machine, machine.device(0x20, { pci }), 0x99);
  const tables = new GuestTables(vm.memory);
  const page = vm.memory.page();
  vm.memory.write(page, 'text');
  tables.map(0x1000n, page);
  vm.translate(tables);
  return { vm, tables };
}

describe('running out of memory', () => {
  it.each([
    ['a stage 1 domain', 0],
    ['a nest parent', abi.IOMMU_HWPT_ALLOC_NEST_PARENT],
    ['a domain that tracks dirty pages', abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING],
  ])('while %s is made leaves no page behind', (_, flags) => {
    const { vm } = vmWithStage1();
    const { physical } = vm.machine.kernel;
    const ioas = vm.program.ioas();
    vm.program.map(ioas, VA, IPA, 0x4000n);
    const before = physical.ram.size;
    const points = failEverywhere(
      vm.program,
      () => {
        vm.program.hwpt(vm.bound.id, ioas, flags);
        return vm.program.errno;
      },
      () => expect(physical.ram.size).toBe(before),
    );
    expect(points).toBeGreaterThan(4);
  });

  it('while a nested domain is attached keeps the one that was there', () => {
    const { vm, tables } = vmWithStage1();
    const cd = vm.memory.page();
    writeGuestCd(vm.memory, cd, tables, 2);
    const other = vm.program.nested(vm.bound.id, vm.viommu, guestSte(cd));
    const points = failEverywhere(
      vm.program,
      () => vm.machine.attach(vm.program, vm.bound, other),
      () => expect(vm.read(0x1000n, 4)).toBe('text'),
    );
    expect(points).toBeGreaterThan(3);
    expect(vm.read(0x1000n, 4)).toBe('text');
  });

  it('while a device goes from a guest to a page table of the kernel keeps the guest', () => {
    const { vm } = vmWithStage1();
    const own = vm.program.hwpt(vm.bound.id, vm.ioas);
    const points = failEverywhere(
      vm.program,
      () => vm.machine.attach(vm.program, vm.bound, own),
      () => expect(vm.read(0x1000n, 4)).toBe('text'),
    );
    expect(points).toBeGreaterThan(3);
    expect(
      failed(vm.device.dma({ write: false, iova: 0x4000_0000n, pasid: null, data: new Uint8Array(1) })),
    ).toBe(false);
  });

  it('while a PASID is attached leaves the device without it', () => {
    const machine = new TestMachine(new Kernel(), iommufd);
    const vm = new TestVm(machine, machine.device(0x20), 0x99);
    const own = vm.program.hwpt(vm.bound.id, vm.ioas, abi.IOMMU_HWPT_ALLOC_PASID);
    const points = failEverywhere(
      vm.program,
      () => machine.attach(vm.program, vm.bound, own, 3),
      () => expect([vm.device.ssidsInUse, vm.device.cdTableInSte]).toEqual([false, false]),
    );
    expect(points).toBeGreaterThan(4);
    expect(vm.device.ssidsInUse).toBe(true);
  });

  it('while nested domains and viommus are made', () => {
    const { vm } = vmWithStage1();
    const nested = (): number => {
      vm.program.nested(vm.bound.id, vm.viommu, STE_BYPASS);
      return vm.program.errno;
    };
    const viommu = (): number => {
      vm.program.viommu(vm.bound.id, vm.parent);
      return vm.program.errno;
    };
    const same = (): void => expect(vm.read(0x1000n, 4)).toBe('text');
    expect(failEverywhere(vm.program, nested, same)).toBeGreaterThan(2);
    expect(failEverywhere(vm.program, viommu, same)).toBeGreaterThan(2);
  });

  it('while commands are forwarded sends none of them', () => {
    const { vm } = vmWithStage1();
    vm.machine.commands.length = 0;
    failEverywhere(
      vm.program,
      () => {
        vm.program.invalidate(vm.viommu, [[0x30n, 0n]]);
        return vm.program.errno;
      },
      () => expect(vm.machine.commands.filter((name) => name !== 'CMD_SYNC').length).toBeLessThanOrEqual(1),
    );
  });
});
