import type { AsyncEvents } from './events.ts';
import { LOG } from './spec.ts';

// How warm the controller is, and what it says of that: §5.14.1.2, §5.21.1.4, §5.21.1.11.

/** Composite Temperature, in kelvins. It never changes; what a host finds too warm may. */
const KELVINS = 310;
/** Warning Composite Temperature Threshold, in kelvins. */
export const WARNING_KELVINS = 343;
/** Critical Warning: the temperature is at or beyond a threshold. */
const WARNING_TEMPERATURE = 1 << 1;
/** Asynchronous event of type SMART / health status, Figure 148. */
const EVENT_HEALTH = 0x01;
const EVENT_TEMPERATURE = 0x01;

const THRESHOLD = 0xffff;
const SENSOR_SHIFT = 16;
const KIND_SHIFT = 20;
const SENSOR = { COMPOSITE: 0, ALL: 0xf } as const;
const KIND = { OVER: 0, UNDER: 1 } as const;

/** Which threshold dword 11 of Get and Set Features means; null where there is none. */
function kindOf(word: number, all: boolean): 'over' | 'under' | null {
  const sensor = (word >>> SENSOR_SHIFT) & 0xf;
  if (sensor !== SENSOR.COMPOSITE && !(all && sensor === SENSOR.ALL)) return null;
  const kind = (word >>> KIND_SHIFT) & 3;
  return kind === KIND.OVER ? 'over' : kind === KIND.UNDER ? 'under' : null;
}

export class Health {
  readonly kelvins = KELVINS;
  readonly #events: AsyncEvents;
  readonly #thresholds = { over: WARNING_KELVINS, under: 0 };
  /** Which critical warnings are events. */
  #reported = 0;
  #before = 0;

  constructor(events: AsyncEvents) {
    this.#events = events;
  }

  reset(): void {
    this.#thresholds.over = WARNING_KELVINS;
    this.#thresholds.under = 0;
    this.#reported = 0;
    this.#before = 0;
  }

  /** The field Critical Warning. */
  get warning(): number {
    const { over, under } = this.#thresholds;
    return KELVINS >= over || KELVINS <= under ? WARNING_TEMPERATURE : 0;
  }

  /** Dword 11 of Get Features; null where there is no such sensor or threshold. */
  threshold(word: number): number | null {
    const kind = kindOf(word, false);
    return kind === null ? null : this.#thresholds[kind];
  }

  /** Dword 11 of Set Features. False where there is no such sensor or threshold. */
  setThreshold(word: number): boolean {
    const kind = kindOf(word, true);
    if (kind === null) return false;
    this.#thresholds[kind] = word & THRESHOLD;
    this.#look();
    return true;
  }

  /** Asynchronous Event Configuration: which critical warnings are events. */
  report(warnings: number): void {
    this.#reported = warnings & 0xff;
    this.#look();
  }

  #look(): void {
    const now = this.warning & this.#reported;
    if ((now & ~this.#before) !== 0) this.#events.report(EVENT_HEALTH, EVENT_TEMPERATURE, LOG.SMART);
    this.#before = now;
  }
}
