import type { PhysicalMemory } from '../memory/physical.ts';

/** What the command queues of all three vendors share: commands are fetched one after another, up to the first error. */
export abstract class CommandFetcher {
  /** The command that was fetched last. */
  protected readonly words: Uint32Array;
  readonly #memory: PhysicalMemory;
  readonly #pair = new Uint32Array(2);
  /** A command's own effects (interrupts, callbacks) may write registers: they do not run the queue again. */
  #running = false;

  constructor(memory: PhysicalMemory, wordsMax: number) {
    this.#memory = memory;
    this.words = new Uint32Array(wordsMax);
  }

  /** True when there are commands that could be consumed now. */
  abstract get pending(): boolean;

  /** Fetches and executes one. False where the queue stops at it. */
  protected abstract one(): boolean;

  /** Consumes at most `budget` commands; answers how many it did. */
  run(budget: number): number {
    if (this.#running) return 0;
    this.#running = true;
    let done = 0;
    try {
      while (done < budget && this.pending && this.one()) done++;
    } finally {
      this.#running = false;
    }
    return done;
  }

  /** Fetches a command of `count` words; the others are zero. False where memory refuses. */
  protected fetch(address: number, count: number): boolean {
    const { words } = this;
    for (let at = 0; at < count; at += 2) {
      if (!this.#memory.load64(address + at * 4, this.#pair)) return false;
      words[at] = this.#pair[0]!;
      words[at + 1] = this.#pair[1]!;
    }
    if (count < words.length) words.fill(0, count);
    return true;
  }
}
