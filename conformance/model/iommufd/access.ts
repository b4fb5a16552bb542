import {
  EBADE,
  EBADFD,
  EINVAL,
  EMFILE,
  ENOENT,
  ENOMEM,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  errnoOf,
  must,
} from './errno.ts';
import type { Call } from './call.ts';
import type { Access, AccessFile, Context, Ioas } from './context.ts';
import { indexOf, type Area, type Iopt } from './iopt.ts';
import { add, alignDown, PAGE_N, U64_MAX, type Memory } from './memory.ts';
import { addAccess, removeAccess, rwPages } from './pages.ts';

// Accesses: the second half of drivers/iommu/iommufd/device.c, and the selftest's use of them.

const LENGTH_MAX = 16n << 20n;
const WRITE = 1;
const SLOW_PATH = 4;
const SYZ = 1 << 16;

/** The parts of the areas in a row between the two ends. */
function parts(iopt: Iopt, first: bigint, last: bigint): { area: Area; from: bigint; to: bigint }[] {
  return iopt.contiguous(first, last).areas.map((area) => ({
    area,
    from: first > area.iova ? first : area.iova,
    to: last < area.last ? last : area.last,
  }));
}

/** iommufd_access_unpin_pages(). */
function unpinPages(iopt: Iopt, first: bigint, last: bigint, internal: boolean): void {
  for (const { area, from, to } of parts(iopt, first, last)) {
    area.accesses--;
    if (internal) area.locks--;
    removeAccess(area.pages, indexOf(area, from), indexOf(area, to));
  }
}

/** iommufd_access_pin_pages(). Answers the frames. */
export function pinPages(
  iopt: Iopt,
  iova: bigint,
  length: bigint,
  write: boolean,
  internal: boolean,
): number[] {
  must(length !== 0n, EINVAL);
  const last = add(iova, length - 1n);
  must(last !== null, EOVERFLOW);
  const frames: number[] = [];
  let done = iova;
  try {
    const contiguous = iopt.contiguous(iova, last);
    for (const { area, from, to } of parts(iopt, iova, last)) {
      const startByte = area.startByte + from - area.iova;
      const lastByte = area.startByte + area.last - area.iova;
      const aligned = startByte % PAGE_N === 0n && (to === last || lastByte % PAGE_N === PAGE_N - 1n);
      must(!area.preventAccess && aligned, EINVAL);
      must(write ? area.prot.write : area.prot.read, EPERM);
      must(!write || area.pages.writable, EPERM);
      must(area.pages.kind !== 'dmabuf', EINVAL);
      frames.push(...addAccess(area.pages, indexOf(area, from), indexOf(area, to)));
      area.accesses++;
      if (internal) area.locks++;
      done = to + 1n;
    }
    must(contiguous.done, ENOENT);
  } catch (error) {
    if (done > iova) unpinPages(iopt, iova, done - 1n, internal);
    throw error;
  }
  return frames;
}

/** What ends with an access of the kernel's own. */
interface InternalPin {
  readonly first: bigint;
  readonly last: bigint;
  readonly internal: true;
}

/** Lets go of everything and of the IOAS. */
export function releaseAccess(access: Access, pin?: InternalPin): void {
  const { ioas } = access;
  if (ioas === null) return;
  if (pin !== undefined) unpinPages(ioas.iopt, pin.first, pin.last, true);
  access.unmap?.(0n, U64_MAX);
  access.ioas = null;
  ioas.iopt.removeAccess(access);
  ioas.users--;
}

/** iommufd_access_change_ioas() to an IOAS. */
function attachAccess(access: Access, ioas: Ioas): void {
  if (access.ioas === ioas) return;
  ioas.iopt.addAccess(access);
  releaseAccess(access);
  access.ioas = ioas;
  ioas.users++;
}

/** iommufd_access_create_internal(), iommufd_access_attach_internal(). It has an id. */
export function newInternalAccess(context: Context, ioas: Ioas): Access {
  const access: Access = { type: 'access', id: 0, users: 2, context, ioas: null, alignment: PAGE_N };
  attachAccess(access, ioas);
  return access;
}

// IOMMU_TEST_OP_*: an access behind a descriptor, and what it has pinned

function fileOf(call: Call): AccessFile {
  const file = call.context.machine.descriptors.get(call.u32(8) | 0);
  must(file !== undefined && file.kind === 'access', EBADFD);
  return file;
}

/** iommufd_test_access_unmap(). */
function dropItems(file: AccessFile, iova: bigint, length: bigint): void {
  const last = iova + length - 1n;
  file.items = file.items.filter((item) => {
    if (iova > item.iova + item.length - 1n || last < item.iova) return true;
    unpinPages(file.access.ioas!.iopt, item.iova, item.iova + item.length - 1n, false);
    return false;
  });
}

/** iommufd_test_create_access(). */
export function createAccess(call: Call): void {
  const { context } = call;
  must((call.u32(20) & ~1) === 0, EOPNOTSUPP);
  must(errnoOf(() => context.machine.lowestFree()) !== EMFILE, ENOMEM);
  const pins = (call.u32(20) & 1) !== 0;
  const ioas = context.get(call.u32(8), 'ioas');
  const access: Access = {
    type: 'access',
    id: 0,
    users: 2,
    context,
    ioas: null,
    alignment: pins ? PAGE_N : 1n,
    unmap: (iova, length) => dropItems(file, iova, length),
  };
  const file: AccessFile = { kind: 'access', access, items: [], nextId: 0 };
  attachAccess(access, ioas);
  context.add(access);
  context.files++;
  call.setU32(16, context.machine.open(file));
  call.respond();
}

