import { assert } from '../../../../base/assert.ts';
import type { Result } from '../../../../base/result.ts';
import type { Device, IommuDomain, IommuDriver } from '../../../driver.ts';
import type { IopfGroup } from '../../../iopf.ts';
import { detachDevice } from './attach.ts';
import { ALL } from '../queues/commands.ts';
import type { AmdIommuDevice } from '../device.ts';
import { ProtectionDomain } from './domain-base.ts';
import { flushDomainPages } from './flush.ts';
import { detachPasid } from './pasid.ts';

// Domains without tables: drivers/iommu/amd/iommu.c identity_domain and blocked_domain.

/** Addresses are physical; with PASIDs the device has a GCR3 table beside. */
export class AmdIdentityDomain extends ProtectionDomain {
  readonly type = 'identity';
  readonly mode = 'identity';
  readonly needsDirtyTracking = false;

  readonly guestRoot = 0;

  setHostTables(): void {
    assert(false, 'an identity domain has no tables');
  }

  flushAll(): void {
    flushDomainPages(this, ALL, { pde: true });
  }
}

export class AmdBlockedDomain implements IommuDomain {
  readonly type = 'blocked';
  readonly owner: IommuDriver | null = null;
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;

  /** blocked_domain_attach_device() */
  attachDevice(device: Device, _old: IommuDomain | null): Result<void> {
    const amd = device as AmdIommuDevice;
    amd.ivhd.exclusively(() => {
      if (amd.domain !== null) detachDevice(amd);
      amd.updateDte(amd.clearDte());
    });
  }

  /** blocked_domain_set_dev_pasid() */
  setDevicePasid(device: Device, pasid: number, old: IommuDomain | null): Result<void> {
    const amd = device as AmdIommuDevice;
    if (old instanceof ProtectionDomain) amd.ivhd.exclusively(() => detachPasid(amd, pasid, old));
  }

  free(): void {}
}
