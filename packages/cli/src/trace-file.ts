import { openSync } from 'node:fs';
import { eventText } from '@viommu/core/trace/text';
import type { Trace } from '@viommu/core/trace/trace';
import { systemReason, UsageError } from './usage-error.ts';
import { writeAll } from './write-all.ts';

const STANDARD_ERROR = 2;

/**
 * Writes every event as a line to the file, or to standard error where it is `-`. At once, so that the lines stand in
 * their place among the program's own and none is lost when we are killed.
 */
export function traceTo(trace: Trace, path: string): void {
  const fd = path === '-' ? STANDARD_ERROR : open(path);
  const stop = trace.subscribe((event) => {
    const failure = writeAll(fd, `${eventText(event)}\n`);
    if (failure === null) return;
    stop();
    if (failure.code === 'EPIPE') return;
    writeAll(
      STANDARD_ERROR,
      `viommu: --trace ${path}: cannot be written (${systemReason(failure)}); it ends here\n`,
    );
  });
}

function open(path: string): number {
  try {
    return openSync(path, 'w');
  } catch (error) {
    throw new UsageError(`--trace ${path}: cannot be written (${systemReason(error)})`);
  }
}