/** iommufd_test_staccess_release(). */
export function closeAccess(file: AccessFile): void {
  const { access } = file;
  releaseAccess(access);
  access.users--;
  access.context.remove(access);
  access.context.release();
}

/** iommufd_test_access_replace_ioas(). The id is one of the access's own context. */
export function replaceIoas(call: Call): void {
  const { access } = fileOf(call);
  must(access.ioas !== null, ENOENT);
  attachAccess(access, access.context.get(call.u32(16), 'ioas'));
}

/** __iommufd_test_syz_conv_iova(): the nth area and an offset in it, in the two halves of a u64. */
export function syzIova(iopt: Iopt, value: bigint): bigint {
  const area = iopt.areas[Number(value & 0xffff_ffffn)];
  return area === undefined ? 0n : BigInt.asUintN(64, area.iova + (value >> 32n));
}

/** iommufd_test_access_pages(). */
export function accessPages(call: Call): void {
  const flags = call.u32(16);
  const length = call.u64(32);
  const va = call.u64(40);
  must(length <= LENGTH_MAX, ENOMEM);
  must((flags & ~(WRITE | SYZ)) === 0, EOPNOTSUPP);
  const file = fileOf(call);
  const { access } = file;
  must(access.alignment === PAGE_N, EOPNOTSUPP);
  const iova = (flags & SYZ) !== 0 ? syzIova(access.ioas!.iopt, call.u64(24)) : call.u64(24);
  const { iopt } = access.ioas!;
  const frames = pinPages(iopt, iova, length, (flags & WRITE) !== 0, false);
  try {
    if (va !== 0n) checkPages(call.memory, va - (iova - alignDown(iova)), frames);
  } catch (error) {
    unpinPages(iopt, iova, iova + length - 1n, false);
    throw error;
  }
  const id = file.nextId++;
  file.items.push({ id, iova, length });
  call.setU32(20, id);
  call.respond();
}

/** iommufd_test_check_pages(). */
function checkPages(memory: Memory, va: bigint, frames: readonly number[]): void {
  for (const frame of frames) {
    must(memory.page(BigInt.asUintN(64, va)) === frame, EBADE);
    va += PAGE_N;
  }
}

/** iommufd_test_access_item_destroy(). */
export function destroyAccessPages(call: Call): void {
  const file = fileOf(call);
  const item = file.items.find(({ id }) => id === call.u32(16));
  must(item !== undefined, ENOENT);
  file.items.splice(file.items.indexOf(item), 1);
  unpinPages(file.access.ioas!.iopt, item.iova, item.iova + item.length - 1n, false);
}

/** iommufd_test_access_rw(). */
export function accessRw(call: Call): void {
  const flags = call.u32(40);
  const length = call.u64(24);
  must(length <= LENGTH_MAX, ENOMEM);
  must((flags & ~(WRITE | SLOW_PATH | SYZ)) === 0, EOPNOTSUPP);
  const { access } = fileOf(call);
  const write = (flags & WRITE) !== 0;
  const data = write ? call.memory.read(call.u64(32), Number(length)) : new Uint8Array(Number(length));
  const iova = (flags & SYZ) !== 0 ? syzIova(access.ioas!.iopt, call.u64(16)) : call.u64(16);
  rw(access.ioas!.iopt, iova, data, write, (flags & SLOW_PATH) !== 0);
  if (!write) call.memory.write(call.u64(32), data);
}

/** iommufd_access_rw(): area by area, so that what comes before a failure is done. */
function rw(iopt: Iopt, iova: bigint, data: Uint8Array, write: boolean, slow: boolean): void {
  must(data.length > 0, EINVAL);
  const last = add(iova, BigInt(data.length) - 1n);
  must(last !== null, EOVERFLOW);
  for (const { area, from, to } of parts(iopt, iova, last)) {
    must(!area.preventAccess, EINVAL);
    must(write ? area.prot.write : area.prot.read, EPERM);
    must(!write || area.pages.writable, EPERM);
    must(area.pages.kind !== 'dmabuf', EINVAL);
    rwArea(area, from, data.subarray(Number(from - iova), Number(to - iova) + 1), write, slow);
  }
  must(iopt.contiguous(iova, last).done, ENOENT);
}

/** iopt_pages_rw_access(). */
function rwArea(area: Area, from: bigint, data: Uint8Array, write: boolean, slow: boolean): void {
  const { pages } = area;
  const startByte = area.startByte + from - area.iova;
  const onePage = indexOf(area, from) === indexOf(area, from + BigInt(data.length) - 1n);
  // The slow path takes a single page of memory from the program, and not the page that is pinned.
  if (pages.kind !== 'user' || (slow && !onePage)) {
    rwPages(pages, Number(startByte), data, write);
    return;
  }
  if (write) pages.memory.write(pages.start + startByte, data);
  else data.set(pages.memory.read(pages.start + startByte, data.length));
}
