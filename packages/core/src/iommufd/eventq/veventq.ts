import { Fifo } from '../../base/fifo.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EEXIST, EFAULT, EINVAL, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_VEVENTQ_FLAG_LOST_EVENTS,
  IOMMU_VEVENTQ_TYPE_DEFAULT,
  iommu_veventq_alloc,
  iommufd_vevent_header,
} from '../../abi/iommufd.ts';
import type { Task } from '../../memory/process.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import { EventFile } from './event-file.ts';
import { IommufdObject } from '../objects.ts';
import { getViommu, type Viommu } from '../viommu/viommu.ts';

// drivers/iommu/iommufd/eventq.c and iommufd_private.h iommufd_vevent_handler(): events of a viommu. A queue that
// overflows keeps one header that says so, and the sequence numbers go on.

/** Sequence numbers have 31 bits. */
const SEQUENCE_MASK = 0x7fff_ffff;
/** eventq.c VEVENTQ_MAX_DEPTH, and the Linux it came with. */
const DEPTH_MAX = 1 << 19;
const DEPTH_BOUND_SINCE = 702;
/** Before this Linux, a count that fits no event read nothing, without an error. */
const SHORT_READ_FAILS_SINCE = 702;

interface Vevent {
  sequence: number;
  /** Null for the header that tells of lost events. */
  readonly data: Uint8Array | null;
}

/** struct iommufd_veventq. */
export class Veventq extends IommufdObject {
  readonly type = 'VEVENTQ';
  readonly eventType: number;
  readonly file: VeventFile;
  readonly viommu: Viommu;
  readonly depth: number;
  readonly events = new Fifo<Vevent>();
  readonly #lost: Vevent = { sequence: 0, data: null };
  #sequence = 0;
  #count = 0;

  constructor(context: IommufdContext, viommu: Viommu, eventType: number, depth: number) {
    super();
    this.viommu = viommu;
    this.eventType = eventType;
    this.depth = depth;
    viommu.users++;
    viommu.veventqs.push(this);
    this.file = new VeventFile(context, this);
  }

  /** iommufd_viommu_report_event(). ENOMEM where there is no memory for the event, which then counts as lost. */
  report(context: IommufdContext, data: Uint8Array): Result<void> {
    if (context.kernel.failpoint()) {
      this.#add(this.#lost);
      return fail(ENOMEM, 'no memory for the event');
    }
    if (this.#count === this.depth) {
      this.#add(this.#lost);
      return;
    }
    this.#count++;
    this.#add({ sequence: 0, data: data.slice() });
  }

  // iommufd_vevent_handler(): a header at the end gives way to whatever comes next.
  #add(event: Vevent): void {
    if (this.events.last === this.#lost) this.events.pop();
    event.sequence = this.#sequence;
    this.#sequence = (this.#sequence + 1) & SEQUENCE_MASK;
    this.events.push(event);
    this.file.onReadableChange?.();
  }

  /** Removes the first event, which has been copied to the program. */
  shift(): void {
    if (this.events.shift()!.data !== null) this.#count--;
  }

  destroy(): void {
    this.viommu.veventqs.splice(this.viommu.veventqs.indexOf(this), 1);
    this.viommu.users--;
    this.events.take(() => true);
  }
}

/** The queue's descriptor. */
export class VeventFile extends EventFile {
  readonly type = 'veventq';
  readonly #queue: Veventq;

  constructor(context: IommufdContext, queue: Veventq) {
    super(context, queue);
    this.#queue = queue;
  }

  get readable(): boolean {
    return this.#queue.events.length > 0;
  }

  /** iommufd_veventq_fops_read(): whole events, each behind its header. */
  read(task: Task, va: bigint, count: number): number {
    const header = iommufd_vevent_header.size;
    const tooShort = this.context.shared.profile.version >= SHORT_READ_FAILS_SINCE ? -EINVAL : 0;
    if (count < header) return tooShort;
    const { events } = this.#queue;
    let done = 0;
    for (let event = events.first; event !== undefined; event = events.first) {
      if (header > count - done) break;
      const bytes = vevent(event);
      if (bytes.length > count - done) {
        if (done === 0) return tooShort;
        break;
      }
      if (event.data === null && this.context.kernel.failpoint()) return done === 0 ? -ENOMEM : done;
      if (!task.process.memory.write(va + big(done), bytes)) return done === 0 ? -EFAULT : done;
      this.#queue.shift();
      done += bytes.length;
    }
    this.onReadableChange?.();
    return done;
  }
}

function vevent(event: Vevent): Uint8Array {
  const bytes = new Uint8Array(iommufd_vevent_header.size + (event.data?.length ?? 0));
  const flags = event.data === null ? IOMMU_VEVENTQ_FLAG_LOST_EVENTS : 0;
  iommufd_vevent_header.write(bytes, 0, { flags, sequence: event.sequence });
  if (event.data !== null) bytes.set(event.data, iommufd_vevent_header.size);
  return bytes;
}

/** IOMMU_VEVENTQ_ALLOC. */
export function veventqAlloc(command: Command): Result<number> {
  const cmd = iommu_veventq_alloc.read(command.bytes);
  const { context } = command;
  if (cmd.flags !== 0 || cmd.__reserved !== 0 || cmd.type === IOMMU_VEVENTQ_TYPE_DEFAULT)
    return fail(EOPNOTSUPP, 'flags and __reserved must be 0, type must not');
  if (cmd.veventq_depth === 0) return fail(EINVAL, 'veventq_depth is 0');
  if (cmd.veventq_depth > DEPTH_MAX && context.shared.profile.version >= DEPTH_BOUND_SINCE)
    return fail(EINVAL, `veventq_depth is more than ${DEPTH_MAX}`);
  const viommu = getViommu(context, cmd.viommu_id);
  if (failed(viommu)) return viommu;
  if (viommu.veventqs.some((queue) => queue.eventType === cmd.type))
    return fail(EEXIST, `the viommu has a queue of type ${cmd.type}`);
  const queue = new Veventq(context, viommu, cmd.type, cmd.veventq_depth);
  const abort = (failure: Result<number>): Result<number> => {
    queue.file.release();
    queue.destroy();
    return failure;
  };
  const allocated = context.objects.allocate(queue);
  if (failed(allocated)) return abort(allocated);
  const rc = context.kernel.failpoint()
    ? fail(ENOMEM, 'no memory for the file')
    : command.respondWithFile(queue.file, (fd) => {
        cmd.out_veventq_id = queue.id;
        cmd.out_veventq_fd = fd;
        iommu_veventq_alloc.write(command.bytes, 0, cmd);
      });
  if (failed(rc)) {
    context.objects.abort(queue);
    return abort(rc);
  }
  context.objects.publish(queue);
  return 0;
}
