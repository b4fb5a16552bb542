// The register interface of VT-d remapping hardware: "Intel Virtualization Technology for Directed I/O Architecture
// Specification", order number D51397-018, revision 5.10 of November 2025, chapter 11. The section and table numbers
// without a document in this folder and in ../hardware are that revision's, and revision 5.0's too.

import { type LayoutInfo, RO, RW, W1C, WO, layout } from '../../../base/bit-fields.ts';

/** §11.4.1 */
export const VER = layout('VER_REG', 32, { MIN: RO([3, 0]), MAX: RO([7, 4]) });

/** §11.4.2 */
export const CAP = layout('CAP_REG', 64, {
  ND: RO([2, 0]),
  RWBF: RO([4]),
  PLMR: RO([5]),
  PHMR: RO([6]),
  CM: RO([7]),
  SAGAW: RO([12, 8]),
  MGAW: RO([21, 16]),
  ZLR: RO([22]),
  FRO: RO([33, 24]),
  SSLPS: RO([37, 34]),
  PSI: RO([39]),
  NFR: RO([47, 40]),
  MAMV: RO([53, 48]),
  DWD: RO([54]),
  DRD: RO([55]),
  FS1GP: RO([56]),
  PI: RO([59]),
  FS5LP: RO([60]),
  ECMDS: RO([61]),
  ESIRTPS: RO([62]),
  ESRTPS: RO([63]),
});

/** CAP.SAGAW: a bit for each number of levels of second-stage tables. */
export const SAGAW = { LEVELS_3: 2, LEVELS_4: 4, LEVELS_5: 8 } as const;
/** CAP.SSLPS */
export const SSLPS = { NONE: 0, PAGES_2M: 1, PAGES_1G: 3 } as const;

/** §11.4.3 */
export const ECAP = layout('ECAP_REG', 64, {
  C: RO([0]),
  QI: RO([1]),
  DT: RO([2]),
  IR: RO([3]),
  EIM: RO([4]),
  PT: RO([6]),
  SC: RO([7]),
  IRO: RO([17, 8]),
  MHMV: RO([23, 20]),
  MTS: RO([25]),
  NEST: RO([26]),
  PRS: RO([29]),
  ERS: RO([30]),
  SRS: RO([31]),
  NWFS: RO([33]),
  EAFS: RO([34]),
  PSS: RO([39, 35]),
  PASID: RO([40]),
  DIT: RO([41]),
  PDS: RO([42]),
  SMTS: RO([43]),
  VCS: RO([44]),
  SSADS: RO([45]),
  SSTS: RO([46]),
  FSTS: RO([47]),
  SMPWCS: RO([48]),
  RPS: RO([49]),
  TDXCS: RO([50]),
  PMS: RO([51]),
  ADMS: RO([52]),
  RPRIVS: RO([53]),
  HPTS: RO([55]),
  PTRS: RO([56]),
  SSIRWS: RO([57]),
  SMS: RO([58]),
  HPT1GPS: RO([59]),
  RDTS: RO([60]),
  EIMER: RO([61]),
  IRREQ: RO([62]),
});

/** §11.4.4.1 */
export const GCMD = layout('GCMD_REG', 32, {
  CFI: WO([23]),
  SIRTP: WO([24]),
  IRE: WO([25]),
  QIE: WO([26]),
  WBF: WO([27]),
  SRTP: WO([30]),
  TE: WO([31]),
});

/** §11.4.4.2 */
export const GSTS = layout('GSTS_REG', 32, {
  CFIS: RO([23]),
  IRTPS: RO([24]),
  IRES: RO([25]),
  QIES: RO([26]),
  WBFS: RO([27]),
  RTPS: RO([30]),
  TES: RO([31]),
});

/** §11.4.5 */
export const RTADDR = layout('RTADDR_REG', 64, { SSIRWE: RW([7]), TTM: RW([11, 10]), RTA: RW([63, 12]) });
export const TTM = { LEGACY: 0, SCALABLE: 1, RESERVED: 2, ABORT: 3 } as const;
export type Ttm = (typeof TTM)[keyof typeof TTM];

/** §11.4.6.1 */
export const CCMD = layout('CCMD_REG', 64, {
  DID: RW([15, 0]),
  SID: WO([31, 16]),
  FM: WO([33, 32]),
  CAIG: RO([60, 59]),
  CIRG: RW([62, 61]),
  ICC: RW([63]),
});
/** CCMD.CIRG and CAIG, and G of cc_inv_dsc. */
export const CONTEXT_GRANULARITY = { ERROR: 0, GLOBAL: 1, DOMAIN: 2, DEVICE: 3 } as const;

