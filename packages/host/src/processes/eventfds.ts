import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { EBADF, EINVAL } from '@viommu/core/abi/errno';
import { fail, type Result } from '@viommu/core/base/result';
import type { Eventfd } from '@viommu/core/memory/process';
import { EVENT, type Native } from '../native.ts';

// Eventfds of the program that devices signal, or listen to. Each is a descriptor of ours that pidfd_getfd() took over,
// so that it stays when the program has closed its own or is gone.

export class Eventfds {
  readonly #native: Native;
  readonly #pids: () => Iterable<number>;
  readonly #watched = new Map<number, HostEventfd>();
  #nextToken = 1;

  /** `pids`: the processes whose descriptors count. */
  constructor(native: Native, pids: () => Iterable<number>) {
    this.#native = native;
    this.#pids = pids;
  }

  /** `fd`: our copy of a program's descriptor, which is taken over; EBADF where there is none. */
  adopt(fd: number): Result<Eventfd> {
    if (fd < 0) return fail(EBADF, 'the descriptor is not open');
    if (isEventfd('self', fd))
      return new HostEventfd(this.#native, this.#pids, this.#watched, fd, this.#nextToken++);
    this.#native.closeFd(fd);
    return fail(EINVAL, 'the descriptor is not of an eventfd');
  }

  /** An eventfd has a count: event {@link EVENT.EVENTFD} of its token. */
  counted(token: number): void {
    this.#watched.get(token)?.take();
  }
}

/** Whether a process has that descriptor, and it is of an eventfd. */
function isEventfd(pid: number | 'self', fd: number | string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`) === 'anon_inode:[eventfd]';
  } catch {
    return false;
  }
}

/** Which eventfd it is (fs/eventfd.c eventfd_show_fdinfo()); undefined where there is none, or none any more. */
function identity(pid: number | 'self', fd: number | string): string | undefined {
  try {
    return /^eventfd-id: *(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1];
  } catch {
    return undefined;
  }
}

function descriptorsOf(pid: number): readonly string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`);
  } catch {
    return [];
  }
}

class HostEventfd implements Eventfd {
  readonly #native: Native;
  readonly #pids: () => Iterable<number>;
  readonly #watched: Map<number, HostEventfd>;
  readonly #fd: number;
  readonly #token: number;
  #signalled: (() => void) | null = null;

  constructor(
    native: Native,
    pids: () => Iterable<number>,
    watched: Map<number, HostEventfd>,
    fd: number,
    token: number,
  ) {
    this.#native = native;
    this.#pids = pids;
    this.#watched = watched;
    this.#fd = fd;
    this.#token = token;
  }

  signal(): void {
    this.#native.signalEventfd(this.#fd);
  }

  watch(signalled: () => void): void {
    this.#signalled = signalled;
    this.#watched.set(this.#token, this);
    this.#native.watch(this.#fd, EVENT.EVENTFD, this.#token);
    this.take();
  }

  take(): void {
    if (this.#native.takeEventfd(this.#fd) === 1) this.#signalled?.();
  }

  // Nothing tells of the last close: our own copy is open. So whoever asks pays for a look.
  open(): boolean {
    const wanted = identity('self', this.#fd);
    for (const pid of this.#pids())
      for (const fd of descriptorsOf(pid))
        if (isEventfd(pid, fd) && identity(pid, fd) === wanted) return true;
    return false;
  }

  release(): void {
    if (this.#watched.delete(this.#token)) this.#native.unwatch(this.#fd);
    this.#signalled = null;
    this.#native.closeFd(this.#fd);
  }
}
