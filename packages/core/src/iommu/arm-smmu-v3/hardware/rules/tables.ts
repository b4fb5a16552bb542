// Translation tables as tests write them, in the words of DDI 0487 chapter D8.

import type { TestMemory } from '../../../testing/memory.ts';

export interface TablesOptions {
  readonly stage?: 1 | 2;
  readonly granule?: 12 | 14 | 16;
  /** 64 - TxSZ. */
  readonly inputBits?: number;
  /** Stage 2: where SL0 starts. */
  readonly startLevel?: number;
  /** Descriptors hold 52-bit addresses as FEAT_LPA2 has them. */
  readonly lpa2?: boolean;
  readonly bigEndian?: boolean;
}

/** What a leaf says. Defaults: readable and writable by all, accessed, Normal Write-Back, Inner Shareable, not global. */
export interface Leaf {
  readonly level?: number;
  readonly af?: 0 | 1;
  /** Stage 1 AP[2:1]. */
  readonly ap?: number;
  readonly s2ap?: number;
  readonly sh?: number;
  readonly attrIndx?: number;
  readonly memAttr?: number;
  readonly nG?: 0 | 1;
  readonly pxn?: 0 | 1;
  readonly uxn?: 0 | 1;
  /** Stage 2 XN[1:0]. */
  readonly xn?: number;
  readonly dbm?: 0 | 1;
  readonly contiguous?: 0 | 1;
  /** Bits of table descriptors on the way. */
  readonly apTable?: number;
  readonly pxnTable?: 0 | 1;
  readonly uxnTable?: 0 | 1;
}

export class Tables {
  readonly root: number;
  readonly granule: number;
  readonly startLevel: number;
  readonly #memory: TestMemory;
  readonly #allocate: (bytes: number) => number;
  readonly #options: TablesOptions;
  readonly #inputBits: number;

  constructor(memory: TestMemory, allocate: (bytes: number) => number, options: TablesOptions = {}) {
    this.#memory = memory;
    this.#allocate = allocate;
    this.#options = options;
    this.granule = options.granule ?? 12;
    this.#inputBits = options.inputBits ?? (options.stage === 2 ? 39 : 48);
    const stride = this.granule - 3;
    this.startLevel = options.startLevel ?? 3 - Math.floor((this.#inputBits - 1 - this.granule) / stride);
    const entries = this.#inputBits - this.#shift(this.startLevel);
    this.root = allocate(2 ** Math.max(entries + 3, 6));
  }

  #shift(level: number): number {
    return this.granule + (this.granule - 3) * (3 - level);
  }

  /** log2 of the bytes of a leaf at a level. */
  leafBits(level: number): number {
    return this.#shift(level);
  }

  /** Address of the descriptor that translates `address` at `level`; tables on the way are made. */
  descriptor(address: bigint, level: number, leaf: Leaf = {}): number {
    const inside = address & ((1n << BigInt(this.#inputBits)) - 1n);
    let table = this.root;
    for (let at = this.startLevel; ; at++) {
      const bits = at === this.startLevel ? this.#inputBits - this.#shift(at) : this.granule - 3;
      const index = Number((inside >> BigInt(this.#shift(at))) & ((1n << BigInt(bits)) - 1n));
      const place = table + index * 8;
      if (at === level) return place;
      let entry = this.get(place);
      if ((entry & 3n) !== 3n) {
        const next = this.#allocate(2 ** this.granule);
        entry = this.#address(BigInt(next)) | 3n;
        entry |= (BigInt(leaf.apTable ?? 0) << 61n) | (BigInt(leaf.uxnTable ?? 0) << 60n);
        entry |= BigInt(leaf.pxnTable ?? 0) << 59n;
        this.put(place, entry);
      }
      table = Number(this.#output(entry));
    }
  }

  /** Maps one leaf; answers where its descriptor is. */
  map(address: bigint, output: bigint, leaf: Leaf = {}): number {
    const level = leaf.level ?? 3;
    const place = this.descriptor(address, level, leaf);
    this.put(place, this.leaf(output, leaf));
    return place;
  }

  /** A leaf descriptor. */
  leaf(output: bigint, leaf: Leaf = {}): bigint {
    const level = leaf.level ?? 3;
    const field = (value: number, lsb: number): bigint => BigInt(value) << BigInt(lsb);
    let entry = this.#address(output) | (level === 3 ? 3n : 1n);
    if (this.#options.lpa2 !== true) entry |= field(leaf.sh ?? 3, 8);
    entry |= field(leaf.af ?? 1, 10) | field(leaf.dbm ?? 0, 51) | field(leaf.contiguous ?? 0, 52);
    if (this.#options.stage === 2) {
      return entry | field(leaf.s2ap ?? 3, 6) | field(leaf.memAttr ?? 15, 2) | field(leaf.xn ?? 0, 53);
    }
    entry |= field(leaf.ap ?? 1, 6) | field(leaf.attrIndx ?? 0, 2) | field(leaf.nG ?? 1, 11);
    return entry | field(leaf.pxn ?? 0, 53) | field(leaf.uxn ?? 0, 54);
  }

  #address(address: bigint): bigint {
    const low = address & 0xffff_ffff_ffffn;
    const top = address >> 48n;
    if (this.granule === 16) return low | (top << 12n);
    if (this.#options.lpa2 === true) {
      return (address & 0x3_ffff_ffff_ffffn) | ((address >> 50n) << 8n);
    }
    return address;
  }

  #output(entry: bigint): bigint {
    const low = entry & 0xffff_ffff_ffffn & ~((1n << BigInt(this.granule)) - 1n);
    if (this.granule === 16) return low | (((entry >> 12n) & 15n) << 48n);
    if (this.#options.lpa2 === true)
      return low | (((entry >> 48n) & 3n) << 48n) | (((entry >> 8n) & 3n) << 50n);
    return low;
  }

  get(place: number): bigint {
    return this.#swap(this.#memory.get64(place));
  }

  put(place: number, entry: bigint): void {
    this.#memory.put64(place, this.#swap(entry));
  }

  #swap(value: bigint): bigint {
    if (this.#options.bigEndian !== true) return value;
    let out = 0n;
    for (let i = 0n; i < 8n; i++) out |= ((value >> (8n * i)) & 0xffn) << (8n * (7n - i));
    return out;
  }
}
