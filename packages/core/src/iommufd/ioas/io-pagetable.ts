import { assert } from '../../base/assert.ts';
import { lastByte, type Range } from '../../base/range.ts';
import { RangeMap } from '../../base/range-map.ts';
import { RangeSet } from '../../base/range-set.ts';
import { fail, failed, type Failure, type Result } from '../../base/result.ts';
import { big, hex, lo32, lowestBit, PAGE_SIZE_N, U64_MAX } from '../../base/u64.ts';
import {
  EADDRINUSE,
  EBUSY,
  EDEADLK,
  EEXIST,
  EINVAL,
  ENOENT,
  ENOMEM,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
} from '../../abi/errno.ts';
import { IOMMU_WRITE, type Device, type Kernel, type PagingDomain } from '../../iommu/driver.ts';
import { allocIova } from './alloc-iova.ts';
import { IoptArea } from './area.ts';
import { fillArea, fillAreaEverywhere, unfillArea, unmapArea } from './fill.ts';
import type { IoptPages } from '../pages/pages.ts';

// drivers/iommu/iommufd/io_pagetable.c: what an IOAS maps, what may not be mapped, and the domains that have it.

/** Unmaps wait this often for an access to let go before they give up (io_pagetable.c iopt_unmap_iova_range()). */
const UNMAP_TRIES_MAX = 100;

/** A user of an IOAS inside the kernel, as far as the table must know it: struct iommufd_access. */
export interface IoptAccess {
  readonly iovaAlignment: bigint;
  /** Asks it to let go of a range. Absent for accesses that unmap must respect. */
  notifyUnmap?(iova: bigint, length: bigint): void;
}

/** A slice of pages on its way into an area: struct iopt_pages_list. */
export interface PagesSlice {
  pages: IoptPages;
  startByte: bigint;
  length: bigint;
}

/** A part of an area that a range of IOVA covers. */
export interface AreaSlice {
  readonly area: IoptArea;
  readonly start: bigint;
  readonly last: bigint;
}

