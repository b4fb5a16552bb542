// The register interface of an SMMUv3, Non-secure programming interface: Arm IHI 0070 issue G.b, chapter 6. The section
// numbers without a document in this folder and in ../hardware are that issue's.

import { RO, RW, type LayoutInfo, layout } from '../../../base/bit-fields.ts';

/** §6.3.1 */
export const IDR0 = layout('SMMU_IDR0', 32, {
  S2P: RO([0]),
  S1P: RO([1]),
  TTF: RO([3, 2]),
  COHACC: RO([4]),
  BTM: RO([5]),
  HTTU: RO([7, 6]),
  DORMHINT: RO([8]),
  Hyp: RO([9]),
  ATS: RO([10]),
  NS1ATS: RO([11]),
  ASID16: RO([12]),
  MSI: RO([13]),
  SEV: RO([14]),
  ATOS: RO([15]),
  PRI: RO([16]),
  VMW: RO([17]),
  VMID16: RO([18]),
  CD2L: RO([19]),
  VATOS: RO([20]),
  TTENDIAN: RO([22, 21]),
  ATSRECERR: RO([23]),
  STALL_MODEL: RO([25, 24]),
  TERM_MODEL: RO([26]),
  ST_LEVEL: RO([28, 27]),
  RME_IMPL: RO([30]),
});

export const TTF = { AARCH32: 1, AARCH64: 2, BOTH: 3 } as const;
export const HTTU = { NONE: 0, ACCESS: 1, ACCESS_DIRTY: 2, ACCESS_DIRTY_TABLE: 3 } as const;
export const TTENDIAN = { MIXED: 0, LITTLE: 2, BIG: 3 } as const;
export const STALL_MODEL = { BOTH: 0, TERMINATE: 1, STALL: 2 } as const;
export const ST_LEVEL = { LINEAR: 0, TWO_LEVEL: 1 } as const;

/** §6.3.2 */
export const IDR1 = layout('SMMU_IDR1', 32, {
  SIDSIZE: RO([5, 0]),
  SSIDSIZE: RO([10, 6]),
  PRIQS: RO([15, 11]),
  EVENTQS: RO([20, 16]),
  CMDQS: RO([25, 21]),
  ATTR_PERMS_OVR: RO([26]),
  ATTR_TYPES_OVR: RO([27]),
  REL: RO([28]),
  QUEUES_PRESET: RO([29]),
  TABLES_PRESET: RO([30]),
  ECMDQ: RO([31]),
});

/** §6.3.3 */
export const IDR2 = layout('SMMU_IDR2', 32, { BA_VATOS: RO([9, 0]) });

/** §6.3.4 */
export const IDR3 = layout('SMMU_IDR3', 32, {
  HAD: RO([2]),
  PBHA: RO([3]),
  XNX: RO([4]),
  PPS: RO([5]),
  MPAM: RO([7]),
  FWB: RO([8]),
  STT: RO([9]),
  RIL: RO([10]),
  BBML: RO([12, 11]),
  E0PD: RO([13]),
  PTWNNC: RO([14]),
  DPT: RO([15]),
  PASIDTT: RO([16]),
  EPAN: RO([17]),
  S1PI: RO([18]),
  S2PI: RO([19]),
  S2PO: RO([20]),
  THE: RO([21]),
  MTEPERM: RO([22]),
  AIE: RO([23]),
});

/** §6.3.5 */
export const IDR4 = layout('SMMU_IDR4', 32, { IMPDEF: RO([31, 0]) });

/** §6.3.6 */
export const IDR5 = layout('SMMU_IDR5', 32, {
  OAS: RO([2, 0]),
  GRAN4K: RO([4]),
  GRAN16K: RO([5]),
  GRAN64K: RO([6]),
  DS: RO([7]),
  D128: RO([8]),
  VAX: RO([11, 10]),
  STALL_MAX: RO([31, 16]),
});

