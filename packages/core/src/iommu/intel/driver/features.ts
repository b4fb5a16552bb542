import { readField, type Field } from '../../../base/bit-fields.ts';
import { fail, type Result } from '../../../base/result.ts';
import { hi32, lo32 } from '../../../base/u64.ts';
import { ENXIO } from '../../../abi/errno.ts';
import type { Mmio } from '../../drivers/mmio.ts';
import { CAP, ECAP, OFFSET } from '../spec/registers.ts';
import { DEFAULT_ADDRESS_WIDTH } from './limits.ts';

// What remapping hardware says of itself, as the driver takes it: drivers/iommu/intel/iommu.h cap_*() and ecap_*(), and
// the conditions over them such as nested_supported().

export interface DmarFeatures {
  readonly cap: bigint;
  readonly ecap: bigint;
  /** sm_supported() */
  readonly scalable: boolean;
  /** pasid_supported(), ssads_supported(), nested_supported() */
  readonly pasid: boolean;
  readonly ssads: boolean;
  readonly nested: boolean;
  /** iommu_paging_structure_coherency() */
  readonly coherentWalk: boolean;
  /** cap_ndoms() */
  readonly domains: number;
  readonly cachingMode: boolean;
  readonly sagaw: number;
  readonly mgaw: number;
  readonly frcdOffset: number;
  readonly frcdCount: number;
  readonly pages2M: boolean;
  readonly pages1G: boolean;
  readonly pageSelective: boolean;
  readonly maxAddressMask: number;
  readonly writeDrain: boolean;
  readonly readDrain: boolean;
  readonly firstStage1G: boolean;
  readonly firstStage5Level: boolean;
  readonly esrtps: boolean;
  readonly deviceTlb: boolean;
  readonly passThrough: boolean;
  readonly snoopControl: boolean;
  readonly pageRequests: boolean;
  readonly supervisor: boolean;
  readonly extendedAccessed: boolean;
  readonly throttling: boolean;
  readonly pageRequestDrain: boolean;
  readonly firstStage: boolean;
  readonly secondStage: boolean;
  /** iommu->agaw: the largest adjusted guest address width that both stages have. */
  readonly agaw: number;
  /** iommu_device.max_pasids */
  readonly maxPasids: number;
}

const PLAIN_LEVELS_4 = 1 << 2;
const PLAIN_LEVELS_5 = 1 << 3;

/** iommu_calculate_agaw(); -1 where there is none. */
function agawOf(sagaw: number): number {
  // width_to_agaw()
  for (let agaw = Math.ceil((DEFAULT_ADDRESS_WIDTH - 30) / 9); agaw >= 0; agaw--)
    if ((sagaw & (1 << agaw)) !== 0) return agaw;
  return -1;
}

/**
 * map_iommu() and alloc_iommu() of drivers/iommu/intel/dmar.c. ENXIO where the driver leaves the hardware alone.
 * DEVIATION: Linux also runs hardware without scalable mode, by context entries; that is not done here.
 */
export function probeFeatures(mmio: Mmio, name: string): Result<DmarFeatures> {
  const cap = mmio.read64(OFFSET.CAP);
  const ecap = mmio.read64(OFFSET.ECAP);
  const capWords = [lo32(cap), hi32(cap)];
  const ecapWords = [lo32(ecap), hi32(ecap)];
  const c = (field: Field): number => readField(field, capWords);
  const e = (field: Field): boolean => readField(field, ecapWords) !== 0;
  const [firstStage, secondStage] = [e(ECAP.FSTS), e(ECAP.SSTS)];
  if (!e(ECAP.SMTS) || !e(ECAP.QI)) return fail(ENXIO, `${name} has no scalable mode`);
  const sagaw = c(CAP.SAGAW);
  if (sagaw === 0 && secondStage) return fail(ENXIO, `${name}: No supported address widths`);
  // __iommu_calculate_sagaw()
  const own = PLAIN_LEVELS_4 | (c(CAP.FS5LP) !== 0 ? PLAIN_LEVELS_5 : 0);
  const agaw = agawOf(!firstStage ? sagaw : secondStage ? own & sagaw : own);
  if (agaw < 0) return fail(ENXIO, `${name}: Cannot get a valid agaw`);
  const pasid = e(ECAP.PASID);
  return {
    cap,
    ecap,
    scalable: true,
    pasid,
    ssads: e(ECAP.SSADS) && e(ECAP.SMPWCS),
    nested: e(ECAP.NEST),
    coherentWalk: e(ECAP.SMPWCS),
    domains: 1 << (4 + 2 * c(CAP.ND)),
    cachingMode: c(CAP.CM) !== 0,
    sagaw,
    mgaw: c(CAP.MGAW) + 1,
    frcdOffset: c(CAP.FRO) * 16,
    frcdCount: c(CAP.NFR) + 1,
    pages2M: (c(CAP.SSLPS) & 1) !== 0,
    pages1G: (c(CAP.SSLPS) & 2) !== 0,
    pageSelective: c(CAP.PSI) !== 0,
    maxAddressMask: c(CAP.MAMV),
    writeDrain: c(CAP.DWD) !== 0,
    readDrain: c(CAP.DRD) !== 0,
    firstStage1G: c(CAP.FS1GP) !== 0,
    firstStage5Level: c(CAP.FS5LP) !== 0,
    esrtps: c(CAP.ESRTPS) !== 0,
    deviceTlb: e(ECAP.DT),
    passThrough: e(ECAP.PT),
    snoopControl: e(ECAP.SC),
    pageRequests: e(ECAP.PRS),
    supervisor: e(ECAP.SRS),
    extendedAccessed: e(ECAP.EAFS),
    throttling: e(ECAP.DIT),
    pageRequestDrain: e(ECAP.PDS),
    firstStage,
    secondStage,
    agaw,
    maxPasids: pasid ? 2 << readField(ECAP.PSS, ecapWords) : 0,
  };
}
