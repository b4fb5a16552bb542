import {
  EBADF,
  EBUSY,
  EINVAL,
  EMSGSIZE,
  ENODEV,
  ENOENT,
  EOPNOTSUPP,
  EOVERFLOW,
  errnoOf,
  must,
} from './errno.ts';
import { syzIova } from './access.ts';
import type { Call } from './call.ts';
import type { Ioas } from './context.ts';
import { holes, Iopt, type Prot } from './iopt.ts';
import { add, alignDown, PAGE_N, U64_MAX, type Memory } from './memory.ts';
import { newPages, type DmaBuf, type Pages } from './pages.ts';

// drivers/iommu/iommufd/ioas.c.

const FIXED_IOVA = 1;
const WRITEABLE = 2;
const READABLE = 4;
const SYZ = 1 << 16;

export function ioasAlloc(call: Call): void {
  must(call.u32(4) === 0, EOPNOTSUPP);
  const ioas: Ioas = call.context.add({ type: 'ioas', id: 0, users: 1, iopt: new Iopt(), hwpts: [] });
  call.setU32(8, ioas.id);
  call.respond();
}

export function ioasIovaRanges(call: Call): void {
  must(call.u32(12) === 0, EOPNOTSUPP);
  const { iopt } = call.context.get(call.u32(4), 'ioas');
  const room = call.u32(8);
  const ranges = holes(iopt.reserved, 0n, U64_MAX);
  ranges.slice(0, room).forEach((range, index) => {
    const bytes = new Uint8Array(16);
    new DataView(bytes.buffer).setBigUint64(0, range.start, true);
    new DataView(bytes.buffer).setBigUint64(8, range.last, true);
    call.memory.write(call.u64(16) + BigInt(index) * 16n, bytes);
  });
  call.setU32(8, ranges.length);
  call.setU64(24, iopt.alignment);
  call.respond();
  must(ranges.length <= room, EMSGSIZE);
}

export function ioasAllowIovas(call: Call): void {
  must(call.u32(12) === 0, EOPNOTSUPP);
  const { iopt } = call.context.get(call.u32(4), 'ioas');
  const allowed: { start: bigint; last: bigint }[] = [];
  for (let i = 0; i < call.u32(8); i++) {
    const view = new DataView(call.memory.read(call.u64(16) + BigInt(i) * 16n, 16).buffer);
    const start = view.getBigUint64(0, true);
    const last = view.getBigUint64(8, true);
    must(start < last, EINVAL);
    must(!allowed.some((range) => range.start <= last && start <= range.last), EINVAL);
    allowed.push({ start, last });
  }
  iopt.allow(allowed);
}

/** What IOMMU_IOAS_MAP, MAP_FILE and COPY say about how to map. */
function checkFlags(flags: number): Prot {
  must((flags & (WRITEABLE | READABLE)) !== 0, EINVAL);
  return { write: (flags & WRITEABLE) !== 0, read: (flags & READABLE) !== 0 };
}

/** iopt_alloc_pages(). */
function checkLength(length: bigint): void {
  must(length !== 0n && length <= U64_MAX - PAGE_N, EINVAL);
}

/** iopt_map_user_pages(). */
export function mapUser(
  memory: Memory,
  iopt: Iopt,
  va: bigint,
  length: bigint,
  iova: bigint | null,
  prot: Prot,
): bigint {
  must(add(va, length) !== null, EOVERFLOW);
  checkLength(length);
  const pages = newPages(memory, { kind: 'user', start: alignDown(va), writable: prot.write });
  return iopt.mapPages([{ pages, startByte: va % PAGE_N, length }], length, iova, prot);
}

export function ioasMap(call: Call): void {
  const flags = call.u32(4);
  const iova = call.u64(32);
  const length = call.u64(24);
  must((flags & ~(FIXED_IOVA | WRITEABLE | READABLE)) === 0 && call.u32(12) === 0, EOPNOTSUPP);
  must(iova !== U64_MAX && length !== U64_MAX, EOVERFLOW);
  const prot = checkFlags(flags);
  const { iopt } = call.context.get(call.u32(8), 'ioas');
  const at = mapUser(call.memory, iopt, call.u64(16), length, (flags & FIXED_IOVA) !== 0 ? iova : null, prot);
  call.setU64(32, at);
  call.respond();
}

/** iopt_alloc_dmabuf_pages(). */
function dmabufPages(call: Call, dmabuf: DmaBuf, start: bigint, length: bigint, writable: boolean): Pages {
  must(dmabuf.size > start + length - 1n && length / PAGE_N < 0xffff_ffffn, EINVAL);
  must(!dmabuf.revoked, ENODEV);
  const pages = newPages(call.memory, { kind: 'dmabuf', start: alignDown(start), writable, dmabuf });
  dmabuf.attached.add(pages);
  return pages;
}

