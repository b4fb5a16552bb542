import type { Command, Outcome } from './command.ts';
import { WARNING_KELVINS, type Health } from './health.ts';
import { IO_QUEUES } from './limits.ts';
import { FEATURE, SC, SC_DNR, SQE } from './spec.ts';

// Features, §5.21.

const SELECT = { CURRENT: 0, DEFAULT: 1, SAVED: 2, CAPABILITIES: 3 } as const;
const CHANGEABLE = 1 << 2;
const QUEUE_COUNTS = ((IO_QUEUES - 1) << 16) | (IO_QUEUES - 1);

/** Value by default, and what bits a host may set. */
const KNOWN: ReadonlyMap<number, { readonly value: number; readonly writable: number }> = new Map([
  [FEATURE.ARBITRATION, { value: 0, writable: 0xffff_ff07 }],
  [FEATURE.POWER, { value: 0, writable: 0 }],
  [FEATURE.TEMPERATURE, { value: WARNING_KELVINS, writable: 0x003f_ffff }],
  [FEATURE.ERROR_RECOVERY, { value: 0, writable: 0xffff }],
  [FEATURE.WRITE_CACHE, { value: 1, writable: 1 }],
  [FEATURE.QUEUES, { value: QUEUE_COUNTS, writable: 0 }],
  [FEATURE.COALESCING, { value: 0, writable: 0xffff }],
  [FEATURE.ATOMICITY, { value: 0, writable: 1 }],
  [FEATURE.ASYNC_EVENTS, { value: 0, writable: 0xffff }],
]);

export class Features {
  readonly #values = new Map<number, number>();
  /** Coalescing Disable, by vector. */
  readonly #vectors = new Map<number, number>();
  readonly #health: Health;

  constructor(health: Health) {
    this.#health = health;
  }

  /** Nothing is saved: a reset forgets. */
  reset(): void {
    this.#values.clear();
    this.#vectors.clear();
  }

  get(command: Command): Outcome {
    const id = command.word(SQE.CDW10) & 0xff;
    const select = (command.word(SQE.CDW10) >>> 8) & 7;
    if (id === FEATURE.VECTOR) return this.#getVector(command, select);
    const feature = KNOWN.get(id);
    if (feature === undefined || select > SELECT.CAPABILITIES) return { status: SC.INVALID_FIELD | SC_DNR };
    if (select === SELECT.CAPABILITIES)
      return { status: SC.SUCCESS, result: feature.writable === 0 ? 0 : CHANGEABLE };
    if (id === FEATURE.TEMPERATURE && select === SELECT.CURRENT) {
      const kelvins = this.#health.threshold(command.word(SQE.CDW11));
      return kelvins === null
        ? { status: SC.INVALID_FIELD | SC_DNR }
        : { status: SC.SUCCESS, result: kelvins };
    }
    const value = select === SELECT.CURRENT ? this.#values.get(id) : undefined;
    return { status: SC.SUCCESS, result: value ?? feature.value };
  }

  #getVector(command: Command, select: number): Outcome {
    const vector = command.word(SQE.CDW11) & 0xffff;
    if (vector > IO_QUEUES) return { status: SC.INVALID_FIELD | SC_DNR };
    if (select === SELECT.CAPABILITIES) return { status: SC.SUCCESS, result: CHANGEABLE };
    return { status: SC.SUCCESS, result: vector | (this.#vectors.get(vector) ?? 0) };
  }

  set(command: Command): Outcome {
    const id = command.word(SQE.CDW10) & 0xff;
    const value = command.word(SQE.CDW11);
    if (command.word(SQE.CDW10) >>> 31 === 1) return { status: SC.FEATURE_NOT_SAVEABLE | SC_DNR };
    if (id === FEATURE.VECTOR) {
      const vector = value & 0xffff;
      if (vector > IO_QUEUES) return { status: SC.INVALID_FIELD | SC_DNR };
      this.#vectors.set(vector, value & 0x1_0000);
      return { status: SC.SUCCESS };
    }
    const feature = KNOWN.get(id);
    if (feature === undefined) return { status: SC.INVALID_FIELD | SC_DNR };
    // What is asked for does not matter, but 65536 queues are not to be asked for (§5.21.1.7).
    if (id === FEATURE.QUEUES) {
      const wrong = (value & 0xffff) === 0xffff || value >>> 16 === 0xffff;
      return wrong ? { status: SC.INVALID_FIELD | SC_DNR } : { status: SC.SUCCESS, result: QUEUE_COUNTS };
    }
    if (id === FEATURE.POWER && (value & 0x1f) !== 0) return { status: SC.INVALID_FIELD | SC_DNR };
    if (id === FEATURE.TEMPERATURE && !this.#health.setThreshold(value))
      return { status: SC.INVALID_FIELD | SC_DNR };
    if (id === FEATURE.ASYNC_EVENTS) this.#health.report(value);
    this.#values.set(id, (value & feature.writable) >>> 0);
    return { status: SC.SUCCESS };
  }
}
