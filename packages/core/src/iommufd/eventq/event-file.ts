import { ENOTTY, ESPIPE, EINVAL } from '../../abi/errno.ts';
import type { OpenFile } from '../../memory/file.ts';
import type { Task } from '../../memory/process.ts';
import type { IommufdContext } from '../context.ts';
import type { IommufdObject } from '../objects.ts';

/** The descriptor of an event queue: drivers/iommu/iommufd/eventq.c struct iommufd_eventq's file. */
export abstract class EventFile implements OpenFile {
  abstract readonly type: 'fault-queue' | 'veventq';
  onReadableChange: (() => void) | undefined;
  protected readonly context: IommufdContext;
  readonly #object: IommufdObject;

  constructor(context: IommufdContext, object: IommufdObject) {
    this.context = context;
    this.#object = object;
    context.get();
    object.users++;
  }

  abstract get readable(): boolean;
  abstract read(task: Task, va: bigint, count: number): number;

  /** Queues that take no answers have no write operation: EINVAL (fs/read_write.c vfs_write()). */
  write(_task: Task, _va: bigint, _count: number): number {
    return -EINVAL;
  }

  ioctl(_task: Task, _cmd: number, _arg: bigint): number {
    return -ENOTTY;
  }

  release(): void {
    this.#object.users--;
    this.context.put();
  }

  /** A count that is not a multiple of the record's size. */
  protected static readonly badCount = -ESPIPE;
}
