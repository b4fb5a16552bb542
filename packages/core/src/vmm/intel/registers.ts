import { type Field, readField } from '../../base/bit-fields.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import { intelConfig, type IntelConfig } from '../../iommu/intel/hardware/config.ts';
import { CAP, ECAP } from '../../iommu/intel/spec/registers.ts';

// What the guest's VT-d says that it has: scalable mode with first stages, as far as the physical one has them.

/** Fields that the guest's has as the physical one does. */
const KEPT = {
  CAP: ['MGAW', 'FS1GP', 'FS5LP'],
  ECAP: ['C', 'PT', 'SRS', 'PSS', 'PASID', 'SMPWCS', 'EAFS'],
} as const;
/**
 * What is not for the guest: the second stage and nesting are the host's, which flushes device TLBs by itself and takes
 * page requests by a fault queue.
 */
const WITHOUT = {
  CAP: { SAGAW: 0, SSLPS: 0, MAMV: 18 },
  ECAP: {
    DT: 0,
    DIT: 0,
    PDS: 0,
    NWFS: 0,
    PRS: 0,
    SMS: 0,
    NEST: 0,
    SSTS: 0,
    SSADS: 0,
    SSIRWS: 0,
    PTRS: 0,
    RPRIVS: 0,
    SC: 0,
    ADMS: 0,
  },
} as const;

/** From CAP_REG and ECAP_REG of the physical one, as IOMMU_GET_HW_INFO tells them; null where it does not nest. */
export function guestConfig(cap: bigint, ecap: bigint): IntelConfig | null {
  const kept = (names: readonly string[], layout: object, value: bigint): Record<string, number> =>
    Object.fromEntries(names.map((name) => [name, fieldOf(layout, name, value)]));
  if (fieldOf(ECAP, 'NEST', ecap) === 0 || fieldOf(ECAP, 'FSTS', ecap) === 0) return null;
  return intelConfig({
    CAP: { ...kept(KEPT.CAP, CAP, cap), ...WITHOUT.CAP, CM: 1 },
    ECAP: { ...kept(KEPT.ECAP, ECAP, ecap), ...WITHOUT.ECAP },
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
