import type { ViommuCore, ViommuDriver } from '../../driver.ts';
import type { AmdPagingDomain } from '../driver/domain.ts';
import type { Ivhd } from '../driver/ivhd.ts';

/** A domain id of a guest: struct guest_domain_mapping_info. */
export interface GuestDomain {
  readonly hostId: number;
  /** Nested domains with the guest's id. */
  users: number;
}

/**
 * struct amd_iommu_viommu, as Linux 7.3 has it (drivers/iommu/amd/iommufd.c): it can be made and has nothing to offer.
 */
export class AmdViommu implements ViommuDriver {
  readonly core: ViommuCore;
  readonly parent: AmdPagingDomain;
  /**
   * gdomid_array: the domain ids of the guest, and which of the host stands for each. The guest tags its translations
   * by (domain id, PASID), so an id of its own must be one of the host's, and of no other guest.
   */
  readonly guestDomains = new Map<number, GuestDomain>();

  constructor(core: ViommuCore, parent: AmdPagingDomain) {
    this.core = core;
    this.parent = parent;
    parent.viommus.push(this);
  }

  get ivhd(): Ivhd {
    return this.core.iommu as Ivhd;
  }

  /** Under which ids the parent's tables are cached for the guest. */
  *hostDomainIds(): Generator<number> {
    for (const { hostId } of this.guestDomains.values()) yield hostId;
  }

  /** amd_iommufd_viommu_destroy() */
  destroy(): void {
    this.parent.viommus.splice(this.parent.viommus.indexOf(this), 1);
  }
}
