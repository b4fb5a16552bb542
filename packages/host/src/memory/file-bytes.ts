import { SCRATCH_BYTES, type Mailbox, type Native } from '../native.ts';

// pread(2) and pwrite(2) of files of ours. Few bytes go by the mailbox: an array that JavaScript has made must leave the
// heap before the addon can reach it.

/** What it takes to reach them. */
export interface FileHost {
  readonly native: Native;
  readonly box: Mailbox;
}

/** Fills `into` from byte `offset` of a file on. False where not all of it can be read. */
export function readFileAt({ native, box }: FileHost, fd: number, offset: bigint, into: Uint8Array): boolean {
  if (into.length > SCRATCH_BYTES) return native.readAt(fd, offset, into) === into.length;
  box.wide[0] = offset;
  if (native.readScratchAt(fd, into.length) !== into.length) return false;
  box.takeScratch(into);
  return true;
}

/**
 * Writes all of `from` from byte `offset` of a file on. False where not all of it can be written. `hugePageBytes`: of a
 * file on hugetlbfs, which has no write(2).
 */
export function writeFileAt(
  { native, box }: FileHost,
  fd: number,
  offset: bigint,
  from: Uint8Array,
  hugePageBytes = 0,
): boolean {
  if (from.length > SCRATCH_BYTES) return native.writeAt(fd, offset, from, hugePageBytes) === from.length;
  box.wide[0] = offset;
  box.scratch.set(from);
  return native.writeScratchAt(fd, from.length, hugePageBytes) === from.length;
}
