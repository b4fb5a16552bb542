import type { Result } from '../base/result.ts';
import type { AddressSpace, Task } from '../memory/process.ts';
import type { Doorbells } from '../memory/doorbells.ts';
import type { PhysicalSpace } from '../memory/physical-space.ts';
import type { Range } from '../base/range.ts';
import type { Trace } from '../trace/trace.ts';
import type { FaultQueueDevice, IopfGroup } from './iopf.ts';
import type { IommuGroup } from './group.ts';
import type { UserData, UserDataArray } from './user-data.ts';

// What iommufd asks of an IOMMU driver: include/linux/iommu.h struct iommu_ops, iommu_domain_ops, iommu_dirty_ops and
// include/linux/iommufd.h struct iommufd_viommu_ops, in the same words.

/** What the kernel side lives in: the caller, memory, and where allocations may fail. */
export interface Kernel {
  /** Linux's `current`: whose request is being served. */
  current: Task;
  /** Which Linux it is: 703 is 7.3. */
  readonly version: number;
  readonly physical: PhysicalSpace;
  readonly doorbells: Doorbells;
  readonly trace: Trace;
  /** Every point where Linux could fail to allocate or copy asks this first; true makes it fail. */
  failpoint(): boolean;
}

export const IOMMU_READ = 1;
export const IOMMU_WRITE = 2;
export const IOMMU_CACHE = 4;
export const IOMMU_NOEXEC = 8;
export const IOMMU_MMIO = 16;

/** IOMMU_NO_PASID (include/linux/iommu.h): the device's transactions without a PASID. */
export const IOMMU_NO_PASID = 0;

export type IommuCapability =
  'cache-coherency' | 'enforce-cache-coherency' | 'dirty-tracking' | 'pci-ats-supported' | 'noexec';

/** A reserved region of a device: struct iommu_resv_region. */
export interface ReservedRegion {
  readonly type: 'direct' | 'direct-relaxable' | 'reserved' | 'msi' | 'sw-msi';
  readonly start: bigint;
  readonly length: bigint;
}

/** What an attach carries through the IOMMU layer: struct iommu_attach_handle. */
export interface AttachHandle {
  domain: IommuDomain;
}

/** Receives one pass over dirty pages: struct iommu_dirty_bitmap. */
export type DirtyRecorder = (iova: bigint, length: bigint) => void;

/** struct iommu_dirty_ops. */
export interface DirtyOps {
  setDirtyTracking(enable: boolean): Result<void>;
  /** Clears as it reads unless `clear` is false; `record` is null where only clearing is asked. */
  readAndClearDirty(iova: bigint, length: bigint, clear: boolean, record: DirtyRecorder | null): Result<void>;
}

/** struct iommu_domain with its operations. */
export interface IommuDomain {
  readonly type: 'paging' | 'nested' | 'blocked' | 'identity';
  /** Whose domain it is: only devices of the same driver take it. Null for the blocking domain of every driver. */
  readonly owner: IommuDriver | null;
  attachDevice(device: Device, old: IommuDomain | null): Result<void>;
  setDevicePasid?(device: Device, pasid: number, old: IommuDomain | null): Result<void>;
  free(): void;
  /** Installed by iommufd for a domain with a fault queue. */
  iopfHandler: ((group: IopfGroup) => boolean) | null;
  cacheInvalidateUser?(memory: AddressSpace, array: UserDataArray): Result<void>;
}

/** A domain whose page table the kernel keeps. */
export interface PagingDomain extends IommuDomain {
  readonly type: 'paging';
  readonly pgsizeBitmap: bigint;
  readonly aperture: Range;
  readonly dirtyOps: DirtyOps | null;
  /** iommu_map(): nothing stays mapped where it fails. */
  map(iova: bigint, pa: number, length: bigint, prot: number): Result<void>;
  /** iommu_unmap() and the flush behind it: the bytes that were unmapped. */
  unmap(iova: bigint, length: bigint): bigint;
  iovaToPhys(iova: bigint): number;
  enforceCacheCoherency?(): boolean;
  /** iommu_iotlb_sync() after dirty bits were cleared. */
  iotlbSync?(): void;
}

/** A device behind an IOMMU, as the IOMMU layer knows it: struct device with its struct dev_iommu. */
export interface Device {
  readonly name: string;
  readonly driver: IommuDriver;
  /** The physical IOMMU: struct iommu_device. */
  readonly iommu: PhysicalIommu;
  readonly group: IommuGroup;
  /** dev->iommu->max_pasids: PASIDs the device may use, 0 where it has none. */
  readonly maxPasids: number;
  /** A PCI function: what PASID permissions it has enabled. */
  readonly pci: { readonly pasidExec: boolean; readonly pasidPriv: boolean } | null;
  /** dev->iommu->fault_param: present while a fault queue serves the device. */
  faults: FaultQueueDevice | null;
}

/** A physical IOMMU: struct iommu_device. Several may share a driver. */
export interface PhysicalIommu {
  readonly name: string;
  readonly driver: IommuDriver;
}

