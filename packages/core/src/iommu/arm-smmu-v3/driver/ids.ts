/** Numbers from `first` to `last`, the lowest free one each time: Linux's ida_alloc_range() and xa_alloc(). */
export class IdAllocator {
  readonly #first: number;
  readonly #last: number;
  readonly #taken = new Set<number>();
  /** Nothing below is free. */
  #lowest: number;

  constructor(first: number, last: number) {
    this.#first = first;
    this.#last = last;
    this.#lowest = first;
  }

  /** A free number up to `last` where that is less than the allocator's own; null where there is none. */
  take(last: number = this.#last): number | null {
    let id = this.#lowest;
    while (this.#taken.has(id)) id++;
    this.#lowest = id;
    if (id > Math.min(last, this.#last)) return null;
    this.#taken.add(id);
    return id;
  }

  free(id: number): void {
    if (!this.#taken.delete(id)) return;
    if (id < this.#lowest) this.#lowest = Math.max(id, this.#first);
  }

  has(id: number): boolean {
    return this.#taken.has(id);
  }
}
