import { statSync } from 'node:fs';
import { EBADF, EMFILE } from '@viommu/core/abi/errno';
import { big, exact } from '@viommu/core/base/u64';
import type { FileBacking, OpenFile } from '@viommu/core/memory/file';
import type { Task } from '@viommu/core/memory/process';
import { ENFILE } from '../errno.ts';
import { readFileAt, writeFileAt } from '../memory/file-bytes.ts';
import type { MapsLine } from '../processes/proc-text.ts';
import { EVENT, WHOSE, type Mailbox, type Native } from '../native.ts';
import type { PseudoFile } from './pseudo-files.ts';
import type { VirtualNode } from './virtual-nodes.ts';

const O_RDWR = 2;
/** What a placeholder keeps of open(2)'s flags: O_ACCMODE and O_NONBLOCK. */
const O_NONBLOCK = 0o4000;
const KEPT_FLAGS = 0o3 | O_NONBLOCK;
/**
 * Files that can be open at once. Each leaves at most one event in inotify's queue, which usually holds 16384
 * (/proc/sys/fs/inotify/max_queued_events); so none is lost.
 */
const FILES_MAX = 16000;

/** What poll(2) must work on. */
const PIPES: ReadonlySet<string> = new Set<OpenFile['type']>(['fault-queue', 'veventq', 'migration-data']);
/** Of these, what poll(2) never calls writable (drivers/iommu/iommufd/eventq.c iommufd_eventq_fops_poll()). */
const READ_ONLY: ReadonlySet<string> = new Set<OpenFile['type']>(['veventq']);

/** A file that the program has open: what Linux's struct file is to us. */
export interface InstalledFile {
  readonly file: OpenFile | PseudoFile;
  /** What it was opened as; null for the files that ioctls hand out. */
  readonly node: VirtualNode | null;
  readonly whose: number;
  readonly inode: number;
  /** inotify's watch of a placeholder, or our end of a pipe. */
  readonly handle: number;
  /** Our own view of a placeholder that a program has mapped, or -1. */
  view: number;
  /** How long it has to be for the mappings that programs made. */
  length: bigint;
  /** Pseudo files: where read(2) and write(2) are. */
  position: number;
}

/** How a file is installed. */
export interface InstallOptions {
  readonly closeOnExec: boolean;
  /** The descriptor is the call's result: the call is answered in the same step. */
  readonly answer: boolean;
  /** open(2)'s. */
  readonly flags: number;
  readonly node: VirtualNode | null;
}

/** A device number. */
export interface Device {
  readonly major: number;
  readonly minor: number;
}

/** What the table of files needs of the rest. */
export interface FilesHost {
  readonly native: Native;
  readonly box: Mailbox;
  /** Where placeholders are made. */
  readonly directory: string;
  /** Descriptors low..high-1 have read and write stopped; null where all have. */
  readonly window: { readonly low: number; readonly high: number } | null;
  /** The shared mappings that touch a file, of every process of the program. */
  mappingsOf(inode: number): Iterable<MapsLine>;
}

/**
 * The files that the program has open with us, by their inodes. Behind a descriptor stands a file without a name on
 * tmpfs, whose last close inotify tells; behind an event queue, on which poll(2) must work, a pipe.
 */
export class Files {
  readonly #host: FilesHost;
  readonly #placeholders = new Map<number, InstalledFile>();
  readonly #pipes = new Map<number, InstalledFile>();
  readonly #byWatch = new Map<number, InstalledFile>();
  readonly #byToken = new Map<number, InstalledFile>();
  /** Whether a program has mapped one. */
  mapped = false;
  #nextToken = 1;
  #device: Device | null = null;

  constructor(host: FilesHost) {
    this.#host = host;
  }

  /** How many files are open. */
  get size(): number {
    return this.#placeholders.size + this.#pipes.size;
  }

