// Scalable-mode PASID directory and table entries: §9.5, §9.6.

import { RW, layout } from '../../../base/bit-fields.ts';

/** §9.5: 8 bytes, indexed by PASID[19:6]. */
export const PASID_DIR_ENTRY = layout('PASID directory entry', 64, {
  P: RW([0]),
  FPD: RW([1]),
  SMPTBLPTR: RW([63, 12]),
});
export const PASID_DIR_ENTRY_BYTES = 8;

/** §9.6: 64 bytes, indexed by PASID[5:0]. */
export const PASID_ENTRY = layout('PASID table entry', 512, {
  P: RW([0]),
  FPD: RW([1]),
  AW: RW([4, 2]),
  PGTT: RW([8, 6]),
  SSADE: RW([9]),
  SSPTPTR: RW([63, 12]),
  DID: RW([79, 64]),
  PWSNP: RW([87]),
  PGSNP: RW([88]),
  CD: RW([89]),
  EMTE: RW([90]),
  PAT: RW([127, 96]),
  SRE: RW([128]),
  FSPM: RW([131, 130]),
  WPE: RW([132]),
  IGN: RW([134, 133]),
  EAFE: RW([135]),
  FSPTPTR: RW([191, 140]),
  HPTSZ: RW([257, 256]),
  HPTPFD: RW([258]),
  HPTPTR: RW([319, 268]),
  HPTDID: RW([335, 320]),
});
export const PASID_ENTRY_BYTES = 64;
/** PASID_ENTRY_BYTES in 32-bit words. */
export const PASID_ENTRY_WORDS = 16;

/** PASID_ENTRY.PGTT; all other values are reserved. */
export const PGTT = { FIRST_STAGE: 1, SECOND_STAGE: 2, NESTED: 3, PASS_THROUGH: 4 } as const;
export type Pgtt = (typeof PGTT)[keyof typeof PGTT];

/** PASID_ENTRY.FSPM */
export const FSPM = { LEVELS_4: 0, LEVELS_5: 1 } as const;
