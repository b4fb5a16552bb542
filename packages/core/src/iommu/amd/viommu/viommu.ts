import type { ViommuCore, ViommuDriver } from '../../driver.ts';
import type { AmdPagingDomain } from '../driver/domains/domain.ts';
import type { Ivhd } from '../driver/ivhd.ts';

/**
 * struct amd_iommu_viommu, as Linux 7.3 has it (drivers/iommu/amd/iommufd.c): it can be made and has nothing to offer.
 */
export class AmdViommu implements ViommuDriver {
  readonly core: ViommuCore;
  readonly parent: AmdPagingDomain;

  constructor(core: ViommuCore, parent: AmdPagingDomain) {
    this.core = core;
    this.parent = parent;
    parent.viommus.push(this);
  }

  get ivhd(): Ivhd {
    return this.core.iommu as Ivhd;
  }

  /** Under which ids, beside its own, the parent's tables are cached for the guest. */
  hostDomainIds(): readonly number[] {
    return [];
  }

  /** The parent has a new top, or tracks dirty pages from now on, or no more. */
  parentChanged(): void {}

  /** amd_iommufd_viommu_destroy() */
  destroy(): void {
    this.parent.viommus.splice(this.parent.viommus.indexOf(this), 1);
  }
}
