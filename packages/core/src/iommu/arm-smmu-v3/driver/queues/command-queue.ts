import { assert } from '../../../../base/assert.ts';
import { fail, failed, type Result } from '../../../../base/result.ts';
import { hex, PAGE_SIZE, u64 } from '../../../../base/u64.ts';
import type { PhysicalSpace } from '../../../../memory/physical-space.ts';
import { CMD_BYTES, SYNC_CS } from '../../spec/commands.ts';
import { queueCount, queueMask, queueSlot } from '../../spec/queues.ts';
import { CERROR, CMDQ_CONS } from '../../spec/registers.ts';
import type { Mmio } from '../../../drivers/mmio.ts';
import { sync as syncCommand, type Command } from './commands.ts';
import { ETIMEDOUT } from '../../../../abi/errno.ts';
import { POLLS_MAX } from '../../../drivers/mmio.ts';

// A command queue in memory and how commands get into it: arm-smmu-v3.c __arm_smmu_cmdq_issue_cmdlist(). The kernel's
// queue is shared by CPUs that insert at once; here one caller follows another, which leaves of the algorithm: room,
// entries, PROD, and the wait for CMD_SYNC.

export type SyncSignal = 'msi' | 'event' | 'none';

export interface CommandQueueOptions {
  readonly physical: PhysicalSpace;
  readonly mmio: Mmio;
  readonly prodOffset: number;
  readonly consOffset: number;
  readonly log2: number;
  /** How completion of a CMD_SYNC shows: a write to memory, an event with CONS, or CONS alone. */
  readonly signal: SyncSignal;
  /** Errors that the hardware has reported and that wait for their handler: without it the queue would stand still. */
  readonly service: () => void;
  readonly log: (text: string) => void;
  /** Commands that the queue takes; all where absent. */
  readonly supports?: (command: Command) => boolean;
}

const CERROR_NAMES: Readonly<Record<number, string>> = {
  [CERROR.NONE]: 'No error',
  [CERROR.ILL]: 'Illegal command',
  [CERROR.ABT]: 'Abort on command fetch',
  [CERROR.ATC_INV_SYNC]: 'ATC invalidate timeout',
};

/** Pages of a queue of 2^log2 entries. */
export function queuePages(log2: number, entryBytes: number): number {
  return Math.ceil((2 ** log2 * entryBytes) / PAGE_SIZE);
}

/** struct arm_smmu_cmdq. */
export class CommandQueue {
  readonly base: number;
  readonly log2: number;
  readonly #options: CommandQueueOptions;
  readonly #word = new Uint32Array(2);
  #prod = 0;
  #cons = 0;

  constructor(options: CommandQueueOptions) {
    this.#options = options;
    this.log2 = options.log2;
    this.base = options.physical.allocate(queuePages(options.log2, CMD_BYTES));
  }

  get prod(): number {
    return this.#prod;
  }

  get cons(): number {
    return this.#cons;
  }

  /** False where the queue cannot take the command; the SMMU's own can. */
  supports(command: Command): boolean {
    return this.#options.supports?.(command) ?? true;
  }

  free(): void {
    this.#options.physical.free(this.base, queuePages(this.log2, CMD_BYTES));
  }

  /** Inserts the commands, with a CMD_SYNC behind them that is waited for. ETIMEDOUT where it does not complete. */
  issue(commands: readonly Command[], sync: boolean): Result<void> {
    const { mmio, prodOffset } = this.#options;
    const total = commands.length + (sync ? 1 : 0);
    this.#makeRoom(total);
    for (const command of commands) this.#push(command);
    const syncAt = this.#prod;
    if (sync) this.#push(this.#makeSync(syncAt));
    mmio.write32(prodOffset, this.#prod);
    return sync ? this.#waitForSync(syncAt) : undefined;
  }

  #space(): number {
    return 2 ** this.log2 - queueCount(this.#prod, this.#cons, this.log2);
  }

  // arm_smmu_cmdq_poll_until_not_full()
  #makeRoom(entries: number): void {
    assert(entries <= 2 ** this.log2, 'more commands than the queue has room for');
    for (let polls = 0; this.#space() < entries; polls++) {
      this.#readCons();
      if (this.#space() >= entries) return;
      assert(polls < POLLS_MAX, 'CMDQ timeout: the command queue is full and does not move');
      this.#options.service();
      this.#options.mmio.relax();
    }
  }

  #readCons(): void {
    this.#cons = this.#options.mmio.read32(this.#options.consOffset) & queueMask(this.log2);
  }

