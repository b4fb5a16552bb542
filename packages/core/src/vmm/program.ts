import { fail, failed, Failure, type Result } from '../base/result.ts';
import type { AnyStruct } from '../base/struct.ts';
import { EFAULT, errnoName } from '../abi/errno.ts';
import type { Doorbells } from '../memory/doorbells.ts';
import type { OpenFile } from '../memory/file.ts';
import type { Task } from '../memory/process.ts';
import { SimulatedProcess, simulatedTask } from '../memory/simulated-process.ts';
import { MappedFile } from './mapped-file.ts';

// A program beside the kernel side: what a VMM is to Linux. It has memory, descriptors and requests, and no other way
// to the machine.

/** What opens device files: Kernel of machine/kernel.ts. */
export interface Machine {
  open(path: string, task: Task): Result<OpenFile>;
  /** Hardware that programs reach by stores into pages that they have mapped. */
  readonly doorbells?: Pick<Doorbells, 'look'>;
}

/** A mapped page of a device, as words of 32 bits at byte offsets. */
export interface MappedWords {
  load(at: number): number;
  store(at: number, value: number): void;
}

const PROT_READ = 1;
const PROT_WRITE = 2;

type Values<Layout extends AnyStruct> = ReturnType<Layout['create']>;

/** A request that was refused, with the struct as it came back: some say there how far they came. */
export class RefusedRequest extends Failure {
  readonly answer: unknown;

  constructor(errno: number, reason: string, answer: unknown) {
    super(errno, reason);
    this.answer = answer;
  }
}

/** Where a request's struct lies, and behind it what it points to. */
const ARGUMENT = 0x1000_0000n;
const DATA = ARGUMENT + 0x1_0000n;
const DATA_BYTES = 0x10_0000n;
const FIRST_MAP = 0x2000_0000n;

export class Program {
  readonly process: SimulatedProcess;
  readonly task: Task;
  readonly #machine: Machine;
  #nextMap = FIRST_MAP;

  constructor(machine: Machine, pid: number, process = new SimulatedProcess(pid)) {
    this.#machine = machine;
    this.process = process;
    this.process.memory.map(ARGUMENT, DATA - ARGUMENT + DATA_BYTES);
    this.task = simulatedTask(this.process);
  }

  /** open(2): the descriptor. */
  open(path: string): Result<number> {
    const file = this.#machine.open(path, this.task);
    return failed(file) ? file : this.process.open(file);
  }

  close(fd: number): void {
    this.process.close(fd);
  }

  /** mmap(2) of `bytes` anonymous bytes: their address. */
  allocate(bytes: bigint): bigint {
    const at = this.#nextMap;
    this.#nextMap += bytes;
    this.process.memory.map(at, bytes);
    return at;
  }

  /** Puts bytes where the next request can point to; at most 1 MiB. */
  place(bytes: Uint8Array): bigint {
    this.process.memory.write(DATA, bytes);
    return DATA;
  }

  /** What a request has left where {@link place} put its data. */
  placed(bytes: number): Uint8Array {
    const into = new Uint8Array(bytes);
    this.process.memory.read(DATA, into);
    return into;
  }

  /** ioctl(2) with a struct, whose own size is filled in; the struct as it came back, or why it was refused. */
  request<Layout extends AnyStruct>(
    fd: number,
    cmd: number,
    layout: Layout,
    values: Partial<Values<Layout>>,
  ): Result<Values<Layout>> {
    const bytes = new Uint8Array(layout.size);
    const whole: Record<string, unknown> = { ...layout.create(), ...values };
    whole['size' in whole && !('argsz' in whole) ? 'size' : 'argsz'] = layout.size;
    layout.write(bytes, 0, whole);
    this.process.memory.write(ARGUMENT, bytes);
    const rc = this.#file(fd)?.ioctl(this.task, cmd, ARGUMENT) ?? -EFAULT;
    this.process.memory.read(ARGUMENT, bytes);
    const answer = layout.read(bytes) as Values<Layout>;
    return rc < 0 ? new RefusedRequest(-rc, `${layout.name}: ${errnoName(-rc)}`, answer) : answer;
  }

  /** read(2): what came. */
  read(fd: number, bytes: number): Result<Uint8Array> {
    const done = this.#file(fd)?.read?.(this.task, DATA, bytes) ?? -EFAULT;
    return done < 0 ? fail(-done, `read: ${errnoName(-done)}`) : this.placed(done);
  }

  /** write(2): how many bytes were taken. */
  write(fd: number, bytes: Uint8Array): Result<number> {
    const done = this.#file(fd)?.write?.(this.task, this.place(bytes), bytes.length) ?? -EFAULT;
    return done < 0 ? fail(-done, `write: ${errnoName(-done)}`) : done;
  }

  /** pread(2). */
  readAt(fd: number, bytes: number, offset: bigint): Result<Uint8Array> {
    const done = this.#file(fd)?.pread?.(this.task, DATA, bytes, offset) ?? -EFAULT;
    return done < 0 ? fail(-done, `pread: ${errnoName(-done)}`) : this.placed(done);
  }

  /** pwrite(2). */
  writeAt(fd: number, bytes: Uint8Array, offset: bigint): Result<void> {
    const done = this.#file(fd)?.pwrite?.(this.task, this.place(bytes), bytes.length, offset) ?? -EFAULT;
    if (done < 0) return fail(-done, `pwrite: ${errnoName(-done)}`);
  }

  /** mmap(2) of `length` bytes at `offset` of a device file, shared: loads and stores of words there. */
  mmap(fd: number, offset: bigint, length: bigint): Result<MappedWords> {
    const file = this.#file(fd);
    const backing = file?.backing instanceof MappedFile ? file.backing : new MappedFile();
    if (file !== null) file.backing = backing;
    backing.growTo(offset + length);
    const rc = file?.mmap?.(this.task, offset, length, PROT_READ | PROT_WRITE) ?? -EFAULT;
    if (rc < 0) return fail(-rc, `mmap: ${errnoName(-rc)}`);
    return {
      load: (at) => backing.load32(offset + BigInt(at)),
      store: (at, value) => {
        backing.store32(offset + BigInt(at), value);
        // Time passes, and the hardware looks.
        while (this.#machine.doorbells?.look() === true);
      },
    };
  }

  /** poll(2) with POLLIN. */
  readable(fd: number): boolean {
    return this.#file(fd)?.readable === true;
  }

  #file(fd: number): OpenFile | null {
    const file = this.process.file(fd);
    return file !== null && 'ioctl' in file ? file : null;
  }
}
