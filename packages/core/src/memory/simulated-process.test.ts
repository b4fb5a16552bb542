import { describe, expect, test } from 'vitest';
import { failed, type Result } from '../base/result.ts';
import { EMFILE, ENOTTY } from '../abi/errno.ts';
import type { OpenFile } from './file.ts';
import { FOREIGN_FILE } from './process.ts';
import { SimulatedMemfd, SimulatedMemory, SimulatedProcess } from './simulated-process.ts';

const PAGE = 0x1000n;

function bytesAt(memory: SimulatedMemory, va: bigint, count: number): number[] | null {
  const into = new Uint8Array(count);
  return memory.read(va, into) ? [...into] : null;
}

class CountedFile implements OpenFile {
  readonly type = 'access';
  released = 0;

  ioctl(): number {
    return -ENOTTY;
  }

  release(): void {
    this.released++;
  }
}

function errnoOf(result: Result<unknown>): number | null {
  return failed(result) ? result.errno : null;
}

describe('memory', () => {
  test('is zero until it is written', () => {
    const memory = new SimulatedMemory();
    memory.map(0x10000n, 2n * PAGE);
    expect(bytesAt(memory, 0x10fffn, 2)).toEqual([0, 0]);
    expect(memory.write(0x10fffn, new Uint8Array([1, 2]))).toBe(true);
    expect(bytesAt(memory, 0x10ffen, 4)).toEqual([0, 1, 2, 0]);
  });

  test('is not there where nothing is mapped, and then nothing is written', () => {
    const memory = new SimulatedMemory();
    memory.map(0x10000n, PAGE);
    memory.map(0x12000n, PAGE);
    expect(bytesAt(memory, 0xffffn, 2)).toBe(null);
    expect(memory.write(0x10fffn, new Uint8Array([1, 2]))).toBe(false);
    expect(memory.write(0x10fffn, new Uint8Array(0x1002).fill(1))).toBe(false);
    expect(bytesAt(memory, 0x10fffn, 1)).toEqual([0]);
  });

  test('may be read and not written', () => {
    const memory = new SimulatedMemory();
    memory.map(0x10000n, PAGE, { writable: false });
    expect(bytesAt(memory, 0x10000n, 1)).toEqual([0]);
    expect(memory.write(0x10000n, new Uint8Array(1))).toBe(false);
  });

  test('of no bytes is everywhere', () => {
    const memory = new SimulatedMemory();
    expect(memory.read(0n, new Uint8Array(0))).toBe(true);
    expect(memory.write(0n, new Uint8Array(0))).toBe(true);
  });

  test('that is mapped over is new', () => {
    const memory = new SimulatedMemory();
    memory.map(0x10000n, 3n * PAGE);
    memory.write(0x10000n, new Uint8Array(0x3000).fill(1));
    memory.map(0x11000n, PAGE);
    expect(bytesAt(memory, 0x10fffn, 2)).toEqual([1, 0]);
    expect(bytesAt(memory, 0x11fffn, 2)).toEqual([0, 1]);
  });

  test('keeps the rest where a part is unmapped, with the right part of its file', () => {
    const memory = new SimulatedMemory();
    const file = new SimulatedMemfd(0x10000n);
    file.write(0x6000n, new Uint8Array([6]));
    memory.map(0x10000n, 4n * PAGE, { shared: { file, offset: 0x4000n } });
    memory.unmap(0x11000n, PAGE);
    expect(memory.mappings(0n, 0xf_ffffn).map(({ start, last }) => [start, last])).toEqual([
      [0x10000n, 0x10fffn],
      [0x12000n, 0x13fffn],
    ]);
    expect(bytesAt(memory, 0x12000n, 1)).toEqual([6]);
  });

  test('that is shared is the same for everyone who maps the file', () => {
    const file = new SimulatedMemfd(0x10000n);
    const [one, other] = [new SimulatedMemory(), new SimulatedMemory()];
    one.map(0x10000n, PAGE, { shared: { file, offset: 0x2000n } });
    other.map(0x50000n, 4n * PAGE, { shared: { file, offset: 0n } });
    one.write(0x10001n, new Uint8Array([5]));
    expect(bytesAt(other, 0x52001n, 1)).toEqual([5]);
  });

  test('has another id for every program', () => {
    expect(new SimulatedMemory().id).not.toBe(new SimulatedMemory().id);
  });
});

describe('a memfd', () => {
  test('loses what lies behind its end when it is cut', () => {
    const file = new SimulatedMemfd(0x4000n);
    file.write(0x3000n, new Uint8Array([3]));
    file.write(0x1000n, new Uint8Array([1]));
    file.truncate(0x2000n);
    file.truncate(0x4000n);
    const byte = new Uint8Array(1);
    file.read(0x3000n, byte);
    expect(byte[0]).toBe(0);
    file.read(0x1000n, byte);
    expect(byte[0]).toBe(1);
    expect(file.size()).toBe(0x4000n);
  });
});

describe('descriptors', () => {
  test('are the lowest free number', () => {
    const process = new SimulatedProcess(1);
    expect([process.open(), process.open(), process.open()]).toEqual([0, 1, 2]);
    process.close(1);
    expect(process.open()).toBe(1);
    expect(process.open()).toBe(3);
  });

  test('run out at the limit', () => {
    const process = new SimulatedProcess(1);
    process.filesMax = 2;
    expect([process.open(), process.open()]).toEqual([0, 1]);
    expect(errnoOf(process.open())).toBe(EMFILE);
    expect(errnoOf(process.install(new CountedFile()))).toBe(EMFILE);
    process.close(0);
    expect(process.open()).toBe(0);
  });

  test('release their file with the last of its copies', () => {
    const process = new SimulatedProcess(1);
    const file = new CountedFile();
    const fd = process.install(file) as number;
    const copy = process.dup(fd) as number;
    expect(process.close(fd)).toBe(true);
    expect(file.released).toBe(0);
    expect(process.file(copy)).toBe(file);
    expect(process.close(copy)).toBe(true);
    expect(file.released).toBe(1);
    expect(process.close(copy)).toBe(false);
  });

  test('that are not open have no file and no copies', () => {
    const process = new SimulatedProcess(1);
    expect(process.file(0)).toBe(null);
    expect(process.dup(0)).toBe(null);
    process.open();
    expect(process.file(0)).toBe(FOREIGN_FILE);
  });

  test('are closed when the program exits, which ends its memory', () => {
    const process = new SimulatedProcess(1);
    const files = [new CountedFile(), new CountedFile()];
    for (const file of files) process.install(file);
    process.exit();
    expect(files.map((file) => file.released)).toEqual([1, 1]);
    expect(process.memory.alive).toBe(false);
  });
});

describe('a process', () => {
  test('is capable of what it was given, and nothing else', () => {
    const process = new SimulatedProcess(1);
    process.capabilities.add(14);
    expect([process.capable(14), process.capable(17)]).toEqual([true, false]);
  });

  test('may lock as many pages as it likes until it has a limit', () => {
    const process = new SimulatedProcess(1);
    expect(process.memlockPages()).toBe(Infinity);
    process.memlockLimitPages = 16;
    expect(process.memlockPages()).toBe(16);
  });
});
