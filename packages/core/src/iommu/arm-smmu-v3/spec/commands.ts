// Entries of the Command queue: chapter 4. 16 bytes each, little-endian.

import { RW, layout } from '../../../base/bit-fields.ts';

/** §4.1.1. 0x80 to 0x8f are IMPLEMENTATION DEFINED, all others reserved. */
export const CMD = {
  PREFETCH_CONFIG: 0x01,
  PREFETCH_ADDR: 0x02,
  CFGI_STE: 0x03,
  /** CMD_CFGI_ALL where Range is 31. */
  CFGI_STE_RANGE: 0x04,
  CFGI_CD: 0x05,
  CFGI_CD_ALL: 0x06,
  CFGI_VMS_PIDM: 0x07,
  TLBI_NH_ALL: 0x10,
  TLBI_NH_ASID: 0x11,
  TLBI_NH_VA: 0x12,
  TLBI_NH_VAA: 0x13,
  TLBI_EL3_ALL: 0x18,
  TLBI_EL3_VA: 0x1a,
  TLBI_EL2_ALL: 0x20,
  TLBI_EL2_ASID: 0x21,
  TLBI_EL2_VA: 0x22,
  TLBI_EL2_VAA: 0x23,
  TLBI_S12_VMALL: 0x28,
  TLBI_S2_IPA: 0x2a,
  TLBI_NSNH_ALL: 0x30,
  ATC_INV: 0x40,
  PRI_RESP: 0x41,
  RESUME: 0x44,
  STALL_TERM: 0x45,
  SYNC: 0x46,
  TLBI_S_EL2_ALL: 0x50,
  TLBI_S_EL2_ASID: 0x51,
  TLBI_S_EL2_VA: 0x52,
  TLBI_S_EL2_VAA: 0x53,
  TLBI_S_S12_VMALL: 0x58,
  TLBI_S_S2_IPA: 0x5a,
  TLBI_SNH_ALL: 0x60,
  DPTI_ALL: 0x70,
  DPTI_PA: 0x73,
} as const;

export const CMD_BYTES = 16;
export const CMD_WORDS = 4;

/** §4.2.1, §4.2.2 */
export const CMD_PREFETCH = layout('CMD_PREFETCH_*', 128, {
  Opcode: RW([7, 0]),
  SSec: RW([10]),
  SSV: RW([11]),
  SubstreamID: RW([31, 12]),
  StreamID: RW([63, 32]),
  Size: RW([68, 64]),
  Stride: RW([73, 69]),
  Addr: RW([127, 76]),
});

/** §4.3.1 to §4.3.6: CMD_CFGI_STE, _STE_RANGE, _CD, _CD_ALL and _ALL. Leaf is bit 0 of what is Range in the second. */
export const CMD_CFGI = layout('CMD_CFGI_*', 128, {
  Opcode: RW([7, 0]),
  SSec: RW([10]),
  SubstreamID: RW([31, 12]),
  StreamID: RW([63, 32]),
  Range: RW([68, 64]),
});
/** Range of CMD_CFGI_ALL. */
export const CFGI_ALL = 31;

/** §4.4.1 to §4.4.4: every CMD_TLBI_*; which fields a command has is said with the command. */
export const CMD_TLBI = layout('CMD_TLBI_*', 128, {
  Opcode: RW([7, 0]),
  NUM: RW([16, 12]),
  SCALE: RW([25, 20]),
  VMID: RW([47, 32]),
  ASID: RW([63, 48]),
  Leaf: RW([64]),
  TTL128: RW([71]),
  TTL: RW([73, 72]),
  TG: RW([75, 74]),
  Address: RW([127, 76]),
});
/** CMD_TLBI_*.TG; 0 says any granule and no range. */
export const TLBI_TG = { ANY: 0, GRAN4K: 1, GRAN16K: 2, GRAN64K: 3 } as const;

/** §4.5.1 */
export const CMD_ATC_INV = layout('CMD_ATC_INV', 128, {
  Opcode: RW([7, 0]),
  Global: RW([9]),
  SSV: RW([11]),
  SubstreamID: RW([31, 12]),
  StreamID: RW([63, 32]),
  Size: RW([69, 64]),
  Address: RW([127, 76]),
});
/** Size of CMD_ATC_INV that spans 2^64 bytes. */
export const ATC_INV_ALL = 52;

/** §4.5.2 */
export const CMD_PRI_RESP = layout('CMD_PRI_RESP', 128, {
  Opcode: RW([7, 0]),
  SSV: RW([11]),
  SubstreamID: RW([31, 12]),
  StreamID: RW([63, 32]),
  PRGIndex: RW([72, 64]),
  Resp: RW([77, 76]),
});
/** CMD_PRI_RESP.Resp; 3 is ILLEGAL. */
export const PRI_RESP = { FAILURE: 0, INVALID: 1, SUCCESS: 2 } as const;

/** §4.7.1, §4.7.2 */
export const CMD_RESUME = layout('CMD_RESUME', 128, {
  Opcode: RW([7, 0]),
  SSec: RW([10]),
  /** 1 retries, 0 terminates. */
  Ac: RW([12]),
  /** Where Ac is 0: 1 aborts, 0 completes as RAZ/WI. */
  Ab: RW([13]),
  StreamID: RW([63, 32]),
  STAG: RW([79, 64]),
});

/** §4.7.3 */
export const CMD_SYNC = layout('CMD_SYNC', 128, {
  Opcode: RW([7, 0]),
  CS: RW([13, 12]),
  MSH: RW([23, 22]),
  MSIAttr: RW([27, 24]),
  MSIData: RW([63, 32]),
  MSIAddress: RW([119, 66]),
});
/** CMD_SYNC.CS; 3 is ILLEGAL. */
export const SYNC_CS = { NONE: 0, IRQ: 1, SEV: 2 } as const;
