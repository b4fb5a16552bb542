import { type Field, readField } from '../../base/bit-fields.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { intelConfig, type IntelConfig } from '../../iommu/intel/hardware/registers/config.ts';
import { CAP, ECAP, SAGAW, SSLPS } from '../../iommu/intel/spec/registers.ts';

// What the guest's VT-d says that it has: scalable mode with first stages as far as the physical one has them, and legacy
// mode, whose second stage is shadowed.

/** Fields that the guest's has as the physical one does. */
const KEPT = {
  CAP: ['MGAW', 'FS1GP', 'FS5LP'],
  ECAP: ['C', 'PT', 'SRS', 'PSS', 'PASID', 'SMPWCS', 'EAFS', 'PRS'],
} as const;
/**
 * The guest's PASIDs have 10 bits at most (PSS is one less): its tables of them are looked through as a whole when it
 * invalidates more than one.
 */
const PSS_MAX = 9;
/** What is not for the guest: in scalable mode the second stage and nesting are the host's. */
const WITHOUT = {
  DIT: 0,
  PDS: 0,
  NWFS: 0,
  SMS: 0,
  NEST: 0,
  SSTS: 0,
  SSADS: 0,
  SSIRWS: 0,
  PTRS: 0,
  RPRIVS: 0,
  SC: 0,
  ADMS: 0,
} as const;
/** The second stage of legacy mode, which is the VMM's own: three or four levels, large pages. */
const LEGACY = {
  SAGAW: SAGAW.LEVELS_3 | SAGAW.LEVELS_4,
  SSLPS: SSLPS.PAGES_1G,
  MAMV: 18,
  PSI: 1,
} as const;

/** From CAP_REG and ECAP_REG of the physical one, as IOMMU_GET_HW_INFO tells them; null where it does not nest. */
export function guestConfig(cap: bigint, ecap: bigint): IntelConfig | null {
  const kept = (names: readonly string[], layout: object, value: bigint): Record<string, number> =>
    Object.fromEntries(names.map((name) => [name, fieldOf(layout, name, value)]));
  if (fieldOf(ECAP, 'NEST', ecap) === 0 || fieldOf(ECAP, 'FSTS', ecap) === 0) return null;
  const own = kept(KEPT.ECAP, ECAP, ecap);
  return intelConfig({
    CAP: { ...kept(KEPT.CAP, CAP, cap), ...LEGACY, CM: 1 },
    // Without device TLBs there are no page requests (§11.4.3).
    ECAP: { ...own, ...WITHOUT, PSS: Math.min(own['PSS']!, PSS_MAX), DT: own['PRS']! },
  });
}

/** The first field of `told` that `config` has less of; null where it has all. */
export function lacks(config: IntelConfig, told: IntelConfig): string | null {
  for (const name of KEPT.CAP) if (fieldOf(CAP, name, config.cap) < fieldOf(CAP, name, told.cap)) return name;
  for (const name of KEPT.ECAP)
    if (fieldOf(ECAP, name, config.ecap) < fieldOf(ECAP, name, told.ecap)) return name;
  return null;
}

function fieldOf(layout: object, name: string, value: bigint): number {
  return readField((layout as Readonly<Record<string, Field>>)[name]!, [lo32(value), hi32(value)]);
}
