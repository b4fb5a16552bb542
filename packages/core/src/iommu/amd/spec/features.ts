// What an AMD IOMMU says of itself: the Extended Feature Registers, and its capability block in PCI configuration space
// (§3.2).

import { RO, RW, layout } from '../../../base/bit-fields.ts';

/** §3.4, MMIO 0030h */
export const EFR = layout('Extended Feature Register', 64, {
  PreFSup: RO([0]),
  PPRSup: RO([1]),
  XTSup: RO([2]),
  NXSup: RO([3]),
  GTSup: RO([4]),
  GAPPISup: RO([5]),
  IASup: RO([6]),
  GASup: RO([7]),
  HESup: RO([8]),
  PCSup: RO([9]),
  HATS: RO([11, 10]),
  GATS: RO([13, 12]),
  GLXSup: RO([15, 14]),
  SmiFSup: RO([17, 16]),
  SmiFRC: RO([20, 18]),
  GAMSup: RO([23, 21]),
  DualPprLogSup: RO([25, 24]),
  DualEventLogSup: RO([29, 28]),
  SATSSup: RO([31]),
  PASMax: RO([36, 32]),
  USSup: RO([37]),
  DevTblSegSup: RO([39, 38]),
  PprOvrflwEarlySup: RO([40]),
  PPRAutoRspSup: RO([41]),
  MarcSup: RO([43, 42]),
  BlkStopMrkSup: RO([44]),
  PerfOptSup: RO([45]),
  MsiCapMmioSup: RO([46]),
  SnoopAttrSup: RO([47]),
  GIoSup: RO([48]),
  HASup: RO([49]),
  EPHSup: RO([50]),
  AttrFWSup: RO([51]),
  HDSup: RO([52]),
  V2_HDDisSup: RO([53]),
  InvIotlbTypeSup: RO([54]),
  vIommuSup: RO([55]),
  VmGuardIOSup: RO([56]),
  V2_HADDisSup: RO([61]),
  ForcePhyDestSup: RO([62]),
  SNPSup: RO([63]),
});

/** EFR.HATS: levels of host tables; 3 is reserved. */
export const HATS_LEVELS = [4, 5, 6] as const;
/** EFR.GATS: levels of guest tables. Six were never given a meaning by DTE.GuestPagingMode. */
export const GATS_LEVELS = [4, 5, 6] as const;
/** EFR.DevTblSegSup: the most segments that a device table may have. */
export const SEGMENTS_MAX = [1, 2, 4, 8] as const;

/** §3.4, MMIO 01A0h */
export const EFR2 = layout('Extended Feature Register 2', 64, {
  SNPIOSup: RO([1]),
  TMPMSup: RO([2]),
  GCR3TRPMode: RO([3]),
  GAPPIDisSup: RO([4]),
  SNPAVICSup: RO([7, 5]),
  NumIntRemapSup: RO([9, 8]),
  HTRangeIgnore: RO([11]),
  SNPPageMode0Sup: RO([13]),
});

/** §3.2.1, offset 00h of the capability block */
export const CAP_HEADER = layout('Capability Header', 32, {
  CapId: RO([7, 0], 0x0f),
  CapPtr: RO([15, 8]),
  CapType: RO([18, 16], 3),
  CapRev: RO([23, 19], 1),
  IotlbSup: RO([24]),
  HtTunnel: RO([25]),
  NpCache: RO([26]),
  EFRSup: RO([27]),
  CapExt: RO([28]),
});

/** §3.2.2 and §3.2.3, offsets 04h and 08h */
export const CAP_BASE = layout('Base Address', 64, { Enable: RW([0]), BaseAddress: RW([63, 14]) });

/** §3.2.4, offset 0Ch */
export const CAP_RANGE = layout('Range Register', 32, {
  RngValid: RO([7]),
  BusNumber: RO([15, 8]),
  FirstDevice: RO([23, 16]),
  LastDevice: RO([31, 24]),
});

/** §3.2.5, offset 10h; at MMIO 0150h too */
export const MISC_INFO0 = layout('Miscellaneous Information Register 0', 32, {
  MsiNum: RO([4, 0]),
  GVAsize: RO([7, 5]),
  PAsize: RO([14, 8]),
  VAsize: RO([21, 15]),
  HtAtsResv: RO([22]),
  MsiNumPPR: RO([31, 27]),
});
/** MISC_INFO0.GVAsize of 48 and 57 bits. */
export const GVA_SIZE = { BITS_48: 2, BITS_57: 4 } as const;

/** §3.2.6, offset 14h; at MMIO 0154h too */
export const MISC_INFO1 = layout('Miscellaneous Information Register 1', 32, { MsiNumGA: RO([4, 0]) });

/** Offsets in the capability block. */
export const CAP = {
  HEADER: 0x00,
  BASE_LOW: 0x04,
  BASE_HIGH: 0x08,
  RANGE: 0x0c,
  MISC0: 0x10,
  MISC1: 0x14,
} as const;
