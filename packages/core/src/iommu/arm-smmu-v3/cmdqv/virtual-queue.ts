import { nameOf } from '../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../memory/physical.ts';
import type { Trace } from '../../../trace/trace.ts';
import { CMD, CMD_BYTES, CMD_SYNC, CMD_TLBI, CMD_WORDS, SYNC_CS } from '../spec/commands.ts';
import { queueCount, queueEmpty, queueMask, queueNext, queueSlot, QUEUE_LOG2_MAX } from '../spec/queues.ts';
import { CERROR } from '../spec/registers.ts';
import {
  VCMDQ,
  VCMDQ_BASE,
  VCMDQ_CONFIG,
  VCMDQ_CONS,
  VCMDQ_GERROR,
  VCMDQ_PAGE1,
  VCMDQ_STATUS,
} from './spec.ts';

// One queue of commands. Its page 0 registers are words in memory, so that a program can map them: the queue compares
// them with what it last knew there. A program may store at any moment, so words that are the program's to write are
// only ever written when the kernel writes the register.

/** Where commands are executed: an SMMU. */
export interface CommandSink {
  /** Executes the four words of a command; CERROR.NONE, or why it cannot be consumed. */
  executeCommand(words: Uint32Array): number;
}

/** The pages that programs map: the machine's memory, or whatever its host shares with programs. */
export type Pages = Pick<PhysicalMemory, 'read' | 'write'>;

/** The interface that has the queue. */
export interface QueueOwner {
  readonly enabled: boolean;
  readonly hypervisorOwned: boolean;
  readonly vmid: number;
  sidOf(virtual: number): number | null;
}

export interface QueueEvents {
  /** A new error. */
  error(): void;
  readonly trace: Trace | null;
}

const ERROR = VCMDQ_GERROR.CMDQ_ERR.inPlace;
const ENABLE = VCMDQ_CONFIG.EN.inPlace;
const INDEX = VCMDQ_CONS.RD.inPlace;
/** Registers of page 0. */
const PAGE0_WORDS = 6;

/** What an interface that is not the hypervisor's may send: tegra241_guest_vcmdq_supports_cmd(). */
const GUEST_COMMANDS: ReadonlySet<number> = new Set([CMD.TLBI_NH_ASID, CMD.TLBI_NH_VA, CMD.ATC_INV]);

export class VirtualQueue {
  readonly index: number;
  readonly #memory: PhysicalMemory;
  readonly #sink: CommandSink;
  readonly #budget: number;
  readonly #events: QueueEvents;
  #owner: QueueOwner | null = null;
  /** Where the page 0 registers are. */
  #page0 = 0;
  #prod = 0;
  #cons = 0;
  #config = 0;
  #gerror = 0;
  #gerrorn = 0;
  readonly #base = new Uint32Array(2);
  readonly #consIndexBase = new Uint32Array(2);
  readonly #words = new Uint32Array(CMD_WORDS);
  readonly #pair = new Uint32Array(2);
  /** What the page says, as far as the queue knows. */
  readonly #shown = new Uint32Array(PAGE0_WORDS);
  readonly #pageBytes = new Uint8Array(PAGE0_WORDS * 4);
  readonly #pageView = new DataView(this.#pageBytes.buffer);
  readonly #word = new Uint8Array(4);
  readonly #wordView = new DataView(this.#word.buffer);
  readonly #pages: Pages;
  #running = false;

  constructor(
    index: number,
    memory: PhysicalMemory,
    pages: Pages,
    sink: CommandSink,
    budget: number,
    events: QueueEvents,
  ) {
    this.index = index;
    this.#memory = memory;
    this.#pages = pages;
    this.#sink = sink;
    this.#budget = budget;
    this.#events = events;
  }

  get mapped(): boolean {
    return this.#owner !== null;
  }

