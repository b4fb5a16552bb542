// The MMIO registers of an AMD IOMMU: AMD 48882 rev 3.10, "AMD I/O Virtualization Technology (IOMMU) Specification",
// §3.4. The section numbers without a document in this folder and in ../hardware are that revision's; registers are
// cited by their MMIO offset.

import { RO, RW, W1C, type LayoutInfo, layout } from '../../../base/bit-fields.ts';
import { EFR, EFR2, MISC_INFO0, MISC_INFO1 } from './features.ts';

/** 0000h */
export const DEV_TAB_BASE = layout('Device Table Base Address Register', 64, {
  Size: RW([8, 0]),
  DevTabBase: RW([51, 12]),
});

/** 0100h to 0130h */
export const DEV_TAB_SEGMENT = layout('Device Table Segment Base Address Register', 64, {
  Size: RW([7, 0]),
  DevTabBase: RW([51, 12]),
});

/** 0008h, 0010h, 0038h: a ring of 2^Len entries of 16 bytes; Len below 8 is reserved. */
export const RING_BASE = layout('Buffer or Log Base Address Register', 64, {
  Base: RW([51, 12]),
  Len: RW([59, 56], 8),
});
export const RING_LOG2_MIN = 8;
export const RING_ENTRY_BYTES = 16;

/** 0018h. CRW (21:18) is reserved here. */
export const CONTROL = layout('IOMMU Control Register', 64, {
  IommuEn: RW([0]),
  HtTunEn: RW([1]),
  EventLogEn: RW([2]),
  EventIntEn: RW([3]),
  ComWaitIntEn: RW([4]),
  InvTimeOut: RW([7, 5]),
  PassPW: RW([8]),
  ResPassPW: RW([9]),
  Coherent: RW([10], 1),
  Isoc: RW([11]),
  CmdBufEn: RW([12]),
  PPRLogEn: RW([13]),
  PprIntEn: RW([14]),
  PPREn: RW([15]),
  GTEn: RW([16]),
  GAEn: RW([17]),
  SmiFEn: RW([22]),
  SlfWBdis: RW([23]),
  SmiFLogEn: RW([24]),
  GAMEn: RW([27, 25]),
  GALogEn: RW([28]),
  GAIntEn: RW([29]),
  DualPprLogEn: RW([31, 30]),
  DualEventLogEn: RW([33, 32]),
  DevTblSegEn: RW([36, 34]),
  PrivAbrtEn: RW([38, 37]),
  PprAutoRspEn: RW([39]),
  MarcEn: RW([40]),
  BlkStopMrkEn: RW([41]),
  PprAutoRspAon: RW([42]),
  NumIntRemapMode: RW([44, 43]),
  EPHEn: RW([45]),
  HADUpdate: RW([47, 46]),
  GDUpdateDis: RW([48]),
  XTEn: RW([50]),
  IntCapXTEn: RW([51]),
  vCmdEn: RW([52]),
  vIommuEn: RW([53]),
  GAUpdateDis: RW([54]),
  GAPPIEn: RW([55]),
  TMPMEn: RW([56]),
  GCR3TRPMode: RW([58]),
  IRTCacheDis: RW([59]),
  GstBufferTRPMode: RW([60]),
  SNPAVICEn: RW([63, 61]),
});

/** CONTROL.InvTimeOut: 1 ms, 10 ms, up to 100 s; 7 is reserved. */
export const INV_TIMEOUT_NONE = 0;

/** 0020h */
export const EXCLUSION_BASE = layout('Exclusion Base Register', 64, {
  ExEn: RW([0]),
  Allow: RW([1]),
  Base: RW([51, 12]),
});
/** 0028h: bits 11:0 count as ones. */
export const EXCLUSION_LIMIT = layout('Exclusion Range Limit Register', 64, { Limit: RW([51, 12]) });

/** 0040h and 0048h: the two halves of an event record. */
export const HW_EVENT = layout('Hardware Event Register', 64, { Operand: RW([63, 0]) });
/** 0050h */
export const HW_EVENT_STATUS = layout('Hardware Event Status Register', 64, { HEV: W1C([0]), HEO: W1C([1]) });

/** 0158h, 015Ch, 0160h, 0164h, 0168h: the MSI capabilities of the PCI function. */
export const MSI_CAP = layout('MSI Capability Header Register', 32, {
  MsiCapId: RO([7, 0], 0x05),
  MsiCapPtr: RO([15, 8]),
  MsiEn: RW([16]),
  MsiMultMessCap: RO([19, 17]),
  MsiMultMessEn: RW([22, 20]),
  Msi64En: RO([23], 1),
});
export const MSI_ADDRESS_LOW = layout('MSI Address Low Register', 32, { MsiAddr: RW([31, 2]) });
export const MSI_ADDRESS_HIGH = layout('MSI Address High Register', 32, { MsiAddr: RW([31, 0]) });
export const MSI_DATA = layout('MSI Data Register', 32, { MsiData: RW([15, 0]) });
export const MSI_MAPPING = layout('MSI Mapping Capability Header Register', 32, {
  MsiMapCapId: RO([7, 0], 0x08),
  MsiMapEn: RO([16], 1),
  MsiMapFixd: RO([17], 1),
  MsiMapCapType: RO([31, 27], 0x15),
});

