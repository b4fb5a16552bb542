import { fail, failed, type Result } from '../../base/result.ts';
import { big, hi32, lo32, PAGE_MASK_N, PAGE_SIZE_N, U64_MAX } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENODEV, ENOTTY, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_VFIO_IOAS_CLEAR,
  IOMMU_VFIO_IOAS_GET,
  IOMMU_VFIO_IOAS_SET,
  iommu_vfio_ioas,
} from '../../abi/iommufd.ts';
import { VFIO_API_VERSION, vfio_info_cap_header } from '../../abi/vfio.ts';
import {
  VFIO_CHECK_EXTENSION,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_GET_API_VERSION,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_SET_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
  vfio_iommu_type1_dma_map,
  vfio_iommu_type1_dma_unmap,
  vfio_iommu_type1_info,
  vfio_iova_range,
} from '../../abi/vfio-type1.ts';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE } from '../../iommu/driver.ts';
import type { AddressSpace, Task } from '../../memory/process.ts';
import type { Command } from '../command.ts';
import { containerRanges } from './container-ranges.ts';
import type { IommufdContext } from '../context.ts';
import { getIoas, Ioas, mapUserPages } from '../ioas/ioas.ts';

// drivers/iommu/iommufd/vfio_compat.c: the type1 container's requests, served from one IOAS of the iommufd.

/** IOMMU_VFIO_IOAS. */
export function vfioIoas(command: Command): Result<number> {
  const cmd = iommu_vfio_ioas.read(command.bytes);
  const { context } = command;
  if (cmd.__reserved !== 0) return fail(EOPNOTSUPP, '__reserved must be 0');
  switch (cmd.op) {
    case IOMMU_VFIO_IOAS_GET: {
      const ioas = compatIoas(context);
      if (failed(ioas)) return ioas;
      cmd.ioas_id = ioas.id;
      const rc = command.respond(iommu_vfio_ioas, cmd);
      return failed(rc) ? rc : 0;
    }
    case IOMMU_VFIO_IOAS_SET: {
      const ioas = getIoas(context, cmd.ioas_id);
      if (failed(ioas)) return ioas;
      context.vfioIoas = ioas;
      return 0;
    }
    case IOMMU_VFIO_IOAS_CLEAR:
      context.vfioIoas = null;
      return 0;
    default:
      return fail(EOPNOTSUPP, `there is no operation ${cmd.op}`);
  }
}

/** iommufd_vfio_compat_ioas_get_id(): the id of the container's IOAS; ENODEV where there is none. */
export function compatIoasId(context: IommufdContext): Result<number> {
  const ioas = compatIoas(context);
  return failed(ioas) ? ioas : ioas.id;
}

/** iommufd_vfio_compat_ioas_create(): gives the container an IOAS where it has none. */
export function createCompatIoas(context: IommufdContext): Result<void> {
  if (context.noIommuMode) return fail(EINVAL, 'the container has a device without an IOMMU');
  if (context.vfioIoas !== null) return;
  const ioas = context.objects.allocate(new Ioas(context));
  if (failed(ioas)) return ioas;
  context.objects.publish(ioas);
  context.vfioIoas = ioas;
}

function compatIoas(context: IommufdContext): Result<Ioas> {
  return context.vfioIoas ?? fail(ENODEV, 'no IOAS is set for the VFIO container');
}

/** iommufd_vfio_ioctl(): what the dispatch table does not know. */
export function vfioIoctl(context: IommufdContext, task: Task, cmd: number, arg: bigint): Result<number> {
  switch (cmd) {
    case VFIO_GET_API_VERSION:
      return VFIO_API_VERSION;
    case VFIO_SET_IOMMU:
      return setIommu(context, arg);
    case VFIO_CHECK_EXTENSION:
      return checkExtension(context, arg);
    case VFIO_IOMMU_GET_INFO:
      return getInfo(context, task.process.memory, arg);
    case VFIO_IOMMU_MAP_DMA:
      return mapDma(context, task.process.memory, arg);
    case VFIO_IOMMU_UNMAP_DMA:
      return unmapDma(context, task.process.memory, arg);
    default:
      return fail(ENOTTY, `there is no request 0x${cmd.toString(16)}`);
  }
}

