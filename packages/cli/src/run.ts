import { closeSync, openSync, writeSync } from 'node:fs';
import { native } from '@viommu/host/native';
import { StartFailure } from '@viommu/host/spawn';
import { Supervisor } from '@viommu/host/supervisor';
import { DEFAULT_PROFILE } from '@viommu/core/iommufd/profile';
import { Kernel } from '@viommu/core/machine/kernel';
import { eventText } from '@viommu/core/trace/text';
import { Trace } from '@viommu/core/trace/trace';
import { profileNamed } from './profile.ts';
import { UsageError } from './usage-error.ts';

const STDERR = 2;

/** What `viommu run` was told. */
export interface RunOptions {
  readonly machine?: string;
  readonly kernel?: string;
  readonly trace?: string;
  readonly quiet?: boolean;
  readonly stopReads?: boolean;
}

// A line for every event, to a file or to standard error. Answers what ends it.
function writeTrace(trace: Trace, path: string): () => void {
  const fd = path === '-' ? STDERR : openTrace(path);
  trace.subscribe((event) => writeSync(fd, `${eventText(event)}\n`));
  return () => {
    if (fd !== STDERR) closeSync(fd);
  };
}

function openTrace(path: string): number {
  try {
    return openSync(path, 'w');
  } catch (error) {
    throw new UsageError(
      `--trace ${path}: cannot be written (${(error as NodeJS.ErrnoException).code ?? ''})`,
    );
  }
}

async function makeKernel(options: RunOptions, trace: Trace): Promise<Kernel> {
  // Reading machine files takes a YAML parser and a schema; without --machine nobody waits for them.
  const machine =
    options.machine === undefined
      ? { kernel: DEFAULT_PROFILE, mock: true }
      : (await import('./machine-file.ts')).loadMachineFile(options.machine);
  return new Kernel({ profile: profileNamed(options.kernel ?? machine.kernel), mock: machine.mock, trace });
}

/** `viommu run`: ends this process as the program ended. */
export async function run(name: string, args: readonly string[], options: RunOptions): Promise<never> {
  const trace = new Trace();
  const kernel = await makeKernel(options, trace);
  const endTrace = options.trace === undefined ? (): void => {} : writeTrace(trace, options.trace);
  try {
    const supervisor = new Supervisor({
      kernel,
      trace,
      argv: [name, ...args],
      env: process.env,
      stopReads: options.stopReads === true,
      jobControl: true,
    });
    const outcome = supervisor.run();
    endTrace();
    if (outcome.kind === 'exited') return native().exit(outcome.status);
    return native().dieBy(outcome.signal);
  } catch (error) {
    if (!(error instanceof StartFailure)) throw error;
    writeSync(STDERR, `viommu: ${error.message}\n`);
    return native().exit(error.status);
  }
}
