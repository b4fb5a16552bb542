import { assert } from '../../base/assert.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { PINNED_PAGES_MAX } from '../../base/limits.ts';
import { big, PAGE_SIZE, PAGE_SIZE_N, pageAddress, pageNumber, pageOffset, U64_MAX } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENOMEM, EOVERFLOW, EPERM } from '../../abi/errno.ts';
import type { Backing, FrameRun } from '../../memory/frames.ts';
import { resolveFilePages, resolveUserPages, type PageRange } from '../../memory/pin.ts';
import { CAP_IPC_LOCK, type Process, type SharedFile } from '../../memory/process.ts';
import type { Kernel, PagingDomain } from '../../iommu/driver.ts';
import { ACCOUNT_NONE, ACCOUNT_USER, type AccountMode, type LockedMemory } from './accounting.ts';
import type { IoptArea } from '../ioas/area.ts';
import type { DmaBuf, DmaBufImporter } from './dma-buf.ts';

// drivers/iommu/iommufd/pages.c: a linear array of pages that areas of one or several IOAS share. A page is pinned once,
// however many domains and accesses hold it; it is unpinned when the last of them lets go.

/** Where the pages come from. Addresses and offsets are those of page 0, multiples of the page size. */
export type PagesOrigin =
  | { readonly type: 'user'; readonly va: bigint }
  | { readonly type: 'file'; readonly file: SharedFile; readonly start: bigint }
  | { readonly type: 'dma-buf'; readonly buffer: DmaBuf; readonly start: bigint };

/** Who keeps a range of pages pinned: a filled area, or an in-kernel access. Indexes are inclusive. */
export interface PagesHolder {
  readonly firstIndex: number;
  readonly lastIndex: number;
}

/** Pinned pages of one backing, by index. */
interface Segment {
  first: number;
  last: number;
  readonly backing: Backing;
  /** Page number in the backing of index `first`. */
  backingPage: number;
}

/** What rounds up to whole pages without passing 2^64. */
const LENGTH_MAX = U64_MAX - PAGE_SIZE_N;

const NOTHING: readonly never[] = [];

/** struct iopt_pages. */
export class IoptPages implements DmaBufImporter {
  readonly origin: PagesOrigin;
  readonly npages: number;
  readonly writable: boolean;
  accountMode: AccountMode;
  /** Who mapped them: source_task, source_mm and source_user. */
  source: Process;
  /** Areas that hold it, and requests on their way to one. */
  references = 1;
  /** In-kernel accesses by exact range: access_itree. Null while there was none. */
  accesses: Map<string, PagesHolder & { users: number }> | null = null;
  npinned = 0;
  readonly #kernel: Kernel;
  readonly #locked: LockedMemory;
  #charged = 0;
  // Most pages never see a domain or an access, so what holds and pins them is made when it is needed.
  /** By first index; of those with the same, the oldest first. */
  #holders: PagesHolder[] | null = null;
  /** How far beyond its first index any holder ever reached. */
  #reach = 0;
  /** By index, without an overlap. */
  #segments: Segment[] | null = null;
  /** A dma-buf's mappings, to be undone when it is revoked. */
  #tracked: readonly { readonly area: IoptArea; readonly domain: PagingDomain }[] = NOTHING;

  constructor(
    kernel: Kernel,
    locked: LockedMemory,
    origin: PagesOrigin,
    startByte: number,
    length: bigint,
    writable: boolean,
  ) {
    this.#kernel = kernel;
    this.#locked = locked;
    this.origin = origin;
    this.npages = pageNumber(length) + Math.ceil((pageOffset(length) + startByte) / PAGE_SIZE);
    this.writable = writable;
    this.source = kernel.current.process;
    this.accountMode =
      origin.type === 'dma-buf' || this.source.capable(CAP_IPC_LOCK) ? ACCOUNT_NONE : ACCOUNT_USER;
  }

