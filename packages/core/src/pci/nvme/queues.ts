import { big } from '../../base/u64.ts';
import type { FunctionDma } from '../dma.ts';
import { Command, type Outcome } from './command.ts';
import { COMMANDS_A_FETCH } from './limits.ts';
import { CQE_BYTES, SC_DNR, SQE_BYTES } from './spec.ts';

// Submission and completion queues, §4.1. Memory that refuses is fatal for the controller: methods answer false then.

/** Entries of a queue that lie in one page are read and written at once: all of it is there, or nothing. */
const PAGE = 4096;

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
  /** Entries before the tail that the host cannot see yet, one behind the other in memory. */
  readonly #fresh = new DataView(new ArrayBuffer(PAGE));
  #freshCount = 0;

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

  /** A completion, which the host sees with {@link publish}. */
  post(cid: number, queue: { readonly id: number; readonly head: number }, outcome: Outcome): boolean {
    if (!this.#roomBehind() && !this.publish()) return false;
    const at = this.#freshCount++ * CQE_BYTES;
    const entry = this.#fresh;
    entry.setUint32(at, outcome.result ?? 0, true);
    entry.setUint32(at + 4, 0, true);
    entry.setUint16(at + 8, queue.head, true);
    entry.setUint16(at + 10, queue.id, true);
    entry.setUint16(at + 12, cid, true);
    // Status Field, §4.6.1: SC and SCT lie above the phase tag, DNR at bit 15.
    const dnr = (outcome.status & SC_DNR) === 0 ? 0 : 0x8000;
    entry.setUint16(at + 14, this.#phase | ((outcome.status & 0x7ff) << 1) | dnr, true);
    this.#tail = (this.#tail + 1) % this.size;
    if (this.#tail === 0) this.#phase ^= 1;
    return true;
  }

  /** Whether the entry at the tail lies behind those that wait, in the same page. */
  #roomBehind(): boolean {
    return this.#freshCount === 0 || (this.#tail * CQE_BYTES) % PAGE !== 0;
  }

  /** Completions that the host cannot see yet. */
  get fresh(): number {
    return this.#freshCount;
  }

  /** Writes them where the host looks for them. */
  publish(): boolean {
    const count = this.#freshCount;
    this.#freshCount = 0;
    const first = (this.#tail - count + this.size) % this.size;
    const at = BigInt.asUintN(64, this.#base + big(first * CQE_BYTES));
    return this.#dma.write(at, new Uint8Array(this.#fresh.buffer, 0, count * CQE_BYTES)) === null;
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
  /** Commands from the head on that were read already, the last of them at the end. */
  #fetched: Uint8Array = new Uint8Array(0);

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
    // What the host takes back was not read.
    const waiting = this.#waiting * SQE_BYTES;
    if (this.#fetched.length > waiting) this.#fetched = this.#fetched.subarray(0, waiting);
    return true;
  }

  get #waiting(): number {
    return (this.#tail - this.head + this.size) % this.size;
  }

  /** The next command; null where its memory refuses. */
  fetch(): Command | null {
    if (this.#fetched.length === 0 && !this.#readAhead()) return null;
    const command = new Command(this.#fetched.subarray(0, SQE_BYTES));
    this.#fetched = this.#fetched.subarray(SQE_BYTES);
    this.head = (this.head + 1) % this.size;
    return command;
  }

  /** Reads the commands that lie behind the head: those that wait, in the same page. */
  #readAhead(): boolean {
    const offset = this.head * SQE_BYTES;
    const behind = Math.min((PAGE - (offset % PAGE)) / SQE_BYTES, this.size - this.head);
    const bytes = new Uint8Array(Math.min(this.#waiting, behind, COMMANDS_A_FETCH) * SQE_BYTES);
    const at = BigInt.asUintN(64, this.#base + big(offset));
    if (this.#dma.read(at, bytes) !== null) return false;
    this.#fetched = bytes;
    return true;
  }
}
