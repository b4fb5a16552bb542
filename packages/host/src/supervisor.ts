import { constants } from 'node:os';
import { EMFILE, errnoName } from '@viommu/core/abi/errno';
import { fail } from '@viommu/core/base/result';
import { Trace } from '@viommu/core/trace/trace';
import type { CurrentCall, MemoryHost } from './memory/address-space.ts';
import { FaultAttributes } from './files/fault-attributes.ts';
import { answerFdCall, answerForeignIoctl } from './calls/fd-calls.ts';
import { Files } from './files/files.ts';
import { JobControl, reapOrphans, type Outcome } from './program/job-control.ts';
import type { KernelSide } from './kernel-side.ts';
import { ANSWERED, PASS, type Answer, type Machine } from './calls/machine.ts';
import { mappingsOf } from './memory/mappings.ts';
import { EVENT, Mailbox, native as loadNative, OP, WAIT, WHOSE, type Native } from './native.ts';
import { answerPathCall, findTarget, PATH_PATTERNS } from './calls/path-calls.ts';
import { choosePlaceholderDirectory } from './files/placeholder-directory.ts';
import { Processes, type HostTask } from './processes/processes.ts';
import { SharedFiles } from './memory/shared-files.ts';
import { programWarnings } from './program/program-file.ts';
import {
  candidates,
  checkProc,
  checkYama,
  chooseWindow,
  descriptorsMax,
  spawnProgram,
  StartFailure,
  textOf,
  type ProgramOptions,
} from './program/spawn.ts';
import { sysfsContents } from './sysfs/contents.ts';
import { SysfsTree } from './sysfs/tree.ts';
import { deviceNodes } from './files/virtual-nodes.ts';

/** How a program is supervised. */
export interface SupervisorOptions extends ProgramOptions {
  readonly kernel: KernelSide;
  readonly trace?: Trace;
  /** Stop read(2) and write(2) on every descriptor from 3 on, not only in the window below 1024. */
  readonly stopReads?: boolean;
  /** Programs may pin any amount of memory: viommu pins nothing of the system's, so the limit protects nobody. */
  readonly unlimitedPins?: boolean;
  /**
   * This process stands for the program: it passes signals on, stops and continues with it, and adopts its orphans. For
   * the command line, not for a process that has other children.
   */
  readonly jobControl?: boolean;
}

/** What happened while a program ran; for tests and benchmarks. */
export interface SupervisorCounts {
  /** Calls that were stopped. */
  notifications: number;
  /** Calls that reached JavaScript, and of those the ones that were not ours after all. */
  calls: number;
  passed: number;
}

const FOREVER = -1;
const LOOK_EVERY_MS = 1;
/** How long nobody waits between looks once something was found: about as long as a driver takes to ask for more. */
const KEEP_LOOKING_MS = 0.5;
const O_CLOEXEC_ONLY = { answer: false, flags: 2, node: null } as const;

/** Runs one program whose system calls on /dev/iommu are answered by a kernel side. One per thread. */
export class Supervisor {
  readonly counts: SupervisorCounts = { notifications: 0, calls: 0, passed: 0 };
  /** What the user should know before the program runs. */
  readonly warnings: readonly string[];
  /** The program's process id. */
  readonly pid: number;
  readonly #native: Native;
  readonly #box: Mailbox;
  readonly #machine: Machine;
  readonly #shared: SharedFiles;
  readonly #current: CurrentCall = { tid: 0, memory: null, prefetchHi: 0, prefetchLo: 0, prefetched: 0 };
  readonly #jobControl: JobControl | null;
  #hardwareBusy = false;
  #busyUntil = 0;
  #lookedAt = 0;
  #programPidfd = -1;
  #outcome: Outcome | null = null;

  /** Starts the program. Throws {@link StartFailure} where that does not succeed. */
  constructor(options: SupervisorOptions) {
    checkProc();
    checkYama();
    const native = loadNative();
    const buffer = native.create(PATH_PATTERNS);
    if (typeof buffer === 'number') throw new StartFailure(125, cannotSetUp(-buffer));
    const box = new Mailbox(buffer);
    this.#native = native;
    this.#box = box;
    this.#shared = new SharedFiles(native, box, () => this.#machine.processes.memories());
    this.#machine = this.#build(options);
    const window = this.#window(options);
    const [name = ''] = options.argv;
    const warnings = programWarnings(textOf(name), candidates(name, options.env['PATH']));
    this.pid = spawnProgram(native, box, options, window);
    const slow = 'this kernel has no synchronous wake-up (Linux 6.6): calls take several times as long';
    this.warnings = [...(box.out[0] === 1 ? [] : [slow]), ...warnings];
    this.#jobControl = options.jobControl === true ? new JobControl(native, box, this.pid) : null;
    this.#watchProgram();
  }

