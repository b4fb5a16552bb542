import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { failed, type Result } from '../base/result.ts';
import { E2BIG, EFAULT, EINVAL, ENOMEM } from '../abi/errno.ts';
import { SimulatedMemory } from '../memory/simulated-process.ts';
import {
  checkZeroedUser,
  clearUser,
  copyFullUserArray,
  copyStructFromUser,
  copyToUserData,
  copyUserData,
  UserArrayReader,
} from './user-data.ts';

const START = 0x10000n;
const PAGE = 4096;
const PAGES = 40;
const END = START + BigInt(PAGES * PAGE);

/** Forty pages of memory with these bytes at their start. */
function memoryWith(bytes: readonly number[] = [], at = START): SimulatedMemory {
  const memory = new SimulatedMemory();
  memory.map(START, BigInt(PAGES * PAGE));
  memory.write(at, new Uint8Array(bytes));
  return memory;
}

function told(result: Result<unknown>): unknown {
  if (failed(result)) return result.errno;
  return result instanceof Uint8Array ? [...result] : result;
}

describe('bytes that must be zero', () => {
  test('are', () => {
    expect(told(checkZeroedUser(memoryWith(), START, PAGES * PAGE))).toBe(true);
    expect(told(checkZeroedUser(memoryWith(), START, 0))).toBe(true);
  });

  test.each([0, 1, 4095, 4096, 65535, 65536, 100_000])('are not where byte %i is set', (at) => {
    const memory = memoryWith([1], START + BigInt(at));
    expect(told(checkZeroedUser(memory, START, 100_001))).toBe(false);
    expect(told(checkZeroedUser(memory, START, at))).toBe(true);
  });

  test('are EFAULT where memory ends first, and not zero where a byte before is set', () => {
    expect(told(checkZeroedUser(memoryWith(), END - 16n, 32))).toBe(EFAULT);
    expect(told(checkZeroedUser(memoryWith([1], END - 1n), END - 16n, 32))).toBe(false);
    expect(told(checkZeroedUser(memoryWith([1], END - 5000n), END - 5000n, 8000))).toBe(false);
  });
});

