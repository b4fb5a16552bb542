import { assert } from '../base/assert.ts';
import { failed } from '../base/result.ts';
import type { Kernel } from '../iommu/driver.ts';
import { IommuGroup } from '../iommu/group.ts';
import type { VfioDevice } from '../vfio/cdev.ts';
import type { FunctionPart, IommuUnit, Vendor, VendorDriver } from './vendor.ts';

/** An IOMMU of a machine. */
export interface IommuPart {
  readonly name: string;
  readonly vendor: Vendor;
}

/** A device of a machine, which VFIO offers to programs. */
export interface DevicePart extends FunctionPart {
  /** The name of its IOMMU. */
  readonly iommu: string;
}

/** What a machine has beside the kernel's own mock. */
export interface MachineParts {
  readonly iommus: readonly IommuPart[];
  readonly devices: readonly DevicePart[];
}

export const NO_PARTS: MachineParts = { iommus: [], devices: [] };

/** Brings the IOMMUs up and has their drivers probe the devices. Groups are numbered from `firstGroup` on. */
export function buildDevices(kernel: Kernel, parts: MachineParts, firstGroup: number): VfioDevice[] {
  const drivers = new Map<Vendor, VendorDriver>();
  const units = new Map<string, IommuUnit>();
  for (const { name, vendor } of parts.iommus) {
    const driver = drivers.get(vendor) ?? vendor(kernel);
    drivers.set(vendor, driver);
    const unit = driver.addUnit(name);
    assert(!failed(unit), `the driver cannot run ${name}`);
    units.set(name, unit);
  }
  return parts.devices.map((device, index) => {
    const unit = units.get(device.iommu);
    assert(unit !== undefined, `there is no IOMMU ${device.iommu}`);
    const made = unit.addFunction(device, new IommuGroup(kernel, firstGroup + index));
    assert(!failed(made), `${device.name} cannot be put behind ${device.iommu}`);
    return made;
  });
}
