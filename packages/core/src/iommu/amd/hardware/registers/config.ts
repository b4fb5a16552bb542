// What an instance advertises. What it does not advertise reads as zero and does not work.

import { type Field, encode, readField } from '../../../../base/bit-fields.ts';
import { hi32, lo32 } from '../../../../base/u64.ts';
import {
  CAP_HEADER,
  EFR,
  EFR2,
  GATS_LEVELS,
  GVA_SIZE,
  HATS_LEVELS,
  MISC_INFO0,
  SEGMENTS_MAX,
} from '../../spec/features.ts';

/** Sizes of the caches, in entries. Caches only ever hold more than software asked for, never something else. */
export interface CacheSizes {
  /** IOTLB entries per kind: host and guest translations, and the tables on the way to them. */
  readonly tlb: number;
  /** Device table entries, GCR3 table entries, and interrupt remapping table entries. */
  readonly devices: number;
  readonly gcr3: number;
  readonly interrupts: number;
  /** Whether tables on the way to a leaf are kept, which INVALIDATE_IOMMU_PAGES without PDE leaves alone. */
  readonly tables: boolean;
}

export interface AmdIommuConfig {
  /** MMIO 0030h and 01A0h, as they read. */
  readonly efr: readonly [lo: number, hi: number];
  readonly efr2: readonly [lo: number, hi: number];
  /** The capability header and MiscInfo0 of the PCI function (§3.2), as they read. */
  readonly capHeader: number;
  readonly miscInfo0: number;
  /** Whether the exclusion range registers are there. */
  readonly exclusionRange: boolean;
  /** Whether CONTROL.IRTCacheDis can be set. */
  readonly irtCacheDis: boolean;
  readonly caches: CacheSizes;
  /** Commands that one register write or one step() consumes at most. */
  readonly commandsPerStep: number;
}

type Values<L> = { readonly [Name in Exclude<keyof L, '$'>]?: number };

/** Fields to change in {@link amdIommuConfig}, by register. */
export interface ConfigOverrides {
  readonly EFR?: Values<typeof EFR>;
  readonly EFR2?: Values<typeof EFR2>;
  readonly capHeader?: Values<typeof CAP_HEADER>;
  readonly miscInfo0?: Values<typeof MISC_INFO0>;
  readonly exclusionRange?: boolean;
  readonly irtCacheDis?: boolean;
  readonly caches?: Partial<CacheSizes>;
  readonly commandsPerStep?: number;
}

const DEFAULTS = {
  EFR: {
    PreFSup: 1,
    PPRSup: 1,
    XTSup: 1,
    NXSup: 1,
    GTSup: 1,
    IASup: 1,
    GASup: 1,
    HESup: 1,
    HATS: 2,
    GATS: 1,
    GLXSup: 2,
    PASMax: 15,
    USSup: 1,
    DevTblSegSup: 3,
    PprOvrflwEarlySup: 1,
    PPRAutoRspSup: 1,
    MsiCapMmioSup: 1,
    GIoSup: 1,
    HASup: 1,
    EPHSup: 1,
    HDSup: 1,
    V2_HDDisSup: 1,
    V2_HADDisSup: 1,
  },
  EFR2: { GCR3TRPMode: 1, NumIntRemapSup: 1, HTRangeIgnore: 1 },
  capHeader: { CapId: 0x0f, CapType: 3, CapRev: 1, IotlbSup: 1, EFRSup: 1, CapExt: 1 },
  miscInfo0: { GVAsize: GVA_SIZE.BITS_57, PAsize: 52, VAsize: 64, MsiNumPPR: 1 },
} as const;

const CACHES: CacheSizes = { tlb: 4096, devices: 4096, gcr3: 4096, interrupts: 4096, tables: true };

/**
 * An AMD IOMMU with everything that this model has, but for what `overrides` changes. Throws where the result
 * advertises something that the model does not have.
 */
