import { EFAULT, EOVERFLOW, Errno, must } from './errno.ts';

// The program's memory. A page is known by the physical address of its frame. Private pages lie two frames apart, so
// that no two of them are neighbours; the pages of a file are neighbours from a multiple of 2 MiB on.

export const PAGE = 4096;
export const PAGE_N = 4096n;
export const U64_MAX = (1n << 64n) - 1n;

const PRIVATE_BASE = 2 ** 40;
const FILE_BASE = 2 ** 50;
/** The largest file: the frames of a larger one would not be one aligned block. */
const FILE_BYTES_MAX = 2 ** 21;

/** `a + b` in 64 bits, or null where that overflows: check_add_overflow(). */
export function add(a: bigint, b: bigint): bigint | null {
  const sum = a + b;
  return sum > U64_MAX || sum < 0n ? null : sum;
}

/** `value` modulo 2^64. */
export function wrap(value: bigint): bigint {
  return BigInt.asUintN(64, value);
}

export function alignDown(value: bigint): bigint {
  return value & ~(PAGE_N - 1n);
}

/** A memfd. */
export interface ModelFile {
  readonly kind: 'memfd';
  readonly base: number;
  readonly size: bigint;
}

/** Physical memory: what the frames hold, all zero at first. */
export class Frames {
  readonly #frames = new Map<number, Uint8Array>();
  #nextFile = FILE_BASE;

  frame(pa: number): Uint8Array {
    let bytes = this.#frames.get(pa);
    if (bytes === undefined) this.#frames.set(pa, (bytes = new Uint8Array(PAGE)));
    return bytes;
  }

  /** An aligned block of physical memory that nothing else uses. */
  reserve(): number {
    const base = this.#nextFile;
    this.#nextFile += FILE_BYTES_MAX;
    return base;
  }
}

/** An address space of private memory. */
export class Memory {
  readonly frames: Frames;
  /** Mapped ranges, both ends inclusive. */
  #mapped: { start: bigint; last: bigint }[] = [];

  constructor(frames: Frames) {
    this.frames = frames;
  }

  map(start: bigint, length: bigint): void {
    this.unmap(start, length);
    this.#mapped.push({ start, last: start + length - 1n });
  }

  unmap(start: bigint, length: bigint): void {
    const last = start + length - 1n;
    this.#mapped = this.#mapped.flatMap((range) => {
      if (range.last < start || range.start > last) return [range];
      const rest = [];
      if (range.start < start) rest.push({ start: range.start, last: start - 1n });
      if (range.last > last) rest.push({ start: last + 1n, last: range.last });
      return rest;
    });
  }

  /** The frame of the page that holds `va`. EFAULT where nothing is mapped. */
  page(va: bigint): number {
    // get_user_pages_fast(): the end of the last page is no address.
    must(va < U64_MAX - PAGE_N + 1n, EOVERFLOW);
    must(
      this.#mapped.some((range) => range.start <= va && va <= range.last),
      EFAULT,
    );
    return PRIVATE_BASE + Number(va / PAGE_N) * 2 * PAGE;
  }

  /** copy_from_user(). */
  read(va: bigint, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.#each(va, length, (frame, offset, at, count) =>
      bytes.set(frame.subarray(offset, offset + count), at),
    );
    return bytes;
  }

  /** copy_to_user(), which writes nothing where it cannot write all. */
  write(va: bigint, bytes: Uint8Array): void {
    this.#each(va, bytes.length, (frame, offset, at, count) =>
      frame.set(bytes.subarray(at, at + count), offset),
    );
  }

  #each(
    va: bigint,
    length: number,
    visit: (frame: Uint8Array, offset: number, at: number, count: number) => void,
  ): void {
    if (length === 0) return;
    const last = va + BigInt(length) - 1n;
    for (let at = alignDown(va); at <= last; at += PAGE_N) this.page(at);
    let offset = Number(va % PAGE_N);
    for (let at = 0; at < length; offset = 0) {
      const count = Math.min(PAGE - offset, length - at);
      visit(this.frames.frame(this.page(va + BigInt(at))), offset, at, count);
      at += count;
    }
  }
}

/** copy_struct_from_user(): a shorter struct is filled with zeros, a longer one may only go on with zeros. */
export function copyStruct(memory: Memory, va: bigint, kernelSize: number, userSize: number): Uint8Array {
  const bytes = new Uint8Array(kernelSize);
  // The rest is looked at in order: E2BIG at the first byte that is not zero, EFAULT at the first that is not there.
  for (let at = kernelSize; at < userSize; at += PAGE) {
    const count = Math.min(PAGE - Number((va + BigInt(at)) % PAGE_N), userSize - at);
    if (memory.read(va + BigInt(at), count).some((byte) => byte !== 0)) throw new Errno(7);
    at += count - PAGE;
  }
  bytes.set(memory.read(va, Math.min(kernelSize, userSize)));
  return bytes;
}
