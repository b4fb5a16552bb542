import { ASYNC_EVENTS_MAX, PENDING_EVENTS_MAX } from './limits.ts';

interface AsyncEvent {
  readonly type: number;
  /** Dword 0 of the completion that reports it, §5.2. */
  readonly result: number;
}

/** Asynchronous Event Requests, and events that wait for one. */
export class AsyncEvents {
  readonly #requests: number[] = [];
  readonly #pending: AsyncEvent[] = [];
  /** Types that were reported, by the log that has not been read since: §5.2 holds further ones back. */
  readonly #masked = new Map<number, number>();

  reset(): void {
    this.#requests.length = 0;
    this.#pending.length = 0;
    this.#masked.clear();
  }

  /** Takes a request. False where there are too many. */
  request(cid: number): boolean {
    if (this.#requests.length >= ASYNC_EVENTS_MAX) return false;
    this.#requests.push(cid);
    return true;
  }

  /** Takes a request back. */
  abort(cid: number): boolean {
    const at = this.#requests.indexOf(cid);
    if (at < 0) return false;
    this.#requests.splice(at, 1);
    return true;
  }

  /** Something happened: its type, more of it, and the log page that has the rest. */
  report(type: number, info: number, log: number): void {
    if (this.#pending.length < PENDING_EVENTS_MAX)
      this.#pending.push({ type, result: (log << 16) | (info << 8) | type });
  }

  /** The host has read a log page. */
  logRead(log: number): void {
    for (const [type, page] of this.#masked) if (page === log) this.#masked.delete(type);
  }

  /** What completes now: a request and its result, or null. */
  next(): { readonly cid: number; readonly result: number } | null {
    if (this.#requests.length === 0) return null;
    const at = this.#pending.findIndex(({ type }) => !this.#masked.has(type));
    if (at < 0) return null;
    const [{ type, result }] = this.#pending.splice(at, 1) as [AsyncEvent];
    this.#masked.set(type, (result >>> 16) & 0xff);
    return { cid: this.#requests.shift()!, result };
  }
}
