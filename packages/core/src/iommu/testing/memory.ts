import type { PhysicalMemory } from '../../memory/physical.ts';

/** Memory of tests: all of it reads as zero until it is written, but for parts that abort. Counts loads. */
export class TestMemory implements PhysicalMemory {
  loads = 0;
  readonly #words = new Map<number, readonly [lo: number, hi: number]>();
  readonly #holes: {
    readonly from: number;
    readonly to: number;
    readonly stores: boolean;
    readonly loads: boolean;
  }[] = [];

  /** Accesses to the range abort from now on. */
  refuse(from: number, bytes: number, which: 'load' | 'store' | 'all' = 'all'): void {
    this.#holes.push({ from, to: from + bytes, stores: which !== 'load', loads: which !== 'store' });
  }

  /** Every range answers again. */
  mend(): void {
    this.#holes.length = 0;
  }

  #aborts(pa: number, store: boolean): boolean {
    return this.#holes.some((hole) => pa >= hole.from && pa < hole.to && (store ? hole.stores : hole.loads));
  }

  load64(pa: number, out: Uint32Array): boolean {
    this.loads++;
    if (this.#aborts(pa, false)) return false;
    const [lo, hi] = this.#words.get(pa) ?? [0, 0];
    out[0] = lo;
    out[1] = hi;
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    if (this.#aborts(pa, true)) return false;
    this.#words.set(pa, [lo >>> 0, hi >>> 0]);
    return true;
  }

  read(pa: number, into: Uint8Array): boolean {
    for (let i = 0; i < into.length; i++) {
      if (this.#aborts(pa + i, false)) return false;
      into[i] = this.#byte(pa + i);
    }
    return true;
  }

  #byte(pa: number): number {
    const word = this.#words.get(pa - (pa % 8)) ?? [0, 0];
    const at = pa % 8;
    return (word[at >> 2]! >>> (8 * (at & 3))) & 0xff;
  }

  write(pa: number, from: Uint8Array): boolean {
    for (let i = 0; i < from.length; i++) if (this.#aborts(pa + i, true)) return false;
    for (let i = 0; i < from.length; i++) {
      const at = (pa + i) % 8;
      const word = [...(this.#words.get(pa + i - at) ?? [0, 0])];
      const shift = 8 * (at & 3);
      word[at >> 2] = ((word[at >> 2]! & ~(0xff << shift)) | (from[i]! << shift)) >>> 0;
      this.#words.set(pa + i - at, [word[0]!, word[1]!]);
    }
    return true;
  }

  /** Stores words from an address on. */
  put(pa: number, words: ArrayLike<number>): void {
    for (let i = 0; i < words.length; i += 2)
      this.#words.set(pa + i * 4, [words[i]! >>> 0, words[i + 1]! >>> 0]);
  }

  put64(pa: number, value: bigint): void {
    this.put(pa, [Number(value & 0xffff_ffffn), Number(value >> 32n)]);
  }

  get64(pa: number): bigint {
    const [lo, hi] = this.#words.get(pa) ?? [0, 0];
    return (BigInt(hi) << 32n) | BigInt(lo);
  }

  words(pa: number, count: number): Uint32Array {
    const out = new Uint32Array(count);
    for (let i = 0; i < count; i++) out[i] = this.#words.get(pa + i * 4 - (i & 1) * 4)?.[i & 1] ?? 0;
    return out;
  }
}
