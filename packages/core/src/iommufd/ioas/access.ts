import { assert } from '../../base/assert.ts';
import { lastByte } from '../../base/range.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { exact, hex, PAGE_MASK_N, PAGE_SIZE_N, U64_MAX } from '../../base/u64.ts';
import { EINVAL, ENOENT, ENOMEM, EOVERFLOW, EPERM } from '../../abi/errno.ts';
import { IOMMU_READ, IOMMU_WRITE } from '../../iommu/driver.ts';
import type { IoptArea } from './area.ts';
import type { IommufdContext } from '../context.ts';
import type { AreaSlice, IoPagetable, IoptAccess } from './io-pagetable.ts';
import { getIoas, type Ioas } from './ioas.ts';
import { IommufdObject } from '../objects.ts';
import type { IoptPages } from '../pages/pages.ts';

// drivers/iommu/iommufd/device.c iommufd_access_*(): users of an IOAS inside the kernel, which read, write and pin what
// is mapped without being a device.

/** What a driver brings: struct iommufd_access_ops. An internal access has none, and an unmap must respect it. */
export interface AccessOps {
  readonly needsPinPages: boolean;
  /** Asks to unpin everything in the range. */
  unmap(iova: bigint, length: bigint): void;
}

/** A pinned page, as a driver gets it: which frame of physical memory. */
export type PinnedFrames = readonly number[];

/** struct iommufd_access. */
export class Access extends IommufdObject implements IoptAccess {
  readonly type = 'ACCESS';
  readonly iovaAlignment: bigint;
  readonly #context: IommufdContext;
  readonly #ops: AccessOps | null;
  #ioas: Ioas | null = null;

  constructor(context: IommufdContext, ops: AccessOps | null) {
    super();
    this.#context = context;
    this.#ops = ops;
    this.iovaAlignment = ops === null || ops.needsPinPages ? PAGE_SIZE_N : 1n;
  }

  get ioas(): Ioas | null {
    return this.#ioas;
  }

  notifyUnmap(iova: bigint, length: bigint): void {
    this.#ops?.unmap(iova, length);
  }