  /**
   * Answers the program's calls until the last process that it started has ended; how the program itself ended. Blocks
   * this thread.
   */
  run(): Outcome {
    try {
      while (this.#turn());
    } catch (error) {
      // A broken invariant. Without us the program would get ENOSYS for every path that it opens.
      this.#kill();
      throw error;
    } finally {
      this.#native.close();
      this.#machine.tree.remove();
    }
    this.#machine.files.releaseAll();
    this.#shared.settleAll();
    return this.#outcome ?? { kind: 'exited', status: 0 };
  }

  #window({ stopReads, ...options }: SupervisorOptions): { low: number; high: number } | null {
    return stopReads === true ? null : chooseWindow(descriptorsMax(this.#native, options));
  }

  #build(options: SupervisorOptions): Machine {
    const [native, box] = [this.#native, this.#box];
    const directory = choosePlaceholderDirectory(native, options.env);
    const files: Files = new Files({
      native,
      box,
      directory,
      window: this.#window(options),
      mappingsOf: (inode) => mappingsOf(this.#roots(), files.device, inode),
    });
    const memory: MemoryHost = {
      native,
      box,
      current: this.#current,
      shared: this.#shared,
      unlimitedPins: options.unlimitedPins === true,
      get placeholdersMapped() {
        return files.mapped;
      },
      isPlaceholder: (major, minor, inode) => files.isPlaceholder(major, minor, inode),
    };
    const processes = new Processes(memory, {
      behind: (tid, fd) => files.behind(tid, fd),
      install: (task, file, closeOnExec) => {
        const fd = files.install(task, file, { ...O_CLOEXEC_ONLY, closeOnExec });
        return fd < 0 ? fail(-fd, 'the program can be given no descriptor') : fd;
      },
    });
    const { kernel } = options;
    const nodes = deviceNodes(Math.floor(performance.timeOrigin / 1000), kernel.deviceFiles);
    return {
      native,
      box,
      files,
      processes,
      kernel,
      trace: options.trace ?? new Trace(),
      nodes,
      faults: new FaultAttributes(native),
      tree: new SysfsTree(directory, () => sysfsContents(kernel.functions?.() ?? [], nodes)),
    };
  }

  *#roots(): Generator<number> {
    yield this.pid;
    for (const memory of this.#machine.processes.memories()) yield memory.pid;
  }

  #watchProgram(): void {
    const pidfd = this.#native.pidfdOpen(this.pid);
    if (pidfd >= 0) this.#native.watch(pidfd, EVENT.EXIT, 0);
    this.#programPidfd = pidfd;
  }

  /** One turn of the loop. False when there is nobody left to answer. */
  #turn(): boolean {
    const [native, box] = [this.#native, this.#box];
    const waited = native.next(this.#patience());
    this.counts.notifications = box.received;
    if (waited < 0) throw new Error(`waiting for the program failed (${errnoName(-waited)})`);
    this.#lookAtDoorbells();
    let alive = true;
    for (let event = 0; event < box.eventCount; event++) alive = this.#event(event) && alive;
    if (box.notified) this.#answer();
    return alive;
  }

  /** How long nobody looks at doorbells, in milliseconds. */
  #patience(): number {
    if (this.#machine.kernel.doorbells?.watched !== true) return FOREVER;
    return this.#hardwareBusy ? 0 : LOOK_EVERY_MS;
  }

  #lookAtDoorbells(): void {
    const { doorbells } = this.#machine.kernel;
    if (doorbells?.watched !== true) return;
    const now = performance.now();
    // Calls of the program must neither keep the hardware from looking nor wait for it every time.
    if (!this.#hardwareBusy && now - this.#lookedAt < LOOK_EVERY_MS) return;
    this.#lookedAt = now;
    if (doorbells.look()) this.#busyUntil = now + KEEP_LOOKING_MS;
    this.#hardwareBusy = now < this.#busyUntil;
  }

  /** False when no task of the program is left. */
  #event(event: number): boolean {
    const box = this.#box;
    const { files, processes } = this.#machine;
    const field = box.eventField(event, 0);
    switch (box.eventKind(event)) {
      case EVENT.LAST_CLOSE:
        files.lastClose(field);
        return true;
      case EVENT.HANG_UP:
        files.hungUp(field);
        return true;
      case EVENT.EXIT:
        if (field === 0) this.#programExited();
        else processes.exited(field);
        this.#shared.settleAll();
        return true;
      case EVENT.EVENTFD:
        processes.eventfds.counted(field);
        return true;
      case EVENT.SIGNAL:
        this.#signal(field, box.eventField(event, 1), box.eventField(event, 2));
        return true;
      case EVENT.GONE:
        this.#programExited();
        return false;
      default:
        return true;
    }
  }

  #signal(signal: number, code: number, sender: number): void {
    const control = this.#jobControl;
    if (control === null) return;
    control.signal(signal, code, sender);
    if (signal !== constants.signals.SIGCHLD) return;
    if (this.#outcome === null) this.#outcome = control.children();
    this.#outcome ??= reapOrphans(this.#native, this.#box, this.pid);
  }

  #programExited(): void {
    const native = this.#native;
    if (this.#programPidfd >= 0) native.closeFd(this.#programPidfd);
    this.#programPidfd = -1;
    this.#outcome ??= waitFor(native, this.#box, this.pid);
  }

  #kill(): void {
    this.#machine.processes.signalAll(constants.signals.SIGKILL);
    if (this.#outcome === null) process.kill(this.pid, constants.signals.SIGKILL);
  }

  #answer(): void {
    const box = this.#box;
    const answer = this.#decide();
    this.#leave();
    this.counts.calls++;
    if (answer === PASS) {
      this.counts.passed++;
      box.pass();
    } else if (answer !== ANSWERED) {
      box.answer(answer);
    }
  }

  #decide(): Answer {
    const box = this.#box;
    const machine = this.#machine;
    const { processes } = machine;
    switch (box.op) {
      case OP.EXEC:
        processes.executing(box.tid);
        return PASS;
      case OP.CREDENTIALS:
        processes.changingCredentials(box.tid);
        return PASS;
      case OP.OPEN:
      case OP.ACCESS:
      case OP.STAT:
      case OP.STATX:
      case OP.READLINK:
      case OP.XATTR: {
        const target = findTarget(machine);
        const task = target === null ? null : this.#enter();
        return task === null ? PASS : answerPathCall(machine, task, target!);
      }
      default: {
        const foreign = box.whose === WHOSE.FOREIGN;
        const entry = foreign ? undefined : machine.files.find(box.whose, box.inode);
        const task = foreign || entry !== undefined ? this.#enter() : null;
        if (task === null) return PASS;
        return foreign ? answerForeignIoctl(machine, task) : answerFdCall(machine, task, entry!);
      }
    }
  }

