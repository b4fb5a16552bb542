// STEs: what makes one ILLEGAL (§5.2.2), and what a legal one says.

import { readAddress, readField } from '../../../../base/bit-fields.ts';
import type { AttributeOverrides } from '../../../../pagetable/armv8-attributes.ts';
import { stage2Permissions } from '../../../../pagetable/armv8-permissions.ts';
import type { Stage2Config } from '../../../../pagetable/armv8-stage2.ts';
import { type GranuleBits, stage2StartLevel, tableGeometry } from '../../../../pagetable/armv8.ts';
import { ADDRESS_BITS, STALL_MODEL, TTENDIAN } from '../../spec/registers.ts';
import { EATS, INSTCFG, PRIVCFG, S1DSS, S1FMT, STE, STE_CONFIG, STRW, TG0 } from '../../spec/ste.ts';
import type { SmmuV3Features } from '../registers/config.ts';

/** Translation regimes (StreamWorld, §3.3.3). */
export const WORLD = { NS_EL1: 0, NS_EL2: 1, NS_EL2_E2H: 2 } as const;
export type World = (typeof WORLD)[keyof typeof WORLD];

/** A legal STE, decoded. */
export interface StreamConfig {
  /** STE_CONFIG; 0b0xx is ABORT. */
  readonly config: number;
  readonly stage1: boolean;
  readonly stage2: Stage2Config | null;
  readonly world: World;
  /** The VMID tag of translations; 0 where there is none. */
  readonly vmid: number;
  readonly s1Fmt: number;
  readonly s1ContextPtr: number;
  readonly s1CdMax: number;
  readonly s1Dss: number;
  readonly s1StallDisabled: boolean;
  /** As written; see effectiveEats(). */
  readonly eats: number;
  /** Stage 2 faults stall, are recorded. */
  readonly s2s: boolean;
  readonly s2r: boolean;
  readonly mev: boolean;
  readonly ppar: boolean;
  readonly privCfg: number;
  readonly instCfg: number;
  /** Null where the incoming attributes stay. */
  readonly overrides: AttributeOverrides | null;
}

const GRANULES: Readonly<Record<number, GranuleBits>> = {
  [TG0.GRAN4K]: 12,
  [TG0.GRAN16K]: 14,
  [TG0.GRAN64K]: 16,
};

/** Bits of TG0 and S2TG as a granule, or null where reserved or not implemented. */
export function granuleOfTg0(tg: number, features: SmmuV3Features): GranuleBits | null {
  const bits = GRANULES[tg];
  return bits !== undefined && features.granules.has(bits) ? bits : null;
}

/** Why an STE is ILLEGAL, for people: the record only says C_BAD_STE. */
export interface Illegal {
  readonly illegal: string;
}
const illegal = (why: string): Illegal => ({ illegal: why });

export function isIllegal(value: object): value is Illegal {
  return 'illegal' in value;
}

/** Decodes the words of an STE. `e2h` is SMMU_CR2.E2H. */
export function decodeSte(
  words: Uint32Array,
  features: SmmuV3Features,
  e2h: boolean,
): StreamConfig | Illegal {
  if (readField(STE.V, words) === 0) return illegal('V == 0');
  const config = readField(STE.Config, words);
  if ((config & 4) === 0) return { ...passive(words, features), config: STE_CONFIG.ABORT };
  const stage1 = (config & 1) !== 0;
  const stage2 = (config & 2) !== 0;
  if (stage1 && !features.s1p) return illegal('Config enables stage 1, which is not implemented');
  if (stage2 && !features.s2p) return illegal('Config enables stage 2, which is not implemented');
  const atsError = checkEats(words, features, config);
  if (atsError !== null) return atsError;
  // STRW counts in stage 1-only configurations (IgnoreSTESTRW()).
  const strw = config === STE_CONFIG.S1_TRANS && features.hyp ? readField(STE.STRW, words) : STRW.NSEL1;
  if ((strw & 1) !== 0) return illegal('STRW is reserved');
  const world = strw === STRW.NSEL1 ? WORLD.NS_EL1 : e2h ? WORLD.NS_EL2_E2H : WORLD.NS_EL2;
  if (stage1) {
    const error = checkStage1(words, features, config);
    if (error !== null) return error;
  }
  const second = stage2 ? decodeStage2(words, features) : null;
  if (second !== null && isIllegal(second)) return second;
  const tagged = features.s2p && config !== STE_CONFIG.BYPASS && world === WORLD.NS_EL1;
  const vmid = tagged ? readField(STE.S2VMID, words) : 0;
  if (!features.vmid16 && vmid > 0xff) return illegal('S2VMID[15:8] with 8-bit VMIDs');
  return {
    ...passive(words, features),
    config,
    stage1,
    stage2: second,
    world,
    vmid,
    s1CdMax: stage1 && features.ssidSize > 0 ? readField(STE.S1CDMax, words) : 0,
    s1Dss: readField(STE.S1DSS, words) === 3 ? S1DSS.TERMINATE : readField(STE.S1DSS, words),
  };
}

