import { closeSync, openSync, readFileSync } from 'node:fs';
import { exact, hi32, lo32 } from '@viommu/core/base/u64';
import type { AddressSpace, Vma } from '@viommu/core/memory/process';
import { ESRCH } from '../errno.ts';
import { SCRATCH_BYTES, type Mailbox, type Native } from '../native.ts';
import { findSmapsEntry, parseMaps, type MapsLine } from '../processes/proc-text.ts';
import { readFileAt, writeFileAt } from './file-bytes.ts';
import type { SharedFiles } from './shared-files.ts';

const O_RDWR = 2;
const O_RDONLY = 0;
/** From how many bytes on a read by the process's number is worth the check behind it. */
const BY_NUMBER_BYTES = 32 << 10;
const VMA_READABLE = 1n;
const VMA_WRITABLE = 2n;
const VMA_SHARED = 8n;

const decoder = new TextDecoder();

/** The task whose call is being answered, as far as its memory is concerned. */
export interface CurrentCall {
  /** 0 between calls. */
  tid: number;
  memory: HostAddressSpace | null;
  /** The address of the bytes that came with the notification, all in one page, and how many are good. */
  prefetchHi: number;
  prefetchLo: number;
  prefetched: number;
}

/** What address spaces have in common. */
export interface MemoryHost {
  readonly native: Native;
  readonly box: Mailbox;
  readonly current: CurrentCall;
  readonly shared: SharedFiles;
  /** Whether RLIMIT_MEMLOCK does not count. */
  readonly unlimitedPins: boolean;
  /** Whether a file of ours was ever mapped. */
  readonly placeholdersMapped: boolean;
  /** Whether the inode on the placeholders' device belongs to a file of ours. */
  isPlaceholder(major: number, minor: number, inode: bigint): boolean;
}

/** A mapping, and the bytes in one page of it. */
export interface SizedLine extends MapsLine {
  readonly pageBytes: number;
}

let nextId = 1;

/**
 * A process's memory. It is held by open files of /proc, which belong to the address space (mm_struct) and not to the
 * process id: after an execve() they reach nothing any more, as it should be.
 */
export class HostAddressSpace implements AddressSpace {
  readonly id = nextId++;
  /** A process that has the address space. */
  readonly pid: number;
  /** Processes that are known to have it: after vfork() more than one. */
  users = 0;
  /** A process that had it has gone or may have executed another program: the id may be that of other memory. */
  idMayBeStale = false;
  lockedPages = 0;
  pinnedPages = 0;
  readonly #host: MemoryHost;
  #memFile: number;
  #mapsFile: number;
  #queryRefused = false;
  #lastQueried: QueriedLine | null = null;

  /** Opens the memory of a process that is stopped in a system call. */
  constructor(host: MemoryHost, pid: number) {
    this.#host = host;
    this.pid = pid;
    this.#memFile = tryOpen(`/proc/${pid}/mem`, O_RDWR);
    this.#mapsFile = tryOpen(`/proc/${pid}/maps`, O_RDONLY);
  }

