import { writeSync } from 'node:fs';
import { isMainThread, Worker } from 'node:worker_threads';
import { native } from '../native.ts';
import { StartFailure } from '../program/spawn.ts';
import { Supervisor } from '../supervisor.ts';
import { stubKernel } from './stub-kernel.ts';

// Runs a program under the supervisor with the stand-in kernel, as the command line does with the real one. With COUNTS
// in the environment it tells on standard error how many calls reached it; with WORKER the supervisor has a thread of its
// own, and the main thread tells that it is free meanwhile.

const { COUNTS, STOP_IO_URING, STOP_READS, UNLIMITED_PINS, WORKER, ...env } = process.env;

function main(): void {
  const supervisor = new Supervisor({
    kernel: stubKernel(),
    argv: process.argv.slice(2),
    env,
    stopIoUring: STOP_IO_URING !== undefined,
    stopReads: STOP_READS !== undefined,
    unlimitedPins: UNLIMITED_PINS !== undefined,
    jobControl: true,
  });
  const outcome = supervisor.run();
  if (COUNTS !== undefined) writeSync(2, `${JSON.stringify(supervisor.counts)}\n`);
  if (outcome.kind === 'exited') native().exit(outcome.status);
  else native().dieBy(outcome.signal);
}

function inWorker(): void {
  let ticks = 0;
  const timer = setInterval(() => {
    if (++ticks < 3) return;
    clearInterval(timer);
    writeSync(1, 'main thread 1\n');
  }, 1);
  new Worker(new URL(import.meta.url), { argv: process.argv.slice(2) }).on('error', (error) => {
    writeSync(2, `${String(error)}\n`);
    process.exit(125);
  });
}

try {
  if (WORKER !== undefined && isMainThread) inWorker();
  else main();
} catch (error) {
  writeSync(2, error instanceof StartFailure ? `viommu: ${error.message}\n` : `${String(error)}\n`);
  native().exit(error instanceof StartFailure ? error.status : 125);
}