  find(whose: number, inode: number): InstalledFile | undefined {
    return whose === WHOSE.PIPE ? this.#pipes.get(inode) : this.#placeholders.get(inode);
  }

  /** Our file behind a descriptor of a task. */
  of(tid: number, fd: number): InstalledFile | undefined {
    const { native, box } = this.#host;
    const whose = native.identify(tid, fd);
    return whose === WHOSE.FOREIGN ? undefined : this.find(whose, box.out[0]!);
  }

  /** The same where it is one of the kernel side. */
  behind(tid: number, fd: number): OpenFile | null {
    const file = this.of(tid, fd)?.file;
    return file === undefined || file.type === 'pseudo' ? null : file;
  }

  /** The device number of the file system that placeholders are on. */
  get device(): Device {
    this.#device ??= deviceOf(this.#host.directory);
    return this.#device;
  }

  /** Whether a mapping of that device and inode shows a file of ours. */
  isPlaceholder(major: number, minor: number, inode: bigint): boolean {
    if (major !== this.device.major || minor !== this.device.minor) return false;
    return this.#placeholders.has(exact(inode));
  }

  /** Installs a descriptor in the task that waits: its number there, or -errno. */
  install(task: Task, file: OpenFile | PseudoFile, options: InstallOptions): number {
    if (this.size >= FILES_MAX) return -ENFILE;
    return file.type !== 'pseudo' && PIPES.has(file.type)
      ? this.#installPipe(task, file, options)
      : this.#installPlaceholder(task, file, options);
  }

  /** Whether read(2) and write(2) on the file are ours to answer, which only its descriptor's number can tell. */
  stopped({ file }: InstalledFile): boolean {
    return this.#host.window !== null && (file.type === 'pseudo' || PIPES.has(file.type));
  }

  /** Gives the task a copy of such a file from number `lowest` on, and closes ours: the call's result, or -errno. */
  place(task: Task, fd: number, lowest: number, closeOnExec: boolean): number {
    return this.#addInWindow(task, fd, lowest, { closeOnExec, answer: true });
  }

  /** The last descriptor and mapping of a placeholder are gone. */
  lastClose(watch: number): void {
    const entry = this.#byWatch.get(watch);
    if (entry === undefined) return;
    this.#byWatch.delete(watch);
    this.#placeholders.delete(entry.inode);
    if (entry.view >= 0) this.#host.native.closeFd(entry.view);
    entry.file.release();
  }

  /** The last descriptor of a pipe is gone. */
  hungUp(token: number): void {
    const entry = this.#byToken.get(token);
    if (entry === undefined) return;
    this.#byToken.delete(token);
    this.#pipes.delete(entry.inode);
    if (entry.file.type !== 'pseudo') entry.file.onReadableChange = undefined;
    this.#host.native.closeFd(entry.handle);
    entry.file.release();
  }

