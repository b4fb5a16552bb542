// The IOTLB and the paging-structure caches (§6.2.1, §6.2.4, §6.2.5). An IOTLB entry is found by the source-id (and
// PASID) of the request that made it, and removed by the domain-id that the tables had then, by its PASID and its type:
// what software does not name stays (Tables 17, 23 and 24).

import {
  ANY_SPACE,
  type AddressRange,
  CacheDomain,
  TagNumbers,
  TranslationCache,
} from '../../../caches/cache.ts';
import type { FaultCondition } from '../../spec/faults.ts';
import { NestedTableStore } from './first-tables.ts';

/** Second-stage, pass-through and legacy-mode entries are removed by second-stage address; the others by their own. */
export const KIND = { SECOND: 0, FIRST: 1 } as const;
export type Kind = (typeof KIND)[keyof typeof KIND];

/** What an entry says beside where it leads, in one word: X86_PERM bits of the first stage in 5:0, and the rest. */
export const ENTRY = {
  PERMISSIONS: 0x3f,
  /** SS_RIGHTS of the second stage, two bits. */
  RIGHTS_SHIFT: 6,
  /** A write must first set Dirty in the first-stage entry; in the second-stage one. */
  CLEAN1: 1 << 8,
  CLEAN2: 1 << 9,
  SNOOP: 1 << 10,
  /** The entry holds a fault (Caching Mode). */
  FAULT: 1 << 11,
  /** The output meets the interrupt address range; or addresses of requests-without-PASID do. */
  INTERRUPT: 1 << 12,
} as const;

const NOTHING = new CacheDomain(-1);

/** Entries of one domain that share a source-id, a PASID and a kind. */
export class Space {
  /** Null is the domain of nothing. */
  readonly domain: Domain | null;
  /** The domain's entries of the kind. */
  readonly entries: CacheDomain = NOTHING;
  readonly kind: Kind;
  /** The PASID that invalidations know it by; -1 in legacy mode. */
  readonly pasid: number;
  /** Address bits that entries are tagged with (Table 18). */
  readonly bits: number;
  /** Renewed to make every entry unreachable. */
  id: number = 0;

  constructor(domain: Domain | null, kind: Kind, pasid: number, bits: number, id: number) {
    this.domain = domain;
    if (domain !== null) this.entries = kind === KIND.FIRST ? domain.first : domain.second;
    this.kind = kind;
    this.pasid = pasid;
    this.bits = bits;
    this.id = id;
  }
}

/** A space that nothing is in. */
export const NOWHERE = new Space(null, KIND.SECOND, -1, 0, -1);

/** Everything that is tagged with one domain-id. */
export interface Domain {
  readonly did: number;
  readonly second: CacheDomain;
  readonly first: CacheDomain;
  readonly secondTables: CacheDomain;
  readonly firstTables: CacheDomain;
  readonly spaces: Space[];
  /** The tags of first-stage paging-structure entries, by PASID. */
  readonly tableTags: Map<number, TableTag>;
}

export interface TableTag {
  /** Renewed to make every entry unreachable. */
  id: number;
  readonly bits: number;
}

/** Where the requests of a function, with one PASID or without, look for entries. */
export interface Source {
  readonly requesterId: number;
  readonly pasid: number | null;
  /** More than one where a domain-id or a translation type changed and old entries were not removed. */
  readonly spaces: Space[];
  /** The one that there is, null otherwise. */
  only: Space | null;
}

/** Spaces and sources that are remembered before everything starts over. */
const SPACES_MAX = 1 << 16;
/** Second-stage paging-structure entries have one address space per domain. */
export const TABLE_SPACE = 1;

export class Iotlb {
  /** Its entries' WORD is {@link ENTRY}; permissions and rights are all ones where there is no such stage. */
  readonly cache: TranslationCache;
  readonly tables: NestedTableStore | null;
  /** Called when every tag has been given up: whoever keeps a Source must look it up again. */
  onStartOver: (() => void) | null = null;
  readonly #faults: (FaultCondition | null)[];
  readonly #numbers = new TagNumbers(TABLE_SPACE + 1);
  readonly #domains = new Map<number, Domain>();
  readonly #sources = new Map<number, Source>();
  #spaces = 0;

  constructor(entries: number, tables: boolean) {
    this.cache = new TranslationCache(entries);
    const { capacity } = this.cache;
    this.#faults = Array.from({ length: capacity }, () => null);
    this.tables = tables ? new NestedTableStore(entries) : null;
  }

