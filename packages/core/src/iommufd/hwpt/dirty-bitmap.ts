import { assert } from '../../base/assert.ts';
import {
  countTrailingZeros,
  exact,
  hi32,
  lo32,
  PAGE_MASK_N,
  PAGE_SIZE,
  PAGE_SIZE_N,
  U64_MAX,
  wrap64,
} from '../../base/u64.ts';
import type { AddressSpace } from '../../memory/process.ts';

// drivers/iommu/iommufd/iova_bitmap.c. The kernel pins a window of up to 512 pages of the bitmap and moves it wherever a
// record does not lie in it. What a program can see of that is here without the pinning:
// - bits are only ever set;
// - a page that cannot be written swallows its bits, and what is left of a record behind such a page is lost, while
//   later records are tried again. Nobody is told: iommu_read_and_clear_dirty() ignores it all;
// - a record that begins before the bitmap's range is lost as a whole;
// - a record that reaches past the range is not cut there. Its bits go on behind the bitmap's end, up to the end of the
//   pages that the window would have pinned.

const PAGE_BITS = PAGE_SIZE * 8;
const WINDOW_PAGES_MAX = 512n;
const TWO_32 = 2 ** 32;

/** The dirty bitmap in the memory of a program that asks with IOMMU_HWPT_GET_DIRTY_BITMAP. */
export class UserBitmap {
  private readonly memory: AddressSpace;
  private readonly va: bigint;
  private readonly iova: bigint;
  private readonly length: bigint;
  private readonly shift: number;
  // The same in numbers, for the usual record.
  private readonly iovaHi: number;
  private readonly iovaLo: number;
  private readonly lastHi: number;
  private readonly lastLo: number;
  /** Bits between the start of the page that holds the bitmap's first byte and that byte. */
  private readonly skew: number;
  private readonly firstPage: bigint;

  // What is to be set in one page of the program, and the bytes of it that are touched.
  private page = 0;
  private readonly bits = new Uint8Array(PAGE_SIZE);
  private readonly merged = new Uint8Array(PAGE_SIZE);
  private low = PAGE_SIZE;
  private high = -1;
  private faulted = false;

  /**
   * `va`: the bitmap's first byte, of any alignment. `iova`, `length`: bytes that it stands for; they must not pass 2^64,
   * and `length` is at least 1. `pageSize`: bytes that one bit stands for; only its lowest set bit counts.
   */
  constructor(memory: AddressSpace, va: bigint, iova: bigint, length: bigint, pageSize: bigint) {
    const last = iova + length - 1n;
    assert(length > 0n && last <= U64_MAX && pageSize > 0n, 'the caller has checked the range of the bitmap');
    this.memory = memory;
    this.va = va;
    this.iova = iova;
    this.length = length;
    this.shift = countTrailingZeros(pageSize);
    this.iovaHi = hi32(iova);
    this.iovaLo = lo32(iova);
    this.lastHi = hi32(length - 1n);
    this.lastLo = lo32(length - 1n);
    this.skew = exact(va & PAGE_MASK_N) * 8;
    this.firstPage = va - (va & PAGE_MASK_N);
  }

  /**
   * Calls `fn` with the whole range, once, and writes what it set: iova_bitmap_for_each(). False where any page could
   * not be written; the kernel looks at neither this nor what `fn` answers.
   */
  forEach(fn: (iova: bigint, length: bigint) => void): boolean {
    fn(this.iova, this.length);
    return this.flush();
  }

  /** Sets the bits of a range: iova_bitmap_set(). Ranges that ascend are cheapest. `length` is at least 1. */
  set(iova: bigint, length: bigint): void {
    // From here to the bits in two u32: relative start, then relative last byte.
    let lo = lo32(iova) - this.iovaLo;
    let hi = hi32(iova) - this.iovaHi;
    if (lo < 0) {
      lo += TWO_32;
      hi--;
    }
    let lastLo = lo + lo32(length) - 1;
    let lastHi = hi + hi32(length);
    if (lastLo >= TWO_32) {
      lastLo -= TWO_32;
      lastHi++;
    } else if (lastLo < 0) {
      lastLo += TWO_32;
      lastHi--;
    }
    const inside = lastHi < this.lastHi || (lastHi === this.lastHi && lastLo <= this.lastLo);
    if (hi >= 0 && inside) this.setBits(this.bitOf(hi, lo), this.bitOf(lastHi, lastLo));
    else this.setOutside(iova, length);
  }

