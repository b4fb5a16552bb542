import { assert } from '../../base/assert.ts';
import { lastByte, type Range } from '../../base/range.ts';
import { RangeMap } from '../../base/range-map.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { big, pageOffset, U64_MAX } from '../../base/u64.ts';
import {
  EBADF,
  EFAULT,
  EINVAL,
  EMSGSIZE,
  ENOENT,
  ENOMEM,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
} from '../../abi/errno.ts';
import {
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  iommu_ioas_alloc,
  iommu_ioas_allow_iovas,
  iommu_ioas_copy,
  iommu_ioas_iova_ranges,
  iommu_ioas_map,
  iommu_ioas_map_file,
  iommu_ioas_noiommu_get_pa,
  iommu_ioas_unmap,
  iommu_iova_range,
} from '../../abi/iommufd.ts';
import { MOCK_FLAGS_ACCESS_SYZ } from '../../abi/iommufd-test.ts';
import { CAP_SYS_RAWIO, type SharedFile } from '../../memory/process.ts';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE } from '../../iommu/driver.ts';
import { ACCOUNT_MM, ACCOUNT_USER } from '../pages/accounting.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import { DmaBuf } from '../pages/dma-buf.ts';
import type { HwptPaging } from '../hwpt/hwpt.ts';
import { IoPagetable } from './io-pagetable.ts';
import { IommufdObject } from '../objects.ts';
import { allocPages, allocUserPages, type IoptPages } from '../pages/pages.ts';

// drivers/iommu/iommufd/ioas.c

const MAP_FLAGS = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE;
/** struct pfn_batch counts the pages of a dma-buf in 32 bits. */
const DMA_BUF_PAGES_MAX = 0xffff_ffffn;
/** Before this Linux a dma-buf was a file like others, and no memfd. */
const DMA_BUF_SINCE = 619;

/** An I/O address space: struct iommufd_ioas. */
export class Ioas extends IommufdObject {
  readonly type = 'IOAS';
  readonly iopt: IoPagetable;
  /** Domains that hold its mappings, oldest first. */
  readonly hwpts: HwptPaging[] = [];
  readonly #context: IommufdContext;

  constructor(context: IommufdContext) {
    super();
    this.#context = context;
    this.iopt = new IoPagetable(context.kernel);
  }

