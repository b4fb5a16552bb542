import { fail, type Result } from '../../../base/result.ts';
import { hex, hi32, lo32 } from '../../../base/u64.ts';
import { EINVAL, ENODEV, ENOMEM, EOPNOTSUPP } from '../../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HW_INFO_TYPE_AMD,
  IOMMU_HW_INFO_TYPE_DEFAULT,
} from '../../../abi/iommufd.ts';
import { IOMMU_VIOMMU_TYPE_AMD } from '../../../abi/amd-viommu.ts';
import { iommu_hw_info_amd } from '../../../abi/iommufd-data.ts';
import { assert } from '../../../base/assert.ts';
import { readField } from '../../../base/bit-fields.ts';
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
import { IdAllocator } from '../../drivers/ids.ts';
import type { IopfGroup } from '../../iopf.ts';
import type { UserData } from '../../user-data.ts';
import { EFR } from '../spec/features.ts';
import { HwViommu } from '../viommu/hw-viommu.ts';
import { amdRfc202312 } from '../viommu/rfc-2023-12.ts';
import { AmdViommu } from '../viommu/viommu.ts';
import { AmdPagingDomain } from './domains/domain.ts';
import type { AmdIommuDevice } from './device.ts';
import { featuresOf, type AmdFeatures, type AmdPlatform } from './features.ts';
import { Ivhd, type IvhdOptions } from './ivhd.ts';
import { DOMAIN_IDS } from './limits.ts';
import { AmdBlockedDomain, AmdIdentityDomain } from './domains/passive-domains.ts';
import { answerPageRequest } from './queues/ppr.ts';
import { PciSegment, type SegmentOptions } from './configuration/segment.ts';

// drivers/iommu/amd/iommu.c struct iommu_ops amd_iommu_ops, and what init.c keeps of all IOMMUs together.

const PAGING_FLAGS = IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_PASID | IOMMU_HWPT_ALLOC_NEST_PARENT;
/** MSI_RANGE_START, MSI_RANGE_END */
const MSI: ReservedRegion = { type: 'msi', start: 0xfee0_0000n, length: 0x10_0000n };
/** HT_RANGE_START, HT_RANGE_END */
const HT: ReservedRegion = { type: 'reserved', start: 0xfd_0000_0000n, length: 0x3_0000_0000n };

export interface AmdDriverOptions extends AmdPlatform {
  /** Domains with guest tables can be attached to PASIDs, which Linux 7.3 leaves to SVA. */
  readonly pasidDomains?: boolean;
  /** The hardware vIOMMU is offered, which no released Linux does: see HwViommu. */
  readonly hwViommu?: boolean;
  /** Devices' caches are flushed of guest tables as in Linux 7.3: see flushDomainPages(). */
  readonly linuxIotlbFlush?: boolean;
}

/** The driver: one for all IOMMUs of a machine. */
export class AmdIommuDriver implements IommuDriver {
  readonly name = 'amd-iommu';
  readonly kernel: Kernel;
  readonly options: AmdDriverOptions;
  readonly blockedDomain = new AmdBlockedDomain();
  readonly userPasidTable = false;
  readonly rfc202312 = amdRfc202312;
  /** pdom_ids: of all IOMMUs together. */
  readonly domainIds = new IdAllocator(1, DOMAIN_IDS - 1);
  readonly ivhds: Ivhd[] = [];
  /** amd_iommu_efr, amd_iommu_efr2: what all IOMMUs have in common. */
  efr = 0n;
  efr2 = 0n;
  features: AmdFeatures;
  /** amd_iommu_iotlb_sup: all IOMMUs; amd_iommu_np_cache: any. */
  iotlbSup = true;
  npCache = false;
  readonly #segments = new Map<number, PciSegment>();
  #identityDomain: AmdIdentityDomain | null = null;

  constructor(kernel: Kernel, options: AmdDriverOptions = {}) {
    this.kernel = kernel;
    this.options = options;
    this.features = featuresOf(0n, 0n, options);
  }

