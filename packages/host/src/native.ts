import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

// What native/viommu.h says, in TypeScript. Numbers and offsets are mirrored from there.

/** What a stopped system call asks for (enum op). */
export const OP = {
  IOCTL: 1,
  OPEN: 2,
  ACCESS: 3,
  STAT: 4,
  STATX: 5,
  FSTAT: 6,
  FSTATX: 7,
  READLINK: 8,
  MMAP: 9,
  READ: 10,
  WRITE: 11,
  READV: 12,
  WRITEV: 13,
  PREAD: 14,
  PWRITE: 15,
  PREADV: 16,
  PWRITEV: 17,
  XATTR: 18,
  LSEEK: 19,
  EXEC: 20,
  CREDENTIALS: 21,
  DUP: 22,
} as const;

/** Whose file a descriptor refers to (enum whose). */
export const WHOSE = { FOREIGN: 0, PLACEHOLDER: 1, PIPE: 2 } as const;

/** What happened besides a notification (enum event). */
export const EVENT = {
  LAST_CLOSE: 1,
  HANG_UP: 2,
  EXIT: 3,
  SIGNAL: 4,
  GONE: 5,
  OVERFLOW: 6,
  EVENTFD: 8,
} as const;

/** How far the start of a program came (enum spawn_stage). */
export const SPAWN = { FORK: 1, NO_NEW_PRIVS: 2, SECCOMP: 3, LISTENER: 4, EXEC: 5 } as const;

/** What became of a child (enum wait_kind). */
export const WAIT = { NONE: 0, EXITED: 1, SIGNALED: 2, STOPPED: 3, CONTINUED: 4 } as const;

/** What the system takes as text: any bytes but 0, which are seldom something else than UTF-8. */
export type SystemText = string | Uint8Array;

/** The addon's functions. A number that says it may be `-errno` is one where it is negative. */
export interface Native {
  /** The mailbox, or -errno. One supervisor per thread. */
  create(patterns: readonly string[]): ArrayBuffer | number;
  close(): void;
  /** The process id; or -1 with out[0] the stage that failed and out[1] the errno. */
  spawn(
    candidates: readonly SystemText[],
    argv: readonly SystemText[],
    env: readonly SystemText[],
    inherit: readonly number[],
    nofileSoft: number,
    windowLow: number,
    windowHigh: number,
    stopReads: boolean,
    stopIoUring: boolean,
  ): number;
  /** Sends the mailbox's response, then waits: 1 with something in the mailbox, 0 after the timeout, -errno. */
  next(timeoutMs: number): number;
  /** Sends the mailbox's response now. 0, or -errno. */
  send(): number;
  idValid(): boolean;
  /** A {@link WAIT} kind, with the status or signal in out[0] and the process in out[1]. */
  wait(pid: number, block?: boolean): number;
  signals(numbers: readonly number[]): void;
  stopBy(signal: number): void;
  dieBy(signal: number): never;
  exit(status: number): never;

  /** 0 where files without names can be made in the directory and tell when they are closed; else -errno. */
  useDirectory(path: string): number;
  /** A descriptor or -errno; out[0] inode, out[1] watch. */
  placeholder(flags: number): number;
  /** The file behind a descriptor of a task, opened by us once more; or -errno. */
  openOf(tid: number, fd: number, flags: number): number;
  directory(path: string): number;
  reopen(fd: number, flags: number): number;
  /** The program's end or -errno; out[0] inode, out[1] our end. */
  pipe(flags: number): number;
  putByte(ourEnd: number): number;
  takeByte(ourEnd: number): number;
  watch(fd: number, event: number, token: number): number;
  unwatch(fd: number): number;
  /** Adds one to an eventfd's count, unless that would wait. */
  signalEventfd(fd: number): number;
  /** 1 where an eventfd had a count, which is 0 then; else 0. */
  takeEventfd(fd: number): number;
  closeFd(fd: number): number;
  /** The number in the waiting task, or -errno. `at`: -1 for the lowest free. `answer`: it is also the call's result. */
  addFd(fd: number, at: number, closeOnExec: boolean, answer: boolean): number;
  /** A {@link WHOSE}, with out[0] the inode. */
  identify(tid: number, fd: number): number;
  identifyPath(path: string): number;
  /** The lowest number from low to high - 1 under which the task has nothing open, or -1. */
  lowestFree(tid: number, low: number, high: number): number;
  /** A descriptor of a file that holds the bytes, or -errno. */
  textFile(bytes: Uint8Array): number;
  pidfdOpen(pid: number): number;
  pidfdGetfd(pidfd: number, fd: number): number;
  pidfdSignal(pidfd: number, signal: number): number;
  /** The magic number of the file system or -errno; out[0] its block size. */
  fileSystem(fd: number): number;
  /** 1 where two tasks share an address space, 0 where not, -errno where it cannot be known. */
  sameMemory(one: number, other: number): number;
  /** A file's length in bytes, -errno. */
  sizeOf(fd: number): number;
  /** Makes a file that long where it is shorter. */
  growTo(fd: number, bytes: bigint): number;
  /** Makes a file that long; what is mapped beyond is SIGBUS then. */
  shrinkTo(fd: number, bytes: bigint): number;

