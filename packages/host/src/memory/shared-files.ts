import { closeSync, fstatSync, openSync, readdirSync, statSync } from 'node:fs';
import { EBADF, ENOSYS, EPERM } from '@viommu/core/abi/errno';
import { big } from '@viommu/core/base/u64';
import type { SharedFile } from '@viommu/core/memory/process';
import type { HostAddressSpace, SizedLine } from './address-space.ts';
import type { MapsLine } from '../processes/proc-text.ts';
import type { Mailbox, Native } from '../native.ts';
import { readFileAt, writeFileAt, type FileHost } from './file-bytes.ts';

const HUGETLBFS_MAGIC = 0x958458f6;
const TMPFS_MAGIC = 0x01021994;
/** The last address that a program can have. */
const USER_LAST = (1n << 56n) - 1n;
const PAGE_BYTES = 4096;
const O_RDWR = 2;
const O_RDONLY = 0;

/** Where a shared file shows in an address space. Bytes; `last` is inclusive. */
interface Place {
  readonly memory: HostAddressSpace;
  readonly start: bigint;
  readonly last: bigint;
  readonly offset: bigint;
}

/**
 * Files whose pages programs share, by device and inode. One that we have a descriptor of outlives every mapping of it
 * and every program. Of one that nobody has open (shared anonymous memory, looked at by an ordinary user) the bytes are
 * reached where a program maps it, for as long as one does.
 */
export class SharedFiles {
  readonly #native: Native;
  readonly #box: Mailbox;
  readonly #memories: () => Iterable<HostAddressSpace>;
  readonly #files = new Map<string, HostSharedFile>();
  /** Found during this call or the one before, and perhaps held by nobody. */
  #loose: HostSharedFile[] = [];
  #call = 0;
  #mapFilesRefused = false;
  /** The line that was asked for last, as it is often asked for again, and its key. */
  #keyed: MapsLine | null = null;
  #key = '';

  /** `memories`: the address spaces that are known, where a file may be mapped too. */
  constructor(native: Native, box: Mailbox, memories: () => Iterable<HostAddressSpace>) {
    this.#native = native;
    this.#box = box;
    this.#memories = memories;
  }

  /**
   * The file behind a descriptor of ours, or null where it is not memory. Takes over `fd`, and closes it where the
   * answer does not need it.
   */
  adopt(fd: number): SharedFile | null {
    const stat = fstatSync(fd, { bigint: true });
    const key = `${stat.dev}:${stat.ino}`;
    const known = this.#files.get(key);
    if (known?.open) {
      this.#native.closeFd(fd);
      known.foundIn = this.#call;
      return known;
    }
    const magic = stat.isFile() ? this.#native.fileSystem(fd) : 0;
    if (magic !== HUGETLBFS_MAGIC && magic !== TMPFS_MAGIC) {
      this.#native.closeFd(fd);
      return null;
    }
    const hugeBytes = magic === HUGETLBFS_MAGIC ? this.#box.out[0]! : 0;
    const file = known ?? this.#add(key, hugeBytes || PAGE_BYTES);
    file.bind(fd, hugeBytes);
    return file;
  }

  /** The file behind a shared mapping. */
  ofMapping(memory: HostAddressSpace, line: SizedLine): SharedFile {
    const key = this.#keyOf(line);
    let file = this.#files.get(key);
    if (!file?.open) {
      const fd = this.#reach(memory, line, key);
      if (fd >= 0) return this.adopt(fd) ?? this.#add(key, line.pageBytes);
      file ??= this.#add(key, line.pageBytes);
    }
    file.foundIn = this.#call;
    file.seen({ memory, start: line.start, last: line.end - 1n, offset: line.offset });
    return file;
  }

  /**
   * The end of a call: what is held by nobody is let go, unless this call wanted it: then the next one may, too. Huge
   * pages are few, so they go at once.
   */
  settle(): void {
    const call = this.#call++;
    if (this.#loose.length === 0) return;
    this.#letGo((file) => file.foundIn < call || file.pageBytes > PAGE_BYTES);
  }

  /** Whatever is held by nobody is let go. */
  settleAll(): void {
    this.#letGo(() => true);
  }

  #letGo(unwanted: (file: HostSharedFile) => boolean): void {
    const kept: HostSharedFile[] = [];
    for (const file of this.#loose) {
      if (file.holders > 0) continue;
      if (unwanted(file)) this.#drop(file);
      else kept.push(file);
    }
    this.#loose = kept;
  }

