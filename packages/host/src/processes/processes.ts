import { readFileSync, readlinkSync } from 'node:fs';
import { EBADF, ENOSYS } from '@viommu/core/abi/errno';
import { fail, type Result } from '@viommu/core/base/result';
import type { OpenFile } from '@viommu/core/memory/file';
import {
  CAP_SYS_RAWIO,
  CAP_SYS_RESOURCE,
  FOREIGN_FILE,
  type Eventfd,
  type ForeignFile,
  type Process,
  type SharedFile,
  type Task,
} from '@viommu/core/memory/process';
import { HostAddressSpace, type MemoryHost } from '../memory/address-space.ts';
import { Eventfds } from './eventfds.ts';
import { EVENT } from '../native.ts';
import { parseStat, parseStatus, type TaskStat, type TaskStatus } from './proc-text.ts';

const RLIMIT_MEMLOCK = 8;
const PAGE_BYTES = 4096;
/** include/linux/proc_ns.h PROC_USER_INIT_INO: where capable() looks, whatever container the program is in. */
const INITIAL_USER_NAMESPACE = 'user:[4026531837]';
/**
 * What guards a machine's own resources. Whoever runs this owns the machine behind the files, so a program has them where
 * this process could not give them: only one that dropped them is refused.
 */
const MACHINE_CAPABILITIES = [CAP_SYS_RAWIO, CAP_SYS_RESOURCE];
/** Threads of one process that are remembered; more are looked at again when they call. */
const TASKS_MAX = 4096;

/** What a process asks of the table of files. */
export interface ProcessFiles {
  /** Our file behind a descriptor of the task, or null. */
  behind(tid: number, fd: number): OpenFile | null;
  install(task: Task, file: OpenFile, closeOnExec: boolean): Result<number>;
}

/**
 * A process from one execve() or change of user to the next: whoever keeps one keeps the user and the memory that it
 * had then.
 */
export class HostProcess implements Process {
  readonly pid: number;
  readonly uid: number;
  readonly memory: HostAddressSpace;
  readonly #processes: Processes;
  gone = false;

  constructor(processes: Processes, pid: number, uid: number, memory: HostAddressSpace) {
    this.#processes = processes;
    this.pid = pid;
    this.uid = uid;
    this.memory = memory;
    memory.users++;
  }

  capable(capability: number): boolean {
    return !this.gone && this.#processes.capable(this, capability);
  }

  memlockPages(): number {
    if (this.#processes.host.unlimitedPins) return Infinity;
    const bytes = this.gone ? -2 : this.#processes.host.native.limit(this.pid, RLIMIT_MEMLOCK);
    if (bytes === -1) return Infinity;
    return bytes < 0 ? 0 : Math.floor(bytes / PAGE_BYTES);
  }

  file(fd: number): OpenFile | SharedFile | ForeignFile | null {
    return this.#processes.file(this, fd);
  }

  eventfd(fd: number): Result<Eventfd> {
    return this.#processes.eventfd(this, fd);
  }

  install(file: OpenFile, options: { readonly closeOnExec: boolean }): Result<number> {
    const { task } = this.#processes;
    if (task === null || task.process !== this)
      return fail(ENOSYS, 'only the process that makes a call can be given a descriptor');
    return this.#processes.files.install(task, file, options.closeOnExec);
  }
}

/** A thread. */
export class HostTask implements Task {
  readonly tid: number;
  readonly failNth = { remaining: 0 };
  readonly entry: Entry;
  readonly startTime: string;
  /** The addon's number for this look at the thread. */
  generation: number;

  constructor(tid: number, entry: Entry, startTime: string, generation: number) {
    this.tid = tid;
    this.entry = entry;
    this.startTime = startTime;
    this.generation = generation;
  }

  get process(): HostProcess {
    return this.entry.process;
  }
}

/** A thread group, from fork() to the exit of its last thread. */
interface Entry {
  readonly pid: number;
  readonly pidfd: number;
  process: HostProcess;
  startStack: string;
  /** A thread of it was about to execute another program: which one, 0 where none. */
  executing: number;
  /** Its user may be another one now. */
  userDoubtful: boolean;
}

/** The processes of the program that have something to do with us. */
export class Processes {
  readonly host: MemoryHost;
  readonly files: ProcessFiles;
  readonly eventfds: Eventfds;
  /** The thread whose call is being answered. */
  task: HostTask | null = null;
  readonly #entries = new Map<number, Entry>();
  readonly #tasks = new Map<number, HostTask>();
  readonly #capabilities = new Map<number, bigint>();
  readonly #granted = machineCapabilities();

