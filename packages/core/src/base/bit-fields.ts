import { assert } from './assert.ts';
import { big, lo32, u64 } from './u64.ts';

/**
 * What software may do with a field: RW read and write, RO read only, WO write only (reads as zero), W1C write one to
 * clear, RES0 reserved (reads as zero, writes are ignored).
 */
export type FieldAccess = 'RW' | 'RO' | 'WO' | 'W1C' | 'RES0';

/** `[bit]` or `[msb, lsb]`, in the specification's absolute numbering. */
export type Bits = readonly [number] | readonly [number, number];

export interface FieldSpec {
  readonly bits: Bits;
  readonly access: FieldAccess;
  /** Value after reset; UNKNOWN in the specification is 0 here. */
  readonly reset: number;
}

const spec =
  (access: FieldAccess) =>
  (bits: Bits, reset = 0): FieldSpec => ({ bits, access, reset });

export const RW = spec('RW');
export const RO = spec('RO');
export const WO = spec('WO');
export const W1C = spec('W1C');
export const RES0 = (bits: Bits): FieldSpec => ({ bits, access: 'RES0', reset: 0 });

/**
 * A field of a register or structure that is an array of little-endian 32-bit words. `word`, `shift` and `mask` (the
 * mask before the shift is undone: `(words[word] >>> shift) & mask`) are exact where the field lies within one word,
 * which is all that hot code uses.
 */
export interface Field {
  readonly name: string;
  readonly msb: number;
  readonly lsb: number;
  readonly width: number;
  readonly access: FieldAccess;
  readonly reset: number;
  readonly word: number;
  readonly shift: number;
  /** `width` ones, at bit 0; all ones for 32 bits. Meaningless where the field crosses a word. */
  readonly mask: number;
  /** The field in place within its word, as a u32. Meaningless where the field crosses a word. */
  readonly inPlace: number;
}

/** A register or structure: its fields, by the specification's names, and the masks that follow from them. */
export type Layout<F extends Record<string, FieldSpec>> = {
  readonly [Name in keyof F]: Field;
} & { readonly $: LayoutInfo };

export interface LayoutInfo {
  readonly name: string;
  /** Bits in the whole. */
  readonly width: number;
  readonly fields: readonly Field[];
  /** Bits that software can write, per word. */
  readonly writable: Uint32Array;
  /** Bits that read as something other than zero, per word. */
  readonly readable: Uint32Array;
  /** Value after reset, per word. */
  readonly reset: Uint32Array;
}

/**
 * Builds a layout. Bits that no field names are RES0. Throws InvariantError where fields overlap, lie outside, or have
 * a reset value that does not fit: a layout is checked when its module loads.
 */
export function layout<const F extends Record<string, FieldSpec>>(
  name: string,
  width: number,
  specs: F,
): Layout<F> {
  const words = Math.ceil(width / 32);
  const taken: (string | undefined)[] = [];
  const fields: Field[] = [];
  const writable = new Uint32Array(words);
  const readable = new Uint32Array(words);
  const reset = new Uint32Array(words);
  const byName: Record<string, Field> = {};
  for (const [fieldName, { bits, access, reset: value }] of Object.entries(specs)) {
    const field = makeField(fieldName, bits, access, value);
    assert(field.msb < width, `${name}.${fieldName} lies outside of ${width} bits`);
    assert(value >= 0 && value < 2 ** field.width, `${name}.${fieldName}: the reset value does not fit`);
    for (let bit = field.lsb; bit <= field.msb; bit++) {
      assert(taken[bit] === undefined, `${name}.${fieldName} overlaps ${taken[bit]} at bit ${bit}`);
      taken[bit] = fieldName;
      const word = bit >>> 5;
      const one = 1 << (bit & 31);
      if (access === 'RW' || access === 'WO' || access === 'W1C') writable[word]! |= one;
      if (access !== 'RES0' && access !== 'WO') readable[word]! |= one;
    }
    fields.push(field);
    byName[fieldName] = field;
    if (access !== 'RES0' && value !== 0) writeField(field, reset, value);
  }
  const info: LayoutInfo = { name, width, fields, writable, readable, reset };
  return Object.freeze({ ...byName, $: info }) as unknown as Layout<F>;
}

