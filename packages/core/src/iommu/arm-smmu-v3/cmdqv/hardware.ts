import { assert } from '../../../base/assert.ts';
import { encode } from '../../../base/bit-fields.ts';
import { hi32, lo32, u64 } from '../../../base/u64.ts';
import type { PhysicalMemory } from '../../../memory/physical.ts';
import type { Trace } from '../../../trace/trace.ts';
import {
  CMDQ_ALLOC,
  CONFIG,
  OFFSET,
  PAGE_BYTES,
  PARAM,
  SID_MATCH,
  SIDS_PER_VINTF_MAX,
  STATUS,
  VCMDQ_BYTES,
  VCMDQ_PAGE0_BASE,
  VCMDQ_PAGE1_BASE,
  VCMDQS_MAX,
  VINTF,
  VINTF_BYTES,
  VINTF_CONFIG,
  VINTF_PAGES_BASE,
  VINTF_STATUS,
  VINTFS_MAX,
  vintfBase,
} from './spec.ts';
import { VirtualQueue, type CommandSink, type Pages, type QueueOwner } from './virtual-queue.ts';

// The CMDQ-V: its registers, and queues whose commands it takes out of memory by itself.

export interface CmdqvOptions {
  readonly memory: PhysicalMemory;
  /** Where the first page of interface `vintf` is, so that a program can map it. See {@link Tegra241Cmdqv.poll}. */
  readonly page0: (vintf: number) => number;
  /** What is there, where programs have mapped it: `memory`, unless the host shares other memory with programs. */
  readonly pages?: Pages;
  /** The SMMU that commands go on to. */
  readonly sink: CommandSink;
  readonly version?: number;
  /** log2 of queues, of interfaces, and of pairs of virtual and physical StreamIDs per interface. */
  readonly vcmdqsLog2?: number;
  readonly vintfsLog2?: number;
  readonly sidsLog2?: number;
  /** Commands that one register write or one poll() consumes at most, per queue. */
  readonly commandsPerStep?: number;
  readonly onInterrupt?: () => void;
  readonly trace?: Trace;
}

/** A virtual interface. */
class Interface implements QueueOwner {
  readonly index: number;
  config = 0;
  readonly sidMatch: Uint32Array;
  readonly sidReplace: Uint32Array;
  /** By logical number; null where none is mapped. */
  readonly queues: (VirtualQueue | null)[];

  constructor(index: number, sids: number, queues: number) {
    this.index = index;
    this.sidMatch = new Uint32Array(sids);
    this.sidReplace = new Uint32Array(sids);
    this.queues = Array.from({ length: queues }, () => null);
  }

  get enabled(): boolean {
    return (this.config & VINTF_CONFIG.EN.inPlace) !== 0;
  }

  get hypervisorOwned(): boolean {
    return (this.config & VINTF_CONFIG.HYP_OWN.inPlace) !== 0;
  }

  get vmid(): number {
    return (this.config >>> VINTF_CONFIG.VMID.shift) & VINTF_CONFIG.VMID.mask;
  }

  /** The StreamID that a virtual one stands for, or null. */
  sidOf(virtual: number): number | null {
    for (let i = 0; i < this.sidMatch.length; i++) {
      const match = this.sidMatch[i]!;
      if ((match & SID_MATCH.ENABLE.inPlace) === 0) continue;
      if (((match >>> SID_MATCH.VIRT_SID.shift) & SID_MATCH.VIRT_SID.mask) === virtual)
        return this.sidReplace[i]!;
    }
    return null;
  }
}

export class Tegra241Cmdqv {
  readonly vcmdqs: number;
  readonly vintfs: number;
  readonly lvcmdqsPerVintf: number;
  readonly sidsPerVintf: number;
  readonly #options: CmdqvOptions;
  readonly #param: number;
  readonly #alloc: Uint32Array;
  readonly #interfaces: Interface[];
  readonly #queues: VirtualQueue[];
  #config = 0;

