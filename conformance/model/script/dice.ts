// What is random in a step comes from one 32-bit seed, so that a step is the same wherever it stands in a script.

/** Numbers from a seed (mulberry32). */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  u32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** From 0 to `limit` - 1. */
  below(limit: number): number {
    return Math.floor((this.u32() / 2 ** 32) * limit);
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }

  /** An entry of pairs [weight, value]. */
  weighted<T>(choices: readonly (readonly [number, T])[]): T {
    let at = this.below(choices.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, value] of choices) {
      if (at < weight) return value;
      at -= weight;
    }
    throw new Error('no choice');
  }

  /** A u64 near what breaks code: powers of two, page edges, the ends. */
  u64(): bigint {
    const base = this.weighted<bigint>([
      [4, 0n],
      [2, (1n << 64n) - 1n],
      [8, 1n << BigInt(this.below(64))],
      [4, BigInt(this.below(64)) << 12n],
      [2, (BigInt(this.u32()) << 32n) | BigInt(this.u32())],
      [1, 1n << 24n],
      [1, 1n << 31n],
      [1, 1n << 38n],
    ]);
    const offset = this.pick([0n, 0n, 1n, -1n, 2048n, 4096n, -2048n, -4096n, 4095n]);
    return BigInt.asUintN(64, base + offset);
  }
}
