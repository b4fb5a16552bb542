// The command buffer (§2.4): fetches commands in order and stops at the first error.

import { nameOf } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { CommandFetcher } from '../../../command-fetcher.ts';
import { CMD, CMD_BYTES, CMD_WORDS } from '../../spec/commands.ts';
import { EVENT } from '../../spec/events.ts';
import { OFFSET, STATUS } from '../../spec/registers.ts';
import { type Commands, RESULT } from './commands.ts';
import { commandErrorEvent, commandEvent } from './events.ts';
import type { Faults } from './faults.ts';
import type { RegisterFile } from '../registers/registers.ts';

export class CommandBuffer extends CommandFetcher {
  readonly #registers: RegisterFile;
  readonly #commands: Commands;
  readonly #faults: Faults;
  readonly #trace: Trace | null;

  constructor(
    memory: PhysicalMemory,
    registers: RegisterFile,
    commands: Commands,
    faults: Faults,
    trace: Trace | null,
  ) {
    super(memory, CMD_WORDS);
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
  override get pending(): boolean {
    if ((this.#registers.status & STATUS.CmdBufRun.inPlace) === 0) return false;
    return this.#registers.get(OFFSET.CMD_HEAD) !== this.#registers.get(OFFSET.CMD_TAIL);
  }

  protected override one(): boolean {
    const { base, bytes } = this.#registers.ring(OFFSET.CMD_BUF_BASE);
    const head = this.#registers.get(OFFSET.CMD_HEAD);
    const address = base + head;
    if (!this.fetch(address, CMD_WORDS)) return this.#stopHardware(address);
    if (this.#trace !== null && this.#trace.active) {
      const name = nameOf(CMD, this.words[1]! >>> 28);
      this.#trace.emit({ kind: 'command', unit: 'amd-iommu', name, words: [...this.words] });
    }
    const result = this.#commands.execute(this.words, address);
    if (result === RESULT.ILLEGAL) return this.#stopIllegal(address);
    if (result === RESULT.HARDWARE_ERROR) return this.#stopHardware(this.#commands.failedAddress);
    this.#registers.set(OFFSET.CMD_HEAD, (head + CMD_BYTES) % bytes);
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
