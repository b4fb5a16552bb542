// What an instance advertises. What it does not advertise reads as zero and does not work.

import { type Field, encode, readField } from '../../../../base/bit-fields.ts';
import {
  ADDRESS_BITS,
  AIDR,
  GBPA,
  HTTU,
  IDR0,
  IDR1,
  IDR3,
  IDR5,
  IIDR,
  STALL_MODEL,
  ST_LEVEL,
  TTENDIAN,
  TTF,
} from '../../spec/registers.ts';
import { SHCFG } from '../../spec/ste.ts';

/** Sizes of the caches, in entries. Caches only ever hold more than software asked for, never something else. */
export interface CacheSizes {
  /** IOTLB entries per kind: VA and IPA translations, and the tables on the way to them. */
  readonly tlb: number;
  /** STEs, and context descriptors. */
  readonly streams: number;
  readonly contexts: number;
  /** Whether tables on the way to a leaf are kept, which CMD_TLBI_* with Leaf == 1 leaves alone. */
  readonly tables: boolean;
}

export interface SmmuV3Config {
  /** SMMU_IDR0 to SMMU_IDR5, SMMU_IIDR and SMMU_AIDR, as they read. */
  readonly idr: readonly [number, number, number, number, number, number];
  readonly iidr: number;
  readonly aidr: number;
  /** SMMU_GBPA after reset, an IMPLEMENTATION DEFINED value. */
  readonly gbpa: number;
  readonly caches: CacheSizes;
  /** Commands that one register write or one step() consumes at most. */
  readonly commandsPerStep: number;
  /**
   * When CR0, IRQ_CTRL and GBPA updates complete: at the write, or at the next step() or read of the register that
   * acknowledges them, as slow hardware would (§6.3.9).
   */
  readonly updates: 'at once' | 'later';
  /** Whether identical events of streams with STE.MEV are merged (§7.3.1). */
  readonly mergeEvents: boolean;
}

type Values<L> = { readonly [Name in Exclude<keyof L, '$'>]?: number };

/** Fields to change in {@link smmuV3Config}, by register. */
export interface ConfigOverrides {
  readonly IDR0?: Values<typeof IDR0>;
  readonly IDR1?: Values<typeof IDR1>;
  readonly IDR3?: Values<typeof IDR3>;
  readonly IDR5?: Values<typeof IDR5>;
  readonly IIDR?: Values<typeof IIDR>;
  readonly AIDR?: Values<typeof AIDR>;
  readonly GBPA?: Values<typeof GBPA>;
  readonly caches?: Partial<CacheSizes>;
  readonly commandsPerStep?: number;
  readonly updates?: SmmuV3Config['updates'];
  readonly mergeEvents?: boolean;
}

const DEFAULTS = {
  IDR0: {
    S2P: 1,
    S1P: 1,
    TTF: TTF.AARCH64,
    COHACC: 1,
    HTTU: HTTU.ACCESS_DIRTY,
    Hyp: 1,
    ATS: 1,
    ASID16: 1,
    MSI: 1,
    SEV: 1,
    PRI: 1,
    VMW: 1,
    VMID16: 1,
    CD2L: 1,
    TTENDIAN: TTENDIAN.MIXED,
    ATSRECERR: 1,
    STALL_MODEL: STALL_MODEL.BOTH,
    ST_LEVEL: ST_LEVEL.TWO_LEVEL,
  },
  IDR1: {
    SIDSIZE: 16,
    SSIDSIZE: 20,
    PRIQS: 19,
    EVENTQS: 19,
    CMDQS: 19,
    ATTR_PERMS_OVR: 1,
    ATTR_TYPES_OVR: 1,
  },
  IDR3: { HAD: 1, XNX: 1, FWB: 1, STT: 1, RIL: 1, BBML: 2, E0PD: 1, PTWNNC: 1 },
  IDR5: { OAS: 6, GRAN4K: 1, GRAN16K: 1, GRAN64K: 1, DS: 1, VAX: 1, STALL_MAX: 64 },
  IIDR: {},
  AIDR: { ArchMajorRev: 0, ArchMinorRev: 3 },
  GBPA: { SHCFG: SHCFG.INCOMING },
} as const;

const CACHES: CacheSizes = { tlb: 4096, streams: 4096, contexts: 16384, tables: true };

/**
 * An SMMUv3.3 with everything that this model has, but for what `overrides` changes. Throws where the result advertises
 * something that the model does not have.
 */
