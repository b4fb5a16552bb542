// Context entries: what makes one invalid (Table 30), and what a valid one says. §9.3, §9.4.

import { readAddress, readField } from '../../../../base/bit-fields.ts';
import { type SecondStageConfig, secondStageConfig } from '../../../../pagetable/vtd-second-stage.ts';
import { AW, CONTEXT_ENTRY, SM_CONTEXT_ENTRY, TT } from '../../spec/context.ts';
import { FAULT, type FaultCondition } from '../../spec/faults.ts';
import type { IntelFeatures } from '../registers/config.ts';
import { hasReserved, reservedMask } from './reserved.ts';

/** A legacy-mode context entry, decoded. */
export interface LegacyContext {
  readonly mode: 'legacy';
  readonly tt: number;
  readonly did: number;
  readonly fpd: boolean;
  /** Null for pass-through. */
  readonly secondStage: SecondStageConfig | null;
}

/** A scalable-mode context entry, decoded. */
export interface ScalableContext {
  readonly mode: 'scalable';
  readonly fpd: boolean;
  readonly deviceTlb: boolean;
  readonly pasidEnabled: boolean;
  readonly pageRequests: boolean;
  /** EPTR */
  readonly pasidInTranslated: boolean;
  /** EPTR without PASIDE: SCT.4.3, for the requests that it concerns. */
  readonly inconsistent: boolean;
  readonly pasidDirectory: number;
  /** PASIDs are below it (PDTS). */
  readonly pasidLimit: number;
  readonly ridPasid: number;
  readonly ridPrivileged: boolean;
}

/** Why an entry cannot be used. */
export interface Invalid {
  readonly invalid: FaultCondition;
  readonly fpd: boolean;
}

export function isInvalid(value: object): value is Invalid {
  return 'invalid' in value;
}

/** Levels of second-stage tables that AW names, or null where reserved or not supported. */
export function levelsOf(aw: number, sagaw: number): 3 | 4 | 5 | null {
  if (aw < AW.LEVELS_3 || aw > AW.LEVELS_5 || (sagaw & (1 << aw)) === 0) return null;
  return (aw + 2) as 3 | 4 | 5;
}

/** Second-stage tables as the features have them. */
export function secondStageTables(
  features: IntelFeatures,
  levels: 3 | 4 | 5,
  root: number,
  ioReadWrite: boolean,
  accessedDirty: { readonly enabled: boolean; readonly updates: boolean },
): SecondStageConfig {
  return secondStageConfig({
    levels,
    root,
    inputBits: features.mgaw,
    addressBits: features.haw,
    pages2M: features.pages2M,
    pages1G: features.pages1G,
    snoopControl: features.sc,
    ioReadWrite,
    accessedDirty: accessedDirty.enabled,
    updates: accessedDirty.updates,
  });
}

/** Decodes the words of a context entry (§9.3). */
export function decodeContext(words: Uint32Array, features: IntelFeatures): LegacyContext | Invalid {
  const fpd = readField(CONTEXT_ENTRY.FPD, words) !== 0;
  const fail = (invalid: FaultCondition): Invalid => ({ invalid, fpd });
  if (readField(CONTEXT_ENTRY.P, words) === 0) return fail(FAULT.LCT_2);
  const tt = readField(CONTEXT_ENTRY.TT, words);
  const did = readField(CONTEXT_ENTRY.DID, words);
  if (hasReserved(words, CONTEXT_RESERVED)) return fail(FAULT.LCT_3);
  const pointer = readAddress(CONTEXT_ENTRY.SSPTPTR, words);
  // SSPTPTR is ignored for pass-through.
  if (tt !== TT.PASS_THROUGH && pointer >= 2 ** features.haw) return fail(FAULT.LCT_3);
  if (did >= 2 ** features.domainIdBits) return fail(FAULT.LCT_3);
  const levels = levelsOf(readField(CONTEXT_ENTRY.AW, words), features.sagaw);
  if (levels === null) return fail(FAULT.LCT_4_1);
  if (
    tt === TT.RESERVED ||
    (tt === TT.DEVICE_TLB && !features.dt) ||
    (tt === TT.PASS_THROUGH && !features.pt)
  ) {
    return fail(FAULT.LCT_4_2);
  }
  const secondStage =
    tt === TT.PASS_THROUGH
      ? null
      : secondStageTables(features, levels, pointer, false, { enabled: false, updates: false });
  return { mode: 'legacy', tt, did, fpd, secondStage };
}

const CONTEXT_RESERVED = reservedMask(CONTEXT_ENTRY.$);
const SM_CONTEXT_RESERVED = reservedMask(SM_CONTEXT_ENTRY.$);

/** Decodes the words of a scalable-mode context entry (§9.4). */
export function decodeScalableContext(
  words: Uint32Array,
  features: IntelFeatures,
): ScalableContext | Invalid {
  const has = (field: (typeof SM_CONTEXT_ENTRY)['P']): boolean => readField(field, words) !== 0;
  const fpd = has(SM_CONTEXT_ENTRY.FPD);
  const fail = (invalid: FaultCondition): Invalid => ({ invalid, fpd });
  if (!has(SM_CONTEXT_ENTRY.P)) return fail(FAULT.SCT_2);
  const pasidDirectory = readAddress(SM_CONTEXT_ENTRY.PASIDDIRPTR, words);
  const reserved =
    hasReserved(words, SM_CONTEXT_RESERVED) ||
    pasidDirectory >= 2 ** features.haw ||
    (!features.dt && has(SM_CONTEXT_ENTRY.DTE)) ||
    (!features.pasid && has(SM_CONTEXT_ENTRY.PASIDE)) ||
    (!features.prs && has(SM_CONTEXT_ENTRY.PRE)) ||
    has(SM_CONTEXT_ENTRY.HPTE) ||
    (!features.ptrs && has(SM_CONTEXT_ENTRY.EPTR)) ||
    (!features.rps && has(SM_CONTEXT_ENTRY.RID_PASID)) ||
    (!features.rprivs && has(SM_CONTEXT_ENTRY.RID_PRIV));
  if (reserved) return fail(FAULT.SCT_3);
  if (has(SM_CONTEXT_ENTRY.PRE) && !has(SM_CONTEXT_ENTRY.DTE)) return fail(FAULT.SCT_4_1);
  // 2^(PDTS + 7) directory entries of 64 PASIDs each.
  const pasidLimit = 2 ** (readField(SM_CONTEXT_ENTRY.PDTS, words) + 13);
  const ridPasid = readField(SM_CONTEXT_ENTRY.RID_PASID, words);
  if (ridPasid >= pasidLimit) return fail(FAULT.SCT_4_2);
  return {
    mode: 'scalable',
    fpd,
    deviceTlb: has(SM_CONTEXT_ENTRY.DTE),
    pasidEnabled: has(SM_CONTEXT_ENTRY.PASIDE),
    pageRequests: has(SM_CONTEXT_ENTRY.PRE),
    pasidInTranslated: has(SM_CONTEXT_ENTRY.EPTR),
    inconsistent: has(SM_CONTEXT_ENTRY.EPTR) && !has(SM_CONTEXT_ENTRY.PASIDE),
    pasidDirectory,
    pasidLimit,
    ridPasid,
    ridPrivileged: has(SM_CONTEXT_ENTRY.RID_PRIV),
  };
}
