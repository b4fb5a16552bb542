import { lastByte } from '../../base/range.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import type { StructValue } from '../../base/struct.ts';
import { exact, hex, PAGE_MASK_N, PAGE_SIZE, PAGE_SIZE_N, U64_MAX } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, ERANGE } from '../../abi/errno.ts';
import { IOMMU_HW_QUEUE_TYPE_DEFAULT, iommu_hw_queue_alloc } from '../../abi/iommufd.ts';
import type { HwQueueCore } from '../../iommu/driver.ts';
import { createAccess, type Access } from '../ioas/access.ts';
import type { Command } from '../command.ts';
import { IommufdObject } from '../objects.ts';
import { getViommu, type Viommu } from './viommu.ts';

// drivers/iommu/iommufd/viommu.c: a queue in a guest's memory that the hardware reads by itself. Its pages are pinned,
// physically contiguous, and cannot be unmapped while it exists.

/** What an array of page pointers may take before the kernel has no memory for it (kvcalloc() limits: INT_MAX bytes). */
const QUEUE_PAGES_MAX = 0x7fff_ffffn / 8n;

/** struct iommufd_hw_queue. */
export class HwQueue extends IommufdObject {
  readonly type = 'HW_QUEUE';
  readonly core: HwQueueCore & { failed: boolean };
  #viommu: Viommu | null = null;
  #access: Access | null = null;
  #undo: (() => void) | null = null;

  constructor(type: number, baseAddress: bigint, length: bigint) {
    super();
    const queues = byCore;
    this.core = {
      type,
      baseAddress,
      length,
      failed: false,
      depend: (other) => void queues.get(other)!.users++,
      undepend: (other) => void queues.get(other)!.users--,
    };
    queues.set(this.core, this);
  }

  /** Takes over the pinned pages; null where hardware finds the queue by its guest address. */
  hold(viommu: Viommu, access: Access | null): void {
    this.#viommu = viommu;
    this.#access = access;
    viommu.users++;
  }

  started(undo: () => void): void {
    this.#undo = undo;
  }

  /** What the request answers, where its answer could be copied; else the queue is none. */
  made(copied: Result<void>): Result<number> {
    this.core.failed = failed(copied);
    return failed(copied) ? copied : 0;
  }

  destroy(): void {
    this.#undo?.();
    if (this.#viommu === null) return;
    if (this.#access !== null)
      destroyQueueAccess(this.#viommu, this.#access, this.core.baseAddress, this.core.length);
    this.#viommu.users--;
  }
}

// The object behind what a driver was given.
const byCore = new WeakMap<HwQueueCore, HwQueue>();

// iommufd_hw_queue_destroy_access()
function destroyQueueAccess(viommu: Viommu, access: Access, base: bigint, length: bigint): void {
  const start = base & ~PAGE_MASK_N;
  access.unpinPages(start, (length + (base - start) + PAGE_MASK_N) & ~PAGE_MASK_N);
  viommu.context.objects.destroyUser(access);
}

// iommufd_hw_queue_alloc_phys(): pins the queue's pages; answers the access that holds them and the physical address.
function pinQueue(viommu: Viommu, base: bigint, length: bigint): Result<{ access: Access; pa: number }> {
  const { context } = viommu;
  const start = base & ~PAGE_MASK_N;
  const offset = base - start;
  if (offset + length + PAGE_MASK_N > U64_MAX) return fail(ERANGE, 'the queue is too long');
  const pages = (offset + length + PAGE_MASK_N) / PAGE_SIZE_N;
  if (pages > QUEUE_PAGES_MAX || context.kernel.failpoint())
    return fail(ENOMEM, 'no memory for the page list');
  const access = createAccess(context, null);
  if (failed(access)) return access;
  const giveUp = (failure: Result<never>): Result<never> => {
    context.objects.destroyUser(access);
    return failure;
  };
  const attached = access.attachTo(viommu.hwpt.ioas);
  if (failed(attached)) return giveUp(attached);
  const frames = access.pinPages(start, pages * PAGE_SIZE_N, false);
  if (failed(frames)) return giveUp(frames);
  for (let i = 1; i < frames.length; i++) {
    if (frames[i] === frames[i - 1]! + 1) continue;
    access.unpinPages(start, pages * PAGE_SIZE_N);
    return giveUp(fail(EFAULT, `the page at ${hex(start + BigInt(i) * PAGE_SIZE_N)} is not contiguous`));
  }
  return { access, pa: frames[0]! * PAGE_SIZE + exact(offset) };
}

/** IOMMU_HW_QUEUE_ALLOC. */
export function hwQueueAlloc(command: Command): Result<number> {
  const cmd = iommu_hw_queue_alloc.read(command.bytes);
  const { context } = command;
  if (cmd.type === IOMMU_HW_QUEUE_TYPE_DEFAULT) return fail(EOPNOTSUPP, 'type must not be 0');
  const trial = context.shared.uapis.has('amd-viommu');
  if (cmd.flags !== 0 && !trial) return fail(EOPNOTSUPP, 'flags must be 0');
  if (cmd.length === 0n) return fail(EINVAL, 'length is 0');
  if (lastByte(cmd.nesting_parent_iova, cmd.length) === null)
    return fail(EOVERFLOW, 'nesting_parent_iova + length passes 2^64');
  const viommu = getViommu(context, cmd.viommu_id);
  if (failed(viommu)) return viommu;
  const { driver } = viommu;
  if (driver.hwQueueInit !== undefined) return allocByGuestAddress(command, viommu, cmd);
  if (cmd.flags !== 0) return fail(EOPNOTSUPP, 'flags must be 0');
  if (driver.hwQueueInitPhys === undefined || !(driver.hwQueueSupported?.(cmd.type) ?? false))
    return fail(EOPNOTSUPP, `the viommu offers no hardware queue of type ${cmd.type}`);
  const queue = context.objects.allocate(new HwQueue(cmd.type, cmd.nesting_parent_iova, cmd.length));
  if (failed(queue)) return queue;
  command.newObject = queue;
  const pinned = pinQueue(viommu, cmd.nesting_parent_iova, cmd.length);
  if (failed(pinned)) return pinned;
  queue.hold(viommu, pinned.access);
  const undo = driver.hwQueueInitPhys(queue.core, cmd.index, pinned.pa);
  if (failed(undo)) return undo;
  queue.started(undo);
  cmd.out_hw_queue_id = queue.id;
  return queue.made(command.respond(iommu_hw_queue_alloc, cmd));
}

/** The same where the driver has hw_queue_init(): nothing is pinned, since the hardware translates the address itself. */
function allocByGuestAddress(
  command: Command,
  viommu: Viommu,
  cmd: StructValue<typeof iommu_hw_queue_alloc>,
): Result<number> {
  const { driver } = viommu;
  if (!(driver.hwQueueSupported?.(cmd.type) ?? false))
    return fail(EOPNOTSUPP, `the viommu offers no hardware queue of type ${cmd.type}`);
  const queue = command.context.objects.allocate(new HwQueue(cmd.type, cmd.nesting_parent_iova, cmd.length));
  if (failed(queue)) return queue;
  command.newObject = queue;
  queue.hold(viommu, null);
  const undo = driver.hwQueueInit!(queue.core, cmd.index, cmd.flags);
  if (failed(undo)) return undo;
  queue.started(undo);
  return queue.made(command.respond(iommu_hw_queue_alloc, { ...cmd, out_hw_queue_id: queue.id }));
}