  get alive(): boolean {
    if (this.#memFile < 0) return false;
    return this.#host.current.memory === this || this.#host.native.memoryAlive(this.#memFile) !== 0;
  }

  /** The system's own device memory is refused by the calls that copy, as they pin it (mm/process_vm_access.c). */
  get mayMapDevices(): boolean {
    return this.#host.placeholdersMapped;
  }

  read(va: bigint, into: Uint8Array): boolean {
    const { native, box, current } = this.#host;
    if (current.memory !== this) return this.readPinned(va, into);
    if (current.prefetched > 0 && this.#readPrefetched(va, into)) return true;
    if (into.length > SCRATCH_BYTES) return native.read(current.tid, va, into) !== 0;
    box.wide[0] = va;
    if (native.readScratch(current.tid, into.length) === 0) return false;
    box.takeScratch(into);
    return true;
  }

  write(va: bigint, from: Uint8Array): boolean {
    const { native, box, current } = this.#host;
    if (current.memory !== this) return this.writePinned(va, from);
    current.prefetched = 0;
    if (from.length > SCRATCH_BYTES) return native.write(current.tid, va, from) !== 0;
    box.wide[0] = va;
    box.scratch.set(from);
    return native.writeScratch(current.tid, from.length) !== 0;
  }

  // The file is of the address space, so nothing can come in between, and it does not ask for the protection of a page
  // (FOLL_FORCE): so it is also right where the process does not wait for us.
  readPinned(va: bigint, into: Uint8Array): boolean {
    if (this.#memFile < 0) return false;
    if (into.length >= BY_NUMBER_BYTES && this.#readByNumber(va, into)) return true;
    return readFileAt(this.#host, this.#memFile, va, into);
  }

  writePinned(va: bigint, from: Uint8Array): boolean {
    if (this.#memFile < 0) return false;
    const { current } = this.#host;
    if (current.memory === this) current.prefetched = 0;
    return writeFileAt(this.#host, this.#memFile, va, from);
  }

  /** By the process's number alone, as the file has no call that takes several places. */
  gather(places: Uint32Array, into: Uint8Array): boolean {
    return !this.idMayBeStale && this.#host.native.gather(this.pid, places, into) !== 0 && this.alive;
  }

  mappings(start: bigint, last: bigint): readonly Vma[] {
    return this.lines(start, last).map((line) => this.#vma(line));
  }

  /** The lines of /proc/PID/maps that touch the inclusive range. */
  lines(start: bigint, last: bigint): readonly SizedLine[] {
    return (this.#queryRefused ? null : this.#queriedLines(start, last)) ?? this.#parsedLines(start, last);
  }

  /** One process less has it; without any and without life it is closed. */
  leave(): void {
    this.users--;
    this.idMayBeStale = true;
    if (this.users > 0 || this.alive) return;
    if (this.#memFile >= 0) closeSync(this.#memFile);
    if (this.#mapsFile >= 0) closeSync(this.#mapsFile);
    this.#memFile = -1;
    this.#mapsFile = -1;
  }

  #readPrefetched(va: bigint, into: Uint8Array): boolean {
    const { box, current } = this.#host;
    const at = lo32(va) - current.prefetchLo;
    if (at < 0 || hi32(va) !== current.prefetchHi) return false;
    if (at + into.length > current.prefetched) return false;
    // Few bytes: a view of them would cost more than to copy them one by one.
    for (let each = 0; each < into.length; each++) into[each] = box.prefetch[at + each]!;
    return true;
  }

  // process_vm_readv() copies once where the file copies twice, but goes by the process's number. What it read is of this
  // address space where that is still in use: so the process has not ended, nor has its number gone to another one.
  #readByNumber(va: bigint, into: Uint8Array): boolean {
    return !this.idMayBeStale && this.#host.native.read(this.pid, va, into) !== 0 && this.alive;
  }

  /** Null where Linux has no PROCMAP_QUERY (before 6.11). */
  #queriedLines(start: bigint, last: bigint): readonly SizedLine[] | null {
    const { native, box } = this.#host;
    const lines: SizedLine[] = [];
    let at = start;
    while (this.#mapsFile >= 0) {
      const found = native.mapping(this.#mapsFile, at);
      if (found < 0 && at === start) {
        this.#queryRefused = found !== -ESRCH;
        if (this.#queryRefused) return null;
      }
      if (found <= 0 || box.wide[0]! > last) break;
      const line = (this.#lastQueried = queriedLine(box, this.#lastQueried));
      lines.push(line);
      if (line.end > last) break;
      at = line.end;
    }
    return lines;
  }

  #parsedLines(start: bigint, last: bigint): readonly SizedLine[] {
    return parseMaps(this.#text('maps'))
      .filter((line) => line.end > start && line.start <= last)
      .map((line) => ({ ...line, pageBytes: this.#mayBeHuge(line) ? this.#smaps(line).pageBytes : 4096 }));
  }

  #text(name: string): string {
    try {
      return readFileSync(`/proc/${this.pid}/${name}`, 'utf8');
    } catch {
      return '';
    }
  }

  #smaps(line: MapsLine): { pageBytes: number; flags: readonly string[] } {
    return findSmapsEntry(this.#text('smaps'), line.start) ?? { pageBytes: 4096, flags: [] };
  }

  #mayBeHuge(line: MapsLine): boolean {
    return line.inode !== 0n && (line.name.startsWith('/anon_hugepage') || /huge/.test(line.name));
  }

  #vma(line: SizedLine): Vma {
    const pinnable = this.#pinnable(line);
    const shared = line.shared && pinnable && line.inode !== 0n;
    return {
      start: line.start,
      last: line.end - 1n,
      readable: line.readable,
      writable: line.writable,
      pinnable,
      shared: shared ? { file: this.#host.shared.ofMapping(this, line), offset: line.offset } : null,
      pageBytes: line.pageBytes,
    };
  }

  /** mm/gup.c check_vma_flags(): not VM_IO and VM_PFNMAP, which device files have, and what we map as one. */
  #pinnable(line: MapsLine): boolean {
    if (line.name.startsWith('[vvar')) return false;
    if (line.inode === 0n) return true;
    if (this.#host.isPlaceholder(line.major, line.minor, line.inode)) return false;
    const { name } = line;
    const maybeDevice =
      name.startsWith('anon_inode:') || (name.startsWith('/dev/') && !/^\/dev\/(?:zero|shm\/)/.test(name));
    if (!maybeDevice) return true;
    const { flags } = this.#smaps(line);
    return !flags.includes('io') && !flags.includes('pf');
  }
}

interface QueriedLine extends SizedLine {
  readonly flags: bigint;
}

/** What PROCMAP_QUERY answered. Often it is the line that it answered before. */
function queriedLine(box: Mailbox, before: QueriedLine | null): QueriedLine {
  const { wide, out } = box;
  if (
    before !== null &&
    before.start === wide[0] &&
    before.end === wide[1] &&
    before.flags === wide[2] &&
    before.offset === wide[4] &&
    before.inode === wide[5] &&
    before.major === out[0] &&
    before.minor === out[1]
  )
    return before;
  const flags = wide[2]!;
  return {
    start: wide[0]!,
    end: wide[1]!,
    flags,
    readable: (flags & VMA_READABLE) !== 0n,
    writable: (flags & VMA_WRITABLE) !== 0n,
    shared: (flags & VMA_SHARED) !== 0n,
    offset: wide[4]!,
    major: out[0]!,
    minor: out[1]!,
    inode: wide[5]!,
    name: decoder.decode(box.scratch.subarray(0, out[2]!)),
    pageBytes: exact(wide[3]!),
  };
}

function tryOpen(path: string, flags: number): number {
  try {
    return openSync(path, flags);
  } catch {
    return -1;
  }
}
