import { failed } from '@viommu/core/base/result';
import { EBADF } from '@viommu/core/abi/errno';
import { Kernel, type KernelOptions } from '@viommu/core/machine/kernel';
import { CAP_IPC_LOCK, CAP_SYS_RAWIO, CAP_SYS_RESOURCE } from '@viommu/core/memory/process';
import { SimulatedMemfd, SimulatedProcess, simulatedTask } from '@viommu/core/memory/simulated-process';

// Plays a script of ioctls against the kernel side alone, step by step what runner.c does with a real kernel, and
// prints the same transcript.

const ARENA = 0x2000_0000_0000n;
const ARENA_LEN = 64n << 20n;
const AUX = 0x3000_0000_0000n;
const AUX_LEN = 65536;
const STRUCT = 0x4000_0000_0000n;
const BUFFER = 0x4000_0001_0000n;
const UNSET = 0x7fff_fff0;
const TYPE = 0x3b00;

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

/** One run of a script. */
export class Player {
  readonly kernel: Kernel;
  readonly process = new SimulatedProcess(1);
  readonly task = simulatedTask(this.process);
  readonly lines: string[] = [];
  readonly slots = Array.from({ length: 8 }, () => -1);
  readonly vars = new Uint32Array(256).fill(UNSET);
  readonly memfds = Array.from({ length: 8 }, () => -1);
  readonly buf = new Uint8Array(512);
  lastOk = false;

  constructor(options: KernelOptions) {
    this.kernel = new Kernel(options);
    for (const capability of [CAP_IPC_LOCK, CAP_SYS_RAWIO, CAP_SYS_RESOURCE])
      this.process.capabilities.add(capability);
    // Standard streams and the script itself.
    for (let fd = 0; fd < 4; fd++) this.process.open();
    this.process.memory.map(ARENA, ARENA_LEN);
    this.process.memory.map(AUX, 8n * 65536n);
    this.process.memory.map(STRUCT, 0x10000n);
    // What lies behind the runner's buffer is not zero, so a struct said to be larger is one with unknown fields.
    this.process.memory.write(STRUCT + BigInt(this.buf.length), new Uint8Array(512).fill(1));
    this.process.memory.map(BUFFER, 0x10000n);
  }

  ioctl(slot: number, command: string, arg: bigint): { rc: number; errno: number } {
    const file = this.process.file(this.slots[slot]!);
    if (file === null || !('ioctl' in file)) return { rc: -1, errno: EBADF };
    const rc = file.ioctl(this.task, TYPE | parseInt(command, 16), arg);
    return rc < 0 ? { rc: -1, errno: -rc } : { rc, errno: 0 };
  }

  request(slot: number, command: string, bytes: string, fixes: readonly string[]): void {
    const { buf } = this;
    buf.fill(0);
    const mask = new Uint8Array(buf.length);
    const given = bytes === '-' ? new Uint8Array(0) : Buffer.from(bytes, 'hex');
    buf.set(given);
    const view = new DataView(buf.buffer);
    for (const fix of fixes) {
      const [offset, value] = fix.split('=') as [string, string];
      const at = Number(offset);
      const rest = value.slice(1);
      switch (value[0]) {
        case 'p':
          view.setBigUint64(at, ARENA + BigInt(`0x${rest}`), true);
          break;
        case 'b':
          view.setBigUint64(at, AUX + BigInt(Number(rest) * AUX_LEN), true);
          mask.fill(1, at, at + 8);
          break;
        case 'm':
          view.setUint32(at, this.memfds[Number(rest)]!, true);
          mask.fill(1, at, at + 4);
          break;
        default:
          view.setUint32(at, this.vars[Number(rest)]!, true);
      }
    }
    this.process.memory.write(STRUCT, buf);
    const { rc, errno } = this.ioctl(slot, command, STRUCT);
    this.process.memory.read(STRUCT, buf);
    this.lastOk = rc >= 0;
    const shown = buf.slice(0, given.length).map((byte, index) => (mask[index] === 1 ? 0 : byte));
    this.lines.push(`I ${command} rc=${rc} errno=${errno} ${hex(shown)}`);
  }

