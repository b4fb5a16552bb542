import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fileBacking } from './frames.ts';
import { PhysicalSpace, type SharedPages } from './physical-space.ts';
import { SimulatedMemfd } from './simulated-process.ts';

const PAGE = 4096;
const RAM_END = 64 * 2 ** 30;

describe('RAM', () => {
  test('is allocated zeroed, above the first MiB', () => {
    const space = new PhysicalSpace();
    const pa = space.allocate(2);
    expect(pa).toBeGreaterThanOrEqual(2 ** 20);
    const bytes = new Uint8Array(2 * PAGE).fill(1);
    expect(space.read(pa, bytes)).toBe(true);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  test('that is freed and allocated again is zeroed again', () => {
    const space = new PhysicalSpace();
    const pa = space.allocate(1);
    space.write(pa, new Uint8Array(PAGE).fill(1));
    space.free(pa, 1);
    expect(space.read(pa, new Uint8Array(1))).toBe(false);
    expect(space.allocate(1)).toBe(pa);
    const bytes = new Uint8Array(PAGE).fill(1);
    space.read(pa, bytes);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  test('is aligned to its length rounded up to a power of two', () => {
    const space = new PhysicalSpace();
    for (const [pages, alignment] of [
      [1, 1],
      [3, 4],
      [2, 2],
      [512, 512],
      [5, 8],
    ])
      expect((space.allocate(pages!) / PAGE) % alignment!).toBe(0);
  });

  test('does not overlap, whatever is allocated and freed', () => {
    const step = fc.record({ pages: fc.integer({ min: 1, max: 9 }), free: fc.boolean(), which: fc.nat() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const space = new PhysicalSpace();
        const held: { pa: number; pages: number }[] = [];
        for (const { pages, free, which } of steps) {
          if (free && held.length > 0) {
            const [one] = held.splice(which % held.length, 1);
            space.free(one!.pa, one!.pages);
          } else {
            held.push({ pa: space.allocate(pages), pages });
          }
          const sorted = held.toSorted((a, b) => a.pa - b.pa);
          for (const [index, each] of sorted.entries())
            expect(each.pa + each.pages * PAGE).toBeLessThanOrEqual(sorted[index + 1]?.pa ?? RAM_END);
          expect(space.ram.size).toBe(held.reduce((sum, each) => sum + each.pages, 0));
        }
      }),
    );
  });

  test('ends: more than there is throws', () => {
    expect(() => new PhysicalSpace().allocate(RAM_END / PAGE)).toThrow(RangeError);
  });
});

describe('the physical address space', () => {
  test('has words, little-endian', () => {
    const space = new PhysicalSpace();
    const pa = space.allocate(1);
    expect(space.store64(pa + 8, 0x89ab_cdef, 0x0123_4567)).toBe(true);
    const bytes = new Uint8Array(8);
    space.read(pa + 8, bytes);
    expect([...bytes]).toEqual([0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01]);
    const word = new Uint32Array(2);
    expect(space.load64(pa + 8, word)).toBe(true);
    expect([...word]).toEqual([0x89ab_cdef, 0x0123_4567]);
  });

  test('has pinned pages of programs above RAM, with the same words', () => {
    const space = new PhysicalSpace();
    const file = new SimulatedMemfd(0x1000n);
    space.frames.pin(fileBacking(file), 0, 1);
    const pa = space.frames.frameOf(fileBacking(file), 0) * PAGE;
    expect(pa).toBeGreaterThanOrEqual(RAM_END);
    expect(space.store64(pa + 16, 0x89ab_cdef, 0x0123_4567)).toBe(true);
    const word = new Uint32Array(2);
    expect(space.load64(pa + 16, word)).toBe(true);
    expect([...word]).toEqual([0x89ab_cdef, 0x0123_4567]);
    const bytes = new Uint8Array(1);
    file.read(16n, bytes);
    expect(bytes[0]).toBe(0xef);
    expect(space.write(pa, new Uint8Array([7]))).toBe(true);
    expect(space.read(pa, bytes)).toBe(true);
    expect(bytes[0]).toBe(7);
  });

  test('answers nothing where there is neither RAM nor a pinned page', () => {
    const space = new PhysicalSpace();
    const pa = space.allocate(1);
    const word = new Uint32Array(2);
    for (const address of [0, 0x8_0000, pa + PAGE, RAM_END, RAM_END + 0x1000, 2 ** 52 - 8]) {
      expect(space.load64(address, word)).toBe(false);
      expect(space.store64(address, 1, 1)).toBe(false);
      expect(space.read(address, new Uint8Array(8))).toBe(false);
      expect(space.write(address, new Uint8Array(8))).toBe(false);
    }
  });

  test('does nothing of an access that reaches beyond RAM', () => {
    const space = new PhysicalSpace();
    const pa = space.allocate(1);
    expect(space.write(pa + PAGE - 4, new Uint8Array(8).fill(1))).toBe(false);
    const bytes = new Uint8Array(4).fill(9);
    space.read(pa + PAGE - 4, bytes);
    expect([...bytes]).toEqual([0, 0, 0, 0]);
  });
});

describe('RAM that is shared with programs', () => {
  const shared = (): { bytes: Uint8Array; where: SharedPages } => {
    const bytes = new Uint8Array(2 * PAGE);
    const where: SharedPages = {
      read: (offset, into) => {
        into.set(bytes.subarray(offset, offset + into.length));
        return true;
      },
      write: (offset, from) => {
        bytes.set(from, offset);
        return true;
      },
    };
    return { bytes, where };
  };

  test('starts with what it held, and is then one memory for both', () => {
    const space = new PhysicalSpace();
    const pa = space.allocate(2);
    space.write(pa + PAGE, Uint8Array.of(1, 2, 3));
    const { bytes, where } = shared();
    space.share(pa, 2, where);
    expect([...bytes.subarray(PAGE, PAGE + 3)]).toEqual([1, 2, 3]);
    bytes[PAGE + 8] = 7;
    const word = new Uint32Array(2);
    expect(space.load64(pa + PAGE + 8, word)).toBe(true);
    expect([...word]).toEqual([7, 0]);
    expect(space.store64(pa, 0x01020304, 0x05060708)).toBe(true);
    expect([...bytes.subarray(0, 8)]).toEqual([4, 3, 2, 1, 8, 7, 6, 5]);
  });

  test('stays where it is when it is shared again, and comes back with what is there', () => {
    const space = new PhysicalSpace();
    const pa = space.allocate(2);
    const { bytes, where } = shared();
    space.share(pa, 2, where);
    bytes[5] = 5;
    space.share(pa, 2, shared().where);
    const byte = new Uint8Array(1);
    expect(space.read(pa + 5, byte)).toBe(true);
    expect(byte[0]).toBe(5);
    space.unshare(pa);
    bytes[5] = 6;
    expect(space.read(pa + 5, byte)).toBe(true);
    expect(byte[0]).toBe(5);
    expect(space.read(pa + PAGE, byte)).toBe(true);
  });

  test('ends where it ends', () => {
    const space = new PhysicalSpace();
    const pa = space.allocate(2);
    space.share(pa, 2, shared().where);
    expect(space.read(pa + 2 * PAGE, new Uint8Array(1))).toBe(false);
    expect(space.write(pa + 2 * PAGE - 1, new Uint8Array(2))).toBe(false);
  });
});
