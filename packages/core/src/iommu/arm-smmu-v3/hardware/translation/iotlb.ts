// The IOTLB (§3.17, §16.2). Four caches: VA translations (through both stages where both are in use), the parts that a
// stage 1 block falls into where stage 2 maps it in smaller pieces, IPA translations, and tables on the way to leaves.
// Every entry belongs to a translation regime: a VMID of NS-EL1, NS-EL2 or NS-EL2-E2H.

import {
  ANY_SPACE,
  type AddressRange,
  CacheDomain,
  type InfoFilter,
  TagNumbers,
  TranslationCache,
} from '../../../caches/cache.ts';
import { TableStore } from '../../../caches/cache-tables.ts';
import { CACHED_LEVEL } from '../../../../pagetable/armv8.ts';
import type { Trace } from '../../../../trace/trace.ts';
import type { Context } from '../configuration/context.ts';
import { WORLD, type World } from '../configuration/stream-config.ts';

/** A number that entries of one address space carry; a new one makes them unreachable. */
export interface Tag {
  id: number;
}

/** What one VMID (or EL2) has in the caches. */
export interface Regime {
  readonly world: World;
  readonly vmid: number;
  readonly va: CacheDomain;
  readonly parts: CacheDomain;
  readonly ipa: CacheDomain;
  readonly vaTables: CacheDomain;
  readonly ipaTables: CacheDomain;
  readonly asids: Map<number, Tag>;
  /** Global entries, by CD.ASET: they match any ASID of their set (§3.17.1). */
  readonly globals: readonly [Tag, Tag];
}

/** PERM bits of stage 2 in an entry's permissions. */
export const STAGE2_SHIFT = 6;

/** Entry flags. */
export const ENTRY = {
  /** A write must first make the stage 1 descriptor dirty; the stage 2 one. */
  CLEAN1: 1,
  CLEAN2: 2,
  /** Went through stage 2. */
  NESTED: 4,
  /** Stage 2 maps the stage 1 leaf in smaller pieces: `out` is an IPA, and the parts cache has the rest. */
  SPLIT: 8,
} as const;

/** A cache with what its entries say, by slot. */
export class TlbStore {
  /** An entry's WORD is all that a hit mostly needs: see fastWord(). */
  readonly cache: TranslationCache;
  /** The IPA in between, of nested entries. */
  readonly ipa: Float64Array;
  /** PERM bits of stage 1 in 5:0, of stage 2 in 11:6. */
  readonly permissions: Uint16Array;
  readonly flags: Uint8Array;
  /** The resulting attributes for a transaction without any of its own. */
  readonly attributes: Uint16Array;
  /** Stage 1's attributes; stage 2's MemAttr in 3:0, Shareability in 5:4, FWB in 6. */
  readonly stage1: Uint16Array;
  readonly stage2: Uint8Array;
  /** The space in the parts cache, of split entries. */
  readonly part: Int32Array;

  constructor(entries: number) {
    this.cache = new TranslationCache(entries);
    const { capacity } = this.cache;
    this.ipa = new Float64Array(capacity);
    this.permissions = new Uint16Array(capacity);
    this.flags = new Uint8Array(capacity);
    this.attributes = new Uint16Array(capacity);
    this.stage1 = new Uint16Array(capacity);
    this.stage2 = new Uint8Array(capacity);
    this.part = new Int32Array(capacity);
  }
}

/** In a fast word: the entry has more to it than the word tells. */
export const SLOW = 1 << 6;

/**
 * PERM bits that every stage grants in 5:0, in 31:16 the attributes for a transaction without any of its own. Clean
 * pages, and what is larger than TranslationCache.answer() takes, are SLOW.
 */
export function fastWord(permissions: number, sizeBits: number, attributes: number, clean: boolean): number {
  return clean || sizeBits > 30 ? SLOW : permissions | (attributes << 16);
}

/** `info` of an entry: the granule as CMD_TLBI_* encodes TG in 1:0, the level in 3:2. */
export function entryInfo(granuleBits: number, level: number): number {
  return ((granuleBits - 10) >>> 1) | (Math.max(level, 0) << 2);
}

/** The same of tables, by TableCache's levels: for each granule one array. */
export function tableInfo(granuleBits: number): Uint8Array {
  return TABLE_INFO[(granuleBits - 12) >>> 1]!;
}
const TABLE_INFO = [12, 14, 16].map((granuleBits) =>
  Uint8Array.from({ length: 8 }, (_, level) => entryInfo(granuleBits, level - CACHED_LEVEL)),
);

/** Which entries a command with TG and TTL has to take (§4.4.1.1). */
export interface TlbScope {
  readonly leafOnly: boolean;
  readonly tg: number;
  readonly ttl: number;
}
const NO_REGIME: readonly Regime[] = [];
const EVERYTHING: InfoFilter = { mask: 0, value: 0 };

