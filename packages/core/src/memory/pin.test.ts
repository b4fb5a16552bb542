import { describe, expect, test } from 'vitest';
import { Failure, failed } from '../base/result.ts';
import { EFAULT, EINVAL, EOVERFLOW } from '../abi/errno.ts';
import { resolveFilePages, resolveUserPages, type PageRange } from './pin.ts';
import { SimulatedMemfd, SimulatedMemory, type MapOptions } from './simulated-process.ts';

/** Memory with the given mappings, each as first page, pages and how. */
function memoryWith(...maps: readonly [number, number, MapOptions?][]): SimulatedMemory {
  const memory = new SimulatedMemory();
  for (const [page, pages, options] of maps) memory.map(BigInt(page) << 12n, BigInt(pages) << 12n, options);
  return memory;
}

/** What pages are made of, as the kind of backing, the first page in it and the number of pages. */
function told(ranges: readonly PageRange[] | Failure): unknown {
  if (failed(ranges)) return ranges.errno;
  return ranges.map(({ backing, firstPage, pages }) => [backing.key.split(':')[0], firstPage, pages]);
}

describe('pages of a program', () => {
  test('are named by their address where memory is private', () => {
    const memory = memoryWith([16, 8]);
    expect(told(resolveUserPages(memory, 17, 3, true))).toEqual([['mm', 17, 3]]);
  });

  test('are named by their place in the file where memory is shared', () => {
    const file = new SimulatedMemfd(0x10000n);
    const memory = memoryWith([16, 8, { shared: { file, offset: 0x4000n } }]);
    expect(told(resolveUserPages(memory, 17, 3, true))).toEqual([['file', 5, 3]]);
  });

  test('may lie in several mappings without a hole', () => {
    const file = new SimulatedMemfd(0x10000n);
    const memory = memoryWith([16, 1], [17, 1, { shared: { file, offset: 0n } }], [18, 4]);
    expect(told(resolveUserPages(memory, 16, 4, true))).toEqual([
      ['mm', 16, 1],
      ['file', 0, 1],
      ['mm', 18, 2],
    ]);
  });

  test.each([
    ['lie before any mapping', 15, 2],
    ['lie in a hole', 24, 1],
    ['reach into a hole', 23, 2],
    ['reach over a hole', 23, 4],
    ['lie behind the last mapping', 40, 1],
  ])('cannot be pinned where they %s', (_where, first, pages) => {
    const memory = memoryWith([16, 8], [25, 8]);
    expect(told(resolveUserPages(memory, first, pages, false))).toBe(EFAULT);
  });

  test('cannot end where the address space ends', () => {
    const memory = memoryWith([16, 8]);
    expect(told(resolveUserPages(memory, 2 ** 52 - 1, 1, false))).toBe(EOVERFLOW);
    expect(told(resolveUserPages(memory, 2 ** 52 - 2, 2, false))).toBe(EOVERFLOW);
    expect(told(resolveUserPages(memory, 2 ** 52 - 2, 1, false))).toBe(EFAULT);
  });

  test('that are read-only can be pinned only for reading', () => {
    const memory = memoryWith([16, 8, { writable: false }]);
    expect(told(resolveUserPages(memory, 16, 1, false))).toEqual([['mm', 16, 1]]);
    expect(told(resolveUserPages(memory, 16, 1, true))).toBe(EFAULT);
  });

  test('that nobody may touch cannot be pinned', () => {
    const memory = memoryWith([16, 8, { writable: false }]);
    const [vma] = memory.mappings(0x10000n, 0x10fffn);
    memory.mappings = () => [{ ...vma!, readable: false }];
    expect(told(resolveUserPages(memory, 16, 1, false))).toBe(EFAULT);
  });

  test('of a device cannot be pinned', () => {
    const memory = memoryWith([16, 8, { pinnable: false }]);
    expect(told(resolveUserPages(memory, 16, 1, false))).toBe(EFAULT);
  });

  test('behind the end of their file cannot be pinned; the last page may be used in part', () => {
    const file = new SimulatedMemfd(0x2800n);
    const memory = memoryWith([16, 8, { shared: { file, offset: 0n } }]);
    expect(told(resolveUserPages(memory, 16, 3, true))).toEqual([['file', 0, 3]]);
    expect(told(resolveUserPages(memory, 16, 4, true))).toBe(EFAULT);
    expect(told(resolveUserPages(memory, 20, 1, true))).toBe(EFAULT);
  });

  test('of huge pages are neighbours in physical memory, small ones are not', () => {
    const memory = memoryWith([512, 512, { pageBytes: 2 << 20 }], [1024, 1]);
    const ranges = resolveUserPages(memory, 1023, 2, true);
    expect(failed(ranges) ? ranges : ranges.map((each) => each.backing.contiguous)).toEqual([true, false]);
  });
});

describe('pages of a file', () => {
  test('are named by their place in it', () => {
    expect(told(resolveFilePages(new SimulatedMemfd(0x4000n), 1, 3))).toEqual([['file', 1, 3]]);
  });

  test('must lie within it, the last one completely', () => {
    expect(told(resolveFilePages(new SimulatedMemfd(0x4000n), 1, 4))).toBe(EINVAL);
    expect(told(resolveFilePages(new SimulatedMemfd(0x4000n), 4, 1))).toBe(EINVAL);
    expect(told(resolveFilePages(new SimulatedMemfd(0x3fffn), 3, 1))).toBe(EINVAL);
  });

  test('end with the u64 space', () => {
    const file = new SimulatedMemfd(0x4000n);
    expect(told(resolveFilePages(file, 2 ** 52 - 1, 1))).toBe(EINVAL);
    expect(told(resolveFilePages(file, 2 ** 52 - 4, 4))).toBe(EINVAL);
  });

  test('are those of a memfd, and of no other file', () => {
    const other = Object.assign(new SimulatedMemfd(0x4000n), { memfd: false });
    expect(told(resolveFilePages(other, 0, 1))).toBe(EINVAL);
  });
});
