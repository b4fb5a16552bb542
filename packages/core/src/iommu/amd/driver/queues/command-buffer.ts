import { assert } from '../../../../base/assert.ts';
import { fail, failed, type Result } from '../../../../base/result.ts';
import { big, lo32, u64 } from '../../../../base/u64.ts';
import { EIO } from '../../../../abi/errno.ts';
import type { PhysicalSpace } from '../../../../memory/physical-space.ts';
import { POLLS_MAX, type Mmio } from '../../../drivers/mmio.ts';
import { pagesOf } from '../../../drivers/table-memory.ts';
import { CMD_BYTES } from '../../spec/commands.ts';
import { OFFSET } from '../../spec/registers.ts';
import { completionWait, type Command } from './commands.ts';
import { COMMAND_ROOM_BYTES, RING_LOG2 } from '../limits.ts';

const RING_BYTES = 2 ** RING_LOG2 * CMD_BYTES;

/** The command buffer of an IOMMU, and the wait for what is in it: drivers/iommu/amd/iommu.c. */
export class CommandBuffer {
  readonly base: number;
  /** Where COMPLETION_WAIT stores its sequence number. */
  readonly semaphore: number;
  readonly #physical: PhysicalSpace;
  readonly #mmio: Mmio;
  readonly #log: (text: string) => void;
  readonly #word = new Uint32Array(2);
  #head = 0;
  #tail = 0;
  /** A command came after the last COMPLETION_WAIT. */
  #needSync = false;
  #sequence = 0;

  constructor(physical: PhysicalSpace, mmio: Mmio, log: (text: string) => void) {
    this.#physical = physical;
    this.#mmio = mmio;
    this.#log = log;
    this.base = physical.allocate(pagesOf(RING_BYTES));
    this.semaphore = physical.allocate(1);
  }

  /** amd_iommu_reset_cmd_buffer(), between disabling and enabling. */
  rewind(): void {
    this.#mmio.write32(OFFSET.CMD_HEAD, 0);
    this.#mmio.write32(OFFSET.CMD_TAIL, 0);
    this.#head = 0;
    this.#tail = 0;
  }

  free(): void {
    this.#physical.free(this.base, pagesOf(RING_BYTES));
    this.#physical.free(this.semaphore, 1);
  }

  /** iommu_queue_command(): EIO where the buffer is full and does not move. */
  queue(command: Command): Result<void> {
    return this.#queue(command, true);
  }

  // __iommu_queue_command_sync()
  #queue(command: Command, sync: boolean): Result<void> {
    const next = (this.#tail + CMD_BYTES) % RING_BYTES;
    for (let polls = 0; (this.#head - next + RING_BYTES) % RING_BYTES <= COMMAND_ROOM_BYTES; polls++) {
      if (polls === POLLS_MAX) {
        this.#log('Command buffer timeout');
        return fail(EIO, 'the command buffer is full and does not move');
      }
      if (polls > 0) this.#mmio.relax();
      this.#head = this.#mmio.read32(OFFSET.CMD_HEAD);
    }
    const at = this.base + this.#tail;
    const low = this.#physical.store64(at, command[0]!, command[1]!);
    assert(low && this.#physical.store64(at + 8, command[2]!, command[3]!), 'the command buffer is gone');
    this.#tail = next;
    this.#mmio.write32(OFFSET.CMD_TAIL, next);
    this.#needSync = sync;
  }

  /** iommu_completion_wait(): everything queued has been done. EIO where that does not come true. */
  completionWait(): Result<void> {
    if (this.#needSync) {
      this.#sequence++;
      const queued = this.#queue(completionWait(this.semaphore, big(this.#sequence)), false);
      if (failed(queued)) return queued;
    }
    return this.#wait(this.#sequence);
  }

  // wait_on_sem()
  #wait(sequence: number): Result<void> {
    for (let polls = 0; polls < POLLS_MAX; polls++) {
      this.#physical.load64(this.semaphore, this.#word);
      if (lo32(u64(this.#word[1]!, this.#word[0]!)) >= sequence) return;
      this.#mmio.relax();
    }
    this.#log('Completion-Wait loop timed out');
    return fail(EIO, 'a COMPLETION_WAIT does not complete');
  }
}