  destroy(): void {
    if (this.#context.vfioIoas === this) this.#context.vfioIoas = null;
    const { error } = this.iopt.unmapAll();
    assert(error === null, 'an IOAS that nobody uses can be emptied');
    this.iopt.destroy();
  }
}

/** The IOAS of that id: ENOENT. */
export function getIoas(context: IommufdContext, id: number): Result<Ioas> {
  return context.objects.get<Ioas>(id, 'IOAS');
}

export function ioasAlloc(command: Command): Result<number> {
  const cmd = iommu_ioas_alloc.read(command.bytes);
  if (cmd.flags !== 0) return fail(EOPNOTSUPP, 'flags must be 0');
  const ioas = command.context.objects.allocate(new Ioas(command.context));
  if (failed(ioas)) return ioas;
  cmd.out_ioas_id = ioas.id;
  const rc = command.respond(iommu_ioas_alloc, cmd);
  if (failed(rc)) {
    command.context.objects.abort(ioas);
    return rc;
  }
  command.context.objects.publish(ioas);
  return 0;
}

export function ioasIovaRanges(command: Command): Result<number> {
  const cmd = iommu_ioas_iova_ranges.read(command.bytes);
  if (cmd.__reserved !== 0) return fail(EOPNOTSUPP, '__reserved must be 0');
  const ioas = getIoas(command.context, cmd.ioas_id);
  if (failed(ioas)) return ioas;
  const max = cmd.num_iovas;
  const range = new Uint8Array(iommu_iova_range.size);
  cmd.num_iovas = 0;
  cmd.out_iova_alignment = ioas.iopt.iovaAlignment;
  for (const hole of ioas.iopt.reserved.holes(0n, U64_MAX)) {
    if (cmd.num_iovas < max) {
      iommu_iova_range.write(range, 0, { start: hole.start, last: hole.last });
      const at = cmd.allowed_iovas + big(cmd.num_iovas * iommu_iova_range.size);
      if (!command.memory.write(at, range)) return fail(EFAULT, 'allowed_iovas cannot be written');
    }
    cmd.num_iovas++;
  }
  const rc = command.respond(iommu_ioas_iova_ranges, cmd);
  if (failed(rc)) return rc;
  if (cmd.num_iovas > max) return fail(EMSGSIZE, `there are ${cmd.num_iovas} ranges and room for ${max}`);
  return 0;
}

// iommufd_ioas_load_iovas()
function loadIovas(command: Command, va: bigint, count: number): Result<RangeMap<Range>> {
  const allowed = new RangeMap<Range>();
  const bytes = new Uint8Array(iommu_iova_range.size);
  for (let i = 0; i < count; i++) {
    if (!command.memory.read(va + big(i * iommu_iova_range.size), bytes))
      return fail(EFAULT, `allowed_iovas[${i}] cannot be read`);
    const range = iommu_iova_range.read(bytes);
    if (range.start >= range.last) return fail(EINVAL, `allowed_iovas[${i}] ends before it starts`);
    if (allowed.first(range.start, range.last) !== null)
      return fail(EINVAL, `allowed_iovas[${i}] meets an earlier one`);
    if (command.context.kernel.failpoint()) return fail(ENOMEM, 'no memory for an allowed range');
    allowed.insert(range);
  }
  return allowed;
}

export function ioasAllowIovas(command: Command): Result<number> {
  const cmd = iommu_ioas_allow_iovas.read(command.bytes);
  if (cmd.__reserved !== 0) return fail(EOPNOTSUPP, '__reserved must be 0');
  const ioas = getIoas(command.context, cmd.ioas_id);
  if (failed(ioas)) return ioas;
  const allowed = loadIovas(command, cmd.allowed_iovas, cmd.num_iovas);
  if (failed(allowed)) return allowed;
  const rc = ioas.iopt.setAllowed(allowed);
  return failed(rc) ? rc : 0;
}

// conv_iommu_prot(): programs cannot manage caches, so mappings are always coherent.
function toProt(flags: number): number {
  return (
    IOMMU_CACHE |
    ((flags & IOMMU_IOAS_MAP_WRITEABLE) !== 0 ? IOMMU_WRITE : 0) |
    ((flags & IOMMU_IOAS_MAP_READABLE) !== 0 ? IOMMU_READ : 0)
  );
}

function checkMapFlags(flags: number): Result<void> {
  if ((flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE)) === 0)
    return fail(EINVAL, 'flags ask for neither reading nor writing');
}

/** iopt_map_common(): moves the reference to the pages into a new area. */
export function mapPages(
  context: IommufdContext,
  ioas: Ioas,
  pages: IoptPages,
  startByte: number,
  length: bigint,
  iova: bigint | null,
  prot: number,
): Result<bigint> {
  if (context.accountMode === ACCOUNT_MM && pages.accountMode === ACCOUNT_USER)
    pages.accountMode = ACCOUNT_MM;
  const mapped = ioas.iopt.map(pages, big(startByte), length, iova, prot);
  if (failed(mapped)) pages.put();
  return mapped;
}

/** iopt_map_user_pages(). */
export function mapUserPages(
  context: IommufdContext,
  ioas: Ioas,
  iova: bigint | null,
  uptr: bigint,
  length: bigint,
  prot: number,
): Result<bigint> {
  const pages = allocUserPages(
    context.kernel,
    context.shared.locked,
    uptr,
    length,
    (prot & IOMMU_WRITE) !== 0,
  );
  if (failed(pages)) return pages;
  return mapPages(context, ioas, pages, pageOffset(uptr), length, iova, prot);
}