function readStruct(memory: AddressSpace, arg: bigint, bytes: number): Result<Uint8Array> {
  const into = new Uint8Array(bytes);
  return memory.read(arg, into) ? into : fail(EFAULT, 'the struct of the request cannot be read');
}

function mapDma(context: IommufdContext, memory: AddressSpace, arg: bigint): Result<number> {
  const minsz = vfio_iommu_type1_dma_map.endOf('size');
  const bytes = readStruct(memory, arg, minsz);
  if (failed(bytes)) return bytes;
  const map = vfio_iommu_type1_dma_map.read(bytes);
  if (map.argsz < minsz || (map.flags & ~(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)) !== 0)
    return fail(EINVAL, 'argsz is too small, or flags are unknown');
  const ioas = compatIoas(context);
  if (failed(ioas)) return ioas;
  const prot =
    IOMMU_CACHE |
    ((map.flags & VFIO_DMA_MAP_FLAG_READ) !== 0 ? IOMMU_READ : 0) |
    ((map.flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0 ? IOMMU_WRITE : 0);
  const rc = mapUserPages(context, ioas, map.iova, map.vaddr, map.size, prot);
  return failed(rc) ? rc : 0;
}

function unmapDma(context: IommufdContext, memory: AddressSpace, arg: bigint): Result<number> {
  const minsz = vfio_iommu_type1_dma_unmap.endOf('size');
  const bytes = readStruct(memory, arg, minsz);
  if (failed(bytes)) return bytes;
  const unmap = vfio_iommu_type1_dma_unmap.read(bytes);
  if (unmap.argsz < minsz || (unmap.flags & ~VFIO_DMA_UNMAP_FLAG_ALL) !== 0)
    return fail(EINVAL, 'argsz is too small, or flags are unknown');
  const ioas = compatIoas(context);
  if (failed(ioas)) return ioas;
  const { iopt } = ioas;
  let answer: ReturnType<typeof iopt.unmap>;
  if ((unmap.flags & VFIO_DMA_UNMAP_FLAG_ALL) !== 0) {
    if (unmap.iova !== 0n || unmap.size !== 0n)
      return fail(EINVAL, 'iova and size must be 0 to unmap everything');
    answer = iopt.unmapAll();
  } else {
    if (iopt.disableLargePages) {
      const lasts = [(unmap.iova + unmap.size - 1n) & U64_MAX];
      if (unmap.iova !== 0n) lasts.push(unmap.iova - 1n);
      const cut = iopt.cut(lasts);
      if (failed(cut)) return cut;
    }
    answer = iopt.unmap(unmap.iova, unmap.size);
  }
  unmap.size = answer.unmapped;
  vfio_iommu_type1_dma_unmap.write(bytes, 0, unmap);
  if (!memory.write(arg, bytes)) return fail(EFAULT, 'the struct of the request cannot be written');
  return answer.error ?? 0;
}

// The argument of VFIO_CHECK_EXTENSION and VFIO_SET_IOMMU is a number, not a pointer.
function numberArgument(arg: bigint): number {
  return hi32(arg) === 0 ? lo32(arg) : -1;
}

function checkExtension(context: IommufdContext, arg: bigint): Result<number> {
  switch (numberArgument(arg)) {
    case VFIO_TYPE1_IOMMU:
    case VFIO_TYPE1v2_IOMMU:
    case VFIO_UNMAP_ALL:
      return context.noIommuMode ? 0 : 1;
    case VFIO_DMA_CC_IOMMU: {
      const ioas = compatIoas(context);
      if (failed(ioas)) return ioas;
      return ioas.hwpts.every((hwpt) => hwpt.enforceCacheCoherency) ? 1 : 0;
    }
    default:
      return 0;
  }
}

function setIommu(context: IommufdContext, arg: bigint): Result<number> {
  const type = numberArgument(arg);
  if ((type !== VFIO_TYPE1_IOMMU && type !== VFIO_TYPE1v2_IOMMU) || context.noIommuMode)
    return fail(EINVAL, `there is no container type ${type}`);
  const ioas = compatIoas(context);
  if (failed(ioas)) return ioas;
  // TYPE1 may unmap a part of a mapping, which large pages would not allow.
  if (type !== VFIO_TYPE1_IOMMU) return 0;
  const rc = ioas.iopt.setLargePages(false);
  return failed(rc) ? rc : 0;
}

// iommufd_get_pagesizes()
function pageSizes(ioas: Ioas): bigint {
  let bitmap = U64_MAX;
  for (const domain of ioas.iopt.domains) bitmap &= domain.pgsizeBitmap;
  if ((bitmap & PAGE_MASK_N) !== 0n) bitmap = (bitmap & ~PAGE_MASK_N) | PAGE_SIZE_N;
  return bitmap > ioas.iopt.iovaAlignment ? bitmap : ioas.iopt.iovaAlignment;
}

// A capability of the chain, written as far as there is room; answers its length.
type FillCapability = (
  memory: AddressSpace,
  context: IommufdContext,
  ioas: Ioas,
  at: bigint,
  room: number,
) => Result<number>;

// iommufd_fill_cap_dma_avail()
const fillDmaAvail: FillCapability = (memory, _context, _ioas, at, room) => {
  const bytes = new Uint8Array(12);
  vfio_info_cap_header.write(bytes, 0, { id: VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, version: 1, next: 0 });
  bytes.fill(0xff, 8);
  if (room >= bytes.length && !memory.write(at, bytes))
    return fail(EFAULT, 'the capabilities cannot be written');
  return bytes.length;
};

// iommufd_fill_cap_iova()
const fillIovaRanges: FillCapability = (memory, context, ioas, at, room) => {
  const head = new Uint8Array(16);
  const range = new Uint8Array(vfio_iova_range.size);
  let count = 0;
  for (const hole of containerRanges(ioas, context.containerDevices, memory)) {
    const offset = head.length + count * range.length;
    vfio_iova_range.write(range, 0, { start: hole.start, end: hole.last });
    if (room >= offset + range.length && !memory.write(at + big(offset), range))
      return fail(EFAULT, 'the capabilities cannot be written');
    count++;
  }
  const length = head.length + count * range.length;
  vfio_info_cap_header.write(head, 0, { id: VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, version: 1, next: 0 });
  new DataView(head.buffer).setUint32(8, count, true);
  if (room >= length && !memory.write(at, head)) return fail(EFAULT, 'the capabilities cannot be written');
  return length;
};

// iommufd_vfio_iommu_get_info()
function getInfo(context: IommufdContext, memory: AddressSpace, arg: bigint): Result<number> {
  const minsz = vfio_iommu_type1_info.endOf('iova_pgsizes');
  const bytes = new Uint8Array(vfio_iommu_type1_info.size);
  if (!memory.read(arg, bytes.subarray(0, minsz)))
    return fail(EFAULT, 'the struct of the request cannot be read');
  const info = vfio_iommu_type1_info.read(bytes);
  if (info.argsz < minsz) return fail(EINVAL, `argsz is less than ${minsz}`);
  const length = Math.min(info.argsz, bytes.length);
  const ioas = compatIoas(context);
  if (failed(ioas)) return ioas;
  info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
  info.iova_pgsizes = pageSizes(ioas);
  info.cap_offset = 0;
  const total = writeCapabilities(memory, context, ioas, arg, info.argsz);
  if (failed(total)) return total;
  if (info.argsz >= total) info.cap_offset = bytes.length;
  info.argsz = total;
  vfio_iommu_type1_info.write(bytes, 0, info);
  if (!memory.write(arg, bytes.subarray(0, length))) return fail(EFAULT, 'the struct cannot be written');
  return 0;
}

// Answers the bytes that all capabilities need behind and with the struct.
function writeCapabilities(
  memory: AddressSpace,
  context: IommufdContext,
  ioas: Ioas,
  arg: bigint,
  argsz: number,
): Result<number> {
  const next = new Uint8Array(4);
  let total = vfio_iommu_type1_info.size;
  let last: bigint | null = null;
  for (const fill of [fillDmaAvail, fillIovaRanges]) {
    const length = fill(memory, context, ioas, arg + big(total), Math.max(0, argsz - total));
    if (failed(length)) return length;
    if (last !== null && argsz >= total) {
      new DataView(next.buffer).setUint32(0, total, true);
      if (!memory.write(last + big(vfio_info_cap_header.offset.next), next))
        return fail(EFAULT, 'the capabilities cannot be written');
    }
    last = arg + big(total);
    total += (length + 7) & ~7;
  }
  return total;
}
