import { fail, type Result } from '../base/result.ts';
import { EFAULT } from '../abi/errno.ts';
import type { AddressSpace, Task } from '../memory/process.ts';
import type { OpenFile } from '../memory/file.ts';
import type { IommufdContext } from './context.ts';
import type { IommufdObject } from './objects.ts';

/** One request: drivers/iommu/iommufd/iommufd_private.h struct iommufd_ucmd. The struct was read once; `bytes` is it. */
export class Command {
  readonly context: IommufdContext;
  readonly task: Task;
  /** Where the program has the struct. */
  readonly ubuffer: bigint;
  /** How many bytes of the struct the program and this Linux both know: what is answered. */
  readonly userSize: number;
  readonly bytes: Uint8Array;
  /** An object that the dispatcher publishes, or takes back where the request fails. */
  newObject: IommufdObject | null = null;

  constructor(context: IommufdContext, task: Task, ubuffer: bigint, userSize: number, bytes: Uint8Array) {
    this.context = context;
    this.task = task;
    this.ubuffer = ubuffer;
    this.userSize = userSize;
    this.bytes = bytes;
  }

  get memory(): AddressSpace {
    return this.task.process.memory;
  }

  /** iommufd_ucmd_respond(): EFAULT where the program's struct cannot be written. */
  respond<V>(layout: { write(into: Uint8Array, at: number, value: V): void }, value: V): Result<void> {
    layout.write(this.bytes, 0, value);
    return this.writeBack();
  }

  /** Writes the struct back as it stands in `bytes`. */
  writeBack(): Result<void> {
    if (this.context.kernel.failpoint()) return fail(EFAULT, 'the answer cannot be copied');
    const { bytes, userSize } = this;
    if (!this.memory.write(this.ubuffer, userSize === bytes.length ? bytes : bytes.subarray(0, userSize)))
      return fail(EFAULT, 'the struct of the request cannot be written');
  }

  /**
   * Answers with a new descriptor: `store` puts its number, and whatever else is answered, into the struct. That the
   * struct can be written is seen before the descriptor is installed, as nothing may fail after that; so `bytes` must
   * still be what the program gave.
   */
  respondWithFile(file: OpenFile, store: (fd: number) => void): Result<void> {
    const writable = this.writeBack();
    if (writable !== undefined) return writable;
    const fd = this.task.process.install(file, { closeOnExec: true });
    if (typeof fd !== 'number') return fd;
    store(fd);
    this.memory.write(this.ubuffer, this.bytes.subarray(0, this.userSize));
  }
}