describe('bytes that are cleared', () => {
  test('are zero, and their neighbours are not', () => {
    const memory = memoryWith(Array.from({ length: 3 * PAGE }, () => 7));
    expect(clearUser(memory, START + 10n, 2 * PAGE)).toBe(true);
    const bytes = new Uint8Array(3 * PAGE);
    memory.read(START, bytes);
    expect(bytes.findIndex((byte) => byte === 0)).toBe(10);
    expect(bytes.filter((byte) => byte === 0).length).toBe(2 * PAGE);
  });

  test.each([1, PAGE, 70_000])('are those before the end of memory, %i of them', (before) => {
    const memory = memoryWith();
    const start = END - BigInt(before);
    memory.write(start, new Uint8Array(before).fill(7));
    expect(clearUser(memory, start, before + 1)).toBe(false);
    const bytes = new Uint8Array(before);
    memory.read(start, bytes);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  test('may be none at all, anywhere', () => {
    expect(clearUser(new SimulatedMemory(), 0n, 0)).toBe(true);
  });
});

describe('a struct from a program', () => {
  test('is filled up with zeroes where the program knows less of it', () => {
    expect(told(copyStructFromUser(memoryWith([1, 2, 3, 4]), START, 2, 4))).toEqual([1, 2, 0, 0]);
  });

  test('may be longer where the rest is zero', () => {
    expect(told(copyStructFromUser(memoryWith([1, 2]), START, 4096, 2))).toEqual([1, 2]);
  });

  test('is E2BIG where the rest is not zero, and EFAULT where it is not there', () => {
    expect(told(copyStructFromUser(memoryWith([1, 2, 0, 1]), START, 4, 2))).toBe(E2BIG);
    expect(told(copyStructFromUser(memoryWith([1], END - 2n), END - 2n, 4, 2))).toBe(EFAULT);
    expect(told(copyStructFromUser(memoryWith(), END - 2n, 4, 4))).toBe(EFAULT);
  });
});

describe("a driver's data", () => {
  const data = { type: 7, uptr: START, len: 4 };

  test('is of the type that the driver expects', () => {
    const memory = memoryWith([1, 2, 3, 4]);
    expect(told(copyUserData(memory, data, 7, 8, 4))).toEqual([1, 2, 3, 4, 0, 0, 0, 0]);
    expect(told(copyUserData(memory, data, 8, 8, 4))).toBe(EINVAL);
    expect(told(copyToUserData(memory, data, 8, new Uint8Array(8), 4))).toBe(EINVAL);
  });

  test('is neither shorter than the first form of the struct nor longer than the last', () => {
    const memory = memoryWith();
    expect(told(copyUserData(memory, { ...data, len: 3 }, 7, 8, 4))).toBe(EINVAL);
    expect(told(copyUserData(memory, { ...data, len: 8 }, 7, 8, 4))).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
    expect(told(copyUserData(memory, { ...data, len: 9 }, 7, 8, 4))).toBe(EINVAL);
  });

  test('is answered as far as the program has room', () => {
    const memory = memoryWith([0, 0, 0, 0, 9, 9]);
    expect(told(copyToUserData(memory, data, 7, new Uint8Array([1, 2, 3, 4, 5, 6]), 4))).toBe(undefined);
    const bytes = new Uint8Array(6);
    memory.read(START, bytes);
    expect([...bytes]).toEqual([1, 2, 3, 4, 9, 9]);
    expect(told(copyToUserData(memory, { ...data, uptr: END }, 7, new Uint8Array(8), 4))).toBe(EFAULT);
  });
});

/** `count` entries of `entryLen` bytes: 1 1 1 …, 2 2 2 …, and so on. */
function arrayAt(memory: SimulatedMemory, uptr: bigint, count: number, entryLen: number): void {
  for (let i = 0; i < count; i++)
    memory.write(uptr + BigInt(i * entryLen), new Uint8Array(entryLen).fill((i % 250) + 1));
}

describe('an array of entries', () => {
  test('is read entry by entry, whatever lies between', () => {
    const lengths = fc.constantFrom(4, 6, 8);
    fc.assert(
      fc.property(
        lengths,
        fc.integer({ min: 1, max: 300 }),
        fc.nat({ max: 5000 }),
        (entryLen, count, offset) => {
          const memory = memoryWith();
          const uptr = START + BigInt(offset);
          arrayAt(memory, uptr, count, entryLen);
          const array = { type: 7, uptr, entryLen, entryNum: count };
          const reader = new UserArrayReader(memory, array, 7, 8, 4);
          const full = copyFullUserArray(memory, { ...array }, 7, 8) as Uint8Array;
          for (let i = 0; i < count; i++) {
            const expected = Array.from({ length: 8 }, (_, at) => (at < entryLen ? (i % 250) + 1 : 0));
            expect(told(reader.entry(i))).toEqual(expected);
            expect([...full.subarray(i * 8, i * 8 + 8)]).toEqual(expected);
          }
        },
      ),
      { numRuns: 40 },
    );
  });

  test('of longer entries must have zeroes behind what is known', () => {
    const memory = memoryWith([1, 2, 0, 0, 3, 4, 0, 9]);
    const array = { type: 7, uptr: START, entryLen: 4, entryNum: 2 };
    expect(told(copyFullUserArray(memory, { ...array }, 7, 2))).toBe(E2BIG);
    expect(told(copyFullUserArray(memory, { ...array, entryNum: 1 }, 7, 2))).toEqual([1, 2]);
    expect(told(new UserArrayReader(memory, array, 7, 2, 2).entry(0))).toBe(EINVAL);
  });

  test('may end with memory: what is before can be read', () => {
    const memory = memoryWith();
    const uptr = END - 16n;
    arrayAt(memory, uptr, 2, 8);
    const array = { type: 7, uptr, entryLen: 8, entryNum: 3 };
    const reader = new UserArrayReader(memory, array, 7, 8, 8);
    expect(told(reader.entry(0))).toEqual([1, 1, 1, 1, 1, 1, 1, 1]);
    expect(told(reader.entry(1))).toEqual([2, 2, 2, 2, 2, 2, 2, 2]);
    expect(told(reader.entry(2))).toBe(EFAULT);
    expect(told(copyFullUserArray(memory, array, 7, 8))).toBe(EFAULT);
  });

  test('may wrap around the end of the address space', () => {
    const memory = memoryWith();
    const array = { type: 7, uptr: 0xffff_ffff_ffff_fff8n, entryLen: 8, entryNum: 2 };
    expect(told(new UserArrayReader(memory, array, 7, 8, 8).entry(1))).toBe(EFAULT);
    expect(told(copyFullUserArray(memory, array, 7, 8))).toBe(EFAULT);
  });

  test('is of the type that the driver expects, and not empty', () => {
    const memory = memoryWith();
    const array = { type: 7, uptr: START, entryLen: 8, entryNum: 1 };
    expect(told(copyFullUserArray(memory, { ...array }, 8, 8))).toBe(EINVAL);
    expect(told(copyFullUserArray(memory, { ...array, entryNum: 0 }, 7, 8))).toBe(EINVAL);
    expect(told(new UserArrayReader(memory, array, 8, 8, 8).entry(0))).toBe(EINVAL);
  });

  test('has no memory in the kernel where it is longer than what kmalloc() can give', () => {
    const memory = memoryWith();
    const array = { type: 7, uptr: START, entryLen: 8, entryNum: 0xffff_ffff };
    expect(told(copyFullUserArray(memory, array, 7, 8))).toBe(ENOMEM);
    expect(array.entryNum).toBe(0xffff_ffff);
    expect(told(copyFullUserArray(memory, { ...array, entryNum: 1 << 19 }, 7, 8))).toBe(EFAULT);
  });

  test('that is read in part may be longer than that', () => {
    const memory = memoryWith([1, 1, 1, 1]);
    const array = { type: 7, uptr: START, entryLen: 4, entryNum: 0xffff_ffff };
    const reader = new UserArrayReader(memory, array, 7, 4, 4);
    expect(told(reader.entry(0))).toEqual([1, 1, 1, 1]);
    expect(told(reader.entry(1_000_000))).toBe(EFAULT);
  });
});
