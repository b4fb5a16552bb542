import { failed } from '../base/result.ts';
import { AmdIommuDriver } from '../iommu/amd/driver/driver.ts';
import { amdIommuConfig } from '../iommu/amd/hardware/config.ts';
import { AmdFunction, AmdUnit } from '../iommu/amd/platform.ts';
import type { Kernel } from '../iommu/driver.ts';
import type { IommuUnit, Vendor, VendorDriver } from './vendor.ts';

/** AMD's IOMMU. */
export const amdIommu: Vendor = {
  check: ({ registers }) => void amdIommuConfig(registers),
  start,
};

function start(kernel: Kernel): VendorDriver {
  const driver = new AmdIommuDriver(kernel);
  return {
    addUnit(name, { registers }) {
      const unit = AmdUnit.create(driver, { name, config: amdIommuConfig(registers) });
      return failed(unit) ? unit : { addFunction: placeBehind(unit) };
    },
  };
}

function placeBehind(unit: AmdUnit): IommuUnit['addFunction'] {
  return (part, group) => {
    const { name, requesterId, pasids, pasidExec, pasidPriv, ats } = part;
    const made = AmdFunction.create(unit, {
      name,
      deviceId: requesterId,
      group,
      pci: { maxPasids: pasids, pasidExec, pasidPriv, ats },
    });
    return failed(made) ? made : { device: made, port: made.port };
  };
}
