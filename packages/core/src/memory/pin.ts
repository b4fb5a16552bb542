import { fail, failed, type Result } from '../base/result.ts';
import { hex, PAGE_SIZE_N, pageAddress, pageNumber, U64_MAX } from '../base/u64.ts';
import { EFAULT, EINVAL, EOVERFLOW } from '../abi/errno.ts';
import { fileBacking, privateBacking, type Backing } from './frames.ts';
import type { AddressSpace, SharedFile, Vma } from './process.ts';

/** Neighbouring pages of one backing. */
export interface PageRange {
  readonly backing: Backing;
  /** Page number in the backing. */
  readonly firstPage: number;
  readonly pages: number;
}

/**
 * Finds what `pages` pages of `memory` from page number `firstPage` on are made of, as pin_user_pages() would reach
 * them: EFAULT where an address is not mapped, not readable, not writable though `write` is asked, or device memory;
 * EOVERFLOW for the last page of the address space.
 */
export function resolveUserPages(
  memory: AddressSpace,
  firstPage: number,
  pages: number,
  write: boolean,
): Result<PageRange[]> {
  const start = pageAddress(firstPage);
  const last = start + pageAddress(pages) - 1n;
  // mm/gup.c gup_fast_fallback() looks at the end, which for the last page of all is no address.
  if (last >= U64_MAX) return fail(EOVERFLOW, `${pages} pages from ${hex(start)} on end at 2^64`);
  const ranges: PageRange[] = [];
  let at = start;
  for (const vma of memory.mappings(start, last)) {
    if (vma.start > at) break;
    const end = vma.last < last ? vma.last : last;
    const range = resolveVma(memory, vma, at, end, write);
    if (failed(range)) return range;
    ranges.push(range);
    at = end + 1n;
    if (at > last) return ranges;
  }
  return fail(EFAULT, `user address ${hex(at)} is not mapped`);
}

function resolveVma(
  memory: AddressSpace,
  vma: Vma,
  at: bigint,
  end: bigint,
  write: boolean,
): Result<PageRange> {
  if (!vma.pinnable) return fail(EFAULT, `user address ${hex(at)} is device memory and cannot be pinned`);
  if (write && !vma.writable) return fail(EFAULT, `user address ${hex(at)} is not writable`);
  if (!vma.readable && !vma.writable) return fail(EFAULT, `user address ${hex(at)} is not accessible`);
  const pages = pageNumber(end - at) + 1;
  if (vma.shared === null) {
    const backing = privateBacking(memory, vma.pageBytes > 4096);
    return { backing, firstPage: pageNumber(at), pages };
  }
  const offset = vma.shared.offset + (at - vma.start);
  const fileEnd = (vma.shared.file.size() + PAGE_SIZE_N - 1n) & ~(PAGE_SIZE_N - 1n);
  if (offset + (end - at) >= fileEnd)
    return fail(EFAULT, `user address ${hex(at)} lies beyond its file's end`);
  return { backing: fileBacking(vma.shared.file), firstPage: pageNumber(offset), pages };
}

/** Finds pages of a memfd: mm/gup.c memfd_pin_folios(). EINVAL for another file and beyond the end. */
export function resolveFilePages(file: SharedFile, firstPage: number, pages: number): Result<PageRange[]> {
  if (!file.memfd) return fail(EINVAL, 'the descriptor is not a memfd');
  // The end of the last page, which may be that of the u64 space.
  if (pageAddress(firstPage + pages - 1) + PAGE_SIZE_N > file.size())
    return fail(EINVAL, 'the range reaches beyond the end of the memfd');
  return [{ backing: fileBacking(file), firstPage, pages }];
}