  constructor(host: MemoryHost, files: ProcessFiles) {
    this.host = host;
    this.files = files;
    this.eventfds = new Eventfds(host.native, () => this.#entries.keys());
  }

  /** The thread that waits for an answer; null where it died meanwhile. */
  find(tid: number, generation: number): HostTask | null {
    const known = this.#tasks.get(tid);
    if (known !== undefined && known.generation === generation) {
      const { entry } = known;
      if (entry.executing !== 0 || entry.userDoubtful) this.#refresh(known);
      return known;
    }
    return this.#look(tid, generation, known);
  }

  /** The address spaces that are known, each once. */
  memories(): Set<HostAddressSpace> {
    const memories = new Set<HostAddressSpace>();
    for (const { process } of this.#entries.values()) memories.add(process.memory);
    return memories;
  }

  /** The process of that id, where it has had something to do with us. */
  byPid(pid: number): HostProcess | null {
    return this.#entries.get(pid)?.process ?? null;
  }

  /** The thread, where it is one of a process that has had something to do with us. */
  byTid(tid: number): HostTask | null {
    const known = this.#tasks.get(tid);
    if (known !== undefined) return known;
    const status = readStatus(tid);
    return status !== null && this.#entries.has(status.tgid) ? this.#look(tid, -1, undefined) : null;
  }

  /** A thread is about to execute another program, should that succeed. */
  executing(tid: number): void {
    const entry = this.#entryOf(tid);
    if (entry === null) return;
    entry.executing = tid;
    entry.process.memory.idMayBeStale = true;
    this.#capabilities.clear();
  }

  /** A thread is about to change its user or its capabilities. */
  changingCredentials(tid: number): void {
    const entry = this.#entryOf(tid);
    if (entry === null) return;
    entry.userDoubtful = true;
    this.#capabilities.delete(tid);
  }

  /** The process has exited: event {@link EVENT.EXIT} of its token, which is its process id. */
  exited(pid: number): void {
    const entry = this.#entries.get(pid);
    if (entry === undefined) return;
    this.#entries.delete(pid);
    this.host.native.closeFd(entry.pidfd);
    this.#forgetTasks(entry);
    entry.process.gone = true;
    entry.process.memory.leave();
  }

  /** Sends every process that is known a signal. */
  signalAll(signal: number): void {
    for (const { pidfd } of this.#entries.values()) this.host.native.pidfdSignal(pidfd, signal);
  }

  capable(process: HostProcess, capability: number): boolean {
    const tid = this.task?.process === process ? this.task.tid : process.pid;
    let held = this.#capabilities.get(tid);
    if (held === undefined) {
      held = inInitialUserNamespace(tid) ? (readStatus(tid)?.capabilities ?? 0n) : 0n;
      if (this.#capabilities.size > TASKS_MAX) this.#capabilities.clear();
      this.#capabilities.set(tid, held);
    }
    return ((held >> BigInt(capability)) & 1n) === 1n || this.#granted.has(capability);
  }

  file(process: HostProcess, fd: number): OpenFile | SharedFile | ForeignFile | null {
    if (process.gone || fd < 0) return null;
    const { shared } = this.host;
    const tid = this.task?.process === process ? this.task.tid : process.pid;
    const ours = this.files.behind(tid, fd);
    if (ours !== null) return ours;
    const entry = this.#entries.get(process.pid);
    const copy = entry === undefined ? -EBADF : shared.copy(process.pid, entry.pidfd, fd);
    if (copy === -EBADF) return null;
    return (copy < 0 ? null : shared.adopt(copy)) ?? FOREIGN_FILE;
  }

  /** Our own descriptor for the file behind one of a thread, or -errno. */
  copyDescriptor({ process, entry }: HostTask, fd: number): number {
    return this.host.shared.copy(process.pid, entry.pidfd, fd);
  }

  eventfd(process: HostProcess, fd: number): Result<Eventfd> {
    const entry = process.gone || fd < 0 ? undefined : this.#entries.get(process.pid);
    return this.eventfds.adopt(
      entry === undefined ? -1 : this.host.shared.copy(process.pid, entry.pidfd, fd),
    );
  }

  #entryOf(tid: number): Entry | null {
    if (this.#entries.size === 0) return null;
    const known = this.#tasks.get(tid)?.entry ?? this.#entries.get(tid);
    if (known !== undefined) return known;
    const status = readStatus(tid);
    return status === null ? null : (this.#entries.get(status.tgid) ?? null);
  }

  // The thread's number is new to us, or the addon had closed what it had open of it.
  #look(tid: number, generation: number, known: HostTask | undefined): HostTask | null {
    const status = readStatus(tid);
    const stat = readStat(tid);
    if (status === null || stat === null) return null;
    if (known !== undefined && known.startTime === stat.startTime && known.entry.pid === status.tgid) {
      known.generation = generation;
      this.#refresh(known);
      return known;
    }
    const entry = this.#entries.get(status.tgid) ?? this.#admit(status, stat);
    if (entry === null) return null;
    if (this.#tasks.size >= TASKS_MAX) this.#tasks.clear();
    const task = new HostTask(tid, entry, stat.startTime, generation);
    this.#tasks.set(tid, task);
    this.#refresh(task);
    return task;
  }

  #admit(status: TaskStatus, stat: TaskStat): Entry | null {
    const { native } = this.host;
    const pidfd = native.pidfdOpen(status.tgid);
    if (pidfd < 0) return null;
    native.watch(pidfd, EVENT.EXIT, status.tgid);
    const memory = this.#inherited(status) ?? new HostAddressSpace(this.host, status.tgid);
    const entry: Entry = {
      pid: status.tgid,
      pidfd,
      process: new HostProcess(this, status.tgid, status.uid, memory),
      startStack: stat.startStack,
      executing: 0,
      userDoubtful: false,
    };
    this.#entries.set(status.tgid, entry);
    return entry;
  }

  /** The parent's address space, where the process still has it: after vfork(), or clone() with CLONE_VM. */
  #inherited({ tgid, parent }: TaskStatus): HostAddressSpace | null {
    const entry = this.#entries.get(parent);
    if (entry === undefined) return null;
    return this.host.native.sameMemory(tgid, parent) === 1 ? entry.process.memory : null;
  }

  #refresh(task: HostTask): void {
    const { entry } = task;
    if (entry.executing !== 0) {
      const executed = this.#hasExecuted(entry);
      if (executed) this.#replace(entry, new HostAddressSpace(this.host, entry.pid));
      // From the thread that wanted to, this call is the proof that it is over; another one's may have come before.
      if (executed || entry.executing === task.tid) entry.executing = 0;
    }
    if (!entry.userDoubtful) return;
    const status = readStatus(task.tid);
    if (status === null) return;
    entry.userDoubtful = false;
    if (status.uid !== entry.process.uid) this.#replace(entry, entry.process.memory, status.uid);
  }

  #replace(entry: Entry, memory: HostAddressSpace, uid = entry.process.uid): void {
    const before = entry.process;
    entry.process = new HostProcess(this, entry.pid, uid, memory);
    if (memory === before.memory) {
      memory.users--;
      return;
    }
    entry.startStack = readStat(entry.pid)?.startStack ?? '';
    before.gone = true;
    before.memory.leave();
  }

  #hasExecuted(entry: Entry): boolean {
    const { memory } = entry.process;
    if (!memory.alive) return true;
    // Somebody else has it too, or execve() failed.
    for (const other of this.#entries.values()) {
      if (other === entry || other.process.memory !== memory) continue;
      const same = this.host.native.sameMemory(entry.pid, other.pid);
      if (same >= 0) return same === 0;
    }
    return readStat(entry.pid)?.startStack !== entry.startStack;
  }

  #forgetTasks(entry: Entry): void {
    for (const [tid, task] of this.#tasks) {
      if (task.entry !== entry) continue;
      this.#tasks.delete(tid);
      this.#capabilities.delete(tid);
    }
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

function readStatus(tid: number): TaskStatus | null {
  return parseStatus(readText(`/proc/${tid}/status`));
}

function readStat(tid: number): TaskStat | null {
  return parseStat(readText(`/proc/${tid}/stat`));
}

function inInitialUserNamespace(tid: number): boolean {
  try {
    return readlinkSync(`/proc/${tid}/ns/user`) === INITIAL_USER_NAMESPACE;
  } catch {
    return false;
  }
}

function machineCapabilities(): ReadonlySet<number> {
  const held = inInitialUserNamespace(process.pid) ? (readStatus(process.pid)?.capabilities ?? 0n) : 0n;
  return new Set(MACHINE_CAPABILITIES.filter((each) => ((held >> BigInt(each)) & 1n) === 0n));
}
