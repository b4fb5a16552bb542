import { exact, hi32, lo32 } from '../base/u64.ts';
import type { PhysicalMemory } from '../memory/physical.ts';

// For tests of walkers: page tables that nobody wrote.

/** Memory in which every word is a descriptor that `seed` and its address decide, until something is stored there. */
export class HashedMemory implements PhysicalMemory {
  readonly stored = new Map<bigint, bigint>();
  readonly #seed: number;
  readonly #addressBits: number;

  constructor(seed: number, addressBits: number) {
    this.#seed = seed;
    this.#addressBits = addressBits;
  }

  word(address: bigint): bigint {
    const stored = this.stored.get(address);
    if (stored !== undefined) return stored;
    let state = (exact(address % 0xffff_fffbn) ^ this.#seed) >>> 0;
    const random = (): number => {
      state = (state + 0x6d2b_79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return (t ^ (t >>> 14)) >>> 0;
    };
    const kind = random() % 64;
    let value = (BigInt(random()) << 32n) | BigInt(random());
    // Mostly valid, mostly tables, mostly accessed and readable, mostly with addresses that fit.
    value = kind === 0 ? value & ~1n : value | 1n;
    value = kind < 62 ? value | 2n : value & ~2n;
    if (random() % 10 !== 0) value |= 1n << 10n;
    if (random() % 6 !== 0) value |= 1n << 6n;
    if (random() % 16 !== 0)
      value &= ~(((1n << 48n) - 1n) ^ ((1n << BigInt(Math.min(48, this.#addressBits))) - 1n));
    if (random() % 64 !== 0) value &= ~(0xf000n | (3n << 48n) | (3n << 8n));
    return value;
  }

  aborts(address: bigint): boolean {
    return (address >> 4n) % 97n === 7n;
  }

  load64(pa: number, out: Uint32Array): boolean {
    const address = BigInt(pa);
    if (this.aborts(address)) return false;
    const value = this.word(address);
    out[0] = lo32(value);
    out[1] = hi32(value);
    return true;
  }

  store64(pa: number, lo: number, hi: number): boolean {
    this.stored.set(BigInt(pa), (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0));
    return true;
  }

  read = (): boolean => false;
  write = (): boolean => false;
}