/** §11.4.6.4, at 16 × ECAP.IRO */
export const IVA = layout('IVA_REG', 64, { AM: WO([5, 0]), IH: WO([6]), ADDR: WO([63, 12]) });
/** §11.4.6.3, 8 bytes after IVA_REG */
export const IOTLB = layout('IOTLB_REG', 64, {
  DID: RW([47, 32]),
  DW: RW([48]),
  DR: RW([49]),
  IAIG: RO([58, 57]),
  IIRG: RW([61, 60]),
  IVT: RW([63]),
});
/** IOTLB.IIRG and IAIG, and G of iotlb_inv_dsc. */
export const IOTLB_GRANULARITY = { ERROR: 0, GLOBAL: 1, DOMAIN: 2, PAGE: 3 } as const;

/** §11.4.7.1 */
export const FSTS = layout('FSTS_REG', 32, {
  PFO: W1C([0]),
  PPF: RO([1]),
  IQE: W1C([4]),
  ICE: W1C([5]),
  ITE: W1C([6]),
  FRI: RO([15, 8]),
});

/** §11.4.7.2, §11.4.9.5, §11.4.11.5 */
export const EVENT_CONTROL = layout('*ECTL_REG', 32, { IP: RO([30], 0), IM: RW([31], 1) });
/** §11.4.7.3, §11.4.9.6, §11.4.11.6 */
export const EVENT_DATA = layout('*EDATA_REG', 32, { IMD: RW([15, 0]) });
/** §11.4.7.4, §11.4.9.7, §11.4.11.7 */
export const EVENT_ADDRESS = layout('*EADDR_REG', 32, { MA: RW([31, 2]) });
/** §11.4.7.5, §11.4.9.8, §11.4.11.8 */
export const EVENT_UPPER_ADDRESS = layout('*EUADDR_REG', 32, { MUA: RW([31, 0]) });

/** §11.4.8.1 */
export const PMEN = layout('PMEN_REG', 32, { PRS: RO([0]), EPM: RW([31]) });
/** §11.4.8.2, §11.4.8.3: which low bits are not there is up to the implementation. */
export const PLM = layout('PLM*_REG', 32, { PLM: RW([31, 21]) });
/** §11.4.8.4, §11.4.8.5 */
export const PHM = layout('PHM*_REG', 64, { PHM: RW([63, 21]) });

/** §11.4.9.1 */
export const IQH = layout('IQH_REG', 64, { QH: RO([18, 4]) });
/** §11.4.9.2 */
export const IQT = layout('IQT_REG', 64, { QT: RW([18, 4]) });
/** §11.4.9.3 */
export const IQA = layout('IQA_REG', 64, { QS: RW([2, 0]), DW: RW([11]), IQA: RW([63, 12]) });
/** §11.4.9.4 */
export const ICS = layout('ICS_REG', 32, { IWC: W1C([0]) });
/** §11.4.9.9 */
export const IQERCD = layout('IQERCD_REG', 64, {
  IQEI: RO([3, 0]),
  ITESID: RO([47, 32]),
  ICESID: RO([63, 48]),
});
/** IQERCD.IQEI */
export const IQEI = {
  NONE: 0,
  TAIL: 1,
  FETCH: 2,
  TYPE: 3,
  RESERVED: 4,
  WIDTH: 5,
  TAIL_ALIGNMENT: 6,
  TTM: 7,
} as const;
export type Iqei = (typeof IQEI)[keyof typeof IQEI];

/** §11.4.10 */
export const IRTA = layout('IRTA_REG', 64, { S: RW([3, 0]), EIME: RW([11]), IRTA: RW([63, 12]) });

/** §11.4.11.1 */
export const PQH = layout('PQH_REG', 64, { PQH: RW([18, 5]) });
/** §11.4.11.2 */
export const PQT = layout('PQT_REG', 64, { PQT: RW([18, 5]) });
/** §11.4.11.3 */
export const PQA = layout('PQA_REG', 64, { PQS: RW([2, 0]), PQA: RW([63, 12]) });
/** §11.4.11.4 */
export const PRS = layout('PRS_REG', 32, { PPR: W1C([0]), PRO: W1C([1]) });

/** What the capability registers must say for a register to be there; elsewhere it is RsvdZ. */
export type Need = 'QI' | 'IR' | 'PRS' | 'EIM' | 'PLMR' | 'PHMR';

export interface RegisterSpec {
  readonly name: string;
  readonly offset: number;
  readonly bytes: 4 | 8;
  readonly layout: LayoutInfo;
  readonly section: string;
  readonly needs?: readonly Need[];
}

const register = (
  name: string,
  offset: number,
  of: { readonly $: LayoutInfo },
  section: string,
  needs: readonly Need[] = [],
): RegisterSpec => ({ name, offset, bytes: of.$.width === 64 ? 8 : 4, layout: of.$, section, needs });