export function ioasMap(command: Command): Result<number> {
  const cmd = iommu_ioas_map.read(command.bytes);
  if ((cmd.flags & ~MAP_FLAGS) !== 0 || cmd.__reserved !== 0)
    return fail(EOPNOTSUPP, 'unknown flags, or __reserved is not 0');
  if (cmd.iova >= U64_MAX || cmd.length >= U64_MAX) return fail(EOVERFLOW, 'iova or length is 2^64 - 1');
  const flags = checkMapFlags(cmd.flags);
  if (failed(flags)) return flags;
  const ioas = getIoas(command.context, cmd.ioas_id);
  if (failed(ioas)) return ioas;
  const fixed = (cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA) !== 0;
  const iova = fixed ? cmd.iova : null;
  const mapped = mapUserPages(command.context, ioas, iova, cmd.user_va, cmd.length, toProt(cmd.flags));
  if (failed(mapped)) return mapped;
  cmd.iova = mapped;
  const rc = command.respond(iommu_ioas_map, cmd);
  return failed(rc) ? rc : 0;
}

export function ioasMapFile(command: Command): Result<number> {
  const cmd = iommu_ioas_map_file.read(command.bytes);
  if ((cmd.flags & ~MAP_FLAGS) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
  if (cmd.iova >= U64_MAX || cmd.length >= U64_MAX) return fail(EOVERFLOW, 'iova or length is 2^64 - 1');
  const flags = checkMapFlags(cmd.flags);
  if (failed(flags)) return flags;
  const ioas = getIoas(command.context, cmd.ioas_id);
  if (failed(ioas)) return ioas;
  const prot = toProt(cmd.flags);
  const pages = allocFilePages(command, cmd.fd, cmd.start, cmd.length, (prot & IOMMU_WRITE) !== 0);
  if (failed(pages)) return pages;
  const iova = (cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA) !== 0 ? cmd.iova : null;
  const mapped = mapPages(command.context, ioas, pages, pageOffset(cmd.start), cmd.length, iova, prot);
  if (failed(mapped)) return mapped;
  cmd.iova = mapped;
  const rc = command.respond(iommu_ioas_map_file, cmd);
  return failed(rc) ? rc : 0;
}

// iopt_map_file_pages(), iopt_alloc_file_pages() and iopt_alloc_dmabuf_pages(): a file is looked at only when its pages
// are needed.
function allocFilePages(
  command: Command,
  fd: number,
  start: bigint,
  length: bigint,
  writable: boolean,
): Result<IoptPages> {
  if (length === 0n) return fail(EINVAL, 'length is zero');
  if (lastByte(start, length) === null) return fail(EOVERFLOW, 'start + length passes 2^64');
  const { kernel, shared } = command.context;
  const startByte = pageOffset(start);
  const file = command.task.process.file(fd | 0);
  if (file === null) return fail(EBADF, `descriptor ${fd | 0} is not open`);
  if (file instanceof DmaBuf && shared.profile.version >= DMA_BUF_SINCE) {
    if (big(file.size) <= start + length - 1n || length / 4096n >= DMA_BUF_PAGES_MAX)
      return fail(EINVAL, 'the range reaches beyond the end of the dma-buf');
    const origin = { type: 'dma-buf', buffer: file, start: start - big(startByte) } as const;
    const pages = allocPages(kernel, shared.locked, origin, startByte, length, writable);
    if (failed(pages)) return pages;
    const rc = kernel.failpoint() ? fail(ENOMEM, 'no memory to attach') : file.attach(pages, pages);
    if (!failed(rc)) return pages;
    pages.put();
    return rc;
  }
  const shareable: SharedFile = 'memfd' in file ? file : OTHER_FILE;
  const origin = { type: 'file', file: shareable, start: start - big(startByte) } as const;
  const pages = allocPages(kernel, shared.locked, origin, startByte, length, writable);
  if (!failed(pages)) shareable.retain();
  return pages;
}

// A descriptor that has no pages to share: mapping it fails when its pages are asked for.
const OTHER_FILE: SharedFile = {
  key: 'other',
  pageBytes: 4096,
  memfd: false,
  size: () => 0n,
  read: () => false,
  write: () => false,
  retain: () => {},
  release: () => {},
};

export function ioasCopy(command: Command): Result<number> {
  const cmd = iommu_ioas_copy.read(command.bytes);
  const { context } = command;
  if ((cmd.flags & MOCK_FLAGS_ACCESS_SYZ) !== 0 && context.shared.selftest !== null) {
    cmd.src_iova = context.shared.selftest.convertIova(context, cmd.src_ioas_id, cmd.src_iova);
    cmd.flags &= ~MOCK_FLAGS_ACCESS_SYZ;
  }
  if ((cmd.flags & ~MAP_FLAGS) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
  if (cmd.length >= U64_MAX || cmd.src_iova >= U64_MAX || cmd.dst_iova >= U64_MAX)
    return fail(EOVERFLOW, 'length or an iova is 2^64 - 1');
  const flags = checkMapFlags(cmd.flags);
  if (failed(flags)) return flags;
  const source = getIoas(context, cmd.src_ioas_id);
  if (failed(source)) return source;
  const slices = source.iopt.getPages(cmd.src_iova, cmd.length);
  if (failed(slices)) return slices;
  const putAll = (): void => {
    for (const { pages } of slices) pages.put();
  };
  const target = getIoas(context, cmd.dst_ioas_id);
  if (failed(target)) {
    putAll();
    return target;
  }
  const iova = (cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA) !== 0 ? cmd.dst_iova : null;
  const mapped = target.iopt.mapSlices(slices, cmd.length, iova, toProt(cmd.flags));
  if (failed(mapped)) {
    putAll();
    return mapped;
  }
  cmd.dst_iova = mapped;
  const rc = command.respond(iommu_ioas_copy, cmd);
  return failed(rc) ? rc : 0;
}

export function ioasUnmap(command: Command): Result<number> {
  const cmd = iommu_ioas_unmap.read(command.bytes);
  const ioas = getIoas(command.context, cmd.ioas_id);
  if (failed(ioas)) return ioas;
  const all = cmd.iova === 0n && cmd.length === U64_MAX;
  if (!all && (cmd.iova >= U64_MAX || cmd.length >= U64_MAX))
    return fail(EOVERFLOW, 'iova or length is 2^64 - 1');
  const { unmapped, error } = all ? ioas.iopt.unmapAll() : ioas.iopt.unmap(cmd.iova, cmd.length);
  if (error !== null) return error;
  if (!all && unmapped === 0n) return fail(ENOENT, 'nothing is mapped in the range');
  cmd.length = unmapped;
  const rc = command.respond(iommu_ioas_unmap, cmd);
  return failed(rc) ? rc : 0;
}

/** iommufd_ioas_noiommu_get_pa(): for devices without an IOMMU, of which the machine has none. */
export function ioasNoiommuGetPa(command: Command): Result<number> {
  if (!command.task.process.capable(CAP_SYS_RAWIO)) return fail(EPERM, 'CAP_SYS_RAWIO is needed');
  const cmd = iommu_ioas_noiommu_get_pa.read(command.bytes);
  if (cmd.flags !== 0 || cmd.__reserved !== 0) return fail(EOPNOTSUPP, 'flags and __reserved must be 0');
  if (cmd.length === 0n) return fail(EINVAL, 'length is zero');
  if (cmd.iova >= U64_MAX) return fail(EOVERFLOW, 'iova is 2^64 - 1');
  const ioas = getIoas(command.context, cmd.ioas_id);
  if (failed(ioas)) return ioas;
  const area = ioas.iopt.areas.find(cmd.iova);
  if (area === null) return fail(ENOENT, 'nothing is mapped at iova');
  if (area.pages!.revoked) return fail(EINVAL, 'the dma-buf is revoked');
  return fail(EOPNOTSUPP, 'no device without an IOMMU is attached');
}
