import type { RegisterFile } from '../registers/registers.ts';

/** Where a queue is: its first byte, and log2 of its entries. */
export interface QueuePlace {
  readonly base: number;
  readonly log2: number;
}

/** What a base register says, with the size capped to what is implemented and the base aligned to it (§6.3.26, §6.3.29). */
export function queuePlace(
  registers: RegisterFile,
  offset: number,
  log2Max: number,
  entryBytes: number,
): QueuePlace {
  const log2 = Math.min(registers.get(offset) & 31, log2Max);
  const address = registers.getAddress(offset, 5);
  return { base: address - (address % Math.max(32, entryBytes * 2 ** log2)), log2 };
}