export function amdIommuConfig(overrides: ConfigOverrides = {}): AmdIommuConfig {
  const efr = encode(EFR, { ...DEFAULTS.EFR, ...overrides.EFR });
  const efr2 = encode(EFR2, { ...DEFAULTS.EFR2, ...overrides.EFR2 });
  const config: AmdIommuConfig = {
    efr: [efr[0]!, efr[1]!],
    efr2: [efr2[0]!, efr2[1]!],
    capHeader: encode(CAP_HEADER, { ...DEFAULTS.capHeader, ...overrides.capHeader })[0]!,
    miscInfo0: encode(MISC_INFO0, { ...DEFAULTS.miscInfo0, ...overrides.miscInfo0 })[0]!,
    exclusionRange: overrides.exclusionRange ?? true,
    irtCacheDis: overrides.irtCacheDis ?? true,
    caches: { ...CACHES, ...overrides.caches },
    commandsPerStep: overrides.commandsPerStep ?? 1024,
  };
  amdIommuFeatures(config);
  return config;
}

/** The same from feature registers as another implementation has them: what the model does not have is refused. */
export function amdIommuConfigFromEfr(
  efr: bigint,
  efr2: bigint,
  rest: Partial<AmdIommuConfig> = {},
): AmdIommuConfig {
  const config: AmdIommuConfig = {
    ...amdIommuConfig(),
    ...rest,
    efr: [lo32(efr), hi32(efr)],
    efr2: [lo32(efr2), hi32(efr2)],
  };
  amdIommuFeatures(config);
  return config;
}

/** The feature registers taken apart. */
export interface AmdIommuFeatures {
  readonly prefetch: boolean;
  readonly ppr: boolean;
  readonly xt: boolean;
  readonly nx: boolean;
  readonly us: boolean;
  readonly gt: boolean;
  readonly ia: boolean;
  readonly ga: boolean;
  readonly he: boolean;
  /** Most levels of host and of guest tables. */
  readonly hostLevels: number;
  readonly guestLevels: number;
  /** Most levels of GCR3 tables. */
  readonly gcr3Levels: number;
  /** Bits of PASIDs. */
  readonly pasidBits: number;
  /** Most segments of the device table. */
  readonly segments: number;
  readonly pprOverflowEarly: boolean;
  readonly pprAutoResponse: boolean;
  readonly msiCapMmio: boolean;
  readonly gio: boolean;
  readonly hostAccessed: boolean;
  readonly hostDirty: boolean;
  readonly eph: boolean;
  /** CONTROL.GDUpdateDis, CONTROL.GAUpdateDis. */
  readonly guestDirtyDisable: boolean;
  readonly guestAccessedDisable: boolean;
  readonly gcr3TrpMode: boolean;
  /** The hardware vIOMMU. */
  readonly viommu: boolean;
  /** 2048 interrupts per function. */
  readonly interrupts2K: boolean;
  readonly htRangeIgnore: boolean;
  /** Devices may have IOTLBs: ATS. */
  readonly iotlb: boolean;
  /** Absent translations are cached. */
  readonly npCache: boolean;
  readonly exclusion: boolean;
  readonly irtCacheDis: boolean;
}

/** What the model does not have: these bits of the feature registers must be zero. */
export const ABSENT: readonly (readonly [1 | 2, Field, string])[] = [
  [1, EFR.GAPPISup, 'guest APIC physical processor interrupts'],
  [1, EFR.PCSup, 'performance counters'],
  [1, EFR.SmiFSup, 'the SMI filter'],
  [1, EFR.SmiFRC, 'the SMI filter'],
  [1, EFR.GAMSup, 'the guest virtual APIC and its log'],
  [1, EFR.DualPprLogSup, 'a second PPR log'],
  [1, EFR.DualEventLogSup, 'a second event log'],
  [1, EFR.SATSSup, 'secure ATS'],
  [1, EFR.MarcSup, 'memory access routing'],
  [1, EFR.BlkStopMrkSup, 'blocking of stop markers'],
  [1, EFR.PerfOptSup, 'performance optimization'],
  [1, EFR.SnoopAttrSup, 'snoop attributes'],
  [1, EFR.AttrFWSup, 'attribute forwarding'],
  [1, EFR.InvIotlbTypeSup, 'the invalidation type'],
  [1, EFR.VmGuardIOSup, 'VM guard I/O'],
  [1, EFR.ForcePhyDestSup, 'forced physical destinations'],
  [1, EFR.SNPSup, 'SEV-SNP'],
  [2, EFR2.SNPIOSup, 'SEV-SNP I/O'],
  [2, EFR2.TMPMSup, 'page migration'],
  [2, EFR2.GAPPIDisSup, 'guest APIC physical processor interrupts'],
  [2, EFR2.SNPAVICSup, 'SEV-SNP interrupts'],
  [2, EFR2.SNPPageMode0Sup, 'SEV-SNP'],
];

