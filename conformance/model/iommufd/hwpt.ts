import { EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, Errno, must } from './errno.ts';
import type { Device, Hwpt, Ioas, NestedHwpt, PagingHwpt, Viommu } from './context.ts';
import { Domain } from './domain.ts';
import { add, copyStruct, PAGE, wrap, type Memory } from './memory.ts';
import { DirtyBitmap } from './dirty.ts';
import type { Call } from './call.ts';

// drivers/iommu/iommufd/hw_pagetable.c and the domains of the mock IOMMU (selftest.c).

const NEST_PARENT = 1;
const DIRTY_TRACKING = 2;
const FAULT_ID_VALID = 4;
const PASID = 8;
const DATA_SELFTEST = 0xdead;
const IOTLB_MAX = 3;
/** The largest kmalloc() of x86-64. */
const KMALLOC_MAX = 1 << 22;

/** struct iommu_user_data. */
export interface UserData {
  readonly memory: Memory;
  readonly type: number;
  readonly va: bigint;
  readonly length: number;
}

/** iommu_copy_struct_from_user(). */
export function copyUserData(data: UserData, type: number, size: number, sizeMin: number): Uint8Array {
  must(data.type === type, EINVAL);
  must(data.length >= sizeMin && data.length <= size, EINVAL);
  return copyStruct(data.memory, data.va, size, data.length);
}

function u32At(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
}

/** iommufd_hwpt_paging_alloc() as far as the domain: it is in no IOAS yet. */
export function newPagingHwpt(ioas: Ioas, device: Device, flags: number, data: UserData | null): PagingHwpt {
  must((flags & ~(NEST_PARENT | DIRTY_TRACKING | FAULT_ID_VALID | PASID)) === 0, EOPNOTSUPP);
  must((flags & DIRTY_TRACKING) === 0 || !device.mock.noDirty, EOPNOTSUPP);
  must((flags & FAULT_ID_VALID) === 0 || (flags & NEST_PARENT) === 0, EOPNOTSUPP);
  let huge = false;
  if (data !== null) {
    must(data.type === DATA_SELFTEST, EOPNOTSUPP);
    const pagetable = u32At(copyUserData(data, DATA_SELFTEST, 8, 4), 4);
    must(pagetable <= 1, EOPNOTSUPP);
    huge = pagetable === 1;
  }
  return {
    type: 'hwpt-paging',
    id: 0,
    users: 1,
    ioas,
    domain: new Domain(huge, (flags & DIRTY_TRACKING) !== 0),
    nestParent: (flags & NEST_PARENT) !== 0,
    pasidCompat: (flags & PASID) !== 0,
    auto: false,
    fault: null,
  };
}

function newNestedHwpt(parent: PagingHwpt, viommu: Viommu | null, flags: number, data: UserData): NestedHwpt {
  must((flags & ~(FAULT_ID_VALID | PASID)) === 0 && data.length !== 0, EOPNOTSUPP);
  if (viommu === null) must(!parent.auto && parent.nestParent, EINVAL);
  must(data.type === DATA_SELFTEST, EOPNOTSUPP);
  const iotlb = u32At(copyUserData(data, DATA_SELFTEST, 8, 4), 0);
  return {
    type: 'hwpt-nested',
    id: 0,
    users: 1,
    parent,
    viommu,
    pasidCompat: (flags & PASID) !== 0,
    fault: null,
    iotlb: [iotlb, iotlb, iotlb, iotlb],
  };
}

/** iommufd_hwpt_alloc(). */
export function hwptAlloc(call: Call): void {
  const { context } = call;
  const flags = call.u32(4);
  const data: UserData = {
    memory: call.memory,
    type: call.u32(24),
    va: call.u64(32),
    length: call.u32(28),
  };
  must(call.u32(20) === 0, EOPNOTSUPP);
  must((data.type === 0) === (data.length === 0), EINVAL);
  const device = context.get(call.u32(8), 'device');
  let target;
  try {
    target = context.find(call.u32(12));
  } catch {
    throw new Errno(EINVAL);
  }
  const hwpt = context.withId((): Hwpt => {
    switch (target.type) {
      case 'ioas': {
        const paging = newPagingHwpt(target, device, flags, data.length === 0 ? null : data);
        target.iopt.addDomain(paging.domain);
        return paging;
      }
      case 'hwpt-paging':
        return newNestedHwpt(target, null, flags, data);
      case 'viommu':
        return newNestedHwpt(target.hwpt, target, flags, data);
      default:
        throw new Errno(EINVAL);
    }
  });
  try {
    if ((flags & FAULT_ID_VALID) !== 0) hwpt.fault = context.get(call.u32(40), 'fault');
  } catch (error) {
    if (hwpt.type === 'hwpt-paging') hwpt.ioas.iopt.removeDomain(hwpt.domain);
    throw error;
  }
  if (hwpt.fault !== null) hwpt.fault.users++;
  if (hwpt.type === 'hwpt-paging') {
    hwpt.ioas.users++;
    hwpt.ioas.hwpts.push(hwpt);
  } else {
    (hwpt.viommu ?? hwpt.parent).users++;
  }
  context.add(hwpt);
  call.setU32(16, hwpt.id);
  call.respond();
}