  read(pid: number, va: bigint, into: Uint8Array): number;
  write(pid: number, va: bigint, from: Uint8Array): number;
  /** Reads places, each bits 31:0 and 63:32 of its address and its bytes, one behind the other into `into`. */
  gather(pid: number, places: Uint32Array, into: Uint8Array): number;
  /** To or from the scratch bytes, the address in wide[0]. */
  readScratch(pid: number, length: number): number;
  writeScratch(pid: number, length: number): number;
  readAt(fd: number, offset: bigint, into: Uint8Array): number;
  writeAt(fd: number, offset: bigint, from: Uint8Array, hugePageBytes: number): number;
  /** To or from the scratch bytes, the offset in wide[0]. */
  readScratchAt(fd: number, length: number): number;
  writeScratchAt(fd: number, length: number, hugePageBytes: number): number;
  memoryAlive(memFile: number): number;
  /** 1 with wide[] and out[] filled, 0 where there is no further mapping, -errno. */
  mapping(mapsFile: number, address: bigint): number;
  putStat(pid: number): number;
  putStatx(pid: number): number;
  /** The soft limit, -1 for none, -2 where it cannot be known; out[0] the hard one. */
  limit(pid: number, resource: number): number;
}

const OFFSET = {
  A: 64,
  OUT: 128,
  WIDE: 256,
  EVENTS: 512,
  PATH: 8704,
  SCRATCH: 12800,
  PREFETCH: 16896,
} as const;
/** Places of 32-bit words, and of doubles where the name says so. */
const INDEX = {
  RESPONSE_ID: 0,
  RESPONSE_VALUE: 2,
  RESPONSE_ERROR: 4,
  RESPOND: 5,
  NOTIFIED: 6,
  OP: 7,
  ID: 8,
  TID: 10,
  GENERATION: 11,
  FD: 12,
  WHOSE: 13,
  INODE_DOUBLE: 7,
  PREFETCH_VA: 24,
  PREFETCHED: 26,
  PATH_LENGTH: 27,
  EVENT_COUNT: 28,
  RECEIVED: 29,
} as const;
const PREFETCH_BYTES = 512;
export const SCRATCH_BYTES = 4096;
const FEW_BYTES = 128;
const RESPOND_VALUE = 1;
const RESPOND_CONTINUE = 2;
const EVENT_WORDS = 4;
const WORD = 2 ** 32;

const decoder = new TextDecoder();

/** The memory that the addon and we share: one notification at a time. */
export class Mailbox {
  readonly #u32: Uint32Array;
  readonly #i32: Int32Array;
  readonly #u64: BigUint64Array;
  readonly #f64: Float64Array;
  /** Client memory around the ioctl's argument: {@link prefetched} bytes. */
  readonly prefetch: Uint8Array;
  readonly out: Float64Array;
  readonly wide: BigUint64Array;
  readonly scratch: Uint8Array;
  readonly #path: Uint8Array;

  constructor(buffer: ArrayBuffer) {
    this.#u32 = new Uint32Array(buffer);
    this.#i32 = new Int32Array(buffer);
    this.#u64 = new BigUint64Array(buffer);
    this.#f64 = new Float64Array(buffer);
    this.prefetch = new Uint8Array(buffer, OFFSET.PREFETCH, PREFETCH_BYTES);
    this.out = new Float64Array(buffer, OFFSET.OUT, 16);
    this.wide = new BigUint64Array(buffer, OFFSET.WIDE, 16);
    this.#path = new Uint8Array(buffer, OFFSET.PATH, 4096);
    this.scratch = new Uint8Array(buffer, OFFSET.SCRATCH, SCRATCH_BYTES);
  }