  /** True while an error is not acknowledged. */
  get failed(): boolean {
    return ((this.#gerror ^ this.#gerrorn) & ERROR) !== 0;
  }

  map(owner: QueueOwner, page0: number): void {
    this.#owner = owner;
    this.#page0 = page0;
    // Whatever the page says is of another time.
    this.#pages.write(page0, new Uint8Array(PAGE0_WORDS * 4));
    this.#shown.fill(0);
    this.#publish();
  }

  unmap(): void {
    this.#config = 0;
    this.#publish();
    this.#owner = null;
  }

  // ---- registers ----

  get #log2(): number {
    return Math.min(this.#base[0]! & VCMDQ_BASE.LOG2SIZE.mask, QUEUE_LOG2_MAX);
  }

  get #address(): number {
    return (this.#base[1]! & 0xffff) * 2 ** 32 + ((this.#base[0]! & ~0x1f) >>> 0);
  }

  get #status(): number {
    return (this.#config & ENABLE) !== 0 ? VCMDQ_STATUS.ENABLED.inPlace : 0;
  }

  read(offset: number, page1: boolean): number {
    if (page1) {
      const index = (offset % 8) / 4;
      if (offset < VCMDQ_PAGE1.BASE + 8) return this.#base[index]!;
      return offset < VCMDQ_PAGE1.CONS_INDX_BASE + 8 ? this.#consIndexBase[index]! : 0;
    }
    this.notice();
    return this.#page0Words()[offset / 4] ?? 0;
  }

  write(offset: number, value: number, page1: boolean): void {
    if (page1) {
      const index = (offset % 8) / 4;
      if (offset < VCMDQ_PAGE1.BASE + 8) this.#base[index] = value & VCMDQ_BASE.$.writable[index]!;
      else if (offset < VCMDQ_PAGE1.CONS_INDX_BASE + 8) this.#consIndexBase[index] = value;
      return;
    }
    this.notice();
    this.#set(offset, value);
    this.#publish();
  }

  #set(offset: number, value: number): void {
    switch (offset) {
      case VCMDQ.CONS:
        // As SMMU_CMDQ_CONS: only while the queue is disabled.
        if ((this.#config & ENABLE) === 0) this.#cons = value & INDEX;
        break;
      case VCMDQ.PROD:
        this.#prod = value & INDEX;
        break;
      case VCMDQ.CONFIG:
        this.#config = value & ENABLE;
        break;
      case VCMDQ.GERRORN:
        this.#gerrorn = value & ERROR;
        break;
    }
  }

  #page0Words(): number[] {
    return [this.#cons, this.#prod, this.#config, this.#status, this.#gerror, this.#gerrorn];
  }

  /** Puts registers that have changed where programs see them. */
  #publish(): void {
    if (this.#owner === null) return;
    for (const [index, value] of this.#page0Words().entries()) {
      if (this.#shown[index] === value) continue;
      this.#shown[index] = value;
      this.#wordView.setUint32(0, value, true);
      this.#pages.write(this.#page0 + index * 4, this.#word);
    }
  }

  /** Takes over what a program stored into its page. What it may not change is put back. */
  notice(): void {
    if (this.#owner === null || !this.#pages.read(this.#page0, this.#pageBytes)) return;
    let stored = false;
    // CONFIG before CONS: a queue that is being disabled takes a new CONS.
    for (const offset of [VCMDQ.CONFIG, VCMDQ.CONS, VCMDQ.PROD, VCMDQ.STATUS, VCMDQ.GERROR, VCMDQ.GERRORN]) {
      const found = this.#pageView.getUint32(offset, true);
      if (found === this.#shown[offset / 4]) continue;
      this.#shown[offset / 4] = found;
      this.#set(offset, found);
      stored = true;
    }
    if (stored) this.#publish();
  }

  // ---- commands ----

  /** True when there are commands that could be consumed now. */
  get pending(): boolean {
    if (this.#owner === null || !this.#owner.enabled || (this.#config & ENABLE) === 0 || this.failed)
      return false;
    const log2 = this.#log2;
    const cons = this.#cons & queueMask(log2);
    const prod = this.#prod & queueMask(log2);
    return !queueEmpty(prod, cons, log2) && queueCount(prod, cons, log2) <= 2 ** log2;
  }

  run(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      for (let done = 0; done < this.#budget && this.pending; done++) if (!this.#one()) break;
    } finally {
      this.#running = false;
    }
    this.#publish();
  }

  #one(): boolean {
    const log2 = this.#log2;
    const at = this.#address + queueSlot(this.#cons & queueMask(log2), log2) * CMD_BYTES;
    for (let i = 0; i < CMD_WORDS; i += 2) {
      if (!this.#memory.load64(at + i * 4, this.#pair)) return this.#stop(CERROR.ABT);
      this.#words.set(this.#pair, i);
    }
    const error = this.#execute(this.#words);
    if (error !== CERROR.NONE) return this.#stop(error);
    this.#cons = queueNext(this.#cons & queueMask(log2), log2);
    return true;
  }

  #execute(words: Uint32Array): number {
    const owner = this.#owner!;
    const opcode = words[0]! & 0xff;
    if (!owner.hypervisorOwned) {
      if (!allowed(words, opcode)) return CERROR.ILL;
      if (opcode === CMD.ATC_INV) {
        const sid = owner.sidOf(words[1]!);
        if (sid === null) return CERROR.ILL;
        words[1] = sid;
      } else if (opcode !== CMD.SYNC) {
        words[1] = (words[1]! & ~CMD_TLBI.VMID.inPlace) | owner.vmid;
      }
    }
    const { trace } = this.#events;
    if (trace?.active === true)
      trace.emit({
        kind: 'command',
        unit: `vcmdq${this.index}`,
        name: `CMD_${nameOf(CMD, opcode)}`,
        words: [...words],
      });
    return this.#sink.executeCommand(words);
  }

  #stop(error: number): false {
    this.#cons = ((this.#cons & INDEX) | (error << VCMDQ_CONS.ERR.shift)) >>> 0;
    this.#gerror ^= ERROR;
    this.#publish();
    const { trace } = this.#events;
    if (trace?.active === true)
      trace.emit({ kind: 'command-error', unit: `vcmdq${this.index}`, error: nameOf(CERROR, error) });
    this.#events.error();
    return false;
  }
}

/** The commands of a guest, and CMD_SYNC without a signal. */
function allowed(words: Uint32Array, opcode: number): boolean {
  if (opcode === CMD.SYNC) return ((words[0]! >>> CMD_SYNC.CS.shift) & CMD_SYNC.CS.mask) === SYNC_CS.NONE;
  return GUEST_COMMANDS.has(opcode);
}
