import { u64 } from '../../base/u64.ts';
import type { BarMemory } from '../bar-memory.ts';
import type { FunctionDma } from '../dma.ts';
import { DESCRIPTOR_BYTES, RXD_STAT_DD, RXD_STAT_EOP } from './registers.ts';

/** Descriptors that are fetched, and written back, at once. */
export const FETCH = 64;

/** A ring of descriptors, as its registers say. */
export interface Ring {
  readonly base: bigint;
  readonly count: number;
}

/** Where a ring is, by its low base register: the upper half and the length, a multiple of 128 bytes, follow. */
export function readRing(memory: BarMemory, low: number): Ring {
  const base = u64(memory.get32(low + 4), memory.get32(low) & ~127);
  return { base, count: ((memory.get32(low + 8) & 0xf_ff80) >>> 0) / DESCRIPTOR_BYTES };
}

/** Descriptors of a ring from `first` on, or null where they cannot be read. */
export function fetchDescriptors(
  dma: FunctionDma,
  { base }: Ring,
  first: number,
  count: number,
): DataView | null {
  const bytes = new Uint8Array(count * DESCRIPTOR_BYTES);
  if (dma.read(base + BigInt(first * DESCRIPTOR_BYTES), bytes) !== null) return null;
  return new DataView(bytes.buffer);
}

/**
 * The receiving side of a burst of packets: buffers are filled one by one, and descriptors are written back together.
 * Methods answer false where a request failed.
 */
export class ReceiveBurst {
  readonly #dma: FunctionDma;
  readonly #ring: Ring;
  readonly #tail: number;
  readonly #buffer: number;
  readonly #beforeWriteBack: () => void;
  #head: number;
  #fetched: DataView | null = null;
  #fetchedFrom = 0;
  /** Descriptors from here to the head are filled and not yet written back. */
  #unwritten: number;
  readonly #written = new DataView(new ArrayBuffer(FETCH * DESCRIPTOR_BYTES));

  /** `buffer`: bytes of each buffer. */
  constructor(
    dma: FunctionDma,
    ring: Ring,
    at: { readonly head: number; readonly tail: number; readonly buffer: number },
    beforeWriteBack: () => void,
  ) {
    this.#dma = dma;
    this.#ring = ring;
    this.#head = at.head;
    this.#tail = at.tail;
    this.#buffer = at.buffer;
    this.#unwritten = at.head;
    this.#beforeWriteBack = beforeWriteBack;
  }

  get head(): number {
    return this.#head;
  }

  /** True where there are buffers for a packet of that length. */
  fits(length: number): boolean {
    const { count } = this.#ring;
    if (this.#head >= count || this.#tail >= count) return false;
    return Math.ceil(length / this.#buffer) <= (this.#tail - this.#head + count) % count;
  }

  deliver(packet: Uint8Array): boolean {
    for (let at = 0; at < packet.length; at += this.#buffer) {
      const part = packet.subarray(at, at + this.#buffer);
      if (!this.#fill(part, at + this.#buffer >= packet.length)) return false;
    }
    return true;
  }

  #fill(part: Uint8Array, last: boolean): boolean {
    const address = this.#bufferAddress();
    if (address === null || this.#dma.write(address, part) !== null) return false;
    const at = (this.#head - this.#unwritten) * DESCRIPTOR_BYTES;
    for (let word = 0; word < DESCRIPTOR_BYTES; word += 4) this.#written.setUint32(at + word, 0, true);
    this.#written.setUint32(at + 8, RXD_STAT_DD | (last ? RXD_STAT_EOP : 0), true);
    this.#written.setUint16(at + 12, part.length, true);
    this.#head++;
    if (this.#head < this.#ring.count && this.#head - this.#unwritten < FETCH) return true;
    return this.flush();
  }

  #bufferAddress(): bigint | null {
    const end = this.#fetchedFrom + (this.#fetched?.byteLength ?? 0) / DESCRIPTOR_BYTES;
    if (this.#fetched === null || this.#head < this.#fetchedFrom || this.#head >= end) {
      const limit = this.#head < this.#tail ? this.#tail : this.#ring.count;
      const count = Math.min(limit - this.#head, FETCH);
      this.#fetched = fetchDescriptors(this.#dma, this.#ring, this.#head, count);
      this.#fetchedFrom = this.#head;
    }
    return this.#fetched?.getBigUint64((this.#head - this.#fetchedFrom) * DESCRIPTOR_BYTES, true) ?? null;
  }

  /** Writes back the descriptors that are filled. */
  flush(): boolean {
    const first = this.#unwritten;
    const count = this.#head - first;
    this.#head %= this.#ring.count;
    this.#unwritten = this.#head;
    if (count === 0) return true;
    this.#beforeWriteBack();
    const bytes = new Uint8Array(this.#written.buffer, 0, count * DESCRIPTOR_BYTES);
    return this.#dma.write(this.#ring.base + BigInt(first * DESCRIPTOR_BYTES), bytes) === null;
  }
}
