import { openSync, writeSync } from 'node:fs';
import { eventText } from '@viommu/core/trace/text';
import type { Trace } from '@viommu/core/trace/trace';
import { systemReason, UsageError } from './usage-error.ts';

const STANDARD_ERROR = 2;

/**
 * Writes every event as a line to the file, or to standard error where it is `-`. At once, so that the lines stand in
 * their place among the program's own and none is lost when we are killed.
 */
export function traceTo(trace: Trace, path: string): void {
  const fd = path === '-' ? STANDARD_ERROR : open(path);
  trace.subscribe((event) => writeAll(fd, `${eventText(event)}\n`));
}

function open(path: string): number {
  try {
    return openSync(path, 'w');
  } catch (error) {
    throw new UsageError(`--trace ${path}: cannot be written (${systemReason(error)})`);
  }
}

/** Everything, also where a pipe takes a part only, or nothing for now. */
function writeAll(fd: number, text: string): void {
  let rest: Uint8Array = Buffer.from(text);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return; // nobody reads it any more
    }
  }
}
