import { fail, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EINVAL } from '../../abi/errno.ts';
import {
  MOCK_APERTURE_LAST,
  MOCK_APERTURE_START,
  MOCK_HUGE_PAGE_SIZE,
  MOCK_PAGE_SIZE,
} from '../../abi/iommufd-test.ts';
import { MockPageTable } from '../../pagetable/mock.ts';
import { IOMMU_READ, IOMMU_WRITE, type DirtyRecorder, type IommuDriver } from '../driver.ts';
import { MockPagingDomain } from './domain.ts';

// drivers/iommu/iommufd/selftest.c until Linux 6.18: the mock's page table was an xarray with an entry for each 2 KiB. Our
// table with that page size alone says the same of each address. What programs see more is here.

/** Since this Linux the mock has a page table of generic_pt's, with all of its page sizes. */
export const GENERIC_PT_SINCE = 619;

const SMALL = big(MOCK_PAGE_SIZE);
const HUGE = big(MOCK_HUGE_PAGE_SIZE);

/** struct mock_iommu_domain of those days. `huge` is for devices with MOCK_FLAGS_DEVICE_HUGE_IOVA. */
export class XarrayPagingDomain extends MockPagingDomain {
  constructor(owner: IommuDriver, huge: boolean, dirty: boolean) {
    super(owner, {
      table: new MockPageTable({ pgsizeBitmap: huge ? SMALL | HUGE : SMALL }),
      aperture: { start: MOCK_APERTURE_START, last: MOCK_APERTURE_LAST },
      dirty,
    });
  }

  /** mock_domain_map_pages(): an entry has no permissions, so that none is refused for having neither. */
  override map(iova: bigint, pa: number, length: bigint, _prot: number): Result<void> {
    return super.map(iova, pa, length, IOMMU_READ | IOMMU_WRITE);
  }

  /** iommufd_test_dirty(): the number of the page in units of `pageSize` was its index in the xarray, of 2 KiB pages. */
  override markDirty(iova: bigint, pageSize: bigint): boolean {
    const at = (iova / pageSize) * SMALL;
    return at <= this.table.lastIova && this.table.setDirty(at);
  }

  /** mock_domain_read_and_clear_dirty(). */
  override readAndClearDirty(
    iova: bigint,
    length: bigint,
    clear: boolean,
    record: DirtyRecorder | null,
  ): Result<void> {
    if (!this.dirtyTracking && record !== null) return fail(EINVAL, 'dirty tracking is off');
    const end = iova + length;
    let at = iova;
    // From inside a huge page the walk went to the same place of the next, and recorded a huge page from there on.
    for (; at < end; at += HUGE) {
      const entry = this.table.entryAt(at);
      if (entry?.length !== HUGE || entry.iova === at) break;
      if (!entry.dirty) continue;
      record?.(at, HUGE);
      if (clear) void this.table.readAndClearDirty(entry.iova, HUGE, true, null);
    }
    return at < end ? this.table.readAndClearDirty(at, end - at, clear, record) : undefined;
  }
}
