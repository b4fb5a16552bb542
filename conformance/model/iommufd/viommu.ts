import { EEXIST, EFAULT, EINVAL, EIO, ENOMEM, EOPNOTSUPP, EOVERFLOW, ERANGE, must } from './errno.ts';
import { newInternalAccess, pinPages, releaseAccess } from './access.ts';
import type { Access, Context, HwQueue, Viommu } from './context.ts';
import type { Call } from './call.ts';
import { copyUserData, type UserData } from './hwpt.ts';
import { add, alignDown, PAGE, PAGE_N } from './memory.ts';

// drivers/iommu/iommufd/viommu.c over the mock IOMMU.

const TYPE_SELFTEST = 0xdeadbeef;
const QUEUES_MAX = 2;
const MMAP_BYTES = 2n * PAGE_N;
/** kvmalloc() refuses what does not fit an int. */
const KVMALLOC_MAX = 0x7fff_ffffn;

/** _iommufd_alloc_mmap(): the lowest gap above the first page. */
function allocMmap(context: Context): bigint {
  let start = PAGE_N;
  for (const [offset, length] of [...context.mmaps].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (offset - start >= MMAP_BYTES) break;
    start = offset + length;
  }
  context.mmaps.set(start, MMAP_BYTES);
  return start;
}

/** iommufd_viommu_alloc_ioctl(), mock_viommu_init(). */
export function viommuAlloc(call: Call): void {
  const { context } = call;
  const type = call.u32(8);
  const data: UserData = { memory: call.memory, type, va: call.u64(32), length: call.u32(24) };
  must(call.u32(4) === 0 && type !== 0, EOPNOTSUPP);
  context.get(call.u32(12), 'device');
  must(type === TYPE_SELFTEST, EOPNOTSUPP);
  const hwpt = context.get(call.u32(16), 'hwpt-paging');
  must(hwpt.nestParent, EINVAL);
  let mmapOffset = 0n;
  if (data.length > 0) {
    const struct = copyUserData(data, TYPE_SELFTEST, 24, 8);
    const view = new DataView(struct.buffer);
    mmapOffset = allocMmap(context);
    view.setUint32(4, view.getUint32(0, true), true);
    view.setBigUint64(8, mmapOffset, true);
    view.setBigUint64(16, MMAP_BYTES, true);
    call.memory.write(data.va, struct.subarray(0, data.length));
  }
  hwpt.users++;
  const viommu = context.add({
    type: 'viommu',
    id: 0,
    users: 1,
    hwpt,
    vdevices: new Map(),
    veventqs: [],
    queues: Array.from({ length: QUEUES_MAX }, () => null),
    mmapOffset,
  } satisfies Viommu as Viommu);
  call.setU32(20, viommu.id);
  call.respond();
}

/** iommufd_vdevice_alloc_ioctl(). */
export function vdeviceAlloc(call: Call): void {
  const { context } = call;
  const virtId = call.u64(16);
  const viommu = context.get(call.u32(4), 'viommu');
  const device = context.get(call.u32(8), 'device');
  must(device.vdevice === null && !viommu.vdevices.has(virtId), EEXIST);
  const vdevice = context.add({ type: 'vdevice' as const, id: 0, users: 1, viommu, device, virtId });
  viommu.vdevices.set(virtId, vdevice);
  viommu.users++;
  device.vdevice = vdevice;
  call.setU32(12, vdevice.id);
  call.respond();
}

/** iommufd_hw_queue_alloc_phys(): what the queue lies in, pinned and physically contiguous. */
function pinQueue(
  context: Context,
  viommu: Viommu,
  first: bigint,
  last: bigint,
): { access: Access; pa: number } {
  const access = newInternalAccess(context, viommu.hwpt.ioas);
  let pinned = false;
  try {
    const frames = pinPages(viommu.hwpt.ioas.iopt, first, last - first + 1n, false, true);
    pinned = true;
    must(
      frames.every((frame, index) => frame === frames[0]! + index * PAGE),
      EFAULT,
    );
    return { access, pa: frames[0]! };
  } catch (error) {
    if (pinned) releaseAccess(access, { first, last, internal: true });
    else releaseAccess(access);
    throw error;
  }
}

/** mock_hw_queue_init_phys(). */
function checkIndex(viommu: Viommu, index: number): HwQueue | null {
  must(index < QUEUES_MAX, EINVAL);
  must(viommu.queues[index] === null, EEXIST);
  const previous = index === 0 ? null : viommu.queues[index - 1]!;
  must(index === 0 || previous !== null, EIO);
  return previous;
}

/** iommufd_hw_queue_alloc_ioctl(). */
export function hwQueueAlloc(call: Call): void {
  const { context } = call;
  const type = call.u32(12);
  const index = call.u32(16);
  const iova = call.u64(24);
  const length = call.u64(32);
  must(call.u32(4) === 0 && type !== 0, EOPNOTSUPP);
  must(length !== 0n, EINVAL);
  must(add(iova, length - 1n) !== null, EOVERFLOW);
  const viommu = context.get(call.u32(8), 'viommu');
  must(type === TYPE_SELFTEST, EOPNOTSUPP);
  const first = alignDown(iova);
  const offset = iova - first;
  const rounded = add(offset, length) === null ? null : add(offset + length, PAGE_N - 1n);
  must(rounded !== null, ERANGE);
  const bytes = alignDown(rounded);
  must((bytes / PAGE_N) * 8n <= KVMALLOC_MAX, ENOMEM);
  const last = first + bytes - 1n;
  const { access, pa } = pinQueue(context, viommu, first, last);
  try {
    const previous = checkIndex(viommu, index);
    must(pa + Number(offset) === viommu.hwpt.domain.physOf(iova), EFAULT);
    const queue = context.add({
      type: 'hw-queue',
      id: 0,
      users: 1,
      viommu,
      access,
      base: iova,
      first,
      last,
      previous,
    } satisfies HwQueue as HwQueue);
    context.add(access);
    viommu.users++;
    viommu.queues[index] = queue;
    if (previous !== null) previous.users++;
    call.setU32(20, queue.id);
  } catch (error) {
    releaseAccess(access, { first, last, internal: true });
    throw error;
  }
  call.respond();
}
