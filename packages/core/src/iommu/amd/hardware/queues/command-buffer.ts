// The command buffer (§2.4): fetches commands in order and stops at the first error.

import { nameOf } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { CMD, CMD_BYTES, CMD_WORDS } from '../../spec/commands.ts';
import { EVENT } from '../../spec/events.ts';
import { OFFSET, STATUS } from '../../spec/registers.ts';
import { type Commands, RESULT } from './commands.ts';
import { commandErrorEvent, commandEvent } from './events.ts';
import type { Faults } from './faults.ts';
import type { RegisterFile } from '../registers/registers.ts';

export class CommandBuffer {
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #commands: Commands;
  readonly #faults: Faults;
  readonly #trace: Trace | null;
  readonly #words = new Uint32Array(CMD_WORDS);
  readonly #pair = new Uint32Array(2);
  /** A command's own effects (interrupts, callbacks) may write registers: they do not run the buffer again. */
  #running = false;

  constructor(
    memory: PhysicalMemory,
    registers: RegisterFile,
    commands: Commands,
    faults: Faults,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#registers = registers;
    this.#commands = commands;
    this.#faults = faults;
    this.#trace = trace;
  }

  /** The base register was written: both pointers are 0 again. */
  rewind(): void {
    this.#registers.set(OFFSET.CMD_HEAD, 0);
    this.#registers.set(OFFSET.CMD_TAIL, 0);
  }

  /** The enables have come to be all set (`on`), or one of them was cleared. */
  enable(on: boolean): void {
    const { status } = this.#registers;
    const starts = on && this.#registers.ring(OFFSET.CMD_BUF_BASE).bytes > 0;
    this.#registers.status = starts ? status | STATUS.CmdBufRun.inPlace : status & ~STATUS.CmdBufRun.inPlace;
  }

  /** True when there are commands that could be consumed now. */
  get pending(): boolean {
    if ((this.#registers.status & STATUS.CmdBufRun.inPlace) === 0) return false;
    return this.#registers.get(OFFSET.CMD_HEAD) !== this.#registers.get(OFFSET.CMD_TAIL);
  }

  /** Consumes at most `budget` commands; answers how many it did. */
  run(budget: number): number {
    if (this.#running) return 0;
    this.#running = true;
    let done = 0;
    try {
      while (done < budget && this.pending && this.#one()) done++;
    } finally {
      this.#running = false;
    }
    return done;
  }

  #one(): boolean {
    const { base, bytes } = this.#registers.ring(OFFSET.CMD_BUF_BASE);
    const head = this.#registers.get(OFFSET.CMD_HEAD);
    const address = base + head;
    if (!this.#fetch(address)) return this.#stopHardware(address);
    if (this.#trace !== null && this.#trace.active) {
      const name = nameOf(CMD, this.#words[1]! >>> 28);
      this.#trace.emit({ kind: 'command', unit: 'amd-iommu', name, words: [...this.#words] });
    }
    const result = this.#commands.execute(this.#words, address);
    if (result === RESULT.ILLEGAL) return this.#stopIllegal(address);
    if (result === RESULT.HARDWARE_ERROR) return this.#stopHardware(this.#commands.failedAddress);
    this.#registers.set(OFFSET.CMD_HEAD, (head + CMD_BYTES) % bytes);
    return true;
  }

  #fetch(address: number): boolean {
    for (let i = 0; i < CMD_WORDS; i += 2) {
      if (!this.#memory.load64(address + i * 4, this.#pair)) return false;
      this.#words[i] = this.#pair[0]!;
      this.#words[i + 1] = this.#pair[1]!;
    }
    return true;
  }

  /** The head stays at the command; CmdBufRun is 0 until software enables the buffer anew (§2.5.6, §2.5.7). */
  #stop(error: string): false {
    this.#registers.status &= ~STATUS.CmdBufRun.inPlace;
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'command-error', unit: 'amd-iommu', error });
    }
    return false;
  }

  #stopIllegal(address: number): false {
    this.#faults.record(commandEvent(EVENT.ILLEGAL_COMMAND_ERROR, address));
    return this.#stop('ILLEGAL_COMMAND_ERROR');
  }

  #stopHardware(address: number): false {
    this.#faults.recordHardwareError(commandErrorEvent(address));
    return this.#stop('COMMAND_HARDWARE_ERROR');
  }
}
