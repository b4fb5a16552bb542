import { failed } from '../../base/result.ts';
import type { Kernel } from '../../iommu/driver.ts';
import { IntelIommuDriver } from '../../iommu/intel/driver/driver.ts';
import { intelConfig, type IntelConfig } from '../../iommu/intel/hardware/registers/config.ts';
import { IntelUnit } from '../../iommu/intel/platform.ts';
import type { IommuSettings, Vendor, VendorDriver } from './vendor.ts';

/** Intel VT-d. */
export const intelIommu: Vendor = {
  check: (settings) => void configOf(settings),
  start,
};

function configOf({ registers = {}, cmdqv }: IommuSettings): IntelConfig {
  if (cmdqv !== undefined) throw new Error('VT-d has no CMDQ-V');
  return intelConfig(registers);
}

function start(kernel: Kernel): VendorDriver {
  const driver = new IntelIommuDriver(kernel);
  return {
    addUnit(name, settings) {
      const unit = IntelUnit.create(driver, { name, config: configOf(settings) });
      if (failed(unit)) return unit;
      return {
        addFunction({ name, requesterId, pasids, pasidExec, pasidPriv, ats, pri }, group) {
          const pci = { maxPasids: pasids, pasidExec, pasidPriv, ats, pri };
          return unit.addFunction({ name, requesterId, group, ...pci });
        },
      };
    },
  };
}
