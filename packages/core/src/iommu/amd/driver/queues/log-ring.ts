import { pagesOf } from '../../../drivers/table-memory.ts';
import { OFFSET, RING_ENTRY_BYTES } from '../../spec/registers.ts';
import type { Ivhd } from '../ivhd.ts';
import { RECORDS_PER_INTERRUPT, RING_LOG2 } from '../limits.ts';

const RING_BYTES = 2 ** RING_LOG2 * RING_ENTRY_BYTES;

/** The event log or the PPR log: rings that the IOMMU fills. */
export class LogRing {
  readonly base: number;
  readonly #ivhd: Ivhd;
  readonly #headOffset: number;
  readonly #tailOffset: number;

  constructor(ivhd: Ivhd, headOffset: number, tailOffset: number) {
    this.#ivhd = ivhd;
    this.#headOffset = headOffset;
    this.#tailOffset = tailOffset;
    this.base = ivhd.kernel.physical.allocate(pagesOf(RING_BYTES));
  }

  free(): void {
    this.#ivhd.kernel.physical.free(this.base, pagesOf(RING_BYTES));
  }

  /** Both pointers to zero, in the registers. */
  rewind(): void {
    this.#ivhd.mmio.write32(this.#headOffset, 0);
    this.#ivhd.mmio.write32(this.#tailOffset, 0);
  }

  /**
   * amd_iommu_handle_irq(): every record to `handle`, until the interrupt and overflow bits of the status register stay
   * clear. `overflow` is called where records were lost.
   */
  serve(
    interruptBit: number,
    overflowBit: number,
    handle: (words: Uint32Array) => void,
    overflow: () => void,
  ): void {
    const { mmio } = this.#ivhd;
    const mask = interruptBit | overflowBit;
    let left = RECORDS_PER_INTERRUPT;
    for (let status = mmio.read32(OFFSET.STATUS); (status & mask) !== 0 && left > 0;) {
      // Re-enables the interrupt: what comes from now on is seen below, or raises it again.
      mmio.write32(OFFSET.STATUS, mask);
      left -= this.#poll(handle) + 1;
      if ((status & overflowBit) !== 0) overflow();
      status = mmio.read32(OFFSET.STATUS);
    }
  }

  // iommu_poll_events(), amd_iommu_poll_ppr_log(): the tail is read once.
  #poll(handle: (words: Uint32Array) => void): number {
    const { mmio } = this.#ivhd;
    let head = mmio.read32(this.#headOffset);
    const tail = mmio.read32(this.#tailOffset);
    let records = 0;
    for (; head !== tail; records++) {
      const words = this.#take(head);
      head = (head + RING_ENTRY_BYTES) % RING_BYTES;
      mmio.write32(this.#headOffset, head);
      handle(words);
    }
    return records;
  }

  /** A record, which is cleared in memory: errata 732 and 733 show in entries that are not written yet. */
  #take(head: number): Uint32Array {
    const { physical } = this.#ivhd.kernel;
    const words = new Uint32Array(RING_ENTRY_BYTES / 4);
    const word = new Uint32Array(2);
    for (let i = 0; i < words.length; i += 2) {
      const at = this.base + head + i * 4;
      physical.load64(at, word);
      words.set(word, i);
      physical.store64(at, 0, 0);
    }
    return words;
  }
}