  /** One holder less; the last one frees. */
  put(): void {
    if (--this.references > 0) return;
    assert((this.#holders?.length ?? 0) === 0 && this.npinned === 0, 'pages are freed while pinned');
    if (this.origin.type === 'file') this.origin.file.release();
    if (this.origin.type === 'dma-buf') this.origin.buffer.detach(this);
  }

  /** True for a dma-buf whose exporter took its memory back. */
  get revoked(): boolean {
    return this.origin.type === 'dma-buf' && this.origin.buffer.revokedFor(this);
  }

  /** Remembers where a dma-buf is mapped: iopt_dmabuf_track_domain(). */
  track(area: IoptArea, domain: PagingDomain): void {
    this.#tracked = [...this.#tracked, { area, domain }];
  }

  untrack(area: IoptArea, domain: PagingDomain): void {
    this.#tracked = this.#tracked.filter((each) => each.area !== area || each.domain !== domain);
  }

  /** iopt_revoke_notify(): the exporter takes the memory, so every mapping of it goes now. */
  revoke(): void {
    for (const { area, domain } of this.#tracked) domain.unmap(area.start, area.length);
    this.#tracked = NOTHING;
  }

  /**
   * Pins what `holder` covers and nobody holds yet, and charges it. Nothing changes where it fails: EFAULT where the
   * program's memory is not there, ENOMEM beyond the limit.
   */
  hold(holder: PagesHolder): Result<void> {
    if (this.origin.type !== 'dma-buf') {
      const holes = this.#uncovered(holder.firstIndex, holder.lastIndex);
      const pinned = this.#pinHoles(holes);
      if (failed(pinned)) return pinned;
      const charged = this.#chargePinned();
      if (failed(charged)) {
        for (const [first, last] of holes) this.#unpin(first, last);
        return charged;
      }
    }
    this.#addHolder(holder);
  }

  /** Undoes {@link hold}: unpins what nobody else covers. */
  release(holder: PagesHolder): void {
    this.#removeHolder(holder);
    if (this.origin.type === 'dma-buf') return;
    for (const [first, last] of this.#uncovered(holder.firstIndex, holder.lastIndex))
      this.#unpin(first, last);
    // update_unpinned()
    if (this.npinned >= this.#charged) return;
    const back = this.#locked.update(this.source, this.accountMode, this.npinned - this.#charged);
    if (!failed(back)) this.#charged = this.npinned;
  }

  /**
   * Gives back what was charged, as somebody else has paid: EINVAL where that address space is gone. DEVIATION: Linux
   * forgets then that the pages are paid, and leaves them charged to the new process for good.
   */
  uncharge(): Result<void> {
    this.#charged = this.npinned;
    return this.#locked.update(this.source, this.accountMode, -this.npinned);
  }

  /** Hands the place of one holder to others that together cover the same pages. */
  exchange(old: PagesHolder, replacements: readonly PagesHolder[]): void {
    this.#removeHolder(old);
    for (const holder of replacements) this.#addHolder(holder);
  }

  #addHolder(holder: PagesHolder): void {
    this.#holders ??= [];
    this.#reach = Math.max(this.#reach, holder.lastIndex - holder.firstIndex);
    this.#holders.splice(lowerBound(this.#holders, holder.firstIndex + 1, firstOf), 0, holder);
  }

  #removeHolder(holder: PagesHolder): void {
    const holders = this.#holders ?? [];
    const at = holders.indexOf(holder, lowerBound(holders, holder.firstIndex, firstOf));
    assert(at >= 0, 'pages are released by who held them');
    holders.splice(at, 1);
  }

  /** Visits the frames of held pages, neighbours together: what a domain maps. */
  eachRun(firstIndex: number, lastIndex: number, visit: FrameRun): void {
    if (this.origin.type === 'dma-buf') {
      const frame = this.origin.buffer.firstFrame + pageNumber(this.origin.start) + firstIndex;
      visit(frame, lastIndex - firstIndex + 1);
      return;
    }
    // Runs may also meet across segments.
    let start = -1;
    let length = 0;
    const add: FrameRun = (frame, count) => {
      if (length > 0 && start + length === frame) {
        length += count;
        return;
      }
      if (length > 0) visit(start, length);
      start = frame;
      length = count;
    };
    const segments = this.#segments ?? NOTHING;
    for (let i = lowerBound(segments, firstIndex, lastOf); i < segments.length; i++) {
      const segment = segments[i]!;
      if (segment.first > lastIndex) break;
      const first = Math.max(segment.first, firstIndex);
      const last = Math.min(segment.last, lastIndex);
      const page = segment.backingPage + (first - segment.first);
      this.#kernel.physical.frames.eachRun(segment.backing, page, last - first + 1, add);
    }
    if (length > 0) visit(start, length);
  }

  /** iopt_pages_rw_access(): copies to or from the program, as an in-kernel user of the pages does. */
  rw(startByte: bigint, data: Uint8Array, write: boolean, slow: boolean): Result<void> {
    if (write && !this.writable) return fail(EPERM, 'the pages are mapped read-only');
    if (this.origin.type === 'dma-buf') return fail(EINVAL, 'a dma-buf cannot be accessed by the CPU');
    if (this.origin.type !== 'user') return this.#rwSlow(startByte, data, write);
    const { memory } = this.source;
    const ownMemory = this.#kernel.current.process.memory === memory;
    if (!ownMemory && !memory.alive) return this.#rwSlow(startByte, data, write);
    if (slow || !ownMemory) {
      const page = pageNumber(startByte);
      if (page !== pageNumber(startByte + big(data.length) - 1n)) return this.#rwSlow(startByte, data, write);
      if (this.#kernel.failpoint()) return fail(EINVAL, 'the page could not be pinned');
      if (!ownMemory || memory.mayMapDevices) {
        const resolved = resolveUserPages(memory, pageNumber(this.origin.va) + page, 1, write);
        return failed(resolved) ? resolved : copyPinned(resolved[0]!, pageOffset(startByte), data, write);
      }
    }
    const va = this.origin.va + startByte;
    if (!(write ? memory.write(va, data) : memory.read(va, data)))
      return fail(EFAULT, 'the memory behind the IOVA is not there');
  }

  // iopt_pages_rw_slow(): what is pinned is read where it was pinned, the rest is looked up now.
  #rwSlow(startByte: bigint, data: Uint8Array, write: boolean): Result<void> {
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory to read pages');
    const last = pageNumber(startByte + big(data.length) - 1n);
    let skip = pageOffset(startByte);
    let done = 0;
    for (let at = pageNumber(startByte); at <= last;) {
      const ranges = this.#pinnedOrFound(at, last);
      if (failed(ranges)) return ranges;
      for (const range of ranges) {
        const bytes = Math.min(range.pages * PAGE_SIZE - skip, data.length - done);
        const part = bytes === data.length ? data : data.subarray(done, done + bytes);
        const copied = copyPinned(range, skip, part, write);
        if (failed(copied)) return copied;
        done += bytes;
        skip = 0;
        at += range.pages;
      }
    }
  }

  // As much of [first, last] as is pinned in one piece; where the first page is not, all up to what is.
  #pinnedOrFound(first: number, last: number): Result<readonly PageRange[]> {
    const segments = this.#segments ?? NOTHING;
    const segment = segments[lowerBound(segments, first, lastOf)];
    if (segment === undefined || segment.first > last) return this.#resolve(first, last);
    if (segment.first > first) return this.#resolve(first, segment.first - 1);
    const firstPage = segment.backingPage + (first - segment.first);
    return [{ backing: segment.backing, firstPage, pages: Math.min(segment.last, last) - first + 1 }];
  }

  #resolve(first: number, last: number): Result<PageRange[]> {
    const pages = last - first + 1;
    if (this.origin.type === 'file')
      return resolveFilePages(this.origin.file, pageNumber(this.origin.start) + first, pages);
    assert(this.origin.type === 'user', 'a dma-buf has no pages to look up');
    if (!this.source.memory.alive) return fail(EFAULT, 'the process that mapped the pages has exited');
    return resolveUserPages(this.source.memory, pageNumber(this.origin.va) + first, pages, this.writable);
  }

  #pinHoles(holes: readonly (readonly [number, number])[]): Result<void> {
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory for the batch of pages');
    if (holes.length > 0 && this.#kernel.failpoint()) return fail(ENOMEM, 'no memory for the page list');
    const done: (readonly [number, number])[] = [];
    const undo = (failure: Result<void>): Result<void> => {
      for (const [first, last] of done) this.#unpin(first, last);
      return failure;
    };
    for (const hole of holes) {
      if (this.#kernel.failpoint()) return undo(fail(EFAULT, 'the pages could not be pinned'));
      const ranges = this.#resolve(hole[0], hole[1]);
      if (failed(ranges)) return undo(ranges);
      const { frames } = this.#kernel.physical;
      if (frames.pinned + (hole[1] - hole[0] + 1) > PINNED_PAGES_MAX)
        return undo(fail(ENOMEM, 'no memory: more than 2 TiB would be pinned'));
      let index = hole[0];
      for (const range of ranges) {
        frames.pin(range.backing, range.firstPage, range.pages);
        this.#insertSegment({
          first: index,
          last: index + range.pages - 1,
          backing: range.backing,
          backingPage: range.firstPage,
        });
        index += range.pages;
      }
      this.npinned += hole[1] - hole[0] + 1;
      done.push(hole);
    }
  }

