// What an instance advertises. What it does not advertise reads as zero and does not work.

import { type Field, encode, readField } from '../../../../base/bit-fields.ts';
import { hi32, lo32, u64 } from '../../../../base/u64.ts';
import { CAP, ECAP, REGISTER_PAGE_BYTES, SAGAW, SSLPS, VER } from '../../spec/registers.ts';
import { FRCD_BYTES } from '../../spec/faults.ts';

/** Sizes of the caches, in entries. Caches only ever hold more than software asked for, never something else. */
export interface CacheSizes {
  readonly tlb: number;
  readonly contexts: number;
  readonly pasids: number;
  /** Whether tables on the way to a page are kept, which an Invalidation Hint leaves alone. */
  readonly tables: boolean;
}

export interface IntelConfig {
  /** VER_REG, CAP_REG and ECAP_REG, as they read. */
  readonly version: number;
  readonly cap: bigint;
  readonly ecap: bigint;
  /** Bits of physical addresses: what the DMAR table tells (§8.1). 32 to 52. */
  readonly hostAddressWidth: number;
  readonly caches: CacheSizes;
  /** Descriptors that one register write or one step() takes from the invalidation queue at most. */
  readonly descriptorsPerStep: number;
  /** When commands of GCMD complete: at the write, or at the next step() or read of GSTS, as slow hardware would. */
  readonly updates: 'at once' | 'later';
  /** Whether further faults of a source-id with a pending fault are dropped (§7.2.1). */
  readonly collapseFaults: boolean;
}

type Values<L> = { readonly [Name in Exclude<keyof L, '$'>]?: number };

/** Fields to change in {@link intelConfig}, by register. */
export interface ConfigOverrides {
  readonly VER?: Values<typeof VER>;
  readonly CAP?: Values<typeof CAP>;
  readonly ECAP?: Values<typeof ECAP>;
  readonly hostAddressWidth?: number;
  readonly caches?: Partial<CacheSizes>;
  readonly descriptorsPerStep?: number;
  readonly updates?: IntelConfig['updates'];
  readonly collapseFaults?: boolean;
}

const DEFAULTS = {
  // The last version with register-based invalidation (§6.5).
  VER: { MAX: 5, MIN: 0 },
  CAP: {
    ND: 6,
    SAGAW: SAGAW.LEVELS_3 | SAGAW.LEVELS_4 | SAGAW.LEVELS_5,
    MGAW: 56,
    ZLR: 1,
    FRO: 0x220 / 16,
    SSLPS: SSLPS.PAGES_1G,
    PSI: 1,
    NFR: 7,
    MAMV: 18,
    DWD: 1,
    DRD: 1,
    FS1GP: 1,
    FS5LP: 1,
    ESRTPS: 1,
  },
  ECAP: {
    C: 1,
    QI: 1,
    DT: 1,
    PT: 1,
    SC: 1,
    IRO: 0xf0 / 16,
    NEST: 1,
    PRS: 1,
    SRS: 1,
    NWFS: 1,
    EAFS: 1,
    PSS: 19,
    PASID: 1,
    DIT: 1,
    PDS: 1,
    SMTS: 1,
    SSADS: 1,
    SSTS: 1,
    FSTS: 1,
    SMPWCS: 1,
    RPS: 1,
    ADMS: 1,
    RPRIVS: 1,
    PTRS: 1,
    SSIRWS: 1,
    SMS: 1,
  },
} as const;

const CACHES: CacheSizes = { tlb: 4096, contexts: 4096, pasids: 16384, tables: true };

/**
 * Remapping hardware with everything that this model has, but for what `overrides` changes. Throws where the result
 * contradicts itself or advertises something that the model does not have.
 */
