// A set-associative cache of translations in typed arrays, for IOTLBs and for caches of tables on the way to a leaf.
// Entries have any power-of-two size. What decides its cost is never how many entries it holds: a lookup or an
// invalidation by address probes one set per size that its domain has used, and a whole domain or address space is
// emptied by giving it a new number.

import { assert } from '../../base/assert.ts';
import { addressOf } from '../../pagetable/walk.ts';

/** Numbers that entries are tagged with. No two tags that live at the same time are alike. */
export class TagNumbers {
  readonly #first: number;
  #next: number;

  /** Numbers below `first` are never given. */
  constructor(first = 1) {
    this.#first = first;
    this.#next = first;
  }

  take(): number {
    assert(this.#next < 0x7fff_ffff, 'tags ran out: nobody looked at `low`');
    return this.#next++;
  }

  /** Few are left: it is time to empty the caches, to give every tag up and to {@link reset}. */
  get low(): boolean {
    return this.#next > 0x7f00_0000;
  }

  reset(): void {
    this.#next = this.#first;
  }
}

/** Entries that can be emptied together, and the sizes that they have had since that last happened. */
export class CacheDomain {
  // Numbers from the start: a field that was ever undefined is checked at every use.
  id = 0;
  /** What the number adds to the hash of an entry. */
  mix = 0;
  /** log2 of the bytes of entries, ascending: where entries overlap the smallest one is found. */
  readonly sizes = new Uint8Array(64);
  sizeCount = 0;
  /** The first of them, and what it leaves of an address, by word: most entries have it. */
  size = 0;
  maskHi = 0;
  maskLo = 0;

  constructor(id: number) {
    this.id = id;
    this.mix = Math.imul(id, 0x85eb_ca6b);
  }

  /** Makes every entry of the domain unreachable. */
  renew(id: number): void {
    this.id = id;
    this.mix = Math.imul(id, 0x85eb_ca6b);
    this.sizeCount = 0;
  }

  noteSize(size: number): void {
    let at = 0;
    while (at < this.sizeCount && this.sizes[at]! < size) at++;
    if (at < this.sizeCount && this.sizes[at] === size) return;
    for (let i = this.sizeCount++; i > at; i--) this.sizes[i] = this.sizes[i - 1]!;
    this.sizes[at] = size;
    if (at > 0) return;
    this.size = size;
    this.maskHi = MASK_HI[size]!;
    this.maskLo = MASK_LO[size]!;
  }
}

/** Matches entries of any address space of a domain. */
export const ANY_SPACE = -1;

const WAYS = 4;
const WAY_SHIFT = 2;
const PAGE_SHIFT = 12;
/**
 * Words of an entry. Its key: address 31:0 with the size in its low bits, address 63:32, domain, address space. What it
 * says lies beside it, so that a hit looks at one place in memory: where the entry's first byte leads, by word, and a word
 * of the owner's. The last one is free: rows of 32 bytes lie in one line of a processor's cache, or two.
 */
const ROW_SHIFT = 3;
/** Where the last row of all could begin: V8 cannot tell otherwise that places are not negative. */
const ROWS_MAX = 0x7fff_fff8;
const OUT_HI = 4;
const OUT_LO = 5;
const WORD = 6;

/** Powers of two: `**` is a call. */
export const POW2 = Float64Array.from({ length: 65 }, (_, bits) => 2 ** bits);
const MASK_LO = new Int32Array(65);
const MASK_HI = new Int32Array(65);
for (let size = 0; size <= 64; size++) {
  MASK_LO[size] = size === 0 ? -1 : size < 32 ? -1 << size : 0;
  MASK_HI[size] = size <= 32 ? -1 : size < 64 ? -1 << (size - 32) : 0;
}

/** Which entries an invalidation takes: those whose `info` has `value` under `mask`. */
export interface InfoFilter {
  readonly mask: number;
  readonly value: number;
}
const ALL: InfoFilter = { mask: 0, value: 0 };

const NO_ROWS = new Int32Array(0);

/** Where an address leads, and how many bytes from there on are mapped alike. */
export interface Located {
  pa: number;
  bytes: number;
}

export class TranslationCache {
  readonly capacity: number = 0;
  /** The entries, {@link ROW_SHIFT}. */
  readonly #rows: Int32Array = NO_ROWS;
  /** For the owner: what {@link InfoFilter} looks at. */
  readonly info: Uint8Array;
  /** Slots that invalidations have looked at, for measuring. */
  probed = 0;
  /** Called before a live entry gives way to another one. */
  onEvict: ((slot: number) => void) | null = null;
  readonly #victim: Uint8Array;
  readonly #mask: number = 0;
  /** log2 of the sets. */
  readonly #setBits: number = 0;