  /** From now on the task that waits is the one that asks, and its memory is at hand. Null where it has died. */
  #enter(): HostTask | null {
    const box = this.#box;
    const { processes } = this.#machine;
    const current = this.#current;
    const task = processes.find(box.tid, box.generation);
    if (task === null) return null;
    processes.task = task;
    current.tid = box.tid;
    current.memory = task.process.memory;
    current.prefetched = box.prefetched;
    current.prefetchHi = box.prefetchHi;
    current.prefetchLo = box.prefetchLo;
    return task;
  }

  #leave(): void {
    this.#machine.processes.task = null;
    this.#current.tid = 0;
    this.#current.memory = null;
    this.#current.prefetched = 0;
    this.#shared.settle();
  }
}

function cannotSetUp(errno: number): string {
  const hint =
    errno === EMFILE
      ? ': too many files are open, or too many inotify instances of this user (/proc/sys/fs/inotify/max_user_instances)'
      : '';
  return `cannot set up the supervisor (${errnoName(errno)})${hint}`;
}

/** Waits for a child that has ended or is about to. */
function waitFor(native: Native, box: Mailbox, pid: number): Outcome | null {
  const kind = native.wait(pid, true);
  const value = box.out[0]!;
  if (kind === WAIT.EXITED) return { kind: 'exited', status: value };
  return kind === WAIT.SIGNALED ? { kind: 'signaled', signal: value } : null;
}
