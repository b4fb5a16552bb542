import { big } from '../../base/u64.ts';
import type { FunctionDma } from '../dma.ts';
import { Command, type Outcome } from './command.ts';
import { CQE_BYTES, SC_DNR, SQE_BYTES } from './spec.ts';

// Submission and completion queues, §4.1. Memory that refuses is fatal for the controller: methods answer false then.

/** A queue of completions. */
export class CompletionQueue {
  readonly id: number;
  readonly size: number;
  readonly vector: number;
  readonly interrupts: boolean;
  /** Submission queues that complete here. */
  users = 0;
  readonly #dma: FunctionDma;
  readonly #base: bigint;
  #tail = 0;
  #head = 0;
  #phase = 1;

  constructor(
    dma: FunctionDma,
    id: number,
    base: bigint,
    size: number,
    interrupt: { readonly vector: number; readonly enabled: boolean },
  ) {
    this.#dma = dma;
    this.id = id;
    this.#base = base;
    this.size = size;
    this.vector = interrupt.vector;
    this.interrupts = interrupt.enabled;
  }

  get full(): boolean {
    return (this.#tail + 1) % this.size === this.#head;
  }

  /** Completions that the host has not taken. */
  get waiting(): number {
    return (this.#tail - this.#head + this.size) % this.size;
  }

  /** The head doorbell. False for a value that it cannot have. */
  setHead(head: number): boolean {
    const taken = (head - this.#head + this.size) % this.size;
    if (head >= this.size || taken > this.waiting) return false;
    this.#head = head;
    return true;
  }

  post(cid: number, queue: { readonly id: number; readonly head: number }, outcome: Outcome): boolean {
    const entry = new DataView(new ArrayBuffer(CQE_BYTES));
    entry.setUint32(0, outcome.result ?? 0, true);
    entry.setUint16(8, queue.head, true);
    entry.setUint16(10, queue.id, true);
    entry.setUint16(12, cid, true);
    // Status Field, §4.6.1: SC and SCT lie above the phase tag, DNR at bit 15.
    const dnr = (outcome.status & SC_DNR) === 0 ? 0 : 0x8000;
    entry.setUint16(14, this.#phase | ((outcome.status & 0x7ff) << 1) | dnr, true);
    const at = BigInt.asUintN(64, this.#base + big(this.#tail * CQE_BYTES));
    if (this.#dma.write(at, new Uint8Array(entry.buffer)) !== null) return false;
    this.#tail = (this.#tail + 1) % this.size;
    if (this.#tail === 0) this.#phase ^= 1;
    return true;
  }
}

/** A queue of commands. */
export class SubmissionQueue {
  readonly id: number;
  readonly size: number;
  readonly completions: CompletionQueue;
  readonly #dma: FunctionDma;
  readonly #base: bigint;
  #tail = 0;
  head = 0;

  constructor(dma: FunctionDma, id: number, base: bigint, size: number, completions: CompletionQueue) {
    this.#dma = dma;
    this.id = id;
    this.#base = base;
    this.size = size;
    this.completions = completions;
  }

  get empty(): boolean {
    return this.head === this.#tail;
  }

  /** The tail doorbell. False for a value that it cannot have. */
  setTail(tail: number): boolean {
    if (tail >= this.size) return false;
    this.#tail = tail;
    return true;
  }

  /** The next command; null where its memory refuses. */
  fetch(): Command | null {
    const command = new Command();
    const at = BigInt.asUintN(64, this.#base + big(this.head * SQE_BYTES));
    if (this.#dma.read(at, command.bytes) !== null) return null;
    this.head = (this.head + 1) % this.size;
    return command;
  }
}
