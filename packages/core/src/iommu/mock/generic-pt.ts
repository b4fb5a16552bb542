import { PAGE_SIZE_N, big } from '../../base/u64.ts';
import { MOCK_APERTURE_LAST, MOCK_APERTURE_START, MOCK_HUGE_PAGE_SIZE } from '../../abi/iommufd-test.ts';
import { MockPageTable } from '../../pagetable/mock.ts';
import type { IommuDriver } from '../driver.ts';
import { MockPagingDomain } from './domain.ts';

/** Until 7.1 the format announced a page of half its address space too (generic_pt/iommu_pt.h get_info()). */
const LARGEST_SIZE = 1n << 37n;
const LARGEST_SIZE_DROPPED_SINCE = 702;

/** drivers/iommu/iommufd/selftest.c mock_domain_alloc_pgtable(). */
export function allocGenericPt(
  owner: IommuDriver,
  version: number,
  huge: boolean,
  dirty: boolean,
): MockPagingDomain {
  if (huge) {
    // Programs should map huge pages only; PAGE_SIZE is there so that iommufd takes the domain.
    const table = new MockPageTable({ pgsizeBitmap: big(MOCK_HUGE_PAGE_SIZE) | PAGE_SIZE_N });
    return new MockPagingDomain(owner, { table, aperture: { start: 0n, last: table.lastIova }, dirty });
  }
  const table = new MockPageTable();
  const extra = version < LARGEST_SIZE_DROPPED_SINCE ? LARGEST_SIZE : 0n;
  const aperture = { start: MOCK_APERTURE_START, last: MOCK_APERTURE_LAST };
  return new MockPagingDomain(owner, { table, pgsizeBitmap: table.pgsizeBitmap | extra, aperture, dirty });
}