/** Takes the registers apart. Throws where they contradict themselves or advertise what the model does not have. */
export function amdIommuFeatures(config: AmdIommuConfig): AmdIommuFeatures {
  const get = (field: Field): number => readField(field, config.efr);
  const get2 = (field: Field): number => readField(field, config.efr2);
  const has = (field: Field): boolean => get(field) !== 0;
  const bad = (what: string): never => {
    throw new Error(`AMD IOMMU configuration: ${what}`);
  };
  for (const [register, field, what] of ABSENT) {
    const value = register === 1 ? get(field) : get2(field);
    if (value !== 0) bad(`EFR${register === 1 ? '' : '2'}.${field.name} is set, but ${what} is not modelled`);
  }
  const hostLevels = HATS_LEVELS[get(EFR.HATS)] ?? bad('EFR.HATS is reserved at 3');
  const guestLevels = GATS_LEVELS[get(EFR.GATS)] ?? bad('EFR.GATS is reserved at 3');
  if (get(EFR.GLXSup) === 3) bad('EFR.GLXSup is reserved at 3');
  if (get(EFR.PASMax) > 19) bad('EFR.PASMax is at most 19: PASIDs have 20 bits');
  if (get2(EFR2.NumIntRemapSup) > 1) bad('EFR2.NumIntRemapSup is 0 or 1');
  if (has(EFR.GIoSup) && !has(EFR.GTSup)) bad('EFR.GIoSup needs EFR.GTSup');
  const cap = (field: Field): number => readField(field, [config.capHeader]);
  if (cap(CAP_HEADER.CapId) !== 0x0f || cap(CAP_HEADER.CapType) !== 3) bad('CapId is 15, and CapType 3');
  if (cap(CAP_HEADER.EFRSup) === 0 && [...config.efr, ...config.efr2].some((word) => word !== 0)) {
    bad('capHeader.EFRSup is 0, but the feature registers are not');
  }
  const physical = readField(MISC_INFO0.PAsize, [config.miscInfo0]);
  if (physical < 32 || physical > 52) bad('miscInfo0.PAsize is 32 to 52');
  if (has(EFR.vIommuSup) && !has(EFR.GIoSup)) bad('EFR.vIommuSup needs EFR.GIoSup');
  if (has(EFR.HDSup) && !has(EFR.HASup)) bad('EFR.HDSup needs EFR.HASup');
  for (const field of [EFR.EPHSup, EFR.PPRAutoRspSup, EFR.PprOvrflwEarlySup]) {
    if (has(field) && !has(EFR.PPRSup)) bad(`EFR.${field.name} needs EFR.PPRSup`);
  }
  return {
    prefetch: has(EFR.PreFSup),
    ppr: has(EFR.PPRSup),
    xt: has(EFR.XTSup),
    nx: has(EFR.NXSup),
    us: has(EFR.USSup),
    gt: has(EFR.GTSup),
    ia: has(EFR.IASup),
    ga: has(EFR.GASup),
    he: has(EFR.HESup),
    hostLevels,
    guestLevels: Math.min(guestLevels, 5),
    gcr3Levels: get(EFR.GLXSup) + 1,
    pasidBits: get(EFR.PASMax) + 1,
    segments: SEGMENTS_MAX[get(EFR.DevTblSegSup)]!,
    pprOverflowEarly: has(EFR.PprOvrflwEarlySup),
    pprAutoResponse: has(EFR.PPRAutoRspSup),
    msiCapMmio: has(EFR.MsiCapMmioSup),
    gio: has(EFR.GIoSup),
    hostAccessed: has(EFR.HASup),
    hostDirty: has(EFR.HDSup),
    eph: has(EFR.EPHSup),
    guestDirtyDisable: has(EFR.V2_HDDisSup),
    guestAccessedDisable: has(EFR.V2_HADDisSup),
    gcr3TrpMode: get2(EFR2.GCR3TRPMode) !== 0,
    viommu: has(EFR.vIommuSup),
    interrupts2K: get2(EFR2.NumIntRemapSup) === 1,
    htRangeIgnore: get2(EFR2.HTRangeIgnore) !== 0,
    iotlb: cap(CAP_HEADER.IotlbSup) !== 0,
    npCache: cap(CAP_HEADER.NpCache) !== 0,
    exclusion: config.exclusionRange,
    irtCacheDis: config.irtCacheDis,
  };
}