  #chargePinned(): Result<void> {
    if (this.npinned === this.#charged) return;
    if (this.npinned > this.#charged && this.#kernel.failpoint())
      return fail(ENOMEM, 'the pinned pages could not be charged');
    const charged = this.#locked.update(this.source, this.accountMode, this.npinned - this.#charged);
    if (failed(charged)) return charged;
    this.#charged = this.npinned;
  }

  #unpin(first: number, last: number): void {
    const segments = this.#segments ?? [];
    const at = lowerBound(segments, first, lastOf);
    const kept: Segment[] = [];
    let end = at;
    for (; end < segments.length && segments[end]!.first <= last; end++) {
      const segment = segments[end]!;
      const from = Math.max(first, segment.first);
      const to = Math.min(last, segment.last);
      const page = segment.backingPage + (from - segment.first);
      this.#kernel.physical.frames.unpin(segment.backing, page, to - from + 1);
      if (segment.first < from) kept.push({ ...segment, last: from - 1 });
      if (segment.last > to)
        kept.push({ ...segment, first: to + 1, backingPage: segment.backingPage + (to + 1 - segment.first) });
    }
    segments.splice(at, end - at, ...kept);
    this.npinned -= last - first + 1;
  }

  #insertSegment(segment: Segment): void {
    this.#segments ??= [];
    this.#segments.splice(lowerBound(this.#segments, segment.first, lastOf), 0, segment);
  }

  // The parts of [first, last] that no holder covers, ascending.
  #uncovered(first: number, last: number): (readonly [number, number])[] {
    const holders = this.#holders ?? NOTHING;
    const holes: (readonly [number, number])[] = [];
    let at = first;
    for (let i = lowerBound(holders, first - this.#reach, firstOf); i < holders.length && at <= last; i++) {
      const cover = holders[i]!;
      if (cover.firstIndex > last) break;
      if (cover.lastIndex < at) continue;
      if (cover.firstIndex > at) holes.push([at, cover.firstIndex - 1]);
      at = cover.lastIndex + 1;
    }
    if (at <= last) holes.push([at, last]);
    return holes;
  }
}

