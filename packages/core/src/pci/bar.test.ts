import { describe, expect, test } from 'vitest';
import { BarMemory } from './bar-memory.ts';
import { registers32 } from './bar.ts';
import { ByteStorage } from './testing/byte-storage.ts';

describe('32-bit registers behind a BAR', () => {
  const rig = (): { words: Uint32Array; stores: number[]; handler: ReturnType<typeof registers32> } => {
    const words = new Uint32Array([0x1122_3344, 0x5566_7788]);
    const stores: number[] = [];
    const handler = registers32({
      read32: (offset) => words[offset / 4]!,
      write32: (offset, value) => {
        stores.push(offset);
        words[offset / 4] = value;
      },
    });
    return { words, stores, handler };
  };

  test('are read by accesses of every size', () => {
    const { handler } = rig();
    expect([0, 1, 2, 3].map((at) => handler.read(at, 1))).toEqual([0x44n, 0x33n, 0x22n, 0x11n]);
    expect([handler.read(2, 2), handler.read(4, 4)]).toEqual([0x1122n, 0x5566_7788n]);
    expect(handler.read(0, 8)).toBe(0x5566_7788_1122_3344n);
  });

  test('keep their other bytes when a part is stored, and take 8 bytes the lower half first', () => {
    const { words, stores, handler } = rig();
    handler.write(3, 1, 0xeen);
    handler.write(4, 2, 0xaabbn);
    expect([...words]).toEqual([0xee22_3344, 0x5566_aabb]);
    stores.length = 0;
    handler.write(0, 8, 0x0102_0304_f506_0708n);
    expect([[...words], stores]).toEqual([
      [0xf506_0708, 0x0102_0304],
      [0, 4],
    ]);
  });
});

describe('memory behind a BAR', () => {
  test('moves to where programs see it, and back', () => {
    const memory = new BarMemory(0x100);
    memory.set32(4, 0xdead_beef);
    const pages = new ByteStorage(0x300);
    memory.share(pages, 0x200n);
    expect([memory.shared, pages.view.getUint32(0x204, true)]).toEqual([true, 0xdead_beef]);
    pages.view.setUint32(0x208, 7, true);
    expect(memory.get32(8)).toBe(7);
    memory.unshare();
    pages.view.setUint32(0x208, 9, true);
    expect([memory.shared, memory.get32(8), memory.get32(4)]).toEqual([false, 7, 0xdead_beef]);
  });

  test('reads as ones where it cannot be reached', () => {
    const memory = new BarMemory(16);
    memory.share({ read: () => false, write: () => false }, 0n);
    expect(memory.get32(0)).toBe(0xffff_ffff);
    memory.unshare();
    expect(memory.get32(0)).toBe(0);
  });

  test('serves accesses of every size, and tells of each store', () => {
    const memory = new BarMemory(16);
    let stores = 0;
    const handler = memory.handler(() => stores++);
    handler.write(0, 8, 0x0102_0304_0506_0708n);
    handler.write(1, 1, 0xffn);
    expect([handler.read(0, 4), handler.read(4, 2), handler.read(1, 1), stores]).toEqual([
      0x0506_ff08n,
      0x0304n,
      0xffn,
      2,
    ]);
  });
});
