// Fault conditions (§7.1.3, Table 30; §5.1.4.1, Table 15), fault recording registers (§11.4.7.6) and page request
// descriptors (§7.4.1.1).

import { RO, W1C, layout } from '../../../base/bit-fields.ts';

/** How a kind of request ends. `none` is a completion with R=W=U=S=0, `effective` one with what is permitted. */
export type FaultAnswer = 'UR' | 'CA' | 'none' | 'effective' | 'IR' | 'drop' | null;

/** One condition. Null answers: requests of that kind do not meet it. */
export interface FaultCondition {
  /** The condition code. */
  readonly code: string;
  /** The fault reason that is recorded. */
  readonly reason: number;
  /** FPD of an entry on the way keeps it from being recorded. */
  readonly qualified: boolean;
  /** Untranslated requests without and with a PASID, translation requests, translated requests, page requests. */
  readonly untranslated: readonly [FaultAnswer, FaultAnswer];
  readonly translation: readonly [FaultAnswer, FaultAnswer];
  readonly translated: readonly [FaultAnswer, FaultAnswer];
  readonly pageRequest: readonly [FaultAnswer, FaultAnswer];
  /** Recorded although a translation request is completed with success. */
  readonly always: boolean;
}

/** The columns of Table 30 in its order; `.` is "not applicable". */
function condition(code: string, reason: number, qualified: 'yes' | 'no', columns: string): FaultCondition {
  const answers = columns
    .split(' ')
    .map((word): FaultAnswer => (word === '.' ? null : (word as Exclude<FaultAnswer, null>)));
  const pair = (at: number): readonly [FaultAnswer, FaultAnswer] => [answers[at]!, answers[at + 1]!];
  return {
    code,
    reason,
    qualified: qualified === 'yes',
    untranslated: pair(0),
    translation: pair(2),
    translated: pair(4),
    pageRequest: pair(6),
    always: code === 'SFS.10',
  };
}