/** Address sizes in bits by the encoding of IDR5.OAS, CD.IPS and STE.S2PS; 0b111 is reserved before SMMUv3.4. */
export const ADDRESS_BITS = [32, 36, 40, 42, 44, 48, 52, 52] as const;

/** §6.3.7 */
export const IIDR = layout('SMMU_IIDR', 32, {
  Implementer: RO([11, 0]),
  Revision: RO([15, 12]),
  Variant: RO([19, 16]),
  ProductID: RO([31, 20]),
});

/** §6.3.8 */
export const AIDR = layout('SMMU_AIDR', 32, { ArchMinorRev: RO([3, 0]), ArchMajorRev: RO([7, 4]) });

/** §6.3.9. Each field takes effect when CR0ACK shows it. */
export const CR0 = layout('SMMU_CR0', 32, {
  SMMUEN: RW([0], 0),
  PRIQEN: RW([1], 0),
  EVENTQEN: RW([2], 0),
  CMDQEN: RW([3], 0),
  ATSCHK: RW([4], 0),
  VMW: RW([8, 6], 0),
});

/** §6.3.10 */
export const CR0ACK = layout('SMMU_CR0ACK', 32, {
  SMMUEN: RO([0], 0),
  PRIQEN: RO([1], 0),
  EVENTQEN: RO([2], 0),
  CMDQEN: RO([3], 0),
  ATSCHK: RO([4], 0),
  VMW: RO([8, 6], 0),
});

/** §6.3.11 */
export const CR1 = layout('SMMU_CR1', 32, {
  QUEUE_IC: RW([1, 0]),
  QUEUE_OC: RW([3, 2]),
  QUEUE_SH: RW([5, 4]),
  TABLE_IC: RW([7, 6]),
  TABLE_OC: RW([9, 8]),
  TABLE_SH: RW([11, 10]),
});

/** §6.3.12 */
export const CR2 = layout('SMMU_CR2', 32, {
  E2H: RW([0]),
  RECINVSID: RW([1]),
  PTM: RW([2]),
  REC_CFG_ATS: RW([3]),
});

/** §6.3.13 */
export const STATUSR = layout('SMMU_STATUSR', 32, { DORMANT: RO([0], 0) });

/** §6.3.14. All but Update reset to IMPLEMENTATION DEFINED values: see SmmuV3Config.gbpa. */
export const GBPA = layout('SMMU_GBPA', 32, {
  MemAttr: RW([3, 0]),
  MTCFG: RW([4]),
  ALLOCCFG: RW([11, 8]),
  SHCFG: RW([13, 12]),
  PRIVCFG: RW([17, 16]),
  INSTCFG: RW([19, 18]),
  ABORT: RW([20]),
  Update: RW([31], 0),
});

/** §6.3.16 */
export const IRQ_CTRL = layout('SMMU_IRQ_CTRL', 32, {
  GERROR_IRQEN: RW([0], 0),
  PRIQ_IRQEN: RW([1], 0),
  EVENTQ_IRQEN: RW([2], 0),
});

/** §6.3.18 */
export const IRQ_CTRLACK = layout('SMMU_IRQ_CTRLACK', 32, {
  GERROR_IRQEN: RO([0], 0),
  PRIQ_IRQEN: RO([1], 0),
  EVENTQ_IRQEN: RO([2], 0),
});

/** §6.3.19: an error is active where its bit differs from GERRORN's. */
export const GERROR = layout('SMMU_GERROR', 32, {
  CMDQ_ERR: RO([0], 0),
  EVENTQ_ABT_ERR: RO([2], 0),
  PRIQ_ABT_ERR: RO([3], 0),
  MSI_CMDQ_ABT_ERR: RO([4], 0),
  MSI_EVENTQ_ABT_ERR: RO([5], 0),
  MSI_PRIQ_ABT_ERR: RO([6], 0),
  MSI_GERROR_ABT_ERR: RO([7], 0),
  SFM_ERR: RO([8], 0),
});

