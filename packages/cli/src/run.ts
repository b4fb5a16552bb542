import { writeSync } from 'node:fs';
import { failed } from '@viommu/core/base/result';
import { AddonMissing, native } from '@viommu/host/native';
import { StartFailure } from '@viommu/host/program/spawn';
import { Supervisor } from '@viommu/host/supervisor';
import { DEFAULT_PROFILE } from '@viommu/core/iommufd/profile';
import { Kernel } from '@viommu/core/machine/kernel';
import { DEFAULT_PARTS, loadParts, PartRefused } from '@viommu/core/machine/machine-file/parts';
import { Trace } from '@viommu/core/trace/trace';
import {
  inheritedArguments,
  inheritedDescriptorLimit,
  inheritedDescriptors,
  inheritedEnvironment,
} from './inheritance.ts';
import { profileNamed, uapisNamed } from './profile.ts';
import { traceTo } from './trace-file.ts';
import { UsageError } from './usage-error.ts';

const STDERR = 2;
/** As env(1) ends when it is itself to blame. */
const OWN_FAILURE = 125;

/** What `viommu run` was told. */
export interface RunOptions {
  readonly machine?: string;
  readonly kernel?: string;
  readonly uapi?: readonly string[];
  readonly trace?: string;
  readonly quiet?: boolean;
  readonly stopReads?: boolean;
  readonly stopIoUring?: boolean;
  readonly unlimitedPins?: boolean;
}

async function makeKernel(options: RunOptions, trace: Trace): Promise<Kernel> {
  // Reading machine files takes a YAML parser and a schema; without --machine nobody waits for them.
  if (options.machine === undefined) {
    const profile = profileNamed(options.kernel ?? DEFAULT_PROFILE);
    const uapis = uapisNamed(options.uapi);
    return new Kernel({ profile, uapis, parts: await loadParts(DEFAULT_PARTS), trace });
  }
  const { keysOfDevice, loadMachineFile, placeInFile } = await import('./machine-file.ts');
  const machine = loadMachineFile(options.machine);
  const profile = profileNamed(options.kernel ?? machine.kernel);
  const uapis = [...machine.uapi, ...uapisNamed(options.uapi)];
  const where = (keys: readonly (string | number)[]): string =>
    keys.length === 0 ? options.machine! : placeInFile(options.machine!, keys);
  return checked(where, async () => {
    const { hostBackends } = await import('@viommu/host/device-backends');
    const parts = await loadParts(machine, hostBackends);
    const kernel = new Kernel({ profile, uapis, mock: machine.mock, parts, trace });
    const up = kernel.bringUp();
    if (failed(up)) throw new PartRefused(keysOfDevice(machine, up.reason), up.reason);
    return kernel;
  });
}

/** What is wrong with a machine, said of its file. */
async function checked<T>(
  where: (keys: readonly (string | number)[]) => string,
  make: () => Promise<T>,
): Promise<T> {
  try {
    return await make();
  } catch (error) {
    const keys = error instanceof PartRefused ? error.keys : [];
    throw new UsageError(`${where(keys)}: ${(error as Error).message}`);
  }
}

function supervise(kernel: Kernel, trace: Trace, argv: readonly string[], options: RunOptions): Supervisor {
  const descriptorsMax = inheritedDescriptorLimit();
  const environment = inheritedEnvironment();
  return new Supervisor({
    kernel,
    trace,
    argv: inheritedArguments(argv),
    env: process.env,
    ...(environment === undefined ? {} : { environment }),
    inherit: inheritedDescriptors(),
    ...(descriptorsMax === undefined ? {} : { descriptorsMax }),
    stopReads: options.stopReads === true,
    stopIoUring: options.stopIoUring === true,
    unlimitedPins: options.unlimitedPins === true,
    jobControl: true,
  });
}

/** `viommu run`: ends this process as the program ended. */
export async function run(name: string, args: readonly string[], options: RunOptions): Promise<never> {
  const trace = new Trace();
  const kernel = await makeKernel(options, trace);
  if (options.trace !== undefined) traceTo(trace, options.trace);
  try {
    const supervisor = supervise(kernel, trace, [name, ...args], options);
    if (options.quiet !== true)
      for (const warning of supervisor.warnings) writeSync(STDERR, `viommu: ${warning}\n`);
    const outcome = supervisor.run();
    if (outcome.kind === 'exited') return native().exit(outcome.status);
    return native().dieBy(outcome.signal);
  } catch (error) {
    const known = error instanceof StartFailure || error instanceof AddonMissing;
    const message = known ? error.message : `a mistake in viommu: ${(error as Error).stack ?? String(error)}`;
    writeSync(STDERR, `viommu: ${message}\n`);
    return process.exit(error instanceof StartFailure ? error.status : OWN_FAILURE);
  }
}
