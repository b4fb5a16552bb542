import { failed } from '../base/result.ts';
import { AmdIommuDriver } from '../iommu/amd/driver/driver.ts';
import { amdIommuConfig } from '../iommu/amd/hardware/config.ts';
import { AmdFunction, AmdUnit } from '../iommu/amd/platform.ts';
import type { Vendor } from './vendor.ts';

/** AMD's IOMMU. */
export const amdIommu: Vendor = (kernel) => {
  const driver = new AmdIommuDriver(kernel);
  return {
    addUnit(name) {
      const unit = AmdUnit.create(driver, { name, config: amdIommuConfig() });
      if (failed(unit)) return unit;
      return {
        addFunction(part, group) {
          const { name, requesterId, pasids, pasidExec, pasidPriv, ats } = part;
          const made = AmdFunction.create(unit, {
            name,
            deviceId: requesterId,
            group,
            pci: { maxPasids: pasids, pasidExec, pasidPriv, ats },
          });
          return failed(made) ? made : { device: made, port: made.port };
        },
      };
    },
  };
};
