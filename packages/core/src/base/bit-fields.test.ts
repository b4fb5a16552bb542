import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  RES0,
  RO,
  RW,
  W1C,
  decode,
  encode,
  layout,
  nameOf,
  readAddress,
  readField,
  readField64,
  writeAddress,
  writeField,
} from './bit-fields.ts';

const DEMO = layout('DEMO', 128, {
  V: RW([0]),
  Config: RW([3, 1], 5),
  Size: RO([5, 4], 2),
  Pointer: RW([55, 6]),
  _58: RES0([58, 56]),
  Count: RW([63, 59]),
  Flag: W1C([64]),
  Wide: RW([127, 96]),
});

describe('bit fields', () => {
  it('keep the numbering of the specification', () => {
    const words = encode(DEMO, { V: 1, Config: 7, Count: 31, Wide: 0xffff_ffff });
    expect([...words]).toEqual([0xf, 0xf800_0000, 0, 0xffff_ffff]);
  });

  it('precompute word, shift and mask', () => {
    expect(DEMO.Config).toMatchObject({ word: 0, shift: 1, mask: 7, inPlace: 0xe, width: 3 });
    expect(DEMO.Count).toMatchObject({ word: 1, shift: 27, mask: 31, inPlace: 0xf800_0000 });
    expect(DEMO.Wide).toMatchObject({ word: 3, shift: 0, mask: 0xffff_ffff, inPlace: 0xffff_ffff });
  });

  it('derive what can be written, what can be read and the reset value', () => {
    expect([...DEMO.$.writable]).toEqual([0xffff_ffcf, 0xf8ff_ffff, 1, 0xffff_ffff]);
    expect([...DEMO.$.readable]).toEqual([0xffff_ffff, 0xf8ff_ffff, 1, 0xffff_ffff]);
    expect([...DEMO.$.reset]).toEqual([0x2a, 0, 0, 0]);
  });

  it('refuse an overlap, a field outside and a reset value that does not fit, when the module loads', () => {
    expect(() => layout('BAD', 32, { A: RW([7, 0]), B: RW([7]) })).toThrow('BAD.B overlaps A at bit 7');
    expect(() => layout('BAD', 32, { A: RW([32]) })).toThrow('BAD.A lies outside of 32 bits');
    expect(() => layout('BAD', 32, { A: RW([1, 0], 4) })).toThrow('does not fit');
    expect(() => layout('BAD', 32, { A: RW([0, 1]) })).toThrow('A is written [0, 1]');
  });

  it('hold addresses in place', () => {
    const words = new Uint32Array(4);
    writeAddress(DEMO.Pointer, words, 0x12_3456_789a_bcc0);
    expect(readAddress(DEMO.Pointer, words)).toBe(0x12_3456_789a_bcc0);
    expect([...words]).toEqual([0x789a_bcc0, 0x12_3456, 0, 0]);
  });

  it('decode into the names of the specification and leave reserved bits out', () => {
    expect(decode(DEMO, encode(DEMO, { Config: 4, Pointer: 3 }))).toEqual({
      V: 0,
      Config: 4,
      Size: 0,
      Pointer: 3,
      Count: 0,
      Flag: 0,
      Wide: 0,
    });
    expect(() => encode(DEMO, { Nope: 1 } as never)).toThrow('DEMO has no field Nope');
  });

  it('read 64-bit fields', () => {
    const wide = layout('WIDE', 128, { A: RW([127, 64]), B: RW([63, 8]) });
    const words = encode(wide, { A: 0xfedc_ba98_7654_3210n });
    expect(readField64(wide.A, words)).toBe(0xfedc_ba98_7654_3210n);
    expect(decode(wide, encode(wide, { A: 1n }))['A']).toBe(1n);
    writeField(wide.B, words, 0xab_cdef_0123_4567n);
    expect(readField64(wide.B, words)).toBe(0xab_cdef_0123_4567n);
    expect(readField64(wide.A, words)).toBe(0xfedc_ba98_7654_3210n);
  });

  it('of more than 52 bits may end with the last word', () => {
    const last = layout('LAST', 64, { A: RW([55, 3]) });
    expect(readField64(last.A, [0xffff_fff8, 0x00ff_ffff])).toBe(0x1f_ffff_ffff_ffffn);
  });

  it('name encodings, and print unknown values as numbers', () => {
    expect(nameOf({ Abort: 0, Bypass: 4 }, 4)).toBe('Bypass');
    expect(nameOf({ Abort: 0, Bypass: 4 }, 3)).toBe('3');
  });

  it('read back what was written and change no neighbour', () => {
    const place = fc
      .tuple(fc.integer({ min: 0, max: 127 }), fc.integer({ min: 1, max: 52 }))
      .map(([lsb, width]) => [Math.min(127, lsb + width - 1), lsb] as const);
    fc.assert(
      fc.property(
        place,
        fc.bigInt(0n, (1n << 52n) - 1n),
        fc.array(fc.nat(0xffff_ffff), { minLength: 4, maxLength: 4 }),
        (bits, value, before) => {
          const field = layout('P', 128, { F: RW(bits) }).F;
          const words = Uint32Array.from(before);
          writeField(field, words, value);
          const expected = BigInt.asUintN(field.width, value);
          expect(BigInt(readField(field, words))).toBe(expected);
          const asBig = (list: ArrayLike<number>) =>
            [0, 1, 2, 3].reduce((sum, i) => sum | (BigInt(list[i]!) << BigInt(32 * i)), 0n);
          const mask = ((1n << BigInt(field.width)) - 1n) << BigInt(field.lsb);
          expect(asBig(words) & ~mask).toBe(asBig(before) & ~mask);
        },
      ),
    );
  });
});
