import { exact, hi32, lo32, u64 } from '../../base/u64.ts';
import type { PhysicalMemory } from '../../memory/physical.ts';

/** The next number of a sequence, from 0 to `below` - 1. */
export type Random = (below: number) => number;

/** Memory with page tables that nobody wrote: every word is what `seed` and its address decide, until something is stored there. */
export abstract class HashedMemory implements PhysicalMemory {
  readonly stored = new Map<bigint, bigint>();
  readonly seed: number;

  constructor(seed: number) {
    this.seed = seed;
  }

  /** What nobody has written. */
  protected abstract untouched(address: bigint): bigint;

  /** Whether a load aborts, or a store. */
  abstract refuses(address: bigint, store?: boolean): boolean;

  /** A sequence that depends on the seed and this number alone. */
  protected random(of: bigint): Random {
    let state = (exact(of % 0xffff_fffbn) ^ this.seed) >>> 0;
    return (below) => {
      state = (state + 0x6d2b_79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) % below;
    };
  }

  word(address: bigint): bigint {
    return this.stored.get(address) ?? this.untouched(address);
  }

  /** The 64 bits of a value: Node 20's compiler sometimes takes bit 63 of a bigint for its sign. */
  put(address: bigint, value: bigint): void {
    this.stored.set(address, u64(hi32(value), lo32(value)));
  }

  load64(pa: number, out: Uint32Array): boolean {
    const address = BigInt(pa);
    if (this.refuses(address)) return false;
    const value = this.word(address);
    out[0] = lo32(value);
    out[1] = hi32(value);
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    if (this.refuses(BigInt(pa), true)) return false;
    this.stored.set(BigInt(pa), u64(hi, lo));
    return true;
  }

  read = (): boolean => false;
  write = (): boolean => false;
}