export function intelConfig(overrides: ConfigOverrides = {}): IntelConfig {
  const cap = encode(CAP, { ...DEFAULTS.CAP, ...overrides.CAP });
  const ecap = encode(ECAP, { ...DEFAULTS.ECAP, ...overrides.ECAP });
  const config: IntelConfig = {
    version: encode(VER, { ...DEFAULTS.VER, ...overrides.VER })[0]!,
    cap: u64(cap[1]!, cap[0]!),
    ecap: u64(ecap[1]!, ecap[0]!),
    hostAddressWidth: overrides.hostAddressWidth ?? 46,
    caches: { ...CACHES, ...overrides.caches },
    descriptorsPerStep: overrides.descriptorsPerStep ?? 1024,
    updates: overrides.updates ?? 'at once',
    collapseFaults: overrides.collapseFaults ?? false,
  };
  intelFeatures(config);
  return config;
}

/** The same from the registers of another implementation: bits of what the model does not have are refused. */
export function intelConfigFromRegisters(
  registers: Pick<IntelConfig, 'version' | 'cap' | 'ecap'>,
  rest: Partial<Omit<IntelConfig, 'version' | 'cap' | 'ecap'>> = {},
): IntelConfig {
  const config = { ...intelConfig(), ...rest, ...registers };
  intelFeatures(config);
  return config;
}

/** The capability registers taken apart. */
export interface IntelFeatures {
  readonly major: number;
  readonly haw: number;
  readonly domainIdBits: number;
  readonly cachingMode: boolean;
  readonly sagaw: number;
  /** Bits of input addresses of the second stage. */
  readonly mgaw: number;
  readonly zlr: boolean;
  readonly frcdOffset: number;
  readonly frcdCount: number;
  readonly iotlbOffset: number;
  readonly registerBytes: number;
  readonly pages2M: boolean;
  readonly pages1G: boolean;
  readonly psi: boolean;
  readonly mamv: number;
  readonly fs1gp: boolean;
  readonly fs5lp: boolean;
  readonly esrtps: boolean;
  readonly qi: boolean;
  readonly dt: boolean;
  readonly pt: boolean;
  readonly sc: boolean;
  readonly nest: boolean;
  readonly prs: boolean;
  readonly srs: boolean;
  readonly nwfs: boolean;
  readonly eafs: boolean;
  /** PASIDs are below it. */
  readonly pasidLimit: number;
  readonly pasid: boolean;
  readonly dit: boolean;
  readonly pds: boolean;
  readonly smts: boolean;
  readonly ssads: boolean;
  readonly ssts: boolean;
  readonly fsts: boolean;
  readonly smpwcs: boolean;
  readonly rps: boolean;
  readonly adms: boolean;
  readonly rprivs: boolean;
  readonly ptrs: boolean;
  readonly ssirws: boolean;
  readonly sms: boolean;
  /**
   * AW of a PASID table entry is reserved: no second stage, from Major Version 6 on, which then report no SAGAW either
   * (§9.6 AW, §11.4.2 SAGAW).
   */
  readonly awReserved: boolean;
  /** Register-based invalidation works (§6.5). */
  readonly registerInvalidation: boolean;
  /** Bits of FRCD.FI: the largest AGAW (§11.4.7.6). */
  readonly faultAddressBits: number;
}

/** What the model does not have: these fields must be zero. */
const ABSENT: readonly (readonly ['CAP' | 'ECAP', Field, string])[] = [
  ['CAP', CAP.RWBF, 'write buffers that need flushing'],
  ['CAP', CAP.PLMR, 'protected memory regions'],
  ['CAP', CAP.PHMR, 'protected memory regions'],
  ['CAP', CAP.PI, 'interrupt posting'],
  ['CAP', CAP.ECMDS, 'enhanced commands'],
  ['CAP', CAP.ESIRTPS, 'interrupt remapping'],
  ['ECAP', ECAP.IR, 'interrupt remapping'],
  ['ECAP', ECAP.EIM, 'interrupt remapping'],
  ['ECAP', ECAP.MHMV, 'interrupt remapping'],
  ['ECAP', ECAP.EIMER, 'interrupt remapping'],
  ['ECAP', ECAP.IRREQ, 'interrupt remapping'],
  ['ECAP', ECAP.MTS, 'memory types'],
  ['ECAP', ECAP.ERS, 'execute requests'],
  ['ECAP', ECAP.VCS, 'virtual commands'],
  ['ECAP', ECAP.TDXCS, 'TDX Connect'],
  ['ECAP', ECAP.PMS, 'performance monitoring'],
  ['ECAP', ECAP.HPTS, 'host permission tables'],
  ['ECAP', ECAP.HPT1GPS, 'host permission tables'],
  ['ECAP', ECAP.RDTS, 'RDT configuration'],
];

