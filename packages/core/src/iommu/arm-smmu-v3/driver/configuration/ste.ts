import { lo32 } from '../../../../base/u64.ts';
import { STE, S1DSS, SHCFG, STE_CONFIG, STRW, EATS } from '../../spec/ste.ts';
import { addMasks, emptyEntry, genmask, getField, setField, type Entry } from './entry.ts';
import type { Vtcr } from '../domains/page-table.ts';

// The STEs that the driver writes: arm-smmu-v3.c arm_smmu_make_*_ste(), arm_smmu_get_ste_used() and
// arm_smmu_get_ste_update_safe(). Where the driver's header knows fewer bits of a field than the specification, the
// header's are kept: they decide what a guest may set.

/** STRTAB_STE_0_S1CTXPTR_MASK */
export const S1CTXPTR_MASK = genmask(51, 6);
/** STRTAB_STE_2_VTCR */
const VTCR_MASK = genmask(50, 32);
/** STRTAB_STE_3_S2TTB_MASK */
const S2TTB_MASK = genmask(51, 4);

/** STE.S1CIR and S1COR: Normal, Write-Back, Read-Allocate. */
const S1C_CACHE_WBRA = 1;
const SH_ISH = 3;

/** The bits of `ste` that hardware looks at, as far as this driver ever sets them. */
export function steUsed(ste: Entry): Entry {
  const used = addMasks(emptyEntry(), STE.V);
  if (getField(ste, STE.V) === 0n) return used;
  addMasks(used, STE.Config);
  const config = steConfig(ste);
  if ((config & 1) !== 0) {
    used[0]! |= S1CTXPTR_MASK;
    addMasks(used, STE.S1Fmt, STE.S1CDMax, STE.S1DSS, STE.S1CIR, STE.S1COR, STE.S1CSH, STE.S1STALLD);
    addMasks(used, STE.STRW, STE.EATS, STE.MEV, STE.S2VMID);
    // IHI 0070G.b §13.5: transactions that bypass stage 1 take their Shareability from SHCFG.
    if (getField(ste, STE.S1DSS) === BigInt(S1DSS.BYPASS)) addMasks(used, STE.SHCFG);
  }
  if ((config & 2) !== 0) {
    addMasks(used, STE.S2FWB, STE.EATS, STE.SHCFG, STE.MEV);
    addMasks(used, STE.S2VMID, STE.S2AA64, STE.S2ENDI, STE.S2PTW, STE.S2S, STE.S2R);
    used[2]! |= VTCR_MASK;
    used[3]! |= S2TTB_MASK;
  }
  if (config === STE_CONFIG.BYPASS) addMasks(used, STE.SHCFG);
  return used;
}

/**
 * Used bits that may change at any moment. EATS: the attach sequence has ATS off at the device while it changes, unless
 * split-stage ATS or S2S could make the pair illegal on the way. MEV only decides how many records there are.
 */
export function steUpdateSafe(current: Entry, target: Entry): Entry {
  const safe = addMasks(emptyEntry(), STE.MEV);
  const eats = getField(current, STE.EATS) | getField(target, STE.EATS);
  const s2s = getField(current, STE.S2S) | getField(target, STE.S2S);
  if ((eats & BigInt(EATS.SPLIT)) === 0n && s2s === 0n)
    safe[1]! |= BigInt(EATS.TRANS) << BigInt(STE.EATS.lsb & 63);
  return safe;
}

/** STE.Config */
export function steConfig(ste: Entry): number {
  return lo32(getField(ste, STE.Config));
}

function baseSte(config: number): Entry {
  const ste = emptyEntry();
  setField(ste, STE.V, 1);
  setField(ste, STE.Config, config);
  return ste;
}

/** What the stream's transactions end in while nothing is attached. */
export function makeAbortSte(): Entry {
  return baseSte(STE_CONFIG.ABORT);
}

/** `typesOverride` is IDR1.ATTR_TYPES_OVR: SHCFG has an effect. */
export function makeBypassSte(typesOverride: boolean): Entry {
  const ste = baseSte(STE_CONFIG.BYPASS);
  if (typesOverride) setField(ste, STE.SHCFG, SHCFG.INCOMING);
  return ste;
}

export interface CdTableSte {
  /** The CD table. */
  readonly table: { readonly pa: number; readonly s1Fmt: number; readonly s1CdMax: number };
  readonly ats: boolean;
  readonly s1Dss: number;
  /** The SMMU can stall, and whether this stream does. */
  readonly stallModel: boolean;
  readonly stall: boolean;
  readonly typesOverride: boolean;
  readonly e2h: boolean;
}

/** arm_smmu_make_cdtable_ste(): stage 1 only, VMID 0. */
export function makeCdTableSte(options: CdTableSte): Entry {
  const { table, s1Dss } = options;
  const ste = baseSte(STE_CONFIG.S1_TRANS);
  setField(ste, STE.S1Fmt, table.s1Fmt);
  ste[0]! |= BigInt(table.pa) & S1CTXPTR_MASK;
  setField(ste, STE.S1CDMax, table.s1CdMax);
  setField(ste, STE.S1DSS, s1Dss);
  setField(ste, STE.S1CIR, S1C_CACHE_WBRA);
  setField(ste, STE.S1COR, S1C_CACHE_WBRA);
  setField(ste, STE.S1CSH, SH_ISH);
  setField(ste, STE.S1STALLD, options.stallModel && !options.stall);
  setField(ste, STE.EATS, options.ats ? EATS.TRANS : EATS.ABORT);
  if (options.typesOverride && s1Dss === S1DSS.BYPASS) setField(ste, STE.SHCFG, SHCFG.INCOMING);
  setField(ste, STE.STRW, options.e2h ? STRW.NSEL2 : STRW.NSEL1);
  return ste;
}

export interface Stage2Ste {
  readonly vmid: number;
  readonly vtcr: Vtcr;
  readonly vttbr: bigint;
  readonly ats: boolean;
  readonly stall: boolean;
  readonly fwb: boolean;
  readonly typesOverride: boolean;
}

/** arm_smmu_make_s2_domain_ste() */
export function makeStage2Ste(options: Stage2Ste): Entry {
  const { vtcr } = options;
  const ste = baseSte(STE_CONFIG.S2_TRANS);
  setField(ste, STE.EATS, options.ats ? EATS.TRANS : EATS.ABORT);
  setField(ste, STE.S2FWB, options.fwb);
  if (options.typesOverride) setField(ste, STE.SHCFG, SHCFG.INCOMING);
  setField(ste, STE.S2VMID, options.vmid);
  setField(ste, STE.S2T0SZ, vtcr.tsz);
  setField(ste, STE.S2SL0, vtcr.sl);
  setField(ste, STE.S2IR0, vtcr.irgn);
  setField(ste, STE.S2OR0, vtcr.orgn);
  setField(ste, STE.S2SH0, vtcr.sh);
  setField(ste, STE.S2TG, vtcr.tg);
  setField(ste, STE.S2PS, vtcr.ps);
  setField(ste, STE.S2AA64, 1);
  setField(ste, STE.S2PTW, 1);
  setField(ste, STE.S2S, options.stall);
  setField(ste, STE.S2R, 1);
  ste[3] = options.vttbr & S2TTB_MASK;
  return ste;
}
