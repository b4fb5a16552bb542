import { writeSync } from 'node:fs';
import { native } from '../native.ts';
import { StartFailure } from '../spawn.ts';
import { Supervisor } from '../supervisor.ts';
import { stubKernel } from './stub-kernel.ts';

// Runs a program under the supervisor with the stand-in kernel, as the command line does with the real one. With COUNTS
// in the environment it tells on standard error how many calls reached it.

const { COUNTS, STOP_READS, ...env } = process.env;

function main(): void {
  const supervisor = new Supervisor({
    kernel: stubKernel(),
    argv: process.argv.slice(2),
    env,
    stopReads: STOP_READS !== undefined,
    jobControl: true,
  });
  const outcome = supervisor.run();
  if (COUNTS !== undefined) writeSync(2, `${JSON.stringify(supervisor.counts)}\n`);
  if (outcome.kind === 'exited') native().exit(outcome.status);
  else native().dieBy(outcome.signal);
}

try {
  main();
} catch (error) {
  writeSync(2, error instanceof StartFailure ? `viommu: ${error.message}\n` : `${String(error)}\n`);
  native().exit(error instanceof StartFailure ? error.status : 125);
}
