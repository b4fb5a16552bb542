import { LowestFree } from '../../base/lowest-free.ts';

/** Numbers from `first` to `last`, the lowest free one each time: Linux's ida_alloc_range() and xa_alloc(). */
export class IdAllocator {
  readonly #last: number;
  readonly #numbers: LowestFree;

  constructor(first: number, last: number) {
    this.#last = last;
    this.#numbers = new LowestFree(first);
  }

  /** The lowest free number, or null where that is above `last`. */
  take(last: number = this.#last): number | null {
    const id = this.#numbers.take();
    if (id <= last) return id;
    this.#numbers.give(id);
    return null;
  }

  free(id: number): void {
    this.#numbers.give(id);
  }
}
