import { EINVAL, ENODEV, ENOTTY, EOPNOTSUPP, Errno, errnoOf, must } from './errno.ts';
import type { Call } from './call.ts';
import type { Context, Ioas } from './context.ts';
import { mapUser } from './ioas.ts';
import { holes } from './iopt.ts';
import { PAGE_N, U64_MAX, wrap, type Memory } from './memory.ts';

// drivers/iommu/iommufd/vfio_compat.c.

const INFO_BYTES = 24;
const AVAIL_BYTES = 16;
const RANGES_BYTES = 16;
const RANGE_BYTES = 16;

function compatIoas(context: Context): Ioas {
  must(context.vfioIoas !== null, ENODEV);
  return context.vfioIoas;
}

/** iommufd_vfio_ioas(). */
export function vfioIoas(call: Call): void {
  const { context } = call;
  must(call.u16(10) === 0, EOPNOTSUPP);
  switch (call.u16(8)) {
    case 0:
      call.setU32(4, compatIoas(context).id);
      return call.respond();
    case 1:
      context.vfioIoas = context.get(call.u32(4), 'ioas');
      return;
    case 2:
      context.vfioIoas = null;
      return;
    default:
      throw new Errno(EOPNOTSUPP);
  }
}

/** A struct that VFIO's ioctls read in part. */
function load(memory: Memory, va: bigint, bytes: number): DataView {
  return new DataView(memory.read(va, bytes).buffer);
}

function mapDma(context: Context, va: bigint): void {
  const memory = context.machine.memory;
  const map = load(memory, va, 32);
  const flags = map.getUint32(4, true);
  must(map.getUint32(0, true) >= 32 && (flags & ~3) === 0, EINVAL);
  const prot = { read: (flags & 1) !== 0, write: (flags & 2) !== 0 };
  const { iopt } = compatIoas(context);
  mapUser(
    memory,
    iopt,
    map.getBigUint64(8, true),
    map.getBigUint64(24, true),
    map.getBigUint64(16, true),
    prot,
  );
}

function unmapDma(context: Context, va: bigint): void {
  const memory = context.machine.memory;
  const unmap = load(memory, va, 24);
  const flags = unmap.getUint32(4, true);
  must(unmap.getUint32(0, true) >= 24 && (flags & ~2) === 0, EINVAL);
  const { iopt } = compatIoas(context);
  const iova = unmap.getBigUint64(8, true);
  const size = unmap.getBigUint64(16, true);
  const unmapped = { bytes: 0n };
  let errno: number;
  if (flags === 2) {
    must(iova === 0n && size === 0n, EINVAL);
    errno = errnoOf(() => iopt.unmapRange(0n, U64_MAX, unmapped));
  } else {
    if (iopt.smallPages) {
      iopt.cut(wrap(iova + size - 1n));
      if (iova !== 0n) iopt.cut(iova - 1n);
    }
    errno = errnoOf(() => iopt.unmap(iova, size, unmapped));
  }
  // How much went is told in any case.
  unmap.setBigUint64(16, wrap(unmapped.bytes), true);
  memory.write(va, new Uint8Array(unmap.buffer));
  if (errno !== 0) throw new Errno(errno);
}

/** iommufd_get_pagesizes(). */
function pageSizes({ iopt }: Ioas): bigint {
  let sizes = U64_MAX;
  for (const domain of iopt.domains) sizes &= domain.pageSizes;
  if ((sizes & (PAGE_N - 1n)) !== 0n) sizes = (sizes & ~(PAGE_N - 1n)) | PAGE_N;
  return sizes > iopt.alignment ? sizes : iopt.alignment;
}

/** iommufd_vfio_iommu_get_info(): as many capabilities as there is room for, each header only where all of it fits. */
function getInfo(context: Context, va: bigint): void {
  const memory = context.machine.memory;
  const argsz = load(memory, va, 16).getUint32(0, true);
  must(argsz >= 16, EINVAL);
  const ioas = compatIoas(context);
  const put = (at: number, bytes: number, fill: (view: DataView) => void): void => {
    const view = new DataView(new ArrayBuffer(bytes));
    fill(view);
    memory.write(va + BigInt(at), new Uint8Array(view.buffer));
  };
  const header = (view: DataView, id: number): void => {
    view.setUint16(0, id, true);
    view.setUint16(2, 1, true);
  };
  if (argsz - INFO_BYTES >= 12)
    put(INFO_BYTES, 12, (view) => {
      header(view, 3);
      view.setUint32(8, 0xffff_ffff, true);
    });
  const at = INFO_BYTES + AVAIL_BYTES;
  const ranges = holes(ioas.iopt.reserved, 0n, U64_MAX);
  const room = argsz - at;
  ranges.forEach((range, index) => {
    if (room < RANGES_BYTES + (index + 1) * RANGE_BYTES) return;
    put(at + RANGES_BYTES + index * RANGE_BYTES, RANGE_BYTES, (view) => {
      view.setBigUint64(0, range.start, true);
      view.setBigUint64(8, range.last, true);
    });
  });
  const rangesBytes = RANGES_BYTES + ranges.length * RANGE_BYTES;
  if (room >= rangesBytes)
    put(at, RANGES_BYTES, (view) => {
      header(view, 1);
      view.setUint32(8, ranges.length, true);
    });
  if (argsz >= at) put(INFO_BYTES + 4, 4, (view) => view.setUint32(0, at, true));
  const total = at + rangesBytes;
  const info = new DataView(new ArrayBuffer(INFO_BYTES));
  info.setUint32(0, total, true);
  info.setUint32(4, 3, true);
  info.setBigUint64(8, pageSizes(ioas), true);
  info.setUint32(16, argsz >= total ? INFO_BYTES : 0, true);
  memory.write(va, new Uint8Array(info.buffer, 0, Math.min(argsz, INFO_BYTES)));
}

function checkExtension(context: Context, type: bigint): number {
  switch (type) {
    case 1n:
    case 3n:
    case 9n:
      return 1;
    case 4n:
      return compatIoas(context).hwpts.length === 0 ? 1 : 0;
    default:
      return 0;
  }
}

function setIommu(context: Context, type: bigint): void {
  must(type === 1n || type === 3n, EINVAL);
  const { iopt } = compatIoas(context);
  if (type === 1n) iopt.disableLargePages();
}

/** iommufd_vfio_ioctl(). */
export function vfioIoctl(context: Context, command: number, arg: bigint): number {
  switch (command) {
    case 0x3b64:
      return 0;
    case 0x3b65:
      return checkExtension(context, arg);
    case 0x3b66:
      setIommu(context, arg);
      return 0;
    case 0x3b70:
      getInfo(context, arg);
      return 0;
    case 0x3b71:
      mapDma(context, arg);
      return 0;
    case 0x3b72:
      unmapDma(context, arg);
      return 0;
    default:
      throw new Errno(ENOTTY);
  }
}