/** Table 30 by condition code. */
export const FAULT = {
  // Legacy mode: root table, context table, second stage, general.
  LRT_1: condition('LRT.1', 0x08, 'no', 'UR . CA . UR . . .'),
  LRT_2: condition('LRT.2', 0x01, 'no', 'UR . UR . UR . . .'),
  LRT_3: condition('LRT.3', 0x0a, 'no', 'UR . CA . UR . . .'),
  LCT_1: condition('LCT.1', 0x09, 'no', 'UR . CA . UR . . .'),
  LCT_2: condition('LCT.2', 0x02, 'yes', 'UR . UR . UR . . .'),
  LCT_3: condition('LCT.3', 0x0b, 'yes', 'UR . CA . UR . . .'),
  LCT_4_1: condition('LCT.4.1', 0x03, 'yes', 'UR . CA . UR . . .'),
  LCT_4_2: condition('LCT.4.2', 0x03, 'yes', 'UR . CA . UR . . .'),
  LCT_4_3: condition('LCT.4.3', 0x03, 'yes', 'UR . CA . . . . .'),
  LCT_5: condition('LCT.5', 0x0d, 'yes', '. . UR . UR . . .'),
  LSS_1: condition('LSS.1', 0x07, 'yes', 'UR . CA . . . . .'),
  LSS_2: condition('LSS.2', 0x0c, 'yes', 'UR . CA . . . . .'),
  LGN_1_1: condition('LGN.1.1', 0x04, 'yes', 'UR . none . . . . .'),
  LGN_1_2: condition('LGN.1.2', 0x04, 'yes', '. . . . UR . . .'),
  LGN_1_3: condition('LGN.1.3', 0x04, 'yes', 'UR . . . . . . .'),
  LGN_2: condition('LGN.2', 0x05, 'yes', 'UR . effective . . . . .'),
  LGN_3: condition('LGN.3', 0x06, 'yes', 'UR . effective . . . . .'),
  LGN_4: condition('LGN.4', 0x0e, 'yes', 'UR . CA . UR . . .'),
  // The root table address register.
  RTA_1_1: condition('RTA.1.1', 0x30, 'no', 'UR UR CA CA UR UR IR drop'),
  RTA_1_2: condition('RTA.1.2', 0x30, 'no', 'UR UR CA CA UR UR IR drop'),
  RTA_1_3: condition('RTA.1.3', 0x30, 'no', 'UR UR CA CA UR UR IR drop'),
  RTA_1_4: condition('RTA.1.4', 0x30, 'no', 'UR . CA . UR . . .'),
  RTA_2: condition('RTA.2', 0x31, 'no', '. UR . UR . UR . .'),
  RTA_3: condition('RTA.3', 0x32, 'no', '. . . . . . IR drop'),
  RTA_4: condition('RTA.4', 0x33, 'no', 'UR UR UR UR UR UR IR drop'),
  RTA_5: condition('RTA.5', 0x34, 'no', '. UR . UR . UR . .'),
  // Scalable mode: root table, context table, PASID directory, PASID table.
  SRT_1: condition('SRT.1', 0x38, 'no', 'UR UR CA CA UR UR IR drop'),
  SRT_2: condition('SRT.2', 0x39, 'no', 'UR UR UR UR UR UR IR drop'),
  SRT_3: condition('SRT.3', 0x3a, 'no', 'UR UR CA CA UR UR IR drop'),
  SCT_1: condition('SCT.1', 0x40, 'no', 'UR UR CA CA UR UR IR drop'),
  SCT_2: condition('SCT.2', 0x41, 'yes', 'UR UR UR UR UR UR IR drop'),
  SCT_3: condition('SCT.3', 0x42, 'yes', 'UR UR CA CA UR UR IR drop'),
  SCT_4_1: condition('SCT.4.1', 0x43, 'yes', 'UR UR CA CA UR UR IR drop'),
  SCT_4_2: condition('SCT.4.2', 0x43, 'yes', 'UR UR CA CA UR UR IR drop'),
  SCT_4_3: condition('SCT.4.3', 0x43, 'yes', 'UR . CA . UR UR IR drop'),
  SCT_5: condition('SCT.5', 0x44, 'yes', '. . UR UR UR UR . .'),
  SCT_6: condition('SCT.6', 0x45, 'yes', '. UR . UR . . IR drop'),
  SCT_7: condition('SCT.7', 0x46, 'yes', '. UR . UR . UR IR drop'),
  SCT_8: condition('SCT.8', 0x47, 'yes', '. . . . . . IR drop'),
  SCT_9: condition('SCT.9', 0x48, 'yes', '. UR . UR . UR IR drop'),
  SCT_10: condition('SCT.10', 0x49, 'yes', '. . . . . UR . .'),
  SPD_1: condition('SPD.1', 0x50, 'no', 'UR UR CA CA CA CA IR drop'),
  SPD_2: condition('SPD.2', 0x51, 'yes', 'UR UR none none UR UR IR drop'),
  SPD_3: condition('SPD.3', 0x52, 'yes', 'UR UR CA CA CA CA IR drop'),
  SPT_1: condition('SPT.1', 0x58, 'no', 'UR UR CA CA CA CA IR drop'),
  SPT_2: condition('SPT.2', 0x59, 'yes', 'UR UR none none UR UR IR drop'),
  SPT_3: condition('SPT.3', 0x5a, 'yes', 'UR UR CA CA CA CA IR drop'),
  SPT_4_1: condition('SPT.4.1', 0x5b, 'yes', 'UR UR CA CA CA CA IR drop'),
  SPT_4_2: condition('SPT.4.2', 0x5b, 'yes', 'UR UR CA CA CA CA IR drop'),
  SPT_4_3: condition('SPT.4.3', 0x5b, 'yes', 'UR UR CA CA CA CA IR drop'),
  SPT_4_4: condition('SPT.4.4', 0x5b, 'yes', 'UR UR CA CA CA CA IR drop'),
  SPT_5: condition('SPT.5', 0x5c, 'yes', '. UR . none . . . .'),
  SPT_6: condition('SPT.6', 0x5d, 'yes', 'UR UR none none . . . .'),
  SPT_9: condition('SPT.9', 0x60, 'yes', '. . . . UR UR . .'),
  // First stage, second stage, general.
  SFS_1: condition('SFS.1', 0x70, 'yes', 'UR UR none none . . . .'),
  SFS_2: condition('SFS.2', 0x71, 'yes', 'UR UR none none . . . .'),
  SFS_3: condition('SFS.3', 0x72, 'yes', 'UR UR none none . . . .'),
  SFS_4: condition('SFS.4', 0x73, 'yes', 'UR UR none none . . . .'),
  SFS_5: condition('SFS.5', 0x74, 'yes', 'UR UR none none . . . .'),
  SFS_6: condition('SFS.6', 0x75, 'yes', 'UR UR none none . . . .'),
  SFS_7: condition('SFS.7', 0x76, 'yes', 'UR UR none none . . . .'),
  SFS_8: condition('SFS.8', 0x77, 'yes', 'UR UR none none . . . .'),
  SFS_9: condition('SFS.9', 0x90, 'yes', 'UR UR none none . . . .'),
  SFS_10: condition('SFS.10', 0x91, 'yes', 'UR UR none none . . . .'),
  SSS_1: condition('SSS.1', 0x78, 'yes', 'UR UR CA CA . . . .'),
  SSS_2: condition('SSS.2', 0x79, 'yes', 'UR UR none none . . . .'),
  SSS_3: condition('SSS.3', 0x7a, 'yes', 'UR UR CA CA . . . .'),
  SSS_4: condition('SSS.4', 0x7b, 'yes', 'UR UR CA CA . . . .'),
  SSS_5: condition('SSS.5', 0x7c, 'yes', 'UR UR CA CA . . . .'),
  SSS_6: condition('SSS.6', 0x7d, 'yes', 'UR UR CA CA . . . .'),
  SGN_1: condition('SGN.1', 0x80, 'yes', 'UR UR none none . . . .'),
  SGN_2: condition('SGN.2', 0x81, 'yes', 'UR UR none none . . . .'),
  SGN_4_1: condition('SGN.4.1', 0x83, 'yes', '. . . . UR UR . .'),
  SGN_4_2: condition('SGN.4.2', 0x83, 'yes', 'UR UR none none . . . .'),
  SGN_5: condition('SGN.5', 0x84, 'yes', 'UR UR none none . . . .'),
  SGN_6: condition('SGN.6', 0x85, 'yes', 'UR UR effective effective . . . .'),
  SGN_7: condition('SGN.7', 0x86, 'yes', 'UR UR effective effective . . . .'),
  SGN_8_1: condition('SGN.8.1', 0x87, 'yes', 'UR UR . . . . . .'),
  SGN_8_2: condition('SGN.8.2', 0x87, 'yes', '. . CA CA . . . .'),
  SGN_8_3: condition('SGN.8.3', 0x87, 'yes', '. . . . UR UR . .'),
  SGN_10: condition('SGN.10', 0x89, 'yes', '. UR . UR . UR . .'),
  // Host permission tables: values only, they are not modelled.
  HPT_1: condition('HPT.1', 0xa0, 'yes', '. . . . CA CA . .'),
  HPT_2: condition('HPT.2', 0xa1, 'yes', '. . . . CA CA . .'),
  HPT_3: condition('HPT.3', 0xa2, 'yes', '. . . . CA CA . .'),
  HPT_4: condition('HPT.4', 0xa3, 'yes', '. . . . UR UR . .'),
  HPT_5: condition('HPT.5', 0xa4, 'yes', '. . . . UR UR . .'),
  HPT_6: condition('HPT.6', 0xa5, 'yes', '. . . . UR UR . .'),
  // Table 15: the one interrupt condition that exists without interrupt remapping.
  IR_29: condition('29h', 0x29, 'no', 'UR . . . . . . .'),
} as const satisfies Record<string, FaultCondition>;

