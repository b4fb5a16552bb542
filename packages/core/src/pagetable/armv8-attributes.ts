// Memory attributes as both stages of VMSAv8-64 make them. One number holds them all: bits 7:0 in the encoding of a MAIR
// byte (outer attributes in 7:4, inner in 3:0; Device where 7:4 is 0), bits 9:8 the Shareability.
// DDI 0487 D8.6; IHI 0070G.b §13.1 where the SMMU differs.

export const SH = { NON: 0, OUTER: 2, INNER: 3 } as const;

/** Device types as MAIR bytes. */
export const DEVICE = { nGnRnE: 0x00, nGnRE: 0x04, nGRE: 0x08, GRE: 0x0c } as const;
export const NORMAL_NC = 0x44;
/** Normal, inner and outer Write-Back, Read-Allocate, Write-Allocate, not transient. */
export const NORMAL_WB = 0xff;

/** IHI 0070G.b §13.1.3: what a transaction has that comes without attributes. */
export const DEFAULT_INPUT = NORMAL_WB | (SH.NON << 8);

function isDevice(attributes: number): boolean {
  return (attributes & 0xf0) === 0;
}

/** Puts attributes together; the reserved Shareability 1 is Non-shareable, Device and iNC-oNC are Outer Shareable. */
export function attributes(mair: number, sh: number): number {
  const shareability = isDevice(mair) || mair === NORMAL_NC ? SH.OUTER : sh === 1 ? SH.NON : sh;
  return mair | (shareability << 8);
}

/**
 * A byte of CD.MAIR. What VMSAv8-64 leaves UNPREDICTABLE has a meaning in the SMMU (IHI 0070G.b §5.4, MAIR0 and MAIR1).
 */
export function decodeMair(byte: number): number {
  const upper = byte >>> 4;
  const lower = byte & 15;
  if (upper === 0) return lower & 0b1100;
  // An inner nibble of 0 with a Normal outer type is Write-Through Transient, Read- and Write-Allocate.
  const inner = lower === 0 ? 0b0011 : lower;
  return (upper << 4) | inner;
}

/** Stage 2 MemAttr[3:0] without FWB (DDI 0487 table D8-96) and STE.MemAttr; reserved values are Device-nGnRnE. */
export function decodeMemAttr(memAttr: number): number {
  const outer = memAttr >>> 2;
  const inner = memAttr & 3;
  if (outer === 0) return inner << 2;
  if (inner === 0) return DEVICE.nGnRnE;
  return (cacheability(outer) << 4) | cacheability(inner);
}

/** 1 Non-cacheable, 2 Write-Through, 3 Write-Back; stage 2 has no allocation hints, which is to say all of them. */
function cacheability(code: number): number {
  return code === 1 ? 0b0100 : code === 2 ? 0b1011 : 0b1111;
}

/** Whether a stage 2 descriptor's MemAttr[3:0] makes memory Device, for STE.S2PTW. */
export function stage2IsDevice(memAttr: number, fwb: boolean): boolean {
  return fwb ? (memAttr & 4) === 0 : isDevice(decodeMemAttr(memAttr));
}

const NC = 0;
const WT = 1;
const WB = 2;

/** Non-cacheable, Write-Through or Write-Back, from a nibble of a Normal MAIR byte. */
function kind(nibble: number): number {
  if (nibble === 0b0100) return NC;
  return (nibble & 4) === 0 ? WT : WB;
}

function isTransient(nibble: number): boolean {
  return nibble !== 0b0100 && (nibble & 8) === 0;
}

function makeNibble(of: number, hints: number, transient: boolean): number {
  if (of === NC) return 0b0100;
  // No allocation at all has no transient form: 0b0000 and 0b0100 mean something else.
  const lasting = !transient || hints === 0;
  return (of === WB ? 4 : 0) | (lasting ? 8 : 0) | hints;
}

/** Hints combine to fewer allocations; transient is the special case that wins (IHI 0070G.b §13.1.5). */
function combineNibble(a: number, b: number): number {
  const of = Math.min(kind(a), kind(b));
  if (of === NC) return 0b0100;
  const hints = a & b & 3;
  return makeNibble(of, hints, isTransient(a) || isTransient(b));
}

/** Combines two attributes: the stronger of each (tables D8-97 and D8-98; Shareability: outer before inner before none). */
export function combine(a: number, b: number): number {
  const sh = combineShareability(a >>> 8, b >>> 8);
  if (isDevice(a) || isDevice(b)) {
    if (!isDevice(a)) return attributes(b & 0xff, sh);
    if (!isDevice(b)) return attributes(a & 0xff, sh);
    return attributes(Math.min(a & 0xff, b & 0xff), sh);
  }
  const outer = combineNibble((a >>> 4) & 15, (b >>> 4) & 15);
  return attributes((outer << 4) | combineNibble(a & 15, b & 15), sh);
}

