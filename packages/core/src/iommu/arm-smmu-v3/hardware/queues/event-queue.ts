// The Event queue (§3.5.3, §7.2, §7.4).

import { decode } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { EVENT_BYTES, EVENT_RECORD } from '../../spec/events.ts';
import { CR0, GERROR, OFFSET } from '../../spec/registers.ts';
import type { SmmuV3Features } from '../registers/config.ts';
import { eventName, mergeable } from './events.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import { OutputQueue } from './output-queue.ts';
import type { RegisterFile } from '../registers/registers.ts';
import type { EventRecord } from '../transaction.ts';

export class EventQueue {
  readonly #queue: OutputQueue;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #trace: Trace | null;
  /** The last record, and the index after it, for merging. */
  #last: EventRecord | null = null;
  #lastIndex = -1;

  constructor(
    memory: PhysicalMemory,
    features: SmmuV3Features,
    registers: RegisterFile,
    interrupts: Interrupts,
    trace: Trace | null,
  ) {
    this.#queue = new OutputQueue(memory, registers, {
      base: OFFSET.EVENTQ_BASE,
      prod: OFFSET.EVENTQ_PROD,
      cons: OFFSET.EVENTQ_CONS,
      log2Max: features.eventqs,
      entryBytes: EVENT_BYTES,
    });
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#trace = trace;
  }

  /** The base register changed. */
  configure(): void {
    this.#queue.configure();
    this.#last = null;
  }

  /** Software wrote PROD. */
  normalize(): void {
    this.#queue.normalize();
  }

  get #enabled(): boolean {
    return this.#registers.enabled(CR0.EVENTQEN.inPlace);
  }

  /** §7.2.1: enabled, not full, and no abort unacknowledged. */
  get writable(): boolean {
    return this.#enabled && !this.#queue.full && !this.#interrupts.active(GERROR.EVENTQ_ABT_ERR.inPlace);
  }

  /**
   * Records an event that belongs to a terminated transaction, or discards it: a full queue then overflows (§7.4).
   * `merge` allows one record to stand for this event and the one before it. True when it is in the queue.
   */
  record(event: EventRecord, merge: boolean): boolean {
    this.#tell(event);
    if (merge && this.#merged(event)) return true;
    if (this.writable) return this.#write(event);
    if (this.#queue.full) this.lost();
    return false;
  }

  /** Records the event of a stalled transaction; the queue is writable. */
  recordStall(event: EventRecord): boolean {
    this.#tell(event);
    return this.#write(event);
  }

  /** Events were lost before they came here: as where the queue was full (§7.4). */
  lost(): void {
    if (this.#enabled) this.#queue.overflow();
  }

  #tell(event: EventRecord): void {
    if (this.#trace === null || !this.#trace.active) return;
    this.#trace.emit({
      kind: 'fault',
      unit: 'smmuv3',
      event: eventName(event.type),
      ...decode(EVENT_RECORD, event.words),
    });
  }

  /** True when the last record says the same and software has not consumed it yet (§7.3.1). */
  #merged(event: EventRecord): boolean {
    if (this.#last === null || !this.#enabled) return false;
    if (this.#queue.index !== this.#lastIndex || this.#queue.empty) return false;
    return mergeable(this.#last, event);
  }

  #write(event: EventRecord): boolean {
    const wasEmpty = this.#queue.empty;
    if (!this.#queue.write(event.words)) {
      this.#interrupts.error(GERROR.EVENTQ_ABT_ERR.inPlace);
      return false;
    }
    this.#last = event;
    this.#lastIndex = this.#queue.index;
    if (wasEmpty) this.#interrupts.raise('eventq');
    return true;
  }
}
