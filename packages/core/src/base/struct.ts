import { assert, InvariantError } from './assert.ts';

// Layouts of C structs: one literal each, little-endian, offsets implied by the order of the fields, every padding
// declared. A layout that C would lay out differently throws while its module loads.

/** How a field lies in memory. `load` and `store` work on a view that is known to hold the whole field. */
export interface FieldType<T> {
  /** The C spelling, as messages print it. */
  readonly name: string;
  /** In bytes. */
  readonly size: number;
  /** In bytes; a power of two. */
  readonly align: number;
  /** True for bytes that C calls padding: not part of the value, left alone by writes. */
  readonly padding: boolean;
  zero(): T;
  load(view: DataView, at: number): T;
  store(view: DataView, at: number, value: T): void;
}

function integer(
  name: string,
  size: number,
  load: (view: DataView, at: number) => number,
  store: (view: DataView, at: number, value: number) => void,
): FieldType<number> {
  return { name, size, align: size, padding: false, zero: () => 0, load, store };
}

function integer64(
  name: string,
  load: (view: DataView, at: number) => bigint,
  store: (view: DataView, at: number, value: bigint) => void,
): FieldType<bigint> {
  return { name, size: 8, align: 8, padding: false, zero: () => 0n, load, store };
}

export const u8 = integer(
  '__u8',
  1,
  (view, at) => view.getUint8(at),
  (view, at, value) => view.setUint8(at, value),
);

export const u16 = integer(
  '__u16',
  2,
  (view, at) => view.getUint16(at, true),
  (view, at, value) => view.setUint16(at, value, true),
);

export const u32 = integer(
  '__u32',
  4,
  (view, at) => view.getUint32(at, true),
  (view, at, value) => view.setUint32(at, value, true),
);

export const s32 = integer(
  '__s32',
  4,
  (view, at) => view.getInt32(at, true),
  (view, at, value) => view.setInt32(at, value, true),
);

export const u64 = integer64(
  '__aligned_u64',
  (view, at) => view.getBigUint64(at, true),
  (view, at, value) => view.setBigUint64(at, value, true),
);

export const s64 = integer64(
  '__s64',
  (view, at) => view.getBigInt64(at, true),
  (view, at, value) => view.setBigInt64(at, value, true),
);

/** `__u8 field[count]`: a copy of the bytes. */
export function bytes(count: number): FieldType<Uint8Array> {
  return {
    name: `__u8[${count}]`,
    size: count,
    align: 1,
    padding: false,
    zero: () => new Uint8Array(count),
    load: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, count).slice(),
    store(view, at, value) {
      assert(value.length === count, `${value.length} bytes for a __u8[${count}]`);
      for (let i = 0; i < count; i++) view.setUint8(at + i, value[i]!);
    },
  };
}

/** `type field[count]`, as a JavaScript array. */
export function array<T>(type: FieldType<T>, count: number): FieldType<T[]> {
  return {
    name: `${type.name}[${count}]`,
    size: type.size * count,
    align: type.align,
    padding: false,
    zero: () => Array.from({ length: count }, () => type.zero()),
    load(view, at) {
      const values: T[] = [];
      for (let i = 0; i < count; i++) values.push(type.load(view, at + i * type.size));
      return values;
    },
    store(view, at, value) {
      assert(value.length === count, `${value.length} elements for a ${type.name}[${count}]`);
      for (let i = 0; i < count; i++) type.store(view, at + i * type.size, value[i]!);
    },
  };
}

/** The type of {@link pad}: a struct's value has no such field. */
export interface Padding extends FieldType<undefined> {
  readonly padding: true;
}

/** `count` bytes that C inserts to align what follows, or that a shorter member of a union leaves. */
export function pad(count: number): Padding {
  return {
    name: `padding[${count}]`,
    size: count,
    align: 1,
    padding: true,
    zero: () => undefined,
    load: () => undefined,
    store: () => undefined,
  };
}

// oxlint-disable-next-line typescript/no-explicit-any -- a FieldType is invariant in T, and any T will do
type Fields = Readonly<Record<string, FieldType<any>>>;
type NameOf<F extends Fields> = Extract<
  { [K in keyof F]: F[K] extends Padding ? never : K }[keyof F],
  string
>;
type ValueOf<F extends Fields> = {
  -readonly [K in keyof F as F[K] extends Padding ? never : K]: F[K] extends FieldType<infer T> ? T : never;
};
/** A layout of whatever fields. */
// oxlint-disable-next-line typescript/no-explicit-any -- a Struct is invariant in its fields, and any will do
export type AnyStruct = Struct<any>;
/** The mutable object that `S.read()` answers, for `S` or for `typeof S`. */
export type StructValue<S> = S extends Struct<infer F> ? ValueOf<F> : never;

/** One field of a layout. `offset` and `size` in bytes. */
export interface StructField {
  readonly name: string;
  readonly type: FieldType<unknown>;
  readonly offset: number;
  readonly size: number;
}

// Making a DataView costs half as much as reading a struct through it, and callers use few buffers: keep the last.
let view: DataView = new DataView(new ArrayBuffer(0));

function viewOf(memory: ArrayBufferLike): DataView {
  if (view.buffer !== memory) view = new DataView(memory);
  return view;
}

