import { ASYNC_EVENTS_MAX, PENDING_EVENTS_MAX } from './limits.ts';
import { LOG } from './spec.ts';

/** An asynchronous event of type error: dword 0 of the completion that reports it, §5.2. */
function eventResult(info: number): number {
  return (LOG.ERROR << 16) | (info << 8);
}

/** Asynchronous Event Requests, and events that wait for one. */
export class AsyncEvents {
  readonly #requests: number[] = [];
  readonly #pending: number[] = [];
  /** Reported, and the log not read since: §5.2 holds further ones of the type back. */
  #masked = false;

  reset(): void {
    this.#requests.length = 0;
    this.#pending.length = 0;
    this.#masked = false;
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

  error(info: number): void {
    if (this.#pending.length < PENDING_EVENTS_MAX) this.#pending.push(info);
  }

  /** The host has read the log of errors. */
  logRead(): void {
    this.#masked = false;
  }

  /** What completes now: a request and its result, or null. */
  next(): { readonly cid: number; readonly result: number } | null {
    if (this.#masked || this.#requests.length === 0) return null;
    const info = this.#pending.shift();
    if (info === undefined) return null;
    this.#masked = true;
    return { cid: this.#requests.shift()!, result: eventResult(info) };
  }
}
