import { fail, type Result } from '../../base/result.ts';
import { big, hex, pageAddress, pageNumber, pageOffset, PAGE_SIZE } from '../../base/u64.ts';
import { EINVAL, ENXIO, EOVERFLOW } from '../../abi/errno.ts';
import type { GenericTable } from '../../pagetable/generic/table.ts';
import type { DirtyRecorder } from '../driver.ts';

// A domain's addresses and a table's pages: drivers/iommu/iommu.c iommu_map_nosync() and __iommu_unmap() of domains with
// generic tables, and what drivers/iommu/generic_pt/iommu_pt.h checks before it walks.

const ALL_PAGES = 2 ** 52;

/** Why a range cannot be one of pages; null where it can. make_range_ul(), and ENXIO for what is smaller than a page. */
function rangeFault(iova: bigint, length: bigint): Result<never> | null {
  if (length === 0n) return fail(EINVAL, 'a range of no bytes');
  if (pageOffset(iova) !== 0 || pageOffset(length) !== 0)
    return fail(ENXIO, `${hex(length)} bytes at ${hex(iova)} are not whole pages`);
  if (pageNumber(iova) + pageNumber(length) > ALL_PAGES) return fail(EOVERFLOW, `${hex(iova)} wraps around`);
  return null;
}

/** map_range(): nothing stays mapped where it fails. */
export function mapRange(
  table: GenericTable,
  iova: bigint,
  pa: number,
  length: bigint,
  prot: number,
): Result<void> {
  const wrong = rangeFault(iova, length);
  if (wrong !== null) return wrong;
  if (pa % PAGE_SIZE !== 0) return fail(ENXIO, `${hex(pa)} is no whole page`);
  return table.map(pageNumber(iova), pa / PAGE_SIZE, pageNumber(length), prot);
}

/** unmap_range(): the bytes that were unmapped. */
export function unmapRange(table: GenericTable, iova: bigint, length: bigint): bigint {
  if (rangeFault(iova, length) !== null) return 0n;
  return pageAddress(table.unmap(pageNumber(iova), pageNumber(length)));
}

/** iova_to_phys(): 0 where nothing is mapped. */
export function iovaToPhys(table: GenericTable, iova: bigint): number {
  const page = table.lookup(pageNumber(iova));
  return page < 0 ? 0 : page * PAGE_SIZE + pageOffset(iova);
}

/** read_and_clear_dirty(): `cleared` is told of pages whose dirty bit went. */
export function readAndClearDirty(
  table: GenericTable,
  iova: bigint,
  length: bigint,
  record: DirtyRecorder | null,
  cleared: ((page: number, count: number) => void) | null,
): Result<void> {
  if (length === 0n) return fail(EINVAL, 'a range of no bytes');
  const first = pageNumber(iova);
  const end = pageNumber(iova + length - 1n) + 1;
  return table.readAndClearDirty(first, end - first, cleared !== null, (page, pages) => {
    cleared?.(page, pages);
    record?.(pageAddress(page), big(pages) * big(PAGE_SIZE));
  });
}