  /** Everything that is still open is let go, when no program is left. */
  releaseAll(): void {
    for (const watch of [...this.#byWatch.keys()]) this.lastClose(watch);
    for (const token of [...this.#byToken.keys()]) this.hungUp(token);
  }

  #installPlaceholder(task: Task, file: OpenFile | PseudoFile, options: InstallOptions): number {
    const { native, box } = this.#host;
    const fd = native.placeholder(options.flags & KEPT_FLAGS);
    if (fd < 0) return fd;
    const [inode, handle] = [box.out[0]!, box.out[1]!];
    const number = this.#add(task, fd, file.type === 'pseudo', options);
    if (number < 0) return number;
    const { node } = options;
    const entry = { file, node, whose: WHOSE.PLACEHOLDER, inode, handle, view: -1, length: 0n, position: 0 };
    this.#placeholders.set(inode, entry);
    this.#byWatch.set(handle, entry);
    if (file.type === 'pseudo') return number;
    if (file.mmap !== undefined) file.backing = this.#backing(entry);
    if (file.size !== undefined) this.prepareMapping(task, number, entry, big(file.size));
    return number;
  }

  #installPipe(task: Task, file: OpenFile, options: InstallOptions): number {
    const { native, box } = this.#host;
    const fd = native.pipe(options.flags & (READ_ONLY.has(file.type) ? O_NONBLOCK : KEPT_FLAGS));
    if (fd < 0) return fd;
    const [inode, handle] = [box.out[0]!, box.out[1]!];
    const number = this.#add(task, fd, true, options);
    if (number < 0) {
      native.closeFd(handle);
      return number;
    }
    const token = this.#nextToken++;
    const { node } = options;
    const entry = { file, node, whose: WHOSE.PIPE, inode, handle, view: -1, length: 0n, position: 0 };
    this.#pipes.set(inode, entry);
    this.#byToken.set(token, entry);
    native.watch(handle, EVENT.HANG_UP, token);
    this.#showReadable(file, handle);
    return number;
  }

  /** Gives the task a descriptor and closes ours. `stopped`: read(2) and write(2) on it must come to us. */
  #add(task: Task, fd: number, stopped: boolean, options: InstallOptions): number {
    const { native, window } = this.#host;
    if (stopped && window !== null) return this.#addInWindow(task, fd, window.low, options);
    const number = native.addFd(fd, -1, options.closeOnExec, options.answer);
    native.closeFd(fd);
    return number;
  }

  #addInWindow(
    task: Task,
    fd: number,
    lowest: number,
    { closeOnExec, answer }: Pick<InstallOptions, 'closeOnExec' | 'answer'>,
  ): number {
    const { native, window } = this.#host;
    const at = native.lowestFree(task.tid, Math.max(lowest, window?.low ?? 0), window?.high ?? 0);
    const number = at < 0 ? -EMFILE : native.addFd(fd, at, closeOnExec, answer);
    native.closeFd(fd);
    // fs/file.c receive_fd_replace(): the number is not below RLIMIT_NOFILE, which the program has lowered since.
    return number === -EBADF ? -EMFILE : number;
  }

  /** One byte lies in the pipe while the queue has something: so poll(2) tells it. */
  #showReadable(file: OpenFile, ourEnd: number): void {
    const { native } = this.#host;
    let shown = false;
    const update = (): void => {
      if (file.readable === shown) return;
      shown = !shown;
      if (shown) native.putByte(ourEnd);
      else native.takeByte(ourEnd);
    };
    file.onReadableChange = update;
    update();
  }

  /**
   * Makes the file long enough for a mapping by the task that waits: beyond its end the program's pages would be SIGBUS.
   * False where it cannot be.
   */
  prepareMapping(task: Task, fd: number, entry: InstalledFile, end: bigint): boolean {
    const { native } = this.#host;
    this.mapped = true;
    if (entry.view < 0) entry.view = native.openOf(task.tid, fd, O_RDWR);
    if (end > entry.length) entry.length = end;
    return entry.view >= 0 && native.growTo(entry.view, end) >= 0;
  }

  #backing(entry: InstalledFile): FileBacking {
    const { native } = this.#host;
    return {
      read: (offset, into) => entry.view >= 0 && readFileAt(this.#host, entry.view, offset, into),
      write: (offset, from) => entry.view >= 0 && writeFileAt(this.#host, entry.view, offset, from),
      setReachable: (reachable) => {
        if (entry.view < 0) return;
        if (reachable) native.growTo(entry.view, entry.length);
        else native.shrinkTo(entry.view, 0n);
      },
      mapped: (offset, length) => {
        if (entry.view < 0) return false;
        for (const line of this.#host.mappingsOf(entry.inode)) {
          if (line.offset < offset + length && line.offset + (line.end - line.start) > offset) return true;
        }
        return false;
      },
    };
  }
}

function deviceOf(path: string): Device {
  const { dev } = statSync(path);
  return { major: (dev >>> 8) & 0xfff, minor: (dev & 0xff) | ((dev >>> 12) & 0xfff00) };
}
