// Reserved bits of structures and descriptors: whatever no field of the layout names.

import type { LayoutInfo } from '../../../../base/bit-fields.ts';

/** Per word, the bits that must be zero. */
export function reservedMask(of: LayoutInfo): Uint32Array {
  return of.writable.map((bits) => ~bits);
}

export function hasReserved(words: ArrayLike<number>, mask: Uint32Array): boolean {
  for (let i = 0; i < mask.length; i++) if ((words[i]! & mask[i]!) !== 0) return true;
  return false;
}