  /** `entries` is rounded up to a power of two, at least 4. */
  constructor(entries: number) {
    const setBits = Math.max(0, Math.ceil(Math.log2(Math.max(entries, WAYS) / WAYS)));
    this.capacity = WAYS << setBits;
    this.#mask = this.capacity - 1;
    this.#setBits = setBits;
    this.#rows = new Int32Array(this.capacity << ROW_SHIFT);
    this.#victim = new Uint8Array(1 << setBits);
    this.info = new Uint8Array(this.capacity);
  }

  clear(): void {
    this.#rows.fill(0);
  }

  /**
   * The home of an entry: the slot that it has where that is free; its set are the slots that differ in the two highest
   * bits. Pages that follow one another have neighbouring homes, as a device goes from one to the next, and no two of
   * as many pages as there are slots have the same one; what lies further away, larger entries, and other domains lie
   * anywhere: a product of what is above those pages.
   */
  #home(lo: number, hi: number, mix: number): number {
    const page = (lo >>> PAGE_SHIFT) ^ (hi << 20) ^ (hi >>> 12);
    return ((Math.imul((page & ~this.#mask) ^ mix, 0x9e37_79b1) >>> 14) ^ page) & this.#mask;
  }

  /**
   * Answers with where an address leads, where an entry covers it that is of the domain's smallest size and at home, as
   * most are, and whose word has `value`, which is not 0, under `mask`. Returns the word; 0 says nothing but that lookup()
   * has to be asked. Entries of more than 2^30 bytes must have words that do not answer. This much is small enough for V8
   * to make one piece of it and of who asks, and fastest where all give answers of one shape.
   */
  answer(
    domain: CacheDomain,
    space: number,
    other: number,
    hi: number,
    lo: number,
    mask: number,
    value: number,
    answer: Located,
  ): number {
    const rows = this.#rows;
    const slots = this.#mask;
    const low = (lo & domain.maskLo) | domain.size;
    const high = hi & domain.maskHi;
    // As #home().
    const page = (low >>> PAGE_SHIFT) ^ (high << 20) ^ (high >>> 12);
    const row =
      ((((Math.imul((page & ~slots) ^ domain.mix, 0x9e37_79b1) >>> 14) ^ page) & slots) << ROW_SHIFT) &
      ROWS_MAX;
    if (rows[row] !== low || rows[row + 1] !== high || rows[row + 2] !== domain.id) return 0;
    const tag = rows[row + 3];
    const word = rows[row + WORD]!;
    if ((tag !== space && tag !== other) || (word & mask) !== value) return 0;
    // Shifts take the size alone of it.
    const size = 1 << low;
    const offset = lo & (size - 1);
    answer.pa = rows[row + OUT_HI]! * 0x1_0000_0000 + ((rows[row + OUT_LO]! | offset) >>> 0);
    answer.bytes = size - offset;
    return word;
  }

  /** The slot of the entry that covers the address in `space` or in `other` (global entries; 0 for none), or -1. */
  lookup(domain: CacheDomain, space: number, other: number, hi: number, lo: number): number {
    const rows = this.#rows;
    const low = (lo & domain.maskLo) | domain.size;
    const high = hi & domain.maskHi;
    const home = this.#home(low, high, domain.mix);
    const key = home << ROW_SHIFT;
    if (rows[key] === low && rows[key | 1] === high && rows[key | 2] === domain.id) {
      const tag = rows[key | 3];
      if (tag === space || tag === other) return home;
    }
    return this.#search(domain, space, other, hi, lo);
  }

  #search(domain: CacheDomain, space: number, other: number, hi: number, lo: number): number {
    const rows = this.#rows;
    const setBits = this.#setBits;
    const { id, mix, sizes, sizeCount } = domain;
    for (let i = 0; i < sizeCount; i++) {
      const size = sizes[i]!;
      // As with MASK_LO and MASK_HI, which would be loads.
      const low = size < 32 ? (lo & (-1 << size)) | size : size;
      const high = size <= 32 ? hi | 0 : hi & MASK_HI[size]!;
      const home = this.#home(low, high, mix);
      for (let way = 0; way < WAYS; way++) {
        const slot = home ^ (way << setBits);
        const key = slot << ROW_SHIFT;
        if (rows[key] === low && rows[key | 1] === high && rows[key | 2] === id) {
          const tag = rows[key | 3];
          if (tag === space || tag === other) return slot;
        }
      }
    }
    return -1;
  }

  /** Takes a slot for the entry of `size` (log2 bytes, at least 6) that covers the address; the owner fills it. */
  insert(domain: CacheDomain, space: number, hi: number, lo: number, size: number): number {
    domain.noteSize(size);
    const rows = this.#rows;
    const low = (lo & MASK_LO[size]!) | size;
    const high = hi & MASK_HI[size]!;
    const { id } = domain;
    const home = this.#home(low, high, domain.mix);
    for (let way = 0; way < WAYS; way++) {
      const slot = home ^ (way << this.#setBits);
      const key = slot << ROW_SHIFT;
      if (rows[key] === low && rows[key | 1] === high && rows[key | 2] === id && rows[key | 3] === space) {
        return slot;
      }
    }
    return this.#take(home, low, high, id, space);
  }

  /** As insert(), where nothing in the domain and space covers the address: right after lookup() has said so. */
  place(domain: CacheDomain, space: number, hi: number, lo: number, size: number): number {
    domain.noteSize(size);
    const low = size < 32 ? (lo & (-1 << size)) | size : size;
    const high = size <= 32 ? hi | 0 : hi & MASK_HI[size]!;
    return this.#take(this.#home(low, high, domain.mix), low, high, domain.id, space);
  }

  /** The home of a new entry, or another slot of its set; where none is free its slots take turns. */
  #take(home: number, low: number, high: number, id: number, space: number): number {
    const rows = this.#rows;
    let slot = home;
    if (rows[(home << ROW_SHIFT) + 2] !== 0) slot = this.#makeRoom(home);
    const key = slot << ROW_SHIFT;
    rows[key] = low;
    rows[key | 1] = high;
    rows[key | 2] = id;
    rows[key | 3] = space;
    return slot;
  }

  #makeRoom(home: number): number {
    const rows = this.#rows;
    for (let way = 1; way < WAYS; way++) {
      const slot = home ^ (way << this.#setBits);
      if (rows[(slot << ROW_SHIFT) + 2] === 0) return slot;
    }
    const set = home & (this.#mask >>> WAY_SHIFT);
    const way = this.#victim[set]!;
    this.#victim[set] = (way + 1) & (WAYS - 1);
    const slot = set | (way << this.#setBits);
    if (this.onEvict !== null) this.onEvict(slot);
    return slot;
  }

  /**
   * Removes the entries that cover the address: of `space`, `second` and `third`, or of every space where `space` is
   * ANY_SPACE. Answers how many.
   */
  removeAddress(
    domain: CacheDomain,
    space: number,
    second: number,
    third: number,
    hi: number,
    lo: number,
    filter: InfoFilter = ALL,
  ): number {
    const rows = this.#rows;
    let removed = 0;
    this.probed += domain.sizeCount * WAYS;
    for (let i = 0; i < domain.sizeCount; i++) {
      const size = domain.sizes[i]!;
      const low = (lo & MASK_LO[size]!) | size;
      const high = hi & MASK_HI[size]!;
      const home = this.#home(low, high, domain.mix);
      for (let way = 0; way < WAYS; way++) {
        const slot = home ^ (way << this.#setBits);
        const key = slot << ROW_SHIFT;
        if (rows[key] !== low || rows[key | 1] !== high || rows[key | 2] !== domain.id) continue;
        const tag = rows[key | 3];
        if (space !== ANY_SPACE && tag !== space && tag !== second && tag !== third) continue;
        if ((this.info[slot]! & filter.mask) !== filter.value) continue;
        rows[key | 2] = 0;
        removed++;
      }
    }
    return removed;
  }

  /**
   * Removes the entries that touch the inclusive range: as removeAddress(). Probes page by page, or looks at every slot
   * where that is less work: either way no more than the capacity.
   */
  removeRange(
    domain: CacheDomain,
    space: number,
    second: number,
    third: number,
    range: AddressRange,
    filter: InfoFilter = ALL,
  ): number {
    let probes = 0;
    for (let i = 0; i < domain.sizeCount; i++) probes += pagesIn(range, domain.sizes[i]!);
    if (probes * WAYS > this.capacity)
      return this.#removeScanning(domain, space, second, third, range, filter);
    this.probed += probes * WAYS;
    let removed = 0;
    const rows = this.#rows;
    for (let i = 0; i < domain.sizeCount; i++) {
      const size = domain.sizes[i]!;
      const pages = pagesIn(range, size);
      let hi = range.startHi & MASK_HI[size]!;
      let lo = range.startLo & MASK_LO[size]!;
      for (let page = 0; page < pages; page++) {
        const low = lo | size;
        const home = this.#home(low, hi, domain.mix);
        for (let way = 0; way < WAYS; way++) {
          const slot = home ^ (way << this.#setBits);
          const key = slot << ROW_SHIFT;
          if (rows[key] !== low || rows[key | 1] !== hi || rows[key | 2] !== domain.id) continue;
          const tag = rows[key | 3];
          if (space !== ANY_SPACE && tag !== space && tag !== second && tag !== third) continue;
          if ((this.info[slot]! & filter.mask) !== filter.value) continue;
          rows[key | 2] = 0;
          removed++;
        }
        if (size >= 32) hi = (hi + (1 << (size - 32))) | 0;
        else {
          const next = (lo + (1 << size)) | 0;
          if (next >>> 0 < lo >>> 0) hi = (hi + 1) | 0;
          lo = next;
        }
      }
    }
    return removed;
  }

  #removeScanning(
    domain: CacheDomain,
    space: number,
    second: number,
    third: number,
    range: AddressRange,
    filter: InfoFilter,
  ): number {
    const rows = this.#rows;
    this.probed += this.capacity;
    let removed = 0;
    for (let slot = 0; slot < this.capacity; slot++) {
      const key = slot << ROW_SHIFT;
      if (rows[key | 2] !== domain.id) continue;
      const tag = rows[key | 3];
      if (space !== ANY_SPACE && tag !== space && tag !== second && tag !== third) continue;
      if ((this.info[slot]! & filter.mask) !== filter.value) continue;
      const size = rows[key]! & 63;
      const low = rows[key]! & ~63;
      const high = rows[key | 1]!;
      if (!below(high, low, range.lastHi, range.lastLo)) continue;
      if (!below(range.startHi, range.startLo, high | ~MASK_HI[size]!, low | ~MASK_LO[size]!)) continue;
      rows[key | 2] = 0;
      removed++;
    }
    return removed;
  }

  /** Says what the entry in a slot does: the output address of its first byte, by word, and the owner's words. */
  fill(slot: number, outHi: number, outLo: number, word: number): void {
    const rows = this.#rows;
    const row = slot << ROW_SHIFT;
    rows[row | OUT_HI] = outHi;
    rows[row | OUT_LO] = outLo;
    rows[row | WORD] = word;
  }

  outHi(slot: number): number {
    return this.#rows[(slot << ROW_SHIFT) | OUT_HI]!;
  }

  outLo(slot: number): number {
    return this.#rows[(slot << ROW_SHIFT) | OUT_LO]!;
  }

  out(slot: number): number {
    return addressOf(this.outHi(slot), this.outLo(slot));
  }

  wordOf(slot: number): number {
    return this.#rows[(slot << ROW_SHIFT) | WORD]!;
  }

  /** The domain's number of a slot; 0 where the slot is free. */
  domainOf(slot: number): number {
    return this.#rows[(slot << ROW_SHIFT) + 2]!;
  }

  spaceOf(slot: number): number {
    return this.#rows[(slot << ROW_SHIFT) + 3]!;
  }

  /** log2 of the bytes that an entry covers. */
  sizeOf(slot: number): number {
    return this.#rows[slot << ROW_SHIFT]! & 63;
  }

  /** The first address that an entry covers, as two u32. */
  addressHi(slot: number): number {
    return this.#rows[(slot << ROW_SHIFT) + 1]! >>> 0;
  }

  addressLo(slot: number): number {
    return (this.#rows[slot << ROW_SHIFT]! & ~63) >>> 0;
  }
}

/** What a field is before it is set: one that was ever undefined is checked at every use. */
export const NO_CACHE = new TranslationCache(0);

/** An inclusive range of u64, in words. */
export interface AddressRange {
  readonly startHi: number;
  readonly startLo: number;
  readonly lastHi: number;
  readonly lastLo: number;
}

/**
 * The range of `bytes` (exact in a number) from an address on. It ends at 2^64 - 1 where it would pass that: addresses
 * do not wrap (IHI 0070G.b §4.4.1.1).
 */
export function addressRange(startHi: number, startLo: number, bytes: number): AddressRange {
  const offset = bytes - 1;
  const low = (startLo >>> 0) + (offset % 0x1_0000_0000);
  const high = (startHi >>> 0) + Math.floor(offset / 0x1_0000_0000) + (low > 0xffff_ffff ? 1 : 0);
  if (high > 0xffff_ffff) return { startHi, startLo, lastHi: -1, lastLo: -1 };
  return { startHi, startLo, lastHi: high | 0, lastLo: low | 0 };
}

/** True when the first address is not above the second. */
function below(hi: number, lo: number, thanHi: number, thanLo: number): boolean {
  return hi === thanHi ? lo >>> 0 <= thanLo >>> 0 : hi >>> 0 < thanHi >>> 0;
}

/** How many naturally aligned blocks of 2^size bytes the range touches. */
function pagesIn(range: AddressRange, size: number): number {
  return pageIndex(range.lastHi, range.lastLo, size) - pageIndex(range.startHi, range.startLo, size) + 1;
}

function pageIndex(hi: number, lo: number, size: number): number {
  if (size >= 64) return 0;
  if (size >= 32) return (hi >>> 0) >>> (size - 32);
  return (hi >>> 0) * POW2[32 - size]! + (lo >>> size);
}
