import { EINVAL, EOVERFLOW, Errno, must } from './errno.ts';
import { PAGE, PAGE_N, U64_MAX, type Memory, type ModelFile } from './memory.ts';

// drivers/iommu/iommufd/pages.c, without its three places to keep a page in: a page is pinned while an access or an area
// that some domain maps needs it, and which frame it was when it was pinned is remembered.

/** A descriptor of the machine that is no memory: only its kind matters. */
export interface DmaBuf {
  readonly kind: 'dmabuf';
  readonly base: number;
  readonly size: bigint;
  revoked: boolean;
  /** What was ever mapped from it. */
  readonly attached: Set<Pages>;
}

/** struct iopt_pages. Indexes count pages from `start`. */
export interface Pages {
  readonly kind: 'user' | 'file' | 'dmabuf';
  /** A user address or an offset in a file; page aligned. */
  readonly start: bigint;
  readonly writable: boolean;
  readonly memory: Memory;
  /** Not a memfd: nothing of it can be pinned. */
  readonly file: ModelFile | null;
  readonly dmabuf: DmaBuf | null;
  /** pages->dmabuf.phys.len == 0. */
  revoked: boolean;
  /** The areas that domains map. */
  readonly areas: Set<Span>;
  readonly accesses: PageAccess[];
  readonly pinned: Map<number, number>;
}

/** Pages from an index to another, both inclusive. */
export interface Span {
  readonly firstIndex: number;
  readonly lastIndex: number;
}

interface PageAccess extends Span {
  users: number;
}

export function newPages(
  memory: Memory,
  what: Pick<Pages, 'kind' | 'start' | 'writable'> & Partial<Pick<Pages, 'file' | 'dmabuf'>>,
): Pages {
  return {
    file: null,
    dmabuf: null,
    ...what,
    memory,
    revoked: false,
    areas: new Set(),
    accesses: [],
    pinned: new Map(),
  };
}

function sourceFrame(pages: Pages, index: number): number {
  const at = pages.start + BigInt(index) * PAGE_N;
  switch (pages.kind) {
    case 'user':
      return pages.memory.page(at);
    case 'dmabuf':
      return pages.dmabuf!.base + Number(at);
    case 'file':
      must(pages.file !== null, EINVAL);
      return pages.file.base + Number(at);
  }
}

/** Pins what of the pages is not pinned yet, all or nothing. Answers the frames of all of them. */
export function pin(pages: Pages, firstIndex: number, lastIndex: number): number[] {
  const frames: number[] = [];
  const fresh = new Map<number, number>();
  // mm/gup.c gup_fast_fallback() and memfd_pin_folios() look at the end of the whole range first.
  const end = pages.start + (BigInt(lastIndex) + 1n) * PAGE_N;
  for (let index = firstIndex; index <= lastIndex; index++) {
    let frame = pages.pinned.get(index);
    if (frame === undefined) {
      if (pages.kind === 'file' && (pages.file === null || end > pages.file.size)) throw new Errno(EINVAL);
      must(pages.kind !== 'user' || end <= U64_MAX, EOVERFLOW);
      frame = sourceFrame(pages, index);
      fresh.set(index, frame);
    }
    frames.push(frame);
  }
  for (const [index, frame] of fresh) pages.pinned.set(index, frame);
  return frames;
}

/** Unpins whatever nothing needs any more. */
export function unpin(pages: Pages): void {
  const needed: Span[] = [...pages.areas, ...pages.accesses];
  for (const index of pages.pinned.keys())
    if (!needed.some((span) => span.firstIndex <= index && index <= span.lastIndex))
      pages.pinned.delete(index);
}

/** iopt_area_add_access(), behind its checks. */
export function addAccess(pages: Pages, firstIndex: number, lastIndex: number): number[] {
  const frames = pin(pages, firstIndex, lastIndex);
  const access = findAccess(pages, firstIndex, lastIndex);
  if (access !== undefined) access.users++;
  else pages.accesses.push({ firstIndex, lastIndex, users: 1 });
  return frames;
}

/** iopt_area_remove_access(). */
export function removeAccess(pages: Pages, firstIndex: number, lastIndex: number): void {
  const access = findAccess(pages, firstIndex, lastIndex)!;
  if (--access.users > 0) return;
  pages.accesses.splice(pages.accesses.indexOf(access), 1);
  unpin(pages);
}

function findAccess(pages: Pages, firstIndex: number, lastIndex: number): PageAccess | undefined {
  return pages.accesses.find((access) => access.firstIndex === firstIndex && access.lastIndex === lastIndex);
}

/** Copies through the pages, as iopt_pages_rw_slow() does: pinned for that long where they are not. */
export function rwPages(pages: Pages, startByte: number, data: Uint8Array, write: boolean): void {
  const frames = pin(pages, Math.floor(startByte / PAGE), Math.floor((startByte + data.length - 1) / PAGE));
  let offset = startByte % PAGE;
  let at = 0;
  for (const pa of frames) {
    const frame = pages.memory.frames.frame(pa);
    const count = Math.min(PAGE - offset, data.length - at);
    if (write) frame.set(data.subarray(at, at + count), offset);
    else data.set(frame.subarray(offset, offset + count), at);
    at += count;
    offset = 0;
  }
  unpin(pages);
}
