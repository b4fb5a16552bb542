// The IOMMU's own IOTLB (§2.4.3). Host translations (GPA to SPA) are tagged with the domain id, guest ones (GVA to GPA)
// with the domain id and the PASID, so that each of the two invalidations that GN tells apart empties one. Beside them
// the page directory entries on the way, which go with PDE alone, and the guests' CR3s. Nothing is tagged with a device:
// what a DTE itself says (IR, IW, Mode) is looked at on every use.

import { type AddressRange, CacheDomain, TagNumbers, TranslationCache } from '../../../caches/cache.ts';
import { TableStore } from '../../../caches/cache-tables.ts';
import type { X86Config } from '../../../../pagetable/x86-64.ts';
import type { Trace } from '../../../../trace/trace.ts';

/** A number that entries of one address space carry; a new one makes them unreachable. */
export interface Tag {
  id: number;
}

/** What one PASID of a domain has in the caches. */
export interface GuestSpace {
  readonly pasid: number;
  readonly leaves: Tag;
  readonly tables: Tag;
  /** The guest's CR3 as its GCR3 table says, -1 where that is not known. */
  root: number;
  /** The tables that start there, and what of the configuration they were worked out for. */
  config: X86Config | null;
  configKey: number;
}

/** What one domain id has in the caches. */
export interface Domain {
  readonly id: number;
  readonly host: CacheDomain;
  readonly hostTables: CacheDomain;
  readonly guest: CacheDomain;
  readonly guestTables: CacheDomain;
  /**
   * Another number, in the bits of FAST_AGE, after each invalidation of host entries: what guest entries know of them is
   * not true any more.
   */
  age: number;
  readonly spaces: Map<number, GuestSpace>;
}

/** Entry flags. */
export const ENTRY = {
  /** A write must first set Dirty in the leaf. */
  CLEAN: 1,
  /** PTE.FC, PTE.U. */
  COHERENT: 2,
  UNTRANSLATED: 4,
  /** Nothing is mapped there (capability NpCache). */
  ABSENT: 8,
} as const;

/** What an entry says in one word, 0 where that is not enough or the interrupt range is met: permissions in 5:0, and these. */
export const FAST = {
  CLEAN: 1 << 6,
  COHERENT: 1 << 7,
  NESTED: 1 << 8,
  /** Of guest entries: addresses of requests without a PASID would be in the interrupt range. */
  INTERRUPT: 1 << 9,
} as const;
/** Of guest entries: Domain.age when it was found where the page leads. */
export const FAST_AGE = -1 << 10;
const AGE_STEP = 1 << 10;
export const FAST_SIZE_MAX = 30;

/** FAST of ENTRY flags. */
export function fastFlags(flags: number): number {
  return (
    ((flags & ENTRY.CLEAN) !== 0 ? FAST.CLEAN : 0) | ((flags & ENTRY.COHERENT) !== 0 ? FAST.COHERENT : 0)
  );
}

/** Host entries have one address space per domain. */
export const HOST_SPACE = 1;
export const HOST_TAG: Tag = { id: HOST_SPACE };

/** A cache with what its entries say, by slot. */
export class TlbStore {
  /** An entry's WORD is {@link FAST}. */
  readonly cache: TranslationCache;
  readonly permissions: Uint8Array;
  readonly flags: Uint8Array;

  constructor(entries: number) {
    this.cache = new TranslationCache(entries);
    const { capacity } = this.cache;
    this.permissions = new Uint8Array(capacity);
    this.flags = new Uint8Array(capacity);
  }

  /** Remembers that nothing is mapped at an address (capability NpCache). */
  setAbsent(domain: CacheDomain, space: number, hi: number, lo: number): void {
    const slot = this.cache.insert(domain, space, hi, lo, 12);
    this.flags[slot] = ENTRY.ABSENT;
    this.cache.fill(slot, 0, 0, 0);
  }
}

/** Domains and guest address spaces that are remembered before the whole IOTLB starts over. */
const SPACES_MAX = 1 << 16;

export class Iotlb {
  readonly host: TlbStore;
  /** Where its entries lead are system physical addresses, where WORD is not 0. */
  readonly guest: TlbStore;
  /** Guest physical addresses of the same. */
  readonly guestOut: Float64Array;
  readonly hostTables: TableStore | null;
  readonly guestTables: TableStore | null;
  /** Called when every tag has been given up: whoever keeps domains or spaces must look them up again. */
  onStartOver: (() => void) | null = null;
  /** Called when a domain with guest entries has another age. */
  onAge: (() => void) | null = null;
  readonly #numbers = new TagNumbers(HOST_SPACE + 1);
  readonly #domains = new Map<number, Domain>();
  readonly #roots: number;
  #spaces = 0;
  #rootCount = 0;

  /** `roots` is how many CR3s are kept. */
  constructor(entries: number, tables: boolean, roots: number) {
    this.host = new TlbStore(entries);
    this.guest = new TlbStore(entries);
    this.hostTables = tables ? new TableStore(entries) : null;
    this.guestTables = tables ? new TableStore(entries) : null;
    this.#roots = roots;
    this.guestOut = new Float64Array(this.guest.cache.capacity);
  }

