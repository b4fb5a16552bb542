import { EFAULT, EINVAL, ENOENT, ENOMEM, ENOTTY, ESPIPE } from '@viommu/core/abi/errno';
import { fail, failed, type Result } from '@viommu/core/base/result';
import { big, exact } from '@viommu/core/base/u64';
import type { FileBacking, OpenFile } from '@viommu/core/memory/file';
import type { PciFunctionView } from '@viommu/core/machine/devices/view';
import { CAP_IPC_LOCK, type Process, type SharedFile, type Task } from '@viommu/core/memory/process';
import type { KernelSide } from '../kernel-side.ts';

// A kernel side that answers the two simplest requests of iommufd, and requests of its own by which the test programs
// (client/) ask the host about themselves.

const STRUCT_BYTES = 64;
const EVENT_BYTES = 4;

/** Requests by number; each has a struct of 64 bytes whose u64 words are named here. */
const NR = {
  /** IOMMU_DESTROY and IOMMU_IOAS_ALLOC. */
  DESTROY: 0x80,
  IOAS_ALLOC: 0x81,
  /** out[1]: a descriptor of a new event queue: a fault queue, or a vEVENTQ where [1] is not 0. */
  EVENT_QUEUE: 0xd0,
  /** [1] events more in the newest queue, [2] fewer. */
  EVENTS: 0xd1,
  /** out[1]: a descriptor of a file as accesses are. */
  ACCESS: 0xd2,
  /** Of the mapping at [1]: out[2] shared, out[3] pinnable, out[4] page bytes, out[5] a memfd, out[6] writable. */
  MAPPING: 0xd3,
  /** Keeps the memory at [1]. */
  KEEP: 0xd4,
  /** out[1]: a byte of the memory that was kept last, by its address space or its shared file; EFAULT where it is gone. */
  RECALL: 0xd5,
  /** Of the descriptor [1]: out[2] 0 closed, 1 ours, 2 shared memory, 3 a memfd, 4 anything else. */
  FILE: 0xd6,
  /** out[1] uid, out[2] CAP_IPC_LOCK, out[3] pages of RLIMIT_MEMLOCK, out[4] the address space's number, out[5] pid. */
  WHO: 0xd7,
  /** Charges the caller: [1] locked and [2] pinned pages. */
  CHARGE: 0xd8,
  /** A chance to fail: ENOMEM where it is taken. */
  FAILPOINT: 0xd9,
  /** Copies [2] bytes from [1] to [3]. */
  COPY: 0xda,
  /** out[1]: how many files are open, out[2]: how many have been released. */
  COUNT: 0xdb,
  /** out[1]: whether the page at offset [1] is mapped; out[2] its first byte. */
  BACKING: 0xdc,
  /** Writes [2] to the first byte that was kept last. */
  STORE: 0xdd,
} as const;

interface Kept {
  readonly process: Process;
  readonly va: bigint;
  readonly file: SharedFile | null;
  readonly offset: bigint;
}

/** What the files of one stand-in kernel share. */
class State {
  nextId = 1;
  open = 0;
  released = 0;
  queue: StubQueue | null = null;
  kept: Kept | null = null;
}

abstract class StubFile implements OpenFile {
  abstract readonly type: OpenFile['type'];
  protected readonly state: State;

  constructor(state: State) {
    this.state = state;
    state.open++;
  }

  ioctl(_task: Task, _cmd: number, _arg: bigint): number {
    return -ENOTTY;
  }

  release(): void {
    this.state.open--;
    this.state.released++;
  }
}

class StubAccess extends StubFile {
  readonly type = 'access';
}

class StubQueue extends StubFile {
  readonly type: 'fault-queue' | 'veventq';
  onReadableChange: (() => void) | undefined;
  #events = 0;

  constructor(state: State, type: StubQueue['type']) {
    super(state);
    this.type = type;
  }

  get readable(): boolean {
    return this.#events > 0;
  }

  add(events: number): void {
    this.#events = Math.max(0, this.#events + events);
    this.onReadableChange?.();
  }

  read(task: Task, va: bigint, count: number): number {
    if (count % EVENT_BYTES !== 0) return -ESPIPE;
    const events = Math.min(count / EVENT_BYTES, this.#events);
    if (events > 0 && !task.process.memory.write(va, new Uint8Array(events * EVENT_BYTES).fill(0xee)))
      return -EFAULT;
    this.add(-events);
    return events * EVENT_BYTES;
  }

  write(_task: Task, _va: bigint, count: number): number {
    return count % EVENT_BYTES === 0 ? count : -ESPIPE;
  }
}

class StubIommufd extends StubFile {
  readonly type = 'iommufd';
  backing: FileBacking | undefined;

  override ioctl(task: Task, cmd: number, arg: bigint): number {
    const { memory } = task.process;
    const nr = cmd & 0xff;
    const bytes = new Uint8Array(nr === NR.IOAS_ALLOC || nr === NR.DESTROY ? 8 : STRUCT_BYTES);
    if (!memory.read(arg, bytes)) return -EFAULT;
    if (nr === NR.DESTROY) return 0;
    if (nr === NR.IOAS_ALLOC) {
      const id = new Uint8Array(new Uint32Array([this.state.nextId++]).buffer);
      return memory.write(arg + 8n, id) ? 0 : -EFAULT;
    }
    const words = new BigUint64Array(bytes.buffer);
    const result = this.#request(task, nr, words);
    if (failed(result)) return -result.errno;
    return memory.write(arg, bytes) ? 0 : -EFAULT;
  }

  mmap(_task: Task, offset: bigint, _length: bigint, _prot: number): number {
    return this.backing?.write(offset, new Uint8Array([0x5a])) === true ? 0 : -EINVAL;
  }

