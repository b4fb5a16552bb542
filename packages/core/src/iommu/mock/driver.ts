import { LowestFree } from '../../base/lowest-free.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HWPT_DATA_NONE,
  IOMMU_HW_INFO_TYPE_DEFAULT,
} from '../../abi/iommufd.ts';
import {
  IOMMU_HWPT_DATA_SELFTEST,
  IOMMU_HW_INFO_SELFTEST_REGVAL,
  IOMMU_HW_INFO_TYPE_SELFTEST,
  IOMMU_VIOMMU_TYPE_SELFTEST,
  MOCK_FLAGS_DEVICE_NO_DIRTY,
  MOCK_FLAGS_DEVICE_PASID,
  MOCK_IOMMUPT_DEFAULT,
  MOCK_IOMMUPT_HUGE,
  iommu_hwpt_selftest,
  iommu_test_hw_info,
} from '../../abi/iommufd-test.ts';
import type { AddressSpace } from '../../memory/process.ts';
import type {
  Device,
  IommuCapability,
  IommuDriver,
  Kernel,
  PagingDomain,
  PhysicalIommu,
  ReservedRegion,
  Rfc202312Ops,
  ViommuCore,
  ViommuDriver,
} from '../driver.ts';
import { copyUserData, type UserData } from '../user-data.ts';
import { MOCK_FLAGS_DEVICE_HUGE_IOVA, MockDevice } from './device.ts';
import { MockBlockedDomain, MockNestedDomain } from './domain.ts';
import { allocGenericPt } from './generic-pt.ts';
import { mockRfc202312 } from './rfc-2023-12.ts';
import { MockViommu } from './viommu.ts';
import { GENERIC_PT_SINCE, XarrayPagingDomain } from './xarray-domain.ts';

// drivers/iommu/iommufd/selftest.c struct iommu_ops mock_ops: the kernel's own IOMMU for testing iommufd.

const PAGING_FLAGS = IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID;
/** A type of page table may be asked for since there is a choice. */
const PAGETABLE_TYPE_SINCE = GENERIC_PT_SINCE;
/** The mock's devices have PASIDs since this Linux. */
const PASID_SINCE = 615;

