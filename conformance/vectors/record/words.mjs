// Memory as lines have it: words of eight bytes, in hexadecimal, as they lie in memory.

import { OWN_MEMORY } from './qtest.mjs';

export const PAGE = 0x1000n;
/** Below it are ROMs and holes. */
const LOWEST = 0x10_0000n;

/** A 64-bit word, little-endian. */
export function word(value) {
  return value.toString(16).padStart(16, '0').match(/../g).toReversed().join('');
}

/** What a random configuration has in memory. */
export class Layout {
  #random;
  #words = new Map();

  constructor(random) {
    this.#random = random;
  }

  number(bits) {
    let value = 0n;
    for (let i = 0; i < bits; i += 16) value = (value << 16n) | BigInt(this.#random.roll(0x1_0000));
    return value & ((1n << BigInt(bits)) - 1n);
  }

  /** A page of RAM that nothing else is likely to have; `align` bytes. */
  page(align = PAGE) {
    const pages = (OWN_MEMORY - LOWEST) / align;
    const first = (LOWEST + align - 1n) / align;
    return (first + (this.number(48) % (pages - 1n))) * align;
  }

  set(address, value) {
    this.#words.set(address, BigInt.asUintN(64, value));
  }

  get(address) {
    return this.#words.get(address) ?? 0n;
  }

  /** Sorted by address, as QEMU's recordings have them. */
  get mem() {
    return [...this.#words]
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([address, value]) => [`0x${address.toString(16)}`, word(value)]);
  }

  /** Changes some bits of a word at random. */
  garble(address) {
    const { roll } = this.#random;
    for (let i = 0; i <= roll(3); i++) this.set(address, this.get(address) ^ (1n << BigInt(roll(64))));
  }
}