export function smmuV3Config(overrides: ConfigOverrides = {}): SmmuV3Config {
  const config: SmmuV3Config = {
    idr: [
      encode(IDR0, { ...DEFAULTS.IDR0, ...overrides.IDR0 })[0]!,
      encode(IDR1, { ...DEFAULTS.IDR1, ...overrides.IDR1 })[0]!,
      0,
      encode(IDR3, { ...DEFAULTS.IDR3, ...overrides.IDR3 })[0]!,
      0,
      encode(IDR5, { ...DEFAULTS.IDR5, ...overrides.IDR5 })[0]!,
    ],
    iidr: encode(IIDR, { ...DEFAULTS.IIDR, ...overrides.IIDR })[0]!,
    aidr: encode(AIDR, { ...DEFAULTS.AIDR, ...overrides.AIDR })[0]!,
    gbpa: encode(GBPA, { ...DEFAULTS.GBPA, ...overrides.GBPA })[0]!,
    caches: { ...CACHES, ...overrides.caches },
    commandsPerStep: overrides.commandsPerStep ?? 1024,
    updates: overrides.updates ?? 'at once',
    mergeEvents: overrides.mergeEvents ?? true,
  };
  smmuV3Features(config);
  return config;
}

/** The same from ID registers as another implementation has them: bits of what the model does not have are refused. */
export function smmuV3ConfigFromIdr(
  idr: readonly [number, number, number, number, number, number],
  rest: Partial<SmmuV3Config> = {},
): SmmuV3Config {
  const config = { ...smmuV3Config(), ...rest, idr };
  smmuV3Features(config);
  return config;
}

/** The ID registers taken apart. */
export interface SmmuV3Features {
  readonly s1p: boolean;
  readonly s2p: boolean;
  readonly httu: number;
  readonly hyp: boolean;
  readonly ats: boolean;
  /** Split-stage ATS. */
  readonly splitAts: boolean;
  readonly asid16: boolean;
  readonly msi: boolean;
  readonly sev: boolean;
  readonly pri: boolean;
  readonly vmw: boolean;
  readonly vmid16: boolean;
  readonly cd2l: boolean;
  readonly ttendian: number;
  readonly atsRecErr: boolean;
  readonly stallModel: number;
  /** Termination is always by abort. */
  readonly abortOnly: boolean;
  readonly twoLevelStreams: boolean;
  readonly sidSize: number;
  readonly ssidSize: number;
  readonly cmdqs: number;
  readonly eventqs: number;
  readonly priqs: number;
  readonly permsOverride: boolean;
  readonly typesOverride: boolean;
  readonly had: boolean;
  readonly xnx: boolean;
  readonly pps: boolean;
  readonly fwb: boolean;
  readonly stt: boolean;
  readonly ril: boolean;
  readonly e0pd: boolean;
  readonly epan: boolean;
  readonly ds: boolean;
  /** Bits of physical addresses; the IAS too, as AArch32 tables are not there (§3.4). */
  readonly oas: number;
  /** 2^oas */
  readonly physicalLimit: number;
  /** Granules by their log2. */
  readonly granules: ReadonlySet<number>;
  /** 52-bit virtual addresses. */
  readonly vax: boolean;
  readonly stallMax: number;
}

/** What the model does not have: these bits of the ID registers must be zero. */
const ABSENT: readonly (readonly [0 | 1 | 3 | 5, Field, string])[] = [
  [0, IDR0.BTM, 'broadcast TLB maintenance'],
  [0, IDR0.DORMHINT, 'the dormant hint'],
  [0, IDR0.ATOS, 'address translation operations'],
  [0, IDR0.VATOS, 'address translation operations'],
  [0, IDR0.RME_IMPL, 'Realm state'],
  [1, IDR1.REL, 'preset tables and queues'],
  [1, IDR1.QUEUES_PRESET, 'preset queues'],
  [1, IDR1.TABLES_PRESET, 'preset tables'],
  [1, IDR1.ECMDQ, 'Enhanced Command queues'],
  [3, IDR3.PBHA, 'page-based hardware attributes'],
  [3, IDR3.MPAM, 'MPAM'],
  [3, IDR3.DPT, 'the Device Permission Table'],
  [3, IDR3.PASIDTT, 'a PASID on Translated transactions'],
  [3, IDR3.S1PI, 'permission indirection'],
  [3, IDR3.S2PI, 'permission indirection'],
  [3, IDR3.S2PO, 'permission overlays'],
  [3, IDR3.THE, 'translation hardening'],
  [3, IDR3.MTEPERM, 'memory tagging'],
  [3, IDR3.AIE, 'the attribute index extension'],
  [5, IDR5.D128, '128-bit descriptors'],
];

