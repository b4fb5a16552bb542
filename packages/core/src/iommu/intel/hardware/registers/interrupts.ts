// The hardware's own events: message-signaled interrupts with a mask and a pending bit (§6.5.2.10, §7.3, §7.5).

import { u64 } from '../../../../base/u64.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { EVENT_CONTROL, OFFSET } from '../../spec/registers.ts';
import type { RegisterFile } from './registers.ts';
import type { EventInterrupt } from '../transaction.ts';

/** Offset of the control register; data, address and upper address follow it. */
const CONTROL = {
  fault: OFFSET.FECTL,
  invalidation: OFFSET.IECTL,
  'page-request': OFFSET.PECTL,
} as const;

const IM = EVENT_CONTROL.IM.inPlace;
const IP = EVENT_CONTROL.IP.inPlace;

export class Interrupts {
  readonly #registers: RegisterFile;
  readonly #trace: Trace | null;
  readonly #onInterrupt: (interrupt: EventInterrupt) => void;

  constructor(
    registers: RegisterFile,
    trace: Trace | null,
    onInterrupt: (interrupt: EventInterrupt) => void,
  ) {
    this.#registers = registers;
    this.#trace = trace;
    this.#onInterrupt = onInterrupt;
  }

  /** A new interrupt condition: no status of the event was set before. */
  raise(event: EventInterrupt['event']): void {
    const control = CONTROL[event];
    this.#registers.set(control, (this.#registers.get(control) | IP) >>> 0);
    this.unmasked(event);
  }

  /** The control register was written: what is pending goes out where it is not masked. */
  unmasked(event: EventInterrupt['event']): void {
    const control = CONTROL[event];
    const value = this.#registers.get(control);
    if ((value & IP) === 0 || (value & IM) !== 0) return;
    this.serviced(event);
    const message: EventInterrupt = {
      event,
      address: u64(this.#registers.get(control + 12), this.#registers.get(control + 8)),
      data: this.#registers.get(control + 4),
    };
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'interrupt', unit: 'vtd', interrupt: event, ...message });
    }
    this.#onInterrupt(message);
  }

  /** Software has cleared every status of the event. */
  serviced(event: EventInterrupt['event']): void {
    const control = CONTROL[event];
    this.#registers.set(control, (this.#registers.get(control) & ~IP) >>> 0);
  }
}
