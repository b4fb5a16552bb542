import { fail, type Result } from '../base/result.ts';
import { big, exact, PAGE_SIZE, PAGE_SIZE_N, pageNumber, pageOffset } from '../base/u64.ts';
import { EBADF, EINVAL, EMFILE } from '../abi/errno.ts';
import type { OpenFile } from './file.ts';
import {
  FOREIGN_FILE,
  type AddressSpace,
  type Eventfd,
  type ForeignFile,
  type Process,
  type SharedFile,
  type Task,
  type Vma,
} from './process.ts';

// A program that exists only here: its memory, its descriptors and its limits. With it the kernel side runs where there
// is no Linux below, in a browser or in a test.

/** Zeroed pages that appear where they are first written. */
class Pages {
  readonly #pages = new Map<number, Uint8Array>();

  copyOut(at: bigint, into: Uint8Array): void {
    this.#each(at, into.length, (page, offset, from, bytes) => {
      const source = this.#pages.get(page);
      if (source === undefined) into.fill(0, from, from + bytes);
      else into.set(source.subarray(offset, offset + bytes), from);
    });
  }

  copyIn(at: bigint, data: Uint8Array): void {
    this.#each(at, data.length, (page, offset, from, bytes) => {
      let target = this.#pages.get(page);
      if (target === undefined) {
        target = new Uint8Array(PAGE_SIZE);
        this.#pages.set(page, target);
      }
      target.set(data.subarray(from, from + bytes), offset);
    });
  }

  drop(firstPage: number, lastPage: number): void {
    if (lastPage - firstPage < this.#pages.size) {
      for (let page = firstPage; page <= lastPage; page++) this.#pages.delete(page);
      return;
    }
    for (const page of this.#pages.keys())
      if (page >= firstPage && page <= lastPage) this.#pages.delete(page);
  }

  #each(
    at: bigint,
    length: number,
    visit: (page: number, offset: number, from: number, bytes: number) => void,
  ): void {
    let page = pageNumber(at);
    let offset = pageOffset(at);
    for (let from = 0; from < length;) {
      const bytes = Math.min(PAGE_SIZE - offset, length - from);
      visit(page, offset, from, bytes);
      from += bytes;
      page++;
      offset = 0;
    }
  }
}

let nextKey = 1;

/** A memfd, or a file of hugetlbfs where `pageBytes` is larger. */
export class SimulatedMemfd implements SharedFile {
  readonly key: string;
  readonly pageBytes: number;
  readonly memfd = true;
  readonly #pages = new Pages();
  #size: bigint;

  constructor(size: bigint, pageBytes: number = PAGE_SIZE) {
    this.key = `simulated:${nextKey++}`;
    this.#size = size;
    this.pageBytes = pageBytes;
  }

  size(): bigint {
    return this.#size;
  }

  truncate(size: bigint): void {
    if (size < this.#size) this.#pages.drop(pageNumber(size + PAGE_SIZE_N - 1n), pageNumber(this.#size));
    this.#size = size;
  }

  read(offset: bigint, into: Uint8Array): boolean {
    this.#pages.copyOut(offset, into);
    return true;
  }

  write(offset: bigint, from: Uint8Array): boolean {
    this.#pages.copyIn(offset, from);
    return true;
  }

  retain(): void {}
  release(): void {}
}

/** How {@link SimulatedMemory.map} maps. */
export interface MapOptions {
  readonly writable?: boolean;
  readonly shared?: { readonly file: SharedFile; readonly offset: bigint };
  readonly pageBytes?: number;
  readonly pinnable?: boolean;
}

/** An address space without a machine below it. */
export class SimulatedMemory implements AddressSpace {
  readonly id: number;
  alive = true;
  lockedPages = 0;
  pinnedPages = 0;
  readonly #private = new Pages();
  #vmas: Vma[] = [];

  constructor() {
    this.id = nextKey++;
  }

  /** Maps `length` bytes at `start`, over whatever was there: mmap(2) with MAP_FIXED. Whole pages. */
  map(start: bigint, length: bigint, options: MapOptions = {}): void {
    this.unmap(start, length);
    this.#vmas.push({
      start,
      last: start + length - 1n,
      readable: true,
      writable: options.writable ?? true,
      pinnable: options.pinnable ?? true,
      shared: options.shared ?? null,
      pageBytes: options.pageBytes ?? PAGE_SIZE,
    });
    this.#vmas.sort((a, b) => (a.start < b.start ? -1 : 1));
  }

  /** munmap(2). */
  unmap(start: bigint, length: bigint): void {
    const last = start + length - 1n;
    this.#vmas = this.#vmas.flatMap((vma) => {
      if (vma.last < start || vma.start > last) return [vma];
      const parts: Vma[] = [];
      if (vma.start < start) parts.push({ ...vma, last: start - 1n });
      if (vma.last > last) {
        const shared =
          vma.shared === null ? null : { ...vma.shared, offset: vma.shared.offset + last + 1n - vma.start };
        parts.push({ ...vma, start: last + 1n, shared });
      }
      return parts;
    });
    this.#private.drop(pageNumber(start), pageNumber(last));
  }

  get mayMapDevices(): boolean {
    return this.#vmas.some(({ pinnable }) => !pinnable);
  }

  mappings(start: bigint, last: bigint): readonly Vma[] {
    return this.#vmas.filter((vma) => vma.start <= last && vma.last >= start);
  }

  read(va: bigint, into: Uint8Array): boolean {
    return this.#access(va, into, false);
  }

  write(va: bigint, from: Uint8Array): boolean {
    return this.#access(va, from, true);
  }

  readPinned(va: bigint, into: Uint8Array): boolean {
    return this.#access(va, into, false, true);
  }

  writePinned(va: bigint, from: Uint8Array): boolean {
    return this.#access(va, from, true, true);
  }

  gather(places: Uint32Array, into: Uint8Array): boolean {
    let done = 0;
    for (let at = 0; at < places.length; at += 3) {
      const va = (big(places[at + 1]!) << 32n) | big(places[at]!);
      const part = into.subarray(done, done + places[at + 2]!);
      if (!this.#access(va, part, false, true)) return false;
      done += part.length;
    }
    return done === into.length;
  }

  /** `pinned`: whatever the protection. */
  #access(va: bigint, data: Uint8Array, write: boolean, pinned = false): boolean {
    if (data.length === 0) return true;
    const last = va + big(data.length) - 1n;
    let at = va;
    const parts: { vma: Vma; at: bigint; bytes: number }[] = [];
    for (const vma of this.mappings(va, last)) {
      if (vma.start > at || !(pinned || (write ? vma.writable : vma.readable))) return false;
      const end = vma.last < last ? vma.last : last;
      parts.push({ vma, at, bytes: exact(end - at + 1n) });
      at = end + 1n;
    }
    if (at <= last) return false;
    let done = 0;
    for (const part of parts) {
      copyPart(this.#private, part.vma, part.at, data.subarray(done, done + part.bytes), write);
      done += part.bytes;
    }
    return true;
  }
}