/** The fields that need no check. */
function passive(words: Uint32Array, features: SmmuV3Features): StreamConfig {
  const fmt = readField(STE.S1Fmt, words);
  return {
    config: readField(STE.Config, words),
    stage1: false,
    stage2: null,
    world: WORLD.NS_EL1,
    vmid: 0,
    s1Fmt: fmt === 3 ? S1FMT.LINEAR : fmt,
    s1ContextPtr: readAddress(STE.S1ContextPtr, words),
    s1CdMax: 0,
    s1Dss: S1DSS.TERMINATE,
    s1StallDisabled: readField(STE.S1STALLD, words) !== 0,
    eats: features.ats ? readField(STE.EATS, words) : EATS.ABORT,
    s2s: readField(STE.S2S, words) !== 0,
    s2r: readField(STE.S2R, words) !== 0,
    mev: readField(STE.MEV, words) !== 0,
    ppar: readField(STE.PPAR, words) !== 0,
    privCfg: features.permsOverride ? readField(STE.PRIVCFG, words) : PRIVCFG.INCOMING,
    instCfg: features.permsOverride ? readField(STE.INSTCFG, words) : INSTCFG.INCOMING,
    overrides: features.typesOverride ? decodeOverrides(words) : null,
  };
}

function decodeOverrides(words: Uint32Array): AttributeOverrides | null {
  const overrides = {
    mtcfg: readField(STE.MTCFG, words) !== 0,
    memAttr: readField(STE.MemAttr, words),
    alloccfg: readField(STE.ALLOCCFG, words),
    shcfg: readField(STE.SHCFG, words),
  };
  return overrides.mtcfg || overrides.alloccfg & 8 || overrides.shcfg !== 1 ? overrides : null;
}

function checkEats(words: Uint32Array, features: SmmuV3Features, config: number): Illegal | null {
  if (!features.ats || config === STE_CONFIG.BYPASS) return null;
  const eats = readField(STE.EATS, words);
  const s2s = readField(STE.S2S, words) !== 0;
  if (eats === EATS.SPLIT && (config !== STE_CONFIG.NESTED || s2s || !features.splitAts)) {
    return illegal('EATS selects split-stage ATS, which needs both stages, S2S == 0 and NS1ATS == 0');
  }
  if (eats === EATS.TRANS && s2s && (config & 2) !== 0) return illegal('EATS with S2S');
  return null;
}

function checkStage1(words: Uint32Array, features: SmmuV3Features, config: number): Illegal | null {
  if (readField(STE.S1STALLD, words) !== 0 && features.stallModel !== STALL_MODEL.BOTH) {
    return illegal('S1STALLD where the stall model is not configurable');
  }
  if (features.ssidSize > 0) {
    const cdMax = readField(STE.S1CDMax, words);
    if (cdMax > features.ssidSize) return illegal('S1CDMax above SSIDSIZE');
    const fmt = readField(STE.S1Fmt, words);
    if (cdMax > 0 && !features.cd2l && (fmt === S1FMT.TWO_LEVEL_4K || fmt === S1FMT.TWO_LEVEL_64K)) {
      return illegal('S1Fmt selects a two-level table, which is not implemented');
    }
  }
  // An IPA with stage 2, else a PA; IAS equals OAS (§3.4.3).
  if (readAddress(STE.S1ContextPtr, words) >= features.physicalLimit) {
    return illegal(`S1ContextPtr is outside of the ${(config & 2) !== 0 ? 'IAS' : 'OAS'}`);
  }
  return null;
}