  /** Empties everything where tags run out: caches may evict at any time. Asked between requests. */
  tidy(): void {
    if (this.#spaces > SPACES_MAX || this.#numbers.low) this.startOver();
  }

  startOver(): void {
    this.cache.clear();
    this.tables?.cache.clear();
    this.#domains.clear();
    this.#sources.clear();
    this.#spaces = 0;
    this.#numbers.reset();
    this.onStartOver?.();
  }

  domain(did: number): Domain {
    let domain = this.#domains.get(did);
    if (domain === undefined) {
      this.#spaces++;
      const make = (): CacheDomain => new CacheDomain(this.#numbers.take());
      domain = {
        did,
        second: make(),
        first: make(),
        secondTables: make(),
        firstTables: make(),
        spaces: [],
        tableTags: new Map(),
      };
      this.#domains.set(did, domain);
    }
    return domain;
  }

  source(requesterId: number, pasid: number | null): Source {
    const key = requesterId + (pasid === null ? 0 : (pasid + 1) * 0x1_0000);
    let source = this.#sources.get(key);
    if (source === undefined) {
      this.#spaces++;
      source = { requesterId, pasid, spaces: [], only: null };
      this.#sources.set(key, source);
    }
    return source;
  }

  /** The space that entries made for `source` go to. */
  space(source: Source, domain: Domain, kind: Kind, pasid: number, bits: number): Space {
    for (const space of source.spaces) {
      if (space.domain === domain && space.kind === kind && space.pasid === pasid && space.bits === bits)
        return space;
    }
    this.#spaces++;
    const space = new Space(domain, kind, pasid, bits, this.#numbers.take());
    source.spaces.push(space);
    source.only = source.spaces.length === 1 ? space : null;
    domain.spaces.push(space);
    return space;
  }

  /** The slot that a request's address is found in, or -1. */
  lookup(source: Source, hi: number, lo: number): number {
    const { spaces } = source;
    for (let i = 0; i < spaces.length; i++) {
      const space = spaces[i]!;
      const slot = this.cache.lookup(space.entries, space.id, 0, hi, lo);
      if (slot >= 0) return slot;
    }
    return -1;
  }

  /** Takes a slot; the caller fills it. */
  insert(space: Space, hi: number, lo: number, size: number): number {
    return this.cache.insert(space.entries, space.id, hi, lo, size);
  }

  setFault(slot: number, fault: FaultCondition): void {
    this.#faults[slot] = fault;
    this.cache.fill(slot, 0, 0, ENTRY.FAULT);
  }

  faultOf(slot: number): FaultCondition {
    return this.#faults[slot]!;
  }

  /** The tag of first-stage paging-structure entries of a domain and PASID. */
  tableTag(domain: Domain, pasid: number, bits: number): TableTag {
    let tag = domain.tableTags.get(pasid);
    if (tag === undefined || tag.bits !== bits) {
      this.#spaces++;
      tag = { id: this.#numbers.take(), bits };
      domain.tableTags.set(pasid, tag);
    }
    return tag;
  }

  /** Global IOTLB invalidation. */
  invalidateAll(): void {
    for (const domain of this.#domains.values()) this.#renew(domain);
  }

  #renew(domain: Domain): void {
    domain.second.renew(this.#numbers.take());
    domain.secondTables.renew(this.#numbers.take());
    this.#renewFirst(domain);
  }

  #renewFirst(domain: Domain): void {
    domain.first.renew(this.#numbers.take());
    domain.firstTables.renew(this.#numbers.take());
  }

  /** Domain-selective IOTLB invalidation. */
  invalidateDomain(did: number): void {
    const domain = this.#domains.get(did);
    if (domain !== undefined) this.#renew(domain);
  }

  /**
   * Page-selective-within-domain IOTLB invalidation: second-stage entries of the range; first-stage and nested ones of
   * the whole domain. `hint` (IH) preserves second-stage tables.
   */
  invalidatePages(did: number, range: AddressRange, hint: boolean): void {
    const domain = this.#domains.get(did);
    if (domain === undefined) return;
    this.#renewFirst(domain);
    this.cache.removeRange(domain.second, ANY_SPACE, 0, 0, range);
    if (!hint) this.tables?.cache.removeRange(domain.secondTables, ANY_SPACE, 0, 0, range);
  }

  /** PASID-selective P_IOTLB invalidation: entries of every kind with the PASID, and first-stage tables. */
  invalidatePasid(did: number, pasid: number): void {
    const domain = this.#domains.get(did);
    if (domain === undefined) return;
    for (const space of domain.spaces) if (space.pasid === pasid) space.id = this.#numbers.take();
    const tag = domain.tableTags.get(pasid);
    if (tag !== undefined) tag.id = this.#numbers.take();
  }

  /** Page-selective-within-PASID P_IOTLB invalidation: first-stage and nested entries alone. */
  invalidatePasidPages(did: number, pasid: number, hi: number, lo: number, am: number, hint: boolean): void {
    const domain = this.#domains.get(did);
    if (domain === undefined) return;
    for (const space of domain.spaces) {
      if (space.kind === KIND.FIRST && space.pasid === pasid) {
        this.cache.removeRange(domain.first, space.id, 0, 0, regionOf(hi, lo, am, space.bits));
      }
    }
    const tag = domain.tableTags.get(pasid);
    if (hint || tag === undefined) return;
    this.tables?.cache.removeRange(domain.firstTables, tag.id, 0, 0, regionOf(hi, lo, am, tag.bits));
  }

  /** For looking in from outside: how many entries could be found now. */
  get size(): number {
    const live = new Set<number>();
    for (const { first, second } of this.#domains.values()) live.add(first.id).add(second.id);
    const spaces = new Set<number>();
    for (const { spaces: of } of this.#sources.values()) for (const { id } of of) spaces.add(id);
    let count = 0;
    for (let slot = 0; slot < this.cache.capacity; slot++) {
      if (live.has(this.cache.domainOf(slot)) && spaces.has(this.cache.spaceOf(slot))) count++;
    }
    return count;
  }
}

/** The size-aligned region of 2^(12 + am) bytes around an address, of whose bits the lowest `bits` count (Table 22). */
export function regionOf(hi: number, lo: number, am: number, bits: number): AddressRange {
  const size = 12 + am;
  if (size >= bits) return { startHi: 0, startLo: 0, lastHi: -1, lastLo: -1 };
  const top = hi & highMask(bits);
  const within = size > 32 ? highMask(size) : 0;
  const below = size >= 32 ? -1 : (1 << size) - 1;
  return { startHi: top & ~within, startLo: lo & ~below, lastHi: top | within, lastLo: lo | below };
}

/** The bits of the upper word among the lowest `bits` (32 to 63) of an address. */
export function highMask(bits: number): number {
  return ((1 << (bits - 32)) - 1) | 0;
}
