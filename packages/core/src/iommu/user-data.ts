import { KMALLOC_BYTES_MAX } from '../base/limits.ts';
import { fail, failed, type Result } from '../base/result.ts';
import { PAGE_SIZE, pageOffset } from '../base/u64.ts';
import type { AddressSpace } from '../memory/process.ts';
import { E2BIG, EFAULT, EINVAL, ENOMEM } from '../abi/errno.ts';

// include/linux/uaccess.h copy_struct_from_user() and include/linux/iommu.h iommu_copy_struct_from_user() and its kin.

const ZERO_CHECK_BYTES = 65536;

/** A driver's part of a request: struct iommu_user_data. */
export interface UserData {
  readonly type: number;
  readonly uptr: bigint;
  readonly len: number;
}

/** A driver's part of a request that is an array: struct iommu_user_data_array. */
export interface UserDataArray {
  readonly type: number;
  readonly uptr: bigint;
  readonly entryLen: number;
  /** In: how many entries; out: how many were handled. */
  entryNum: number;
}

/** True when all `length` bytes from `va` on are zero; EFAULT where they cannot be read (check_zeroed_user()). */
export function checkZeroedUser(memory: AddressSpace, va: bigint, length: number): Result<boolean> {
  for (let at = 0; at < length;) {
    const chunk = new Uint8Array(Math.min(ZERO_CHECK_BYTES, length - at));
    if (!readUpTo(memory, va + BigInt(at), chunk)) return fail(EFAULT, 'trailing bytes cannot be read');
    if (chunk.some((byte) => byte !== 0)) return false;
    at += chunk.length;
  }
  return true;
}

// A non-zero byte before the first unreadable one decides, as in the kernel, which looks at words in order.
function readUpTo(memory: AddressSpace, va: bigint, chunk: Uint8Array): boolean {
  if (memory.read(va, chunk)) return true;
  const page = new Uint8Array(4096);
  for (let at = 0; at < chunk.length;) {
    const bytes = Math.min(4096 - pageOffset(va + BigInt(at)), chunk.length - at);
    const part = page.subarray(0, bytes);
    if (!memory.read(va + BigInt(at), part)) return false;
    chunk.set(part, at);
    if (part.some((byte) => byte !== 0)) return true;
    at += bytes;
  }
  return true;
}

/**
 * Zeroes `length` bytes from `va` on: clear_user(). False where some cannot be written; what lies before them is zero
 * then.
 */
export function clearUser(memory: AddressSpace, va: bigint, length: number): boolean {
  const zeroes = new Uint8Array(Math.min(length, ZERO_CHECK_BYTES));
  for (let at = 0; at < length; at += zeroes.length) {
    const bytes = Math.min(zeroes.length, length - at);
    if (memory.write(va + BigInt(at), zeroes.subarray(0, bytes))) continue;
    // Not all of them: page by page, up to the one that is not there.
    for (let done = 0; done < bytes;) {
      const start = va + BigInt(at + done);
      const part = Math.min(PAGE_SIZE - pageOffset(start), bytes - done);
      if (!memory.write(start, zeroes.subarray(0, part))) return false;
      done += part;
    }
  }
  return true;
}

/**
 * Copies a struct of `usize` bytes at `va` into one of `ksize` bytes: what is missing is zero, what is too much must be
 * (E2BIG).
 */
export function copyStructFromUser(
  memory: AddressSpace,
  va: bigint,
  usize: number,
  ksize: number,
): Result<Uint8Array> {
  const size = Math.min(usize, ksize);
  if (usize > ksize) {
    const zeroed = checkZeroedUser(memory, va + BigInt(size), usize - ksize);
    if (failed(zeroed)) return zeroed;
    if (!zeroed) return fail(E2BIG, `bytes beyond the ${ksize} that are known are not zero`);
  }
  const bytes = new Uint8Array(ksize);
  if (size > 0 && !memory.read(va, bytes.subarray(0, size))) return fail(EFAULT, 'the struct cannot be read');
  return bytes;
}

/** iommu_copy_struct_from_user(): `minLen` is the end of the struct's first published form. */
export function copyUserData(
  memory: AddressSpace,
  data: UserData,
  type: number,
  ksize: number,
  minLen: number,
): Result<Uint8Array> {
  const checked = checkUserData(data, type, ksize, minLen);
  return failed(checked) ? checked : copyStructFromUser(memory, data.uptr, data.len, ksize);
}

