import { writeSync } from 'node:fs';

/**
 * Writes everything, also where a pipe takes a part only, or nothing for now. Null, or why it did not succeed: EPIPE
 * where nobody reads it any more.
 */
export function writeAll(fd: number, text: string): NodeJS.ErrnoException | null {
  let rest: Uint8Array = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      const failure = error as NodeJS.ErrnoException;
      if (failure.code !== 'EAGAIN') return failure;
    }
  }
  return null;
}