function copyPart(pages: Pages, vma: Vma, at: bigint, data: Uint8Array, write: boolean): void {
  if (vma.shared !== null) {
    const offset = vma.shared.offset + (at - vma.start);
    if (write) vma.shared.file.write(offset, data);
    else vma.shared.file.read(offset, data);
  } else if (write) {
    pages.copyIn(at, data);
  } else {
    pages.copyOut(at, data);
  }
}

/** An eventfd without a machine below it. */
export class SimulatedEventfd {
  readonly eventfd = true;
  /** What read(2) would answer; 0: it would wait. */
  count = 0;
  /** False once the program has closed its last descriptor. */
  open = true;
  readonly #holders = new Set<{ signalled: (() => void) | null }>();

  /** How many hold it beside the program. */
  get holders(): number {
    return this.#holders.size;
  }

  /** One more who holds it. */
  hold(): Eventfd {
    const holder: { signalled: (() => void) | null } = { signalled: null };
    this.#holders.add(holder);
    return {
      signal: () => void this.count++,
      watch: (signalled) => {
        holder.signalled = signalled;
        if (this.count > 0) this.add(0);
      },
      open: () => this.open,
      release: () => void this.#holders.delete(holder),
    };
  }

  /** write(2) by the program. */
  add(value: number): void {
    this.count += value;
    for (const { signalled } of this.#holders) {
      if (signalled === null) continue;
      this.count = 0;
      signalled();
    }
  }
}

/** What a simulated descriptor may refer to. */
type SimulatedFile = OpenFile | SharedFile | ForeignFile | SimulatedEventfd;

/** A process without a machine below it. Descriptors are the lowest free number, as Linux gives them. */
export class SimulatedProcess implements Process {
  readonly pid: number;
  uid = 0;
  readonly memory = new SimulatedMemory();
  readonly capabilities = new Set<number>();
  memlockLimitPages = Infinity;
  filesMax = 1024;
  readonly #files = new Map<number, { file: SimulatedFile; references: { count: number } }>();

  constructor(pid: number) {
    this.pid = pid;
  }

  capable(capability: number): boolean {
    return this.capabilities.has(capability);
  }

  memlockPages(): number {
    return this.memlockLimitPages;
  }

  file(fd: number): OpenFile | SharedFile | ForeignFile | null {
    const file = this.#files.get(fd)?.file ?? null;
    return file !== null && 'eventfd' in file ? FOREIGN_FILE : file;
  }

  eventfd(fd: number): Result<Eventfd> {
    const file = this.#files.get(fd)?.file;
    if (file === undefined) return fail(EBADF, `descriptor ${fd} is not open`);
    if (!('eventfd' in file)) return fail(EINVAL, `descriptor ${fd} is not an eventfd`);
    return file.hold();
  }

  install(file: OpenFile): Result<number> {
    return this.open(file);
  }

  /** Gives `file` a descriptor. EMFILE where none is free. */
  open(file: SimulatedFile = FOREIGN_FILE): Result<number> {
    return this.#place(file, { count: 0 });
  }

  /** dup(2): null where `fd` is not open. */
  dup(fd: number): Result<number> | null {
    const entry = this.#files.get(fd);
    return entry === undefined ? null : this.#place(entry.file, entry.references);
  }

  /** close(2): false where it is not open. The last copy releases the file. */
  close(fd: number): boolean {
    const entry = this.#files.get(fd);
    if (entry === undefined) return false;
    this.#files.delete(fd);
    if (--entry.references.count > 0) return true;
    if ('eventfd' in entry.file) entry.file.open = false;
    else if ('release' in entry.file) entry.file.release();
    return true;
  }

  /** Closes everything, as exit(2) does. */
  exit(): void {
    for (const fd of [...this.#files.keys()]) this.close(fd);
    this.memory.alive = false;
  }

  #place(file: SimulatedFile, references: { count: number }): Result<number> {
    let fd = 0;
    while (this.#files.has(fd)) fd++;
    if (fd >= this.filesMax) return fail(EMFILE, `all ${this.filesMax} descriptors are in use`);
    references.count++;
    this.#files.set(fd, { file, references });
    return fd;
  }
}

/** The only thread of a simulated process. */
export function simulatedTask(process: SimulatedProcess): Task & { readonly failNth: { remaining: number } } {
  return { tid: process.pid, process, failNth: { remaining: 0 } };
}
