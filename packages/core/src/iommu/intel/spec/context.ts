// Root tables and context tables: §9.1 to §9.4. Fields that an implementation reserves are checked where entries are
// decoded; what is reserved for all of them has no field here.

import { RW, layout } from '../../../base/bit-fields.ts';

/** §9.1: 16 bytes, 256 a table. */
export const ROOT_ENTRY = layout('Root entry', 128, { P: RW([0]), CTP: RW([63, 12]) });

/** §9.2: the lower half leads to devices 0 to 15 of a bus, the upper one to 16 to 31. */
export const SM_ROOT_ENTRY = layout('Scalable-mode root entry', 128, {
  LP: RW([0]),
  LCTP: RW([63, 12]),
  UP: RW([64]),
  UCTP: RW([127, 76]),
});
export const ROOT_ENTRY_BYTES = 16;

/** §9.3: 16 bytes, 256 a table. */
export const CONTEXT_ENTRY = layout('Context entry', 128, {
  P: RW([0]),
  FPD: RW([1]),
  TT: RW([3, 2]),
  SSPTPTR: RW([63, 12]),
  AW: RW([66, 64]),
  IGN: RW([70, 67]),
  DID: RW([87, 72]),
});
export const CONTEXT_ENTRY_BYTES = 16;

/** CONTEXT_ENTRY.TT */
export const TT = { SECOND_STAGE: 0, DEVICE_TLB: 1, PASS_THROUGH: 2, RESERVED: 3 } as const;

/** §9.4: 32 bytes, 128 a table. */
export const SM_CONTEXT_ENTRY = layout('Scalable-mode context entry', 256, {
  P: RW([0]),
  FPD: RW([1]),
  DTE: RW([2]),
  PASIDE: RW([3]),
  PRE: RW([4]),
  HPTE: RW([5]),
  EPTR: RW([6]),
  PDTS: RW([11, 9]),
  PASIDDIRPTR: RW([63, 12]),
  RID_PASID: RW([83, 64]),
  RID_PRIV: RW([84]),
});
export const SM_CONTEXT_ENTRY_BYTES = 32;

/** AW of context entries and PASID table entries is the number of levels less 2; other values are reserved. */
export const AW = { LEVELS_3: 1, LEVELS_4: 2, LEVELS_5: 3 } as const;