/** struct iommu_ops. */
export interface IommuDriver {
  readonly name: string;
  readonly blockedDomain: IommuDomain;
  /** The driver lets a guest keep the PASID table, so faults of any PASID go to the nested domain of the device. */
  readonly userPasidTable: boolean;
  capable(device: Device, capability: IommuCapability): boolean;
  /** The bytes of the driver's hw_info struct for the asked type (0: the driver's own). */
  hwInfo?(device: Device, type: number): Result<{ readonly type: number; readonly data: Uint8Array }>;
  domainAllocPagingFlags(
    device: Device,
    flags: number,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<PagingDomain>;
  domainAllocNested?(
    device: Device,
    parent: PagingDomain,
    flags: number,
    memory: AddressSpace,
    data: UserData,
  ): Result<IommuDomain>;
  reservedRegions(device: Device): readonly ReservedRegion[];
  /** Completes a page request at the device. */
  pageResponse(device: Device, group: IopfGroup, code: number): void;
  /** True where the driver offers this type of viommu for the device (get_viommu_size()). */
  viommuSupported?(device: Device, type: number): boolean;
  viommuInit?(
    viommu: ViommuCore,
    parent: PagingDomain,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<ViommuDriver>;
  /** What it does for the trial uAPI rfc-2023-12; absent where it has no part in that. */
  readonly rfc202312?: Rfc202312Ops;
}

/** What a driver has of the trial uAPI rfc-2023-12 (docs/rfc-2023-12.md). What is absent is EOPNOTSUPP for a program. */
export interface Rfc202312Ops {
  /** The types of virtual id that its devices can have, and the largest of each. */
  readonly virtualIds: ReadonlyMap<number, bigint>;
  /** The type of viommu that stands behind one of the trial. Where absent, {@link viommuInit} makes one. */
  readonly viommuType?: number;
  /** What stands behind a viommu of the trial. Where absent too, a viommu is a table and a stage 2. */
  viommuInit?(viommu: ViommuCore, parent: PagingDomain): Result<ViommuDriver>;
  /**
   * A domain that has the translations of `parent`, now and later, behind another physical IOMMU; `parent` itself where
   * that is what it takes. Where absent, domains of this driver are good for all of its IOMMUs. EINVAL where `iommu`
   * cannot have it.
   */
  stage2For?(iommu: PhysicalIommu, parent: PagingDomain): Result<PagingDomain>;
  /** IOMMU_DEV_INVALIDATE: commands for the caches that know the device alone. `entryNum` becomes how many were handled. */
  deviceInvalidate?(device: Device, memory: AddressSpace, array: UserDataArray): Result<void>;
  /** IOMMU_HWPT_IOTLB_SYNC, where cacheInvalidateUser() of the domain is not what does it. */
  iotlbSync?(domain: IommuDomain, memory: AddressSpace, array: UserDataArray): Result<void>;
}

/** What iommufd offers a driver's viommu: struct iommufd_viommu and the helpers of drivers/iommu/iommufd/driver.c. */
export interface ViommuCore {
  readonly iommu: PhysicalIommu;
  readonly type: number;
  /** iommufd_viommu_find_dev(): the device behind a virtual id, or null. */
  findDevice(virtualId: bigint): Device | null;
  /** iommufd_viommu_get_vdev_id(): the virtual id of a device; ENOENT where it has none. */
  virtualIdOf(device: Device): Result<bigint>;
  /** iommufd_viommu_report_event(): EOPNOTSUPP where no queue of the type exists. */
  reportEvent(type: number, data: Uint8Array): Result<void>;
  /** iommufd_viommu_alloc_mmap(): offers `length` bytes at `pa` to mmap(2); answers the offset. */
  allocMmap(pa: number, length: number): Result<bigint>;
  destroyMmap(offset: bigint): void;
}

/** One vDEVICE as its viommu's driver sees it. */
export interface VdeviceCore {
  readonly device: Device;
  readonly virtualId: bigint;
}

/** One hardware queue as its viommu's driver sees it: struct iommufd_hw_queue. */
export interface HwQueueCore {
  readonly type: number;
  readonly baseAddress: bigint;
  readonly length: bigint;
  /** The request that made it has failed after all: what ends it undoes the request. */
  readonly failed: boolean;
  /** iommufd_hw_queue_depend(): `other` cannot be destroyed before this one. */
  depend(other: HwQueueCore): void;
  undepend(other: HwQueueCore): void;
}

/** struct iommufd_viommu_ops. */
export interface ViommuDriver {
  destroy(): void;
  allocDomainNested?(flags: number, memory: AddressSpace, data: UserData): Result<IommuDomain>;
  cacheInvalidate?(memory: AddressSpace, array: UserDataArray): Result<void>;
  /** vdevice_init(): answers what undoes it. */
  vdeviceInit?(vdevice: VdeviceCore): Result<() => void>;
  /** get_hw_queue_size(): true where the type is offered. */
  hwQueueSupported?(type: number): boolean;
  /** hw_queue_init(), which no Linux has yet: a queue that hardware finds by its guest address. It takes the flags. */
  hwQueueInit?(queue: HwQueueCore, index: number, flags: number): Result<() => void>;
  /** hw_queue_init_phys(): answers what undoes it. */
  hwQueueInitPhys?(queue: HwQueueCore, index: number, basePa: number): Result<() => void>;
}
