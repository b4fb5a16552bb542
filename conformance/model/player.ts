import { closeAccess } from './iommufd/access.ts';
import { Context, Machine, type AccessFile } from './iommufd/context.ts';
import { EBADF, Errno, errnoOf, must } from './iommufd/errno.ts';
import { closeQueue, readFaults, readVevents, writeResponses } from './iommufd/events.ts';
import { ioctl } from './iommufd/ioctl.ts';
import type { Memory } from './iommufd/memory.ts';

// Plays the steps of a script (transcripts/runner.c has the grammar) on the model, and prints what runner.c would.

const ARENA = 0x2000_0000_0000n;
const ARENA_BYTES = 64n << 20n;
const AUX = 0x3000_0000_0000n;
const AUX_BYTES = 65536;
const STRUCT = 0x4000_0000_0000n;
const BUFFER = 0x4000_0001_0000n;
const STRUCT_BYTES = 512;
const UNSET = 0x7fff_fff0;
const TYPE = 0x3b00;
const RESERVED_DESCRIPTORS = 4;
const READ_MAX = 1024;

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

function unhex(text: string): Uint8Array {
  return text === '-' ? new Uint8Array(0) : Buffer.from(text, 'hex');
}

/** One run of a script on the model. */
export class ModelPlayer {
  readonly machine = new Machine();
  readonly slots = Array.from({ length: 8 }, () => -1);
  readonly vars = new Uint32Array(256).fill(UNSET);
  readonly memfds = Array.from({ length: 8 }, () => -1);
  readonly #struct = new Uint8Array(STRUCT_BYTES);
  #lastOk = false;

  constructor() {
    for (let fd = 0; fd < RESERVED_DESCRIPTORS; fd++) this.machine.open({ kind: 'foreign' });
    this.#memory.map(ARENA, ARENA_BYTES);
    this.#memory.map(AUX, 8n * BigInt(AUX_BYTES));
    this.#memory.map(STRUCT, 0x20000n);
    // What lies behind the struct is not zero.
    this.#memory.write(STRUCT + BigInt(STRUCT_BYTES), new Uint8Array(STRUCT_BYTES).fill(1));
  }

