import { failed } from '../../base/result.ts';
import { cmdqv } from '../../iommu/arm-smmu-v3/cmdqv/platform.ts';
import { ArmSmmuDriver } from '../../iommu/arm-smmu-v3/driver/driver.ts';
import { smmuV3Config } from '../../iommu/arm-smmu-v3/hardware/registers/config.ts';
import { SmmuFunction, SmmuUnit } from '../../iommu/arm-smmu-v3/platform.ts';
import type { Kernel } from '../../iommu/driver.ts';
import { MessageDoorbell } from '../../pci/message-doorbell.ts';
import type { IommuUnit, Vendor, VendorDriver } from './vendor.ts';

/** The page of the machine's ITS that devices write to: below RAM, so that every SMMU can address it. */
const ITS_PAGE = 0x9_0000;

/** Arm SMMUv3. */
export const armSmmuV3: Vendor = {
  check: ({ registers }) => void smmuV3Config(registers),
  start,
};

function start(kernel: Kernel): VendorDriver {
  const driver = new ArmSmmuDriver(kernel);
  const doorbell = new MessageDoorbell(ITS_PAGE);
  kernel.physical.addWindow(doorbell);
  return {
    addUnit(name, settings) {
      const unit = SmmuUnit.create(driver, {
        name,
        config: smmuV3Config(settings.registers),
        ...(settings.cmdqv && { implementation: cmdqv(settings.cmdqv) }),
      });
      return failed(unit) ? unit : { addFunction: placeBehind(unit, doorbell) };
    },
  };
}

function placeBehind(unit: SmmuUnit, doorbell: MessageDoorbell): IommuUnit['addFunction'] {
  return (part, group) => {
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
    return failed(made) ? made : { device: made, port: made.port, doorbell };
  };
}