/** §6.3.20 */
export const GERRORN = layout('SMMU_GERRORN', 32, {
  CMDQ_ERR: RW([0], 0),
  EVENTQ_ABT_ERR: RW([2], 0),
  PRIQ_ABT_ERR: RW([3], 0),
  MSI_CMDQ_ABT_ERR: RW([4], 0),
  MSI_EVENTQ_ABT_ERR: RW([5], 0),
  MSI_PRIQ_ABT_ERR: RW([6], 0),
  MSI_GERROR_ABT_ERR: RW([7], 0),
  SFM_ERR: RW([8], 0),
});

/** §6.3.21, §6.3.30, §6.3.34: where an MSI goes; none is sent where ADDR is 0. */
export const IRQ_CFG0 = layout('SMMU_*_IRQ_CFG0', 64, { ADDR: RW([55, 2]) });
/** §6.3.22, §6.3.31, §6.3.35 */
export const IRQ_CFG1 = layout('SMMU_*_IRQ_CFG1', 32, { DATA: RW([31, 0]) });
/** §6.3.23, §6.3.32 */
export const IRQ_CFG2 = layout('SMMU_*_IRQ_CFG2', 32, { MemAttr: RW([3, 0]), SH: RW([5, 4]) });
/** §6.3.36 */
export const PRIQ_IRQ_CFG2 = layout('SMMU_PRIQ_IRQ_CFG2', 32, {
  MemAttr: RW([3, 0]),
  SH: RW([5, 4]),
  LO: RW([31]),
});

/** §6.3.24 */
export const STRTAB_BASE = layout('SMMU_STRTAB_BASE', 64, { ADDR: RW([55, 6]), RA: RW([62]) });

/** §6.3.25 */
export const STRTAB_BASE_CFG = layout('SMMU_STRTAB_BASE_CFG', 32, {
  LOG2SIZE: RW([5, 0]),
  SPLIT: RW([10, 6]),
  FMT: RW([17, 16]),
});

export const STRTAB_FMT = { LINEAR: 0, TWO_LEVEL: 1 } as const;

/** §6.3.26, §6.3.29, §6.3.33. The hint is RA for the Command queue and WA for the other two. */
export const QUEUE_BASE = layout('SMMU_*Q_BASE', 64, {
  LOG2SIZE: RW([4, 0]),
  ADDR: RW([55, 5]),
  HINT: RW([62]),
});

/** §6.3.27 */
export const CMDQ_PROD = layout('SMMU_CMDQ_PROD', 32, { WR: RW([19, 0]) });
/** §6.3.28 */
export const CMDQ_CONS = layout('SMMU_CMDQ_CONS', 32, { RD: RW([19, 0]), ERR: RO([30, 24]) });
/** §6.3.95, §6.3.97 */
export const OUTQ_PROD = layout('SMMU_*Q_PROD', 32, { WR: RW([19, 0]), OVFLG: RW([31]) });
/** §6.3.96, §6.3.98 */
export const OUTQ_CONS = layout('SMMU_*Q_CONS', 32, { RD: RW([19, 0]), OVACKFLG: RW([31]) });

/** §7.1 */
export const CERROR = { NONE: 0, ILL: 1, ABT: 2, ATC_INV_SYNC: 3 } as const;

/** The register file is two pages of 64 KiB (§6.1). */
export const PAGE1 = 0x10000;
export const REGISTER_BYTES = 0x20000;

/**
 * The state in which software may change a register; elsewhere its writes are ignored (SMMUv3.2 and later). Named after
 * the enable bit that must be 0 in the register and in its acknowledgement.
 */
export type Guard =
  'SMMUEN' | 'CMDQEN' | 'EVENTQEN' | 'PRIQEN' | 'GERROR_IRQEN' | 'EVENTQ_IRQEN' | 'PRIQ_IRQEN';

