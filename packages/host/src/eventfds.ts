import { readlinkSync } from 'node:fs';
import { EBADF, EINVAL } from '@viommu/core/abi/errno';
import { fail, type Result } from '@viommu/core/base/result';
import type { Eventfd } from '@viommu/core/memory/process';
import { EVENT, type Native } from './native.ts';

// Eventfds of the program that devices signal, or listen to. Each is a descriptor of ours that pidfd_getfd() took over,
// so that it stays when the program has closed its own or is gone.

export class Eventfds {
  readonly #native: Native;
  readonly #watched = new Map<number, HostEventfd>();
  #nextToken = 1;

  constructor(native: Native) {
    this.#native = native;
  }

  /** `fd`: our copy of a program's descriptor, which is taken over; EBADF where there is none. */
  adopt(fd: number): Result<Eventfd> {
    if (fd < 0) return fail(EBADF, 'the descriptor is not open');
    if (readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]')
      return new HostEventfd(this.#native, this.#watched, fd, this.#nextToken++);
    this.#native.closeFd(fd);
    return fail(EINVAL, 'the descriptor is not of an eventfd');
  }

  /** An eventfd has a count: event {@link EVENT.EVENTFD} of its token. */
  counted(token: number): void {
    this.#watched.get(token)?.take();
  }
}

class HostEventfd implements Eventfd {
  readonly #native: Native;
  readonly #watched: Map<number, HostEventfd>;
  readonly #fd: number;
  readonly #token: number;
  #signalled: (() => void) | null = null;

  constructor(native: Native, watched: Map<number, HostEventfd>, fd: number, token: number) {
    this.#native = native;
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

  release(): void {
    if (this.#watched.delete(this.#token)) this.#native.unwatch(this.#fd);
    this.#signalled = null;
    this.#native.closeFd(this.#fd);
  }
}
