/**
 * A refused request: the errno a program sees and the reason a person reads in the trace.
 * Failures are returned, never thrown; a thrown exception is a broken invariant.
 */
export class Failure {
  readonly errno: number;
  readonly reason: string;

  constructor(errno: number, reason: string) {
    this.errno = errno;
    this.reason = reason;
  }
}

/** A value, or the failure that stands in its place. */
export type Result<T> = T | Failure;

/** Builds a failure. `errno` is positive, from abi/errno; `reason` says what was wrong with which argument. */
export function fail(errno: number, reason: string): Failure {
  return new Failure(errno, reason);
}

/** True when `value` is a failure. */
export function failed(value: unknown): value is Failure {
  return value instanceof Failure;
}
