import { Fifo } from '../../base/fifo.ts';
import { LowestFree } from '../../base/lowest-free.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMUFD_PAGE_RESP_INVALID,
  IOMMUFD_PAGE_RESP_SUCCESS,
  iommu_fault_alloc,
  iommu_hwpt_page_response,
  iommu_hwpt_pgfault,
} from '../../abi/iommufd.ts';
import type { AttachHandle } from '../../iommu/driver.ts';
import { IOMMU_PAGE_RESP_INVALID, type IopfGroup } from '../../iommu/iopf.ts';
import type { Task } from '../../memory/process.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import { EventFile } from './event-file.ts';
import type { IommufdAttachHandle } from '../device/group.ts';
import { IommufdObject } from '../objects.ts';
import { hasFix } from '../profile.ts';

// drivers/iommu/iommufd/eventq.c: page faults that wait for a program's answer.

/** Before this Linux a count that does not fit the first group read nothing, without an error. 6.12.101 took it over. */
const COUNT_CHECKED_SINCE = 702;
/** Before this Linux an answer that cannot be read was told by the number of its bytes. 6.12.94 took it over. */
const WRITE_FAULTS_SINCE = 701;
const BACKPORTED = [612];

/** struct iommufd_fault. */
export class FaultQueue extends IommufdObject {
  readonly type = 'FAULT';
  readonly file: FaultFile;
  /** Groups that no program has read. */
  readonly deliverable = new Fifo<IopfGroup>();
  /** Groups that were read and wait for their answer, by cookie. */
  readonly #unanswered = new Map<number, IopfGroup>();
  readonly #cookies = new LowestFree(1);

  constructor(context: IommufdContext) {
    super();
    this.file = new FaultFile(context, this);
  }

  /** iommufd_fault_iopf_handler(). */
  deliver(group: IopfGroup): boolean {
    group.device.faults?.pending.delete(group);
    this.deliverable.push(group);
    this.file.onReadableChange?.();
    return true;
  }

  /** iommufd_auto_response_faults(): what is under way when a domain is detached is refused. */
  autoRespond(handle: AttachHandle): void {
    for (const group of this.deliverable.take((each) => each.handle === handle))
      group.respond(IOMMU_PAGE_RESP_INVALID);
    for (const [cookie, group] of this.#unanswered) {
      if (group.handle !== handle) continue;
      this.takeUnanswered(cookie);
      group.respond(IOMMU_PAGE_RESP_INVALID);
    }
    this.file.onReadableChange?.();
  }

  /** Gives a group that is being read its cookie: the lowest free number from 1 on. */
  expectAnswer(group: IopfGroup): void {
    group.cookie = this.#cookies.take();
    this.#unanswered.set(group.cookie, group);
  }

  /** Takes back {@link expectAnswer}, or ends the wait with an answer. Null where nobody waits for it. */
  takeUnanswered(cookie: number): IopfGroup | null {
    const group = this.#unanswered.get(cookie) ?? null;
    if (this.#unanswered.delete(cookie)) this.#cookies.give(cookie);
    return group;
  }

  destroy(): void {
    for (const group of this.deliverable.take(() => true)) group.respond(IOMMU_PAGE_RESP_INVALID);
    for (const group of this.#unanswered.values()) group.respond(IOMMU_PAGE_RESP_INVALID);
    this.#unanswered.clear();
  }
}

/** The queue's descriptor: groups are read whole, answers are written. */
export class FaultFile extends EventFile {
  readonly type = 'fault-queue';
  readonly #queue: FaultQueue;

  constructor(context: IommufdContext, queue: FaultQueue) {
    super(context, queue);
    this.#queue = queue;
  }

  get readable(): boolean {
    return this.#queue.deliverable.length > 0;
  }

  /** iommufd_fault_fops_read(). */
  read(task: Task, va: bigint, count: number): number {
    const record = iommu_hwpt_pgfault.size;
    if (count % record !== 0) return EventFile.badCount;
    const queue = this.#queue;
    let done = 0;
    for (let group = queue.deliverable.first; group !== undefined; group = queue.deliverable.first) {
      const bytes = group.faults.length * record;
      if (done >= count || bytes > count - done) {
        const checked = hasFix(this.context.shared.profile.version, COUNT_CHECKED_SINCE, BACKPORTED);
        if (done === 0 && checked) return -EINVAL;
        break;
      }
      if (this.context.kernel.failpoint()) return done === 0 ? -ENOMEM : done;
      queue.expectAnswer(group);
      if (!task.process.memory.write(va + big(done), faultRecords(group))) {
        queue.takeUnanswered(group.cookie);
        return done === 0 ? -EFAULT : done;
      }
      queue.deliverable.shift();
      done += bytes;
    }
    this.onReadableChange?.();
    return done;
  }

  /** iommufd_fault_fops_write(). */
  override write(task: Task, va: bigint, count: number): number {
    const record = iommu_hwpt_page_response.size;
    if (count % record !== 0) return EventFile.badCount;
    const bytes = new Uint8Array(record);
    let done = 0;
    const stop = (errno: number): number => (done === 0 ? -errno : done);
    const faults = hasFix(this.context.shared.profile.version, WRITE_FAULTS_SINCE, BACKPORTED);
    while (done < count) {
      if (!task.process.memory.read(va + big(done), bytes)) return faults ? stop(EFAULT) : done || record;
      const response = iommu_hwpt_page_response.read(bytes);
      if (response.code !== IOMMUFD_PAGE_RESP_SUCCESS && response.code !== IOMMUFD_PAGE_RESP_INVALID)
        return stop(EINVAL);
      const group = this.#queue.takeUnanswered(response.cookie);
      if (group === null) return stop(EINVAL);
      group.respond(response.code);
      done += record;
    }
    return done;
  }
}

// iommufd_compose_fault_message()
function faultRecords(group: IopfGroup): Uint8Array {
  const bytes = new Uint8Array(group.faults.length * iommu_hwpt_pgfault.size);
  const { idev } = group.handle as IommufdAttachHandle;
  for (const [index, fault] of group.faults.entries()) {
    const record = iommu_hwpt_pgfault.create();
    record.flags = fault.flags;
    record.dev_id = idev.id;
    record.pasid = fault.pasid;
    record.grpid = fault.grpid;
    record.perm = fault.perm;
    record.addr = fault.addr;
    record.cookie = group.cookie;
    iommu_hwpt_pgfault.write(bytes, index * iommu_hwpt_pgfault.size, record);
  }
  return bytes;
}

/** IOMMU_FAULT_QUEUE_ALLOC. */
export function faultAlloc(command: Command): Result<number> {
  const cmd = iommu_fault_alloc.read(command.bytes);
  const { context } = command;
  if (cmd.flags !== 0) return fail(EOPNOTSUPP, 'flags must be 0');
  const queue = new FaultQueue(context);
  const allocated = context.objects.allocate(queue);
  if (failed(allocated)) {
    queue.file.release();
    return allocated;
  }
  const rc = context.kernel.failpoint()
    ? fail(ENOMEM, 'no memory for the file')
    : command.respondWithFile(queue.file, (fd) => {
        cmd.out_fault_id = queue.id;
        cmd.out_fault_fd = fd;
        iommu_fault_alloc.write(command.bytes, 0, cmd);
      });
  if (failed(rc)) {
    queue.file.release();
    queue.destroy();
    context.objects.abort(queue);
    return rc;
  }
  context.objects.publish(queue);
  return 0;
}
