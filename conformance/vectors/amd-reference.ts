// What a line of AMD's has to bring about, read from its device table entry and its tables alone (AMD 48882 §2.2.2,
// §2.2.3, §2.5): it knows nothing of viommu's model. With laxities it says what comes of leaving rules out.

export interface AmdLine {
  readonly rid: number;
  readonly dte: string;
  readonly iova: string;
  readonly pa: string;
  readonly mem: readonly (readonly [address: string, word: string])[];
}

/** Rules that are left out. */
export interface Laxities {
  /** IR and IW of the DTE and of directory entries do not count, while they have anything in common or Mode is 0; */
  readonly directoryPermissions: boolean;
  /** nor reserved bits of page table entries, */
  readonly reservedBits: boolean;
  /** which sizes a page may have at its level, */
  readonly pageSizes: boolean;
  /** that address bits are zero which a level would resolve that is left out, */
  readonly skippedLevels: boolean;
  /** DTE.SA, */
  readonly suppression: boolean;
  /** fields of a DTE that make it illegal, but for bits 6:2 and 63. */
  readonly entryFields: boolean;
  /** Bits 255:128 of a DTE are judged for memory accesses too. */
  readonly interruptHalf: boolean;
  /** Bits 6:2 and 63 of a DTE are judged where V is 0. */
  readonly invalidEntry: boolean;
  /** A DTE without translation information denies without an event, */
  readonly untranslatable: boolean;
  /** and so does one whose Mode is reserved. */
  readonly reservedMode: boolean;
}

export const STRICT: Laxities = {
  directoryPermissions: false,
  reservedBits: false,
  pageSizes: false,
  skippedLevels: false,
  suppression: false,
  entryFields: false,
  interruptHalf: false,
  invalidEntry: false,
  untranslatable: false,
  reservedMode: false,
};

/** What becomes of the write. */
export type AmdOutcome =
  | { readonly kind: 'landed' | 'table-error'; readonly at: bigint }
  | { readonly kind: 'silent' }
  | { readonly kind: 'page-fault'; readonly pr: boolean; readonly pe: boolean; readonly rz: boolean }
  | { readonly kind: 'illegal'; readonly rz: boolean };

export const RAM_END = 0x4000_0000n;
const V = 1n;
const TV = 1n << 1n;
const GIOV = 1n << 54n;
const GV = 1n << 55n;
const GLX_SHIFT = 56n;
const HAD = 3n << 7n;
const IR = 1n << 61n;
const IW = 1n << 62n;
const NO_FIELD = (1n << 63n) | (0x1fn << 2n);
const SA = 1n << 34n;
const IO_CTL_SHIFT = 35n;
const SATS = 1n << 42n;
/** In 191:128. */
const GUEST_PAGING_SHIFT = 54n;
/** What QEMU knows as reserved of 191:128 and 255:192. */
const INTERRUPT_HALF = [3n << 52n, 0x7fffn | (0x3fn << 48n)] as const;
const PRESENT = 1n;
const ADDRESS = 0xf_ffff_ffff_f000n;
const LEVEL_SHIFT = 9n;
const MODE_RESERVED = 7;
const LEVELS_MAX = 6;
const LEAF = 0;
const SIZED = 7;
const LEAF_RESERVED = 0x7fn << 52n;
const DIRECTORY_RESERVED = 0x1ffn << 52n;

function wordOf(hex: string): bigint {
  return BigInt(`0x${hex.match(/../g)!.toReversed().join('')}`);
}

/** The device table entry: four words. */
export function entryOf({ dte }: AmdLine): readonly [bigint, bigint, bigint, bigint] {
  const [a, b, c, d] = dte.match(/.{16}/g)!.map(wordOf);
  return [a!, b!, c!, d!];
}

const levelOf = (entry: bigint): number => Number((entry >> LEVEL_SHIFT) & 7n);
const fault = (pr: boolean, pe = false, rz = false): AmdOutcome => ({ kind: 'page-fault', pr, pe, rz });

/** What comes of the line's DMA write. */
export function judge(line: AmdLine, lax: Laxities): AmdOutcome {
  const dte = entryOf(line);
  const iova = BigInt(line.iova);
  if (lax.interruptHalf && ((dte[2] & INTERRUPT_HALF[0]) | (dte[3] & INTERRUPT_HALF[1])) !== 0n)
    return { kind: 'illegal', rz: true };
  const valid = (dte[0] & V) !== 0n;
  if ((valid || lax.invalidEntry) && (dte[0] & NO_FIELD) !== 0n) return { kind: 'illegal', rz: true };
  if (!valid) return { kind: 'landed', at: iova };
  const illegal = lax.entryFields ? null : judgeFields(dte);
  if (illegal !== null) return illegal;
  const outcome = translate(line, dte[0], iova, lax);
  // §2.2.2, SA: page faults alone.
  const suppressed = outcome.kind === 'page-fault' && !lax.suppression && (dte[1] & SA) !== 0n;
  return suppressed ? { kind: 'silent' } : outcome;
}

