import {
  EADDRINUSE,
  EBUSY,
  EDEADLK,
  EEXIST,
  EINVAL,
  ENOENT,
  ENOSPC,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  Errno,
  must,
} from './errno.ts';
import { Domain, type Run } from './domain.ts';
import { add, PAGE, PAGE_N, U64_MAX, wrap } from './memory.ts';
import { pin, unpin, type Pages, type Span } from './pages.ts';

// drivers/iommu/iommufd/io_pagetable.c with arrays for trees.

export interface Prot {
  readonly read: boolean;
  readonly write: boolean;
}

/** struct iopt_area. */
export interface Area extends Span {
  readonly iova: bigint;
  readonly last: bigint;
  readonly pages: Pages;
  /** From the start of the pages. */
  readonly startByte: bigint;
  readonly pageOffset: number;
  readonly prot: Prot;
  /** num_accesses and num_locks. */
  accesses: number;
  locks: number;
  preventAccess: boolean;
}

/** What holds pages of an iopt: struct iommufd_access, as far as the iopt knows it. */
export interface IoptAccess {
  /** PAGE_SIZE where it pins, else 1. */
  readonly alignment: bigint;
  /** ops->unmap(); internal accesses have none. */
  unmap?(iova: bigint, length: bigint): void;
}

interface Interval {
  readonly start: bigint;
  readonly last: bigint;
}

/** The part of pages that an area is made from: struct iopt_pages_list. */
export interface Slice {
  readonly pages: Pages;
  readonly startByte: bigint;
  readonly length: bigint;
}

const HPAGE = 1n << 21n;
/** How often an unmap asks accesses to let go, counted from the last hole on. */
const UNMAP_TRIES = 100;

/** The intervals with their overlaps and neighbours merged, as interval_tree_for_each_span() visits them. */
function merged(intervals: readonly Interval[]): { start: bigint; last: bigint }[] {
  const spans: { start: bigint; last: bigint }[] = [];
  for (const { start, last } of [...intervals].sort((a, b) => (a.start < b.start ? -1 : 1))) {
    const previous = spans.at(-1);
    if (previous !== undefined && start <= previous.last + 1n) {
      if (last > previous.last) previous.last = last;
    } else spans.push({ start, last });
  }
  return spans;
}

/** What lies between `first` and `last` and in no interval. */
export function holes(intervals: readonly Interval[], first: bigint, last: bigint): Interval[] {
  const result: Interval[] = [];
  let at = first;
  for (const span of merged(intervals)) {
    if (span.last < at) continue;
    if (span.start > last) break;
    if (span.start > at) result.push({ start: at, last: span.start - 1n });
    at = span.last + 1n;
  }
  if (at <= last) result.push({ start: at, last });
  return result;
}

function touches(interval: Interval, start: bigint, last: bigint): boolean {
  return interval.start <= last && start <= interval.last;
}

/** Index of the page that holds byte `iova` of the area. */
export function indexOf(area: Area, iova: bigint): number {
  return Number((area.startByte + iova - area.iova) / PAGE_N);
}

export class Iopt {
  /** Ascending. */
  areas: Area[] = [];
  reserved: (Interval & { readonly owner: unknown })[] = [];
  allowed: Interval[] = [];
  domains: Domain[] = [];
  readonly accesses = new Set<IoptAccess>();
  alignment = 1n;
  smallPages = false;

  // Areas

  touching(start: bigint, last: bigint): Area[] {
    return this.areas.filter((area) => area.iova <= last && start <= area.last);
  }

  /** iopt_for_each_contig_area(): the areas in a row from `iova` on, and whether they reach `last`. */
  contiguous(iova: bigint, last: bigint): { areas: Area[]; done: boolean } {
    const areas: Area[] = [];
    let at = iova;
    for (const area of this.touching(iova, last)) {
      if (area.iova > at) break;
      areas.push(area);
      at = area.last + 1n;
    }
    return { areas, done: at > last };
  }

