import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, ENOMEM } from '../../abi/errno.ts';
import { exact, PAGE_SIZE_N } from '../../base/u64.ts';
import { IOMMU_CACHE, IOMMU_MMIO, type Kernel, type PagingDomain } from '../../iommu/driver.ts';
import type { IoptArea } from './area.ts';
import type { IoptPages } from '../pages/pages.ts';

// drivers/iommu/iommufd/pages.c iopt_area_fill_domain() and its kin: an area's pages into domains and out again.

/** The table an area belongs to, as far as filling needs it. */
export interface FillTarget {
  readonly kernel: Kernel;
  readonly domains: readonly PagingDomain[];
  readonly disableLargePages: boolean;
}

// batch_to_domain(): nothing stays mapped where it fails.
function mapArea(table: FillTarget, area: IoptArea, pages: IoptPages, domain: PagingDomain): Result<void> {
  const prot = pages.origin.type === 'dma-buf' ? (area.prot & ~IOMMU_CACHE) | IOMMU_MMIO : area.prot;
  let mapped = area.start;
  let failure: Result<void> = undefined;
  const mapOne = (iova: bigint, pa: number, length: bigint): boolean => {
    const rc = table.kernel.failpoint()
      ? fail(ENOMEM, 'no memory for the page table')
      : domain.map(iova, pa, length, prot);
    if (failed(rc)) {
      failure = rc;
      return false;
    }
    mapped = iova + length;
    return true;
  };
  area.eachMapping(pages, (iova, pa, length) => {
    if (!table.disableLargePages) return mapOne(iova, pa, length);
    // batch_iommu_map_small(): each page for itself, so that any of them can be unmapped alone.
    for (let at = 0n; at < length; at += PAGE_SIZE_N) {
      if (!mapOne(iova + at, pa + exact(at), PAGE_SIZE_N)) return false;
    }
    return true;
  });
  if (failure !== undefined && mapped > area.start) domain.unmap(area.start, mapped - area.start);
  return failure;
}

/** Takes an area out of a domain; the pages stay pinned. */
export function unmapArea(area: IoptArea, pages: IoptPages, domain: PagingDomain): void {
  if (pages.revoked) return;
  if (pages.origin.type === 'dma-buf') pages.untrack(area, domain);
  domain.unmap(area.start, area.length);
}

/** iopt_area_fill_domain(): pins the pages where no other domain has them, and maps them. */
export function fillArea(
  table: FillTarget,
  area: IoptArea,
  pages: IoptPages,
  domain: PagingDomain,
): Result<void> {
  if (pages.origin.type === 'dma-buf') {
    if (table.kernel.failpoint()) return fail(ENOMEM, 'no memory to track the dma-buf');
  }
  const first = area.storageDomain === null;
  if (first) {
    const held = pages.hold(area);
    if (failed(held)) return held;
  }
  if (!pages.revoked) {
    const rc = mapArea(table, area, pages, domain);
    if (failed(rc)) {
      if (first) pages.release(area);
      return rc;
    }
    if (pages.origin.type === 'dma-buf') pages.track(area, domain);
  }
  if (first) area.storageDomain = domain;
}

/** iopt_area_unfill_domain(): unmaps; unpins too where no domain is left. */
export function unfillArea(area: IoptArea, pages: IoptPages, domain: PagingDomain, alone: boolean): void {
  unmapArea(area, pages, domain);
  if (!alone) return;
  area.storageDomain = null;
  pages.release(area);
}

/** iopt_area_fill_domains(): a new area into every domain; all of them or none. */
export function fillAreaEverywhere(table: FillTarget, area: IoptArea, pages: IoptPages): Result<void> {
  if (table.domains.length === 0) return;
  const done: PagingDomain[] = [];
  for (const domain of table.domains) {
    const rc = fillArea(table, area, pages, domain);
    if (!failed(rc)) {
      done.push(domain);
      continue;
    }
    for (const [index, each] of done.entries()) unfillArea(area, pages, each, index === done.length - 1);
    return rc;
  }
  if (area.storageDomain === null) return fail(EINVAL, 'no domain took the area');
}
