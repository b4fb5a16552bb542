// The Stream table: §5.1 (level 1 descriptors) and §5.2 (entries). Non-secure fields of SMMUv3.3.

import { RES0, RW, layout } from '../../../base/bit-fields.ts';

/** §5.1 L1STD */
export const L1STD = layout('L1STD', 64, { Span: RW([4, 0]), L2Ptr: RW([55, 6]) });
export const L1STD_BYTES = 8;

/** §5.2 */
export const STE = layout('STE', 512, {
  V: RW([0]),
  Config: RW([3, 1]),
  S1Fmt: RW([5, 4]),
  S1ContextPtr: RW([55, 6]),
  _58: RES0([58, 56]),
  S1CDMax: RW([63, 59]),
  S1DSS: RW([65, 64]),
  S1CIR: RW([67, 66]),
  S1COR: RW([69, 68]),
  S1CSH: RW([71, 70]),
  S2HWU59: RW([72]),
  S2HWU60: RW([73]),
  S2HWU61: RW([74]),
  S2HWU62: RW([75]),
  DRE: RW([76]),
  CONT: RW([80, 77]),
  DCP: RW([81]),
  PPAR: RW([82]),
  MEV: RW([83]),
  SW_RESERVED: RW([87, 84]),
  S1PIE: RW([88]),
  S2FWB: RW([89]),
  S1MPAM: RW([90]),
  S1STALLD: RW([91]),
  EATS: RW([93, 92]),
  STRW: RW([95, 94]),
  MemAttr: RW([99, 96]),
  MTCFG: RW([100]),
  ALLOCCFG: RW([104, 101]),
  _107: RES0([107, 105]),
  SHCFG: RW([109, 108]),
  NSCFG: RW([111, 110]),
  PRIVCFG: RW([113, 112]),
  INSTCFG: RW([115, 114]),
  IMPDEF_127: RW([127, 116]),
  S2VMID: RW([143, 128]),
  IMPDEF_159: RW([159, 144]),
  S2T0SZ: RW([165, 160]),
  S2SL0: RW([167, 166]),
  S2IR0: RW([169, 168]),
  S2OR0: RW([171, 170]),
  S2SH0: RW([173, 172]),
  S2TG: RW([175, 174]),
  S2PS: RW([178, 176]),
  S2AA64: RW([179]),
  S2ENDI: RW([180]),
  S2AFFD: RW([181]),
  S2PTW: RW([182]),
  S2HD: RW([183]),
  S2HA: RW([184]),
  S2S: RW([185]),
  S2R: RW([186]),
  S2NSW: RW([192]),
  S2NSA: RW([193]),
  S2SL0_2: RW([194]),
  S2DS: RW([195]),
  S2TTB: RW([247, 196]),
  _252: RES0([252, 248]),
  IMPDEF_271: RW([271, 256]),
  PARTID: RW([287, 272]),
  PMG: RW([327, 320]),
  VMSPtr: RW([375, 332]),
});
export const STE_BYTES = 64;
/** STE_BYTES in 32-bit words. */
export const STE_WORDS = 16;

/** STE.Config; 0b0xx all abort. Bit 0 enables stage 1, bit 1 stage 2. */
export const STE_CONFIG = { ABORT: 0, BYPASS: 4, S1_TRANS: 5, S2_TRANS: 6, NESTED: 7 } as const;
/** STE.S1Fmt; 0b11 behaves as LINEAR. */
export const S1FMT = { LINEAR: 0, TWO_LEVEL_4K: 1, TWO_LEVEL_64K: 2 } as const;
/** STE.S1DSS; 0b11 behaves as TERMINATE. */
export const S1DSS = { TERMINATE: 0, BYPASS: 1, SSID0: 2 } as const;
/** STE.EATS */
export const EATS = { ABORT: 0, TRANS: 1, SPLIT: 2, DPT: 3 } as const;
/** STE.STRW of a Non-secure entry; 0bx1 is ILLEGAL. */
export const STRW = { NSEL1: 0, NSEL2: 2 } as const;
/** STE.SHCFG and SMMU_GBPA.SHCFG */
export const SHCFG = { NON_SHARABLE: 0, INCOMING: 1, OUTER_SHARABLE: 2, INNER_SHARABLE: 3 } as const;
/** STE.PRIVCFG and SMMU_GBPA.PRIVCFG; 0b01 behaves as INCOMING. */
export const PRIVCFG = { INCOMING: 0, UNPRIVILEGED: 2, PRIVILEGED: 3 } as const;
/** STE.INSTCFG and SMMU_GBPA.INSTCFG; 0b01 behaves as INCOMING. */
export const INSTCFG = { INCOMING: 0, DATA: 2, INSTRUCTION: 3 } as const;
/** STE.S2TG and CD.TG0. */
export const TG0 = { GRAN4K: 0, GRAN64K: 1, GRAN16K: 2 } as const;
