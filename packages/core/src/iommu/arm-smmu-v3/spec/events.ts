// Event records: §7.3. 32 bytes each, little-endian.

import { RO, layout } from '../../../base/bit-fields.ts';

export const EVENT = {
  F_UUT: 0x01,
  C_BAD_STREAMID: 0x02,
  F_STE_FETCH: 0x03,
  C_BAD_STE: 0x04,
  F_BAD_ATS_TREQ: 0x05,
  F_STREAM_DISABLED: 0x06,
  F_TRANSL_FORBIDDEN: 0x07,
  C_BAD_SUBSTREAMID: 0x08,
  F_CD_FETCH: 0x09,
  C_BAD_CD: 0x0a,
  F_WALK_EABT: 0x0b,
  F_TRANSLATION: 0x10,
  F_ADDR_SIZE: 0x11,
  F_ACCESS: 0x12,
  F_PERMISSION: 0x13,
  F_TLB_CONFLICT: 0x20,
  F_CFG_CONFLICT: 0x21,
  E_PAGE_REQUEST: 0x24,
  F_VMS_FETCH: 0x25,
} as const;

export const EVENT_BYTES = 32;
export const EVENT_WORDS = 8;

/** §7.3: the class of the operation that faulted. */
export const CLASS = { CD: 0, TT: 1, IN: 2 } as const;

/** The union of the fields of §7.3.2 to §7.3.20, but those of the next two layouts. */
export const EVENT_RECORD = layout('Event record', 256, {
  Type: RO([7, 0]),
  SSV: RO([11]),
  SubstreamID: RO([31, 12]),
  StreamID: RO([63, 32]),
  /** Or Reason, where an event has one. */
  STAG: RO([79, 64]),
  Stall: RO([95]),
  PnU: RO([97]),
  InD: RO([98]),
  RnW: RO([99]),
  NSIPA: RO([100]),
  S2: RO([103]),
  CLASS: RO([105, 104]),
  TTRnW: RO([108]),
  InputAddr: RO([191, 128]),
  /** F_STE_FETCH, F_CD_FETCH, F_WALK_EABT, F_VMS_FETCH have FetchAddr[55:3] in its place. */
  IPA: RO([247, 204]),
});

/** §7.3.4, §7.3.10, §7.3.12, §7.3.20 */
export const FETCH_RECORD = layout('Event record with FetchAddr', 256, {
  Type: RO([7, 0]),
  Reason: RO([79, 64]),
  GPCF: RO([80]),
  InputAddr: RO([191, 128]),
  FetchAddr: RO([247, 195]),
});

/**
 * §7.3.6: the permissions that an ATS Translation Request asked for. The text names the fields; their places follow
 * those of the records beside it (PnU, InD and RnW of the common fields, Span of E_PAGE_REQUEST).
 */
export const ATS_TREQ_RECORD = layout('F_BAD_ATS_TREQ', 256, {
  Type: RO([7, 0]),
  SSV: RO([11]),
  SubstreamID: RO([31, 12]),
  StreamID: RO([63, 32]),
  PRIV: RO([97]),
  X: RO([98]),
  R: RO([99]),
  W: RO([100]),
  Span: RO([115, 108]),
  InputAddr: RO([191, 128]),
});

/** §7.3.19 */
export const PAGE_REQUEST_RECORD = layout('E_PAGE_REQUEST', 256, {
  Type: RO([7, 0]),
  SSV: RO([11]),
  SubstreamID: RO([31, 12]),
  StreamID: RO([63, 32]),
  uX: RO([97]),
  uW: RO([98]),
  uR: RO([99]),
  pX: RO([101]),
  pW: RO([102]),
  pR: RO([103]),
  Span: RO([115, 108]),
  InputAddr: RO([191, 140]),
});