  /** __alloc_iova_check_range(). */
  #fit(range: Interval, length: bigint, alignment: bigint, pageOffset: bigint): Interval | null {
    if (add(range.start, alignment - 1n) === null) return null;
    const start = ((range.start + alignment - 1n) & ~(alignment - 1n)) | pageOffset;
    if (start >= range.last || range.last - start < length - 1n) return null;
    return { start, last: range.last };
  }

  /** iopt_alloc_iova(). */
  #choose(address: bigint, length: bigint): bigint {
    must(length !== 0n && length < U64_MAX / 2n, EOVERFLOW);
    let alignment = 1n;
    while (alignment < length) alignment <<= 1n;
    if (address !== 0n && (address & -address) < alignment) alignment = address & -address;
    if (alignment > HPAGE) alignment = HPAGE;
    must(alignment >= this.alignment, EINVAL);
    const everywhere = { start: PAGE_N, last: U64_MAX - PAGE_N };
    const clip = (span: Interval): Interval => ({
      start: span.start < everywhere.start ? everywhere.start : span.start,
      last: span.last > everywhere.last ? everywhere.last : span.last,
    });
    const offset = address % PAGE_N;
    const spans = this.allowed.length === 0 ? [everywhere] : merged(this.allowed).map(clip);
    const taken = [...this.reserved, ...this.areas.map(({ iova, last }) => ({ start: iova, last }))];
    for (const span of spans) {
      const allowed = span.start > span.last ? null : this.#fit(span, length, alignment, offset);
      if (allowed === null) continue;
      for (const hole of holes(taken, allowed.start, allowed.last)) {
        const found = this.#fit(hole, length, alignment, offset);
        if (found !== null) return found.start;
      }
    }
    throw new Errno(ENOSPC);
  }

  /** iopt_check_iova(). */
  #check(iova: bigint, length: bigint): void {
    must((iova & (this.alignment - 1n)) === 0n, EINVAL);
    const last = add(iova, length - 1n);
    must(last !== null, EOVERFLOW);
    must(!this.reserved.some((reserved) => touches(reserved, iova, last)), EINVAL);
    must(this.touching(iova, last).length === 0, EEXIST);
  }

  /** iopt_map_pages(): `iova` is null where it is to be chosen. */
  mapPages(slices: readonly Slice[], length: bigint, iova: bigint | null, prot: Prot): bigint {
    must(length !== 0n && (length & (this.alignment - 1n)) === 0n, EINVAL);
    const first = slices[0]!;
    const at = iova ?? this.#choose(wrap(first.pages.start + first.startByte), length);
    try {
      this.#check(at, length);
    } catch (error) {
      // An IOVA that was chosen ought to be right; Linux warns and answers EINVAL.
      throw iova === null ? new Errno(EINVAL) : error;
    }
    const areas = this.#insert(slices, at, prot);
    const filled: Area[] = [];
    try {
      for (const area of areas) {
        this.#fillAll(area);
        filled.push(area);
      }
    } catch (error) {
      for (const area of filled) this.#unfillAll(area);
      throw error;
    }
    this.areas = [...this.areas, ...areas].sort((a, b) => (a.iova < b.iova ? -1 : 1));
    return at;
  }

  /** iopt_insert_area() of each slice, which inserts nothing yet. */
  #insert(slices: readonly Slice[], iova: bigint, prot: Prot): Area[] {
    return slices.map(({ pages, startByte, length }) => {
      must(!prot.write || pages.writable, EPERM);
      const pageOffset = Number(startByte % PAGE_N);
      must((BigInt(pageOffset) & (this.alignment - 1n)) === 0n, EINVAL);
      const area = newArea(pages, iova, iova + length - 1n, startByte, prot);
      iova += length;
      return area;
    });
  }

  /** iopt_area_fill_domains(). */
  #fillAll(area: Area): void {
    if (this.domains.length === 0) return;
    const filled: Domain[] = [];
    try {
      for (const domain of this.domains) {
        this.fill(area, domain);
        filled.push(domain);
      }
    } catch (error) {
      for (const domain of filled) domain.unmap(area.iova, area.last);
      unpin(area.pages);
      throw error;
    }
    area.pages.areas.add(area);
  }

  /** iopt_area_unfill_domains(). */
  #unfillAll(area: Area): void {
    if (!area.pages.revoked) for (const domain of this.domains) domain.unmap(area.iova, area.last);
    area.pages.areas.delete(area);
    unpin(area.pages);
  }

  /** iopt_area_fill_domain(). */
  fill(area: Area, domain: Domain): void {
    if (area.pages.revoked) return;
    const frames = pin(area.pages, area.firstIndex, area.lastIndex);
    try {
      domain.map(area.iova, this.#runs(area, frames), area.prot);
    } catch (error) {
      unpin(area.pages);
      throw error;
    }
  }

  /** The physically contiguous runs under an area; single pages where large ones are off. */
  #runs(area: Area, frames: readonly number[]): Run[] {
    const runs: { pa: number; length: bigint }[] = [];
    for (const pa of frames) {
      const run = runs.at(-1);
      if (run !== undefined && !this.smallPages && run.pa + Number(run.length) === pa) run.length += PAGE_N;
      else runs.push({ pa, length: PAGE_N });
    }
    runs[0]!.pa += area.pageOffset;
    runs[0]!.length -= BigInt(area.pageOffset);
    const total = runs.reduce((sum, run) => sum + run.length, 0n);
    runs.at(-1)!.length -= total - (area.last - area.iova + 1n);
    return runs;
  }

  /** iopt_get_pages(). */
  slices(iova: bigint, length: bigint): Slice[] {
    must(length !== 0n, EINVAL);
    const last = add(iova, length - 1n);
    must(last !== null, EOVERFLOW);
    const { areas, done } = this.contiguous(iova, last);
    must(done, ENOENT);
    return areas.map((area) => {
      const from = iova > area.iova ? iova : area.iova;
      const to = last < area.last ? last : area.last;
      return { pages: area.pages, startByte: area.startByte + from - area.iova, length: to - from + 1n };
    });
  }

  /** iopt_unmap_iova_range(): how much went is told even where it fails, through `unmapped`. */
  unmapRange(start: bigint, last: bigint, unmapped: { bytes: bigint }): void {
    let tries = 0;
    for (;;) {
      const area = this.touching(start, last)[0];
      if (area === undefined) return;
      must(area.locks === 0, EBUSY);
      must(area.iova >= start && area.last <= last, ENOENT);
      if (area.iova !== start) tries = 0;
      if (area.accesses > 0) {
        start = area.iova;
        area.preventAccess = true;
        for (const access of this.accesses) access.unmap?.(area.iova, area.last - area.iova + 1n);
        if (area.accesses > 0) throw new Error('an access did not let go');
        must(++tries <= UNMAP_TRIES, EDEADLK);
        continue;
      }
      this.#remove(area);
      unmapped.bytes += area.last - area.iova + 1n;
      if (area.last >= last) return;
      start = area.last + 1n;
    }
  }

  #remove(area: Area): void {
    this.#unfillAll(area);
    this.areas.splice(this.areas.indexOf(area), 1);
  }

  /** iopt_unmap_iova(). */
  unmap(iova: bigint, length: bigint, unmapped: { bytes: bigint }): void {
    must(length !== 0n, EINVAL);
    const last = add(iova, length - 1n);
    must(last !== null, EOVERFLOW);
    this.unmapRange(iova, last, unmapped);
  }

  /** iopt_cut_iova(): `iova` becomes the last byte of its area. */
  cut(iova: bigint): void {
    const area = this.touching(iova, iova)[0];
    if (area === undefined || iova === area.iova || iova === area.last) return;
    must(!area.preventAccess, EBUSY);
    must(area.pages.kind !== 'dmabuf', EOPNOTSUPP);
    const next = iova + 1n;
    const nextByte = area.startByte + next - area.iova;
    must(((next | nextByte) & (this.alignment - 1n)) === 0n, EINVAL);
    must(area.accesses === 0, EINVAL);
    must(this.domains.length === 0 || this.smallPages, EINVAL);
    const left = newArea(area.pages, area.iova, iova, area.startByte, area.prot);
    const right = newArea(area.pages, next, area.last, nextByte, area.prot);
    this.areas.splice(this.areas.indexOf(area), 1, left, right);
    if (!area.pages.areas.delete(area)) return;
    area.pages.areas.add(left);
    area.pages.areas.add(right);
  }

  // Reserved and allowed ranges

  /** iopt_reserve_iova(). */
  reserve(start: bigint, last: bigint, owner: unknown): void {
    must(this.touching(start, last).length === 0, EADDRINUSE);
    must(!this.allowed.some((allowed) => touches(allowed, start, last)), EADDRINUSE);
    this.reserved.push({ start, last, owner });
  }

  /** iopt_set_allow_iova(). */
  allow(ranges: readonly Interval[]): void {
    for (const range of ranges)
      must(!this.reserved.some((reserved) => touches(reserved, range.start, range.last)), EADDRINUSE);
    this.allowed = [...ranges];
  }

  // Alignment

  /** iopt_check_iova_alignment(). */
  #conforms(alignment: bigint): void {
    const mask = alignment - 1n;
    for (const area of this.areas)
      must(((area.iova | (area.last - area.iova + 1n) | BigInt(area.pageOffset)) & mask) === 0n, EADDRINUSE);
  }

  /** iopt_calculate_iova_alignment(). */
  #realign(): void {
    let alignment = this.smallPages ? PAGE_N : 1n;
    for (const { pageSize } of this.domains) if (pageSize > alignment) alignment = pageSize;
    for (const access of this.accesses) if (access.alignment > alignment) alignment = access.alignment;
    if (alignment > this.alignment) this.#conforms(alignment);
    this.alignment = alignment;
  }

  // Domains

  /** iopt_table_add_domain(). */
  addDomain(domain: Domain): void {
    const alignment = domain.pageSize > this.alignment ? domain.pageSize : this.alignment;
    must(alignment <= PAGE_N, EINVAL);
    if (alignment !== this.alignment) this.#conforms(alignment);
    const filled: Area[] = [];
    try {
      if (domain.aperture.start !== 0n) this.reserve(0n, domain.aperture.start - 1n, domain);
      this.reserve(domain.aperture.last + 1n, U64_MAX, domain);
      for (const area of this.areas) {
        this.fill(area, domain);
        area.pages.areas.add(area);
        filled.push(area);
      }
    } catch (error) {
      for (const area of filled) {
        domain.unmap(area.iova, area.last);
        if (this.domains.length === 0) area.pages.areas.delete(area);
        unpin(area.pages);
      }
      this.#unreserve(domain);
      throw error;
    }
    this.alignment = alignment;
    this.domains.push(domain);
  }

  /** iopt_table_remove_domain(). */
  removeDomain(domain: Domain): void {
    this.domains.splice(this.domains.indexOf(domain), 1);
    for (const area of this.areas) {
      if (!area.pages.revoked) domain.unmap(area.iova, area.last);
      if (this.domains.length === 0) area.pages.areas.delete(area);
      unpin(area.pages);
    }
    this.#unreserve(domain);
    this.#realign();
  }

  #unreserve(owner: unknown): void {
    this.reserved = this.reserved.filter((reserved) => reserved.owner !== owner);
  }

  // Accesses and options

  /** iopt_add_access(). */
  addAccess(access: IoptAccess): void {
    this.accesses.add(access);
    try {
      this.#realign();
    } catch (error) {
      this.accesses.delete(access);
      throw error;
    }
  }

  /** iopt_remove_access(). */
  removeAccess(access: IoptAccess): void {
    this.accesses.delete(access);
    this.#realign();
  }

  /** iopt_disable_large_pages(). */
  disableLargePages(): void {
    if (this.smallPages) return;
    must(this.domains.length === 0 || this.areas.length === 0, EINVAL);
    this.smallPages = true;
    try {
      this.#realign();
    } catch (error) {
      this.smallPages = false;
      throw error;
    }
  }

  /** iopt_enable_large_pages(). */
  enableLargePages(): void {
    this.smallPages = false;
    this.#realign();
  }
}

function newArea(pages: Pages, iova: bigint, last: bigint, startByte: bigint, prot: Prot): Area {
  return {
    iova,
    last,
    pages,
    startByte,
    pageOffset: Number(startByte % PAGE_N),
    firstIndex: Math.floor(Number(startByte) / PAGE),
    lastIndex: Math.floor(Number(startByte + last - iova) / PAGE),
    prot,
    accesses: 0,
    locks: 0,
    preventAccess: false,
  };
}