  destroy(): void {
    if (this.#ioas !== null) this.#change(null);
    if (this.#ops !== null) this.#context.put();
  }

  /** iommufd_access_attach(). */
  attach(ioasId: number): Result<void> {
    return this.#changeId(ioasId);
  }

  /** iommufd_access_replace(): ENOENT where it is not attached. */
  replace(ioasId: number): Result<void> {
    if (this.#ioas === null) return fail(ENOENT, 'the access is not attached');
    return this.#changeId(ioasId);
  }

  /** iommufd_access_attach_internal(). */
  attachTo(ioas: Ioas): Result<void> {
    return this.#change(ioas);
  }

  #changeId(ioasId: number): Result<void> {
    const ioas = getIoas(this.#context, ioasId);
    return failed(ioas) ? ioas : this.#change(ioas);
  }

  // iommufd_access_change_ioas()
  #change(ioas: Ioas | null): Result<void> {
    const old = this.#ioas;
    if (old === ioas) return;
    if (ioas !== null) {
      const rc = ioas.iopt.addAccess(this);
      if (failed(rc)) return rc;
      ioas.users++;
    }
    if (old !== null) {
      this.#ops?.unmap(0n, U64_MAX);
      old.iopt.removeAccess(this);
      old.users--;
    }
    this.#ioas = ioas;
  }

  /** iommufd_access_pin_pages(): the frames of [iova, iova + length). Nothing stays pinned where it fails. */
  pinPages(iova: bigint, length: bigint, write: boolean): Result<PinnedFrames> {
    const range = this.#range(iova, length);
    if (failed(range)) return range;
    const { iopt, last } = range;
    const { slices, whole } = iopt.contiguous(iova, last);
    const frames: number[] = [];
    const done: AreaSlice[] = [];
    const undo = (failure: Result<PinnedFrames>): Result<PinnedFrames> => {
      for (const slice of done) this.#unpinSlice(slice);
      return failure;
    };
    for (const slice of slices) {
      const rc = this.#pinSlice(slice, slice.last === last, write, frames);
      if (failed(rc)) return undo(rc);
      done.push(slice);
    }
    if (!whole) return undo(fail(ENOENT, `nothing is mapped somewhere in ${hex(iova)}-${hex(last)}`));
    return frames;
  }

  /** iommufd_access_unpin_pages(): for exactly a range that was pinned. */
  unpinPages(iova: bigint, length: bigint): void {
    const range = this.#range(iova, length);
    assert(!failed(range), 'unpinning follows pinning');
    for (const slice of range.iopt.contiguous(iova, range.last).slices) this.#unpinSlice(slice);
  }

  /** iommufd_access_rw(): copies between `data` and what is mapped from `iova` on. */
  rw(iova: bigint, data: Uint8Array, write: boolean, slow: boolean): Result<void> {
    if (data.length === 0) return fail(EINVAL, 'length is zero');
    const range = this.#range(iova, BigInt(data.length));
    if (failed(range)) return range;
    const { slices, whole } = range.iopt.contiguous(iova, range.last);
    let at = 0;
    for (const { area, start, last } of slices) {
      if (area.preventAccess) return fail(EINVAL, 'the mapping is being unmapped');
      const prot = checkProt(area, write);
      if (failed(prot)) return prot;
      const bytes = exact(last - start + 1n);
      const part = bytes === data.length ? data : data.subarray(at, at + bytes);
      const rc = area.pages!.rw(area.byteAt(start), part, write, slow);
      if (failed(rc)) return rc;
      at += bytes;
    }
    if (!whole) return fail(ENOENT, `nothing is mapped somewhere in ${hex(iova)}-${hex(range.last)}`);
  }

  #range(iova: bigint, length: bigint): Result<{ iopt: IoPagetable; last: bigint }> {
    if (length === 0n) return fail(EINVAL, 'length is zero');
    const last = lastByte(iova, length);
    if (last === null) return fail(EOVERFLOW, 'iova + length passes 2^64');
    if (this.#ioas === null) return fail(ENOENT, 'the access is not attached');
    return { iopt: this.#ioas.iopt, last };
  }

  #pinSlice(slice: AreaSlice, isLast: boolean, write: boolean, frames: number[]): Result<void> {
    const { area, start, last } = slice;
    if (area.preventAccess) return fail(EINVAL, 'the mapping is being unmapped');
    if ((area.byteAt(start) & PAGE_MASK_N) !== 0n) return fail(EINVAL, `${hex(start)} does not start a page`);
    if (!isLast && (area.byteAt(area.last) & PAGE_MASK_N) !== PAGE_MASK_N)
      return fail(EINVAL, `the mapping that ends at ${hex(area.last)} does not end a page`);
    const prot = checkProt(area, write);
    if (failed(prot)) return prot;
    return this.#addAccess(area, area.indexAt(start), area.indexAt(last), write, frames);
  }

  // iopt_area_add_access()
  #addAccess(area: IoptArea, first: number, last: number, write: boolean, frames: number[]): Result<void> {
    const pages = area.pages!;
    if (write && !pages.writable) return fail(EPERM, 'the pages are mapped read-only');
    if (pages.origin.type === 'dma-buf') return fail(EINVAL, 'a dma-buf cannot be accessed by the CPU');
    const key = accessKey(first, last);
    const existing = pages.accesses?.get(key);
    if (existing !== undefined) {
      existing.users++;
    } else {
      if (this.#context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the access');
      const access = { firstIndex: first, lastIndex: last, users: 1 };
      const held = pages.hold(access);
      if (failed(held)) return held;
      if (this.#context.kernel.failpoint()) {
        pages.release(access);
        return fail(ENOMEM, 'no memory to keep the pages');
      }
      pages.accesses ??= new Map();
      pages.accesses.set(key, access);
    }
    area.accesses++;
    if (this.#ops === null) area.locks++;
    pages.eachRun(first, last, (frame, count) => {
      for (let i = 0; i < count; i++) frames.push(frame + i);
    });
  }

  // iopt_area_remove_access()
  #unpinSlice({ area, start, last }: AreaSlice): void {
    const pages: IoptPages = area.pages!;
    const key = accessKey(area.indexAt(start), area.indexAt(last));
    const access = pages.accesses?.get(key);
    assert(access !== undefined && area.accesses > 0, 'unpinning follows pinning');
    if (this.#ops === null) area.locks--;
    area.accesses--;
    if (--access.users > 0) return;
    pages.accesses!.delete(key);
    pages.release(access);
  }
}

function accessKey(first: number, last: number): string {
  return `${first}-${last}`;
}

function checkProt(area: IoptArea, write: boolean): Result<void> {
  if ((area.prot & (write ? IOMMU_WRITE : IOMMU_READ)) === 0)
    return fail(EPERM, `the mapping at ${hex(area.start)} does not allow ${write ? 'writing' : 'reading'}`);
}

/** iommufd_access_create(): published, not attached. `ops` null makes an internal one, which keeps no context. */
export function createAccess(context: IommufdContext, ops: AccessOps | null): Result<Access> {
  const access = context.objects.allocate(new Access(context, ops));
  if (failed(access)) return access;
  // The calling driver is a user until it destroys it.
  access.users++;
  if (ops !== null) context.get();
  context.objects.publish(access);
  return access;
}
