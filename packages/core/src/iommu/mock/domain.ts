import { fail, failed, type Result } from '../../base/result.ts';
import type { Range } from '../../base/range.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
  IOMMU_TEST_INVALIDATE_FLAG_ALL,
  MOCK_NESTED_DOMAIN_IOTLB_ID_MAX,
  MOCK_NESTED_DOMAIN_IOTLB_NUM,
  iommu_hwpt_invalidate_selftest,
} from '../../abi/iommufd-test.ts';
import type { AddressSpace } from '../../memory/process.ts';
import type { MockPageTable } from '../../pagetable/mock.ts';
import type { Device, DirtyOps, DirtyRecorder, IommuDomain, IommuDriver, PagingDomain } from '../driver.ts';
import type { IopfGroup } from '../iopf.ts';
import { UserArrayReader, type UserDataArray } from '../user-data.ts';
import { attachMockDevice, setMockDevicePasid } from './device.ts';
import type { MockViommu } from './viommu.ts';

// drivers/iommu/iommufd/selftest.c: the domains of the mock IOMMU.

abstract class MockDomain implements IommuDomain {
  abstract readonly type: IommuDomain['type'];
  readonly owner: IommuDriver | null;
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;

  constructor(owner: IommuDriver | null) {
    this.owner = owner;
  }

  attachDevice(device: Device, _old: IommuDomain | null): Result<void> {
    return attachMockDevice(this, device);
  }

  setDevicePasid(device: Device, pasid: number, old: IommuDomain | null): Result<void> {
    return setMockDevicePasid(this, device, pasid, old);
  }

  free(): void {}
}

/** mock_blocking_domain: nothing passes. */
export class MockBlockedDomain extends MockDomain {
  readonly type = 'blocked';
}

/** What makes a paging domain. */
export interface MockPaging {
  readonly table: MockPageTable;
  /** Page sizes that it announces; without it those of the table. */
  readonly pgsizeBitmap?: bigint;
  readonly aperture: Range;
  /** Whether it can track dirty pages. */
  readonly dirty: boolean;
}

/** struct mock_iommu_domain. */
export class MockPagingDomain extends MockDomain implements PagingDomain, DirtyOps {
  readonly type = 'paging';
  readonly table: MockPageTable;
  readonly pgsizeBitmap: bigint;
  readonly aperture: Range;
  readonly dirtyOps: DirtyOps | null;
  dirtyTracking = false;

  constructor(owner: IommuDriver, { table, pgsizeBitmap, aperture, dirty }: MockPaging) {
    super(owner);
    this.table = table;
    this.pgsizeBitmap = pgsizeBitmap ?? table.pgsizeBitmap;
    this.aperture = aperture;
    this.dirtyOps = dirty ? this : null;
  }

  map(iova: bigint, pa: number, length: bigint, prot: number): Result<void> {
    return this.table.map(iova, pa, length, prot);
  }

  unmap(iova: bigint, length: bigint): bigint {
    return this.table.unmap(iova, length);
  }

  iovaToPhys(iova: bigint): number {
    return this.table.iovaToPhys(iova);
  }

  /** iommufd_test_dirty(): a device wrote the page of `pageSize` bytes at `iova`. Answers whether that is counted. */
  markDirty(iova: bigint, _pageSize: bigint): boolean {
    this.table.setDirty(iova);
    return true;
  }

  setDirtyTracking(enable: boolean): Result<void> {
    this.dirtyTracking = enable;
  }

  readAndClearDirty(
    iova: bigint,
    length: bigint,
    clear: boolean,
    record: DirtyRecorder | null,
  ): Result<void> {
    return this.table.readAndClearDirty(iova, length, clear, record);
  }
}

/** struct mock_iommu_domain_nested: its IOTLB is four numbers that an invalidation sets to zero. */
export class MockNestedDomain extends MockDomain {
  readonly type = 'nested';
  readonly viommu: MockViommu | null;
  readonly iotlb: Uint32Array;

  constructor(owner: IommuDriver, viommu: MockViommu | null, iotlb: number) {
    super(owner);
    this.viommu = viommu;
    this.iotlb = new Uint32Array(MOCK_NESTED_DOMAIN_IOTLB_NUM).fill(iotlb);
  }

  /** mock_domain_cache_invalidate_user(). */
  cacheInvalidateUser(memory: AddressSpace, array: UserDataArray): Result<void> {
    const total = array.entryNum;
    const type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST;
    if (array.type !== type) {
      array.entryNum = 0;
      return fail(EINVAL, `data type ${array.type} is not the mock's`);
    }
    const { size } = iommu_hwpt_invalidate_selftest;
    const minLen = iommu_hwpt_invalidate_selftest.endOf('iotlb_id');
    const entries = new UserArrayReader(memory, array, type, size, minLen);
    for (let i = 0; i < total; i++) {
      const bytes = entries.entry(i);
      const rc = failed(bytes) ? bytes : this.#invalidate(bytes);
      if (!failed(rc)) continue;
      array.entryNum = i;
      return rc;
    }
  }

  #invalidate(bytes: Uint8Array): Result<void> {
    const { flags, iotlb_id } = iommu_hwpt_invalidate_selftest.read(bytes);
    if ((flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
    if (iotlb_id > MOCK_NESTED_DOMAIN_IOTLB_ID_MAX)
      return fail(EINVAL, `there is no IOTLB entry ${iotlb_id}`);
    if (flags !== 0) this.iotlb.fill(0);
    else this.iotlb[iotlb_id] = 0;
  }
}
