import { readAddress, readField } from '../../base/bit-fields.ts';
import {
  ROOT_ENTRY_BYTES,
  SM_CONTEXT_ENTRY,
  SM_CONTEXT_ENTRY_BYTES,
  SM_ROOT_ENTRY,
} from '../../iommu/intel/spec/context.ts';
import {
  PASID_DIR_ENTRY,
  PASID_DIR_ENTRY_BYTES,
  PASID_ENTRY,
  PASID_ENTRY_BYTES,
  PASID_ENTRY_WORDS,
} from '../../iommu/intel/spec/pasid.ts';
import type { PhysicalMemory } from '../../memory/physical.ts';

// What a guest's scalable-mode tables say of requests without PASID (VT-d §3.4.3).

/** A PASID table entry: its 16 words, and the PASID that it is of. */
export interface FoundEntry {
  readonly pasid: number;
  readonly words: Uint32Array;
}

/** The PASID table entry of a requester's requests without PASID; null where one on the way is not present. */
export function findPasidEntry(memory: PhysicalMemory, root: number, requesterId: number): FoundEntry | null {
  const load = (address: number, words: number): Uint32Array | null => {
    const into = new Uint32Array(words);
    for (let i = 0; i < words; i += 2)
      if (!memory.load64(address + i * 4, into.subarray(i, i + 2))) return null;
    return into;
  };
  const bus = load(root + (requesterId >>> 8) * ROOT_ENTRY_BYTES, 4);
  const upper = (requesterId & 0x80) !== 0;
  const present = upper ? SM_ROOT_ENTRY.UP : SM_ROOT_ENTRY.LP;
  if (bus === null || readField(present, bus) === 0) return null;
  const table = readAddress(upper ? SM_ROOT_ENTRY.UCTP : SM_ROOT_ENTRY.LCTP, bus);
  const context = load(table + (requesterId & 0x7f) * SM_CONTEXT_ENTRY_BYTES, SM_CONTEXT_ENTRY_BYTES / 4);
  if (context === null || readField(SM_CONTEXT_ENTRY.P, context) === 0) return null;
  const pasid = readField(SM_CONTEXT_ENTRY.RID_PASID, context);
  const directory = readAddress(SM_CONTEXT_ENTRY.PASIDDIRPTR, context);
  const entry = load(directory + (pasid >>> 6) * PASID_DIR_ENTRY_BYTES, 2);
  if (entry === null || readField(PASID_DIR_ENTRY.P, entry) === 0) return null;
  const pasids = readAddress(PASID_DIR_ENTRY.SMPTBLPTR, entry);
  const words = load(pasids + (pasid & 63) * PASID_ENTRY_BYTES, PASID_ENTRY_WORDS);
  return words === null || readField(PASID_ENTRY.P, words) === 0 ? null : { pasid, words };
}
