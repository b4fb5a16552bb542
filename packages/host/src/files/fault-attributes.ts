import { accessSync, constants } from 'node:fs';
import type { Native } from '../native.ts';

// /sys/kernel/debug/fail*: the attributes of Linux's fault injection (Documentation/fault-injection/). What can fail is
// decided by /proc/self/fail-nth alone; these can be written and read, and do nothing.

/** Where debugfs is. */
export const DEBUGFS = '/sys/kernel/debug';

const DIRECTORIES: Readonly<Record<string, readonly string[]>> = {
  fail_iommufd: [],
  failslab: ['cache-filter', 'ignore-gfp-wait'],
  fail_page_alloc: ['ignore-gfp-wait', 'ignore-gfp-highmem', 'min-order'],
  fail_usercopy: [],
};

// lib/fault-inject.c fault_create_debugfs_attr().
const COMMON: Readonly<Record<string, string>> = {
  probability: '0\n',
  interval: '0\n',
  times: '1\n',
  space: '0\n',
  verbose: '2\n',
  verbose_ratelimit_interval_ms: '0\n',
  verbose_ratelimit_burst: '10\n',
  'task-filter': 'N\n',
};
/** What the attributes of {@link DIRECTORIES} hold at first: booleans, but for one. */
const SPECIAL: Readonly<Record<string, string>> = { 'min-order': '1\n' };

const KEPT_FLAGS = 0o3 | 0o1000 | 0o2000 | 0o4000; // O_ACCMODE, O_TRUNC, O_APPEND, O_NONBLOCK

/** The files and directories below /sys/kernel/debug that are ours. */
export class FaultAttributes {
  readonly #native: Native;
  readonly #files = new Map<string, number>();
  readonly #directories = new Map<string, number>();

  constructor(native: Native) {
    this.#native = native;
  }

  /** What is at an absolute path: null where it is nothing of ours. */
  kind(path: string): 'directory' | 'file' | null {
    if (path === DEBUGFS) return realDebugfs() ? null : 'directory';
    const [directory, name, more] = path.slice(DEBUGFS.length + 1).split('/');
    const special = Object.hasOwn(DIRECTORIES, directory!) ? DIRECTORIES[directory!] : undefined;
    if (special === undefined || more !== undefined) return null;
    if (name === undefined) return 'directory';
    return Object.hasOwn(COMMON, name) || special.includes(name) ? 'file' : null;
  }

  /** A descriptor for the file or directory, to be handed to the program; -errno where it cannot be made. */
  open(path: string, kind: 'directory' | 'file', flags: number): number {
    const made = kind === 'file' ? this.#files : this.#directories;
    let fd = made.get(path);
    if (fd === undefined) {
      fd = kind === 'file' ? this.#makeFile(path) : this.#native.directory(path);
      if (fd < 0) return fd;
      made.set(path, fd);
    }
    return this.#native.reopen(fd, kind === 'file' ? flags & KEPT_FLAGS : 0);
  }

  #makeFile(path: string): number {
    const name = path.slice(path.lastIndexOf('/') + 1);
    const text = COMMON[name] ?? SPECIAL[name] ?? 'Y\n';
    return this.#native.textFile(new TextEncoder().encode(text));
  }
}

/** Whether the machine shows its own debugfs to us: then it is the program's too. */
function realDebugfs(): boolean {
  try {
    accessSync(DEBUGFS, constants.R_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
