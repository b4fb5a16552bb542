// What a line of VT-d's has to bring about, read from its structures in memory alone (Intel D51397 rev 5.10 §3, §7.1.3
// Table 30, §9): it knows nothing of viommu's model. With laxities it says what comes of leaving rules out, or of more.

export interface VtdLine {
  readonly rid: number;
  readonly mode: 'legacy' | 'scalable';
  readonly root: string;
  readonly iova: string;
  readonly pa: string;
  readonly mem: readonly (readonly [address: string, word: string])[];
}

/** Rules that are left out, or are others. */
export interface Laxities {
  /** A scalable-mode root entry's reserved bits count in the half of the other devices too. */
  readonly otherHalf: boolean;
  /** Reserved bits of scalable-mode context entries do not count; */
  readonly contextReserved: boolean;
  /** nor those of PASID directory and table entries, */
  readonly pasidReserved: boolean;
  /** nor the host address width where addresses pass through, */
  readonly passWidth: boolean;
  /** nor that Accessed and Dirty cannot be set. */
  readonly accessed: boolean;
  /** SSPTPTR is judged although addresses pass through. */
  readonly passPointer: boolean;
  /** A PASID entry's type is judged before whether it is present. */
  readonly typeFirst: boolean;
  /** Each level's permissions are judged before what is below it. */
  readonly eachLevel: boolean;
  /** FPD of an entry that is at fault itself does not count, nor that of the directory for a PASID entry's fault. */
  readonly ownDisable: boolean;
  /** Input addresses of the first stage are as wide as AW says, whatever levels the tables have. */
  readonly firstWidth: boolean;
}

export const STRICT: Laxities = {
  otherHalf: false,
  contextReserved: false,
  pasidReserved: false,
  passWidth: false,
  accessed: false,
  passPointer: false,
  typeFirst: false,
  eachLevel: false,
  ownDisable: false,
  firstWidth: false,
};

/** Where the write goes, or the fault reason of Table 30 and whether it is recorded. */
export type VtdOutcome = { readonly at: bigint } | { readonly reason: number; readonly recorded: boolean };

export const RAM_END = 0x4000_0000n;
/** Of QEMU's model: host addresses, and guest ones (CAP.MGAW). */
export const WIDTH = 48n;
/** CAP.SAGAW: 3 and 4 levels, which AW names 1 and 2. */
const WIDTHS = [1n, 2n];
const PRESENT = 1n;
const FPD = 1n << 1n;
const WRITE = 2n;
const USER = 4n;
const ACCESSED = 1n << 5n;
const DIRTY = 1n << 6n;
const PAGE_SIZE = 1n << 7n;
const POINTER = ~0xfffn;
const TT_PASS = 2n;
const PGTT = { FIRST: 1n, PASS: 4n } as const;

const bits = (high: number, low: number): bigint => ((1n << BigInt(high - low + 1)) - 1n) << BigInt(low);
const ABOVE_WIDTH = bits(63, Number(WIDTH));
const ABOVE_WIDTH_OF_ENTRY = bits(51, Number(WIDTH));

// Reserved bits by word, with the features that QEMU's model has.
const ROOT = bits(11, 1) | ABOVE_WIDTH;
const CONTEXT = [bits(11, 4), (1n << 7n) | bits(63, 24)] as const;
const SCALABLE_CONTEXT = [bits(8, 2) | ABOVE_WIDTH, bits(63, 0), bits(63, 0), bits(63, 0)] as const;
const DIRECTORY = bits(11, 2) | ABOVE_WIDTH;
// Neither second stage nor snooped or supervisors' tables, nor memory types, nor host permissions.
const PASID = [
  (1n << 5n) | bits(63, 9),
  bits(63, 16),
  bits(1, 0) | bits(11, 7) | ABOVE_WIDTH,
  ...Array.from({ length: 5 }, () => bits(63, 0)),
];

/** What ends a translation. */
class Refused extends Error {
  readonly reason: number;
  constructor(reason: number) {
    super(`fault reason ${reason.toString(16)}h`);
    this.reason = reason;
  }
}

function refuse(reason: number): never {
  throw new Refused(reason);
}

/** What comes of the line's DMA write. */
export function judge(line: VtdLine, lax: Laxities): VtdOutcome {
  const reader = new Reader(line, lax);
  try {
    return { at: reader.translate() };
  } catch (ended) {
    if (ended instanceof Refused) return { reason: ended.reason, recorded: !reader.disabled };
    throw ended;
  }
}

