import { U64_MAX } from './u64.ts';

/** An inclusive range of u64: an exclusive end could not say 2^64. */
export interface Range {
  readonly start: bigint;
  readonly last: bigint;
}

/** The last byte of `length` bytes from `start`, or null where that passes 2^64 - 1. `length` is at least 1. */
export function lastByte(start: bigint, length: bigint): bigint | null {
  const last = start + length - 1n;
  return last > U64_MAX ? null : last;
}
