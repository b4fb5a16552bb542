// Page tables in memory, of either stage, written plainly with bigint.

import type { TestMemory } from '../../../testing/memory.ts';

export interface TablesOptions {
  readonly stage: 1 | 2;
  readonly levels?: 3 | 4 | 5;
}

/** What a leaf says beyond its address. */
export interface Leaf {
  /** 1: 4 KiB, 2: 2 MiB, 3: 1 GiB. */
  readonly level?: 1 | 2 | 3;
  readonly read?: boolean;
  readonly write?: boolean;
  /** First stage: U/S. */
  readonly user?: boolean;
  /** More bits of the leaf. */
  readonly bits?: bigint;
}

const P = 1n;
const RW = 2n;
const US = 4n;
const PS = 0x80n;

export class Tables {
  readonly stage: 1 | 2;
  readonly levels: 3 | 4 | 5;
  readonly root: number;
  readonly #memory: TestMemory;
  readonly #allocate: () => number;

  constructor(memory: TestMemory, allocate: () => number, options: TablesOptions) {
    this.#memory = memory;
    this.#allocate = allocate;
    this.stage = options.stage;
    this.levels = options.levels ?? 4;
    this.root = allocate();
  }

  /** Where the entry of an address at a level lies; tables on the way appear, and grant everything. */
  entry(address: bigint, level: number): number {
    let table = this.root;
    for (let at: number = this.levels; ; at--) {
      const place = table + Number((address >> BigInt(3 + 9 * at)) & 0x1ffn) * 8;
      if (at === level) return place;
      let value = this.#memory.get64(place);
      if ((value & 3n) === 0n) {
        value = BigInt(this.#allocate()) | (this.stage === 1 ? P | RW | US : 3n);
        this.#memory.put64(place, value);
      }
      table = Number(value & 0x000f_ffff_ffff_f000n);
    }
  }

  /** Maps a page. Answers where its entry lies. */
  map(address: bigint, to: bigint, leaf: Leaf = {}): number {
    const { level = 1, read = true, write = true, user = true, bits = 0n } = leaf;
    const place = this.entry(address, level);
    const rights =
      this.stage === 1 ? P | (write ? RW : 0n) | (user ? US : 0n) : (read ? 1n : 0n) | (write ? 2n : 0n);
    this.put(place, to | rights | (level > 1 ? PS : 0n) | bits);
    return place;
  }

  put(place: number, value: bigint): void {
    this.#memory.put64(place, value);
  }

  get(place: number): bigint {
    return this.#memory.get64(place);
  }

  /** Sets bits of the entry of an address at a level. */
  set(address: bigint, level: number, bits: bigint): void {
    const place = this.entry(address, level);
    this.put(place, this.get(place) | bits);
  }

  /** Clears bits of it. */
  clear(address: bigint, level: number, bits: bigint): void {
    const place = this.entry(address, level);
    this.put(place, this.get(place) & ~bits);
  }
}
