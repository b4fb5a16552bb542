import { fail, failed, type Result } from '../../base/result.ts';
import type { Range } from '../../base/range.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
  IOMMU_TEST_INVALIDATE_FLAG_ALL,
  MOCK_APERTURE_LAST,
  MOCK_APERTURE_START,
  MOCK_HUGE_PAGE_SIZE,
  MOCK_NESTED_DOMAIN_IOTLB_ID_MAX,
  MOCK_NESTED_DOMAIN_IOTLB_NUM,
  iommu_hwpt_invalidate_selftest,
} from '../../abi/iommufd-test.ts';
import { PAGE_SIZE_N } from '../../base/u64.ts';
import type { AddressSpace } from '../../memory/process.ts';
import { MockPageTable } from '../../pagetable/mock.ts';
import type { Device, DirtyOps, DirtyRecorder, IommuDomain, IommuDriver, PagingDomain } from '../driver.ts';
import type { IopfGroup } from '../iopf.ts';
import { UserArrayReader, type UserDataArray } from '../user-data.ts';
import { attachMockDevice, setMockDevicePasid } from './device.ts';
import type { MockViommu } from './viommu.ts';

// drivers/iommu/iommufd/selftest.c: the domains of the mock IOMMU.

/** Until 7.1 the format announced a page of half its address space too (generic_pt/iommu_pt.h get_info()). */
const LARGEST_SIZE = 1n << 37n;
const LARGEST_SIZE_DROPPED_SINCE = 702;

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

/** struct mock_iommu_domain. */
export class MockPagingDomain extends MockDomain implements PagingDomain, DirtyOps {
  readonly type = 'paging';
  readonly table: MockPageTable;
  readonly aperture: Range;
  readonly dirtyOps: DirtyOps | null;
  dirtyTracking = false;
  readonly #extraSizes: bigint;

  constructor(owner: IommuDriver, version: number, huge: boolean, dirty: boolean) {
    super(owner);
    // In huge mode programs should map huge pages only; PAGE_SIZE is there so that iommufd takes the domain.
    this.table = new MockPageTable(huge ? { pgsizeBitmap: BigInt(MOCK_HUGE_PAGE_SIZE) | PAGE_SIZE_N } : {});
    this.aperture = huge
      ? { start: 0n, last: this.table.lastIova }
      : { start: MOCK_APERTURE_START, last: MOCK_APERTURE_LAST };
    this.dirtyOps = dirty ? this : null;
    this.#extraSizes = !huge && version < LARGEST_SIZE_DROPPED_SINCE ? LARGEST_SIZE : 0n;
  }

  get pgsizeBitmap(): bigint {
    return this.table.pgsizeBitmap | this.#extraSizes;
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
