import { Command } from 'commander';
import type { IoctlsOptions } from './ioctls.ts';
import type { RunOptions } from './run.ts';
import { UsageError } from './usage-error.ts';

// One file per verb; this one says what there is. Verbs are loaded when they are called.

// For options that may be given more than once.
function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

const program = new Command('viommu')
  .description('runs unmodified programs against /dev/iommu, without an IOMMU, without root')
  .version('0.1.0')
  .showHelpAfterError('(viommu --help tells what there is)')
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'viommu: ')) })
  // Options of run end where the program's name starts.
  .enablePositionalOptions()
  .exitOverride();

program
  .command('run')
  .description('run PROGRAM so that its /dev/iommu is ours and everything else is the system’s')
  .usage('[options] -- PROGRAM [ARGS...]')
  .argument('<program>', 'the program to run')
  .argument('[args...]', 'its arguments')
  .option('--machine <file>', 'the machine behind the files (YAML); default: machines/default.yaml')
  .option('--kernel <name>', 'which Linux answers: linux-6.6 to linux-7.3')
  .option('--uapi <name>', 'serve a uAPI beside Linux’s: rfc-2023-12 or amd-viommu', collect)
  .option('--trace <file>', 'write one line for every event to this file; - is standard error')
  .option('--quiet', 'say nothing that is not an error')
  .option(
    '--stop-reads',
    'stop read and write on every descriptor, so that event queues have Linux’s numbers',
  )
  .option('--stop-io-uring', 'refuse io_uring, so that programs which can do without make system calls')
  .option('--unlimited-pins', 'let programs pin any amount of memory, whatever RLIMIT_MEMLOCK is')
  .passThroughOptions()
  .action(async (name: string, args: string[], options: RunOptions) => {
    const { run } = await import('./run.ts');
    process.exitCode = await run(name, args, options);
  });

program
  .command('ioctls')
  .description('print which requests are served, since which Linux, and with which sizes')
  .option('--kernel <name>', 'the kernel to print for')
  .option(
    '--uapi <name>',
    'show the requests of a uAPI beside Linux’s, too: rfc-2023-12 or amd-viommu',
    collect,
  )
  .action(async (options: IoctlsOptions) => {
    const { ioctls } = await import('./ioctls.ts');
    ioctls(options);
  });

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof UsageError) {
    process.stderr.write(`viommu: ${error.message}\n`);
    process.exitCode = 2;
  } else if (error instanceof Error && 'exitCode' in error && 'code' in error) {
    // commander has printed what was wrong, or the help that was asked for.
    process.exitCode = error.exitCode === 0 ? 0 : 2;
  } else {
    throw error;
  }
}
