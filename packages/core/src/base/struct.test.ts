import fc from 'fast-check';
import { describe, expect, expectTypeOf, test } from 'vitest';
import { iommu_ioas_map } from '../abi/iommufd.ts';
import { iommu_test_cmd, iommu_test_cmd_dirty } from '../abi/iommufd-test.ts';
import { array, bytes, pad, s32, s64, struct, u16, u32, u64, u8, type StructValue } from './struct.ts';

const every = struct('every', 64, {
  a: u8,
  b: u8,
  c: u16,
  d: u32,
  e: s32,
  __hole: pad(4),
  f: u64,
  g: s64,
  h: bytes(3),
  __hole2: pad(5),
  i: array(u64, 2),
  j: struct('inner', 8, { x: u16, __hole: pad(2), y: u32 }),
});

describe('a layout', () => {
  test('knows size, offset and end of every field', () => {
    expect(iommu_ioas_map.size).toBe(40);
    expect(iommu_ioas_map.offset.user_va).toBe(16);
    expect(iommu_ioas_map.endOf('iova')).toBe(40);
    expect(every.fields.map(({ name, offset, size }) => [name, offset, size])).toEqual([
      ['a', 0, 1],
      ['b', 1, 1],
      ['c', 2, 2],
      ['d', 4, 4],
      ['e', 8, 4],
      ['__hole', 12, 4],
      ['f', 16, 8],
      ['g', 24, 8],
      ['h', 32, 3],
      ['__hole2', 35, 5],
      ['i', 40, 16],
      ['j', 56, 8],
    ]);
  });

  test('refuses a hole that is not declared', () => {
    expect(() => struct('s', 16, { a: u32, b: u64 })).toThrow(
      'struct s: 4 bytes of padding before b are not declared',
    );
  });

  test('refuses a size that its fields do not have', () => {
    expect(() => struct('s', 16, { a: u64 })).toThrow(
      'struct s is declared with 16 bytes, its fields have 8',
    );
  });

  test('refuses a tail that C would pad', () => {
    expect(() => struct('s', 12, { a: u64, b: u32 })).toThrow(
      'its size 12 is not a multiple of its alignment 8',
    );
  });
});

describe('a value', () => {
  const u32s = fc.integer({ min: 0, max: 0xffff_ffff });
  const u64s = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
  const values: fc.Arbitrary<StructValue<typeof every>> = fc.record({
    a: fc.integer({ min: 0, max: 255 }),
    b: fc.integer({ min: 0, max: 255 }),
    c: fc.integer({ min: 0, max: 0xffff }),
    d: u32s,
    e: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    f: u64s,
    g: fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
    h: fc.uint8Array({ minLength: 3, maxLength: 3 }),
    i: fc.array(u64s, { minLength: 2, maxLength: 2 }),
    j: fc.record({ x: fc.integer({ min: 0, max: 0xffff }), y: u32s }),
  });

  test('comes back as it was written, wherever in a buffer, and nothing around it changes', () => {
    fc.assert(
      fc.property(values, fc.nat(9), fc.nat(9), (value, begin, at) => {
        const memory = new Uint8Array(100).fill(0xa5);
        const window = memory.subarray(begin, begin + every.size + at);
        every.write(window, at, value);
        expect(every.read(window, at)).toEqual(value);
        const padding = every.fields.filter(({ type }) => type.padding);
        const untouched = [...memory].filter((_, i) => {
          const here = i - begin - at;
          if (here < 0 || here >= every.size) return true;
          return padding.some(({ offset, size }) => here >= offset && here < offset + size);
        });
        expect(untouched).toStrictEqual(untouched.map(() => 0xa5));
      }),
    );
  });

  test('is little-endian', () => {
    const memory = new Uint8Array(40);
    iommu_ioas_map.write(memory, 0, { ...iommu_ioas_map.create(), size: 40, iova: 0x1122_3344_5566_7788n });
    expect([...memory.subarray(0, 4)]).toEqual([40, 0, 0, 0]);
    expect([...memory.subarray(32)]).toEqual([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
  });

  test('holds nothing of the buffer that it was read from', () => {
    const memory = new Uint8Array(every.size).fill(1);
    const value = every.read(memory);
    memory.fill(2);
    expect([...value.h]).toEqual([1, 1, 1]);
    expect(value.i).toEqual([0x0101_0101_0101_0101n, 0x0101_0101_0101_0101n]);
  });

  test('is created zeroed and shares nothing with the next one', () => {
    const value = every.create();
    value.i[0] = 1n;
    value.h[0] = 1;
    value.j.x = 1;
    expect(every.create()).toStrictEqual(every.read(new Uint8Array(every.size)));
  });

  test('has the fields that C has, and no padding', () => {
    expect(Object.keys(iommu_test_cmd.create())).toEqual(['size', 'op', 'id', '__reserved', 'last']);
    expectTypeOf<StructValue<typeof iommu_test_cmd_dirty>['out_nr_dirty']>().toEqualTypeOf<bigint>();
    expectTypeOf<keyof StructValue<typeof iommu_test_cmd>>().toEqualTypeOf<
      'size' | 'op' | 'id' | '__reserved' | 'last'
    >();
  });

  test('is written field by field where only one field changed', () => {
    const memory = new Uint8Array(50).fill(0xff);
    iommu_ioas_map.writeField(memory, 5, 'iova', 0n);
    iommu_ioas_map.writeField(memory, 5, 'flags', 7);
    const value = iommu_ioas_map.read(memory, 5);
    expect([value.size, value.flags, value.iova]).toEqual([0xffff_ffff, 7, 0n]);
    expect(memory.subarray(0, 5)).toEqual(new Uint8Array(5).fill(0xff));
    expect(memory.subarray(45)).toEqual(new Uint8Array(5).fill(0xff));
  });

  test('is read field by field where only one field is wanted', () => {
    const memory = new Uint8Array(50);
    iommu_ioas_map.write(memory, 5, { ...iommu_ioas_map.create(), flags: 7, iova: 2n ** 63n });
    expect(iommu_ioas_map.readField(memory, 5, 'flags')).toBe(7);
    expect(iommu_ioas_map.readField(memory, 5, 'iova')).toBe(2n ** 63n);
  });

  test('is neither read nor written across the end of a buffer, even inside its ArrayBuffer', () => {
    const window = new Uint8Array(100).subarray(10, 49);
    expect(() => iommu_ioas_map.read(window)).toThrow('struct iommu_ioas_map: 40 bytes at 0 of 39');
    expect(() => iommu_ioas_map.read(window, -1)).toThrow('at -1 of 39');
    expect(() => iommu_ioas_map.write(window, 0, iommu_ioas_map.create())).toThrow('40 bytes at 0 of 39');
    expect(() => iommu_ioas_map.writeField(window, 0, 'iova', 0n)).toThrow('40 bytes at 0 of 39');
    expect(() => iommu_ioas_map.writeField(window, 0, 'length', 0n)).not.toThrow();
    expect(() => iommu_ioas_map.readField(window, 0, 'iova')).toThrow('40 bytes at 0 of 39');
    expect(() => iommu_ioas_map.readField(window, 0, 'length')).not.toThrow();
  });
});
