import { existsSync, readFileSync } from 'node:fs';
import { errnoName } from '@viommu/core/abi/errno';
import { SPAWN, type Mailbox, type Native, type SystemText } from '../native.ts';

/** A program could not be started. */
export class StartFailure extends Error {
  override name = 'StartFailure';
  /** As a shell and env(1) exit: 127 not found, 126 found and not executable, 125 our own failure. */
  readonly status: 125 | 126 | 127;

  constructor(status: 125 | 126 | 127, message: string) {
    super(message);
    this.status = status;
  }
}

/** What is started, and what it inherits. */
export interface ProgramOptions {
  /** The program, found along PATH where it has no slash, and its arguments. */
  readonly argv: readonly SystemText[];
  readonly env: NodeJS.ProcessEnv;
  /** What the program gets of `env`, each a name, = and a value; all of it where left out. */
  readonly environment?: readonly SystemText[];
  /** Descriptors from 3 on that the program shall have although they are close-on-exec here. */
  readonly inherit?: readonly number[];
  /** The program's soft RLIMIT_NOFILE; as it is here where left out. */
  readonly descriptorsMax?: number;
  /** Refuse io_uring_setup(2) with EPERM: what is done by io_uring is not seen. */
  readonly stopIoUring?: boolean;
}

/** Descriptors low..high-1: where files are put whose read(2) and write(2) must be stopped. */
export interface Window {
  readonly low: number;
  readonly high: number;
}

const WINDOW_TOP = 1024;
const WINDOW_SIZE = 256;
const RLIMIT_NOFILE = 7;

/** The upper quarter of the descriptors that select(2) can take, or of fewer where fewer are allowed. */
export function chooseWindow(descriptorsMax: number): Window {
  const high = Math.min(descriptorsMax, WINDOW_TOP);
  return { low: Math.max(3, high - Math.min(WINDOW_SIZE, high >>> 2)), high };
}

/** How many descriptors the program may have. */
export function descriptorsMax(native: Native, options: ProgramOptions): number {
  if (options.descriptorsMax !== undefined) return options.descriptorsMax;
  const soft = native.limit(process.pid, RLIMIT_NOFILE);
  return soft < 0 ? WINDOW_TOP : soft;
}

/** Starts the program behind the filter: its process id. Throws {@link StartFailure}. */
export function spawnProgram(
  native: Native,
  box: Mailbox,
  options: ProgramOptions,
  window: Window | null,
): number {
  const [name] = options.argv;
  if (name === undefined) throw new StartFailure(125, 'no program to run');
  const { low, high } = window ?? { low: 0, high: 0 };
  const pid = native.spawn(
    candidates(name, options.env['PATH']),
    options.argv,
    options.environment ?? entriesOf(options.env),
    options.inherit ?? [],
    options.descriptorsMax ?? -1,
    low,
    high,
    window === null,
    options.stopIoUring === true,
  );
  if (pid < 0) throw startFailure(textOf(name), box.out[0]!, box.out[1]!);
  return pid;
}

function entriesOf(env: NodeJS.ProcessEnv): string[] {
  return Object.entries(env).flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${value}`]));
}

/** As a person reads it. */
export function textOf(text: SystemText): string {
  return typeof text === 'string' ? text : new TextDecoder().decode(text);
}

/** Where execvp(3) would look. */
export function candidates(name: SystemText, path: string | undefined): SystemText[] {
  const text = textOf(name);
  if (text === '' || text.includes('/')) return [name];
  return (path ?? '/bin:/usr/bin').split(':').map((directory) => {
    const before = `${directory || '.'}/`;
    return typeof name === 'string' ? before + name : Buffer.concat([Buffer.from(before), name]);
  });
}

/** Throws {@link StartFailure} where there is no procfs, by which everything is found out about the program. */
export function checkProc(): void {
  if (existsSync('/proc/self/status')) return;
  throw new StartFailure(
    125,
    '/proc is not mounted here, and viommu looks at programs by it: mount -t proc proc /proc',
  );
}

/** Throws {@link StartFailure} where Yama keeps everybody from the memory of processes, their parents too. */
export function checkYama(): void {
  let scope: string;
  try {
    scope = readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'latin1').trim();
  } catch {
    return;
  }
  if (scope === '3' || (scope === '2' && process.geteuid!() !== 0))
    throw new StartFailure(
      125,
      `Yama does not let us read the program's memory: kernel.yama.ptrace_scope is ${scope}. ` +
        (scope === '3'
          ? 'It can be changed at boot only'
          : 'Run as root, or allow it: sysctl kernel.yama.ptrace_scope=1'),
    );
}

const EPERM = 1;
const ENOENT = 2;
const E2BIG = 7;
const EACCES = 13;
const EBUSY = 16;
const EINVAL = 22;
const ENOSYS = 38;

function startFailure(name: string, stage: number, errno: number): StartFailure {
  if (stage === SPAWN.EXEC) {
    if (errno === ENOENT && !name.includes('/'))
      return new StartFailure(127, `${name}: command not found (PATH was searched)`);
    if (errno === ENOENT && existsSync(name))
      return new StartFailure(
        127,
        `${name}: the interpreter that it names is not there: after #! in a script, else the dynamic loader`,
      );
    if (errno === ENOENT) return new StartFailure(127, `${name}: no such file`);
    if (errno === EACCES)
      return new StartFailure(126, `${name}: permission denied; is it an executable file?`);
    if (errno === E2BIG)
      return new StartFailure(126, `${name}: the arguments and the environment are too long`);
    return new StartFailure(126, `${name}: cannot be executed (${errnoName(errno)})`);
  }
  if (stage === SPAWN.SECCOMP) return new StartFailure(125, seccompRefused(errno));
  const what = stage === SPAWN.FORK ? 'start a process' : 'take over the seccomp listener';
  return new StartFailure(125, `cannot ${what} (${errnoName(errno)})`);
}

function seccompRefused(errno: number): string {
  const what = 'the system refuses a seccomp filter with user notification';
  switch (errno) {
    case EBUSY:
      return (
        `${what}: this process is already behind one (EBUSY), and Linux allows one only. ` +
        'Run viommu outside of the other: is it running under another viommu, or in a container whose runtime uses one?'
      );
    case EINVAL:
      return `${what} (EINVAL): viommu needs Linux 5.14 or newer. Check uname -r`;
    case ENOSYS:
      return `${what} (ENOSYS): the kernel was built without CONFIG_SECCOMP_FILTER`;
    case EPERM:
    case EACCES:
      return (
        `${what} (${errnoName(errno)}): a container's own filter probably forbids seccomp(2). ` +
        'Allow it: docker run --security-opt seccomp=unconfined, or a profile that lets seccomp(2) pass'
      );
    default:
      return `${what} (${errnoName(errno)})`;
  }
}
