/**
 * Hardware that software reaches by stores into pages that it has mapped: nobody sees the store happen, so the hardware
 * looks for it.
 */
export interface Doorbell {
  /** Whether a program can have such a page now. */
  readonly watched: boolean;
  /** Takes up what was stored since the last look; true where it is worth looking again at once. */
  look(): boolean;
}

/** All of a machine's. Whoever hosts it looks every now and then while {@link watched}. */
export class Doorbells {
  readonly #doorbells: Doorbell[] = [];

  add(doorbell: Doorbell): void {
    this.#doorbells.push(doorbell);
  }

  get watched(): boolean {
    for (const doorbell of this.#doorbells) if (doorbell.watched) return true;
    return false;
  }

  /** True where it is worth looking again at once: there is more to do, or there was something. */
  look(): boolean {
    let more = false;
    for (const doorbell of this.#doorbells) if (doorbell.watched && doorbell.look()) more = true;
    return more;
  }
}
