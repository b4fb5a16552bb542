// Transactions that wait for software (§3.12.2): those whose event is recorded, by Stall Tag, and those whose event
// could not be recorded yet, which are tried again when it can be.

import type { EventQueue } from './event-queue.ts';
import { translationEvent, type AccessAttributes } from './events.ts';
import type { Outcome, Stalled, StalledTransaction, Terminated, Transaction } from '../transaction.ts';
import type { TranslationFault } from '../configuration/context.ts';

type Final = Exclude<Outcome, Stalled>;

class Waiting implements StalledTransaction {
  readonly transaction: Transaction;
  stag = -1;
  outcome: Final | null = null;
  onOutcome: ((outcome: Final) => void) | null = null;

  constructor(transaction: Transaction) {
    this.transaction = transaction;
  }

  settle(outcome: Final): void {
    this.outcome = outcome;
    this.onOutcome?.(outcome);
  }
}

const ABORTED: Terminated = { kind: 'terminated', abort: true, event: null, recorded: false };
const IGNORED: Terminated = { kind: 'terminated', abort: false, event: null, recorded: false };

export class Stalls {
  readonly #events: EventQueue;
  readonly #max: number;
  /** How a transaction is done again, as though it had just arrived. */
  readonly #again: (transaction: Transaction, waiting: StalledTransaction) => Outcome;
  readonly #recorded = new Map<number, Waiting>();
  /** In the order in which they stalled. */
  #unrecorded: Waiting[] = [];
  #nextTag = 0;
  #draining = false;

  constructor(
    events: EventQueue,
    stallMax: number,
    again: (transaction: Transaction, waiting: StalledTransaction) => Outcome,
  ) {
    this.#events = events;
    // A Stall Tag has 16 bits.
    this.#max = Math.min(Math.max(stallMax, 1), 0x1_0000);
    this.#again = again;
  }

  /** Makes a transaction wait; `known` where it waited before and has faulted again. */
  stall(
    fault: TranslationFault,
    transaction: Transaction,
    attributes: AccessAttributes,
    known: StalledTransaction | null,
  ): Stalled {
    const waiting = known instanceof Waiting ? known : new Waiting(transaction);
    waiting.stag = -1;
    if (this.#events.writable && this.#recorded.size < this.#max) {
      const stag = this.#freeTag();
      if (this.#events.recordStall(translationEvent(fault, transaction, attributes, stag))) {
        waiting.stag = stag;
        this.#recorded.set(stag, waiting);
        return { kind: 'stalled', stall: waiting };
      }
    }
    this.#unrecorded.push(waiting);
    return { kind: 'stalled', stall: waiting };
  }

  /** Tags go round, so that one is not used again at once. */
  #freeTag(): number {
    while (this.#recorded.has(this.#nextTag)) this.#nextTag = (this.#nextTag + 1) % this.#max;
    const tag = this.#nextTag;
    this.#nextTag = (tag + 1) % this.#max;
    return tag;
  }

  /** Events can be recorded again, or a tag is free: transactions without an event are tried anew (§3.12.2). */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    try {
      // Each at most once, so that one that stalls again waits behind the others.
      for (let left = this.#unrecorded.length; left > 0; left--) {
        if (!this.#events.writable || this.#recorded.size >= this.#max) return;
        this.#retry(this.#unrecorded.shift()!);
      }
    } finally {
      this.#draining = false;
    }
  }

  #retry(waiting: Waiting): void {
    const outcome = this.#again(waiting.transaction, waiting);
    if (outcome.kind !== 'stalled') waiting.settle(outcome);
  }

  /** CMD_RESUME (§4.7.1); nothing where tag and stream do not belong together. */
  resume(streamId: number, stag: number, retry: boolean, abort: boolean): void {
    const waiting = this.#recorded.get(stag);
    if (waiting === undefined || waiting.transaction.streamId !== streamId) return;
    this.#recorded.delete(stag);
    if (retry) this.#retry(waiting);
    else waiting.settle(abort ? ABORTED : IGNORED);
    this.drain();
  }

  /** CMD_STALL_TERM (§4.7.2): every transaction of the stream is aborted. */
  terminateStream(streamId: number): void {
    this.#terminate((waiting) => waiting.transaction.streamId === streamId);
    this.drain();
  }

  /** SMMUEN went to 0: all that wait are aborted (§6.3.9.6). */
  terminateAll(): void {
    this.#terminate(() => true);
  }

  #terminate(which: (waiting: Waiting) => boolean): void {
    const gone = [...this.#recorded.values(), ...this.#unrecorded].filter(which);
    for (const waiting of gone) if (waiting.stag >= 0) this.#recorded.delete(waiting.stag);
    this.#unrecorded = this.#unrecorded.filter((waiting) => !which(waiting));
    for (const waiting of gone) waiting.settle(ABORTED);
  }

  /** How many transactions wait. */
  get size(): number {
    return this.#recorded.size + this.#unrecorded.length;
  }
}