export interface RegisterSpec {
  readonly name: string;
  readonly offset: number;
  readonly bytes: 4 | 8;
  readonly layout: LayoutInfo;
  readonly section: string;
  /** Absent: writable at any time. */
  readonly guard?: Guard;
  /** The ID bits without which the register reads as zero and ignores writes. */
  readonly needs?: readonly ('MSI' | 'PRI')[];
}

const register = (
  name: string,
  offset: number,
  of: { readonly $: LayoutInfo },
  section: string,
  rest: Pick<RegisterSpec, 'guard' | 'needs'> = {},
): RegisterSpec => ({ name, offset, bytes: of.$.width === 64 ? 8 : 4, layout: of.$, section, ...rest });

/** Every register of the Non-secure interface that this model has. What lies between reads as zero (§6.2). */
export const REGISTERS: readonly RegisterSpec[] = [
  register('SMMU_IDR0', 0x00, IDR0, '§6.3.1'),
  register('SMMU_IDR1', 0x04, IDR1, '§6.3.2'),
  register('SMMU_IDR2', 0x08, IDR2, '§6.3.3'),
  register('SMMU_IDR3', 0x0c, IDR3, '§6.3.4'),
  register('SMMU_IDR4', 0x10, IDR4, '§6.3.5'),
  register('SMMU_IDR5', 0x14, IDR5, '§6.3.6'),
  register('SMMU_IIDR', 0x18, IIDR, '§6.3.7'),
  register('SMMU_AIDR', 0x1c, AIDR, '§6.3.8'),
  register('SMMU_CR0', 0x20, CR0, '§6.3.9'),
  register('SMMU_CR0ACK', 0x24, CR0ACK, '§6.3.10'),
  register('SMMU_CR1', 0x28, CR1, '§6.3.11'),
  register('SMMU_CR2', 0x2c, CR2, '§6.3.12', { guard: 'SMMUEN' }),
  register('SMMU_STATUSR', 0x40, STATUSR, '§6.3.13'),
  register('SMMU_GBPA', 0x44, GBPA, '§6.3.14'),
  register('SMMU_IRQ_CTRL', 0x50, IRQ_CTRL, '§6.3.16'),
  register('SMMU_IRQ_CTRLACK', 0x54, IRQ_CTRLACK, '§6.3.18'),
  register('SMMU_GERROR', 0x60, GERROR, '§6.3.19'),
  register('SMMU_GERRORN', 0x64, GERRORN, '§6.3.20'),
  register('SMMU_GERROR_IRQ_CFG0', 0x68, IRQ_CFG0, '§6.3.21', { guard: 'GERROR_IRQEN', needs: ['MSI'] }),
  register('SMMU_GERROR_IRQ_CFG1', 0x70, IRQ_CFG1, '§6.3.22', { guard: 'GERROR_IRQEN', needs: ['MSI'] }),
  register('SMMU_GERROR_IRQ_CFG2', 0x74, IRQ_CFG2, '§6.3.23', { guard: 'GERROR_IRQEN', needs: ['MSI'] }),
  register('SMMU_STRTAB_BASE', 0x80, STRTAB_BASE, '§6.3.24', { guard: 'SMMUEN' }),
  register('SMMU_STRTAB_BASE_CFG', 0x88, STRTAB_BASE_CFG, '§6.3.25', { guard: 'SMMUEN' }),
  register('SMMU_CMDQ_BASE', 0x90, QUEUE_BASE, '§6.3.26', { guard: 'CMDQEN' }),
  register('SMMU_CMDQ_PROD', 0x98, CMDQ_PROD, '§6.3.27'),
  register('SMMU_CMDQ_CONS', 0x9c, CMDQ_CONS, '§6.3.28', { guard: 'CMDQEN' }),
  register('SMMU_EVENTQ_BASE', 0xa0, QUEUE_BASE, '§6.3.29', { guard: 'EVENTQEN' }),
  register('SMMU_EVENTQ_IRQ_CFG0', 0xb0, IRQ_CFG0, '§6.3.30', { guard: 'EVENTQ_IRQEN', needs: ['MSI'] }),
  register('SMMU_EVENTQ_IRQ_CFG1', 0xb8, IRQ_CFG1, '§6.3.31', { guard: 'EVENTQ_IRQEN', needs: ['MSI'] }),
  register('SMMU_EVENTQ_IRQ_CFG2', 0xbc, IRQ_CFG2, '§6.3.32', { guard: 'EVENTQ_IRQEN', needs: ['MSI'] }),
  register('SMMU_PRIQ_BASE', 0xc0, QUEUE_BASE, '§6.3.33', { guard: 'PRIQEN', needs: ['PRI'] }),
  register('SMMU_PRIQ_IRQ_CFG0', 0xd0, IRQ_CFG0, '§6.3.34', { guard: 'PRIQ_IRQEN', needs: ['MSI', 'PRI'] }),
  register('SMMU_PRIQ_IRQ_CFG1', 0xd8, IRQ_CFG1, '§6.3.35', { guard: 'PRIQ_IRQEN', needs: ['MSI', 'PRI'] }),
  register('SMMU_PRIQ_IRQ_CFG2', 0xdc, PRIQ_IRQ_CFG2, '§6.3.36', { guard: 'PRIQ_IRQEN', needs: ['PRI'] }),
  register('SMMU_EVENTQ_PROD', PAGE1 + 0xa8, OUTQ_PROD, '§6.3.95', { guard: 'EVENTQEN' }),
  register('SMMU_EVENTQ_CONS', PAGE1 + 0xac, OUTQ_CONS, '§6.3.96'),
  register('SMMU_PRIQ_PROD', PAGE1 + 0xc8, OUTQ_PROD, '§6.3.97', { guard: 'PRIQEN', needs: ['PRI'] }),
  register('SMMU_PRIQ_CONS', PAGE1 + 0xcc, OUTQ_CONS, '§6.3.98', { needs: ['PRI'] }),
];