/** Every register that this model has at a fixed place (§11.4). What lies between reads as zero. */
export const REGISTERS: readonly RegisterSpec[] = [
  register('VER_REG', 0x00, VER, '§11.4.1'),
  register('CAP_REG', 0x08, CAP, '§11.4.2'),
  register('ECAP_REG', 0x10, ECAP, '§11.4.3'),
  register('GCMD_REG', 0x18, GCMD, '§11.4.4.1'),
  register('GSTS_REG', 0x1c, GSTS, '§11.4.4.2'),
  register('RTADDR_REG', 0x20, RTADDR, '§11.4.5'),
  register('CCMD_REG', 0x28, CCMD, '§11.4.6.1'),
  register('FSTS_REG', 0x34, FSTS, '§11.4.7.1'),
  register('FECTL_REG', 0x38, EVENT_CONTROL, '§11.4.7.2'),
  register('FEDATA_REG', 0x3c, EVENT_DATA, '§11.4.7.3'),
  register('FEADDR_REG', 0x40, EVENT_ADDRESS, '§11.4.7.4'),
  register('FEUADDR_REG', 0x44, EVENT_UPPER_ADDRESS, '§11.4.7.5', ['EIM']),
  register('PMEN_REG', 0x64, PMEN, '§11.4.8.1', ['PLMR', 'PHMR']),
  register('PLMBASE_REG', 0x68, PLM, '§11.4.8.2', ['PLMR']),
  register('PLMLIMIT_REG', 0x6c, PLM, '§11.4.8.3', ['PLMR']),
  register('PHMBASE_REG', 0x70, PHM, '§11.4.8.4', ['PHMR']),
  register('PHMLIMIT_REG', 0x78, PHM, '§11.4.8.5', ['PHMR']),
  register('IQH_REG', 0x80, IQH, '§11.4.9.1', ['QI']),
  register('IQT_REG', 0x88, IQT, '§11.4.9.2', ['QI']),
  register('IQA_REG', 0x90, IQA, '§11.4.9.3', ['QI']),
  register('ICS_REG', 0x9c, ICS, '§11.4.9.4', ['QI']),
  register('IECTL_REG', 0xa0, EVENT_CONTROL, '§11.4.9.5', ['QI']),
  register('IEDATA_REG', 0xa4, EVENT_DATA, '§11.4.9.6', ['QI']),
  register('IEADDR_REG', 0xa8, EVENT_ADDRESS, '§11.4.9.7', ['QI']),
  register('IEUADDR_REG', 0xac, EVENT_UPPER_ADDRESS, '§11.4.9.8', ['QI', 'EIM']),
  register('IQERCD_REG', 0xb0, IQERCD, '§11.4.9.9', ['QI']),
  register('IRTA_REG', 0xb8, IRTA, '§11.4.10', ['IR']),
  register('PQH_REG', 0xc0, PQH, '§11.4.11.1', ['PRS']),
  register('PQT_REG', 0xc8, PQT, '§11.4.11.2', ['PRS']),
  register('PQA_REG', 0xd0, PQA, '§11.4.11.3', ['PRS']),
  register('PRS_REG', 0xdc, PRS, '§11.4.11.4', ['PRS']),
  register('PECTL_REG', 0xe0, EVENT_CONTROL, '§11.4.11.5', ['PRS']),
  register('PEDATA_REG', 0xe4, EVENT_DATA, '§11.4.11.6', ['PRS']),
  register('PEADDR_REG', 0xe8, EVENT_ADDRESS, '§11.4.11.7', ['PRS']),
  register('PEUADDR_REG', 0xec, EVENT_UPPER_ADDRESS, '§11.4.11.8', ['PRS', 'EIM']),
];

/** Offsets by name, as software writes them. The IOTLB and fault recording registers lie where CAP and ECAP say. */
export const OFFSET = {
  VER: 0x00,
  CAP: 0x08,
  ECAP: 0x10,
  GCMD: 0x18,
  GSTS: 0x1c,
  RTADDR: 0x20,
  CCMD: 0x28,
  FSTS: 0x34,
  FECTL: 0x38,
  FEDATA: 0x3c,
  FEADDR: 0x40,
  FEUADDR: 0x44,
  PMEN: 0x64,
  PLMBASE: 0x68,
  PLMLIMIT: 0x6c,
  PHMBASE: 0x70,
  PHMLIMIT: 0x78,
  IQH: 0x80,
  IQT: 0x88,
  IQA: 0x90,
  ICS: 0x9c,
  IECTL: 0xa0,
  IEDATA: 0xa4,
  IEADDR: 0xa8,
  IEUADDR: 0xac,
  IQERCD: 0xb0,
  IRTA: 0xb8,
  PQH: 0xc0,
  PQT: 0xc8,
  PQA: 0xd0,
  PRS: 0xdc,
  PECTL: 0xe0,
  PEDATA: 0xe4,
  PEADDR: 0xe8,
  PEUADDR: 0xec,
} as const;

/** §11.4: the registers of this model lie in one page, or in more where NFR needs them. */
export const REGISTER_PAGE_BYTES = 4096;
