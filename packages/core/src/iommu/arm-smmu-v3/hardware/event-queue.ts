// The Event queue (§3.5.3, §7.2, §7.4).

import { decode } from '../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../memory/physical.ts';
import type { Trace } from '../../../trace/trace.ts';
import { EVENT_BYTES, EVENT_RECORD, EVENT_WORDS } from '../spec/events.ts';
import { queueEmpty, queueFull, queueMask, queueNext, queueSlot } from '../spec/queues.ts';
import { CR0, GERROR, OFFSET, OUTQ_PROD } from '../spec/registers.ts';
import type { SmmuV3Features } from './config.ts';
import { eventName, mergeable } from './events.ts';
import type { Interrupts } from './interrupts.ts';
import type { RegisterFile } from './registers.ts';
import type { EventRecord } from './transaction.ts';

const INDEX = OUTQ_PROD.WR.inPlace;
const OVERFLOW = OUTQ_PROD.OVFLG.inPlace;

/** Where an output queue is, with its size capped to what is implemented and its base aligned to it (§6.3.29). */
export interface QueuePlace {
  readonly base: number;
  readonly log2: number;
}

export function queuePlace(
  registers: RegisterFile,
  offset: number,
  log2Max: number,
  entryBytes: number,
): QueuePlace {
  const log2 = Math.min(registers.get(offset) & 31, log2Max);
  const address = registers.getAddress(offset, 5);
  return { base: address - (address % Math.max(32, entryBytes * 2 ** log2)), log2 };
}

export class EventQueue {
  readonly #memory: PhysicalMemory;
  readonly #features: SmmuV3Features;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #trace: Trace | null;
  #place: QueuePlace = { base: 0, log2: 0 };
  /** The last record, and the index after it, for merging. */
  #last: EventRecord | null = null;
  #lastProd = -1;

  constructor(
    memory: PhysicalMemory,
    features: SmmuV3Features,
    registers: RegisterFile,
    interrupts: Interrupts,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#features = features;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#trace = trace;
  }

  /** The base register changed. */
  configure(): void {
    this.#place = queuePlace(this.#registers, OFFSET.EVENTQ_BASE, this.#features.eventqs, EVENT_BYTES);
    this.normalize();
    this.#last = null;
  }

  /** Bits of PROD above the wrap flag read as zero (§6.3.95). */
  normalize(): void {
    const prod = this.#registers.get(OFFSET.EVENTQ_PROD);
    this.#registers.set(OFFSET.EVENTQ_PROD, (prod & (OVERFLOW | queueMask(this.#place.log2))) >>> 0);
  }

  get #enabled(): boolean {
    return this.#registers.enabled(CR0.EVENTQEN.inPlace);
  }

  get #full(): boolean {
    return queueFull(
      this.#registers.get(OFFSET.EVENTQ_PROD),
      this.#registers.get(OFFSET.EVENTQ_CONS),
      this.#place.log2,
    );
  }

  /** §7.2.1: enabled, not full, and no abort unacknowledged. */
  get writable(): boolean {
    return this.#enabled && !this.#full && !this.#interrupts.active(GERROR.EVENTQ_ABT_ERR.inPlace);
  }

  /**
   * Records an event that belongs to a terminated transaction, or discards it: a full queue then overflows (§7.4).
   * `merge` allows one record to stand for this event and the one before it. True when it is in the queue.
   */
  record(event: EventRecord, merge: boolean): boolean {
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({
        kind: 'fault',
        unit: 'smmuv3',
        event: eventName(event.type),
        ...decode(EVENT_RECORD, event.words),
      });
    }
    if (merge && this.#merged(event)) return true;
    if (this.writable) return this.#write(event);
    if (this.#enabled && this.#full) this.#overflow();
    return false;
  }

  /** Records the event of a stalled transaction; the queue is writable. */
  recordStall(event: EventRecord): boolean {
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({
        kind: 'fault',
        unit: 'smmuv3',
        event: eventName(event.type),
        ...decode(EVENT_RECORD, event.words),
      });
    }
    return this.#write(event);
  }

  /** True when the last record says the same and software has not consumed it yet (§7.3.1). */
  #merged(event: EventRecord): boolean {
    if (this.#last === null || !this.#enabled) return false;
    const prod = this.#registers.get(OFFSET.EVENTQ_PROD) & INDEX;
    if (prod !== this.#lastProd) return false;
    if (queueEmpty(prod, this.#registers.get(OFFSET.EVENTQ_CONS), this.#place.log2)) return false;
    return mergeable(this.#last, event);
  }

  /** Events were lost before they came here: as where the queue was full (§7.4). */
  lost(): void {
    if (this.#enabled) this.#overflow();
  }

  #overflow(): void {
    const prod = this.#registers.get(OFFSET.EVENTQ_PROD);
    const cons = this.#registers.get(OFFSET.EVENTQ_CONS);
    if (((prod ^ cons) & OVERFLOW) === 0) this.#registers.set(OFFSET.EVENTQ_PROD, (prod ^ OVERFLOW) >>> 0);
  }

  #write(event: EventRecord): boolean {
    const prod = this.#registers.get(OFFSET.EVENTQ_PROD);
    const { base, log2 } = this.#place;
    const address = base + queueSlot(prod & INDEX, log2) * EVENT_BYTES;
    for (let word = 0; word < EVENT_WORDS; word += 2) {
      if (this.#memory.store64(address + word * 4, event.words[word]!, event.words[word + 1]!)) continue;
      // A synchronous abort: the index stays (§7.2.2).
      this.#interrupts.error(GERROR.EVENTQ_ABT_ERR.inPlace);
      return false;
    }
    const wasEmpty = queueEmpty(prod & INDEX, this.#registers.get(OFFSET.EVENTQ_CONS), log2);
    const next = queueNext(prod & INDEX, log2);
    this.#registers.set(OFFSET.EVENTQ_PROD, ((prod & OVERFLOW) | next) >>> 0);
    this.#last = event;
    this.#lastProd = next;
    if (wasEmpty) this.#interrupts.raise('eventq');
    return true;
  }
}
