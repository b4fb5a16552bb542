import { big, u64 } from '../base/u64.ts';
import { registers32, type BarHandler } from './bar.ts';
import type { ConfigSpace } from './config-space.ts';
import {
  PCI_CAP_ID_MSIX,
  PCI_MSIX_ENTRY_CTRL_MASKBIT,
  PCI_MSIX_ENTRY_SIZE,
  PCI_MSIX_ENTRY_VECTOR_CTRL,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_MSIX_PBA,
  PCI_MSIX_TABLE,
} from './spec.ts';

/** What an MSI or MSI-X writes where. */
export interface InterruptMessage {
  readonly address: bigint;
  readonly data: number;
}

/** What an interrupt capability tells the function that has it. */
export interface InterruptEvents {
  send(vector: number, message: InterruptMessage): void;
  /** It may have been enabled or disabled. */
  controlled(): void;
}

/** Where a function's MSI-X table and its Pending Bit Array are. Offsets are multiples of 8. */
export interface MsixDescription {
  /** 1 to 2048. */
  readonly vectors: number;
  readonly bar: number;
  readonly table: number;
  readonly pba: number;
}

const ENTRY_WORDS = PCI_MSIX_ENTRY_SIZE / 4;
const CONTROL_WORD = PCI_MSIX_ENTRY_VECTOR_CTRL / 4;

/** The MSI-X capability, its table and its pending bits: PCI Express Base §6.1.4. */
export class Msix {
  readonly description: MsixDescription;
  /** The table and the PBA as loads and stores of their BAR reach them, offsets from their first byte. */
  readonly table: BarHandler;
  readonly pba: BarHandler;
  readonly #words: Uint32Array;
  readonly #pending: Uint32Array;
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #events: InterruptEvents;

  constructor(config: ConfigSpace, description: MsixDescription, events: InterruptEvents) {
    const { vectors, bar, table, pba } = description;
    this.description = description;
    this.#config = config;
    this.#events = events;
    this.#words = new Uint32Array(vectors * ENTRY_WORDS);
    this.#pending = new Uint32Array(Math.ceil(vectors / 64) * 2);
    this.#at = config.addCapability(PCI_CAP_ID_MSIX, 12);
    config.define({
      offset: this.#at + PCI_MSIX_FLAGS,
      size: 2,
      value: vectors - 1,
      writable: PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL,
      onWrite: () => {
        events.controlled();
        this.#sendPending();
      },
    });
    config.define({ offset: this.#at + PCI_MSIX_TABLE, size: 4, value: table | bar });
    config.define({ offset: this.#at + PCI_MSIX_PBA, size: 4, value: pba | bar });
    this.table = registers32({
      read32: (offset) => this.#words[offset / 4]!,
      write32: (offset, value) => this.#store(offset / 4, value),
    });
    this.pba = registers32({ read32: (offset) => this.#pending[offset / 4]!, write32: () => {} });
    this.reset();
  }

  get vectors(): number {
    return this.description.vectors;
  }

  /** Bytes of the table. */
  get tableBytes(): number {
    return this.#words.byteLength;
  }

  get pbaBytes(): number {
    return this.#pending.byteLength;
  }

  get enabled(): boolean {
    return (this.#flags & PCI_MSIX_FLAGS_ENABLE) !== 0;
  }

  get #flags(): number {
    return this.#config.read(this.#at + PCI_MSIX_FLAGS, 2);
  }

  /** Whether a message of this vector would wait as pending. */
  masked(vector: number): boolean {
    const control = this.#words[vector * ENTRY_WORDS + CONTROL_WORD]!;
    return (this.#flags & PCI_MSIX_FLAGS_MASKALL) !== 0 || (control & PCI_MSIX_ENTRY_CTRL_MASKBIT) !== 0;
  }

  pending(vector: number): boolean {
    return (this.#pending[vector >>> 5]! & (1 << (vector & 31))) !== 0;
  }

  /** Writes an entry of the table and unmasks it, as an operating system does. */
  program(vector: number, message: InterruptMessage): void {
    const at = vector * PCI_MSIX_ENTRY_SIZE;
    this.table.write(at, 8, message.address);
    this.table.write(at + 8, 4, big(message.data));
    this.mask(vector, false);
  }

  mask(vector: number, on: boolean): void {
    const at = vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL;
    this.table.write(at, 4, on ? big(PCI_MSIX_ENTRY_CTRL_MASKBIT) : 0n);
  }

  /** The table as it stands. */
  entries(): { readonly message: InterruptMessage; readonly masked: boolean }[] {
    return Array.from({ length: this.vectors }, (_, vector) => ({
      message: this.#message(vector),
      masked: (this.#words[vector * ENTRY_WORDS + CONTROL_WORD]! & PCI_MSIX_ENTRY_CTRL_MASKBIT) !== 0,
    }));
  }

  /** The device signals a vector; where it is masked, the message waits. */
  raise(vector: number): void {
    if (vector >= this.vectors) return;
    if (this.masked(vector)) this.#pending[vector >>> 5]! |= 1 << (vector & 31);
    else this.#deliver(vector);
  }

  /** The device has no reason any more to signal a vector that waits. */
  withdraw(vector: number): void {
    if (vector < this.vectors) this.#pending[vector >>> 5]! &= ~(1 << (vector & 31));
  }

  reset(): void {
    this.#words.fill(0);
    this.#pending.fill(0);
    for (let vector = 0; vector < this.vectors; vector++)
      this.#words[vector * ENTRY_WORDS + CONTROL_WORD] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
  }

  #store(word: number, value: number): void {
    const control = word % ENTRY_WORDS === CONTROL_WORD;
    // Message addresses are of 4-byte words; of Vector Control only the mask bit is there.
    const kept = control ? PCI_MSIX_ENTRY_CTRL_MASKBIT : word % ENTRY_WORDS === 0 ? ~3 : ~0;
    this.#words[word] = value & kept;
    if (control) this.#sendPending();
  }

  #sendPending(): void {
    if (!this.enabled) return;
    for (const [index, bits] of this.#pending.entries()) {
      for (let left = bits; left !== 0; left &= left - 1) {
        const vector = index * 32 + 31 - Math.clz32(left & -left);
        if (this.masked(vector)) continue;
        this.withdraw(vector);
        this.#deliver(vector);
      }
    }
  }

  #deliver(vector: number): void {
    this.#events.send(vector, this.#message(vector));
  }

  #message(vector: number): InterruptMessage {
    const [lo, hi, data] = this.#words.subarray(vector * ENTRY_WORDS, (vector + 1) * ENTRY_WORDS);
    return { address: u64(hi!, lo!), data: data! };
  }
}