export function ioasMapFile(call: Call): void {
  const flags = call.u32(4);
  const start = call.u64(16);
  const iova = call.u64(32);
  const length = call.u64(24);
  must((flags & ~(FIXED_IOVA | WRITEABLE | READABLE)) === 0, EOPNOTSUPP);
  must(iova !== U64_MAX && length !== U64_MAX, EOVERFLOW);
  const prot = checkFlags(flags);
  const { iopt } = call.context.get(call.u32(8), 'ioas');
  must(length !== 0n, EINVAL);
  must(add(start, length - 1n) !== null, EOVERFLOW);
  const file = call.context.machine.descriptors.get(call.u32(12) | 0);
  must(file !== undefined, EBADF);
  let pages: Pages;
  if (file.kind === 'dmabuf') {
    pages = dmabufPages(call, file, start, length, prot.write);
  } else {
    checkLength(length);
    const memfd = file.kind === 'memfd' ? file : null;
    pages = newPages(call.memory, {
      kind: 'file',
      start: alignDown(start),
      writable: prot.write,
      file: memfd,
    });
  }
  const fixed = (flags & FIXED_IOVA) !== 0 ? iova : null;
  call.setU64(32, iopt.mapPages([{ pages, startByte: start % PAGE_N, length }], length, fixed, prot));
  call.respond();
}

export function ioasCopy(call: Call): void {
  if ((call.u32(4) & SYZ) !== 0) {
    call.setU32(4, call.u32(4) & ~SYZ);
    // iommufd_test_syz_conv_iova_id()
    errnoOf(() => call.setU64(32, syzIova(call.context.get(call.u32(12), 'ioas').iopt, call.u64(32))));
  }
  const flags = call.u32(4);
  const length = call.u64(16);
  must((flags & ~(FIXED_IOVA | WRITEABLE | READABLE)) === 0, EOPNOTSUPP);
  must(length !== U64_MAX && call.u64(32) !== U64_MAX && call.u64(24) !== U64_MAX, EOVERFLOW);
  const prot = checkFlags(flags);
  const slices = call.context.get(call.u32(12), 'ioas').iopt.slices(call.u64(32), length);
  const { iopt } = call.context.get(call.u32(8), 'ioas');
  const fixed = (flags & FIXED_IOVA) !== 0 ? call.u64(24) : null;
  call.setU64(24, iopt.mapPages(slices, length, fixed, prot));
  call.respond();
}

export function ioasUnmap(call: Call): void {
  const { iopt } = call.context.get(call.u32(4), 'ioas');
  const iova = call.u64(8);
  const length = call.u64(16);
  const unmapped = { bytes: 0n };
  if (iova === 0n && length === U64_MAX) {
    iopt.unmapRange(0n, U64_MAX, unmapped);
  } else {
    must(iova !== U64_MAX && length !== U64_MAX, EOVERFLOW);
    iopt.unmap(iova, length, unmapped);
    must(unmapped.bytes !== 0n, ENOENT);
  }
  call.setU64(16, BigInt.asUintN(64, unmapped.bytes));
  call.respond();
}

export function ioasChangeProcess(call: Call): void {
  must(call.u32(4) === 0, EOPNOTSUPP);
  for (const object of call.context.objects)
    if (object.type === 'ioas')
      must(
        object.iopt.areas.every((area) => area.pages.kind === 'file'),
        EINVAL,
      );
}

/** iommufd_option(). */
export function option(call: Call): void {
  const op = call.u16(8);
  must(call.u16(10) === 0, EOPNOTSUPP);
  switch (call.u32(4)) {
    case 0:
      rlimitMode(call, op);
      break;
    case 1:
      hugePages(call, op);
      break;
    default:
      must(false, EOPNOTSUPP);
  }
  const value = new Uint8Array(8);
  new DataView(value.buffer).setBigUint64(0, call.u64(16), true);
  call.memory.write(call.va + 16n, value);
}

function rlimitMode(call: Call, op: number): void {
  must(call.u32(12) === 0 && op <= 1, EOPNOTSUPP);
  if (op === 1) {
    call.setU64(16, call.context.accountMm ? 1n : 0n);
    return;
  }
  must(call.context.empty, EBUSY);
  must(call.u64(16) <= 1n, EINVAL);
  call.context.accountMm = call.u64(16) === 1n;
}

function hugePages(call: Call, op: number): void {
  const { iopt } = call.context.get(call.u32(12), 'ioas');
  must(op <= 1, EOPNOTSUPP);
  if (op === 1) {
    call.setU64(16, iopt.smallPages ? 0n : 1n);
    return;
  }
  must(call.u64(16) <= 1n, EINVAL);
  if (call.u64(16) === 0n) iopt.disableLargePages();
  else iopt.enableLargePages();
}
