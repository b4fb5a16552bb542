import { nameOf, readField } from '../../base/bit-fields.ts';
import type { FaultLog } from '../../iommu/intel/hardware/queues/fault-log.ts';
import type { RegisterFile } from '../../iommu/intel/hardware/registers/registers.ts';
import { DESC, INV_WAIT_DSC } from '../../iommu/intel/spec/invalidation.ts';
import { GSTS, IQA, IQEI, IQT, OFFSET, type Iqei } from '../../iommu/intel/spec/registers.ts';
import type { PhysicalMemory } from '../../memory/physical.ts';
import type { Trace } from '../../trace/trace.ts';

/** What becomes of the guest's descriptors. */
export interface DescriptorTarget {
  /** Descriptors may have 128 bits: the unit is in legacy mode. */
  readonly narrow: boolean;
  /** Does what a descriptor says, all but waiting; IQEI.NONE, or why it cannot be. */
  execute(type: number, words: Uint32Array): Iqei;
  /** inv_wait_dsc with IF is done. */
  waited(): void;
}

/** IQA.DW: descriptors of 128 bits in legacy mode, of 256 bits in the others, and in legacy mode too if it likes. */
const NARROW_BYTES = 16;
const WIDE_BYTES = 32;

/** The guest's invalidation queue (VT-d §6.5.2). */
export class GuestInvalidationQueue {
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #faults: FaultLog;
  readonly #target: DescriptorTarget;
  readonly #trace: Trace | null;
  #running = false;

  constructor(
    memory: PhysicalMemory,
    registers: RegisterFile,
    faults: FaultLog,
    target: DescriptorTarget,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#registers = registers;
    this.#faults = faults;
    this.#target = target;
    this.#trace = trace;
  }

  /** QIE changed: a queue that is disabled starts over. */
  configure(): void {
    if (!this.#enabled) this.#registers.set(OFFSET.IQH, 0);
  }

  get #enabled(): boolean {
    return this.#registers.enabled(GSTS.QIES.inPlace);
  }

  /** Takes what there is, until the queue is empty or a descriptor cannot be. */
  run(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#pending && this.#one());
    } finally {
      this.#running = false;
    }
  }

  get #pending(): boolean {
    if (!this.#enabled || this.#faults.invalidationStopped) return false;
    return this.#registers.get(OFFSET.IQH) !== this.#registers.get(OFFSET.IQT);
  }

  #one(): boolean {
    const iqa = this.#registers.get(OFFSET.IQA);
    const size = 4096 << (iqa & IQA.QS.inPlace);
    const tail = this.#registers.get(OFFSET.IQT) & IQT.QT.inPlace;
    const bytes = (iqa & IQA.DW.inPlace) === 0 ? NARROW_BYTES : WIDE_BYTES;
    if (bytes === NARROW_BYTES && !this.#target.narrow) return this.#stop(IQEI.WIDTH);
    if (tail % bytes !== 0) return this.#stop(IQEI.TAIL_ALIGNMENT);
    if (tail >= size) return this.#stop(IQEI.TAIL);
    const head = this.#registers.get(OFFSET.IQH);
    const words = this.#fetch(this.#registers.getAddress(OFFSET.IQA, 12) + head, bytes);
    if (words === null) return this.#stop(IQEI.FETCH);
    const type = (words[0]! & 0xf) | (((words[0]! >>> 9) & 7) << 4);
    if (this.#trace?.active === true)
      this.#trace.emit({ kind: 'command', unit: 'guest-vtd', name: nameOf(DESC, type), words: [...words] });
    const error = type === DESC.INV_WAIT ? this.#wait(words) : this.#target.execute(type, words);
    if (error !== IQEI.NONE) return this.#stop(error);
    this.#registers.set(OFFSET.IQH, (head + bytes) % size);
    if (type === DESC.INV_WAIT && readField(INV_WAIT_DSC.IF, words) !== 0) this.#target.waited();
    return true;
  }

  /** Descriptors before it are done when it is reached: its status is written (§6.5.2.9). */
  #wait(words: Uint32Array): Iqei {
    if (readField(INV_WAIT_DSC.SW, words) === 0) return IQEI.NONE;
    const status = new Uint8Array(4);
    new DataView(status.buffer).setUint32(0, words[1]!, true);
    this.#memory.write((words[3]! & 0xf_ffff) * 2 ** 32 + ((words[2]! & ~3) >>> 0), status);
    return IQEI.NONE;
  }

  /** A descriptor, with zeroes behind it where it has 128 bits. */
  #fetch(address: number, bytes: number): Uint32Array | null {
    const words = new Uint32Array(WIDE_BYTES / 4);
    for (let i = 0; i < bytes / 4; i += 2)
      if (!this.#memory.load64(address + i * 4, words.subarray(i, i + 2))) return null;
    return words;
  }

  #stop(error: Iqei): false {
    this.#faults.queueError(error);
    return false;
  }
}
