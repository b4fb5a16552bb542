// Context descriptors: §5.3 (level 1 descriptors) and §5.4. Fields of SMMUv3.3.

import { RES0, RW, layout } from '../../../base/bit-fields.ts';

/** §5.3 L1CD */
export const L1CD = layout('L1CD', 64, { V: RW([0]), L2Ptr: RW([55, 12]) });
export const L1CD_BYTES = 8;

/** §5.4 */
export const CD = layout('CD', 512, {
  T0SZ: RW([5, 0]),
  TG0: RW([7, 6]),
  IR0: RW([9, 8]),
  OR0: RW([11, 10]),
  SH0: RW([13, 12]),
  EPD0: RW([14]),
  ENDI: RW([15]),
  T1SZ: RW([21, 16]),
  TG1: RW([23, 22]),
  IR1: RW([25, 24]),
  OR1: RW([27, 26]),
  SH1: RW([29, 28]),
  EPD1: RW([30]),
  V: RW([31]),
  IPS: RW([34, 32]),
  AFFD: RW([35]),
  WXN: RW([36]),
  UWXN: RW([37]),
  TBI0: RW([38]),
  TBI1: RW([39]),
  PAN: RW([40]),
  AA64: RW([41]),
  HD: RW([42]),
  HA: RW([43]),
  S: RW([44]),
  R: RW([45]),
  A: RW([46]),
  ASET: RW([47]),
  ASID: RW([63, 48]),
  NSCFG0: RW([64]),
  HAD0: RW([65]),
  E0PD0: RW([66]),
  TTB0: RW([119, 68]),
  _121: RES0([121, 120]),
  EPAN: RW([123]),
  HWU059: RW([124]),
  HWU060: RW([125]),
  HWU061: RW([126]),
  HWU062: RW([127]),
  NSCFG1: RW([128]),
  HAD1: RW([129]),
  E0PD1: RW([130]),
  TTB1: RW([183, 132]),
  _185: RES0([185, 184]),
  DS: RW([186]),
  HWU159: RW([188]),
  HWU160: RW([189]),
  HWU161: RW([190]),
  HWU162: RW([191]),
  MAIR0: RW([223, 192]),
  MAIR1: RW([255, 224]),
  AMAIR0: RW([287, 256]),
  AMAIR1: RW([319, 288]),
  IMPDEF_351: RW([351, 320]),
  PARTID: RW([367, 352]),
  PMG: RW([375, 368]),
  _383: RES0([383, 376]),
});
export const CD_BYTES = 64;
/** CD_BYTES in 32-bit words. */
export const CD_WORDS = 16;

/** CD.TG1; TG0 has other encodings (ste.ts). */
export const TG1 = { GRAN16K: 1, GRAN4K: 2, GRAN64K: 3 } as const;
