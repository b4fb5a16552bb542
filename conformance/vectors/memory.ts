import type { PhysicalMemory } from '@viommu/core/memory/physical';

// The memory of a recorded machine, and the hexadecimal form in which a recording has bytes: in the order of their
// addresses, so the words of the hardware are little-endian.

/** Bytes from `start` to `end` - 1, at physical addresses. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/** Memory of which a word is zero until it is written; accesses elsewhere abort. */
export class RecordedMemory implements PhysicalMemory {
  readonly #words = new Map<number, readonly [lo: number, hi: number]>();
  readonly #ranges: readonly Range[];

  constructor(ranges: readonly Range[]) {
    this.#ranges = ranges;
  }

  load64(pa: number, out: Uint32Array): boolean {
    if (!this.#has(pa)) return false;
    const [lo, hi] = this.#words.get(pa) ?? [0, 0];
    out[0] = lo;
    out[1] = hi;
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    if (!this.#has(pa)) return false;
    this.#words.set(pa, [lo >>> 0, hi >>> 0]);
    return true;
  }

  read = (): boolean => false;
  write = (): boolean => false;

  /** Stores bytes, a multiple of eight, given in hexadecimal. */
  put(pa: number, hex: string): void {
    for (let at = 0; at < hex.length; at += 16)
      this.#words.set(pa + at / 2, [fromHex(hex.slice(at, at + 8)), fromHex(hex.slice(at + 8, at + 16))]);
  }

  /** `bytes`, a multiple of eight, in hexadecimal. */
  hex(pa: number, bytes: number): string {
    let out = '';
    for (let at = 0; at < bytes; at += 8)
      for (const word of this.#words.get(pa + at) ?? [0, 0]) out += toHex(BigInt(word), 4);
    return out;
  }

  #has(pa: number): boolean {
    return this.#ranges.some(({ start, end }) => pa >= start && pa < end);
  }
}

/** The number that the bytes in hexadecimal are. */
function fromHex(hex: string): number {
  return Number.parseInt(swapped(hex), 16);
}

/** `bytes` of a number, in hexadecimal. */
export function toHex(value: bigint, bytes: number): string {
  return swapped(value.toString(16).padStart(2 * bytes, '0'));
}

function swapped(hex: string): string {
  return hex.match(/../g)!.toReversed().join('');
}