/** Offsets by name, as software writes them. */
export const OFFSET = {
  IDR0: 0x00,
  IDR1: 0x04,
  IDR2: 0x08,
  IDR3: 0x0c,
  IDR4: 0x10,
  IDR5: 0x14,
  IIDR: 0x18,
  AIDR: 0x1c,
  CR0: 0x20,
  CR0ACK: 0x24,
  CR1: 0x28,
  CR2: 0x2c,
  STATUSR: 0x40,
  GBPA: 0x44,
  AGBPA: 0x48,
  IRQ_CTRL: 0x50,
  IRQ_CTRLACK: 0x54,
  GERROR: 0x60,
  GERRORN: 0x64,
  GERROR_IRQ_CFG0: 0x68,
  GERROR_IRQ_CFG1: 0x70,
  GERROR_IRQ_CFG2: 0x74,
  STRTAB_BASE: 0x80,
  STRTAB_BASE_CFG: 0x88,
  CMDQ_BASE: 0x90,
  CMDQ_PROD: 0x98,
  CMDQ_CONS: 0x9c,
  EVENTQ_BASE: 0xa0,
  EVENTQ_IRQ_CFG0: 0xb0,
  EVENTQ_IRQ_CFG1: 0xb8,
  EVENTQ_IRQ_CFG2: 0xbc,
  PRIQ_BASE: 0xc0,
  PRIQ_IRQ_CFG0: 0xd0,
  PRIQ_IRQ_CFG1: 0xd8,
  PRIQ_IRQ_CFG2: 0xdc,
  EVENTQ_PROD: PAGE1 + 0xa8,
  EVENTQ_CONS: PAGE1 + 0xac,
  PRIQ_PROD: PAGE1 + 0xc8,
  PRIQ_CONS: PAGE1 + 0xcc,
} as const;