/** Copies to or from pages as whoever has pinned them sees them. */
function copyPinned(range: PageRange, inPage: number, data: Uint8Array, write: boolean): Result<void> {
  const offset = pageAddress(range.firstPage) + big(inPage);
  if (!(write ? range.backing.write(offset, data) : range.backing.read(offset, data)))
    return fail(EFAULT, 'the memory behind the IOVA is gone');
}

function firstOf(holder: PagesHolder): number {
  return holder.firstIndex;
}

function lastOf(segment: Segment): number {
  return segment.last;
}

/** The position of the first of `sorted` whose key is at least `least`. */
function lowerBound<T>(sorted: readonly T[], least: number, keyOf: (item: T) => number): number {
  let from = 0;
  let to = sorted.length;
  while (from < to) {
    const middle = (from + to) >>> 1;
    if (keyOf(sorted[middle]!) < least) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** Before this Linux a length that is impossible in itself was found before one that ends beyond 2^64. */
const END_CHECKED_FIRST_SINCE = 613;

const isImpossible = (length: bigint): boolean => length > LENGTH_MAX || length === 0n;

/** iopt_alloc_user_pages(): EINVAL or EOVERFLOW for lengths that no address space has. */
export function allocUserPages(
  kernel: Kernel,
  locked: LockedMemory,
  uptr: bigint,
  length: bigint,
  writable: boolean,
): Result<IoptPages> {
  if (kernel.version < END_CHECKED_FIRST_SINCE && isImpossible(length))
    return fail(EINVAL, 'length is zero or near 2^64');
  if (uptr + length > U64_MAX) return fail(EOVERFLOW, 'user_va + length passes 2^64');
  const inPage = pageOffset(uptr);
  const va = inPage === 0 ? uptr : uptr - big(inPage);
  return allocPages(kernel, locked, { type: 'user', va }, inPage, length, writable);
}

/** iopt_alloc_pages(). */
export function allocPages(
  kernel: Kernel,
  locked: LockedMemory,
  origin: PagesOrigin,
  startByte: number,
  length: bigint,
  writable: boolean,
): Result<IoptPages> {
  if (isImpossible(length)) return fail(EINVAL, 'length is zero or near 2^64');
  if (kernel.failpoint()) return fail(ENOMEM, 'no memory for the pages');
  return new IoptPages(kernel, locked, origin, startByte, length, writable);
}
