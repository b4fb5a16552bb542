/** One thing that happened, in the words of the layer that saw it. `kind` decides the other fields. */
export interface TraceEvent {
  readonly kind: string;
  readonly [field: string]: unknown;
}

/**
 * The stream of events. Emitters ask `active` before they build an event, so that without a subscriber an event costs
 * one branch.
 */
export class Trace {
  active = false;
  readonly #subscribers = new Set<(event: TraceEvent) => void>();

  /** Subscribes; the answer ends the subscription. */
  subscribe(subscriber: (event: TraceEvent) => void): () => void {
    this.#subscribers.add(subscriber);
    this.active = true;
    return () => {
      this.#subscribers.delete(subscriber);
      this.active = this.#subscribers.size > 0;
    };
  }

  emit(event: TraceEvent): void {
    for (const subscriber of this.#subscribers) subscriber(event);
  }
}