function combineShareability(a: number, b: number): number {
  if (a === SH.OUTER || b === SH.OUTER) return SH.OUTER;
  return a === SH.INNER || b === SH.INNER ? SH.INNER : SH.NON;
}

/**
 * Stage 2 without FWB, applied to what stage 1 (or the transaction) gives. `sh` is the descriptor's Shareability, or the
 * configured one with LPA2.
 */
export function applyStage2(input: number, memAttr: number, sh: number): number {
  return combine(input, attributes(decodeMemAttr(memAttr), sh));
}

/** Stage 2 with FWB (DDI 0487 AArch64.S2ApplyFWBMemAttrs(), tables D8-100 and D8-101). */
export function applyStage2Fwb(input: number, memAttr: number, sh: number): number {
  const shareability = combineShareability(input >>> 8, sh === 1 ? SH.NON : sh);
  if ((memAttr & 4) === 0) {
    const device = (memAttr & 3) << 2;
    return attributes(isDevice(input) ? Math.min(input & 0xff, device) : device, shareability);
  }
  const low = memAttr & 3;
  if (low === 3) return attributes(input & 0xff, shareability);
  if (low === 2) {
    const cached = (nibble: number): number =>
      isDevice(input) || kind(nibble) === NC ? 0b1111 : makeNibble(WB, nibble & 3, isTransient(nibble));
    return attributes((cached((input >>> 4) & 15) << 4) | cached(input & 15), shareability);
  }
  return attributes(isDevice(input) ? input & 0xff : NORMAL_NC, shareability);
}

/**
 * What stage 1 leaves of the attributes that came in: type and Shareability are the table's; where the input is
 * cacheable its allocation hints combine with the table's (IHI 0070G.b §13.4.2).
 */
export function applyStage1(input: number, table: number): number {
  if (isDevice(table) || isDevice(input)) return table;
  const mix = (from: number, own: number): number =>
    kind(own) === NC || kind(from) === NC
      ? own
      : makeNibble(kind(own), from & own & 3, isTransient(from) || isTransient(own));
  const outer = mix((input >>> 4) & 15, (table >>> 4) & 15);
  return attributes((outer << 4) | mix(input & 15, table & 15), table >>> 8);
}

/** Fields that STE and SMMU_GBPA have for overriding what a transaction brings (IHI 0070G.b §13.1.4). */
export interface AttributeOverrides {
  readonly mtcfg: boolean;
  readonly memAttr: number;
  /** 0b1RWT overrides the hints. */
  readonly alloccfg: number;
  /** 1 keeps the incoming Shareability. */
  readonly shcfg: number;
}

/** Applies overrides, and keeps the result consistent (§13.1.7). */
export function override(input: number, by: AttributeOverrides): number {
  let mair = input & 0xff;
  if (by.mtcfg) {
    const type = decodeMemAttr(by.memAttr);
    const keep = (from: number, own: number): number =>
      kind(own) === NC ? own : makeNibble(kind(own), kind(from) === NC ? 3 : from & 3, isTransient(from));
    mair = isDevice(type)
      ? type
      : isDevice(mair)
        ? type
        : (keep(mair >>> 4, type >>> 4) << 4) | keep(mair & 15, type & 15);
  }
  if (by.alloccfg & 8 && !isDevice(mair)) {
    // 0b1RWT; a MAIR nibble has R at bit 1 and W at bit 0.
    const hints = (by.alloccfg >>> 1) & 3;
    const transient = (by.alloccfg & 1) !== 0;
    const set = (nibble: number): number =>
      kind(nibble) === NC ? nibble : makeNibble(kind(nibble), hints, transient);
    mair = (set(mair >>> 4) << 4) | set(mair & 15);
  }
  return attributes(mair, by.shcfg === 1 ? input >>> 8 : by.shcfg);
}

const HINTS = ['no-allocate', 'write-allocate', 'read-allocate', 'read-write-allocate'];

/** Attributes for people to read, such as `Normal-iWB-oWB-ISH`. */
export function attributesName(of: number): string {
  const sh = ['NSH', '?', 'OSH', 'ISH'][(of >>> 8) & 3]!;
  if (isDevice(of)) return `Device-${['nGnRnE', 'nGnRE', 'nGRE', 'GRE'][(of >>> 2) & 3]!}`;
  const name = (nibble: number): string => {
    if (kind(nibble) === NC) return 'NC';
    const hints = nibble & 3;
    const extra =
      hints === 3 && !isTransient(nibble)
        ? ''
        : `/${HINTS[hints]!}${isTransient(nibble) ? '/transient' : ''}`;
    return `${kind(nibble) === WB ? 'WB' : 'WT'}${extra}`;
  };
  return `Normal-i${name(of & 15)}-o${name((of >>> 4) & 15)}-${sh}`;
}