  /** Starts over where there are too many tags: caches may evict at any time. Asked for between operations. */
  tidy(): void {
    if (this.#spaces > SPACES_MAX || this.#numbers.low) this.invalidateAll();
  }

  /** INVALIDATE_IOMMU_ALL (§2.4.8). */
  invalidateAll(): void {
    for (const store of [this.host, this.guest, this.hostTables, this.guestTables]) store?.cache.clear();
    this.#domains.clear();
    this.#spaces = 0;
    this.#rootCount = 0;
    this.#numbers.reset();
    this.onStartOver?.();
  }

  domain(id: number): Domain {
    const known = this.#domains.get(id);
    if (known !== undefined) return known;
    this.#spaces++;
    const make = (): CacheDomain => new CacheDomain(this.#numbers.take());
    const domain = {
      id,
      host: make(),
      hostTables: make(),
      guest: make(),
      guestTables: make(),
      age: 0,
      spaces: new Map<number, GuestSpace>(),
    };
    this.#domains.set(id, domain);
    return domain;
  }

  space(domain: Domain, pasid: number): GuestSpace {
    const known = domain.spaces.get(pasid);
    if (known !== undefined) return known;
    this.#spaces++;
    const space: GuestSpace = {
      pasid,
      leaves: { id: this.#numbers.take() },
      tables: { id: this.#numbers.take() },
      root: -1,
      config: null,
      configKey: -1,
    };
    domain.spaces.set(pasid, space);
    return space;
  }

  /** Keeps a guest's CR3; the others go where there is no more room. */
  keepRoot(space: GuestSpace, root: number): void {
    if (this.#rootCount >= this.#roots) {
      for (const domain of this.#domains.values())
        for (const each of domain.spaces.values()) forgetRoot(each);
      this.#rootCount = 0;
    }
    this.#rootCount++;
    space.root = root;
    space.config = null;
  }

  /** INVALIDATE_IOMMU_PAGES with GN == 0: host translations of a domain. A null range is all of them. */
  invalidateHost(domainId: number, range: AddressRange | null, pde: boolean): void {
    const domain = this.#domains.get(domainId);
    if (domain === undefined) return;
    domain.age = (domain.age + AGE_STEP) | 0;
    // Ages come again: nobody must have one from before.
    if (domain.age === 0) domain.guest.renew(this.#numbers.take());
    if (domain.spaces.size > 0) this.onAge?.();
    if (range === null) domain.host.renew(this.#numbers.take());
    else this.host.cache.removeRange(domain.host, HOST_SPACE, 0, 0, range);
    if (!pde) return;
    if (range === null) domain.hostTables.renew(this.#numbers.take());
    else this.hostTables?.cache.removeRange(domain.hostTables, HOST_SPACE, 0, 0, range);
  }

  /** Guest translations of every PASID of a domain: INVALIDATE_IOMMU_ALL of a guest. */
  invalidateGuests(domainId: number): void {
    const spaces = this.#domains.get(domainId)?.spaces.keys() ?? [];
    for (const pasid of [...spaces]) this.invalidateGuest(domainId, pasid, null, true);
  }

  /** With GN == 1: guest translations of a PASID. With PDE its CR3 goes too, whatever the range: all addresses use it. */
  invalidateGuest(domainId: number, pasid: number, range: AddressRange | null, pde: boolean): void {
    const domain = this.#domains.get(domainId);
    const space = domain?.spaces.get(pasid);
    if (domain === undefined || space === undefined) return;
    if (range === null) space.leaves.id = this.#numbers.take();
    else this.guest.cache.removeRange(domain.guest, space.leaves.id, 0, 0, range);
    if (!pde) return;
    if (range === null) space.tables.id = this.#numbers.take();
    else this.guestTables?.cache.removeRange(domain.guestTables, space.tables.id, 0, 0, range);
    forgetRoot(space);
  }

  /** Every domain that has had entries; for looking in from outside. */
  domains(): Iterable<Domain> {
    return this.#domains.values();
  }
}

function forgetRoot(space: GuestSpace): void {
  space.root = -1;
  space.config = null;
}

/** Tells of an entry that answered, and of one that was made. */
export function traceHit(
  trace: Trace,
  cache: string,
  domain: Domain,
  pasid: number | null,
  hi: number,
  lo: number,
  bits: number,
): void {
  trace.emit({ kind: 'cache-hit', cache, domainId: domain.id, pasid, hi: hi >>> 0, lo: lo >>> 0, bits });
}

export function traceFill(
  trace: Trace,
  cache: string,
  domain: Domain,
  pasid: number | null,
  hi: number,
  lo: number,
  bits: number,
): void {
  trace.emit({ kind: 'cache-fill', cache, domainId: domain.id, pasid, hi: hi >>> 0, lo: lo >>> 0, bits });
}