  /** Brings an IOMMU up. EIO where it does not answer. */
  probe(options: IvhdOptions): Result<Ivhd> {
    return Ivhd.probe(this, options);
  }

  /** @internal get_global_efr() and iommu_init_pci(): enters an IOMMU, and answers its place. */
  enter(ivhd: Ivhd): number {
    if (this.ivhds.length === 0) {
      this.efr = ivhd.efr;
      this.efr2 = ivhd.efr2;
    } else if (ivhd.efr !== this.efr || ivhd.efr2 !== this.efr2) {
      const [found, common] = [`${hex(ivhd.efr)},${hex(ivhd.efr2)}`, `${hex(this.efr)},${hex(this.efr2)}`];
      ivhd.log(`Found inconsistent EFR/EFR2 ${found} (global ${common})`);
      this.efr &= ivhd.efr;
      this.efr2 &= ivhd.efr2;
    }
    this.features = featuresOf(this.efr, this.efr2, this.options);
    this.iotlbSup &&= ivhd.iotlbSup;
    this.npCache ||= ivhd.npCache;
    return this.ivhds.push(ivhd) - 1;
  }

  /** @internal get_pci_segment() */
  segment(id: number, options: SegmentOptions): PciSegment {
    const known = this.#segments.get(id);
    if (known !== undefined) return known;
    const segment = new PciSegment(this.kernel, id, options);
    this.#segments.set(id, segment);
    return segment;
  }

  /** @internal amd_iommu_init_identity_domain() */
  initIdentityDomain(): void {
    this.#identityDomain ??= new AmdIdentityDomain(this, this.domainIds.take()!);
  }

  /** There once an IOMMU is. */
  get identityDomain(): AmdIdentityDomain {
    assert(this.#identityDomain !== null, 'no IOMMU has come up');
    return this.#identityDomain;
  }

  /** amd_iommu_max_glx_val */
  get glxMax(): number {
    return this.features.glxMax;
  }

  /** amd_iommu_hd_support() */
  dirtySupported(ivhd: Ivhd): boolean {
    return !this.features.hostDisabled && readField(EFR.HDSup, [lo32(ivhd.efr), hi32(ivhd.efr)]) !== 0;
  }

  /** amd_iommu_probe_device(): ENODEV where the IOMMU does not know the id, or another device has it. */
  probeDevice<D extends AmdIommuDevice>(device: D): Result<D> {
    const { ivhd, deviceId } = device;
    if (deviceId > ivhd.segment.lastDevice) return fail(ENODEV, `there is no device ${hex(deviceId)}`);
    if (this.features.pageTable === 'none') return fail(ENODEV, 'DMA translation not supported by iommu');
    const other = ivhd.devices.get(deviceId);
    if (other !== undefined) return fail(ENODEV, `${other.name} has device id ${hex(deviceId)} already`);
    ivhd.devices.set(deviceId, device);
    device.cloneAliases();
    ivhd.completionWait();
    device.group.devices.push(device);
    return device;
  }

  /** amd_iommu_capable() */
  capable(device: Device, capability: IommuCapability): boolean {
    const amd = device as AmdIommuDevice;
    switch (capability) {
      case 'cache-coherency':
      case 'enforce-cache-coherency':
        return true;
      case 'noexec':
        return false;
      case 'dirty-tracking':
        return this.dirtySupported(amd.ivhd);
      case 'pci-ats-supported':
        return this.iotlbSup && amd.supports.ats;
    }
  }

  /** drivers/iommu/amd/iommufd.c amd_iommufd_hw_info() */
  hwInfo(_device: Device, type: number): Result<{ readonly type: number; readonly data: Uint8Array }> {
    if (type !== IOMMU_HW_INFO_TYPE_DEFAULT && type !== IOMMU_HW_INFO_TYPE_AMD)
      return fail(EOPNOTSUPP, `an AMD IOMMU has no information of type ${type}`);
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the information');
    const data = new Uint8Array(iommu_hw_info_amd.size);
    iommu_hw_info_amd.write(data, 0, { efr: this.efr, efr2: this.efr2 });
    return { type: IOMMU_HW_INFO_TYPE_AMD, data };
  }

  /** amd_iommu_domain_alloc_paging_flags() */
  domainAllocPagingFlags(
    device: Device,
    flags: number,
    _memory: AddressSpace,
    data: UserData | null,
  ): Result<PagingDomain> {
    const { ivhd } = device as AmdIommuDevice;
    if ((flags & ~PAGING_FLAGS) !== 0) return fail(EOPNOTSUPP, `unknown flags ${hex(flags)}`);
    if (data !== null) return fail(EOPNOTSUPP, 'paging domains of an AMD IOMMU take no data');
    const dirty = (flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING) !== 0;
    const nestParent = (flags & IOMMU_HWPT_ALLOC_NEST_PARENT) !== 0;
    if (flags === 0) return this.#allocDefault();
    if ((flags & IOMMU_HWPT_ALLOC_PASID) !== 0) {
      if (dirty || nestParent) return fail(EOPNOTSUPP, `no domain has flags ${hex(flags)} together`);
      if (!this.features.pasids) return fail(EOPNOTSUPP, 'the IOMMU has no PASIDs');
      return this.#alloc('v2', false);
    }
    if (dirty && !this.dirtySupported(ivhd)) return fail(EOPNOTSUPP, `${ivhd.name} keeps no dirty bits`);
    if (nestParent && !this.features.nestParent) return fail(EOPNOTSUPP, `${ivhd.name} cannot nest tables`);
    return this.#alloc('v1', dirty);
  }

  #allocDefault(): Result<PagingDomain> {
    const { pageTable, hostDisabled, v2Tables } = this.features;
    if (pageTable === 'v1') return this.#alloc(hostDisabled ? 'v2' : 'v1', false);
    return this.#alloc(v2Tables ? 'v2' : 'v1', false);
  }

