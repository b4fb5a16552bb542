import { readAddress, readField, type Field } from '../../base/bit-fields.ts';
import { big } from '../../base/u64.ts';
import {
  IOMMU_VTD_S1_EAFE,
  IOMMU_VTD_S1_SRE,
  IOMMU_VTD_S1_WPE,
  iommu_hwpt_vtd_s1,
} from '../../abi/iommufd-data.ts';
import { AW, CONTEXT_ENTRY, TT } from '../../iommu/intel/spec/context.ts';
import { FSPM, PASID_ENTRY, PGTT } from '../../iommu/intel/spec/pasid.ts';
import type { PhysicalMemory } from '../../memory/physical.ts';
import { legacyContext, pasidEntry, type PasidTables } from './guest-tables.ts';

/** A second-stage table of the guest's. */
export interface GuestTable {
  readonly did: number;
  readonly root: number;
  readonly levels: number;
}

/** What a guest's tables ask for: of a function's requests without PASID, or of those with one. */
export type Wanted =
  | { readonly kind: 'blocked' | 'pass-through' }
  /** A first-stage table: `data` is a struct iommu_hwpt_vtd_s1. */
  | {
      readonly kind: 'nested';
      readonly data: Uint8Array;
      readonly did: number;
      /** By which the guest invalidates: its own, or RID_PASID. */
      readonly pasid: number;
      readonly faults: boolean;
    }
  | { readonly kind: 'shadow'; readonly table: GuestTable };

export const BLOCKED: Wanted = { kind: 'blocked' };
export const PASS_THROUGH: Wanted = { kind: 'pass-through' };

/** What a PASID table entry asks for, in scalable mode. */
export function wantedOfPasid(memory: PhysicalMemory, tables: PasidTables, pasid: number): Wanted {
  const words = pasidEntry(memory, tables, pasid);
  if (words === null) return BLOCKED;
  const pgtt = readField(PASID_ENTRY.PGTT, words);
  if (pgtt === PGTT.PASS_THROUGH) return PASS_THROUGH;
  // Scalable mode has no second stage for the guest: its unit does not say so.
  if (pgtt !== PGTT.FIRST_STAGE) return BLOCKED;
  const did = readField(PASID_ENTRY.DID, words);
  return { kind: 'nested', data: firstStage(words), did, pasid, faults: tables.pageRequests };
}

/** What a context entry asks for, in legacy mode. */
export function wantedOfContext(memory: PhysicalMemory, root: number, requesterId: number): Wanted {
  const context = legacyContext(memory, root, requesterId);
  if (context === null) return BLOCKED;
  const type = readField(CONTEXT_ENTRY.TT, context);
  if (type === TT.PASS_THROUGH) return PASS_THROUGH;
  const width = readField(CONTEXT_ENTRY.AW, context);
  if (type === TT.RESERVED || (width !== AW.LEVELS_3 && width !== AW.LEVELS_4)) return BLOCKED;
  const table = {
    did: readField(CONTEXT_ENTRY.DID, context),
    root: readAddress(CONTEXT_ENTRY.SSPTPTR, context),
    levels: width + 2,
  };
  return { kind: 'shadow', table };
}

/** struct iommu_hwpt_vtd_s1 of a guest's PASID table entry. */
function firstStage(words: Uint32Array): Uint8Array {
  const flag = (field: Field, bit: number): number => (readField(field, words) !== 0 ? bit : 0);
  const data = new Uint8Array(iommu_hwpt_vtd_s1.size);
  iommu_hwpt_vtd_s1.write(data, 0, {
    flags: big(
      flag(PASID_ENTRY.SRE, IOMMU_VTD_S1_SRE) |
        flag(PASID_ENTRY.EAFE, IOMMU_VTD_S1_EAFE) |
        flag(PASID_ENTRY.WPE, IOMMU_VTD_S1_WPE),
    ),
    pgtbl_addr: big(readAddress(PASID_ENTRY.FSPTPTR, words)),
    addr_width: readField(PASID_ENTRY.FSPM, words) === FSPM.LEVELS_5 ? 57 : 48,
    __reserved: 0,
  });
  return data;
}

/** Whether two ask for the same, so that nothing has to be changed. */
export function sameWanted(one: Wanted, other: Wanted): boolean {
  if (one.kind === 'shadow' && other.kind === 'shadow')
    return (
      one.table.did === other.table.did &&
      one.table.root === other.table.root &&
      one.table.levels === other.table.levels
    );
  if (one.kind !== 'nested' || other.kind !== 'nested') return one.kind === other.kind;
  if (one.did !== other.did || one.pasid !== other.pasid || one.faults !== other.faults) return false;
  return one.data.every((byte, index) => byte === other.data[index]);
}