/** 0170h, 0178h: where the IOMMU's own interrupts go with CONTROL.IntCapXTEn. */
export const XT_INTERRUPT = layout('XT IOMMU Interrupt Control Register', 64, {
  DestinationMode: RW([2]),
  Destination23_0: RW([31, 8]),
  Vector: RW([39, 32]),
  DeliveryMode: RW([40]),
  Destination31_24: RW([63, 56]),
});

/** 2000h, 2008h, 2010h, 2018h, 2030h, 2038h: byte offsets in a ring. */
export const RING_POINTER = layout('Head or Tail Pointer Register', 64, { Ptr: RW([18, 4]) });

/** 2020h. The fields of the guest virtual APIC log and of second logs are reserved here. */
export const STATUS = layout('IOMMU Status Register', 64, {
  EventOverflow: W1C([0]),
  EventLogInt: W1C([1]),
  ComWaitInt: W1C([2]),
  EventLogRun: RO([3]),
  CmdBufRun: RO([4]),
  PprOverflow: W1C([5]),
  PprInt: W1C([6]),
  PprLogRun: RO([7]),
  PprOverflowEarly: W1C([18]),
});

/** 2080h */
export const PPR_AUTO_RESPONSE = layout('PPR Log Auto Response Register', 64, {
  PprAutoRespCode: RW([3, 0]),
  PprAutoRespMaskGn: RW([4]),
});
/** 2088h */
export const PPR_OVERFLOW_EARLY = layout('PPR Log Overflow Early Indicator Register', 64, {
  PprOvrflwEarlyThreshold: RW([14, 0]),
  PprOvrflwEarlyIntEn: RW([30]),
  PprOvrflwEarlyEn: RW([31]),
});

/** The registers end here: no performance counters, which would follow at 4000h. */
export const REGISTER_BYTES = 0x4000;

/** Offsets by name, as software writes them. */
export const OFFSET = {
  DEV_TAB_BASE: 0x0000,
  CMD_BUF_BASE: 0x0008,
  EVT_LOG_BASE: 0x0010,
  CONTROL: 0x0018,
  EXCL_BASE: 0x0020,
  EXCL_LIMIT: 0x0028,
  EFR: 0x0030,
  PPR_LOG_BASE: 0x0038,
  HW_EVENT_UPPER: 0x0040,
  HW_EVENT_LOWER: 0x0048,
  HW_EVENT_STATUS: 0x0050,
  DEV_TAB_SEG1: 0x0100,
  MSI_VECTOR0: 0x0150,
  MSI_VECTOR1: 0x0154,
  MSI_CAP: 0x0158,
  MSI_ADDR_LOW: 0x015c,
  MSI_ADDR_HIGH: 0x0160,
  MSI_DATA: 0x0164,
  MSI_MAPPING: 0x0168,
  XT_GEN_INT: 0x0170,
  XT_PPR_INT: 0x0178,
  EFR2: 0x01a0,
  CMD_HEAD: 0x2000,
  CMD_TAIL: 0x2008,
  EVT_HEAD: 0x2010,
  EVT_TAIL: 0x2018,
  STATUS: 0x2020,
  PPR_HEAD: 0x2030,
  PPR_TAIL: 0x2038,
  PPR_AUTO_RESPONSE: 0x2080,
  PPR_OVERFLOW_EARLY: 0x2088,
} as const;

/** Feature bits without which a register reads as zero and ignores writes. */
export type RegisterNeed =
  | 'PPRSup'
  | 'HESup'
  | 'XTSup'
  | 'MsiCapMmioSup'
  | 'PPRAutoRspSup'
  | 'PprOvrflwEarlySup'
  | 'exclusion'
  | 'segments2'
  | 'segments4'
  | 'segments8';

/** The status bit that must be 0 for a write to count: behaviour is undefined otherwise, and this model ignores it. */
export type RegisterGuard = 'CmdBufRun' | 'EventLogRun' | 'PprLogRun';

export interface RegisterSpec {
  readonly name: string;
  readonly offset: number;
  readonly bytes: 4 | 8;
  readonly layout: LayoutInfo;
  readonly guard?: RegisterGuard;
  readonly needs?: RegisterNeed;
  /** Of a ring pointer: the base register of its ring. Values outside of the ring are ignored (undefined). */
  readonly ring?: number;
}

