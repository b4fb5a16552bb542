/**
 * Interrupts of an IOMMU that its driver serves later, and not from within what raised them: hardware is then in the
 * middle of a transaction, or the driver in the middle of a change (Linux's handlers run as threads, and take locks).
 */
export class DeferredInterrupts<Which> {
  readonly #pending = new Set<Which>();
  readonly #defer: ((serve: () => void) => void) | null;
  readonly #handle: (which: Which) => void;
  #busy = 0;

  /** `defer` runs what it is given soon; where it is null, whoever owns the machine calls serve() after each DMA. */
  constructor(handle: (which: Which) => void, defer: ((serve: () => void) => void) | null) {
    this.#handle = handle;
    this.#defer = defer;
  }

  raise(which: Which): void {
    this.#pending.add(which);
    if (this.#busy === 0) this.#defer?.(() => this.serve());
  }

  /** Runs the handlers of what waits, unless something keeps them out. */
  serve(): void {
    while (this.#busy === 0 && this.#pending.size > 0) {
      for (const which of this.#pending) {
        this.#pending.delete(which);
        this.#busy++;
        try {
          this.#handle(which);
        } finally {
          this.#busy--;
        }
      }
    }
  }

  /** True where `which` waits, and now does no more: for who handles it out of turn. */
  take(which: Which): boolean {
    return this.#pending.delete(which);
  }

  /** Keeps handlers out while tables and lists change. */
  exclusively<T>(work: () => T): T {
    this.#busy++;
    try {
      return work();
    } finally {
      this.#busy--;
      this.serve();
    }
  }
}