  /** Writes what is still held back. False where any page could not be written since the bitmap was made (EFAULT). */
  flush(): boolean {
    this.flushPage();
    return !this.faulted;
  }

  private bitOf(hi: number, lo: number): number {
    const { shift } = this;
    return shift < 32 ? hi * 2 ** (32 - shift) + (lo >>> shift) : hi >>> (shift - 32);
  }

  /** A record that does not lie in the range: iova_bitmap_advance_to() and iova_bitmap_get() decide how far it goes. */
  private setOutside(start: bigint, bytes: bigint): void {
    const shift = BigInt(this.shift);
    const bitmapBytes = ((this.length - 1n) >> (shift + 3n)) + 1n;
    let iova = start;
    let length = bytes;
    for (;;) {
      const relative = wrap64(iova - this.iova);
      const index = relative >> (shift + 3n);
      if (index >= bitmapBytes) return;
      const address = this.va + index;
      const unaligned = (address & PAGE_MASK_N) === 0n ? 0n : 1n;
      const wanted = (bitmapBytes - index + PAGE_MASK_N) / PAGE_SIZE_N + unaligned;
      const pages = wanted < WINDOW_PAGES_MAX ? wanted : WINDOW_PAGES_MAX;
      const windowEnd = (address & ~PAGE_MASK_N) + pages * PAGE_SIZE_N;
      const windowLast = (windowEnd - this.va) * 8n - 1n;
      const last = wrap64(relative + length - 1n) >> shift;
      const reached = last < windowLast ? last : windowLast;
      if (reached > BigInt(Number.MAX_SAFE_INTEGER)) {
        this.faulted = true;
        return;
      }
      if (!this.setBits(exact(relative >> shift), exact(reached)) || reached === last) return;
      const left = (last - windowLast) << shift;
      iova += length - left;
      length = left;
    }
  }

  /** Sets bits `first` to `last` of the bitmap, up to the first page that cannot be written; false where there was one. */
  private setBits(first: number, last: number): boolean {
    const { skew } = this;
    const lastPage = Math.floor((last + skew) / PAGE_BITS);
    let bit = first + skew;
    for (let page = Math.floor(bit / PAGE_BITS); ; page++) {
      if (page !== this.page) {
        this.flushPage();
        this.page = page;
      }
      const from = bit - page * PAGE_BITS;
      if (page === lastPage) {
        this.hold(from, last + skew - page * PAGE_BITS);
        return true;
      }
      this.hold(from, PAGE_BITS - 1);
      if (!this.flushPage()) return false;
      bit = (page + 1) * PAGE_BITS;
    }
  }

  private hold(from: number, to: number): void {
    const { bits } = this;
    const firstByte = from >>> 3;
    const lastByte = to >>> 3;
    const head = (0xff << (from & 7)) & 0xff;
    const tail = 0xff >>> (7 - (to & 7));
    if (firstByte === lastByte) {
      bits[firstByte]! |= head & tail;
    } else {
      bits[firstByte]! |= head;
      bits.fill(0xff, firstByte + 1, lastByte);
      bits[lastByte]! |= tail;
    }
    if (firstByte < this.low) this.low = firstByte;
    if (lastByte > this.high) this.high = lastByte;
  }

  /** Adds what is held back to the program's page. False where that page cannot be read and written. */
  private flushPage(): boolean {
    const { bits, low, high } = this;
    if (high < low) return true;
    const merged = this.merged.subarray(0, high - low + 1);
    const address = this.firstPage + BigInt(this.page) * PAGE_SIZE_N + BigInt(low);
    let written = false;
    if (address <= U64_MAX && this.memory.read(address, merged)) {
      for (let i = 0; i < merged.length; i++) merged[i]! |= bits[low + i]!;
      written = this.memory.write(address, merged);
    }
    if (!written) this.faulted = true;
    bits.fill(0, low, high + 1);
    this.low = PAGE_SIZE;
    this.high = -1;
    return written;
  }
}
