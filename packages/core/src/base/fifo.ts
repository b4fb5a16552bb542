/** A queue: what comes first goes first. Every operation takes O(1) on the average, whatever waits. */
export class Fifo<T> {
  #items: T[] = [];
  /** How many of the items have gone. */
  #gone = 0;

  get length(): number {
    return this.#items.length - this.#gone;
  }

  get first(): T | undefined {
    return this.#items[this.#gone];
  }

  get last(): T | undefined {
    return this.length === 0 ? undefined : this.#items.at(-1);
  }

  push(item: T): void {
    this.#items.push(item);
  }

  /** Takes the first. */
  shift(): T | undefined {
    if (this.length === 0) return undefined;
    const item = this.#items[this.#gone++];
    // The slots of those that went are given up when they are the larger half.
    if (this.#gone * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#gone);
      this.#gone = 0;
    }
    return item;
  }

  /** Takes the last. */
  pop(): T | undefined {
    return this.length === 0 ? undefined : this.#items.pop();
  }

  /** Takes all that `leaves` holds for, in order. O(length). */
  take(leaves: (item: T) => boolean): T[] {
    const taken: T[] = [];
    const kept: T[] = [];
    for (const item of this) (leaves(item) ? taken : kept).push(item);
    this.#items = kept;
    this.#gone = 0;
    return taken;
  }

  /** From the first to the last. The queue must not change meanwhile. */
  *[Symbol.iterator](): Generator<T, void> {
    for (let i = this.#gone; i < this.#items.length; i++) yield this.#items[i]!;
  }
}