class Reader {
  /** FPD of an entry on the way: what follows is not recorded, but for entries that cannot be read. */
  disabled = false;
  readonly #line: VtdLine;
  readonly #lax: Laxities;
  readonly #memory: ReadonlyMap<bigint, bigint>;
  readonly #iova: bigint;

  constructor(line: VtdLine, lax: Laxities) {
    this.#line = line;
    this.#lax = lax;
    this.#iova = BigInt(line.iova);
    this.#memory = new Map(
      line.mem.map(([address, word]) => [
        BigInt(address),
        BigInt(`0x${word.match(/../g)!.toReversed().join('')}`),
      ]),
    );
  }

  translate(): bigint {
    return this.#line.mode === 'legacy' ? this.#legacy() : this.#scalable();
  }

  /** Words of a structure; `reason` where memory has none there. */
  #load(at: bigint, count: number, reason: number): bigint[] {
    if (at + BigInt(count) * 8n > RAM_END) refuse(reason);
    return Array.from({ length: count }, (_, i) => this.#memory.get(at + BigInt(i) * 8n) ?? 0n);
  }

  /** The same, of what is recorded whatever FPD says (SPD.1, SPT.1). */
  #loadAnyway(at: bigint, count: number, reason: number): bigint[] {
    const { disabled } = this;
    this.disabled = false;
    const words = this.#load(at, count, reason);
    this.disabled = disabled;
    return words;
  }

  #legacy(): bigint {
    const { rid, root } = this.#line;
    const [rootLow, rootHigh] = this.#load(BigInt(root) + BigInt(rid >> 8) * 16n, 2, 0x08);
    if ((rootLow! & PRESENT) === 0n) refuse(0x01);
    if (((rootLow! & ROOT) | rootHigh!) !== 0n) refuse(0x0a);
    const at = (rootLow! & POINTER) + BigInt(rid & 0xff) * 16n;
    const [low, high] = this.#load(at, 2, 0x09);
    const disable = (low! & FPD) !== 0n;
    this.disabled = disable && !this.#lax.ownDisable;
    if ((low! & PRESENT) === 0n) refuse(0x02);
    const type = (low! >> 2n) & 3n;
    if (((low! & CONTEXT[0]) | (high! & CONTEXT[1])) !== 0n) refuse(0x0b);
    if ((type !== TT_PASS || this.#lax.passPointer) && (low! & ABOVE_WIDTH) !== 0n) refuse(0x0b);
    const aw = high! & 7n;
    // Neither TT 1, without Device-TLBs, nor 3.
    if (!WIDTHS.includes(aw) || (type & 1n) !== 0n) refuse(0x03);
    this.disabled = disable;
    if (type === TT_PASS) return this.#pass(0x04);
    return this.#second(low! & POINTER & ~ABOVE_WIDTH, Number(aw) + 2);
  }

  #scalable(): bigint {
    const { rid, root } = this.#line;
    const halves = this.#load(BigInt(root) + BigInt(rid >> 8) * 16n, 2, 0x38);
    const own = (rid >> 7) & 1;
    if ((halves[own]! & PRESENT) === 0n) refuse(0x39);
    const judged = this.#lax.otherHalf ? halves[0]! | halves[1]! : halves[own]!;
    if ((judged & ROOT) !== 0n) refuse(0x3a);
    const context = this.#load((halves[own]! & POINTER) + BigInt(rid & 0x7f) * 32n, 4, 0x40);
    const disable = (context[0]! & FPD) !== 0n;
    this.disabled = disable && !this.#lax.ownDisable;
    if ((context[0]! & PRESENT) === 0n) refuse(0x41);
    if (!this.#lax.contextReserved && context.some((word, i) => (word & SCALABLE_CONTEXT[i]!) !== 0n))
      refuse(0x42);
    this.disabled = disable;
    const pasid = this.#pasidEntry(context[0]! & POINTER & ~ABOVE_WIDTH);
    if ((pasid[0]! >> 6n) % 8n === PGTT.PASS) return this.#pass(0x83);
    const width = 30 + 9 * Number((pasid[0]! >> 2n) & 7n);
    return this.#first(
      pasid[2]! & POINTER,
      this.#lax.firstWidth ? Math.min(width, Number(WIDTH)) : Number(WIDTH),
    );
  }

  /** The PASID table entry of PASID 0. */
  #pasidEntry(directory: bigint): bigint[] {
    const reserved = !this.#lax.pasidReserved;
    const [entry] = this.#loadAnyway(directory, 1, 0x50);
    const before = this.disabled;
    const disable = before || (entry! & FPD) !== 0n;
    this.disabled = this.#lax.ownDisable ? before : disable;
    if ((entry! & PRESENT) === 0n) refuse(0x51);
    if (reserved && (entry! & DIRECTORY) !== 0n) refuse(0x52);
    this.disabled = disable;
    const pasid = this.#loadAnyway(entry! & POINTER, 8, 0x58);
    const disablePasid = disable || (pasid[0]! & FPD) !== 0n;
    this.disabled = this.#lax.ownDisable ? before : disablePasid;
    const type = (pasid[0]! >> 6n) & 7n;
    const known = type === PGTT.FIRST || type === PGTT.PASS;
    // FSPM: tables of four levels.
    const usable = known && !(type === PGTT.FIRST && ((pasid[2]! >> 2n) & 3n) !== 0n);
    if (this.#lax.typeFirst && !usable) refuse(0x5b);
    if ((pasid[0]! & PRESENT) === 0n) refuse(0x59);
    if (reserved && pasid.some((word, i) => (word & PASID[i]!) !== 0n)) refuse(0x5a);
    if (!usable) refuse(0x5b);
    this.disabled = disablePasid;
    return pasid;
  }

  /** §3.9 */
  #pass(reason: number): bigint {
    if (!this.#lax.passWidth && this.#iova >> WIDTH !== 0n) refuse(reason);
    return this.#iova;
  }

  /** §3.7, §9.8: an entry that grants nothing is none. */
  #second(root: bigint, levels: number): bigint {
    const width = Math.min(Number(WIDTH), 12 + 9 * levels);
    if (this.#iova >> BigInt(width) !== 0n) refuse(0x04);
    let table = root;
    let allowed = true;
    for (let level = levels; ; level--) {
      const shift = BigInt(3 + 9 * level);
      const entry = this.#entry(table, shift, level === levels ? 0x03 : 0x07);
      if ((entry & 3n) === 0n || (this.#lax.eachLevel && (entry & WRITE) === 0n)) refuse(0x05);
      const leaf = level === 1 || (level <= 3 && (entry & PAGE_SIZE) !== 0n);
      // SNP, and IW that does not count.
      let reserved = ABOVE_WIDTH_OF_ENTRY | (1n << 62n) | (1n << 11n);
      if (leaf) reserved |= (1n << shift) - 0x1000n;
      else reserved |= PAGE_SIZE;
      if ((entry & reserved) !== 0n) refuse(0x0c);
      allowed &&= (entry & WRITE) !== 0n;
      if (leaf && !allowed) refuse(0x05);
      if (leaf) return this.#output(entry, shift);
      table = entry & POINTER & ~ABOVE_WIDTH_OF_ENTRY & bits(51, 0);
    }
  }

  /** §3.6, §9.7 */
  #first(root: bigint, width: number): bigint {
    const top = this.#iova >> BigInt(width - 1);
    if (top !== 0n && top !== bits(64 - width, 0)) refuse(0x80);
    let table = root;
    let rights = USER | WRITE;
    for (let level = 4; ; level--) {
      const shift = BigInt(3 + 9 * level);
      const entry = this.#entry(table, shift, level === 4 ? 0x73 : 0x70);
      if ((entry & PRESENT) === 0n) refuse(0x71);
      const leaf = level === 1 || (level <= 3 && (entry & PAGE_SIZE) !== 0n);
      if (this.#lax.eachLevel) this.#permit(entry);
      // Bit 12 of a large page is PAT's.
      const reserved = leaf ? ((1n << shift) - 0x1000n) & ~0x1000n : PAGE_SIZE;
      if ((entry & (ABOVE_WIDTH_OF_ENTRY | reserved)) !== 0n) refuse(0x72);
      rights &= entry;
      if (leaf) this.#permit(rights);
      const flags = leaf ? ACCESSED | DIRTY : ACCESSED;
      if (!this.#lax.accessed && (entry & flags) !== flags) refuse(0x90);
      if (leaf) return this.#output(entry, shift);
      table = entry & POINTER & bits(51, 0);
    }
  }

  /** A user's write. */
  #permit(rights: bigint): void {
    if ((rights & USER) === 0n) refuse(0x81);
    if ((rights & WRITE) === 0n) refuse(0x85);
  }

  #entry(table: bigint, shift: bigint, reason: number): bigint {
    return this.#load(table + ((this.#iova >> shift) & 0x1ffn) * 8n, 1, reason)[0]!;
  }

  #output(entry: bigint, shift: bigint): bigint {
    const within = (1n << shift) - 1n;
    return (entry & bits(51, 12) & ~within) | (this.#iova & within);
  }
}
