// A log in memory: a ring that the IOMMU writes and software reads (§2.5, §2.6). It is full with one entry free, and
// halts when one more would have been written; software then restarts it by its enable bit.

import type { PhysicalMemory } from '../../../../memory/physical.ts';
import { RING_ENTRY_BYTES } from '../../spec/registers.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import type { RegisterFile } from '../registers/registers.ts';

/** Where a log's registers and status bits are. */
export interface LogPlace {
  readonly base: number;
  readonly head: number;
  readonly tail: number;
  /** Bits of STATUS. */
  readonly run: number;
  readonly overflow: number;
  readonly interrupt: number;
}

export type LogResult = 'written' | 'stopped' | 'overflow' | 'refused';

export class Log {
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #place: LogPlace;

  constructor(memory: PhysicalMemory, registers: RegisterFile, interrupts: Interrupts, place: LogPlace) {
    this.#memory = memory;
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#place = place;
  }

  get running(): boolean {
    return (this.#registers.status & this.#place.run) !== 0;
  }

  /** Entries that software has not consumed. */
  get length(): number {
    const { bytes } = this.#registers.ring(this.#place.base);
    if (bytes === 0) return 0;
    const used = this.#registers.get(this.#place.tail) - this.#registers.get(this.#place.head) + bytes;
    return (used % bytes) / RING_ENTRY_BYTES;
  }

  /** The base register was written: both pointers are 0 again. */
  rewind(): void {
    this.#registers.set(this.#place.head, 0);
    this.#registers.set(this.#place.tail, 0);
  }

  /** The enables have come to be all set (`on`), or one of them was cleared. */
  enable(on: boolean): void {
    const { status } = this.#registers;
    const starts = on && this.#registers.ring(this.#place.base).bytes > 0;
    this.#registers.status = starts ? status | this.#place.run : status & ~this.#place.run;
  }

  /** Writes a record of four words. */
  write(words: Uint32Array): LogResult {
    const { base: baseRegister, head, tail, run, overflow, interrupt } = this.#place;
    if (!this.running) return 'stopped';
    const { base, bytes } = this.#registers.ring(baseRegister);
    const at = this.#registers.get(tail);
    const next = (at + RING_ENTRY_BYTES) % bytes;
    if (next === this.#registers.get(head)) {
      this.#registers.status &= ~run;
      this.#interrupts.raise(overflow);
      return 'overflow';
    }
    for (let word = 0; word < 4; word += 2) {
      if (!this.#memory.store64(base + at + word * 4, words[word]!, words[word + 1]!)) return 'refused';
    }
    this.#registers.set(tail, next);
    this.#interrupts.raise(interrupt);
    return 'written';
  }
}