  readFd(variable: number, want: number): void {
    const file = this.process.file(this.vars[variable]! | 0);
    let n = -EBADF;
    if (file !== null && 'read' in file && typeof file.read === 'function' && file.read.length === 3)
      n = (file as { read(task: unknown, va: bigint, count: number): number }).read(this.task, BUFFER, want);
    const data = new Uint8Array(Math.max(n, 0));
    this.process.memory.read(BUFFER, data);
    this.lines.push(`R ${n < 0 ? -1 : n} errno=${n < 0 ? -n : 0} ${hex(data)}`);
  }

  writeFd(variable: number, bytes: Uint8Array): void {
    const file = this.process.file(this.vars[variable]! | 0);
    this.process.memory.write(BUFFER, bytes);
    let n = -EBADF;
    if (file !== null && 'readable' in file && file.write !== undefined)
      n = (file as { write(task: unknown, va: bigint, count: number): number }).write(
        this.task,
        BUFFER,
        bytes.length,
      );
    this.lines.push(`T ${n < 0 ? -1 : n} errno=${n < 0 ? -n : 0}`);
  }

  checksum(offset: string, length: string): void {
    const bytes = new Uint8Array(parseInt(length, 16));
    this.process.memory.read(ARENA + BigInt(`0x${offset}`), bytes);
    let h = 2166136261;
    for (const byte of bytes) h = Math.imul(h ^ byte, 16777619);
    this.lines.push(`D ${(h >>> 0).toString(16).padStart(8, '0')}`);
  }

  step(line: string): void {
    const [kind, first = '', second = '', third = '', ...fixes] = line.split(/\s+/);
    const s = Number(first);
    switch (kind) {
      case 'C': {
        const file = this.kernel.open('/dev/iommu', this.task);
        const fd = failed(file) ? file : this.process.open(file);
        this.slots[s] = failed(fd) ? -1 : fd;
        this.lines.push(`C ${this.slots[s]! >= 0 ? 1 : 0}`);
        break;
      }
      case 'X':
        this.lines.push(`X ${this.process.close(this.slots[s]!) ? 0 : -1}`);
        this.slots[s] = -1;
        break;
      case 'I':
        this.request(s, second, third, fixes.filter(Boolean));
        break;
      case 'V': {
        const { rc, errno } = this.ioctl(s, second, BigInt.asUintN(64, BigInt(third)));
        this.lines.push(`V ${second} rc=${rc} errno=${errno}`);
        break;
      }
      case 'S':
        this.vars[Number(second)] = this.lastOk ? new DataView(this.buf.buffer).getUint32(s, true) : UNSET;
        break;
      case 'A': {
        const bytes = new Uint8Array(AUX_LEN);
        bytes.set(Buffer.from(second, 'hex'));
        this.process.memory.write(AUX + BigInt(s * AUX_LEN), bytes);
        break;
      }
      case 'O': {
        const bytes = new Uint8Array(Number(second));
        this.process.memory.read(AUX + BigInt(s * AUX_LEN), bytes);
        this.lines.push(`O ${first} ${hex(bytes)}`);
        break;
      }
      case 'W': {
        const bytes = new Uint8Array(parseInt(second, 16)).fill(Number(third));
        this.process.memory.write(ARENA + BigInt(`0x${first}`), bytes);
        break;
      }
      case 'D':
        this.checksum(first, second);
        break;
      case 'M': {
        const fd = this.process.open(new SimulatedMemfd(BigInt(`0x${second}`)));
        this.memfds[s] = failed(fd) ? -1 : fd;
        this.lines.push('M 0');
        break;
      }
      case 'U':
        this.process.memory.unmap(ARENA + BigInt(`0x${first}`), BigInt(`0x${second}`));
        this.lines.push('U 0');
        break;
      case 'R':
        this.readFd(s, Math.min(Number(second), 1024));
        break;
      case 'T':
        this.writeFd(s, Buffer.from(second, 'hex'));
        break;
      case 'Z':
        this.lines.push(`Z ${this.process.close(this.vars[s]! | 0) ? 0 : -1}`);
        this.vars[s] = UNSET;
        break;
      default:
        throw new Error(`bad step ${line}`);
    }
  }
}

/** What viommu's kernel side answers to a script: the transcript, a line a step. */
export function play(script: string, options: KernelOptions = {}): string[] {
  const player = new Player(options);
  for (const line of script.split('\n')) if (line.trim() !== '') player.step(line.trimEnd());
  for (const fd of [...player.slots, ...player.memfds]) if (fd >= 0) player.process.close(fd);
  return player.lines;
}
