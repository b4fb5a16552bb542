// Descriptors of the invalidation queue: §6.5.2 and §7.6.1. In a queue of 256-bit descriptors those of 128 bits are
// padded with zeroes. The type is the concatenation of bits 11:9 and 3:0.

import { RW, layout } from '../../../base/bit-fields.ts';

export const DESC = {
  CC_INV: 0x1,
  IOTLB_INV: 0x2,
  DEV_TLB_INV: 0x3,
  IEC_INV: 0x4,
  INV_WAIT: 0x5,
  P_IOTLB_INV: 0x6,
  PC_INV: 0x7,
  P_DEV_TLB_INV: 0x8,
  PAGE_GRP_RESP: 0x9,
  HPT_INV: 0xa,
} as const;

/** Table 26: the highest type that each mode knows, with 128-bit and with 256-bit descriptors; 0 where there is none. */
export const DESC_TYPES_MAX = {
  LEGACY: [DESC.INV_WAIT, DESC.INV_WAIT],
  SCALABLE: [0, DESC.HPT_INV],
  ABORT: [0, DESC.HPT_INV],
} as const;

const TYPE = { TypeLo: RW([3, 0]), TypeHi: RW([11, 9]) } as const;

/** §6.5.2.1; G is CONTEXT_GRANULARITY. */
export const CC_INV_DSC = layout('cc_inv_dsc', 128, {
  ...TYPE,
  G: RW([5, 4]),
  DID: RW([31, 16]),
  SID: RW([47, 32]),
  FM: RW([49, 48]),
});

/** §6.5.2.2 */
export const PC_INV_DSC = layout('pc_inv_dsc', 256, {
  ...TYPE,
  G: RW([5, 4]),
  DID: RW([31, 16]),
  PASID: RW([51, 32]),
});
export const PASID_CACHE_GRANULARITY = { DOMAIN: 0, PASID: 1, RESERVED: 2, GLOBAL: 3 } as const;

/** §6.5.2.3; G is IOTLB_GRANULARITY. */
export const IOTLB_INV_DSC = layout('iotlb_inv_dsc', 128, {
  ...TYPE,
  G: RW([5, 4]),
  DW: RW([6]),
  DR: RW([7]),
  DID: RW([31, 16]),
  AM: RW([69, 64]),
  IH: RW([70]),
  ADDR: RW([127, 76]),
});

/** §6.5.2.4 */
export const P_IOTLB_INV_DSC = layout('p_iotlb_inv_dsc', 256, {
  ...TYPE,
  G: RW([5, 4]),
  DID: RW([31, 16]),
  PASID: RW([51, 32]),
  AM: RW([69, 64]),
  IH: RW([70]),
  ADDR: RW([127, 76]),
});
/** 0 and 1 are reserved. */
export const P_IOTLB_GRANULARITY = { PASID: 2, PAGE: 3 } as const;

/** §6.5.2.5 */
export const DEV_TLB_INV_DSC = layout('dev_tlb_inv_dsc', 128, {
  ...TYPE,
  PFSID_LO: RW([15, 12]),
  MIP: RW([20, 16]),
  SID: RW([47, 32]),
  PFSID_HI: RW([63, 52]),
  S: RW([64]),
  ADDR: RW([127, 76]),
});

/** §6.5.2.6 */
export const P_DEV_TLB_INV_DSC = layout('p_dev_tlb_inv_dsc', 256, {
  TypeLo: RW([3, 0]),
  MIP: RW([8, 4]),
  TypeHi: RW([11, 9]),
  PFSID_LO: RW([15, 12]),
  SID: RW([31, 16]),
  PASID: RW([51, 32]),
  PFSID_HI: RW([63, 52]),
  GI: RW([64]),
  S: RW([75]),
  ADDR: RW([127, 76]),
});

/** §6.5.2.8 */
export const IEC_INV_DSC = layout('iec_inv_dsc', 128, {
  ...TYPE,
  G: RW([4]),
  IM: RW([31, 27]),
  IIDX: RW([47, 32]),
});

/** §6.5.2.9 */
export const INV_WAIT_DSC = layout('inv_wait_dsc', 128, {
  ...TYPE,
  IF: RW([4]),
  SW: RW([5]),
  FN: RW([6]),
  PD: RW([7]),
  STATUS_DATA: RW([63, 32]),
  STATUS_ADDRESS: RW([127, 66]),
});

/** §7.6.1 */
export const PAGE_GRP_RESP_DSC = layout('page_grp_resp_dsc', 256, {
  TypeLo: RW([3, 0]),
  PP: RW([4]),
  TypeHi: RW([11, 9]),
  RC: RW([15, 12]),
  RID: RW([31, 16]),
  PASID: RW([51, 32]),
  IGN: RW([66, 64]),
  PRGI: RW([75, 67]),
});
/** Table 32 */
export const RESPONSE_CODE = { SUCCESS: 0, INVALID_REQUEST: 1, FAILURE: 0xf } as const;

/** What each type looks like. */
export const DESCRIPTORS = {
  [DESC.CC_INV]: CC_INV_DSC,
  [DESC.IOTLB_INV]: IOTLB_INV_DSC,
  [DESC.DEV_TLB_INV]: DEV_TLB_INV_DSC,
  [DESC.IEC_INV]: IEC_INV_DSC,
  [DESC.INV_WAIT]: INV_WAIT_DSC,
  [DESC.P_IOTLB_INV]: P_IOTLB_INV_DSC,
  [DESC.PC_INV]: PC_INV_DSC,
  [DESC.P_DEV_TLB_INV]: P_DEV_TLB_INV_DSC,
  [DESC.PAGE_GRP_RESP]: PAGE_GRP_RESP_DSC,
} as const;
