import { readAddress, readField, type Field } from '../../base/bit-fields.ts';
import {
  CONTEXT_ENTRY,
  CONTEXT_ENTRY_BYTES,
  ROOT_ENTRY,
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

// What a guest's root, context and PASID tables say (VT-d §3.4, §9.1 to §9.6). Null stands for what is not present, or
// lies outside of the guest's memory.

const PASIDS_A_TABLE = 64;

/** The PASID tables of a function in scalable mode. */
export interface PasidTables {
  readonly directory: number;
  /** PASIDs are below it (PDTS). */
  readonly limit: number;
  /** The PASID that stands for requests without one. */
  readonly ridPasid: number;
  /** Requests with PASID, and page requests, are allowed. */
  readonly pasids: boolean;
  readonly pageRequests: boolean;
}

function load(memory: PhysicalMemory, address: number, count: number): Uint32Array | null {
  const words = new Uint32Array(count);
  for (let i = 0; i < count; i += 2)
    if (!memory.load64(address + i * 4, words.subarray(i, i + 2))) return null;
  return words;
}

/** An entry that is there and whose P is set. */
function present(memory: PhysicalMemory, address: number, bytes: number, p: Field): Uint32Array | null {
  const words = load(memory, address, bytes / 4);
  return words === null || readField(p, words) === 0 ? null : words;
}

/** The context entry of a function in legacy mode (§9.3). */
export function legacyContext(memory: PhysicalMemory, root: number, requesterId: number): Uint32Array | null {
  const bus = present(memory, root + (requesterId >>> 8) * ROOT_ENTRY_BYTES, ROOT_ENTRY_BYTES, ROOT_ENTRY.P);
  if (bus === null) return null;
  const at = readAddress(ROOT_ENTRY.CTP, bus) + (requesterId & 0xff) * CONTEXT_ENTRY_BYTES;
  return present(memory, at, CONTEXT_ENTRY_BYTES, CONTEXT_ENTRY.P);
}

/** The PASID tables of a function in scalable mode (§9.4). */
export function pasidTables(memory: PhysicalMemory, root: number, requesterId: number): PasidTables | null {
  const upper = (requesterId & 0x80) !== 0;
  const at = root + (requesterId >>> 8) * ROOT_ENTRY_BYTES;
  const bus = present(memory, at, ROOT_ENTRY_BYTES, upper ? SM_ROOT_ENTRY.UP : SM_ROOT_ENTRY.LP);
  if (bus === null) return null;
  const table = readAddress(upper ? SM_ROOT_ENTRY.UCTP : SM_ROOT_ENTRY.LCTP, bus);
  const bytes = SM_CONTEXT_ENTRY_BYTES;
  const context = present(memory, table + (requesterId & 0x7f) * bytes, bytes, SM_CONTEXT_ENTRY.P);
  if (context === null) return null;
  return {
    directory: readAddress(SM_CONTEXT_ENTRY.PASIDDIRPTR, context),
    limit: 2 ** (readField(SM_CONTEXT_ENTRY.PDTS, context) + 7) * PASIDS_A_TABLE,
    ridPasid: readField(SM_CONTEXT_ENTRY.RID_PASID, context),
    pasids: readField(SM_CONTEXT_ENTRY.PASIDE, context) !== 0,
    pageRequests: readField(SM_CONTEXT_ENTRY.PRE, context) !== 0,
  };
}

/** The table that a PASID directory entry leads to (§9.5). */
function pasidTable(memory: PhysicalMemory, { directory }: PasidTables, index: number): number | null {
  const bytes = PASID_DIR_ENTRY_BYTES;
  const entry = present(memory, directory + index * bytes, bytes, PASID_DIR_ENTRY.P);
  return entry === null ? null : readAddress(PASID_DIR_ENTRY.SMPTBLPTR, entry);
}

/** The PASID table entry of a PASID: its 16 words (§9.6). */
export function pasidEntry(memory: PhysicalMemory, tables: PasidTables, pasid: number): Uint32Array | null {
  if (pasid >= tables.limit) return null;
  const table = pasidTable(memory, tables, Math.floor(pasid / PASIDS_A_TABLE));
  if (table === null) return null;
  const at = table + (pasid % PASIDS_A_TABLE) * PASID_ENTRY_BYTES;
  return present(memory, at, PASID_ENTRY_WORDS * 4, PASID_ENTRY.P);
}

/** The PASIDs below `limit` that have an entry. */
export function* presentPasids(
  memory: PhysicalMemory,
  tables: PasidTables,
  limit: number,
): Generator<number, void> {
  const last = Math.min(limit, tables.limit);
  for (let first = 0; first < last; first += PASIDS_A_TABLE) {
    const table = pasidTable(memory, tables, first / PASIDS_A_TABLE);
    if (table === null) continue;
    for (let i = 0; i < PASIDS_A_TABLE; i++)
      if (present(memory, table + i * PASID_ENTRY_BYTES, 8, PASID_ENTRY.P) !== null) yield first + i;
  }
}
