// The Command queue (§3.5, §4.1, §7.1): fetches commands in order and stops at the first error.

import { nameOf } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { CommandFetcher } from '../../../command-fetcher.ts';
import { CMD, CMD_BYTES, CMD_WORDS } from '../../spec/commands.ts';
import { queueCount, queueEmpty, queueFull, queueMask, queueNext, queueSlot } from '../../spec/queues.ts';
import { CERROR, CMDQ_CONS, CR0, GERROR, OFFSET } from '../../spec/registers.ts';
import type { Commands } from './commands.ts';
import type { SmmuV3Features } from '../registers/config.ts';
import { type QueuePlace, queuePlace } from './queue-place.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import type { RegisterFile } from '../registers/registers.ts';

export class CommandQueue extends CommandFetcher {
  readonly #features: SmmuV3Features;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #commands: Commands;
  readonly #trace: Trace | null;
  #place: QueuePlace = { base: 0, log2: 0 };

  constructor(
    memory: PhysicalMemory,
    features: SmmuV3Features,
    registers: RegisterFile,
    interrupts: Interrupts,
    commands: Commands,
    trace: Trace | null,
  ) {
    super(memory, CMD_WORDS);
    this.#features = features;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#commands = commands;
    this.#trace = trace;
  }

  /** The base register or CONS changed: bits of CONS above the wrap flag read as zero (§6.3.28). */
  configure(): void {
    this.#place = queuePlace(this.#registers, OFFSET.CMDQ_BASE, this.#features.cmdqs, CMD_BYTES);
    const cons = this.#registers.get(OFFSET.CMDQ_CONS);
    const keep = CMDQ_CONS.ERR.inPlace | queueMask(this.#place.log2);
    this.#registers.set(OFFSET.CMDQ_CONS, (cons & keep) >>> 0);
  }

  /** True when there are commands that could be consumed now (§4.1.2). */
  override get pending(): boolean {
    if (!this.#registers.enabled(CR0.CMDQEN.inPlace)) return false;
    if (this.#interrupts.active(GERROR.CMDQ_ERR.inPlace)) return false;
    const { log2 } = this.#place;
    const prod = this.#registers.get(OFFSET.CMDQ_PROD);
    const cons = this.#registers.get(OFFSET.CMDQ_CONS);
    // Inconsistent indexes: nothing is consumed while they are (§3.5.1).
    return !queueEmpty(prod, cons, log2) && queueCount(prod, cons, log2) <= 1 << log2;
  }

  protected override one(): boolean {
    const { base, log2 } = this.#place;
    const cons = this.#registers.get(OFFSET.CMDQ_CONS);
    const address = base + queueSlot(cons, log2) * CMD_BYTES;
    if (!this.fetch(address, CMD_WORDS)) return this.#stop(CERROR.ABT);
    const words = this.words;
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({
        kind: 'command',
        unit: 'smmuv3',
        name: `CMD_${nameOf(CMD, words[0]! & 0xff)}`,
        words: [...words],
      });
    }
    const error = this.#commands.execute(words);
    if (error !== CERROR.NONE) return this.#stop(error);
    const wasFull = queueFull(this.#registers.get(OFFSET.CMDQ_PROD), cons, log2);
    const kept = this.#registers.get(OFFSET.CMDQ_CONS) & CMDQ_CONS.ERR.inPlace;
    this.#registers.set(OFFSET.CMDQ_CONS, (kept | queueNext(cons, log2)) >>> 0);
    // Consumption is observable before the signal that tells of it (§4.7.3).
    if ((words[0]! & 0xff) === CMD.SYNC) this.#commands.completeSync(words);
    if (wasFull) this.#interrupts.wakeUp();
    return true;
  }

  /** The index stays at the command; the reason is there before the global error is (§7.1). */
  #stop(error: number): false {
    const cons = this.#registers.get(OFFSET.CMDQ_CONS) & ~CMDQ_CONS.ERR.inPlace;
    this.#registers.set(OFFSET.CMDQ_CONS, (cons | (error << CMDQ_CONS.ERR.shift)) >>> 0);
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'command-error', unit: 'smmuv3', error: nameOf(CERROR, error) });
    }
    this.#interrupts.error(GERROR.CMDQ_ERR.inPlace);
    return false;
  }
}
