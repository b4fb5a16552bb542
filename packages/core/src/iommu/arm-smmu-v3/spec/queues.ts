// Circular queues (§3.5.1) and entries of the PRI queue (chapter 8).

import { RO, layout } from '../../../base/bit-fields.ts';

/** Queues have at most 2^19 entries: 19 bits of index and one of wrap. */
export const QUEUE_LOG2_MAX = 19;

/** Chapter 8: 16 bytes each. */
export const PRIQ_RECORD = layout('PRI queue entry', 128, {
  StreamID: RO([31, 0]),
  SubstreamID: RO([51, 32]),
  Priv: RO([58]),
  X: RO([59]),
  R: RO([60]),
  W: RO([61]),
  Last: RO([62]),
  SSV: RO([63]),
  PRGIndex: RO([72, 64]),
  PageAddr: RO([127, 76]),
});
export const PRIQ_BYTES = 16;
export const PRIQ_WORDS = 4;

/** §8.3: what a PRG Response Message says. */
export const PRG_RESPONSE = { SUCCESS: 0, INVALID: 1, FAILURE: 0xf } as const;

/** The index with its wrap bit, of a queue of 2^log2 entries. */
export function queueMask(log2: number): number {
  return (2 << log2) - 1;
}

/** True when nothing is in the queue. */
export function queueEmpty(prod: number, cons: number, log2: number): boolean {
  return ((prod ^ cons) & queueMask(log2)) === 0;
}

/** True when there is no room: equal indexes, different wrap bits. Inconsistent indexes count as that (§3.5.1). */
export function queueFull(prod: number, cons: number, log2: number): boolean {
  return queueCount(prod, cons, log2) >= 1 << log2;
}

/** Entries in the queue; more than 2^log2 where the indexes are inconsistent (§3.5.1). */
export function queueCount(prod: number, cons: number, log2: number): number {
  return (prod - cons) & queueMask(log2);
}

/** The next index: wraps, and toggles the wrap bit as it does. */
export function queueNext(index: number, log2: number): number {
  return (index + 1) & queueMask(log2);
}

/** Which entry an index names. */
export function queueSlot(index: number, log2: number): number {
  return index & ((1 << log2) - 1);
}
