import { fail, failed, type Result } from '../../../base/result.ts';
import { hex } from '../../../base/u64.ts';
import { EBUSY, EINVAL, ENOMEM, ENOSPC, EOPNOTSUPP } from '../../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
  IOMMU_HW_INFO_TYPE_DEFAULT,
  IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
} from '../../../abi/iommufd.ts';
import {
  IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI,
  iommu_hw_info_arm_smmuv3,
} from '../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type {
  Device,
  IommuCapability,
  IommuDriver,
  Kernel,
  PagingDomain,
  ReservedRegion,
  ViommuCore,
  ViommuDriver,
} from '../../driver.ts';
import {
  IOMMU_PAGE_RESP_FAILURE,
  IOMMU_PAGE_RESP_INVALID,
  IOMMU_PAGE_RESP_SUCCESS,
  type IopfGroup,
} from '../../iopf.ts';
import type { UserData } from '../../user-data.ts';
import { OFFSET } from '../spec/registers.ts';
import { armSmmuRfc202312 } from '../viommu/rfc-2023-12.ts';
import { ArmVsmmu } from '../viommu/vsmmu.ts';
import { resume, RESUME } from './queues/commands.ts';
import { ArmSmmuDomain } from './domains/domain.ts';
import { IdAllocator } from '../../drivers/ids.ts';
import type { ArmSmmuMaster } from './master.ts';
import { ArmPageTable } from './domains/page-table.ts';
import { ArmSmmu, type ArmSmmuOptions } from './smmu.ts';
import { ArmSmmuBlockedDomain, ArmSmmuIdentityDomain } from './domains/ste-domains.ts';

// drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c struct iommu_ops arm_smmu_ops.

const PAGING_FLAGS = IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_PASID | IOMMU_HWPT_ALLOC_NEST_PARENT;
const ASIDS = 1 << 16;
/** MSI_IOVA_BASE, MSI_IOVA_LENGTH: where software puts the doorbells of MSIs. */
const SW_MSI: ReservedRegion = { type: 'sw-msi', start: 0x800_0000n, length: 0x10_0000n };
/** VA_BITS of the kernel: stage 1 has no larger addresses, whatever the SMMU could do. */
const KERNEL_VA_BITS = 48;
/** The flag of hw_info came with this Linux. */
const REPEAT_FLAG_SINCE = 703;

export interface ArmSmmuDriverOptions {
  /** arm_smmu_erratum_repeat_tlbi_cfgi(): the machine needs every CFGI and TLBI twice (Tegra264). */
  readonly repeatTlbiCfgi?: boolean;
  /** Clearing dirty bits leaves the IOTLB as it is, as in Linux 7.3: see ArmSmmuDomain.iotlbSync(). */
  readonly linuxDirtySync?: boolean;
}

/** The driver: one for all SMMUs of a machine. */
export class ArmSmmuDriver implements IommuDriver {
  readonly name = 'arm-smmu-v3';
  readonly kernel: Kernel;
  readonly options: ArmSmmuDriverOptions;
  readonly blockedDomain = new ArmSmmuBlockedDomain();
  readonly identityDomain = new ArmSmmuIdentityDomain(this);
  readonly userPasidTable = true;
  readonly rfc202312 = armSmmuRfc202312;
  /** arm_smmu_asid_xa: shared by all SMMUs, since a domain's ASID would be the CPUs' too. */
  readonly asids = new IdAllocator(1, ASIDS - 1);
  readonly smmus: ArmSmmu[] = [];

  constructor(kernel: Kernel, options: ArmSmmuDriverOptions = {}) {
    this.kernel = kernel;
    this.options = options;
  }

  /** arm_smmu_device_probe() */
  probe(options: ArmSmmuOptions): Result<ArmSmmu> {
    return ArmSmmu.probe(this, options);
  }

  /** @internal Enters an SMMU, and answers its place. */
  enter(smmu: ArmSmmu): number {
    return this.smmus.push(smmu) - 1;
  }

  /** arm_smmu_capable() */
  capable(device: Device, capability: IommuCapability): boolean {
    const master = device as ArmSmmuMaster;
    const { features } = master.smmu;
    switch (capability) {
      case 'cache-coherency':
        return features.coherency;
      case 'enforce-cache-coherency':
        return master.canWbs;
      case 'noexec':
        return true;
      case 'dirty-tracking':
        return features.hd && features.coherency;
      case 'pci-ats-supported':
        return master.atsSupported;
    }
  }

  /** arm_smmu_hw_info() */
  hwInfo(device: Device, type: number): Result<{ readonly type: number; readonly data: Uint8Array }> {
    const { smmu } = device as ArmSmmuMaster;
    if (type !== IOMMU_HW_INFO_TYPE_DEFAULT && type !== IOMMU_HW_INFO_TYPE_ARM_SMMUV3)
      return (
        smmu.implementation?.hwInfo?.(type) ??
        fail(EOPNOTSUPP, `${smmu.name} has no information of type ${type}`)
      );
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the information');
    const repeat = this.options.repeatTlbiCfgi === true && this.kernel.version >= REPEAT_FLAG_SINCE;
    const data = new Uint8Array(iommu_hw_info_arm_smmuv3.size);
    iommu_hw_info_arm_smmuv3.write(data, 0, {
      flags: repeat ? IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI : 0,
      __reserved: 0,
      idr: [0, 1, 2, 3, 4, 5].map((i) => smmu.mmio.read32(OFFSET.IDR0 + 4 * i)),
      iidr: smmu.mmio.read32(OFFSET.IIDR),
      aidr: smmu.mmio.read32(OFFSET.AIDR),
    });
    return { type: IOMMU_HW_INFO_TYPE_ARM_SMMUV3, data };
  }

