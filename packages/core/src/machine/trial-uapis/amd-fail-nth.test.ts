import { describe, expect, it } from 'vitest';
import * as amd from '../../abi/amd-viommu.ts';
import { EFAULT } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import { failEverywhere } from '../../iommu/testing/fail-nth.ts';
import { amdIommu } from '../iommus/amd-iommu.ts';
import { Kernel } from '../kernel.ts';
import { allocViommu, AmdVm, guestDte } from '../testing/amd-guest.ts';
import { partsOf } from '../testing/vendors.ts';
import { GUEST, Vm } from '../testing/vm.ts';

const IOVA = 0x1234_5000n;

const kernel = (): Kernel => new Kernel({ parts: partsOf(amdIommu), uapis: ['amd-viommu'] });

describe('running out of memory behind an AMD IOMMU', () => {
  it.each([
    ['a domain', 0],
    ['a nest parent', abi.IOMMU_HWPT_ALLOC_NEST_PARENT],
    ['a domain that tracks dirty pages', abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING],
  ])('while %s is made leaves no page behind', (_, flags) => {
    const vm = new Vm(kernel());
    const device = vm.pass(0);
    const ioas = vm.ioas();
    vm.map(ioas, { iova: GUEST, length: 0x4000n });
    const { ram } = vm.kernel.physical;
    const before = ram.size;
    const alloc = (): number => Math.abs(vm.tryHwpt({ dev_id: device.id, pt_id: ioas, flags }).rc);
    expect(failEverywhere(vm, alloc, () => expect(ram.size).toBe(before))).toBeGreaterThan(3);
  });

  it('while a viommu is made leaves it unmade', () => {
    const vm = new Vm(kernel());
    const device = vm.pass(0);
    const parent = vm.parent(device);
    // Memory counts from the first write to it on: the page of the device table that the viommu writes to.
    expect(vm.destroy(allocViommu(vm, device, parent, amd.IOMMU_VIOMMU_TYPE_AMD).id)).toBe(0);
    const before = vm.kernel.physical.ram.size;
    let made = 0;
    const points = failEverywhere(
      vm,
      () => {
        const { errno, id } = allocViommu(vm, device, parent, amd.IOMMU_VIOMMU_TYPE_AMD);
        made = id;
        return errno;
      },
      () => expect(vm.kernel.physical.ram.size).toBe(before),
    );
    expect(points).toBeGreaterThan(3);
    expect(vm.destroy(made)).toBe(0);
    expect(vm.kernel.physical.ram.size).toBe(before);
  });

  it('while a queue of a guest is made leaves it unmade', () => {
    const vm = new AmdVm(kernel(), 100, [0], 8n);
    const base = vm.guest.page();
    const type = amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD;
    const points = failEverywhere(
      vm,
      () => vm.port.tryQueue(type, base, 8n, amd.QUEUE_FLAGS).errno,
      () => {},
    );
    expect(points).toBeGreaterThan(2);
  });

  it('while nested domains are made and attached leaves the device with what it had', () => {
    const vm = new AmdVm(kernel(), 100, [0], 8n);
    const tables = vm.translate(5n);
    const page = vm.guest.page();
    vm.guest.write(page, 'abc');
    tables.map(IOVA, page);
    const reads = (): string | number => vm.deviceReads(vm.port.device, IOVA, 3);
    const unchanged = (): void => expect(reads()).toBe('abc');
    const gcr3 = vm.guest.page();
    const other = vm.guest.page();
    vm.guest.write(other, 'new');
    let nested = 0;
    const made = failEverywhere(
      vm,
      () => {
        const { errno, id } = vm.port.nestedOf(guestDte(gcr3, 6n));
        nested = id;
        return errno;
      },
      unchanged,
    );
    expect(made).toBeGreaterThan(2);
    const attached = failEverywhere(vm, () => vm.attach(vm.port.device, nested), unchanged);
    expect(attached).toBeGreaterThan(1);
    // What it has now has no tables.
    expect(reads()).toBeTypeOf('number');
  });

  it('while memory is mapped leaves none of it mapped', () => {
    const vm = new Vm(kernel());
    const device = vm.pass(0);
    expect(vm.attach(device, vm.ioasId)).toBe(0);
    const iova = 0x70_0000_0000n;
    const map = (): number => Math.abs(vm.tryMap(vm.ioasId, { iova, length: 0x4000n }).rc);
    const points = failEverywhere(vm, map, (errno) => {
      // Linux leaves what it could not tell the program of.
      if (errno === EFAULT) vm.unmap(vm.ioasId, iova, 0x4000n);
      expect(vm.deviceReads(device, iova, 1)).toBeTypeOf('number');
    });
    expect(points).toBeGreaterThan(3);
    expect(vm.deviceReads(device, iova, 1)).toBeTypeOf('string');
  });
});