function decodeStage2(words: Uint32Array, features: SmmuV3Features): Stage2Config | Illegal {
  const stall = readField(STE.S2S, words) !== 0;
  if (features.stallModel === STALL_MODEL.TERMINATE && stall) return illegal('S2S without the stall model');
  if (features.stallModel === STALL_MODEL.STALL && !stall) return illegal('S2S == 0 where stalls are forced');
  if (readField(STE.S2AA64, words) === 0) return illegal('S2AA64 selects AArch32 tables');
  const ha = readField(STE.S2HA, words) !== 0;
  const hd = readField(STE.S2HD, words) !== 0;
  if ((ha || hd) && features.httu === 0) return illegal('S2HA or S2HD without HTTU');
  if (hd && features.httu === 1) return illegal('S2HD without hardware dirty state');
  const granule = granuleOfTg0(readField(STE.S2TG, words), features);
  if (granule === null) return illegal('S2TG selects no implemented granule');
  const ds = features.ds && granule !== 16 && readField(STE.S2DS, words) !== 0;
  const outputBits = Math.min(ADDRESS_BITS[readField(STE.S2PS, words)]!, features.oas);
  const ttb = readAddress(STE.S2TTB, words);
  if (ttb >= 2 ** outputBits) return illegal('S2TTB is outside of S2PS');
  if (ttb >= 2 ** 48 && granule !== 16 && !ds) return illegal('S2TTB is outside of 48 bits');
  const t0sz = readField(STE.S2T0SZ, words);
  const most = features.stt ? (granule === 16 ? 47 : 48) : 39;
  const least = Math.max(granule === 16 || ds ? 12 : 16, 64 - features.oas);
  if (t0sz < least || t0sz > most) return illegal('S2T0SZ is out of range');
  const sl0 = readField(STE.S2SL0, words) | (features.ds ? readField(STE.S2SL0_2, words) << 2 : 0);
  const startLevel = stage2StartLevel(granule, sl0, 64 - t0sz, {
    ds,
    smallTables: features.stt,
    physicalBits: features.oas,
  });
  if (startLevel === null) return illegal('S2SL0 does not fit S2T0SZ and S2TG');
  const bigEndian = readField(STE.S2ENDI, words) !== 0;
  if (!endianImplemented(features, bigEndian))
    return illegal('S2ENDI selects an endianness that is not implemented');
  return {
    table: tableGeometry({
      granuleBits: granule,
      inputBits: 64 - t0sz,
      startLevel,
      base: ttb,
      outputBits,
      physicalBits: features.oas,
      ds,
      bigEndian,
    }),
    permissions: stage2Permissions(features.xnx),
    affd: readField(STE.S2AFFD, words) !== 0,
    ha,
    // S2HD alone is reserved and disables both (§5.2, S2HA).
    hd: hd && ha,
    ptw: readField(STE.Config, words) === STE_CONFIG.NESTED && readField(STE.S2PTW, words) !== 0,
    fwb: features.fwb && readField(STE.S2FWB, words) !== 0,
    sh: ds ? readField(STE.S2SH0, words) : null,
  };
}

export function endianImplemented(features: SmmuV3Features, bigEndian: boolean): boolean {
  if (features.ttendian === TTENDIAN.MIXED) return true;
  return bigEndian === (features.ttendian === TTENDIAN.BIG);
}

/** STE.EATS as it counts: 0 in bypass, split-stage only with CR0.ATSCHK (§5.2, EATS). */
export function effectiveEats(stream: StreamConfig, atschk: boolean): number {
  if (stream.config === STE_CONFIG.BYPASS || stream.config === STE_CONFIG.ABORT) return EATS.ABORT;
  if (stream.eats === EATS.DPT || (stream.eats === EATS.SPLIT && !atschk)) return EATS.ABORT;
  return stream.eats;
}

/** The privilege that translation sees (§13.1.4, table 13.4). */
export function effectivePrivilege(stream: StreamConfig, privileged: boolean): boolean {
  if (stream.privCfg === PRIVCFG.PRIVILEGED) return true;
  return stream.privCfg === PRIVCFG.UNPRIVILEGED ? false : privileged;
}

/** Whether a read is one of instructions; writes never are. */
export function effectiveInstruction(stream: StreamConfig, instruction: boolean, write: boolean): boolean {
  if (write) return false;
  if (stream.instCfg === INSTCFG.INSTRUCTION) return true;
  return stream.instCfg === INSTCFG.DATA ? false : instruction;
}
