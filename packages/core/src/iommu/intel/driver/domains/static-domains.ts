import { fail, failed, type Result } from '../../../../base/result.ts';
import { EOPNOTSUPP } from '../../../../abi/errno.ts';
import { IOMMU_NO_PASID, type Device, type IommuDomain, type IommuDriver } from '../../../driver.ts';
import type { IopfGroup } from '../../../iopf.ts';
import { blockTranslation, iopfRemove, iopfReplace, removeDevicePasid } from './attach.ts';
import type { IntelDevice } from '../device.ts';
import { replaceEntry, setUpPassThrough, tearDownEntry } from '../configuration/pasid.ts';

// Domains without tables: drivers/iommu/intel/iommu.c identity_domain and blocking_domain.

export class IntelIdentityDomain implements IommuDomain {
  readonly type = 'identity';
  readonly owner: IommuDriver;
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;

  constructor(owner: IommuDriver) {
    this.owner = owner;
  }

  /** identity_domain_attach_dev() */
  attachDevice(target: Device, old: IommuDomain | null): Result<void> {
    const device = target as IntelDevice;
    return device.unit.interrupts.exclusively(() => {
      blockTranslation(device);
      iopfRemove(old, device);
      const set = setUpPassThrough(device, IOMMU_NO_PASID);
      if (failed(set)) return set;
      device.attached = true;
    });
  }

  /** identity_domain_set_dev_pasid() */
  setDevicePasid(target: Device, pasid: number, old: IommuDomain | null): Result<void> {
    const device = target as IntelDevice;
    const { unit } = device;
    if (!unit.features.pasid) return fail(EOPNOTSUPP, `${unit.name} has no PASIDs`);
    return unit.interrupts.exclusively(() => {
      const faults = iopfReplace(this, old, device);
      if (failed(faults)) return faults;
      const set = replaceEntry(device, pasid, old !== null, () => setUpPassThrough(device, pasid));
      if (failed(set)) {
        iopfReplace(old, this, device);
        return set;
      }
      removeDevicePasid(old, device, pasid);
    });
  }

  free(): void {}
}

export class IntelBlockedDomain implements IommuDomain {
  readonly type = 'blocked';
  readonly owner = null;
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;

  /** blocking_domain_attach_dev() */
  attachDevice(target: Device, _old: IommuDomain | null): Result<void> {
    const device = target as IntelDevice;
    device.unit.interrupts.exclusively(() => {
      iopfRemove(device.domain, device);
      blockTranslation(device);
    });
  }

  /** blocking_domain_set_dev_pasid() */
  setDevicePasid(target: Device, pasid: number, old: IommuDomain | null): Result<void> {
    const device = target as IntelDevice;
    device.unit.interrupts.exclusively(() => {
      tearDownEntry(device, pasid);
      iopfRemove(old, device);
      removeDevicePasid(old, device, pasid);
    });
  }

  free(): void {}
}