/** Takes the ID registers apart. Throws where they contradict themselves or advertise what the model does not have. */
export function smmuV3Features(config: SmmuV3Config): SmmuV3Features {
  const { idr } = config;
  const get = (register: 0 | 1 | 3 | 5, field: Field): number => readField(field, [idr[register]]);
  const has = (register: 0 | 1 | 3 | 5, field: Field): boolean => get(register, field) !== 0;
  const bad = (what: string): never => {
    throw new Error(`SMMUv3 configuration: ${what}`);
  };
  for (const [register, field, what] of ABSENT) {
    if (has(register, field)) bad(`IDR${register}.${field.name} is set, but ${what} is not modelled`);
  }
  if (get(0, IDR0.TTF) !== TTF.AARCH64) bad('IDR0.TTF must be 2: AArch32 tables are not modelled');
  if (get(0, IDR0.HTTU) === HTTU.ACCESS_DIRTY_TABLE) bad('IDR0.HTTU must be 0, 1 or 2');
  if (get(0, IDR0.TTENDIAN) === 1) bad('IDR0.TTENDIAN is reserved at 1');
  if (get(0, IDR0.STALL_MODEL) === 3) bad('IDR0.STALL_MODEL is reserved at 3');
  if (get(0, IDR0.ST_LEVEL) > 1) bad('IDR0.ST_LEVEL must be 0 or 1');
  if (!has(0, IDR0.S1P) && !has(0, IDR0.S2P)) bad('IDR0.S1P or IDR0.S2P must be set');
  if (has(0, IDR0.PRI) && !has(0, IDR0.ATS)) bad('IDR0.PRI needs IDR0.ATS');
  if (has(0, IDR0.Hyp) && !(has(0, IDR0.S1P) && has(0, IDR0.S2P)))
    bad('IDR0.Hyp needs IDR0.S1P and IDR0.S2P');
  if (get(1, IDR1.SIDSIZE) > 32) bad('IDR1.SIDSIZE is at most 32');
  if (get(1, IDR1.SSIDSIZE) > 20) bad('IDR1.SSIDSIZE is at most 20');
  for (const field of [IDR1.CMDQS, IDR1.EVENTQS, IDR1.PRIQS]) {
    if (get(1, field) > 19) bad(`IDR1.${field.name} is at most 19`);
  }
  if (get(3, IDR3.BBML) === 3) bad('IDR3.BBML is reserved at 3');
  if (readField(AIDR.ArchMajorRev, [config.aidr]) !== 0)
    bad('AIDR.ArchMajorRev is set, but another architecture is not modelled');
  if (readField(AIDR.ArchMinorRev, [config.aidr]) > 3) bad('AIDR.ArchMinorRev is at most 3: SMMUv3.3');
  if (get(5, IDR5.OAS) === 7) bad('IDR5.OAS is reserved at 7 before SMMUv3.4');
  if (get(5, IDR5.VAX) > 1) bad('IDR5.VAX is 0 or 1 before SMMUv3.4');
  const granules = new Set<number>();
  if (has(5, IDR5.GRAN4K)) granules.add(12);
  if (has(5, IDR5.GRAN16K)) granules.add(14);
  if (has(5, IDR5.GRAN64K)) granules.add(16);
  if (granules.size === 0) bad('IDR5 has no granule');
  if (has(5, IDR5.DS) && get(5, IDR5.VAX) === 0) bad('IDR5.DS needs IDR5.VAX');
  const ats = has(0, IDR0.ATS);
  return {
    s1p: has(0, IDR0.S1P),
    s2p: has(0, IDR0.S2P),
    httu: get(0, IDR0.HTTU),
    hyp: has(0, IDR0.Hyp),
    ats,
    splitAts: ats && !has(0, IDR0.NS1ATS),
    asid16: has(0, IDR0.ASID16),
    msi: has(0, IDR0.MSI),
    sev: has(0, IDR0.SEV),
    pri: has(0, IDR0.PRI),
    vmw: has(0, IDR0.VMW),
    vmid16: has(0, IDR0.VMID16),
    cd2l: has(0, IDR0.CD2L),
    ttendian: get(0, IDR0.TTENDIAN),
    atsRecErr: has(0, IDR0.ATSRECERR),
    stallModel: get(0, IDR0.STALL_MODEL),
    abortOnly: has(0, IDR0.TERM_MODEL),
    twoLevelStreams: has(0, IDR0.ST_LEVEL),
    sidSize: get(1, IDR1.SIDSIZE),
    ssidSize: get(1, IDR1.SSIDSIZE),
    cmdqs: get(1, IDR1.CMDQS),
    eventqs: get(1, IDR1.EVENTQS),
    priqs: get(1, IDR1.PRIQS),
    permsOverride: has(1, IDR1.ATTR_PERMS_OVR),
    typesOverride: has(1, IDR1.ATTR_TYPES_OVR),
    had: has(3, IDR3.HAD),
    xnx: has(3, IDR3.XNX),
    pps: has(3, IDR3.PPS),
    fwb: has(3, IDR3.FWB),
    stt: has(3, IDR3.STT),
    ril: has(3, IDR3.RIL),
    e0pd: has(3, IDR3.E0PD),
    epan: has(3, IDR3.EPAN),
    ds: has(5, IDR5.DS),
    oas: ADDRESS_BITS[get(5, IDR5.OAS)]!,
    physicalLimit: 2 ** ADDRESS_BITS[get(5, IDR5.OAS)]!,
    granules,
    vax: has(5, IDR5.VAX),
    stallMax: get(5, IDR5.STALL_MAX),
  };
}