/** "Implementations reporting B as Clear also report A as Clear" (§11.4.3). */
const IMPLIES: readonly (readonly [a: Field, b: Field])[] = [
  [ECAP.DT, ECAP.QI],
  [ECAP.SMTS, ECAP.QI],
  [ECAP.PDS, ECAP.DT],
  [ECAP.DIT, ECAP.DT],
  [ECAP.NWFS, ECAP.DT],
  [ECAP.PRS, ECAP.DT],
  [ECAP.PRS, ECAP.SMTS],
  [ECAP.SMS, ECAP.PRS],
  [ECAP.PASID, ECAP.SMTS],
  [ECAP.PTRS, ECAP.DT],
  [ECAP.PTRS, ECAP.PASID],
  [ECAP.FSTS, ECAP.SMTS],
  [ECAP.RPS, ECAP.SMTS],
  [ECAP.SMPWCS, ECAP.SMTS],
  [ECAP.SRS, ECAP.SMTS],
  [ECAP.RPRIVS, ECAP.SRS],
  [ECAP.EAFS, ECAP.FSTS],
  [ECAP.EAFS, ECAP.SMPWCS],
  [ECAP.SSADS, ECAP.SMPWCS],
  [ECAP.SSIRWS, ECAP.SSTS],
  [ECAP.NEST, ECAP.SMTS],
  [ECAP.NEST, ECAP.FSTS],
  [ECAP.NEST, ECAP.SSTS],
];

function bad(what: string): never {
  throw new Error(`VT-d configuration: ${what}`);
}

/** Throws where the registers contradict themselves or advertise what the model does not have. */
function check(config: IntelConfig, cap: Uint32Array, ecap: Uint32Array): void {
  const words = { CAP: cap, ECAP: ecap };
  for (const [register, field, what] of ABSENT) {
    if (readField(field, words[register]) !== 0)
      bad(`${register}.${field.name} is set, but ${what} is not modelled`);
  }
  const has = (field: Field): boolean => readField(field, ecap) !== 0;
  for (const [a, b] of IMPLIES) if (has(a) && !has(b)) bad(`ECAP.${a.name} needs ECAP.${b.name}`);
  for (const [name, layout, value] of [
    ['CAP', CAP, cap],
    ['ECAP', ECAP, ecap],
  ] as const) {
    const known = layout.$.readable;
    if (((value[0]! & ~known[0]!) | (value[1]! & ~known[1]!)) !== 0) bad(`${name} has a reserved bit set`);
  }
  const haw = config.hostAddressWidth;
  if (!(haw >= 32 && haw <= 52)) bad('hostAddressWidth must be 32 to 52');
  const mgaw = readField(CAP.MGAW, cap) + 1;
  if (mgaw < 32 || mgaw > 57) bad('CAP.MGAW must be 31 to 56');
  const sagaw = readField(CAP.SAGAW, cap);
  if ((sagaw & ~(SAGAW.LEVELS_3 | SAGAW.LEVELS_4 | SAGAW.LEVELS_5)) !== 0)
    bad('CAP.SAGAW has a reserved bit');
  if (sagaw === 0 && (!has(ECAP.SMTS) || has(ECAP.SSTS)))
    bad('CAP.SAGAW is 0, but the second stage needs a width');
  const sslps = readField(CAP.SSLPS, cap);
  if (sslps !== SSLPS.NONE && sslps !== SSLPS.PAGES_2M && sslps !== SSLPS.PAGES_1G)
    bad('CAP.SSLPS must be 0, 1 or 3');
  if (readField(CAP.ND, cap) > 6) bad('CAP.ND is reserved at 7');
  const frcd = readField(CAP.FRO, cap) * 16;
  const iotlb = readField(ECAP.IRO, ecap) * 16;
  if (frcd < 0xf0 || iotlb < 0xf0) bad('CAP.FRO and ECAP.IRO must lie above the other registers');
  const frcdEnd = frcd + FRCD_BYTES * (readField(CAP.NFR, cap) + 1);
  if (iotlb < frcdEnd && iotlb + 16 > frcd) bad('the IOTLB registers overlap the fault recording registers');
}

