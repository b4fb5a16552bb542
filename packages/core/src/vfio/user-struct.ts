import { fail, type Result } from '../base/result.ts';
import { EFAULT } from '../abi/errno.ts';
import type { AddressSpace } from '../memory/process.ts';

// How VFIO's requests come from programs: as far as the members that every caller has, and no further.

/** get_user() of a u32. */
export function readWord(memory: AddressSpace, at: bigint): Result<number> {
  const bytes = new Uint8Array(4);
  if (!memory.read(at, bytes)) return fail(EFAULT, 'the argument cannot be read');
  return new DataView(bytes.buffer).getUint32(0, true);
}

/** put_user() of a u32. */
export function writeWord(memory: AddressSpace, at: bigint, value: number): boolean {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return memory.write(at, bytes);
}

/** The first `bytes` of a struct of `size`; the rest is zero. */
export function readPart(memory: AddressSpace, at: bigint, bytes: number, size: number): Result<Uint8Array> {
  const struct = new Uint8Array(size);
  return memory.read(at, struct.subarray(0, bytes)) ? struct : fail(EFAULT, 'the argument cannot be read');
}
