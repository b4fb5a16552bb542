import { describe, expect, it } from 'vitest';
import { EFAULT, EINVAL, EIO, EOPNOTSUPP } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import {
  iommu_hw_info_vtd,
  iommu_hwpt_vtd_s1,
  iommu_hwpt_vtd_s1_invalidate,
} from '../../abi/iommufd-data.ts';
import { pageAddress } from '../../base/u64.ts';
import { intelIommu } from '../../machine/iommus/intel-iommu.ts';
import { Kernel } from '../../machine/kernel.ts';
import { partsOf } from '../../machine/testing/vendors.ts';
import { findProfile } from '../../iommufd/profile.ts';
import { GUEST, Vm, type DriverData, type Passed } from '../../machine/testing/vm.ts';
import { BUFFER, PAGE } from '../../iommufd/testing/program.ts';
import { failEverywhere } from '../testing/fail-nth.ts';
import { GuestTables } from './testing/guest-tables.ts';

// A program's requests, from the ioctl to the bytes that a device reads.

const IOVA = 0x12_3456_7000n;

/** The guest's memory, whose addresses the tables have, as a walker loads it. */
function tablesOf(vm: Vm): GuestTables {
  const vaOf = (page: number): bigint =>
    vm.guest.va + (pageAddress(page / 4096) + BigInt(page % 4096) - GUEST);
  const memory = {
    load64(pa: number, out: Uint32Array): boolean {
      const view = new DataView(vm.read(vaOf(pa), 8).buffer);
      out[0] = view.getUint32(0, true);
      out[1] = view.getUint32(4, true);
      return true;
    },
    store64(pa: number, lo: number, hi: number): boolean {
      const view = new DataView(new ArrayBuffer(8));
      view.setUint32(0, lo, true);
      view.setUint32(4, hi, true);
      vm.write(vaOf(pa), new Uint8Array(view.buffer));
      return true;
    },
    read: () => false,
    write: () => false,
  };
  return new GuestTables(memory, 0x4000_0000, GUEST);
}

function firstStage(table: bigint): DriverData {
  const bytes = new Uint8Array(iommu_hwpt_vtd_s1.size);
  iommu_hwpt_vtd_s1.write(bytes, 0, { flags: 0n, pgtbl_addr: table, addr_width: 48, __reserved: 0 });
  return { type: abi.IOMMU_HWPT_DATA_VTD_S1, bytes };
}

function invalidation(addr: bigint, npages: bigint): DriverData {
  const { size } = iommu_hwpt_vtd_s1_invalidate;
  const bytes = new Uint8Array(size);
  iommu_hwpt_vtd_s1_invalidate.write(bytes, 0, { addr, npages, flags: 1, __reserved: 0 });
  return { type: abi.IOMMU_HWPT_INVALIDATE_DATA_VTD_S1, bytes, entry: size };
}

function setUp(): { vm: Vm; device: Passed } {
  const vm = new Vm(new Kernel({ parts: partsOf(intelIommu) }));
  return { vm, device: vm.pass(0) };
}

/** A nested HWPT with one page at IOVA, which says `old text`. */
function nested() {
  const { vm, device } = setUp();
  const tables = tablesOf(vm);
  // Pages of data beyond those that tables take.
  const pages = [0x80n, 0x81n].map((page) => GUEST + page * PAGE);
  vm.guest.write(pages[0]!, 'old text');
  vm.guest.write(pages[1]!, 'new text');
  tables.map(IOVA, pages[0]!);
  const parent = vm.parent(device);
  const { errno, id } = vm.linuxNested(device, parent, firstStage(tables.root));
  expect(errno).toBe(0);
  return { vm, device, tables, pages, parent, id };
}

