import { readAddress, readField } from '../../base/bit-fields.ts';
import { u64 } from '../../base/u64.ts';
import type { SmmuV3Features } from '../../iommu/arm-smmu-v3/hardware/registers/config.ts';
import type { RegisterFile } from '../../iommu/arm-smmu-v3/hardware/registers/registers.ts';
import { locateSte } from '../../iommu/arm-smmu-v3/hardware/configuration/stream-table.ts';
import { CR0, GBPA, OFFSET, STRTAB_BASE_CFG } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import { L1STD, STE, STE_CONFIG } from '../../iommu/arm-smmu-v3/spec/ste.ts';
import type { PhysicalMemory } from '../../memory/physical.ts';

// What the guest says of a stream: its registers, and its Stream table (IHI 0070, §3.3.1).

/** The part of an STE that a nested domain is made of. */
export type SteWords = readonly [bigint, bigint];

export const STE_ABORT: SteWords = [1n, 0n];
export const STE_BYPASS: SteWords = [1n | (BigInt(STE_CONFIG.BYPASS) << 1n), 0n];

/** include/uapi/linux/iommufd.h struct iommu_hwpt_arm_smmuv3: what a guest decides. */
const NESTING_ALLOWED: SteWords = [
  maskOf([STE.V, STE.Config, STE.S1Fmt, STE.S1ContextPtr, STE.S1CDMax]),
  maskOf([STE.S1DSS, STE.S1CIR, STE.S1COR, STE.S1CSH, STE.S1STALLD, STE.EATS]) >> 64n,
];

function maskOf(fields: readonly { readonly lsb: number; readonly width: number }[]): bigint {
  return fields.reduce((mask, { lsb, width }) => mask | (((1n << BigInt(width)) - 1n) << BigInt(lsb)), 0n);
}

/** What the stream `sid` does: {@link STE_ABORT}, {@link STE_BYPASS}, or what its STE in `memory` says. */
export function steOf(
  memory: PhysicalMemory,
  registers: RegisterFile,
  features: SmmuV3Features,
  sid: number,
): SteWords {
  if (!registers.enabled(CR0.SMMUEN.inPlace)) {
    const gbpa = [registers.get(OFFSET.GBPA)];
    return readField(GBPA.ABORT, gbpa) !== 0 ? STE_ABORT : STE_BYPASS;
  }
  const where = locateSte(streamTable(registers), features.sidSize, sid, (_, address) => {
    const pair = new Uint32Array(2);
    if (!memory.load64(address, pair)) return null;
    return { span: readField(L1STD.Span, pair), l2ptr: readAddress(L1STD.L2Ptr, pair) };
  });
  if (typeof where !== 'number') return STE_ABORT;
  const words = new Uint32Array(4);
  for (const at of [0, 2]) if (!memory.load64(where + at * 4, words.subarray(at, at + 2))) return STE_ABORT;
  if (readField(STE.V, words) === 0) return STE_ABORT;
  const config = readField(STE.Config, words);
  if (config === STE_CONFIG.ABORT) return STE_ABORT;
  if (config === STE_CONFIG.BYPASS) return STE_BYPASS;
  return [u64(words[1]!, words[0]!) & NESTING_ALLOWED[0], u64(words[3]!, words[2]!) & NESTING_ALLOWED[1]];
}

function streamTable(registers: RegisterFile): Parameters<typeof locateSte>[0] {
  const cfg = [registers.get(OFFSET.STRTAB_BASE_CFG)];
  const split = readField(STRTAB_BASE_CFG.SPLIT, cfg);
  return {
    base: registers.getAddress(OFFSET.STRTAB_BASE, 6),
    log2Size: readField(STRTAB_BASE_CFG.LOG2SIZE, cfg),
    split: split === 8 || split === 10 ? split : 6,
    fmt: readField(STRTAB_BASE_CFG.FMT, cfg),
    e2h: false,
  };
}