/** struct io_pagetable. */
export class IoPagetable {
  readonly kernel: Kernel;
  readonly areas = new RangeMap<IoptArea>();
  readonly reserved = new RangeSet();
  /** Where automatic IOVAs may lie; anywhere while it is empty. */
  allowed = new RangeMap<Range>();
  readonly domains: PagingDomain[] = [];
  readonly accesses = new Set<IoptAccess>();
  #iovaAlignment = 1n;
  // The same as a mask: an alignment is never more than a page.
  #alignmentMask = 0;
  disableLargePages = false;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
  }

  /** What IOVAs, lengths and offsets of mappings must be multiples of: a power of two, at most a page. */
  get iovaAlignment(): bigint {
    return this.#iovaAlignment;
  }

  #setAlignment(alignment: bigint): void {
    this.#iovaAlignment = alignment;
    this.#alignmentMask = lo32(alignment) - 1;
  }

  #misaligned(value: bigint): boolean {
    return (lo32(value) & this.#alignmentMask) !== 0;
  }

  /** iopt_destroy_table(). */
  destroy(): void {
    this.reserved.removeOwner(null);
    assert(this.areas.size === 0 && this.domains.length === 0, 'an IOAS is destroyed while in use');
  }

  // ---- mapping ----

  /**
   * Maps `length` bytes from byte `startByte` of `pages` on at `iova`, or where room is where that is null:
   * iopt_map_common(). The reference to the pages moves in. Answers the IOVA.
   */
  map(
    pages: IoptPages,
    startByte: bigint,
    length: bigint,
    iova: bigint | null,
    prot: number,
  ): Result<bigint> {
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for an area');
    const start = this.#placeFor(pages, startByte, length, iova);
    if (failed(start)) return start;
    const area = this.#insertArea(pages, startByte, length, start, prot);
    if (failed(area)) return area;
    return this.#fillAll([area], start, length, prot);
  }

  /** Maps slices of pages one after another: iopt_map_pages(). The references to the pages move in. */
  mapSlices(
    slices: readonly PagesSlice[],
    length: bigint,
    iova: bigint | null,
    prot: number,
  ): Result<bigint> {
    for (let i = 0; i < slices.length; i++)
      if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for an area');
    const first = slices[0]!;
    const start = this.#placeFor(first.pages, first.startByte, length, iova);
    if (failed(start)) return start;
    const areas: IoptArea[] = [];
    let at = start;
    for (const slice of slices) {
      const area = this.#insertArea(slice.pages, slice.startByte, slice.length, at, prot);
      if (failed(area)) {
        for (const each of areas) this.#dropArea(each);
        return area;
      }
      areas.push(area);
      at += slice.length;
    }
    return this.#fillAll(areas, start, length, prot);
  }

  // iopt_fill_domains_pages(): new areas into all domains, or the areas go again.
  #fillAll(areas: readonly IoptArea[], start: bigint, length: bigint, prot: number): Result<bigint> {
    if (this.domains.length > 0) {
      for (const [index, area] of areas.entries()) {
        const rc = fillAreaEverywhere(this, area, area.pages!);
        if (!failed(rc)) continue;
        for (const done of areas.slice(0, index)) this.#unfillEverywhere(done);
        for (const each of areas) this.#dropArea(each);
        return rc;
      }
    }
    if (this.kernel.trace.active)
      this.kernel.trace.emit({ kind: 'map', iova: start, length, prot, pinned: this.domains.length > 0 });
    return start;
  }

  #placeFor(pages: IoptPages, startByte: bigint, length: bigint, iova: bigint | null): Result<bigint> {
    if (length === 0n || this.#misaligned(length))
      return fail(
        EINVAL,
        `length ${hex(length)} is not a multiple of the iova alignment ${hex(this.iovaAlignment)}`,
      );
    if (iova !== null) {
      const refused = this.#checkIova(iova, length);
      return refused ?? iova;
    }
    const { origin } = pages;
    return allocIova(this, startByte + (origin.type === 'user' ? origin.va : origin.start), length);
  }

  // iopt_insert_area()
  #insertArea(
    pages: IoptPages,
    startByte: bigint,
    length: bigint,
    iova: bigint,
    prot: number,
  ): Result<IoptArea> {
    if ((prot & IOMMU_WRITE) !== 0 && !pages.writable) return fail(EPERM, 'the pages are mapped read-only');
    if (this.#misaligned(startByte))
      return fail(EINVAL, `the source is not aligned to the iova alignment ${hex(this.iovaAlignment)}`);
    const last = lastByte(iova, length);
    if (last === null) return fail(EOVERFLOW, 'the range passes 2^64');
    const area = new IoptArea(iova, last, startByte, prot);
    area.pages = pages;
    this.areas.insert(area);
    return area;
  }

  #dropArea(area: IoptArea): void {
    this.areas.delete(area);
    area.pages = null;
  }

  // iopt_check_iova()
  #checkIova(iova: bigint, length: bigint): Failure | null {
    if (this.#misaligned(iova))
      return fail(EINVAL, `iova ${hex(iova)} is not aligned to ${hex(this.iovaAlignment)}`);
    const last = lastByte(iova, length);
    if (last === null) return fail(EOVERFLOW, 'iova + length passes 2^64');
    const reserved = this.reserved.firstOverlap(iova, last);
    if (reserved !== null)
      return fail(
        EINVAL,
        `iova ${hex(iova)} meets the reserved range ${hex(reserved.start)}-${hex(reserved.last)}`,
      );
    const area = this.areas.first(iova, last);
    if (area === null) return null;
    return fail(EEXIST, `iova ${hex(iova)} meets the mapping ${hex(area.start)}-${hex(area.last)}`);
  }

  // ---- unmapping ----

  /** iopt_unmap_iova(): whole mappings only. Answers the bytes that were unmapped. */
  unmap(iova: bigint, length: bigint): { unmapped: bigint; error: Failure | null } {
    if (length === 0n) return { unmapped: 0n, error: fail(EINVAL, 'length is zero') };
    const last = lastByte(iova, length);
    if (last === null) return { unmapped: 0n, error: fail(EOVERFLOW, 'iova + length passes 2^64') };
    return this.#unmapRange(iova, last);
  }

  /** iopt_unmap_all(). */
  unmapAll(): { unmapped: bigint; error: Failure | null } {
    return this.#unmapRange(0n, U64_MAX);
  }

  #unmapRange(from: bigint, last: bigint): { unmapped: bigint; error: Failure | null } {
    let start = from;
    let unmapped = 0n;
    let tries = 0;
    for (;;) {
      const area = this.areas.first(start, last);
      if (area === null) return { unmapped, error: null };
      const refused = this.#refuseUnmap(area, start, last);
      if (refused !== null) return { unmapped, error: refused };
      if (area.start !== start) tries = 0;
      if (area.accesses > 0) {
        start = area.start;
        area.preventAccess = true;
        for (const access of this.accesses) access.notifyUnmap?.(area.start, area.length);
        if (++tries > UNMAP_TRIES_MAX)
          return { unmapped, error: fail(EDEADLK, 'an in-kernel access does not let go') };
        continue;
      }
      const pages = area.pages!;
      this.#unfillEverywhere(area);
      this.#dropArea(area);
      pages.put();
      unmapped += area.length;
      if (this.kernel.trace.active)
        this.kernel.trace.emit({ kind: 'unmap', iova: area.start, length: area.length });
      if (area.last >= last) return { unmapped, error: null };
      start = area.last + 1n;
    }
  }

  #refuseUnmap(area: IoptArea, start: bigint, last: bigint): Failure | null {
    if (area.locks > 0) return fail(EBUSY, `a hardware queue holds the mapping at ${hex(area.start)}`);
    if (area.start < start || area.last > last)
      return fail(ENOENT, `the mapping ${hex(area.start)}-${hex(area.last)} lies only partly in the range`);
    return null;
  }

  // iopt_area_unfill_domains()
  #unfillEverywhere(area: IoptArea): void {
    if (area.storageDomain === null) return;
    for (const domain of this.domains) unmapArea(area, area.pages!, domain);
    area.storageDomain = null;
    area.pages!.release(area);
  }

  // ---- looking up ----

  /**
   * The parts of areas that cover [start, last] without a gap, ascending; what is covered before a gap is answered
   * too, and then `whole` is false: iopt_for_each_contig_area().
   */
  contiguous(start: bigint, last: bigint): { slices: AreaSlice[]; whole: boolean } {
    const slices: AreaSlice[] = [];
    let at = start;
    let area = this.areas.find(start);
    while (area !== null) {
      const end = area.last < last ? area.last : last;
      slices.push({ area, start: at, last: end });
      if (end === last) return { slices, whole: true };
      at = end + 1n;
      const next = this.areas.next(area, last);
      if (next === null || next.start !== at) break;
      area = next;
    }
    return { slices, whole: false };
  }

  /** iopt_get_pages(): one more reference on everything that [iova, iova + length) shows. */
  getPages(iova: bigint, length: bigint): Result<PagesSlice[]> {
    if (length === 0n) return fail(EINVAL, 'length is zero');
    const last = lastByte(iova, length);
    if (last === null) return fail(EOVERFLOW, 'iova + length passes 2^64');
    const { slices, whole } = this.contiguous(iova, last);
    for (const _ of slices)
      if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the list of pages');
    if (!whole) return fail(ENOENT, `nothing is mapped somewhere in ${hex(iova)}-${hex(last)}`);
    return slices.map(({ area, start, last: end }) => {
      area.pages!.references++;
      return { pages: area.pages!, startByte: area.byteAt(start), length: end - start + 1n };
    });
  }

  // ---- reserved and allowed ranges ----

  /** iopt_reserve_iova(): EADDRINUSE where something is mapped or allowed there. */
  reserve(start: bigint, last: bigint, owner: unknown): Result<void> {
    if (this.areas.first(start, last) !== null)
      return fail(EADDRINUSE, `${hex(start)}-${hex(last)} is mapped`);
    if (this.allowed.first(start, last) !== null)
      return fail(EADDRINUSE, `${hex(start)}-${hex(last)} is in the allowed ranges`);
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for a reserved range');
    this.reserved.add(start, last, owner);
  }

  /** iopt_set_allow_iova(): all or nothing. */
  setAllowed(allowed: RangeMap<Range>): Result<void> {
    for (const range of allowed) {
      if (this.reserved.firstOverlap(range.start, range.last) !== null)
        return fail(EADDRINUSE, `${hex(range.start)}-${hex(range.last)} meets a reserved range`);
    }
    this.allowed = allowed;
  }

  /**
   * iopt_table_enforce_dev_resv_regions(): what the device cannot translate is reserved. Answers where the driver wants
   * software-managed MSIs, or null.
   */
  enforceReservedRegions(device: Device): Result<bigint | null> {
    if (this.kernel.failpoint()) return fail(EINVAL, 'the reserved regions could not be read');
    let swMsi: bigint | null = null;
    for (const region of device.driver.reservedRegions(device)) {
      if (region.type === 'direct-relaxable') continue;
      if (region.type === 'sw-msi') swMsi = region.start;
      const rc = this.reserve(region.start, region.start + region.length - 1n, device);
      if (!failed(rc)) continue;
      this.reserved.removeOwner(device);
      return rc;
    }
    return swMsi;
  }

  // ---- domains ----

  /** iopt_table_add_domain(): fills the domain with everything that is mapped. */
  addDomain(domain: PagingDomain): Result<void> {
    assert(!this.domains.includes(domain), 'a domain is added once');
    const smallest = lowestBit(domain.pgsizeBitmap);
    const alignment = smallest > this.iovaAlignment ? smallest : this.iovaAlignment;
    if (alignment > PAGE_SIZE_N)
      return fail(EINVAL, `the domain has no page size of ${hex(PAGE_SIZE_N)} or less`);
    const aligned = this.#checkAlignment(alignment);
    if (failed(aligned)) return aligned;
    const filled = this.#reserveAperture(domain) ?? this.#fillDomain(domain);
    if (filled !== null) {
      this.reserved.removeOwner(domain);
      return filled;
    }
    this.#setAlignment(alignment);
    this.domains.push(domain);
  }

  #reserveAperture(domain: PagingDomain): Failure | null {
    const { start, last } = domain.aperture;
    if (start !== 0n) {
      const rc = this.reserve(0n, start - 1n, domain);
      if (failed(rc)) return rc;
    }
    if (last !== U64_MAX) {
      const rc = this.reserve(last + 1n, U64_MAX, domain);
      if (failed(rc)) return rc;
    }
    return this.kernel.failpoint() ? fail(ENOMEM, 'no memory for the domain list') : null;
  }

  #fillDomain(domain: PagingDomain): Failure | null {
    const done: IoptArea[] = [];
    for (const area of this.areas) {
      const rc = fillArea(this, area, area.pages!, domain);
      if (!failed(rc)) {
        done.push(area);
        continue;
      }
      for (const each of done) unfillArea(each, each.pages!, domain, this.domains.length === 0);
      return rc;
    }
    return null;
  }

  /** iopt_table_remove_domain(). */
  removeDomain(domain: PagingDomain): void {
    const index = this.domains.indexOf(domain);
    assert(index >= 0, 'only an added domain is removed');
    // The last one takes the place of the removed one, as in Linux: order decides who is the storage domain.
    const tail = this.domains.pop()!;
    if (tail !== domain) this.domains[index] = tail;
    const alone = this.domains.length === 0;
    for (const area of this.areas) {
      unfillArea(area, area.pages!, domain, alone);
      if (!alone && area.storageDomain === domain) area.storageDomain = this.domains[0]!;
    }
    this.reserved.removeOwner(domain);
    const rc = this.#calculateAlignment();
    assert(!failed(rc), 'fewer users cannot need a larger alignment');
  }

  // ---- alignment ----

  #checkAlignment(alignment: bigint): Result<void> {
    if (alignment === this.iovaAlignment) return;
    const mask = alignment - 1n;
    for (const area of this.areas) {
      if (((area.start | area.length | big(area.pageOffset)) & mask) !== 0n)
        return fail(EADDRINUSE, `the mapping at ${hex(area.start)} is not aligned to ${hex(alignment)}`);
    }
  }

  #calculateAlignment(): Result<void> {
    let alignment = this.disableLargePages ? PAGE_SIZE_N : 1n;
    for (const domain of this.domains) {
      const smallest = lowestBit(domain.pgsizeBitmap);
      if (smallest > alignment) alignment = smallest;
    }
    for (const access of this.accesses)
      if (access.iovaAlignment > alignment) alignment = access.iovaAlignment;
    if (alignment > this.iovaAlignment) {
      const rc = this.#checkAlignment(alignment);
      if (failed(rc)) return rc;
    }
    this.#setAlignment(alignment);
  }

  /** iopt_add_access(). */
  addAccess(access: IoptAccess): Result<void> {
    if (this.kernel.failpoint()) return fail(ENOMEM, 'no memory for the list of accesses');
    this.accesses.add(access);
    const rc = this.#calculateAlignment();
    if (failed(rc)) this.accesses.delete(access);
    return rc;
  }

  /** iopt_remove_access(). */
  removeAccess(access: IoptAccess): void {
    this.accesses.delete(access);
    const rc = this.#calculateAlignment();
    assert(!failed(rc), 'fewer users cannot need a larger alignment');
  }

  /** iopt_disable_large_pages(): EINVAL where something is mapped with large pages already. */
  setLargePages(enable: boolean): Result<void> {
    if (enable) {
      this.disableLargePages = false;
      return this.#calculateAlignment();
    }
    if (this.disableLargePages) return;
    if (this.domains.length > 0 && this.areas.size > 0)
      return fail(EINVAL, 'pages may be mapped as large ones already');
    this.disableLargePages = true;
    const rc = this.#calculateAlignment();
    if (failed(rc)) this.disableLargePages = false;
    return rc;
  }

  // ---- splitting, for VFIO's type1 ----

  /** iopt_cut_iova(): makes areas end at each of `lasts`. */
  cut(lasts: readonly bigint[]): Result<void> {
    for (const last of lasts) {
      const area = this.areas.find(last);
      if (area === null) continue;
      const rc = this.#split(area, last);
      if (failed(rc)) return rc;
    }
  }

  // iopt_area_split()
  #split(area: IoptArea, last: bigint): Result<void> {
    if (last === area.start || last === area.last) return;
    if (area.preventAccess) return fail(EBUSY, 'the mapping is being unmapped');
    const pages = area.pages!;
    if (pages.origin.type === 'dma-buf') return fail(EOPNOTSUPP, 'a dma-buf mapping cannot be split');
    const middle = last + 1n;
    if (this.#misaligned(middle) || this.#misaligned(area.byteAt(middle)))
      return fail(EINVAL, `${hex(middle)} is not aligned to ${hex(this.iovaAlignment)}`);
    if (this.kernel.failpoint() || this.kernel.failpoint()) return fail(ENOMEM, 'no memory for an area');
    if (area.accesses > 0) return fail(EINVAL, 'an in-kernel access holds the mapping');
    if (area.storageDomain !== null && !this.disableLargePages)
      return fail(EINVAL, 'the mapping may use large pages');
    const left = new IoptArea(area.start, last, area.byteAt(area.start), area.prot);
    const right = new IoptArea(middle, area.last, area.byteAt(middle), area.prot);
    this.areas.delete(area);
    for (const half of [left, right]) {
      half.pages = pages;
      half.storageDomain = area.storageDomain;
      this.areas.insert(half);
    }
    pages.references++;
    if (area.storageDomain !== null) pages.exchange(area, [left, right]);
    area.pages = null;
  }
}
