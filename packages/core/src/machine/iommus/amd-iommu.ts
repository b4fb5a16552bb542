import { failed } from '../../base/result.ts';
import { AmdIommuDriver } from '../../iommu/amd/driver/driver.ts';
import { amdIommuConfig, type AmdIommuConfig } from '../../iommu/amd/hardware/registers/config.ts';
import { AmdFunction, AmdUnit } from '../../iommu/amd/platform.ts';
import type { Kernel } from '../../iommu/driver.ts';
import type { TrialUapi } from '../../iommufd/trial-uapi.ts';
import type { IommuSettings, IommuUnit, Vendor, VendorDriver } from './vendor.ts';

/** AMD's IOMMU. */
export const amdIommu: Vendor = {
  check: (settings) => void configOf(settings, false),
  start,
};

/** With the trial uAPI the hardware vIOMMU is there, unless the machine file says otherwise. */
function configOf({ registers = {}, cmdqv }: IommuSettings, hwViommu: boolean): AmdIommuConfig {
  if (cmdqv !== undefined) throw new Error("AMD's IOMMU has no CMDQ-V");
  return amdIommuConfig({ ...registers, EFR: { vIommuSup: hwViommu ? 1 : 0, ...registers['EFR'] } });
}

function start(kernel: Kernel, uapis: ReadonlySet<TrialUapi>): VendorDriver {
  const hwViommu = uapis.has('amd-viommu');
  const driver = new AmdIommuDriver(kernel, { hwViommu });
  return {
    addUnit(name, settings) {
      const unit = AmdUnit.create(driver, { name, config: configOf(settings, hwViommu) });
      return failed(unit) ? unit : { addFunction: placeBehind(unit) };
    },
  };
}

function placeBehind(unit: AmdUnit): IommuUnit['addFunction'] {
  return ({ name, requesterId, pasids, pasidExec, pasidPriv, ats, pri }, group) => {
    const pci = { maxPasids: pasids, pasidExec, pasidPriv, ats, pri };
    const made = AmdFunction.create(unit, { name, deviceId: requesterId, group, pci });
    return failed(made) ? made : { device: made, port: made.port };
  };
}