/** iommufd_hwpt_set_dirty_tracking(), iopt_set_dirty_tracking(). */
export function setDirtyTracking(call: Call): void {
  must((call.u32(4) & ~1) === 0, EOPNOTSUPP);
  const { ioas, domain } = call.context.get(call.u32(8), 'hwpt-paging');
  must(domain.dirtyOps, EOPNOTSUPP);
  const enable = (call.u32(4) & 1) !== 0;
  if (enable)
    for (const area of ioas.iopt.areas)
      for (const entry of domain.entries(area.iova, area.last)) entry.dirty = false;
  domain.tracking = enable;
}

/** iommufd_hwpt_get_dirty_bitmap(), iommufd_check_iova_range(). */
export function getDirtyBitmap(call: Call): void {
  const flags = call.u32(8);
  const iova = call.u64(16);
  const length = call.u64(24);
  const pageSize = call.u64(32);
  must((flags & ~1) === 0 && call.u32(12) === 0, EOPNOTSUPP);
  const { ioas, domain } = call.context.get(call.u32(4), 'hwpt-paging');
  must(length !== 0n, EINVAL);
  const last = add(iova, length - 1n);
  must(last !== null, EOVERFLOW);
  const end = wrap(last + 1n);
  must(((iova | end) & (ioas.iopt.alignment - 1n)) === 0n, EINVAL);
  must(pageSize !== 0n, EINVAL);
  must(((iova | end) & (pageSize - 1n)) === 0n, EINVAL);
  must(domain.dirtyOps, EOPNOTSUPP);
  // Whatever goes wrong from here on is not told: iommu_read_and_clear_dirty() answers 0.
  const bitmap = new DirtyBitmap(call.memory, iova, length, pageSize, call.u64(40));
  for (const area of ioas.iopt.contiguous(iova, last).areas) {
    const from = iova > area.iova ? iova : area.iova;
    for (const entry of domain.entries(from, last < area.last ? last : area.last)) {
      if (!entry.dirty) continue;
      bitmap.set(entry.iova, entry.size);
      if ((flags & 1) === 0) entry.dirty = false;
    }
  }
}

/** iommufd_hwpt_invalidate(). How many entries were done is told whatever comes. */
export function hwptInvalidate(call: Call): void {
  const done = { entries: 0 };
  try {
    invalidate(call, done);
  } finally {
    call.setU32(24, done.entries);
    call.respond();
  }
}

function invalidate(call: Call, done: { entries: number }): void {
  const va = call.u64(8);
  const entryLength = call.u32(20);
  const entries = call.u32(24);
  must(call.u32(28) === 0, EOPNOTSUPP);
  if (entries > 0) must(va !== 0n && entryLength !== 0 && entryLength <= PAGE && entries <= 1 << 19, EINVAL);
  const target = call.context.find(call.u32(4));
  if (target.type === 'hwpt-nested') {
    must(call.u32(16) === 0xdeadbeef, EINVAL);
    for (; done.entries < entries; done.entries++) {
      const at = va + BigInt(entryLength * done.entries);
      const data = { memory: call.memory, type: 0, va: at, length: entryLength };
      const entry = copyUserData(data, 0, 8, 8);
      clearCached(u32At(entry, 0), u32At(entry, 4), () => target.iotlb);
    }
  } else if (target.type === 'viommu') {
    invalidateViommu(call, target, done);
  } else {
    throw new Errno(EINVAL);
  }
}

/** mock_viommu_cache_invalidate(). */
function invalidateViommu(call: Call, viommu: Viommu, done: { entries: number }): void {
  const va = call.u64(8);
  const entryLength = call.u32(20);
  const entries = call.u32(24);
  // Where there is no memory for them, all are said to be done.
  done.entries = entries;
  must(entries * 12 <= KMALLOC_MAX, ENOMEM);
  done.entries = 0;
  must(call.u32(16) === 0xdeadbeef, EINVAL);
  const commands: Uint8Array[] = [];
  for (let i = 0; i < entries; i++)
    commands.push(copyStruct(call.memory, va + BigInt(entryLength * i), 12, entryLength));
  for (const command of commands) {
    clearCached(u32At(command, 0), u32At(command, 8), () => {
      const vdevice = viommu.vdevices.get(BigInt(u32At(command, 4)));
      must(vdevice !== undefined, EINVAL);
      return vdevice.device.mock.cache;
    });
    done.entries++;
  }
}

function clearCached(flags: number, id: number, find: () => number[]): void {
  must((flags & ~1) === 0, EOPNOTSUPP);
  must(id <= IOTLB_MAX, EINVAL);
  const cache = find();
  if ((flags & 1) !== 0) cache.fill(0);
  else cache[id] = 0;
}

/** iommufd_get_hwpt(): EINVAL for what is no HWPT. */
export function getHwpt(call: Call, id: number): Hwpt {
  const object = call.context.find(id);
  if (object.type !== 'hwpt-paging' && object.type !== 'hwpt-nested') throw new Errno(EINVAL);
  return object;
}