/** The mock IOMMU: one for a machine. */
export class MockIommu implements IommuDriver, PhysicalIommu {
  readonly name = 'iommufd_selftest_iommu.0';
  readonly driver: IommuDriver = this;
  readonly kernel: Kernel;
  readonly blockedDomain = new MockBlockedDomain(null);
  readonly userPasidTable = true;
  readonly rfc202312: Rfc202312Ops;
  /** Ids of devices that exist: mock_dev_ida. */
  readonly #deviceIds = new LowestFree(0);

  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.rfc202312 = mockRfc202312(kernel);
  }

  /** mock_dev_create(). */
  createDevice(flags: number): Result<MockDevice> {
    const { version } = this.kernel;
    let known = MOCK_FLAGS_DEVICE_NO_DIRTY;
    if (version < GENERIC_PT_SINCE) known |= MOCK_FLAGS_DEVICE_HUGE_IOVA;
    if (version >= PASID_SINCE) known |= MOCK_FLAGS_DEVICE_PASID;
    if ((flags & ~known) !== 0) return fail(EINVAL, 'unknown device flags');
    if (this.kernel.failpoint() || this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the device');
    return new MockDevice(this.kernel, this, this.#deviceIds.take(), flags);
  }

  destroyDevice(device: MockDevice): void {
    this.#deviceIds.give(device.id);
  }

  capable(device: Device, capability: IommuCapability): boolean {
    if (capability === 'cache-coherency') return true;
    return capability === 'dirty-tracking' && !(device as MockDevice).noDirty;
  }

  hwInfo(_device: Device, type: number): Result<{ readonly type: number; readonly data: Uint8Array }> {
    if (type !== IOMMU_HW_INFO_TYPE_DEFAULT && type !== IOMMU_HW_INFO_TYPE_SELFTEST)
      return fail(EOPNOTSUPP, `the mock IOMMU has no information of type ${type}`);
    const data = new Uint8Array(iommu_test_hw_info.size);
    iommu_test_hw_info.write(data, 0, { flags: 0, test_reg: IOMMU_HW_INFO_SELFTEST_REGVAL });
    return { type: IOMMU_HW_INFO_TYPE_SELFTEST, data };
  }

  /** mock_domain_alloc_paging_flags(). */
  domainAllocPagingFlags(
    device: Device,
    flags: number,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<PagingDomain> {
    const dirty = (flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING) !== 0;
    if ((flags & ~PAGING_FLAGS) !== 0 || (dirty && (device as MockDevice).noDirty))
      return fail(EOPNOTSUPP, 'unknown flags, or dirty tracking for a device without it');
    const { version } = this.kernel;
    if (version < PAGETABLE_TYPE_SINCE) return this.#allocXarray(device as MockDevice, dirty, data);
    if (data !== null && data.type !== IOMMU_HWPT_DATA_SELFTEST && data.type !== IOMMU_HWPT_DATA_NONE)
      return fail(EOPNOTSUPP, `data type ${data.type} is not the mock's`);
    let table: number = MOCK_IOMMUPT_DEFAULT;
    if (data !== null) {
      const config = this.#config(memory, data);
      if (failed(config)) return config;
      table = config.pagetable_type;
    }
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
    if (table !== MOCK_IOMMUPT_DEFAULT && table !== MOCK_IOMMUPT_HUGE)
      return fail(EOPNOTSUPP, `there is no mock page table of type ${table}`);
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the page table');
    return allocGenericPt(this, version, table === MOCK_IOMMUPT_HUGE, dirty);
  }

  /** mock_domain_alloc_paging() of Linux 6.12, and how it was called. */
  #allocXarray(device: MockDevice, dirty: boolean, data: UserData | null): Result<PagingDomain> {
    if (data !== null) return fail(EOPNOTSUPP, 'a paging domain of the mock takes no data');
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
    return new XarrayPagingDomain(this, device.hugeIova, dirty);
  }

  /** mock_domain_alloc_nested(). */
  domainAllocNested(
    _device: Device,
    _parent: PagingDomain,
    flags: number,
    memory: AddressSpace,
    data: UserData,
  ): Result<MockNestedDomain> {
    if ((flags & ~IOMMU_HWPT_ALLOC_PASID) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
    return this.makeNested(memory, data, null);
  }

  /** __mock_domain_alloc_nested(). */
  makeNested(memory: AddressSpace, data: UserData, viommu: MockViommu | null): Result<MockNestedDomain> {
    if (data.type !== IOMMU_HWPT_DATA_SELFTEST)
      return fail(EOPNOTSUPP, `data type ${data.type} is not the mock's`);
    const config = this.#config(memory, data);
    if (failed(config)) return config;
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain');
    return new MockNestedDomain(this, viommu, config.iotlb);
  }

  #config(memory: AddressSpace, data: UserData): Result<{ iotlb: number; pagetable_type: number }> {
    const minLen = iommu_hwpt_selftest.endOf('iotlb');
    const size = this.kernel.version < PAGETABLE_TYPE_SINCE ? minLen : iommu_hwpt_selftest.size;
    const copied = copyUserData(memory, data, IOMMU_HWPT_DATA_SELFTEST, size, minLen);
    if (failed(copied)) return copied;
    const bytes = new Uint8Array(iommu_hwpt_selftest.size);
    bytes.set(copied);
    return iommu_hwpt_selftest.read(bytes);
  }

  reservedRegions(_device: Device): readonly ReservedRegion[] {
    return [];
  }

  pageResponse(): void {}

  viommuSupported(_device: Device, type: number): boolean {
    return type === IOMMU_VIOMMU_TYPE_SELFTEST;
  }

  viommuInit(
    core: ViommuCore,
    parent: PagingDomain,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<ViommuDriver> {
    const viommu = new MockViommu(this, core, parent);
    if (data !== null) {
      const rc = viommu.init(memory, data);
      if (failed(rc)) return rc;
    }
    return viommu;
  }
}