const register = (
  name: string,
  offset: number,
  of: { readonly $: LayoutInfo },
  rest: Pick<RegisterSpec, 'guard' | 'needs' | 'ring'> = {},
): RegisterSpec => ({ name, offset, bytes: of.$.width === 64 ? 8 : 4, layout: of.$, ...rest });

const segment = (n: number): RegisterSpec =>
  register(`DevTabSegBase${n}`, OFFSET.DEV_TAB_SEG1 + 8 * (n - 1), DEV_TAB_SEGMENT, {
    needs: n === 1 ? 'segments2' : n <= 3 ? 'segments4' : 'segments8',
  });

const CMD = OFFSET.CMD_BUF_BASE;
const EVT = OFFSET.EVT_LOG_BASE;
const PPR = OFFSET.PPR_LOG_BASE;

/** Every register that this model has. What lies between reads as zero. */
export const REGISTERS: readonly RegisterSpec[] = [
  register('DevTabBase', OFFSET.DEV_TAB_BASE, DEV_TAB_BASE),
  register('ComBase', OFFSET.CMD_BUF_BASE, RING_BASE, { guard: 'CmdBufRun' }),
  register('EventBase', OFFSET.EVT_LOG_BASE, RING_BASE, { guard: 'EventLogRun' }),
  register('Control', OFFSET.CONTROL, CONTROL),
  register('ExclusionBase', OFFSET.EXCL_BASE, EXCLUSION_BASE, { needs: 'exclusion' }),
  register('ExclusionLimit', OFFSET.EXCL_LIMIT, EXCLUSION_LIMIT, { needs: 'exclusion' }),
  register('EFR', OFFSET.EFR, EFR),
  register('PPRLogBase', OFFSET.PPR_LOG_BASE, RING_BASE, { guard: 'PprLogRun', needs: 'PPRSup' }),
  register('HwEventUpper', OFFSET.HW_EVENT_UPPER, HW_EVENT, { needs: 'HESup' }),
  register('HwEventLower', OFFSET.HW_EVENT_LOWER, HW_EVENT, { needs: 'HESup' }),
  register('HwEventStatus', OFFSET.HW_EVENT_STATUS, HW_EVENT_STATUS, { needs: 'HESup' }),
  ...[1, 2, 3, 4, 5, 6, 7].map(segment),
  register('MsiVector0', OFFSET.MSI_VECTOR0, MISC_INFO0, { needs: 'MsiCapMmioSup' }),
  register('MsiVector1', OFFSET.MSI_VECTOR1, MISC_INFO1, { needs: 'MsiCapMmioSup' }),
  register('MsiCapHeader', OFFSET.MSI_CAP, MSI_CAP, { needs: 'MsiCapMmioSup' }),
  register('MsiAddressLow', OFFSET.MSI_ADDR_LOW, MSI_ADDRESS_LOW, { needs: 'MsiCapMmioSup' }),
  register('MsiAddressHigh', OFFSET.MSI_ADDR_HIGH, MSI_ADDRESS_HIGH, { needs: 'MsiCapMmioSup' }),
  register('MsiData', OFFSET.MSI_DATA, MSI_DATA, { needs: 'MsiCapMmioSup' }),
  register('MsiMappingCapHeader', OFFSET.MSI_MAPPING, MSI_MAPPING, { needs: 'MsiCapMmioSup' }),
  register('XTGeneralInterrupt', OFFSET.XT_GEN_INT, XT_INTERRUPT, { needs: 'XTSup' }),
  register('XTPprInterrupt', OFFSET.XT_PPR_INT, XT_INTERRUPT, { needs: 'XTSup' }),
  register('EFR2', OFFSET.EFR2, EFR2),
  register('CmdHeadPtr', OFFSET.CMD_HEAD, RING_POINTER, { guard: 'CmdBufRun', ring: CMD }),
  register('CmdTailPtr', OFFSET.CMD_TAIL, RING_POINTER, { ring: CMD }),
  register('EventHeadPtr', OFFSET.EVT_HEAD, RING_POINTER, { ring: EVT }),
  register('EventTailPtr', OFFSET.EVT_TAIL, RING_POINTER, { guard: 'EventLogRun', ring: EVT }),
  register('Status', OFFSET.STATUS, STATUS),
  register('PPRHeadPtr', OFFSET.PPR_HEAD, RING_POINTER, { needs: 'PPRSup', ring: PPR }),
  register('PPRTailPtr', OFFSET.PPR_TAIL, RING_POINTER, { guard: 'PprLogRun', needs: 'PPRSup', ring: PPR }),
  register('PPRAutoResponse', OFFSET.PPR_AUTO_RESPONSE, PPR_AUTO_RESPONSE, { needs: 'PPRAutoRspSup' }),
  register('PPROverflowEarly', OFFSET.PPR_OVERFLOW_EARLY, PPR_OVERFLOW_EARLY, { needs: 'PprOvrflwEarlySup' }),
];
