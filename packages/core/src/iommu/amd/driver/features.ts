import { readField, type Field } from '../../../base/bit-fields.ts';
import { hi32, lo32 } from '../../../base/u64.ts';
import { EFR, EFR2 } from '../spec/features.ts';

// What the driver makes of the feature registers: drivers/iommu/amd/init.c and amd_iommu.h. Linux looks at those that
// all IOMMUs have in common.

const HATS_DISABLED = 3;

/** What the machine's firmware and CPUs say, and the kernel's command line. */
export interface AmdPlatform {
  /** IVinfo.VASize: bits of virtual addresses; 0 says nothing, which means 64. */
  readonly vaSize?: number;
  /** The CPUs have five-level page tables (X86_FEATURE_LA57). True where absent. */
  readonly la57?: boolean;
  /** amd_iommu=pgtbl_v1 or pgtbl_v2: which tables a domain has where nothing else decides. v1 where absent. */
  readonly pageTable?: 'v1' | 'v2';
}

/** The global features, worked out. */
export interface AmdFeatures {
  readonly gt: boolean;
  readonly ppr: boolean;
  readonly eph: boolean;
  readonly invalidateAll: boolean;
  readonly gcr3TrpMode: boolean;
  readonly htRangeIgnore: boolean;
  readonly interrupts2K: boolean;
  /** EFR.GLXSup: levels of a GCR3 table, less one. */
  readonly glxMax: number;
  /** PASIDs that an IOMMU takes, 0 without guest translation. */
  readonly maxPasids: number;
  /** amd_iommu_hpt_vasize: bits that host tables translate. */
  readonly hostVaBits: number;
  /** amd_iommu_hatdis: there are no host tables. */
  readonly hostDisabled: boolean;
  /** amd_iommu_gpt_level */
  readonly guestLevels: 4 | 5;
  /** amd_iommu_v2_pgtbl_supported() */
  readonly v2Tables: boolean;
  /** amd_iommu_gt_ppr_supported() */
  readonly gtPpr: boolean;
  /** amd_iommu_pasid_supported() */
  readonly pasids: boolean;
  /** is_nest_parent_supported() */
  readonly nestParent: boolean;
  /** EFR.vIommuSup */
  readonly viommu: boolean;
  readonly pageTable: 'v1' | 'v2' | 'none';
}

export function featuresOf(efr: bigint, efr2: bigint, platform: AmdPlatform): AmdFeatures {
  const words = [lo32(efr), hi32(efr)];
  const words2 = [lo32(efr2), hi32(efr2)];
  const get = (field: Field): number => readField(field, words);
  const has = (field: Field): boolean => get(field) !== 0;
  const has2 = (field: Field): boolean => readField(field, words2) !== 0;
  const gt = has(EFR.GTSup);
  const v2Tables = gt && has(EFR.GIoSup);
  const gtPpr = v2Tables && has(EFR.PPRSup) && has(EFR.EPHSup);
  const la57 = platform.la57 ?? true;
  const guestLevels = la57 && get(EFR.GATS) === 1 ? 5 : 4;
  const hats = get(EFR.HATS);
  const hostDisabled = hats === HATS_DISABLED;
  return {
    gt,
    ppr: has(EFR.PPRSup),
    eph: has(EFR.EPHSup),
    invalidateAll: has(EFR.IASup),
    gcr3TrpMode: has2(EFR2.GCR3TRPMode),
    htRangeIgnore: has2(EFR2.HTRangeIgnore),
    interrupts2K: readField(EFR2.NumIntRemapSup, words2) === 1,
    glxMax: get(EFR.GLXSup),
    maxPasids: gt ? 2 ** (get(EFR.PASMax) + 1) - 1 : 0,
    hostVaBits: Math.min(platform.vaSize === 0 ? 64 : (platform.vaSize ?? 64), (hats + 3) * 9 + 21),
    hostDisabled,
    guestLevels,
    v2Tables,
    gtPpr,
    pasids: gtPpr && !(la57 && guestLevels !== 5),
    viommu: has(EFR.vIommuSup),
    nestParent: v2Tables && has2(EFR2.GCR3TRPMode),
    pageTable: hostDisabled
      ? v2Tables
        ? 'v2'
        : 'none'
      : platform.pageTable === 'v2' && v2Tables
        ? 'v2'
        : 'v1',
  };
}