  get notified(): boolean {
    return this.#u32[INDEX.NOTIFIED] !== 0;
  }
  get op(): number {
    return this.#u32[INDEX.OP]!;
  }
  get tid(): number {
    return this.#u32[INDEX.TID]!;
  }
  /** Changes whenever the addon looked afresh at whose number `tid` is. */
  get generation(): number {
    return this.#u32[INDEX.GENERATION]!;
  }
  get fd(): number {
    return this.#i32[INDEX.FD]!;
  }
  get whose(): number {
    return this.#u32[INDEX.WHOSE]!;
  }
  get inode(): number {
    return this.#f64[INDEX.INODE_DOUBLE]!;
  }
  /** Bits 63:32 of the address of {@link prefetch}. */
  get prefetchHi(): number {
    return this.#u32[INDEX.PREFETCH_VA + 1]!;
  }
  /** Bits 31:0. */
  get prefetchLo(): number {
    return this.#u32[INDEX.PREFETCH_VA]!;
  }
  get prefetched(): number {
    return this.#u32[INDEX.PREFETCHED]!;
  }
  /** An argument that is a C int or unsigned int. */
  low(argument: number): number {
    return this.#u32[OFFSET.A / 4 + 2 * argument]!;
  }
  /** An argument that is a pointer, a size or an offset. */
  arg(argument: number): bigint {
    return this.#u64[OFFSET.A / 8 + argument]!;
  }
  get path(): string {
    return decoder.decode(this.#path.subarray(0, this.#u32[INDEX.PATH_LENGTH]));
  }

  /** Takes the first scratch bytes, as many as `into` has. */
  takeScratch(into: Uint8Array): void {
    if (into.length > FEW_BYTES) {
      into.set(this.scratch.subarray(0, into.length));
      return;
    }
    // Few bytes: a view of them would cost more than to copy them one by one.
    for (let at = 0; at < into.length; at++) into[at] = this.scratch[at]!;
  }

  /** Notifications so far, those that the addon settled included. */
  get received(): number {
    return this.#u32[INDEX.RECEIVED]!;
  }

  get eventCount(): number {
    return this.#u32[INDEX.EVENT_COUNT]!;
  }
  eventKind(event: number): number {
    return this.#i32[OFFSET.EVENTS / 4 + event * EVENT_WORDS]!;
  }
  eventField(event: number, field: 0 | 1 | 2): number {
    return this.#i32[OFFSET.EVENTS / 4 + event * EVENT_WORDS + 1 + field]!;
  }

  /** The call returns `value` (zero or more), or fails with -`value`. */
  answer(value: number): void {
    const succeeds = value >= 0;
    this.#respond(RESPOND_VALUE);
    this.#i32[INDEX.RESPONSE_ERROR] = succeeds ? 0 : value;
    this.#u32[INDEX.RESPONSE_VALUE] = succeeds ? value >>> 0 : 0;
    this.#u32[INDEX.RESPONSE_VALUE + 1] = succeeds ? Math.floor(value / WORD) : 0;
  }

  /** The kernel goes on with the call as if it had not been stopped. */
  pass(): void {
    this.#respond(RESPOND_CONTINUE);
  }

  // The identity goes over in two halves: as a bigint it would be an object for each call.
  #respond(how: number): void {
    const words = this.#u32;
    words[INDEX.RESPONSE_ID] = words[INDEX.ID]!;
    words[INDEX.RESPONSE_ID + 1] = words[INDEX.ID + 1]!;
    words[INDEX.RESPOND] = how;
  }
}

/** The addon cannot be loaded: not built, or built for something else. */
export class AddonMissing extends Error {
  override name = 'AddonMissing';
}

let loaded: Native | undefined;

/** Loads the addon. Beside a bundle it is `viommu.node`, in the workspace `packages/host/native/build/viommu.node`. */
export function native(): Native {
  if (loaded) return loaded;
  const places = ['./viommu.node', '../native/build/viommu.node', '../../host/native/build/viommu.node'];
  for (const place of places) {
    const path = fileURLToPath(new URL(place, import.meta.url));
    if (!existsSync(path)) continue;
    try {
      loaded = createRequire(import.meta.url)(path) as Native;
      return loaded;
    } catch (error) {
      throw new AddonMissing(`cannot load ${path}: ${(error as Error).message}`);
    }
  }
  throw new AddonMissing(
    'the native addon is not built: run `npm run build:native` (it needs a C compiler; CC names another than cc)',
  );
}