function checkUserData(data: UserData, type: number, ksize: number, minLen: number): Result<void> {
  if (data.type !== type) return fail(EINVAL, `data type ${data.type} where ${type} is expected`);
  if (data.len < minLen || ksize < data.len)
    return fail(EINVAL, `data of ${data.len} bytes, not ${minLen} to ${ksize}`);
}

/** iommu_copy_struct_to_user(). */
export function copyToUserData(
  memory: AddressSpace,
  data: UserData,
  type: number,
  bytes: Uint8Array,
  minLen: number,
): Result<void> {
  if (data.type !== type) return fail(EINVAL, `data type ${data.type} where ${type} is expected`);
  if (data.len < minLen || bytes.length < data.len) return fail(EINVAL, `data of ${data.len} bytes`);
  if (!memory.write(data.uptr, bytes.subarray(0, data.len)))
    return fail(EFAULT, 'the data cannot be written');
}

/** How many bytes of an array are read at a time. */
const ARRAY_BLOCK_BYTES = 65536;

/** The entries of an array one after another: iommu_copy_struct_from_user_array(), with fewer copies. */
export class UserArrayReader {
  readonly #memory: AddressSpace;
  readonly #array: UserDataArray;
  readonly #ksize: number;
  readonly #check: Result<void>;
  #block = new Uint8Array(0);
  #blockFirst = 0;

  /** Entries have `ksize` bytes in the answer; `minLen` is the end of the struct's first published form. */
  constructor(memory: AddressSpace, array: UserDataArray, type: number, ksize: number, minLen: number) {
    this.#memory = memory;
    this.#array = { ...array };
    this.#ksize = ksize;
    this.#check = checkUserData(
      { type: array.type, uptr: array.uptr, len: array.entryLen },
      type,
      ksize,
      minLen,
    );
  }

  /** Entry `index`; the bytes hold until the next call. */
  entry(index: number): Result<Uint8Array> {
    if (failed(this.#check)) return this.#check;
    const { entryLen, entryNum } = this.#array;
    const at = (index - this.#blockFirst) * entryLen;
    if (at >= 0 && at < this.#block.length) return this.#block.subarray(at, at + entryLen);
    const uptr = BigInt.asUintN(64, this.#array.uptr + BigInt(entryLen) * BigInt(index));
    if (entryLen === this.#ksize) {
      const entries = Math.min(entryNum - index, Math.floor(ARRAY_BLOCK_BYTES / entryLen));
      const block = new Uint8Array(entries * entryLen);
      if (this.#memory.read(uptr, block)) {
        this.#block = block;
        this.#blockFirst = index;
        return block.subarray(0, entryLen);
      }
    }
    // A shorter struct, or the last entries before memory ends.
    return copyStructFromUser(this.#memory, uptr, entryLen, this.#ksize);
  }
}

/**
 * iommu_copy_struct_from_full_user_array(): all entries, `ksize` bytes each in the answer; none of them is handled yet,
 * so `entryNum` becomes 0. ENOMEM where drivers have no memory for them: they ask kmalloc() for it, before anything
 * else, and where they get none, they leave `entryNum` as it is.
 */
export function copyFullUserArray(
  memory: AddressSpace,
  array: UserDataArray,
  type: number,
  ksize: number,
): Result<Uint8Array> {
  if (ksize * array.entryNum > KMALLOC_BYTES_MAX) return fail(ENOMEM, 'no memory for the entries');
  const total = array.entryNum;
  array.entryNum = 0;
  if (array.type !== type) return fail(EINVAL, `data type ${array.type} where ${type} is expected`);
  if (total === 0) return fail(EINVAL, 'no entries');
  const bytes = new Uint8Array(ksize * total);
  if (array.entryLen === ksize) {
    if (!memory.read(array.uptr, bytes)) return fail(EFAULT, 'the entries cannot be read');
    return bytes;
  }
  for (let i = 0; i < total; i++) {
    const uptr = BigInt.asUintN(64, array.uptr + BigInt(array.entryLen) * BigInt(i));
    const entry = copyStructFromUser(memory, uptr, array.entryLen, ksize);
    if (failed(entry)) return entry;
    bytes.set(entry, i * ksize);
  }
  return bytes;
}
