// The invalidation queue (§6.5.2, §11.4.9): fetches descriptors in order and stops at the first error.

import { nameOf } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { CommandFetcher } from '../../../command-fetcher.ts';
import { DESC, DESC_TYPES_MAX } from '../../spec/invalidation.ts';
import { GSTS, IQA, IQEI, IQT, type Iqei, OFFSET, TTM } from '../../spec/registers.ts';
import type { IntelFeatures } from '../registers/config.ts';
import type { ConfigTable } from '../configuration/config-table.ts';
import type { FaultLog } from './fault-log.ts';
import type { Invalidations } from './invalidations.ts';
import type { RegisterFile } from '../registers/registers.ts';

export class InvalidationQueue extends CommandFetcher {
  readonly #features: IntelFeatures;
  readonly #registers: RegisterFile;
  readonly #table: ConfigTable;
  readonly #faults: FaultLog;
  readonly #invalidations: Invalidations;
  readonly #trace: Trace | null;

  constructor(
    memory: PhysicalMemory,
    features: IntelFeatures,
    registers: RegisterFile,
    table: ConfigTable,
    faults: FaultLog,
    invalidations: Invalidations,
    trace: Trace | null,
  ) {
    super(memory, 8);
    this.#features = features;
    this.#registers = registers;
    this.#table = table;
    this.#faults = faults;
    this.#invalidations = invalidations;
    this.#trace = trace;
  }

  /** QIES changed: a queue that is disabled starts over. */
  configure(): void {
    if (!this.#enabled) this.#registers.set(OFFSET.IQH, 0);
  }

  get #enabled(): boolean {
    return this.#registers.enabled(GSTS.QIES.inPlace);
  }

  /** True when there is something to fetch: enabled, not empty, no error that stops it. */
  override get pending(): boolean {
    if (!this.#enabled || this.#faults.invalidationStopped) return false;
    return this.#registers.get(OFFSET.IQH) !== this.#registers.get(OFFSET.IQT);
  }

  protected override one(): boolean {
    const iqa = this.#registers.get(OFFSET.IQA);
    const wide = (iqa & IQA.DW.inPlace) !== 0;
    const bytes = 4096 << (iqa & IQA.QS.inPlace);
    const wrong = this.#queueError(wide, bytes);
    if (wrong !== IQEI.NONE) return this.#stop(wrong);
    const head = this.#registers.get(OFFSET.IQH);
    if (!this.fetch(this.#registers.getAddress(OFFSET.IQA, 12) + head, wide ? 8 : 4)) {
      return this.#stop(IQEI.FETCH);
    }
    const words = this.words;
    const type = (words[0]! & 0xf) | (((words[0]! >>> 9) & 7) << 4);
    if (this.#trace !== null && this.#trace.active) {
      const name = type === 0 ? 'NONE' : nameOf(DESC, type);
      this.#trace.emit({ kind: 'command', unit: 'vtd', name, words: [...words.subarray(0, wide ? 8 : 4)] });
    }
    if (!this.#allowed(type, wide) || !this.#invalidations.knows(type)) return this.#stop(IQEI.TYPE);
    const result = this.#invalidations.execute(type, words);
    if (result === 'waiting') return false;
    if (result !== IQEI.NONE) return this.#stop(result);
    // A time-out keeps the head where it is; the descriptor that met it counts as fetched.
    this.#registers.set(OFFSET.IQH, (head + (wide ? 32 : 16)) & (bytes - 1));
    if (type === DESC.INV_WAIT) this.#invalidations.completeWait(words);
    return true;
  }

  /** What is wrong with the queue itself (§11.4.9.9). */
  #queueError(wide: boolean, bytes: number): Iqei {
    const { smts, adms } = this.#features;
    const { ttm } = this.#table.root;
    const tail = this.#registers.get(OFFSET.IQT) & IQT.QT.inPlace;
    if (this.#table.rootModeInvalid) return IQEI.TTM;
    if (wide ? !smts && !adms : ttm !== TTM.LEGACY) return IQEI.WIDTH;
    if (wide && (tail & 16) !== 0) return IQEI.TAIL_ALIGNMENT;
    return tail >= bytes ? IQEI.TAIL : IQEI.NONE;
  }

  /** Table 26. A descriptor of 256 bits is invalid in a queue of 128, whatever the mode. */
  #allowed(type: number, wide: boolean): boolean {
    const { ttm } = this.#table.root;
    const of = ttm === TTM.LEGACY ? 'LEGACY' : ttm === TTM.SCALABLE ? 'SCALABLE' : 'ABORT';
    return type >= DESC.CC_INV && type <= DESC_TYPES_MAX[of][wide ? 1 : 0];
  }

  /** The head stays at the descriptor (§6.5.2.11). */
  #stop(error: Iqei): false {
    this.#faults.queueError(error);
    return false;
  }
}
