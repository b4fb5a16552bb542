import { assert } from '../base/assert.ts';
import { u64 } from '../base/u64.ts';
import type { ConfigSpace } from './config-space.ts';
import type { InterruptEvents } from './msix.ts';
import {
  PCI_CAP_ID_MSI,
  PCI_MSI_ADDRESS_HI,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSI_MASK_64,
  PCI_MSI_PENDING_64,
} from './spec.ts';

/** The MSI capability, with 64-bit addresses and per-vector masks: PCI Express Base §7.7.1. */
export class Msi {
  /** As many as the function can signal. */
  readonly vectors: number;
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #events: InterruptEvents;

  constructor(config: ConfigSpace, vectors: number, events: InterruptEvents) {
    const log2 = Math.log2(vectors);
    assert(Number.isInteger(log2) && log2 <= 5, `${vectors} vectors are a power of two up to 32`);
    this.vectors = vectors;
    this.#config = config;
    this.#events = events;
    const at = config.addCapability(PCI_CAP_ID_MSI, 24);
    this.#at = at;
    const sendPending = (): void => this.#sendPending();
    config.define({
      offset: at + PCI_MSI_FLAGS,
      size: 2,
      value: (log2 << 1) | PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT,
      writable: PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE,
      onWrite: () => {
        events.controlled();
        sendPending();
      },
    });
    config.define({ offset: at + PCI_MSI_ADDRESS_LO, size: 4, writable: 0xffff_fffc });
    config.define({ offset: at + PCI_MSI_ADDRESS_HI, size: 4, writable: 0xffff_ffff });
    config.define({ offset: at + PCI_MSI_DATA_64, size: 2, writable: 0xffff });
    const all = 2 ** vectors - 1;
    config.define({ offset: at + PCI_MSI_MASK_64, size: 4, writable: all, onWrite: sendPending });
    config.define({ offset: at + PCI_MSI_PENDING_64, size: 4 });
  }

  get enabled(): boolean {
    return (this.#flags & PCI_MSI_FLAGS_ENABLE) !== 0;
  }

  get #flags(): number {
    return this.#config.read(this.#at + PCI_MSI_FLAGS, 2);
  }

  /** As many as software granted: the function folds its vectors into them. */
  get granted(): number {
    return Math.min(this.vectors, 2 ** ((this.#flags & PCI_MSI_FLAGS_QSIZE) >>> 4));
  }

  raise(vector: number): void {
    const folded = vector % this.granted;
    if ((this.#config.read(this.#at + PCI_MSI_MASK_64, 4) & (1 << folded)) === 0) this.#deliver(folded);
    else this.#setPending(this.#pending | (1 << folded));
  }

  reset(): void {
    this.#setPending(0);
  }

  get #pending(): number {
    return this.#config.read(this.#at + PCI_MSI_PENDING_64, 4);
  }

  #setPending(bits: number): void {
    this.#config.set(this.#at + PCI_MSI_PENDING_64, 4, bits >>> 0);
  }

  #sendPending(): void {
    if (!this.enabled) return;
    const mask = this.#config.read(this.#at + PCI_MSI_MASK_64, 4);
    const ready = this.#pending & ~mask;
    this.#setPending(this.#pending & mask);
    for (let vector = 0; vector < this.granted; vector++)
      if ((ready & (1 << vector)) !== 0) this.#deliver(vector);
  }

  #deliver(vector: number): void {
    const at = this.#at;
    const hi = this.#config.read(at + PCI_MSI_ADDRESS_HI, 4);
    const lo = this.#config.read(at + PCI_MSI_ADDRESS_LO, 4);
    const data = this.#config.read(at + PCI_MSI_DATA_64, 2);
    this.#events.send(vector, { address: u64(hi, lo), data: (data & ~(this.granted - 1)) | vector });
  }
}