/** §2.5.2, for EFR of QEMU's model: no HASup, GIoSup, SATSSup; GLXSup is 0, and GuestPagingMode has 0 and 1. */
function judgeFields([low, high, third]: readonly [bigint, bigint, bigint, bigint]): AmdOutcome | null {
  if ((low & (HAD | GIOV)) !== 0n || (high & SATS) !== 0n) return { kind: 'illegal', rz: true };
  if (((high >> IO_CTL_SHIFT) & 3n) === 3n) return { kind: 'illegal', rz: false };
  const guest = (low & (TV | GV)) === (TV | GV);
  const reserved = ((low >> GLX_SHIFT) & 3n) !== 0n || ((third >> GUEST_PAGING_SHIFT) & 3n) > 1n;
  return guest && reserved ? { kind: 'illegal', rz: false } : null;
}

/** §2.2.2, table 8, and §2.2.3. */
function translate(line: AmdLine, dte: bigint, iova: bigint, lax: Laxities): AmdOutcome {
  if ((dte & TV) === 0n) return lax.untranslatable ? { kind: 'silent' } : fault(false);
  const mode = levelOf(dte);
  if (mode === MODE_RESERVED) return lax.reservedMode ? { kind: 'silent' } : fault(true);
  const allowed = (dte & (lax.directoryPermissions ? IR | IW : IW)) !== 0n;
  if (mode === 0 && (allowed || lax.directoryPermissions)) return { kind: 'landed', at: iova };
  if (!allowed) return fault(true, true);
  if (mode < LEVELS_MAX && iova >> BigInt(12 + 9 * mode) !== 0n) return fault(false);
  return walk(line, dte, mode, iova, lax);
}

function walk(line: AmdLine, dte: bigint, mode: number, iova: bigint, lax: Laxities): AmdOutcome {
  const memory = new Map(line.mem.map(([address, word]) => [BigInt(address), wordOf(word)]));
  let common = dte & (IR | IW);
  let table = dte & ADDRESS;
  for (let level = mode; ;) {
    const at = table + ((iova >> BigInt(3 + 9 * level)) & 0x1ffn) * 8n;
    if (at >= RAM_END) return { kind: 'table-error', at };
    const entry = memory.get(at) ?? 0n;
    if ((entry & PRESENT) === 0n) return fault(false);
    const next = levelOf(entry);
    if (next === LEAF || next === SIZED) {
      const allowed = lax.directoryPermissions || (common & IW) !== 0n;
      return leaf(entry, level, iova, allowed, lax);
    }
    if (next >= level) return fault(true);
    if (!lax.reservedBits && (entry & DIRECTORY_RESERVED) !== 0n) return fault(true, false, true);
    const skipped = (iova >> BigInt(12 + 9 * next)) & ((1n << BigInt(9 * (level - 1 - next))) - 1n);
    if (!lax.skippedLevels && skipped !== 0n) return fault(true);
    common &= entry;
    if (lax.directoryPermissions && common === 0n) return nothingInCommon(entry, level, iova);
    table = entry & ADDRESS;
    level = next;
  }
}

/** The directory entry is taken for a page of the size below. */
function nothingInCommon(entry: bigint, level: number, iova: bigint): AmdOutcome {
  if ((entry & IW) === 0n) return fault(true, true);
  const within = (1n << BigInt(9 * level - 6)) - 1n;
  return { kind: 'landed', at: (entry & ADDRESS & ~within) | (iova & within) };
}

function leaf(entry: bigint, level: number, iova: bigint, allowed: boolean, lax: Laxities): AmdOutcome {
  const own = 3 + 9 * level;
  if (!lax.pageSizes && level === LEVELS_MAX) return fault(true);
  if (!lax.reservedBits && (entry & LEAF_RESERVED) !== 0n) return fault(true, false, true);
  const bits = levelOf(entry) === SIZED ? sizeOf(entry) : own;
  if (!lax.pageSizes && bits !== own && (bits < own || bits >= own + 9)) return fault(true);
  // Next Level 7 says a size that Next Level 0 has not.
  if (!lax.pageSizes && bits === own && levelOf(entry) === SIZED) return fault(true);
  if (!allowed || (entry & IW) === 0n) return fault(true, true);
  const within = (1n << BigInt(bits)) - 1n;
  return { kind: 'landed', at: (entry & ADDRESS & ~within) | (iova & within) };
}

/** §2.2.3, table 14: log2 of the bytes. */
function sizeOf(entry: bigint): number {
  let bits = 13;
  for (let address = (entry & ADDRESS) >> 12n; (address & 1n) !== 0n; address >>= 1n) bits++;
  return bits;
}