  get #memory(): Memory {
    return this.machine.memory;
  }

  /** The context of a slot, or null. */
  context(slot: number): Context | null {
    const file = this.machine.descriptors.get(this.slots[slot]!);
    return file instanceof Context ? file : null;
  }

  /** The access whose descriptor the last request named. */
  lastAccess(): AccessFile | null {
    const fd = new DataView(this.#struct.buffer).getInt32(8, true);
    const file = this.machine.descriptors.get(fd);
    return file?.kind === 'access' ? file : null;
  }

  /** Takes one step. Answers the line it prints, null for a step that prints nothing. */
  step(line: string): string | null {
    const [kind, first = '', second = '', third = '', ...fixes] = line.trimEnd().split(/\s+/);
    const number = Number(first);
    switch (kind) {
      case 'C':
        return this.#open(number);
      case 'X': {
        const closed = this.#close(this.slots[number]!);
        this.slots[number] = -1;
        return `X ${closed ? 0 : -1}`;
      }
      case 'I':
        return this.#request(number, second, unhex(third), fixes);
      case 'V': {
        const { rc, errno } = this.#ioctl(number, second, BigInt.asUintN(64, BigInt(third)));
        return `V ${second} rc=${rc} errno=${errno}`;
      }
      case 'S':
        this.vars[Number(second)] = this.#lastOk
          ? new DataView(this.#struct.buffer).getUint32(number, true)
          : UNSET;
        return null;
      case 'A': {
        const bytes = new Uint8Array(AUX_BYTES);
        bytes.set(unhex(second));
        this.#memory.write(AUX + BigInt(number * AUX_BYTES), bytes);
        return null;
      }
      case 'O':
        return `O ${first} ${hex(this.#memory.read(AUX + BigInt(number * AUX_BYTES), Number(second)))}`;
      case 'W':
        this.#memory.write(
          ARENA + BigInt(`0x${first}`),
          new Uint8Array(parseInt(second, 16)).fill(Number(third)),
        );
        return null;
      case 'D':
        return this.#checksum(ARENA + BigInt(`0x${first}`), parseInt(second, 16));
      case 'M':
        this.memfds[number] = this.machine.open({
          kind: 'memfd',
          base: this.machine.frames.reserve(),
          size: BigInt(`0x${second}`),
        });
        return 'M 0';
      case 'U':
        this.#memory.unmap(ARENA + BigInt(`0x${first}`), BigInt(`0x${second}`));
        return 'U 0';
      case 'R':
        return this.#read(number, Math.min(Number(second), READ_MAX));
      case 'T':
        return this.#write(number, unhex(second));
      case 'Z': {
        const closed = this.#close(this.vars[number]! | 0);
        this.vars[number] = UNSET;
        return `Z ${closed ? 0 : -1}`;
      }
      default:
        throw new Error(`bad step ${line}`);
    }
  }

  #open(slot: number): string {
    const context = new Context(this.machine);
    this.machine.contexts.add(context);
    this.slots[slot] = this.machine.open(context);
    return 'C 1';
  }

  #close(fd: number): boolean {
    const file = this.machine.descriptors.get(fd);
    if (file === undefined) return false;
    this.machine.descriptors.delete(fd);
    switch (file.kind) {
      case 'iommufd':
        file.release();
        break;
      case 'access':
        closeAccess(file);
        break;
      case 'fault':
      case 'veventq':
        closeQueue(file);
        break;
      default:
        break;
    }
    return true;
  }

  #ioctl(slot: number, command: string, arg: bigint): { rc: number; errno: number } {
    const context = this.context(slot);
    let rc = -1;
    const errno = errnoOf(() => {
      must(context !== null, EBADF);
      rc = ioctl(context, TYPE | parseInt(command, 16), arg);
    });
    return { rc, errno };
  }

  #request(slot: number, command: string, given: Uint8Array, fixes: readonly string[]): string {
    const bytes = this.#struct.fill(0);
    const hidden = new Uint8Array(STRUCT_BYTES);
    bytes.set(given);
    const view = new DataView(bytes.buffer);
    for (const fix of fixes.filter((text) => text !== '')) {
      const [offset, value] = fix.split('=') as [string, string];
      const at = Number(offset);
      const rest = value.slice(1);
      if (value[0] === 'p') view.setBigUint64(at, ARENA + BigInt(`0x${rest}`), true);
      else if (value[0] === 'b') view.setBigUint64(at, AUX + BigInt(Number(rest) * AUX_BYTES), true);
      else if (value[0] === 'm') view.setUint32(at, this.memfds[Number(rest)]!, true);
      else view.setUint32(at, this.vars[Number(rest)]!, true);
      if (value[0] === 'b') hidden.fill(1, at, at + 8);
      if (value[0] === 'm') hidden.fill(1, at, at + 4);
    }
    this.#memory.write(STRUCT, bytes);
    const { rc, errno } = this.#ioctl(slot, command, STRUCT);
    bytes.set(this.#memory.read(STRUCT, STRUCT_BYTES));
    this.#lastOk = rc >= 0;
    const shown = bytes.slice(0, given.length).map((byte, index) => (hidden[index] === 1 ? 0 : byte));
    return `I ${command} rc=${rc} errno=${errno} ${hex(shown)}`;
  }

  #checksum(va: bigint, length: number): string {
    let sum = 2166136261;
    for (const byte of this.#memory.read(va, length)) sum = Math.imul(sum ^ byte, 16777619);
    return `D ${(sum >>> 0).toString(16).padStart(8, '0')}`;
  }

  #read(variable: number, count: number): string {
    const file = this.machine.descriptors.get(this.vars[variable]! | 0);
    let done = -1;
    const errno = errnoOf(() => {
      if (file?.kind === 'fault') done = readFaults(file, this.#memory, BUFFER, count);
      else if (file?.kind === 'veventq') done = readVevents(file, this.#memory, BUFFER, count);
      else throw new Errno(EBADF);
    });
    return `R ${done} errno=${errno} ${hex(this.#memory.read(BUFFER, Math.max(done, 0)))}`;
  }

  #write(variable: number, bytes: Uint8Array): string {
    const file = this.machine.descriptors.get(this.vars[variable]! | 0);
    this.#memory.write(BUFFER, bytes);
    let done = -1;
    const errno = errnoOf(() => {
      must(file?.kind === 'fault', EBADF);
      done = writeResponses(file, this.#memory, BUFFER, bytes.length);
    });
    return `T ${done} errno=${errno}`;
  }
}