/** Takes the capability registers apart. Throws as {@link intelConfig} does. */
export function intelFeatures(config: IntelConfig): IntelFeatures {
  const cap = new Uint32Array([lo32(config.cap), hi32(config.cap)]);
  const ecap = new Uint32Array([lo32(config.ecap), hi32(config.ecap)]);
  check(config, cap, ecap);
  const c = (field: Field): number => readField(field, cap);
  const e = (field: Field): boolean => readField(field, ecap) !== 0;
  const major = readField(VER.MAX, [config.version]);
  const sagaw = c(CAP.SAGAW);
  const frcdOffset = c(CAP.FRO) * 16;
  const frcdCount = c(CAP.NFR) + 1;
  const iotlbOffset = readField(ECAP.IRO, ecap) * 16;
  const end = Math.max(REGISTER_PAGE_BYTES, frcdOffset + frcdCount * FRCD_BYTES, iotlbOffset + 16);
  const widest = sagaw === 0 ? 0 : 12 + 9 * (Math.floor(Math.log2(sagaw)) + 2);
  const firstStage = e(ECAP.FSTS) ? (c(CAP.FS5LP) !== 0 ? 57 : 48) : 0;
  return {
    major,
    haw: config.hostAddressWidth,
    domainIdBits: 4 + 2 * c(CAP.ND),
    cachingMode: c(CAP.CM) !== 0,
    sagaw,
    mgaw: c(CAP.MGAW) + 1,
    zlr: c(CAP.ZLR) !== 0,
    frcdOffset,
    frcdCount,
    iotlbOffset,
    registerBytes: Math.ceil(end / REGISTER_PAGE_BYTES) * REGISTER_PAGE_BYTES,
    pages2M: c(CAP.SSLPS) !== 0,
    pages1G: c(CAP.SSLPS) === SSLPS.PAGES_1G,
    psi: c(CAP.PSI) !== 0,
    mamv: c(CAP.MAMV),
    fs1gp: c(CAP.FS1GP) !== 0,
    fs5lp: c(CAP.FS5LP) !== 0,
    esrtps: c(CAP.ESRTPS) !== 0,
    qi: e(ECAP.QI),
    dt: e(ECAP.DT),
    pt: e(ECAP.PT),
    sc: e(ECAP.SC),
    nest: e(ECAP.NEST),
    prs: e(ECAP.PRS),
    srs: e(ECAP.SRS),
    nwfs: e(ECAP.NWFS),
    eafs: e(ECAP.EAFS),
    pasidLimit: 2 ** Math.min(20, readField(ECAP.PSS, ecap) + 1),
    pasid: e(ECAP.PASID),
    dit: e(ECAP.DIT),
    pds: e(ECAP.PDS),
    smts: e(ECAP.SMTS),
    ssads: e(ECAP.SSADS),
    ssts: e(ECAP.SSTS),
    fsts: e(ECAP.FSTS),
    smpwcs: e(ECAP.SMPWCS),
    rps: e(ECAP.RPS),
    adms: e(ECAP.ADMS),
    rprivs: e(ECAP.RPRIVS),
    ptrs: e(ECAP.PTRS),
    ssirws: e(ECAP.SSIRWS),
    sms: e(ECAP.SMS),
    awReserved: !e(ECAP.SSTS) && major >= 6,
    registerInvalidation: major <= 5,
    faultAddressBits: Math.max(widest, firstStage),
  };
}