  // ---- domains ----

  /** arm_smmu_domain_alloc_paging_flags() */
  domainAllocPagingFlags(
    device: Device,
    flags: number,
    _memory: AddressSpace,
    data: UserData | null,
  ): Result<PagingDomain> {
    const { smmu } = device as ArmSmmuMaster;
    if ((flags & ~PAGING_FLAGS) !== 0) return fail(EOPNOTSUPP, `unknown flags ${hex(flags)}`);
    if (data !== null) return fail(EOPNOTSUPP, 'paging domains of an SMMUv3 take no data');
    if (this.kernel.failpoint() || this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
    const stage = stageFor(flags, smmu);
    return failed(stage) ? stage : this.#finalise(smmu, stage, flags);
  }

  // arm_smmu_domain_finalise()
  #finalise(smmu: ArmSmmu, stage: 1 | 2, flags: number): Result<ArmSmmuDomain> {
    const { features } = smmu;
    const nestParent = (flags & IOMMU_HWPT_ALLOC_NEST_PARENT) !== 0;
    // A table that is made and never used yet has nothing to invalidate.
    let made: ArmSmmuDomain | null = null;
    const table = ArmPageTable.make(this.kernel, {
      stage,
      pageSizes: features.pageSizes,
      ias: stage === 1 ? Math.min(features.vax ? 52 : 48, KERNEL_VA_BITS) : features.oas,
      oas: features.oas,
      coherentWalk: features.coherency,
      dirty: (flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING) !== 0,
      fwb: nestParent && features.s2fwb,
      flushWalk: (iova, size, granule) => made?.invalidate({ iova, size, granule, leaf: false }),
    });
    if (table === null) return fail(ENOMEM, 'no memory for the page table');
    const tag = this.#takeTag(smmu, stage);
    if (failed(tag)) {
      table.free();
      return tag;
    }
    made = new ArmSmmuDomain(smmu, table, tag, nestParent);
    return made;
  }

  #takeTag(smmu: ArmSmmu, stage: 1 | 2): Result<number> {
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the ASID or VMID');
    if (stage === 1)
      return this.asids.take(2 ** smmu.features.asidBits - 1) ?? fail(EBUSY, 'all ASIDs are in use');
    return smmu.vmids.take() ?? fail(ENOSPC, `all VMIDs of ${smmu.name} are in use`);
  }

  /** arm_smmu_get_resv_regions() */
  reservedRegions(device: Device): readonly ReservedRegion[] {
    return [SW_MSI, ...(device as ArmSmmuMaster).firmwareReserved];
  }

  /** arm_smmu_page_response(): the answer to a stalled transaction. */
  pageResponse(device: Device, group: IopfGroup, code: number): void {
    const master = device as ArmSmmuMaster;
    if (!master.stallEnabled) return;
    master.smmu.issueOne(resume(master.streamIds[0]!, group.last.grpid, resumeResponse(code)));
  }

  // ---- viommus ----

  /** arm_smmu_get_viommu_size() */
  viommuSupported(device: Device, type: number): boolean {
    const master = device as ArmSmmuMaster;
    const { features, implementation } = master.smmu;
    if (!features.nesting || features.cmdqForceSync) return false;
    // Something must keep a VM from DMA that is not coherent, as VFIO does no cache maintenance.
    if (!master.canWbs && !features.s2fwb) return false;
    return type === IOMMU_VIOMMU_TYPE_ARM_SMMUV3 || (implementation?.viommuSupported?.(type) ?? false);
  }

  /** arm_vsmmu_init() */
  viommuInit(
    core: ViommuCore,
    parent: PagingDomain,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<ViommuDriver> {
    const smmu = core.iommu as ArmSmmu;
    if (!(parent instanceof ArmSmmuDomain) || parent.smmu !== smmu)
      return fail(EINVAL, 'the nest parent belongs to another SMMU');
    if (core.type === IOMMU_VIOMMU_TYPE_ARM_SMMUV3) return new ArmVsmmu(smmu, core, parent);
    return (
      smmu.implementation?.viommuInit?.(core, parent, memory, data) ??
      fail(EOPNOTSUPP, `${smmu.name} offers no viommu of type ${core.type}`)
    );
  }
}

function stageFor(flags: number, smmu: ArmSmmu): Result<1 | 2> {
  const { features } = smmu;
  switch (flags) {
    case 0:
      return features.transS1 ? 1 : 2;
    case IOMMU_HWPT_ALLOC_NEST_PARENT:
      return features.nesting ? 2 : fail(EOPNOTSUPP, `${smmu.name} cannot nest stages`);
    case IOMMU_HWPT_ALLOC_DIRTY_TRACKING:
    case IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_PASID:
    case IOMMU_HWPT_ALLOC_PASID:
      return features.transS1 ? 1 : fail(EOPNOTSUPP, `${smmu.name} has no stage 1`);
    default:
      return fail(EOPNOTSUPP, `no domain has flags ${hex(flags)} together`);
  }
}

function resumeResponse(code: number): number {
  switch (code) {
    case IOMMU_PAGE_RESP_SUCCESS:
      return RESUME.RETRY;
    case IOMMU_PAGE_RESP_INVALID:
    case IOMMU_PAGE_RESP_FAILURE:
      return RESUME.ABORT;
    default:
      return RESUME.TERMINATE;
  }
}
