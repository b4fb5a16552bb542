/**
 * Numbers from `first` on, the lowest free one first: what Linux's xa_alloc() and ida_alloc() give. Freed numbers wait
 * in a binary heap, so taking and giving back cost O(log n).
 */
export class LowestFree {
  readonly #free: number[] = [];
  #next: number;

  constructor(first: number) {
    this.#next = first;
  }

  take(): number {
    const heap = this.#free;
    const lowest = heap[0];
    if (lowest === undefined) return this.#next++;
    const last = heap.pop()!;
    if (heap.length > 0) this.#sink(last);
    return lowest;
  }

  /** Gives back a number that was taken. */
  give(number: number): void {
    const heap = this.#free;
    let at = heap.length;
    heap.push(number);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (heap[parent]! <= number) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = number;
  }

  // Puts `number` where the root was.
  #sink(number: number): void {
    const heap = this.#free;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= number) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = number;
  }
}