/** Table 15: fault reasons of interrupt requests. All but BAD_REQUEST need interrupt remapping. */
export const INTERRUPT_FAULT = {
  RESERVED: 0x20,
  INDEX: 0x21,
  NOT_PRESENT: 0x22,
  TABLE: 0x23,
  ENTRY_RESERVED: 0x24,
  COMPATIBILITY: 0x25,
  SOURCE: 0x26,
  POSTED_ACCESS: 0x27,
  POSTED_RESERVED: 0x28,
  BAD_REQUEST: 0x29,
  EXTENDED_MODE: 0x2a,
  REMAPPING_REQUIRED: 0x2b,
} as const;

/** §3.15: the interrupt address range, FEEx_xxxxh. */
export const INTERRUPT_RANGE = { START: 0xfee0_0000, LAST: 0xfeef_ffff, BITS: 20 } as const;

/** §11.4.7.6: 16 bytes each, at 16 × CAP.FRO. */
export const FRCD = layout('FRCD_REG', 128, {
  FI: RO([63, 12]),
  SID: RO([79, 64]),
  T2: RO([92]),
  PRIV: RO([93]),
  EXE: RO([94]),
  PP: RO([95]),
  FR: RO([103, 96]),
  PV: RO([123, 104]),
  AT: RO([125, 124]),
  T1: RO([126]),
  F: W1C([127]),
});
export const FRCD_BYTES = 16;

/** FRCD.T1 in bit 1, T2 in bit 0. */
export const FAULT_TYPE = { WRITE: 0, PAGE_REQUEST: 1, READ: 2, ATOMIC: 3 } as const;
/** FRCD.AT, as in the PCI Express header. */
export const ADDRESS_TYPE = { UNTRANSLATED: 0, TRANSLATION: 1, TRANSLATED: 2 } as const;

/** §7.4.1.1: 32 bytes each. */
export const PAGE_REQ_DSC = layout('page_req_dsc', 256, {
  Type: RO([7, 0]),
  PP: RO([8]),
  RID: RO([31, 16]),
  PASID: RO([51, 32]),
  EXR: RO([52]),
  PMR: RO([53]),
  RDR: RO([64]),
  WRR: RO([65]),
  LPIG: RO([66]),
  PRGI: RO([75, 67]),
  ADDR: RO([127, 76]),
});
export const PAGE_REQ_TYPE = 1;
export const PAGE_REQ_BYTES = 32;
