// Context descriptors: what makes one ILLEGAL (§5.4.2), and what a legal one says.

import { type Field, readAddress, readField } from '../../../../base/bit-fields.ts';
import { decodeMair } from '../../../../pagetable/armv8-attributes.ts';
import { stage1Permissions } from '../../../../pagetable/armv8-permissions.ts';
import { type Stage1Config, type Stage1Region, topMasks } from '../../../../pagetable/armv8-stage1.ts';
import { type GranuleBits, tableGeometry } from '../../../../pagetable/armv8.ts';
import { CD, TG1 } from '../../spec/cd.ts';
import { ADDRESS_BITS, STALL_MODEL } from '../../spec/registers.ts';
import type { SmmuV3Features } from '../registers/config.ts';
import { type Illegal, type StreamConfig, WORLD, endianImplemented, granuleOfTg0 } from './stream-config.ts';

/** A legal CD, decoded. */
export interface ContextConfig {
  readonly stage1: Stage1Config;
  readonly asid: number;
  readonly aset: number;
  /** Fault behaviour (§5.5): abort or RAZ/WI, record, stall. */
  readonly a: boolean;
  readonly r: boolean;
  readonly s: boolean;
}

const illegal = (why: string): Illegal => ({ illegal: why });

const GRANULES: Readonly<Record<number, GranuleBits>> = {
  [TG1.GRAN4K]: 12,
  [TG1.GRAN16K]: 14,
  [TG1.GRAN64K]: 16,
};

interface Half {
  readonly epd: Field;
  readonly tsz: Field;
  readonly tg: Field;
  readonly ttb: Field;
  readonly tbi: Field;
  readonly had: Field;
  readonly e0pd: Field;
  readonly sh: Field;
}
const LOWER: Half = {
  epd: CD.EPD0,
  tsz: CD.T0SZ,
  tg: CD.TG0,
  ttb: CD.TTB0,
  tbi: CD.TBI0,
  had: CD.HAD0,
  e0pd: CD.E0PD0,
  sh: CD.SH0,
};
const UPPER: Half = {
  epd: CD.EPD1,
  tsz: CD.T1SZ,
  tg: CD.TG1,
  ttb: CD.TTB1,
  tbi: CD.TBI1,
  had: CD.HAD1,
  e0pd: CD.E0PD1,
  sh: CD.SH1,
};

/** Decodes the words of a CD that `stream` leads to. */
export function decodeCd(
  words: Uint32Array,
  features: SmmuV3Features,
  stream: StreamConfig,
): ContextConfig | Illegal {
  const flag = (field: Field): boolean => readField(field, words) !== 0;
  if (!flag(CD.V)) return illegal('V == 0');
  const s = flag(CD.S);
  if (stream.s1StallDisabled && s) return illegal('S with STE.S1STALLD');
  if (features.abortOnly && !flag(CD.A)) return illegal('A == 0 where termination is always by abort');
  if (features.stallModel === STALL_MODEL.TERMINATE && s) return illegal('S without the stall model');
  if (features.stallModel === STALL_MODEL.STALL && !s) return illegal('S == 0 where stalls are forced');
  // EL2 without E2H has one table, no ASID and no unprivileged accesses.
  const single = stream.world === WORLD.NS_EL2;
  const disabled0 = !single && flag(CD.EPD0);
  const disabled1 = single || flag(CD.EPD1);
  const bigEndian = flag(CD.ENDI);
  if (!(disabled0 && disabled1) && !endianImplemented(features, bigEndian)) {
    return illegal('ENDI selects an endianness that is not implemented');
  }
  if (!flag(CD.AA64)) return illegal('AA64 selects AArch32 tables');
  const ha = flag(CD.HA);
  const hd = flag(CD.HD);
  if ((ha || hd) && features.httu === 0) return illegal('HA or HD without HTTU');
  if (hd && features.httu === 1) return illegal('HD without hardware dirty state');
  const asid = single ? 0 : readField(CD.ASID, words);
  if (!features.asid16 && asid > 0xff) return illegal('ASID[15:8] with 8-bit ASIDs');
  const lower = decodeHalf(words, features, LOWER, disabled0, bigEndian);
  if ('illegal' in lower) return lower;
  const upper = single ? null : decodeHalf(words, features, UPPER, disabled1, bigEndian);
  if (upper !== null && 'illegal' in upper) return upper;
  const mair = new Uint8Array(8);
  for (let i = 0; i < 8; i++) {
    const half = readField(i < 4 ? CD.MAIR0 : CD.MAIR1, words);
    mair[i] = decodeMair((half >>> (8 * (i & 3))) & 0xff);
  }
  return {
    stage1: {
      regions: [lower, upper],
      unprivileged: !single,
      permissions: stage1Permissions({
        unprivileged: !single,
        wxn: flag(CD.WXN),
        pan: flag(CD.PAN),
        epan: features.epan && flag(CD.EPAN),
      }),
      affd: flag(CD.AFFD),
      ha,
      // HD alone is reserved and disables both (§5.4, HA).
      hd: hd && ha,
      mair,
    },
    asid,
    aset: flag(CD.ASET) ? 1 : 0,
    a: flag(CD.A),
    r: flag(CD.R),
    s,
  };
}

function decodeHalf(
  words: Uint32Array,
  features: SmmuV3Features,
  half: Half,
  disabled: boolean,
  bigEndian: boolean,
): Stage1Region | Illegal {
  if (disabled) return { table: null, topHi: 0, topLo: 0, had: false, e0pd: false, sh: 0 };
  const tg = readField(half.tg, words);
  const granule = half === LOWER ? granuleOfTg0(tg, features) : granuleOfTg1(tg, features);
  if (granule === null) return illegal(`${half.tg.name} selects no implemented granule`);
  const ds = features.ds && granule !== 16 && readField(CD.DS, words) !== 0;
  const tsz = readField(half.tsz, words);
  const most = features.stt ? (granule === 16 ? 47 : 48) : 39;
  const least = features.vax && (granule === 16 || ds) ? 12 : 16;
  if (tsz < least || tsz > most) return illegal(`${half.tsz.name} is out of range`);
  const outputBits = Math.min(ADDRESS_BITS[readField(CD.IPS, words)]!, features.oas);
  const ttb = readAddress(half.ttb, words);
  if (ttb >= 2 ** outputBits) return illegal(`${half.ttb.name} is outside of IPS`);
  if (ttb >= 2 ** 48 && granule !== 16 && !ds) return illegal(`${half.ttb.name} is outside of 48 bits`);
  return {
    table: tableGeometry({
      granuleBits: granule,
      inputBits: 64 - tsz,
      base: ttb,
      outputBits,
      physicalBits: features.oas,
      ds,
      bigEndian,
    }),
    ...topMasks(64 - tsz, readField(half.tbi, words) !== 0),
    had: features.had && readField(half.had, words) !== 0,
    e0pd: features.e0pd && readField(half.e0pd, words) !== 0,
    sh: readField(half.sh, words),
  };
}

function granuleOfTg1(tg: number, features: SmmuV3Features): GranuleBits | null {
  const bits = GRANULES[tg];
  return bits !== undefined && features.granules.has(bits) ? bits : null;
}
