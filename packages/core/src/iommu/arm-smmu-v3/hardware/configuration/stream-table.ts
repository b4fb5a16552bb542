// Where the STE of a stream is (§3.3.1).

import { L1STD_BYTES, STE_BYTES } from '../../spec/ste.ts';
import { STRTAB_FMT } from '../../spec/registers.ts';

/** Where the Stream table is: what the registers say, and CR2.E2H. */
export interface StreamTableBase {
  readonly base: number;
  readonly log2Size: number;
  readonly split: number;
  readonly fmt: number;
  readonly e2h: boolean;
}

/** A level 1 Stream table descriptor. */
export interface L1Std {
  readonly span: number;
  readonly l2ptr: number;
}

/** An address; or that the stream is outside of the Stream table, or of its level 2; or null where level 1 is not readable. */
export type SteLocation = number | 'table' | 'level 2' | null;

/** `sidSize` is IDR1.SIDSIZE; `l1std` reads the level 1 descriptor of an index, at an address. */
export function locateSte(
  table: StreamTableBase,
  sidSize: number,
  streamId: number,
  l1std: (index: number, address: number) => L1Std | null,
): SteLocation {
  const { base, log2Size, split, fmt } = table;
  if (streamId >= 2 ** Math.min(log2Size, sidSize)) return 'table';
  if (fmt !== STRTAB_FMT.TWO_LEVEL) return alignDown(base, log2Size + 6) + streamId * STE_BYTES;
  const index = Math.floor(streamId / 2 ** split);
  const l1 = l1std(index, alignDown(base, Math.max(6, log2Size - split + 3)) + index * L1STD_BYTES);
  if (l1 === null) return null;
  const within = streamId % 2 ** split;
  if (l1.span === 0 || l1.span > 11 || l1.span > split + 1 || within >= 2 ** (l1.span - 1)) return 'level 2';
  return alignDown(l1.l2ptr, 6 + l1.span - 1) + within * STE_BYTES;
}

export function alignDown(address: number, log2: number): number {
  return log2 >= 53 ? 0 : address - (address % 2 ** log2);
}
