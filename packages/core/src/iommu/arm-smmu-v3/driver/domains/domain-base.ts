import type { Result } from '../../../../base/result.ts';
import type { Device, IommuDomain, IommuDriver } from '../../../driver.ts';
import type { IopfGroup } from '../../../iopf.ts';
import type { Vmaster } from './attach.ts';
import type { ArmSmmuDomain } from './domain.ts';
import type { ArmSmmuMaster } from '../master.ts';

/** What every domain of this driver has in common. */
export abstract class SmmuDomainBase implements IommuDomain {
  abstract readonly type: IommuDomain['type'];
  readonly owner: IommuDriver | null;
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;

  constructor(owner: IommuDriver | null) {
    this.owner = owner;
  }

  /**
   * to_smmu_domain_devices(): the domain that knows which devices its invalidations concern; null for one without
   * translations of its own.
   */
  get tracked(): ArmSmmuDomain | null {
    return null;
  }

  /** A nested domain whose guest sees to the ATC. */
  get nestedAtsFlush(): boolean {
    return false;
  }

  /** arm_smmu_attach_prepare_vmaster(): who the device is to a guest; null where it is nobody. */
  prepareVmaster(_master: ArmSmmuMaster): Result<Vmaster | null> {
    return null;
  }

  abstract attachDevice(device: Device, old: IommuDomain | null): Result<void>;

  free(): void {}
}

/** The same, of what the IOMMU layer passes as the old domain. */
export function asSmmuDomain(domain: IommuDomain | null): SmmuDomainBase | null {
  return domain as SmmuDomainBase | null;
}