  #keyOf(line: MapsLine): string {
    if (line !== this.#keyed) {
      this.#keyed = line;
      this.#key = `${deviceNumber(line.major, line.minor)}:${line.inode}`;
    }
    return this.#key;
  }

  #add(key: string, pageBytes: number): HostSharedFile {
    const host = { native: this.#native, box: this.#box };
    const file = new HostSharedFile(host, key, pageBytes, {
      unheld: (unheld) => this.#drop(unheld),
      search: () => this.#search(key),
    });
    file.foundIn = this.#call;
    this.#files.set(key, file);
    this.#loose.push(file);
    return file;
  }

  // Where else a file is mapped. Slow, and seldom: the program that showed us the file has unmapped it or is gone.
  *#search(key: string): Generator<Place> {
    for (const memory of this.#memories()) {
      if (!memory.alive) continue;
      for (const line of memory.lines(0n, USER_LAST)) {
        if (line.shared && this.#keyOf(line) === key)
          yield { memory, start: line.start, last: line.end - 1n, offset: line.offset };
      }
    }
  }

  #drop(file: HostSharedFile): void {
    file.close();
    if (this.#files.get(file.key) === file) this.#files.delete(file.key);
  }

  /** A descriptor of the file behind a mapping, or -1. */
  #reach(memory: HostAddressSpace, line: MapsLine, key: string): number {
    const { pid } = memory;
    if (!this.#mapFilesRefused) {
      // fs/proc/base.c proc_map_files_get_link(): CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
      const path = `/proc/${pid}/map_files/${line.start.toString(16)}-${line.end.toString(16)}`;
      const fd = tryOpen(path, O_RDWR);
      if (fd >= 0) return fd;
      if (fd === -1) this.#mapFilesRefused = true;
    }
    return line.name.startsWith('/dev/zero') ? -1 : this.#reachByDescriptor(pid, key);
  }

  #reachByDescriptor(pid: number, key: string): number {
    const pidfd = this.#native.pidfdOpen(pid);
    if (pidfd < 0) return -1;
    try {
      for (const name of readdirSync(`/proc/${pid}/fd`)) {
        const stat = statSync(`/proc/${pid}/fd/${name}`, { bigint: true, throwIfNoEntry: false });
        if (stat === undefined || `${stat.dev}:${stat.ino}` !== key) continue;
        return this.copy(pid, pidfd, Number.parseInt(name, 10));
      }
    } catch {
      // The process is gone, or it is not ours to look at.
    } finally {
      this.#native.closeFd(pidfd);
    }
    return -1;
  }

  /** Our own descriptor for the file behind one of a process, or -errno. */
  copy(pid: number, pidfd: number, fd: number): number {
    const copy = this.#native.pidfdGetfd(pidfd, fd);
    if (copy !== -EPERM && copy !== -ENOSYS) return copy;
    // Docker's filter keeps pidfd_getfd() for CAP_SYS_PTRACE. What can be shared are regular files, and these can be
    // opened once more; opening anything else might do something.
    const path = `/proc/${pid}/fd/${fd}`;
    const stat = statSync(path, { throwIfNoEntry: false });
    if (stat === undefined) return -EBADF;
    const opened = stat.isFile() ? tryOpen(path, O_RDWR) : -1;
    return opened < 0 ? copy : opened;
  }
}

/** glibc's and the kernel's encoding of st_dev (include/linux/kdev_t.h new_encode_dev()). */
function deviceNumber(major: number, minor: number): bigint {
  return big((minor & 0xff) | (major << 8)) | (big(minor & ~0xff) << 12n);
}

/** A descriptor; -1 where opening is not permitted at all, -2 for another reason. */
function tryOpen(path: string, flags: number): number {
  try {
    return openSync(path, flags);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (flags === O_RDWR && (code === 'EACCES' || code === 'EROFS')) return tryOpen(path, O_RDONLY);
    return code === 'EPERM' ? -1 : -2;
  }
}

/** What a file asks of the table that it is in. */
interface FileTable {
  unheld(file: HostSharedFile): void;
  search(): Iterable<Place>;
}

class HostSharedFile implements SharedFile {
  readonly #host: FileHost;
  readonly key: string;
  readonly pageBytes: number;
  readonly #table: FileTable;
  /** mm/gup.c memfd_pin_folios() takes every file of tmpfs and hugetlbfs, with a name or without. */
  readonly memfd = true;
  holders = 0;
  /** The number of the call that last looked for it. */
  foundIn = 0;
  #fd = -1;
  #hugeBytes = 0;
  #places: Place[] = [];

  constructor(host: FileHost, key: string, pageBytes: number, table: FileTable) {
    this.#host = host;
    this.key = key;
    this.pageBytes = pageBytes;
    this.#table = table;
  }

  /** Whether we have a descriptor of it. */
  get open(): boolean {
    return this.#fd >= 0;
  }

  bind(fd: number, hugeBytes: number): void {
    this.#fd = fd;
    this.#hugeBytes = hugeBytes;
    this.#places = [];
  }

  seen(place: Place): void {
    if (this.open) return;
    this.#places = this.#places.filter((each) => each.memory.alive && !same(each, place));
    this.#places.push(place);
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
    this.#places = [];
  }

  size(): bigint {
    if (this.open) return big(Math.max(0, this.#host.native.sizeOf(this.#fd)));
    // What a program maps is there; what lies beyond is known only when it is mapped.
    let size = 0n;
    for (const { start, last, offset } of this.#places) {
      const end = offset + (last - start) + 1n;
      if (end > size) size = end;
    }
    return size;
  }

  read(offset: bigint, into: Uint8Array): boolean {
    if (this.open) return readFileAt(this.#host, this.#fd, offset, into);
    return this.#inPlace(offset, into.length, (memory, va) => memory.read(va, into));
  }

  write(offset: bigint, from: Uint8Array): boolean {
    if (this.open) return writeFileAt(this.#host, this.#fd, offset, from, this.#hugeBytes);
    return this.#inPlace(offset, from.length, (memory, va) => memory.write(va, from));
  }

  #inPlace(
    offset: bigint,
    length: number,
    access: (memory: HostAddressSpace, va: bigint) => boolean,
  ): boolean {
    const last = offset + big(length) - 1n;
    const reached = (place: Place): boolean => {
      const placeLast = place.offset + (place.last - place.start);
      if (offset < place.offset || last > placeLast || !place.memory.alive) return false;
      return access(place.memory, place.start + (offset - place.offset));
    };
    if (this.#places.some(reached)) return true;
    for (const place of this.#table.search()) {
      if (!reached(place)) continue;
      this.seen(place);
      return true;
    }
    return false;
  }

  retain(): void {
    this.holders++;
  }

  release(): void {
    this.holders--;
    if (this.holders === 0) this.#table.unheld(this);
  }
}

function same(one: Place, other: Place): boolean {
  return one.memory === other.memory && one.start === other.start && one.offset === other.offset;
}