function makeField(name: string, bits: Bits, access: FieldAccess, reset: number): Field {
  const msb = bits[0];
  const lsb = bits[1] ?? bits[0];
  assert(msb >= lsb && lsb >= 0, `${name} is written [${bits.join(', ')}]`);
  const width = msb - lsb + 1;
  const shift = lsb & 31;
  const mask = width >= 32 ? 0xffff_ffff : 2 ** width - 1;
  const inPlace = (mask << shift) >>> 0;
  return { name, msb, lsb, width, access, reset, word: lsb >>> 5, shift, mask, inPlace };
}

/** Reads a field of at most 52 bits as a number. */
export function readField(field: Field, words: ArrayLike<number>): number {
  const first = words[field.word]! >>> field.shift;
  const have = 32 - field.shift;
  if (field.width <= have) return (first & field.mask) >>> 0;
  let value = first;
  let got = have;
  for (let word = field.word + 1; got < field.width; word++) {
    const rest = Math.min(32, field.width - got);
    const part = rest === 32 ? words[word]! >>> 0 : words[word]! & (2 ** rest - 1);
    value += part * 2 ** got;
    got += rest;
  }
  return value;
}

/** Reads a field of up to 64 bits. */
export function readField64(field: Field, words: ArrayLike<number>): bigint {
  if (field.width <= 52) return big(readField(field, words));
  const upper = field.shift + field.width > 64 ? words[field.word + 2]! : 0;
  const all = (big(upper) << 64n) | u64(words[field.word + 1]!, words[field.word]!);
  return BigInt.asUintN(field.width, all >> big(field.shift));
}

/**
 * Reads a field that holds the upper bits of an address in place: bit 4 of the address lies at bit 4 of its 64-bit
 * word. The bits below the field are zero. Exact up to 2^53.
 */
export function readAddress(field: Field, words: ArrayLike<number>): number {
  return readField(field, words) * 2 ** (field.lsb & 63);
}

/** Stores a field; bits of `value` that do not fit are dropped. */
export function writeField(field: Field, words: { [index: number]: number }, value: number | bigint): void {
  let rest = BigInt.asUintN(field.width, BigInt(value));
  let left = field.width;
  for (let word = field.word, shift = field.shift; left > 0; word++, shift = 0) {
    const here = Math.min(32 - shift, left);
    const mask = here === 32 ? 0xffff_ffff : ((2 ** here - 1) << shift) >>> 0;
    const part = lo32(BigInt.asUintN(here, rest));
    words[word] = ((words[word]! & ~mask) | ((part << shift) & mask)) >>> 0;
    rest >>= BigInt(here);
    left -= here;
  }
}

/** Stores an address in a field that {@link readAddress} reads. */
export function writeAddress(field: Field, words: { [index: number]: number }, address: number): void {
  writeField(field, words, BigInt(address) >> BigInt(field.lsb & 63));
}

/** The words of a structure with the given fields set and all else zero. */
export function encode<F extends Record<string, FieldSpec>>(
  of: Layout<F>,
  values: { readonly [Name in keyof F]?: number | bigint | boolean },
): Uint32Array {
  const words = new Uint32Array(Math.ceil(of.$.width / 32));
  for (const [name, value] of Object.entries(values)) {
    const field = of[name as keyof F] as Field | undefined;
    assert(field !== undefined, `${of.$.name} has no field ${name}`);
    if (value !== undefined)
      writeField(field, words, typeof value === 'boolean' ? +value : (value as number));
  }
  return words;
}

/** Every named field of the words, for people to read: numbers up to 52 bits, bigint above. */
export function decode<F extends Record<string, FieldSpec>>(
  of: Layout<F>,
  words: ArrayLike<number>,
): Record<string, number | bigint> {
  const out: Record<string, number | bigint> = {};
  for (const field of of.$.fields) {
    if (field.access === 'RES0') continue;
    out[field.name] = field.width <= 52 ? readField(field, words) : readField64(field, words);
  }
  return out;
}

/** The name of an encoding's value, or the value itself where it has none. */
export function nameOf(encoding: Readonly<Record<string, number>>, value: number): string {
  for (const [name, number] of Object.entries(encoding)) if (number === value) return name;
  return String(value);
}
