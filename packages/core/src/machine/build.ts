import { assert } from '../base/assert.ts';
import { failed } from '../base/result.ts';
import { ArmSmmuDriver } from '../iommu/arm-smmu-v3/driver/driver.ts';
import { smmuV3Config } from '../iommu/arm-smmu-v3/hardware/config.ts';
import { SmmuFunction, SmmuUnit } from '../iommu/arm-smmu-v3/platform.ts';
import type { Kernel } from '../iommu/driver.ts';
import { IommuGroup } from '../iommu/group.ts';
import type { VfioDevice } from '../vfio/cdev.ts';

/** An IOMMU of a machine. */
export interface IommuDescription {
  readonly name: string;
  readonly type: 'arm-smmu-v3';
}

/** A device of a machine, which VFIO offers to programs. */
export interface DeviceDescription {
  readonly name: string;
  /** The name of its IOMMU. */
  readonly iommu: string;
  readonly stream: number;
  readonly pasids: number;
  readonly ats: boolean;
}

/** What a machine has beside the kernel's own mock. */
export interface MachineParts {
  readonly iommus: readonly IommuDescription[];
  readonly devices: readonly DeviceDescription[];
}

/** One SMMU, and one device behind it. */
export const DEFAULT_PARTS: MachineParts = {
  iommus: [{ name: 'smmu0', type: 'arm-smmu-v3' }],
  devices: [{ name: '0000:0a:00.0', iommu: 'smmu0', stream: 0x20, pasids: 0x10000, ats: true }],
};

/** Brings the IOMMUs up and has their drivers probe the devices. Groups are numbered from `firstGroup` on. */
export function buildDevices(kernel: Kernel, parts: MachineParts, firstGroup: number): VfioDevice[] {
  const driver = new ArmSmmuDriver(kernel);
  const units = new Map<string, SmmuUnit>();
  for (const { name } of parts.iommus) {
    const unit = SmmuUnit.create(driver, { name, config: smmuV3Config() });
    assert(!failed(unit), `the driver cannot run ${name}`);
    units.set(name, unit);
  }
  return parts.devices.map((device, index) => {
    const unit = units.get(device.iommu);
    assert(unit !== undefined, `there is no IOMMU ${device.iommu}`);
    const made = SmmuFunction.create(unit, {
      name: device.name,
      streamIds: [device.stream],
      group: new IommuGroup(kernel, firstGroup + index),
      pci: {
        maxPasids: device.pasids,
        pasidExec: false,
        pasidPriv: false,
        ats: device.ats ? 'optional' : 'none',
      },
    });
    assert(!failed(made), `${device.name} cannot be put behind ${device.iommu}`);
    return made;
  });
}
