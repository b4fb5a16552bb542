// Device-TLB invalidations on their way: ITags, completions and time-outs (§4.3).

import type { AtcInvalidation } from '../../../caches/cache-atc.ts';
import type { Endpoint, PageResponse } from '../endpoint.ts';
import type { FaultLog } from './fault-log.ts';

/** A PCIe function has to take so many invalidations at a time, and the message has so many ITags. */
const ITAGS = 32;

export class DeviceTlbs {
  readonly #endpoints = new Map<number, Endpoint>();
  readonly #faults: FaultLog;
  /** The source-id that each allocated ITag waits for. */
  readonly #waiting = new Map<number, number>();

  constructor(faults: FaultLog) {
    this.#faults = faults;
  }

  attach(requesterId: number, endpoint: Endpoint): void {
    this.#endpoints.set(requesterId, endpoint);
  }

  detach(requesterId: number): void {
    this.#endpoints.delete(requesterId);
  }

  /** Invalidations that are not completed. */
  get pending(): number {
    return this.#waiting.size;
  }

  get exhausted(): boolean {
    return this.#waiting.size >= ITAGS;
  }

  reset(): void {
    this.#waiting.clear();
  }

  /** Sends a request. A function that is not there never completes it. */
  invalidate(requesterId: number, request: AtcInvalidation): void {
    let itag = 0;
    while (this.#waiting.has(itag)) itag++;
    this.#waiting.set(itag, requesterId);
    const answer = this.#endpoints.get(requesterId)?.invalidate(request, itag) ?? false;
    if (answer === 'pending') return;
    // It may have been completed by message already.
    if (this.#waiting.get(itag) === requesterId) this.#waiting.delete(itag);
    if (!answer) this.#faults.completionError('ITE', requesterId);
  }

  /** An Invalidation Completion: valid ITags are freed, then any other one is an error. */
  complete(requesterId: number, itags: readonly number[]): void {
    let invalid = false;
    for (const itag of itags) {
      if (this.#waiting.get(itag) === requesterId) this.#waiting.delete(itag);
      else invalid = true;
    }
    if (invalid) this.#faults.completionError('ICE', requesterId);
  }

  /** Time passes: what is not completed now never will be. Answers whether there was any. */
  timeOut(): boolean {
    const late = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const requesterId of late) this.#faults.completionError('ITE', requesterId);
    return late.length > 0;
  }

  respond(response: PageResponse): void {
    this.#endpoints.get(response.requesterId)?.pageResponse(response);
  }
}
