import { nameOf } from '../../base/bit-fields.ts';
import { queuePlace, type QueuePlace } from '../../iommu/arm-smmu-v3/hardware/queues/queue-place.ts';
import type { Interrupts } from '../../iommu/arm-smmu-v3/hardware/registers/interrupts.ts';
import type { RegisterFile } from '../../iommu/arm-smmu-v3/hardware/registers/registers.ts';
import { CMD, CMD_BYTES, CMD_WORDS } from '../../iommu/arm-smmu-v3/spec/commands.ts';
import {
  queueCount,
  queueEmpty,
  queueMask,
  queueNext,
  queueSlot,
} from '../../iommu/arm-smmu-v3/spec/queues.ts';
import { CERROR, CMDQ_CONS, CR0, GERROR, OFFSET } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import type { PhysicalMemory } from '../../memory/physical.ts';
import type { Trace } from '../../trace/trace.ts';

/** What becomes of the guest's commands. */
export interface CommandTarget {
  /**
   * Takes one command of four words: 'forward' where it is one for the physical SMMU, else what it came to. Whatever
   * was forwarded before has been sent by then, unless `command` is forwarded too.
   */
  take(command: Uint32Array): 'forward' | number;
  /** Sends commands on, in order: how many were handled, and what the next came to. */
  send(commands: readonly Uint32Array[]): { readonly handled: number; readonly error: number };
  /** True where the command has to be behind all that was forwarded. */
  waits(command: Uint32Array): boolean;
  /** CMD_SYNC is consumed. */
  completeSync(command: Uint32Array): void;
}

/** Commands that one request to the kernel carries. */
const BATCH_MAX = 64;

/** The guest's Command queue (IHI 0070, §3.5, §7.1): taken in order, forwarded in batches. */
export class GuestCommandQueue {
  readonly #memory: PhysicalMemory;
  readonly #log2Max: number;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #target: CommandTarget;
  readonly #trace: Trace | null;
  #place: QueuePlace = { base: 0, log2: 0 };
  /** Commands from CONS on that are read and not yet sent. */
  #batch: Uint32Array[] = [];
  #running = false;

  constructor(
    memory: PhysicalMemory,
    log2Max: number,
    registers: RegisterFile,
    interrupts: Interrupts,
    target: CommandTarget,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#log2Max = log2Max;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#target = target;
    this.#trace = trace;
  }

  /** The base register or CONS changed. */
  configure(): void {
    this.#place = queuePlace(this.#registers, OFFSET.CMDQ_BASE, this.#log2Max, CMD_BYTES);
    const cons = this.#registers.get(OFFSET.CMDQ_CONS);
    const keep = CMDQ_CONS.ERR.inPlace | queueMask(this.#place.log2);
    this.#registers.set(OFFSET.CMDQ_CONS, (cons & keep) >>> 0);
  }

  get #stopped(): boolean {
    return !this.#registers.enabled(CR0.CMDQEN.inPlace) || this.#interrupts.active(GERROR.CMDQ_ERR.inPlace);
  }

  /** Takes what there is, until the queue is empty or a command cannot be consumed. */
  run(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      while (!this.#stopped && this.#next());
      if (!this.#stopped) this.#flush();
    } finally {
      this.#batch = [];
      this.#running = false;
    }
  }

  /** Reads the command after those of the batch. False where there is none, or the queue has stopped. */
  #next(): boolean {
    const { base, log2 } = this.#place;
    const prod = this.#registers.get(OFFSET.CMDQ_PROD);
    const cons = this.#registers.get(OFFSET.CMDQ_CONS) & queueMask(log2);
    const at = (cons + this.#batch.length) & queueMask(log2);
    if (queueEmpty(prod, at, log2) || queueCount(prod, at, log2) > 1 << log2) return false;
    const words = this.#fetch(base + queueSlot(at, log2) * CMD_BYTES);
    if (words === null) return this.#flush() && this.#stop(CERROR.ABT);
    if (this.#target.waits(words) && !this.#flush()) return false;
    const taken = this.#target.take(words);
    if (taken === 'forward') {
      this.#batch.push(words);
      return this.#batch.length < BATCH_MAX || this.#flush();
    }
    // A command of ours is consumed when those before it are.
    if (!this.#flush()) return false;
    if (taken !== CERROR.NONE) return this.#stop(taken);
    this.#consume(1);
    if ((words[0]! & 0xff) === CMD.SYNC) this.#target.completeSync(words);
    return true;
  }

  /** Sends the batch. False where the queue has stopped at one of it. */
  #flush(): boolean {
    const batch = this.#batch;
    if (batch.length === 0) return true;
    this.#batch = [];
    const { handled, error } = this.#target.send(batch);
    this.#consume(handled);
    return handled === batch.length || this.#stop(error);
  }

  #consume(count: number): void {
    const { log2 } = this.#place;
    const cons = this.#registers.get(OFFSET.CMDQ_CONS);
    let index = cons & queueMask(log2);
    for (let i = 0; i < count; i++) index = queueNext(index, log2);
    this.#registers.set(OFFSET.CMDQ_CONS, ((cons & CMDQ_CONS.ERR.inPlace) | index) >>> 0);
  }

  #fetch(address: number): Uint32Array | null {
    const words = new Uint32Array(CMD_WORDS);
    for (let i = 0; i < CMD_WORDS; i += 2)
      if (!this.#memory.load64(address + i * 4, words.subarray(i, i + 2))) return null;
    if (this.#trace?.active === true)
      this.#trace.emit({
        kind: 'command',
        unit: 'guest-smmuv3',
        name: `CMD_${nameOf(CMD, words[0]! & 0xff)}`,
        words: [...words],
      });
    return words;
  }

  #stop(error: number): false {
    const cons = this.#registers.get(OFFSET.CMDQ_CONS) & ~CMDQ_CONS.ERR.inPlace;
    this.#registers.set(OFFSET.CMDQ_CONS, (cons | (error << CMDQ_CONS.ERR.shift)) >>> 0);
    if (this.#trace?.active === true)
      this.#trace.emit({ kind: 'command-error', unit: 'guest-smmuv3', error: nameOf(CERROR, error) });
    this.#interrupts.error(GERROR.CMDQ_ERR.inPlace);
    return false;
  }
}