/** The layout of a C struct and the transfer between its bytes and its value. Usable as a field type. */
export class Struct<F extends Fields> implements FieldType<ValueOf<F>> {
  readonly name: string;
  readonly size: number;
  readonly align: number;
  readonly padding = false;
  /** In order of their offsets, padding included. */
  readonly fields: readonly StructField[];
  /** offsetof(), in bytes. */
  readonly offset: Readonly<Record<NameOf<F>, number>>;
  readonly #byName = new Map<string, StructField>();
  readonly #values: readonly StructField[];
  readonly #template: Record<string, unknown>;
  readonly #flat: boolean;

  constructor(name: string, size: number, fields: F) {
    this.name = name;
    this.size = size;
    this.fields = layOut(name, size, fields);
    this.align = this.fields.reduce((align, field) => Math.max(align, field.type.align), 1);
    this.#values = this.fields.filter((field) => !field.type.padding);
    this.#flat = this.#values.every(({ type }) => typeof type.zero() !== 'object');
    for (const field of this.#values) this.#byName.set(field.name, field);
    this.offset = Object.fromEntries(
      this.#values.map((field) => [field.name, field.offset]),
    ) as typeof this.offset;
    this.#template = {};
    // V8 specialises a property for the small integers it has seen; an undefined first keeps one shape for all values.
    for (const field of this.#values) this.#template[field.name] = undefined;
    for (const field of this.#values) this.#template[field.name] = field.type.zero();
  }

  /** offsetofend(): the offset of the first byte behind field `name`. */
  endOf(name: NameOf<F>): number {
    const field = this.#byName.get(name)!;
    return field.offset + field.size;
  }

  /** A new value, all zero. */
  create(): ValueOf<F> {
    const value = { ...this.#template };
    if (!this.#flat) for (const { name, type } of this.#values) value[name] = type.zero();
    return value as ValueOf<F>;
  }

  /** The value of the struct that begins at `from[at]`; `from` must hold all of it. */
  read(from: Uint8Array, at = 0): ValueOf<F> {
    this.#within(from, at, this.size);
    return this.load(viewOf(from.buffer), from.byteOffset + at);
  }

  /** The value of field `name` alone of the struct that begins at `from[at]`; `from` must hold that field. */
  readField<K extends NameOf<F> & keyof ValueOf<F>>(from: Uint8Array, at: number, name: K): ValueOf<F>[K] {
    const { type, offset, size } = this.#byName.get(name)!;
    this.#within(from, at, offset + size);
    return type.load(viewOf(from.buffer), from.byteOffset + at + offset) as ValueOf<F>[K];
  }

  /** Stores `value` at `into[at]` and on; bytes of padding keep what they hold. `into` must hold the whole struct. */
  write(into: Uint8Array, at: number, value: ValueOf<F>): void {
    this.#within(into, at, this.size);
    this.store(viewOf(into.buffer), into.byteOffset + at, value);
  }

  /** Stores field `name` alone of the struct that begins at `into[at]`; `into` must hold that field. */
  writeField<K extends NameOf<F> & keyof ValueOf<F>>(
    into: Uint8Array,
    at: number,
    name: K,
    value: ValueOf<F>[K],
  ): void {
    const { type, offset, size } = this.#byName.get(name)!;
    this.#within(into, at, offset + size);
    type.store(viewOf(into.buffer), into.byteOffset + at + offset, value);
  }

  zero(): ValueOf<F> {
    return this.create();
  }

  load(from: DataView, at: number): ValueOf<F> {
    const value = { ...this.#template };
    const fields = this.#values;
    for (let i = 0; i < fields.length; i++) {
      const { name, type, offset } = fields[i]!;
      // The two usual types without an indirect call.
      if (type === u32) value[name] = from.getUint32(at + offset, true);
      else if (type === u64) value[name] = from.getBigUint64(at + offset, true);
      else value[name] = type.load(from, at + offset);
    }
    return value as ValueOf<F>;
  }

  store(into: DataView, at: number, value: ValueOf<F>): void {
    const fields = this.#values;
    for (let i = 0; i < fields.length; i++) {
      const { name, type, offset } = fields[i]!;
      const field = (value as Record<string, unknown>)[name];
      if (type === u32) into.setUint32(at + offset, field as number, true);
      else if (type === u64) into.setBigUint64(at + offset, field as bigint, true);
      else type.store(into, at + offset, field);
    }
  }

  #within(memory: Uint8Array, at: number, size: number): void {
    if (at >= 0 && at + size <= memory.length) return;
    throw new InvariantError(`struct ${this.name}: ${size} bytes at ${at} of ${memory.length}`);
  }
}

function layOut(name: string, size: number, fields: Fields): readonly StructField[] {
  const laidOut: StructField[] = [];
  let end = 0;
  let align = 1;
  for (const [field, type] of Object.entries(fields)) {
    const hole = -end & (type.align - 1);
    assert(hole === 0, `struct ${name}: ${hole} bytes of padding before ${field} are not declared`);
    laidOut.push({ name: field, type, offset: end, size: type.size });
    end += type.size;
    align = Math.max(align, type.align);
  }
  assert(end === size, `struct ${name} is declared with ${size} bytes, its fields have ${end}`);
  assert(size % align === 0, `struct ${name}: its size ${size} is not a multiple of its alignment ${align}`);
  return laidOut;
}

/**
 * Declares the layout of `struct name` of `size` bytes. Throws where C's alignment would leave a hole that `fields`
 * does not declare, or where the fields do not add up to `size`.
 */
export function struct<const F extends Fields>(name: string, size: number, fields: F): Struct<F> {
  return new Struct(name, size, fields);
}
