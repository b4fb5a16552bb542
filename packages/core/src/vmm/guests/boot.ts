import { fail, failed, type Result } from '../../base/result.ts';
import { ENODEV } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import type { Trace } from '../../trace/trace.ts';
import { VirtualAmdIommu } from '../amd/virtual-amd-iommu.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import { VirtualVtd } from '../intel/virtual-vtd.ts';
import { VirtualSmmu } from '../smmuv3/virtual-smmu.ts';
import type { VirtualIommu } from '../virtual-iommu.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { AmdGuest } from './amd.ts';
import type { GuestIommu } from './guest-iommu.ts';
import { GuestPages } from './guest-pages.ts';
import { SmmuGuest } from './smmuv3.ts';
import { VtdGuest } from './vtd.ts';

// A guest for whatever IOMMU the machine has.

interface Vendor {
  readonly iommu: (
    vm: VirtualMachine,
    first: AssignedDevice,
    options: { readonly trace?: Trace },
  ) => Result<VirtualIommu>;
  readonly driver: (pages: GuestPages, iommu: VirtualIommu) => GuestIommu;
}

/** By IOMMU_HW_INFO_TYPE_*. */
const VENDORS: Readonly<Record<number, Vendor>> = {
  [abi.IOMMU_HW_INFO_TYPE_ARM_SMMUV3]: {
    iommu: (vm, first, options) => VirtualSmmu.create(vm, first, options),
    driver: (pages, iommu) => new SmmuGuest(pages, iommu),
  },
  [abi.IOMMU_HW_INFO_TYPE_INTEL_VTD]: {
    iommu: (vm, first, options) => VirtualVtd.create(vm, first, options),
    driver: (pages, iommu) => new VtdGuest(pages, iommu),
  },
  [abi.IOMMU_HW_INFO_TYPE_AMD]: {
    iommu: (vm, first, options) => VirtualAmdIommu.create(vm, first, options),
    driver: (pages, iommu) => new AmdGuest(pages, iommu),
  },
};

/** A guest that is up: its IOMMU as the VMM has it, and its driver of that. */
export interface BootedGuest {
  readonly iommu: VirtualIommu;
  readonly driver: GuestIommu;
}

/**
 * Gives a guest an IOMMU of the kind that the first device is behind, with `devices` by what the guest calls them, and has
 * the guest's driver bring it up. ENODEV for an IOMMU that guests have none of.
 */
export function bootGuest(
  vm: VirtualMachine,
  devices: ReadonlyMap<number, AssignedDevice>,
  options: { readonly trace?: Trace } = {},
): Result<BootedGuest> {
  const [first] = devices.values();
  const info = first === undefined ? fail(ENODEV, 'a guest needs a device') : first.hardwareInfo();
  if (failed(info)) return info;
  const vendor = VENDORS[info.type];
  if (vendor === undefined) return fail(ENODEV, `no guest has an IOMMU of type ${info.type}`);
  const iommu = vendor.iommu(vm, first!, options);
  if (failed(iommu)) return iommu;
  for (const [id, device] of devices) {
    const added = iommu.addDevice(device, id);
    if (failed(added)) return added;
  }
  return { iommu, driver: vendor.driver(new GuestPages(vm.memory, vm.memory.base), iommu) };
}