/** Regimes and address spaces that are remembered before the whole IOTLB starts over. */
const SPACES_MAX = 1 << 16;
/** IPA entries have one address space per regime. */
export const IPA_SPACE = 1;

export class Iotlb {
  readonly leaves: TlbStore;
  readonly parts: TlbStore;
  readonly ipas: TlbStore;
  readonly tables: TableStore | null;
  /** Called when every tag has been given up: whoever keeps regimes or tags must look them up again. */
  onStartOver: (() => void) | null = null;
  readonly #numbers = new TagNumbers(IPA_SPACE + 1);
  readonly #regimes = new Map<number, Regime>();
  readonly #one: Regime[] = [];
  #spaces = 0;

  constructor(entries: number, tables: boolean, trace: Trace | null) {
    this.leaves = new TlbStore(entries);
    this.parts = new TlbStore(entries);
    this.ipas = new TlbStore(entries);
    this.tables = tables ? new TableStore(entries) : null;
    if (trace === null) return;
    traceEvictions(trace, 'iotlb', this.leaves.cache);
    traceEvictions(trace, 'iotlb', this.parts.cache);
    traceEvictions(trace, 'stage2-tlb', this.ipas.cache);
  }

  /**
   * Empties everything and forgets all tags where there are too many: allowed at any time, since caches may evict
   * (§16.2). Asked for between operations, when nobody holds a regime.
   */
  tidy(): void {
    if (this.#spaces > SPACES_MAX || this.#numbers.low) this.startOver();
  }

  startOver(): void {
    for (const store of [this.leaves, this.parts, this.ipas]) store.cache.clear();
    this.tables?.cache.clear();
    this.#regimes.clear();
    this.#spaces = 0;
    this.#numbers.reset();
    this.onStartOver?.();
  }

  /** A space of the parts cache for a stage 1 entry that stage 2 splits. */
  newPart(): number {
    return this.#numbers.take();
  }

  /** The regime of an STE: VMIDs tag NS-EL1 alone. */
  regime(world: World, vmid: number): Regime {
    const key = world === WORLD.NS_EL1 ? vmid : 0x1_0000 + world;
    const known = this.#regimes.get(key);
    if (known !== undefined) return known;
    this.#spaces++;
    const domain = (): CacheDomain => new CacheDomain(this.#numbers.take());
    const regime: Regime = {
      world,
      vmid,
      va: domain(),
      parts: domain(),
      ipa: domain(),
      vaTables: domain(),
      ipaTables: domain(),
      asids: new Map(),
      globals: [{ id: this.#numbers.take() }, { id: this.#numbers.take() }],
    };
    this.#regimes.set(key, regime);
    return regime;
  }

  /** The tag of an ASID. In EL2 without E2H there is one for all. */
  asid(regime: Regime, asid: number): Tag {
    const key = regime.world === WORLD.NS_EL2 ? 0 : asid;
    let tag = regime.asids.get(key);
    if (tag === undefined) {
      this.#spaces++;
      tag = { id: this.#numbers.take() };
      regime.asids.set(key, tag);
    }
    return tag;
  }

  /** The regimes that a command means; the next call may use the same array again. */
  #select(world: World, vmid: number, wildcard: number): readonly Regime[] {
    if (world === WORLD.NS_EL1 && wildcard > 0) {
      return [...this.#regimes.values()].filter(
        (regime) => regime.world === WORLD.NS_EL1 && regime.vmid >>> wildcard === vmid >>> wildcard,
      );
    }
    const one = this.#regimes.get(world === WORLD.NS_EL1 ? vmid : 0x1_0000 + world);
    if (one === undefined) return NO_REGIME;
    this.#one[0] = one;
    return this.#one;
  }

  #dropVa(regime: Regime): void {
    regime.va.renew(this.#numbers.take());
    regime.vaTables.renew(this.#numbers.take());
  }

  #dropIpa(regime: Regime): void {
    regime.ipa.renew(this.#numbers.take());
    regime.ipaTables.renew(this.#numbers.take());
  }

  /** CMD_TLBI_NH_ALL: all stage 1 (and combined) entries of a VMID. */
  invalidateVmidVa(vmid: number, wildcard: number): void {
    for (const regime of this.#select(WORLD.NS_EL1, vmid, wildcard)) this.#dropVa(regime);
  }

  /** CMD_TLBI_S12_VMALL: all entries of a VMID. */
  invalidateVmid(vmid: number, wildcard: number): void {
    for (const regime of this.#select(WORLD.NS_EL1, vmid, wildcard)) {
      this.#dropVa(regime);
      this.#dropIpa(regime);
    }
  }

  /** CMD_TLBI_NSNH_ALL: all entries but those of EL2. */
  invalidateNsEl1(): void {
    for (const regime of this.#regimes.values()) {
      if (regime.world !== WORLD.NS_EL1) continue;
      this.#dropVa(regime);
      this.#dropIpa(regime);
    }
  }

  /** CMD_TLBI_EL2_ALL: all entries of EL2, with and without E2H. */
  invalidateEl2(): void {
    for (const world of [WORLD.NS_EL2, WORLD.NS_EL2_E2H]) {
      const regime = this.#regimes.get(0x1_0000 + world);
      if (regime !== undefined) this.#dropVa(regime);
    }
  }

  /** CMD_TLBI_NH_ASID, CMD_TLBI_EL2_ASID: non-global entries of an ASID. */
  invalidateAsid(world: World, vmid: number, wildcard: number, asid: number): void {
    for (const regime of this.#select(world, vmid, wildcard)) {
      const tag = regime.asids.get(asid);
      if (tag !== undefined) tag.id = this.#numbers.take();
    }
  }

  /** CMD_TLBI_NH_VA, _VAA, CMD_TLBI_EL2_VA, _VAA: entries by address; `asid` null takes those of all ASIDs. */
  invalidateVa(
    world: World,
    vmid: number,
    wildcard: number,
    asid: number | null,
    range: AddressRange,
    scope: TlbScope,
  ): void {
    for (const regime of this.#select(world, vmid, wildcard)) {
      // Global entries go whatever the ASID (§4.4.2.4).
      const space = asid === null ? ANY_SPACE : (this.asidIfKnown(regime, asid)?.id ?? 0);
      const [first, second] = regime.globals;
      removeLeaves(this.leaves.cache, regime.va, space, first.id, second.id, range, scope);
      if (!scope.leafOnly && this.tables !== null)
        removeTables(this.tables.cache, regime.vaTables, space, range, scope);
    }
  }

  /** CMD_TLBI_S2_IPA: stage 2 entries by IPA. Combined entries stay (§4.4.3.1). */
  invalidateIpa(vmid: number, wildcard: number, range: AddressRange, scope: TlbScope): void {
    for (const regime of this.#select(WORLD.NS_EL1, vmid, wildcard)) {
      removeLeaves(this.ipas.cache, regime.ipa, ANY_SPACE, 0, 0, range, scope);
      if (!scope.leafOnly && this.tables !== null)
        removeTables(this.tables.cache, regime.ipaTables, ANY_SPACE, range, scope);
    }
  }

  asidIfKnown(regime: Regime, asid: number): Tag | undefined {
    return regime.asids.get(regime.world === WORLD.NS_EL2 ? 0 : asid);
  }

  /** Every regime that has had entries; for looking in from outside. */
  regimes(): Iterable<Regime> {
    return this.#regimes.values();
  }
}

/** Tells of an entry that was made. */
export function traceFill(
  trace: Trace,
  cache: string,
  context: Context,
  hi: number,
  lo: number,
  bits: number,
): void {
  trace.emit({
    kind: 'cache-fill',
    cache,
    vmid: context.regime.vmid,
    asid: context.cd?.asid ?? null,
    hi: hi >>> 0,
    lo: lo >>> 0,
    bits,
  });
}

function traceEvictions(trace: Trace, name: string, cache: TranslationCache): void {
  cache.onEvict = (slot) => {
    if (!trace.active) return;
    trace.emit({
      kind: 'cache-evict',
      cache: name,
      hi: cache.addressHi(slot),
      lo: cache.addressLo(slot),
      bits: cache.sizeOf(slot),
    });
  };
}

/** Entries have 4 KiB at least: within one such page, the first address stands for all. */
function onePage(range: AddressRange): boolean {
  return range.startHi === range.lastHi && (range.startLo ^ range.lastLo) >>> 12 === 0;
}

function removeLeaves(
  cache: TranslationCache,
  domain: CacheDomain,
  space: number,
  second: number,
  third: number,
  range: AddressRange,
  scope: TlbScope,
): void {
  let filter = EVERYTHING;
  if (scope.tg !== 0) {
    const mask = scope.ttl === 0 ? 3 : 15;
    filter = { mask, value: (scope.tg | (scope.ttl << 2)) & mask };
  }
  if (onePage(range)) {
    cache.removeAddress(domain, space, second, third, range.startHi, range.startLo, filter);
  } else cache.removeRange(domain, space, second, third, range, filter);
}

/** Removes table descriptors from the start of the walk to the level before TTL's; all where TTL is 0 (§4.4.1.1). */
function removeTables(
  cache: TranslationCache,
  domain: CacheDomain,
  space: number,
  range: AddressRange,
  scope: TlbScope,
): void {
  const single = onePage(range);
  const take = (filter: InfoFilter): void => {
    if (single) cache.removeAddress(domain, space, 0, 0, range.startHi, range.startLo, filter);
    else cache.removeRange(domain, space, 0, 0, range, filter);
  };
  if (scope.tg === 0) take(EVERYTHING);
  else if (scope.ttl === 0) take({ mask: 3, value: scope.tg });
  else for (let level = 0; level <= scope.ttl; level++) take({ mask: 15, value: scope.tg | (level << 2) });
}