  #entry(index: number): number {
    return this.base + queueSlot(index, this.log2) * CMD_BYTES;
  }

  #push(command: Command): void {
    this.#write(this.#entry(this.#prod), command);
    this.#prod = (this.#prod + 1) & queueMask(this.log2);
  }

  #write(at: number, command: Command): void {
    const { physical } = this.#options;
    const low = physical.store64(at, command[0]!, command[1]!);
    assert(low && physical.store64(at + 8, command[2]!, command[3]!), 'the command queue is gone');
  }

  // arm_smmu_cmdq_build_sync_cmd(): an MSI goes into the CMD_SYNC itself.
  #makeSync(index: number): Command {
    switch (this.#options.signal) {
      case 'msi':
        return syncCommand(SYNC_CS.IRQ, this.#entry(index));
      case 'event':
        return syncCommand(SYNC_CS.SEV, 0);
      case 'none':
        return syncCommand(SYNC_CS.NONE, 0);
    }
  }

  #waitForSync(index: number): Result<void> {
    for (let polls = 0; polls < POLLS_MAX; polls++) {
      if (this.#completed(index)) return;
      this.#options.service();
      this.#options.mmio.relax();
    }
    const { mmio, prodOffset, consOffset, log } = this.#options;
    const where = `hwprod ${hex(mmio.read32(prodOffset))}, hwcons ${hex(mmio.read32(consOffset))}`;
    log(`CMD_SYNC timeout at ${hex(index)} [${where}]`);
    return fail(ETIMEDOUT, 'CMD_SYNC does not complete');
  }

  #completed(index: number): boolean {
    if (this.#options.signal === 'msi') {
      if (!this.#options.physical.load64(this.#entry(index), this.#word) || this.#word[0] !== 0) return false;
      this.#cons = (index + 1) & queueMask(this.log2);
      return true;
    }
    this.#readCons();
    // Consumed: nothing from `index` on is between CONS and PROD.
    return queueCount(this.#prod, this.#cons, this.log2) < queueCount(this.#prod, index, this.log2);
  }

  /**
   * __arm_smmu_cmdq_skip_err(): the command at which the hardware stopped becomes a CMD_SYNC, unless it is worth another
   * try as it is. What acknowledges the error is up to the caller.
   */
  skipError(): void {
    const { mmio, consOffset, log, physical, signal } = this.#options;
    const cons = mmio.read32(consOffset);
    const error = (cons >>> CMDQ_CONS.ERR.shift) & CMDQ_CONS.ERR.mask;
    log(`CMDQ error (cons ${hex(cons)}): ${CERROR_NAMES[error] ?? 'Unknown'}`);
    if (error === CERROR.NONE || error === CERROR.ABT || error === CERROR.ATC_INV_SYNC) return;
    const at = this.#entry(cons);
    const words = [0, 8].map((offset) => {
      physical.load64(at + offset, this.#word);
      return hex(u64(this.#word[1]!, this.#word[0]!));
    });
    log(`skipping command in error state: ${words.join(' ')}`);
    this.#write(at, syncCommand(signal === 'none' ? SYNC_CS.NONE : SYNC_CS.SEV, 0));
  }
}

/** Where commands go, by what they are: struct arm_smmu_device as a batch sees it. */
export interface BatchTarget {
  queueFor(command: Command): CommandQueue;
  issue(queue: CommandQueue, commands: readonly Command[], sync: boolean): Result<void>;
  /** True where a full batch of such commands must not go without a CMD_SYNC. */
  forcesSync(first: Command, count: number): boolean;
}

/** struct arm_smmu_cmdq_batch: up to `size` commands that go to the queue together. */
export class CommandBatch {
  readonly #target: BatchTarget;
  readonly #size: number;
  #queue: CommandQueue;
  #commands: Command[] = [];

  /** `first` only chooses the queue. */
  constructor(target: BatchTarget, first: Command, size: number) {
    this.#target = target;
    this.#size = size;
    this.#queue = target.queueFor(first);
  }

  add(command: Command): void {
    const commands = this.#commands;
    const force =
      !this.#queue.supports(command) ||
      (commands.length > 0 && this.#target.forcesSync(commands[0]!, commands.length));
    if (force || commands.length === this.#size) {
      this.#target.issue(this.#queue, commands, force);
      this.#queue = this.#target.queueFor(command);
      this.#commands = [];
    }
    this.#commands.push(command);
  }

  /** Sends what is left, and waits. */
  submit(): Result<void> {
    const done = this.#target.issue(this.#queue, this.#commands, true);
    this.#commands = [];
    return failed(done) ? done : undefined;
  }

  get empty(): boolean {
    return this.#commands.length === 0;
  }
}