  #request(task: Task, nr: number, words: BigUint64Array): Result<void> {
    const { process } = task;
    switch (nr) {
      case NR.EVENT_QUEUE: {
        this.state.queue = new StubQueue(this.state, words[1] === 0n ? 'fault-queue' : 'veventq');
        return this.#install(task, this.state.queue, words);
      }
      case NR.EVENTS:
        this.state.queue?.add(exact(words[1]!) - exact(words[2]!));
        return;
      case NR.ACCESS:
        return this.#install(task, new StubAccess(this.state), words);
      case NR.WHO:
        words[1] = big(process.uid);
        words[2] = process.capable(CAP_IPC_LOCK) ? 1n : 0n;
        words[3] = process.memlockPages() === Infinity ? ~0n : big(process.memlockPages());
        words[4] = big(process.memory.id);
        words[5] = big(process.pid);
        return;
      case NR.CHARGE:
        process.memory.lockedPages += exact(words[1]!);
        process.memory.pinnedPages += exact(words[2]!);
        return;
      case NR.FAILPOINT:
        return failpoint(task) ? fail(ENOMEM, 'the chance was taken') : undefined;
      case NR.COUNT:
        words[1] = big(this.state.open);
        words[2] = big(this.state.released);
        return;
      default:
        return this.#memoryRequest(task, nr, words);
    }
  }

  #memoryRequest({ process }: Task, nr: number, words: BigUint64Array): Result<void> {
    switch (nr) {
      case NR.MAPPING:
        return describeMapping(process, words);
      case NR.KEEP:
        return this.#keep(process, words[1]!);
      case NR.RECALL:
      case NR.STORE:
        return this.#recall(nr, words);
      case NR.FILE:
        words[2] = big(kindOf(process, exact(words[1]!)));
        return;
      case NR.COPY: {
        const bytes = new Uint8Array(exact(words[2]!));
        const { memory } = process;
        const copied = memory.read(words[1]!, bytes) && memory.write(words[3]!, bytes);
        return copied ? undefined : fail(EFAULT, 'not accessible');
      }
      case NR.BACKING: {
        const byte = new Uint8Array(1);
        words[2] = this.backing?.read(words[1]!, byte) === true ? big(byte[0]!) : 0n;
        words[1] = this.backing?.mapped(words[1]!, 4096n) === true ? 1n : 0n;
        return;
      }
      default:
        return fail(ENOTTY, 'no such request');
    }
  }

  #install(task: Task, file: OpenFile, words: BigUint64Array): Result<void> {
    const fd = task.process.install(file, { closeOnExec: true });
    if (failed(fd)) {
      file.release();
      return fd;
    }
    words[1] = big(fd);
  }

  #keep(process: Process, va: bigint): Result<void> {
    const [vma] = process.memory.mappings(va, va);
    if (vma === undefined || vma.start > va) return fail(EFAULT, 'not mapped');
    const file = vma.shared?.file ?? null;
    file?.retain();
    this.state.kept = {
      process,
      va,
      file,
      offset: file === null ? 0n : vma.shared!.offset + (va - vma.start),
    };
  }

  #recall(nr: number, words: BigUint64Array): Result<void> {
    const { kept } = this.state;
    if (kept === null) return fail(ENOENT, 'nothing was kept');
    const { file, offset, process, va } = kept;
    const byte = new Uint8Array([exact(words[2]! & 0xffn)]);
    const done =
      nr === NR.STORE
        ? (file?.write(offset, byte) ?? process.memory.write(va, byte))
        : (file?.read(offset, byte) ?? process.memory.read(va, byte));
    if (!done) return fail(EFAULT, 'it is gone');
    words[1] = big(byte[0]!);
  }
}

function failpoint({ failNth }: Task): boolean {
  if (failNth === undefined || failNth.remaining === 0) return false;
  failNth.remaining--;
  return failNth.remaining === 0;
}

function describeMapping(process: Process, words: BigUint64Array): Result<void> {
  const va = words[1]!;
  const [vma] = process.memory.mappings(va, va);
  if (vma === undefined || vma.start > va) return fail(EFAULT, 'not mapped');
  words[2] = vma.shared === null ? 0n : 1n;
  words[3] = vma.pinnable ? 1n : 0n;
  words[4] = big(vma.pageBytes);
  words[5] = vma.shared?.file.memfd === true ? 1n : 0n;
  words[6] = vma.writable ? 1n : 0n;
}

function kindOf(process: Process, fd: number): number {
  const file = process.file(fd);
  if (file === null) return 0;
  if ('ioctl' in file) return 1;
  if (!('memfd' in file)) return 4;
  return file.memfd ? 3 : 2;
}

const STUB_CONFIG = new Uint8Array(256);
STUB_CONFIG.set([0x86, 0x80, 0xc9, 0x10, 0x06, 0, 0x10, 0, 0x01, 0x00, 0x00, 0x02]);

const STUB_FUNCTION: PciFunctionView = {
  name: '0000:7a:00.0',
  vfio: 0,
  group: 0,
  iommu: 'stub-iommu0',
  config: () => STUB_CONFIG,
  resources: () => [{ start: 0xf000_0000n, last: 0xf000_3fffn, flags: 0x40200 }],
  reserved: () => [{ start: 0x800_0000n, last: 0x80f_ffffn, type: 'msi' }],
  remove: () => {},
};

/** The stand-in kernel. */
export function stubKernel(): KernelSide {
  const state = new State();
  return {
    deviceFiles: ['/dev/vfio/devices/vfio0', '/dev/vfio/0'],
    functions: () => [STUB_FUNCTION],
    open: (path) => (path === '/dev/iommu' ? new StubIommufd(state) : fail(ENOENT, `no ${path}`)),
  };
}