  constructor(options: CmdqvOptions) {
    const { vcmdqsLog2 = 7, vintfsLog2 = 6, sidsLog2 = 4, version = 1 } = options;
    this.#options = options;
    this.vcmdqs = 2 ** vcmdqsLog2;
    this.vintfs = 2 ** vintfsLog2;
    this.sidsPerVintf = 2 ** sidsLog2;
    assert(
      this.vcmdqs <= VCMDQS_MAX && this.vintfs <= VINTFS_MAX,
      'more queues or interfaces than registers',
    );
    assert(
      this.sidsPerVintf <= SIDS_PER_VINTF_MAX && this.vcmdqs >= this.vintfs,
      'sizes that do not fit together',
    );
    this.lvcmdqsPerVintf = this.vcmdqs / this.vintfs;
    this.#param = encode(PARAM, {
      VER: version,
      NUM_VCMDQ_LOG2: vcmdqsLog2,
      NUM_VINTF_LOG2: vintfsLog2,
      NUM_SID_PER_VM_LOG2: sidsLog2,
    })[0]!;
    this.#alloc = new Uint32Array(this.vcmdqs);
    this.#interfaces = Array.from(
      { length: this.vintfs },
      (_, index) => new Interface(index, this.sidsPerVintf, this.lvcmdqsPerVintf),
    );
    const budget = options.commandsPerStep ?? 1024;
    this.#queues = Array.from(
      { length: this.vcmdqs },
      (_, index) =>
        new VirtualQueue(index, options.memory, options.pages ?? options.memory, options.sink, budget, {
          error: () => options.onInterrupt?.(),
          trace: options.trace ?? null,
        }),
    );
  }

  get #enabled(): boolean {
    return (this.#config & CONFIG.CMDQV_EN.inPlace) !== 0;
  }

  // ---- registers ----

  readRegister(offset: number, size: number): bigint {
    if (offset < 0 || offset % 4 !== 0) return 0n;
    const lo = this.#read(offset);
    return size === 8 ? u64(this.#read(offset + 4), lo) : BigInt(lo);
  }

  writeRegister(offset: number, size: number, value: bigint): void {
    if (offset < 0 || offset % 4 !== 0) return;
    this.#write(offset, lo32(value));
    if (size === 8) this.#write(offset + 4, hi32(value));
  }

  #read(offset: number): number {
    const queue = this.#queueAt(offset);
    if (queue !== null) return queue.queue?.read(queue.offset, queue.page1) ?? 0;
    const vintf = this.#interfaceAt(offset);
    if (vintf !== null) return this.#readInterface(vintf.vintf, vintf.offset);
    const alloc = this.#allocIndex(offset);
    if (alloc >= 0) return this.#alloc[alloc]!;
    switch (offset) {
      case OFFSET.CONFIG:
        return this.#config;
      case OFFSET.PARAM:
        return this.#param;
      case OFFSET.STATUS:
        return this.#enabled ? STATUS.ENABLED.inPlace : 0;
      case OFFSET.VINTF_ERR_MAP:
        return this.#interfaceErrors(0);
      case OFFSET.VINTF_ERR_MAP + 4:
        return this.#interfaceErrors(32);
      default:
        return offset >= OFFSET.CMDQ_ERR_MAP && offset < OFFSET.CMDQ_ERR_MAP + 16
          ? this.#queueErrors(((offset - OFFSET.CMDQ_ERR_MAP) / 4) * 32)
          : 0;
    }
  }

  #write(offset: number, value: number): void {
    const queue = this.#queueAt(offset);
    if (queue !== null) {
      if (queue.queue === null) return;
      queue.queue.write(queue.offset, value, queue.page1);
      return this.#run(queue.queue);
    }
    const vintf = this.#interfaceAt(offset);
    if (vintf !== null) return this.#writeInterface(vintf.vintf, vintf.offset, value);
    const alloc = this.#allocIndex(offset);
    if (alloc >= 0) return this.#writeAlloc(alloc, value);
    if (offset !== OFFSET.CONFIG) return;
    this.#config = value & CONFIG.CMDQV_EN.inPlace;
    if (!this.#enabled) this.#reset();
  }

  /** Disabling the whole forgets which queue belongs to whom. */
  #reset(): void {
    this.#alloc.fill(0);
    for (const vintf of this.#interfaces) {
      vintf.config = 0;
      vintf.queues.fill(null);
    }
    for (const queue of this.#queues) queue.unmap();
  }

  #allocIndex(offset: number): number {
    const index = (offset - OFFSET.CMDQ_ALLOC) / 4;
    return offset >= OFFSET.CMDQ_ALLOC && index < this.vcmdqs ? index : -1;
  }

  /** The registers of a queue, by its own number or by its interface's; null elsewhere. */
  #queueAt(offset: number): { queue: VirtualQueue | null; offset: number; page1: boolean } | null {
    if (offset < VCMDQ_PAGE0_BASE) return null;
    if (offset < VINTF_PAGES_BASE) {
      const page1 = offset >= VCMDQ_PAGE1_BASE;
      const at = offset - (page1 ? VCMDQ_PAGE1_BASE : VCMDQ_PAGE0_BASE);
      return { queue: this.#queues[Math.floor(at / VCMDQ_BYTES)] ?? null, offset: at % VCMDQ_BYTES, page1 };
    }
    const page = Math.floor((offset - VINTF_PAGES_BASE) / PAGE_BYTES);
    const at = offset % PAGE_BYTES;
    const vintf = this.#interfaces[Math.floor(page / 2)];
    const queue = vintf?.queues[Math.floor(at / VCMDQ_BYTES)] ?? null;
    return { queue, offset: at % VCMDQ_BYTES, page1: page % 2 === 1 };
  }

  #interfaceAt(offset: number): { vintf: Interface; offset: number } | null {
    if (offset < vintfBase(0)) return null;
    const vintf = this.#interfaces[Math.floor((offset - vintfBase(0)) / VINTF_BYTES)];
    return vintf === undefined ? null : { vintf, offset: (offset - vintfBase(0)) % VINTF_BYTES };
  }

  #readInterface(vintf: Interface, offset: number): number {
    const sids = 4 * this.sidsPerVintf;
    if (offset === VINTF.CONFIG) return vintf.config;
    if (offset === VINTF.STATUS) return vintf.enabled && this.#enabled ? VINTF_STATUS.ENABLED.inPlace : 0;
    if (offset >= VINTF.SID_MATCH && offset < VINTF.SID_MATCH + sids)
      return vintf.sidMatch[(offset - VINTF.SID_MATCH) / 4]!;
    if (offset >= VINTF.SID_REPLACE && offset < VINTF.SID_REPLACE + sids)
      return vintf.sidReplace[(offset - VINTF.SID_REPLACE) / 4]!;
    if (offset >= VINTF.LVCMDQ_ERR_MAP && offset < VINTF.LVCMDQ_ERR_MAP + 16)
      return errorBits(vintf.queues, ((offset - VINTF.LVCMDQ_ERR_MAP) / 4) * 32);
    return 0;
  }

  #writeInterface(vintf: Interface, offset: number, value: number): void {
    const sids = 4 * this.sidsPerVintf;
    if (offset === VINTF.CONFIG) {
      vintf.config = value & VINTF_CONFIG.$.writable[0]!;
      for (const queue of vintf.queues) if (queue !== null) this.#run(queue);
    } else if (offset >= VINTF.SID_MATCH && offset < VINTF.SID_MATCH + sids) {
      vintf.sidMatch[(offset - VINTF.SID_MATCH) / 4] = value & SID_MATCH.$.writable[0]!;
    } else if (offset >= VINTF.SID_REPLACE && offset < VINTF.SID_REPLACE + sids) {
      vintf.sidReplace[(offset - VINTF.SID_REPLACE) / 4] = value;
    }
  }

  /**
   * Gives a queue to an interface, or takes it away. Logical queues come in ascending order and go in descending order:
   * what does not keep to it has no effect.
   */
  #writeAlloc(index: number, value: number): void {
    const allocated = CMDQ_ALLOC.ALLOCATED.inPlace;
    const before = this.#alloc[index]!;
    const next = value & CMDQ_ALLOC.$.writable[0]!;
    const fields = (before & allocated) === 0 ? next : (before & ~allocated) | (next & allocated);
    const vintf = this.#interfaces[(fields >>> CMDQ_ALLOC.VINTF.shift) & CMDQ_ALLOC.VINTF.mask];
    const logical = (fields >>> CMDQ_ALLOC.LVCMDQ.shift) & CMDQ_ALLOC.LVCMDQ.mask;
    const queues = vintf?.queues;
    const change = ((before ^ fields) & allocated) !== 0;
    if (change && (queues === undefined || !inOrder(queues, logical, (fields & allocated) !== 0))) {
      this.#options.trace?.emit({ kind: 'cmdqv-order', queue: index, vintf: vintf?.index ?? -1, logical });
      return;
    }
    this.#alloc[index] = fields;
    if (!change || vintf === undefined) return;
    const queue = this.#queues[index]!;
    if ((fields & allocated) === 0) {
      vintf.queues[logical] = null;
      queue.unmap();
    } else {
      vintf.queues[logical] = queue;
      queue.map(vintf, this.#options.page0(vintf.index) + logical * VCMDQ_BYTES);
    }
  }

  #interfaceErrors(from: number): number {
    let bits = 0;
    for (const vintf of this.#interfaces.slice(from, from + 32))
      if (vintf.queues.some((queue) => queue?.failed === true)) bits |= 1 << (vintf.index - from);
    return bits >>> 0;
  }

  #queueErrors(from: number): number {
    return errorBits(this.#queues, from);
  }

  // ---- commands ----

  #run(queue: VirtualQueue): void {
    if (this.#enabled) queue.run();
  }

  /**
   * Looks at the pages that programs have mapped: what they stored there is a register write that nobody saw. Takes
   * commands from queues that have some. True while there are more.
   */
  poll(): boolean {
    let more = false;
    for (const queue of this.#queues) {
      if (!queue.mapped) continue;
      queue.notice();
      this.#run(queue);
      more ||= this.#enabled && queue.pending;
    }
    return more;
  }
}

function inOrder(queues: readonly (VirtualQueue | null)[], logical: number, mapping: boolean): boolean {
  if (logical >= queues.length) return false;
  if (mapping) return queues[logical] === null && (logical === 0 || queues[logical - 1] !== null);
  return (queues[logical + 1] ?? null) === null;
}

function errorBits(queues: readonly (VirtualQueue | null)[], from: number): number {
  let bits = 0;
  for (let i = from; i < Math.min(from + 32, queues.length); i++)
    if (queues[i]?.failed === true) bits |= 1 << (i - from);
  return bits >>> 0;
}
