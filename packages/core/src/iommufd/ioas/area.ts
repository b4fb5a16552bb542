import { big, pageNumber, pageOffset, PAGE_SIZE_N } from '../../base/u64.ts';
import type { PagingDomain } from '../../iommu/driver.ts';
import type { IoptPages, PagesHolder } from '../pages/pages.ts';

/** A range of IOVA backed by a slice of pages: drivers/iommu/iommufd/io_pagetable.h struct iopt_area. */
export class IoptArea implements PagesHolder {
  readonly start: bigint;
  readonly last: bigint;
  readonly prot: number;
  /** Null while another request still sets the area up or takes it down. */
  pages: IoptPages | null = null;
  /** A domain that holds the pages' addresses; null while no domain does. */
  storageDomain: PagingDomain | null = null;
  /** Set while an unmap waits for in-kernel accesses to let go. */
  preventAccess = false;
  accesses = 0;
  /** Accesses that an unmap must not end: those of hardware queues. */
  locks = 0;
  readonly firstIndex: number;
  readonly lastIndex: number;
  /** How far into its first page the area starts. */
  readonly pageOffset: number;

  /** The slice starts at byte `startByte` of the pages. */
  constructor(start: bigint, last: bigint, startByte: bigint, prot: number) {
    this.start = start;
    this.last = last;
    this.prot = prot;
    this.firstIndex = pageNumber(startByte);
    this.lastIndex = pageNumber(last - start + startByte);
    this.pageOffset = pageOffset(startByte);
  }

  get length(): bigint {
    return this.last - this.start + 1n;
  }

  /** Bytes from the start of the pages to what `iova` shows: iopt_area_start_byte(). */
  byteAt(iova: bigint): bigint {
    return iova - this.start + big(this.pageOffset) + big(this.firstIndex) * PAGE_SIZE_N;
  }

  /** The page index that `iova` shows. */
  indexAt(iova: bigint): number {
    return pageNumber(this.byteAt(iova));
  }

  /** Visits what a domain has to map: IOVA, physical address and length of neighbouring frames. */
  eachMapping(pages: IoptPages, visit: (iova: bigint, pa: number, length: bigint) => boolean): void {
    let iova = this.start;
    let skip = this.pageOffset;
    let going = true;
    pages.eachRun(this.firstIndex, this.lastIndex, (frame, frames) => {
      if (!going) return;
      const rest = this.last - iova + 1n;
      const run = big(frames) * PAGE_SIZE_N - big(skip);
      const length = run < rest ? run : rest;
      going = visit(iova, frame * 4096 + skip, length);
      iova += length;
      skip = 0;
    });
  }
}