describe('a program with a device behind VT-d', () => {
  it('learns the capability registers', () => {
    const { vm, device } = setUp();
    const values = { dev_id: device.id, data_len: iommu_hw_info_vtd.size, data_uptr: BUFFER };
    const { rc, out } = vm.call(abi.IOMMU_GET_HW_INFO, abi.iommu_hw_info, values);
    expect([rc, out.out_data_type, out.out_max_pasid_log2]).toEqual([0, abi.IOMMU_HW_INFO_TYPE_INTEL_VTD, 4]);
    expect(out.out_capabilities & 1n).toBe(1n);
    const info = iommu_hw_info_vtd.read(vm.read(BUFFER, iommu_hw_info_vtd.size));
    expect(info).toMatchObject({
      flags: 1,
      cap_reg: 0x91d2_078c_2278_0e06n,
      ecap_reg: 0x733_ef9e_a400_0fc7n,
    });
  });

  it('learns of PASIDs since Linux 6.15, and of the long-term releases from 6.12', () => {
    const pasidBits = (profile: string): number => {
      const vm = new Vm(new Kernel({ parts: partsOf(intelIommu), profile: findProfile(profile)! }));
      const { id } = vm.pass(0);
      return vm.call(abi.IOMMU_GET_HW_INFO, abi.iommu_hw_info, { dev_id: id }).out.out_max_pasid_log2;
    };
    expect(['linux-6.6', 'linux-6.12', 'linux-6.13', 'linux-6.15'].map(pasidBits)).toEqual([0, 4, 0, 4]);
  });

  it('reads and writes through an IOAS, as long as it is mapped', () => {
    const { vm, device } = setUp();
    expect(vm.attach(device, vm.ioasId)).toBe(0);
    expect(vm.deviceWrites(device, GUEST + 0xffcn, 'over the edge')).toBe(0);
    expect(vm.deviceReads(device, GUEST + 0xffcn, 13)).toBe('over the edge');
    expect(vm.unmap(vm.ioasId, GUEST, 0x100_0000n).rc).toBe(0);
    expect(vm.deviceReads(device, GUEST, 4)).toBe(EIO);
  });

  it('cannot map where interrupts are', () => {
    const { vm, device } = setUp();
    expect(vm.attach(device, vm.ioasId)).toBe(0);
    expect(vm.tryMap(vm.ioasId, { iova: 0xfee0_0000n }).rc).toBe(-EINVAL);
    expect(vm.tryMap(vm.ioasId, { iova: 0xfef0_0000n }).rc).toBe(0);
  });

  it('has no viommu', () => {
    const { vm, device } = setUp();
    const values = { type: abi.IOMMU_VIOMMU_TYPE_ARM_SMMUV3, dev_id: device.id, hwpt_id: vm.parent(device) };
    const made = vm.call(abi.IOMMU_VIOMMU_ALLOC, abi.iommu_viommu_alloc, values);
    expect(made.rc).toBe(-EOPNOTSUPP);
  });

  it('has a guest whose stale translations stay until they are invalidated', () => {
    const { vm, device, tables, pages, id } = nested();
    expect(vm.attach(device, id)).toBe(0);
    expect(vm.deviceReads(device, IOVA, 8)).toBe('old text');
    tables.map(IOVA, pages[1]!);
    expect(vm.deviceReads(device, IOVA, 8)).toBe('old text');
    expect(vm.hwptInvalidate(id, invalidation(IOVA, 1n))).toEqual([0, 1]);
    expect(vm.deviceReads(device, IOVA, 8)).toBe('new text');
  });

  it('loses the guest’s memory at once, whatever was cached of it', () => {
    const { vm, device, id } = nested();
    expect(vm.attach(device, id)).toBe(0);
    expect(vm.deviceReads(device, IOVA, 8)).toBe('old text');
    expect(vm.unmap(vm.ioasId, GUEST, 0x100_0000n).rc).toBe(0);
    expect(vm.deviceReads(device, IOVA, 8)).toBe(EIO);
  });

  it('cannot have memory in a nest parent that devices may not write to', () => {
    const { vm } = nested();
    const flags = abi.IOMMU_IOAS_MAP_READABLE;
    expect(vm.tryMap(vm.ioasId, { iova: 0x8000_0000n, flags }).rc).toBe(-EINVAL);
  });

  it('finds the pages that a device has written to', () => {
    const { vm, device } = setUp();
    const hwpt = vm.hwpt(device.id, vm.ioasId, abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    expect(vm.attach(device, hwpt)).toBe(0);
    const track = { flags: abi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE, hwpt_id: hwpt };
    expect(vm.call(abi.IOMMU_HWPT_SET_DIRTY_TRACKING, abi.iommu_hwpt_set_dirty_tracking, track).rc).toBe(0);
    const dirty = (): number => {
      vm.write(BUFFER, new Uint8Array(8));
      const values = { hwpt_id: hwpt, iova: GUEST, length: 8n * PAGE, page_size: PAGE, data: BUFFER };
      const asked = vm.call(abi.IOMMU_HWPT_GET_DIRTY_BITMAP, abi.iommu_hwpt_get_dirty_bitmap, values);
      expect(asked.rc).toBe(0);
      return vm.read(BUFFER, 1)[0]!;
    };
    expect(dirty()).toBe(0);
    for (let round = 0; round < 2; round++) {
      // Private pages have no neighbours: each is mapped by itself.
      expect(vm.deviceWrites(device, GUEST + 2n * PAGE + 0xfffn, 'ab')).toBe(0);
      expect(dirty()).toBe(0b1100);
      expect(dirty()).toBe(0);
    }
  });
});

describe('running out of memory', () => {
  it.each([
    ['a first stage', 0],
    ['a nest parent', abi.IOMMU_HWPT_ALLOC_NEST_PARENT],
    ['a domain that tracks dirty pages', abi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING],
  ])('while %s is made leaves no page behind', (_, flags) => {
    const { vm, device } = setUp();
    const ioas = vm.ioas();
    vm.map(ioas, { iova: GUEST, length: 4n * PAGE });
    const { ram } = vm.kernel.physical;
    const before = ram.size;
    const alloc = (): number => Math.abs(vm.tryHwpt({ dev_id: device.id, pt_id: ioas, flags }).rc);
    expect(failEverywhere(vm, alloc, () => expect(ram.size).toBe(before))).toBeGreaterThan(3);
  });

  it('while a nested domain is made leaves it unmade', () => {
    const { vm, device, tables, parent } = nested();
    const before = vm.kernel.physical.ram.size;
    const alloc = (): number => vm.linuxNested(device, parent, firstStage(tables.root)).errno;
    const points = failEverywhere(vm, alloc, () => expect(vm.kernel.physical.ram.size).toBe(before));
    expect(points).toBeGreaterThan(1);
  });

  it('while a device is attached leaves it with what it had, or with nothing', () => {
    const { vm, device, id } = nested();
    const points = failEverywhere(
      vm,
      () => vm.attach(device, id),
      () => expect(vm.deviceReads(device, IOVA, 8)).toBe(EIO),
    );
    expect(points).toBeGreaterThan(4);
    expect(vm.deviceReads(device, IOVA, 8)).toBe('old text');
  });

  it('while a device gets a domain of the kernel’s leaves it blocked', () => {
    const { vm, device } = setUp();
    const hwpt = vm.hwpt(device.id, vm.ioasId);
    const points = failEverywhere(
      vm,
      () => vm.attach(device, hwpt),
      () => expect(vm.deviceReads(device, GUEST, 8)).toBe(EIO),
    );
    expect(points).toBeGreaterThan(3);
    expect(vm.deviceReads(device, GUEST, 8)).not.toBe(EIO);
  });

  it('while memory is mapped leaves none of it mapped', () => {
    const { vm, device } = setUp();
    expect(vm.attach(device, vm.ioasId)).toBe(0);
    const iova = 0x70_0000_0000n;
    const map = (): number => Math.abs(vm.tryMap(vm.ioasId, { iova, length: 4n * PAGE }).rc);
    const points = failEverywhere(vm, map, (errno) => {
      // Linux leaves what it could not tell the program of.
      if (errno === EFAULT) vm.unmap(vm.ioasId, iova, 4n * PAGE);
      expect(vm.deviceReads(device, iova, 1)).toBe(EIO);
    });
    // Three levels of tables, at least.
    expect(points).toBeGreaterThan(3);
    expect(vm.deviceReads(device, iova, 1)).not.toBe(EIO);
  });
});
