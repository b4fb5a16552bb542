import { failed } from '../base/result.ts';
import { ArmSmmuDriver } from '../iommu/arm-smmu-v3/driver/driver.ts';
import { smmuV3Config } from '../iommu/arm-smmu-v3/hardware/config.ts';
import { SmmuFunction, SmmuUnit } from '../iommu/arm-smmu-v3/platform.ts';
import type { Vendor } from './vendor.ts';

/** Arm SMMUv3. */
export const armSmmuV3: Vendor = (kernel) => {
  const driver = new ArmSmmuDriver(kernel);
  return {
    addUnit(name) {
      const unit = SmmuUnit.create(driver, { name, config: smmuV3Config() });
      if (failed(unit)) return unit;
      return {
        addFunction(part, group) {
          const { name, requesterId, pasids, pasidExec, pasidPriv, ats } = part;
          const made = SmmuFunction.create(unit, {
            name,
            streamIds: [requesterId],
            group,
            pci: {
              maxPasids: pasids,
              pasidExec,
              pasidPriv,
              ats: ats === null ? 'none' : { required: false, ...ats },
            },
          });
          return failed(made) ? made : { device: made, port: made.port };
        },
      };
    },
  };
};
