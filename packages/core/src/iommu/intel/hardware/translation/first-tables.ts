// The first-stage paging-structure cache (§6.2.5). With nested translation an entry is made when the second stage has
// granted to read the table, and holds where that is.

import type { TableCache } from '../../../../pagetable/walk.ts';
import { CacheDomain } from '../../../caches/cache.ts';
import { TableStore } from '../../../caches/cache-tables.ts';

/** Paging-structure entries of both stages. */
export class NestedTableStore extends TableStore {
  /** First-stage tables of nested translation: where they lie in physical memory, and what the second stage grants. */
  readonly physicalHi: Int32Array;
  readonly physicalLo: Int32Array;
  readonly rights: Uint8Array;

  constructor(entries: number) {
    super(entries);
    const { capacity } = this.cache;
    this.physicalHi = new Int32Array(capacity);
    this.physicalLo = new Int32Array(capacity);
    this.rights = new Uint8Array(capacity);
  }
}

/** The tables of a domain and PASID, for a walker. */
export class FirstTables implements TableCache {
  baseHi = 0;
  baseLo = 0;
  inherited = 0;
  /** The table at the base, where the second stage is known already. */
  physicalHi = 0;
  physicalLo = 0;
  rights = 0;
  /** False until those three hold for the table at the base. */
  settled = false;
  readonly #store: NestedTableStore | null;
  #domain = new CacheDomain(0);
  #space = 0;
  #nested = false;
  #pending = false;
  #hi = 0;
  #lo = 0;
  #level = 0;
  #bits = 0;

  /** Without a store it only remembers where the current table is. */
  constructor(store: NestedTableStore | null) {
    this.#store = store;
  }

  /** Says whose tables the next walk uses, and the upper word of its address as invalidations name it. */
  bind(domain: CacheDomain, space: number, hi: number, nested: boolean): void {
    this.#domain = domain;
    this.#space = space;
    this.#hi = hi;
    this.#nested = nested;
    this.#pending = false;
    this.settled = false;
  }

  /** Whether the second stage is known of the table at an address. */
  knows(hi: number, lo: number): boolean {
    return this.settled && lo === this.baseLo && hi === this.baseHi;
  }

  find(_hi: number, lo: number): number {
    const store = this.#store;
    if (store === null) return 0;
    const slot = store.cache.lookup(this.#domain, this.#space, 0, this.#hi, lo);
    if (slot < 0) return 0;
    this.baseHi = store.baseHi[slot]!;
    this.baseLo = store.baseLo[slot]!;
    this.inherited = store.inherited[slot]!;
    this.physicalHi = store.physicalHi[slot]!;
    this.physicalLo = store.physicalLo[slot]!;
    this.rights = store.rights[slot]!;
    this.settled = true;
    return store.level[slot]!;
  }

  fill(
    _hi: number,
    lo: number,
    level: number,
    baseHi: number,
    baseLo: number,
    inherited: number,
    regionBits: number,
  ): void {
    this.settled = false;
    if (this.#store === null) return;
    this.baseHi = baseHi;
    this.baseLo = baseLo;
    this.inherited = inherited;
    this.#lo = lo;
    this.#level = level;
    this.#bits = regionBits;
    if (this.#nested) this.#pending = true;
    else this.#insert(this.#store);
  }

  /** The second stage has found the table that the walk is at. */
  settle(hi: number, lo: number, physicalHi: number, physicalLo: number, rights: number): void {
    this.baseHi = hi;
    this.baseLo = lo;
    this.physicalHi = physicalHi;
    this.physicalLo = physicalLo;
    this.rights = rights;
    this.settled = true;
    if (this.#pending && this.#store !== null) this.#insert(this.#store);
    this.#pending = false;
  }

  #insert(store: NestedTableStore): void {
    const slot = store.cache.insert(this.#domain, this.#space, this.#hi, this.#lo, this.#bits);
    store.baseHi[slot] = this.baseHi;
    store.baseLo[slot] = this.baseLo;
    store.physicalHi[slot] = this.physicalHi;
    store.physicalLo[slot] = this.physicalLo;
    store.rights[slot] = this.rights;
    store.inherited[slot] = this.inherited;
    store.level[slot] = this.#level;
  }
}