  #alloc(mode: 'v1' | 'v2', dirty: boolean): Result<PagingDomain> {
    const { hostDisabled, v2Tables } = this.features;
    if (mode === 'v1' ? hostDisabled : !v2Tables)
      return fail(EOPNOTSUPP, `the IOMMU has no ${mode === 'v1' ? 'host' : 'guest'} tables`);
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
    const id = this.domainIds.take();
    if (id === null) return fail(ENOMEM, 'all domain ids are in use');
    const domain = AmdPagingDomain.make(this, { id, mode, dirty });
    if (domain !== null) return domain;
    this.domainIds.free(id);
    return fail(ENOMEM, 'no memory for the page table');
  }

  /** amd_iommu_get_resv_regions() */
  reservedRegions(device: Device): readonly ReservedRegion[] {
    const { ivhd, deviceId } = device as AmdIommuDevice;
    const direct = ivhd.segment.unityMaps
      .filter((map) => deviceId >= map.firstDevice && deviceId <= map.lastDevice)
      .map(({ start, length }): ReservedRegion => ({ type: 'direct', start, length }));
    return this.features.htRangeIgnore ? [...direct, MSI] : [...direct, MSI, HT];
  }

  /** amd_iommu_page_response() */
  pageResponse(device: Device, group: IopfGroup, code: number): void {
    const { pasid, grpid } = group.last;
    answerPageRequest(device as AmdIommuDevice, pasid, code, grpid);
  }

  /** amd_iommufd_get_viommu_size(): Linux 7.3 takes whatever type is asked, the hardware vIOMMU its own. */
  viommuSupported(device: Device, type: number): boolean {
    const { viommu } = (device as AmdIommuDevice).ivhd;
    return viommu === null || type === IOMMU_VIOMMU_TYPE_AMD;
  }

  /** amd_iommufd_viommu_init() */
  viommuInit(
    core: ViommuCore,
    parent: PagingDomain,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<ViommuDriver> {
    if (!(parent instanceof AmdPagingDomain) || parent.mode !== 'v1')
      return fail(EINVAL, 'the nest parent has no host tables');
    const { viommu } = core.iommu as Ivhd;
    return viommu === null ? new AmdViommu(core, parent) : HwViommu.make(core, parent, viommu, memory, data);
  }
}
