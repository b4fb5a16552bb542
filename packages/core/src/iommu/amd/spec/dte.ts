// Device table entries (§2.2.2), GCR3 table entries (§2.2.6) and interrupt remapping table entries (§2.2.5).

import { RW, layout } from '../../../base/bit-fields.ts';

/** §2.2.2, table 7. Bits that no field names are reserved. */
export const DTE = layout('DTE', 256, {
  V: RW([0]),
  TV: RW([1]),
  HAD: RW([8, 7]),
  Mode: RW([11, 9]),
  HostPTRoot: RW([51, 12]),
  PPR: RW([52]),
  GRPR: RW([53]),
  GIOV: RW([54]),
  GV: RW([55]),
  GLX: RW([57, 56]),
  GCR3_14_12: RW([60, 58]),
  IR: RW([61]),
  IW: RW([62]),
  DomainID: RW([79, 64]),
  GCR3_30_15: RW([95, 80]),
  I: RW([96]),
  SE: RW([97]),
  SA: RW([98]),
  IoCtl: RW([100, 99]),
  Cache: RW([101]),
  SD: RW([102]),
  EX: RW([103]),
  SysMgt: RW([105, 104]),
  SATS: RW([106]),
  GCR3_51_31: RW([127, 107]),
  IV: RW([128]),
  IntTabLen: RW([132, 129]),
  IG: RW([133]),
  IntTabRoot: RW([179, 134]),
  GuestPagingMode: RW([183, 182]),
  InitPass: RW([184]),
  EIntPass: RW([185]),
  NMIPass: RW([186]),
  HptMode: RW([187]),
  IntCtl: RW([189, 188]),
  Lint0Pass: RW([190]),
  Lint1Pass: RW([191]),
  vImuEn: RW([207]),
  GDeviceID: RW([223, 208]),
  GuestID: RW([239, 224]),
  SoftwareUse: RW([245]),
  AttrV: RW([246]),
  Mode0FC: RW([247]),
  SnoopAttribute: RW([255, 248]),
});
export const DTE_BYTES = 32;
/** DTE_BYTES in 32-bit words. */
export const DTE_WORDS = 8;

/** DTE.Mode: levels of the host tables; 0 translates nothing (GPA is SPA), 7 is reserved. */
export const MODE_NONE = 0;
export const MODE_RESERVED = 7;
/** DTE.HAD: which bits hardware updates in host tables; 2 is reserved. */
export const HAD = { NONE: 0, ACCESSED: 1, ACCESSED_DIRTY: 3 } as const;
/** DTE.GLX: levels of the GCR3 table less one; 3 is reserved. */
export const GLX_RESERVED = 3;
/** DTE.GuestPagingMode: levels of guest tables; 2 and 3 are reserved. */
export const GUEST_PAGING = { FOUR_LEVELS: 0, FIVE_LEVELS: 1 } as const;
/** DTE.IoCtl: port I/O space; 3 is reserved. */
export const IO_CTL = { ABORT: 0, FORWARD: 1, TRANSLATE: 2, RESERVED: 3 } as const;
/** DTE.SysMgt: the system management range. */
export const SYS_MGT = { ABORT: 0, FORWARD: 1, FORWARD_INTX: 2, TRANSLATE: 3 } as const;
/** DTE.IntCtl: fixed and arbitrated interrupts; 3 is reserved. */
export const INT_CTL = { ABORT: 0, FORWARD: 1, REMAP: 2, RESERVED: 3 } as const;
/** DTE.IntTabLen: log2 of the entries; more than 2048 are reserved. */
export const INT_TAB_LEN_MAX = 11;

/** §2.2.6: an entry of a GCR3 table, which leads to another one or is a guest's CR3. */
export const GCR3_ENTRY = layout('GCR3 table entry', 64, {
  V: RW([0]),
  PWT: RW([3]),
  PCD: RW([4]),
  Address: RW([51, 12]),
});
/** Index bits of each level of a GCR3 table. */
export const GCR3_LEVEL_BITS = 9;

/** §2.2.5.1: 32-bit entries, CONTROL.GAEn == 0. */
export const IRTE = layout('IRTE', 32, {
  RemapEn: RW([0]),
  SupIOPF: RW([1]),
  IntType: RW([4, 2]),
  RqEoi: RW([5]),
  DM: RW([6]),
  GuestMode: RW([7]),
  Destination: RW([15, 8]),
  Vector: RW([23, 16]),
});
/** §2.2.5.2: 128-bit entries, CONTROL.GAEn == 1, GuestMode == 0. The upper bits of Destination count with XTEn. */
export const IRTE_GA = layout('IRTE, guest virtual APIC', 128, {
  RemapEn: RW([0]),
  SupIOPF: RW([1]),
  IntType: RW([4, 2]),
  RqEoi: RW([5]),
  DM: RW([6]),
  GuestMode: RW([7]),
  Destination23_0: RW([31, 8]),
  GATag: RW([63, 32]),
  Vector: RW([71, 64]),
  Destination31_24: RW([127, 120]),
});
/** IRTE.IntType, and bits 10:8 of an MSI's data. */
export const INT_TYPE = { FIXED: 0, ARBITRATED: 1, SMI: 2, NMI: 4, INIT: 5, EXTINT: 7 } as const;
