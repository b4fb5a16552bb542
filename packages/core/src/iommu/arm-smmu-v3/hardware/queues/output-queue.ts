// A queue on its way to software (§3.5.1, §7.4): what the Event queue and the PRI queue share.

import type { PhysicalMemory } from '../../../../memory/physical.ts';
import { queueEmpty, queueFull, queueMask, queueNext, queueSlot } from '../../spec/queues.ts';
import { OUTQ_PROD } from '../../spec/registers.ts';
import { queuePlace, type QueuePlace } from './queue-place.ts';
import type { RegisterFile } from '../registers/registers.ts';

const INDEX = OUTQ_PROD.WR.inPlace;
const OVERFLOW = OUTQ_PROD.OVFLG.inPlace;

/** Which queue: offsets of its registers, and what is implemented. */
export interface OutputQueueKind {
  readonly base: number;
  readonly prod: number;
  readonly cons: number;
  /** Log2 of the most entries that it can have. */
  readonly log2Max: number;
  readonly entryBytes: number;
}

export class OutputQueue {
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #kind: OutputQueueKind;
  #place: QueuePlace = { base: 0, log2: 0 };

  constructor(memory: PhysicalMemory, registers: RegisterFile, kind: OutputQueueKind) {
    this.#memory = memory;
    this.#registers = registers;
    this.#kind = kind;
  }

  /** The base register changed. */
  configure(): void {
    const { base, log2Max, entryBytes } = this.#kind;
    this.#place = queuePlace(this.#registers, base, log2Max, entryBytes);
    this.normalize();
  }

  /** Bits of PROD above the wrap flag read as zero (§6.3.95). */
  normalize(): void {
    this.#setProd(this.#prod & (OVERFLOW | queueMask(this.#place.log2)));
  }

  /** PROD's index, with its wrap flag. */
  get index(): number {
    return this.#prod & INDEX;
  }

  get empty(): boolean {
    return queueEmpty(this.index, this.#cons & INDEX, this.#place.log2);
  }

  get full(): boolean {
    return queueFull(this.index, this.#cons & INDEX, this.#place.log2);
  }

  /** An overflow that software has not acknowledged. */
  get overflowed(): boolean {
    return ((this.#prod ^ this.#cons) & OVERFLOW) !== 0;
  }

  /** Something was lost: PROD's flag says so until it is acknowledged (§7.4). */
  overflow(): void {
    if (!this.overflowed) this.#setProd(this.#prod ^ OVERFLOW);
  }

  /** Appends an entry; there is room. False for a synchronous abort: then the index stays (§7.2.2). */
  write(words: Readonly<Uint32Array>): boolean {
    const address = this.#place.base + queueSlot(this.index, this.#place.log2) * this.#kind.entryBytes;
    for (let word = 0; word < words.length; word += 2)
      if (!this.#memory.store64(address + word * 4, words[word]!, words[word + 1]!)) return false;
    this.#setProd((this.#prod & OVERFLOW) | queueNext(this.index, this.#place.log2));
    return true;
  }

  get #prod(): number {
    return this.#registers.get(this.#kind.prod);
  }

  get #cons(): number {
    return this.#registers.get(this.#kind.cons);
  }

  #setProd(value: number): void {
    this.#registers.set(this.#kind.prod, value >>> 0);
  }
}
