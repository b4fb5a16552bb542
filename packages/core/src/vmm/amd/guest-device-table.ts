import { readAddress, readField } from '../../base/bit-fields.ts';
import { u64 } from '../../base/u64.ts';
import { iommu_hwpt_amd_guest } from '../../abi/iommufd-data.ts';
import { DTE, DTE_BYTES, DTE_WORDS } from '../../iommu/amd/spec/dte.ts';
import { DEV_TAB_BASE } from '../../iommu/amd/spec/registers.ts';
import type { PhysicalMemory } from '../../memory/physical.ts';

/** What a guest's device table entry asks for; `data` is a struct iommu_hwpt_amd_guest. */
export type Wanted =
  { readonly kind: 'blocked' | 'pass-through' } | { readonly kind: 'nested'; readonly data: Uint8Array };

export const BLOCKED: Wanted = { kind: 'blocked' };
export const PASS_THROUGH: Wanted = { kind: 'pass-through' };

/**
 * The entry of a device id (AMD 48882, §2.2.2), in the table that DEV_TAB_BASE names. What the table does not have is
 * blocked; so are host page tables of the guest's own, which would have to be shadowed.
 */
export function wantedOfEntry(memory: PhysicalMemory, tableBase: Uint32Array, id: number): Wanted {
  const bytes = (readField(DEV_TAB_BASE.Size, tableBase) + 1) * 4096;
  if ((id + 1) * DTE_BYTES > bytes) return BLOCKED;
  const at = readAddress(DEV_TAB_BASE.DevTabBase, tableBase) + id * DTE_BYTES;
  const words = new Uint32Array(DTE_WORDS);
  for (let i = 0; i < DTE_WORDS; i += 2)
    if (!memory.load64(at + i * 4, words.subarray(i, i + 2))) return BLOCKED;
  if (readField(DTE.V, words) === 0) return PASS_THROUGH;
  if (readField(DTE.TV, words) === 0) return BLOCKED;
  if (readField(DTE.GV, words) !== 0) return { kind: 'nested', data: guestEntry(words) };
  // Nothing is translated, and IR and IW say what passes: both, or nothing, since the kernel knows no half.
  const passes = readField(DTE.IR, words) !== 0 && readField(DTE.IW, words) !== 0;
  return readField(DTE.Mode, words) === 0 && passes ? PASS_THROUGH : BLOCKED;
}

function guestEntry(words: Uint32Array): Uint8Array {
  const data = new Uint8Array(iommu_hwpt_amd_guest.size);
  const dte = [0, 2, 4, 6].map((word) => u64(words[word + 1]!, words[word]!));
  iommu_hwpt_amd_guest.write(data, 0, { dte });
  return data;
}

/** Whether two ask for the same, so that nothing has to be changed. */
export function sameWanted(one: Wanted, other: Wanted): boolean {
  if (one.kind !== 'nested' || other.kind !== 'nested') return one.kind === other.kind;
  return one.data.every((byte, index) => byte === other.data[index]);
}
