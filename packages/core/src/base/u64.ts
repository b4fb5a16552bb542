// The one place where 64-bit quantities change their form. A u64 that crosses an interface is a bigint; hot code takes it
// apart once, at its door, into two u32 or a page number (2^52, exact in a number).

export const U64_MAX = 0xffff_ffff_ffff_ffffn;
export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
export const PAGE_SIZE_N = 4096n;
export const PAGE_MASK_N = 4095n;

// Storing a bigint in a typed array and reading its halves makes no new bigint; `value >> 32n` would.
const word = new BigUint64Array(1);
const halves = new Uint32Array(word.buffer);
const HI = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1 ? 1 : 0;
const LO = 1 - HI;

/** The upper 32 bits of a u64, as a number. */
export function hi32(value: bigint): number {
  word[0] = value;
  return halves[HI]!;
}

/** The lower 32 bits of a u64, as a number. */
export function lo32(value: bigint): number {
  word[0] = value;
  return halves[LO]!;
}

/** Puts a u64 together from two u32. */
export function u64(hi: number, lo: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

/** The number of the 4 KiB page that holds byte `address`. */
export function pageNumber(address: bigint): number {
  word[0] = address;
  return halves[HI]! * 0x10_0000 + (halves[LO]! >>> PAGE_SHIFT);
}

/** The offset of byte `address` in its 4 KiB page. */
export function pageOffset(address: bigint): number {
  word[0] = address;
  return halves[LO]! & (PAGE_SIZE - 1);
}

/** The first byte of page `page`. */
export function pageAddress(page: number): bigint {
  halves[LO] = page << PAGE_SHIFT;
  halves[HI] = page / 0x10_0000;
  return word[0]!;
}

/** A u64 known to fit a JavaScript number exactly (at most 2^53 - 1). Throws RangeError where it does not. */
export function exact(value: bigint): number {
  const n = hi32(value) * 0x1_0000_0000 + halves[LO]!;
  if (!Number.isSafeInteger(n)) throw new RangeError(`0x${value.toString(16)} does not fit a number`);
  return n;
}

/** A number as a u64. */
export function big(value: number): bigint {
  return BigInt(value);
}

/** `value` modulo 2^64. */
export function wrap64(value: bigint): bigint {
  return BigInt.asUintN(64, value);
}

/** The lowest set bit of a non-zero u64, as a power of two. */
export function lowestBit(value: bigint): bigint {
  return value & -value;
}

/** The position of the lowest set bit of a non-zero u64. */
export function countTrailingZeros(value: bigint): number {
  const lo = lo32(value);
  if (lo !== 0) return 31 - Math.clz32(lo & -lo);
  const hi = hi32(value);
  return 63 - Math.clz32(hi & -hi);
}

/** The smallest power of two that is at least `value` (value ≥ 1). */
export function roundUpPowerOfTwo(value: bigint): bigint {
  return value <= 1n ? 1n : 1n << BigInt((value - 1n).toString(2).length);
}

/** Hexadecimal, as traces and messages print addresses. */
export function hex(value: bigint | number): string {
  return `0x${value.toString(16)}`;
}
