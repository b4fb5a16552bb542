import type { Result } from '../base/result.ts';
import type { OpenFile } from './file.ts';

/** A file whose pages a program shares: memfd, hugetlbfs, tmpfs, anonymous shared memory. */
export interface SharedFile {
  /** Distinguishes the file from every other one that lives at the same time (device and inode). */
  readonly key: string;
  /** Bytes in one page of the file: 4096, or the huge page size of hugetlbfs. */
  readonly pageBytes: number;
  /** True for a memfd, which IOMMU_IOAS_MAP_FILE asks for (mm/gup.c memfd_pin_folios()). */
  readonly memfd: boolean;
  /** The file's length in bytes now. */
  size(): bigint;
  read(offset: bigint, into: Uint8Array): boolean;
  write(offset: bigint, from: Uint8Array): boolean;
  /** One more holder; the file stays readable until every holder has released it. */
  retain(): void;
  release(): void;
}

/** An eventfd of a program: struct eventfd_ctx. Whoever asked for it releases it once. */
export interface Eventfd {
  /** Adds one to its counter: eventfd_signal(). */
  signal(): void;
  /**
   * Calls `signalled` for what the program adds to the counter, at once where it is not 0; the counter is 0 again then
   * (drivers/vfio/virqfd.c). Until release.
   */
  watch(signalled: () => void): void;
  /** Whether a program still has a descriptor of it: what watches hear of the last close(2) as EPOLLHUP. */
  open(): boolean;
  release(): void;
}

/** One mapping of an address space, as /proc/PID/maps tells it. */
export interface Vma {
  readonly start: bigint;
  /** Inclusive. */
  readonly last: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
  /** False for device memory and other mappings that pin_user_pages() refuses (VM_IO, VM_PFNMAP). */
  readonly pinnable: boolean;
  /** The file behind a shared mapping and the offset of `start` in it; null for private memory. */
  readonly shared: { readonly file: SharedFile; readonly offset: bigint } | null;
  /** Bytes in one page: 4096, or the huge page size of hugetlb memory. */
  readonly pageBytes: number;
}

/** An address space: Linux's mm_struct. */
export interface AddressSpace {
  /** Distinguishes this address space from every other one of the machine's life. */
  readonly id: number;
  /** Copies from the program. False where a byte cannot be read (EFAULT); then `into` is unspecified. */
  read(va: bigint, into: Uint8Array): boolean;
  /** Copies to the program. False where a byte cannot be written (EFAULT). */
  write(va: bigint, from: Uint8Array): boolean;
  /** The same of pages that are pinned: DMA does not ask for the protection that a page has now. */
  readPinned(va: bigint, into: Uint8Array): boolean;
  writePinned(va: bigint, from: Uint8Array): boolean;
  /**
   * Fills `into` from several places of pinned pages at once: of each, `places` has bits 31:0 and 63:32 of the address and the bytes. False
   * where it cannot or would rather not; then each may still be read, and `into` is unspecified.
   */
  gather(places: Uint32Array, into: Uint8Array): boolean;
  /** The mappings that touch the inclusive range, ascending; holes are what lies between them. */
  mappings(start: bigint, last: bigint): readonly Vma[];
  /** False once the program has exited or executed another one (mmget_not_zero()). */
  readonly alive: boolean;
  /**
   * Whether it may map memory of a device, which a copy reaches and pin_user_pages() refuses. Where it does not, a page
   * that can be copied to and from is one that can be pinned.
   */
  readonly mayMapDevices: boolean;
  /** Pages that iommufd charged to locked_vm of this address space (VmLck). Kept by core. */
  lockedPages: number;
  /** Pages that iommufd pinned on behalf of this address space (VmPin). Kept by core. */
  pinnedPages: number;
}

export const CAP_IPC_LOCK = 14;
export const CAP_SYS_RAWIO = 17;
export const CAP_SYS_RESOURCE = 24;

/** A process (a thread group), as far as the kernel side looks at it. */
export interface Process {
  readonly pid: number;
  readonly uid: number;
  readonly memory: AddressSpace;
  /** Whether it holds the capability (linux/capability.h) in the initial user namespace. */
  capable(capability: number): boolean;
  /** The soft RLIMIT_MEMLOCK in 4 KiB pages, Infinity where unlimited. */
  memlockPages(): number;
  /** What descriptor `fd` refers to, or null where it is closed (EBADF) */
  file(fd: number): OpenFile | SharedFile | ForeignFile | null;
  /** The eventfd behind a descriptor: EBADF where it is closed, EINVAL where it is something else. */
  eventfd(fd: number): Result<Eventfd>;
  /** Installs a descriptor for `file` under the lowest free number. EMFILE where none is free. */
  install(file: OpenFile, options: { readonly closeOnExec: boolean }): Result<number>;
}

/** A descriptor that is neither ours nor memory. */
export const FOREIGN_FILE = { foreign: true } as const;
export type ForeignFile = typeof FOREIGN_FILE;

/** The thread that makes the call: Linux's `current`. */
export interface Task {
  readonly tid: number;
  readonly process: Process;
  /** Linux's /proc/self/task/TID/fail-nth: how many more chances to fail pass by before one is taken; 0 is off. */
  readonly failNth?: { remaining: number };
}
