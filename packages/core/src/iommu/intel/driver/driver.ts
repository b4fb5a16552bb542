import { failed, fail, type Result } from '../../../base/result.ts';
import { hex } from '../../../base/u64.ts';
import { EINVAL, ENOMEM, EOPNOTSUPP } from '../../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HW_INFO_TYPE_DEFAULT,
  IOMMU_HW_INFO_TYPE_INTEL_VTD,
} from '../../../abi/iommufd.ts';
import { IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17, iommu_hw_info_vtd } from '../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type {
  Device,
  IommuCapability,
  IommuDomain,
  IommuDriver,
  Kernel,
  PagingDomain,
  ReservedRegion,
  Rfc202312Ops,
} from '../../driver.ts';
import { IOMMU_FAULT_PAGE_REQUEST_PASID_VALID, type IopfGroup } from '../../iopf.ts';
import type { UserData } from '../../user-data.ts';
import { INTERRUPT_RANGE } from '../spec/faults.ts';
import { pageGroupResponse } from './queues/descriptors.ts';
import type { IntelDevice } from './device.ts';
import { DmarUnit, type DmarOptions } from './dmar-unit.ts';
import { allocNestedDomain } from './domains/nested-domain.ts';
import { IntelPagingDomain, type PagingOptions } from './domains/paging-domain.ts';
import { IntelBlockedDomain, IntelIdentityDomain } from './domains/static-domains.ts';

// drivers/iommu/intel/iommu.c struct iommu_ops intel_iommu_ops.

/** IOAPIC_RANGE_START, IOAPIC_RANGE_END: what is written there are interrupts. */
const MSI: ReservedRegion = {
  type: 'msi',
  start: BigInt(INTERRUPT_RANGE.START),
  length: BigInt(INTERRUPT_RANGE.LAST - INTERRUPT_RANGE.START + 1),
};
const FIRST_STAGE_FLAGS = IOMMU_HWPT_ALLOC_PASID;
const SECOND_STAGE_FLAGS =
  IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_PASID;

export interface IntelIommuDriverOptions {
  /** In Caching Mode absent PASID table entries stay cached when they are filled, as in Linux 7.3: see setUpEntry(). */
  readonly linuxPasidFlush?: boolean;
}

/** The driver: one for all units of a machine. */
export class IntelIommuDriver implements IommuDriver {
  readonly name = 'intel-iommu';
  readonly kernel: Kernel;
  readonly options: IntelIommuDriverOptions;
  readonly blockedDomain = new IntelBlockedDomain();
  readonly identityDomain = new IntelIdentityDomain(this);
  readonly userPasidTable = false;
  /**
   * The thread has no virtual ids for VT-d, and no invalidations of a device: "I think vt-d will not implement it"
   * (message 5). A viommu is a stage 2, which any unit can have.
   */
  readonly rfc202312: Rfc202312Ops = { virtualIds: new Map() };

  constructor(kernel: Kernel, options: IntelIommuDriverOptions = {}) {
    this.kernel = kernel;
    this.options = options;
  }

  /** intel_iommu_init(), for one unit. */
  probe(options: DmarOptions): Result<DmarUnit> {
    return DmarUnit.probe(this, options);
  }

  /** intel_iommu_capable() */
  capable(device: Device, capability: IommuCapability): boolean {
    const { atsSupported, unit } = device as IntelDevice;
    switch (capability) {
      case 'cache-coherency':
        return true;
      case 'enforce-cache-coherency':
        return unit.features.snoopControl;
      case 'dirty-tracking':
        return unit.features.ssads;
      case 'pci-ats-supported':
        return atsSupported;
      case 'noexec':
        return false;
    }
  }

  /** intel_iommu_hw_info() */
  hwInfo(device: Device, type: number): Result<{ readonly type: number; readonly data: Uint8Array }> {
    const { unit } = device as IntelDevice;
    if (type !== IOMMU_HW_INFO_TYPE_DEFAULT && type !== IOMMU_HW_INFO_TYPE_INTEL_VTD)
      return fail(EOPNOTSUPP, `${unit.name} has no information of type ${type}`);
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the information');
    const data = new Uint8Array(iommu_hw_info_vtd.size);
    iommu_hw_info_vtd.write(data, 0, {
      flags: IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
      __reserved: 0,
      cap_reg: unit.features.cap,
      ecap_reg: unit.features.ecap,
    });
    return { type: IOMMU_HW_INFO_TYPE_INTEL_VTD, data };
  }

  // ---- domains ----

  /** intel_iommu_domain_alloc_paging_flags(): a first stage where that will do. */
  domainAllocPagingFlags(
    device: Device,
    flags: number,
    _memory: AddressSpace,
    data: UserData | null,
  ): Result<PagingDomain> {
    const { unit } = device as IntelDevice;
    if (data !== null) return fail(EOPNOTSUPP, 'paging domains of VT-d take no data');
    if ((flags & ~FIRST_STAGE_FLAGS) === 0 && unit.features.firstStage)
      return this.#make(unit, { stage: 1, nestParent: false, dirty: false });
    const nestParent = (flags & IOMMU_HWPT_ALLOC_NEST_PARENT) !== 0;
    const dirty = (flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING) !== 0;
    if ((flags & ~SECOND_STAGE_FLAGS) !== 0) return fail(EOPNOTSUPP, `unknown flags ${hex(flags)}`);
    if (nestParent && !unit.features.nested) return fail(EOPNOTSUPP, `${unit.name} cannot nest stages`);
    if (dirty && !unit.features.ssads) return fail(EOPNOTSUPP, `${unit.name} keeps no dirty bits`);
    if (!unit.features.secondStage) return fail(EOPNOTSUPP, `${unit.name} has no second stage`);
    return this.#make(unit, { stage: 2, nestParent, dirty });
  }

  #make(unit: DmarUnit, options: PagingOptions): Result<PagingDomain> {
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
    const made = IntelPagingDomain.make(unit, options);
    if (failed(made)) return made;
    return made ?? fail(ENOMEM, 'no memory for the page table');
  }

  /** intel_iommu_domain_alloc_nested() */
  domainAllocNested(
    device: Device,
    parent: PagingDomain,
    flags: number,
    memory: AddressSpace,
    data: UserData,
  ): Result<IommuDomain> {
    const { unit } = device as IntelDevice;
    if (!unit.features.nested) return fail(EOPNOTSUPP, `${unit.name} cannot nest stages`);
    if ((flags & ~IOMMU_HWPT_ALLOC_PASID) !== 0)
      return fail(EOPNOTSUPP, `nested domains of VT-d have no flags ${hex(flags)}`);
    if (!(parent instanceof IntelPagingDomain)) return fail(EINVAL, 'the parent is of another driver');
    return allocNestedDomain(unit, parent, memory, data);
  }

  /** intel_iommu_get_resv_regions() */
  reservedRegions(device: Device): readonly ReservedRegion[] {
    return [...(device as IntelDevice).reserved, MSI];
  }

  /** intel_iommu_page_response() */
  pageResponse(device: Device, group: IopfGroup, code: number): void {
    const { unit, requesterId } = device as IntelDevice;
    const { flags, pasid, grpid } = group.last;
    const withPasid = (flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID) !== 0;
    unit.invalidate([pageGroupResponse(requesterId, withPasid ? pasid : null, grpid, code)]);
  }
}
