// PASID table entries: what makes one invalid (Table 30), and what a valid one says. §9.6.

import { type Field, readAddress, readField } from '../../../../base/bit-fields.ts';
import type { SecondStageConfig } from '../../../../pagetable/vtd-second-stage.ts';
import { type X86Config, x86Config, x86Permissions } from '../../../../pagetable/x86-64.ts';
import { FAULT, type FaultCondition } from '../../spec/faults.ts';
import { FSPM, PASID_DIR_ENTRY, PASID_ENTRY, PGTT, type Pgtt } from '../../spec/pasid.ts';
import type { IntelFeatures } from '../registers/config.ts';
import { type Invalid, levelsOf, secondStageTables } from './context-config.ts';
import { hasReserved, reservedMask } from './reserved.ts';

/** A PASID table entry, decoded; a legacy-mode context entry is one too. */
export interface PasidConfig {
  readonly pgtt: Pgtt;
  readonly did: number;
  readonly fpd: boolean;
  readonly legacy: boolean;
  /** SRE: supervisor requests are processed. */
  readonly supervisor: boolean;
  /** PGSNP */
  readonly pageSnoop: boolean;
  readonly firstStage: X86Config | null;
  readonly secondStage: SecondStageConfig | null;
}

const RESERVED = reservedMask(PASID_ENTRY.$);
const DIR_RESERVED = reservedMask(PASID_DIR_ENTRY.$);
/** With and without WPE. Execute requests do not exist (ECAP.ERS), so XD and SMEP count for nothing. */
const PERMISSIONS = [false, true].map((writeProtect) =>
  x86Permissions({ writeProtect, smep: false, noExecute: false }),
) as [Uint8Array, Uint8Array];

/** Decodes a PASID directory entry: the table's address. */
export function decodeDirectory(
  words: Uint32Array,
  features: IntelFeatures,
): { table: number; fpd: boolean } | Invalid {
  const fpd = readField(PASID_DIR_ENTRY.FPD, words) !== 0;
  if (readField(PASID_DIR_ENTRY.P, words) === 0) return { invalid: FAULT.SPD_2, fpd };
  const table = readAddress(PASID_DIR_ENTRY.SMPTBLPTR, words);
  if (hasReserved(words, DIR_RESERVED) || table >= 2 ** features.haw) return { invalid: FAULT.SPD_3, fpd };
  return { table, fpd };
}

/** Decodes the words of a PASID table entry. `ioReadWrite` is RTADDR.SSIRWE. */
export function decodePasidEntry(
  words: Uint32Array,
  features: IntelFeatures,
  ioReadWrite: boolean,
): PasidConfig | Invalid {
  const get = (field: Field): number => readField(field, words);
  const fpd = get(PASID_ENTRY.FPD) !== 0;
  const fail = (invalid: FaultCondition): Invalid => ({ invalid, fpd });
  if (get(PASID_ENTRY.P) === 0) return fail(FAULT.SPT_2);
  if (reservedSet(words, features)) return fail(FAULT.SPT_3);
  const pgtt = get(PASID_ENTRY.PGTT);
  if (!translationTypes(features).has(pgtt)) return fail(FAULT.SPT_4_2);
  const first = pgtt === PGTT.FIRST_STAGE || pgtt === PGTT.NESTED;
  const second = pgtt === PGTT.SECOND_STAGE || pgtt === PGTT.NESTED;
  const levels = levelsOf(get(PASID_ENTRY.AW), features.sagaw);
  if (second && levels === null) return fail(FAULT.SPT_4_1);
  const fspm = get(PASID_ENTRY.FSPM);
  if (first && (fspm > FSPM.LEVELS_5 || (fspm === FSPM.LEVELS_5 && !features.fs5lp)))
    return fail(FAULT.SPT_4_3);
  // Tables that are not snooped are not written to (§3.10).
  const updates = features.smpwcs && get(PASID_ENTRY.PWSNP) !== 0;
  const secondStage = second
    ? secondStageTables(features, levels!, readAddress(PASID_ENTRY.SSPTPTR, words), ioReadWrite, {
        enabled: get(PASID_ENTRY.SSADE) !== 0,
        updates,
      })
    : null;
  const root = readAddress(PASID_ENTRY.FSPTPTR, words);
  if (pgtt === PGTT.NESTED && root >= secondStage!.inputLimit) return fail(FAULT.SPT_4_4);
  return {
    pgtt: pgtt as Pgtt,
    did: get(PASID_ENTRY.DID),
    fpd,
    legacy: false,
    supervisor: get(PASID_ENTRY.SRE) !== 0,
    pageSnoop: get(PASID_ENTRY.PGSNP) !== 0,
    firstStage: first
      ? x86Config({
          levels: fspm === FSPM.LEVELS_5 ? 5 : 4,
          root,
          addressBits: features.haw,
          pages1G: features.fs1gp,
          accessed: true,
          extendedAccessed: get(PASID_ENTRY.EAFE) !== 0,
          dirty: true,
          updates,
          permissions: PERMISSIONS[get(PASID_ENTRY.WPE)]!,
        })
      : null,
    secondStage,
  };
}

/** What is "treated as Reserved(0)" without the feature, besides what no layout names. */
function reservedSet(words: Uint32Array, features: IntelFeatures): boolean {
  const set = (field: Field): boolean => readField(field, words) !== 0;
  const above = (field: Field): boolean => readAddress(field, words) >= 2 ** features.haw;
  return (
    hasReserved(words, RESERVED) ||
    above(PASID_ENTRY.SSPTPTR) ||
    above(PASID_ENTRY.FSPTPTR) ||
    readField(PASID_ENTRY.DID, words) >= 2 ** features.domainIdBits ||
    (features.awReserved && set(PASID_ENTRY.AW)) ||
    (!features.ssts && set(PASID_ENTRY.SSPTPTR)) ||
    (!(features.ssts && features.ssads) && set(PASID_ENTRY.SSADE)) ||
    (!features.smpwcs && set(PASID_ENTRY.PWSNP)) ||
    (!features.sc && set(PASID_ENTRY.PGSNP)) ||
    (!features.srs && set(PASID_ENTRY.SRE)) ||
    (!features.fsts && (set(PASID_ENTRY.FSPM) || set(PASID_ENTRY.WPE) || set(PASID_ENTRY.FSPTPTR))) ||
    (!features.eafs && set(PASID_ENTRY.EAFE)) ||
    // Memory types and host permission tables are not advertised.
    MEMORY_TYPES.some(set) ||
    HOST_PERMISSIONS.some(set)
  );
}

const MEMORY_TYPES = [PASID_ENTRY.CD, PASID_ENTRY.EMTE, PASID_ENTRY.PAT];
const HOST_PERMISSIONS = [PASID_ENTRY.HPTSZ, PASID_ENTRY.HPTPFD, PASID_ENTRY.HPTPTR, PASID_ENTRY.HPTDID];

/** The values of PGTT that the implementation has (SPT.4.2). */
function translationTypes(features: IntelFeatures): ReadonlySet<number> {
  const types = new Set<number>();
  if (features.fsts) types.add(PGTT.FIRST_STAGE);
  if (features.ssts) types.add(PGTT.SECOND_STAGE);
  if (features.nest) types.add(PGTT.NESTED);
  if (features.pt) types.add(PGTT.PASS_THROUGH);
  return types;
}
