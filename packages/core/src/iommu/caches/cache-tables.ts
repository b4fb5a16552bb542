// The paging-structure caches: where tables on the way to leaves are, by the addresses that they resolve.

import type { TableCache } from '../../pagetable/walk.ts';
import { CacheDomain, TranslationCache } from './cache.ts';

export class TableStore {
  readonly cache: TranslationCache;
  readonly baseHi: Int32Array;
  readonly baseLo: Int32Array;
  readonly inherited: Uint8Array;
  readonly level: Uint8Array;

  constructor(entries: number) {
    this.cache = new TranslationCache(entries);
    const { capacity } = this.cache;
    this.baseHi = new Int32Array(capacity);
    this.baseLo = new Int32Array(capacity);
    this.inherited = new Uint8Array(capacity);
    this.level = new Uint8Array(capacity);
  }

  /** A view of one address space at a time, for a walker. */
  view(): TableView {
    return new TableView(this);
  }
}

/** InfoFilter looks at nothing. */
const NO_INFO: Uint8Array = new Uint8Array(8);

export class TableView implements TableCache {
  baseHi = 0;
  baseLo = 0;
  inherited = 0;
  readonly #store: TableStore;
  #domain = new CacheDomain(0);
  #space = 0;
  #hi = 0;
  #info = NO_INFO;

  constructor(store: TableStore) {
    this.#store = store;
  }

  /**
   * Says whose tables the next walk uses, the upper word of its address as invalidations name it, and what
   * TranslationCache.info says of tables by their level.
   */
  bind(domain: CacheDomain, space: number, hi: number, info: Uint8Array = NO_INFO): void {
    this.#domain = domain;
    this.#space = space;
    this.#hi = hi;
    this.#info = info;
  }

  find(_hi: number, lo: number): number {
    const store = this.#store;
    const slot = store.cache.lookup(this.#domain, this.#space, 0, this.#hi, lo);
    if (slot < 0) return 0;
    this.baseHi = store.baseHi[slot]!;
    this.baseLo = store.baseLo[slot]!;
    this.inherited = store.inherited[slot]!;
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
    const store = this.#store;
    const slot = store.cache.insert(this.#domain, this.#space, this.#hi, lo, regionBits);
    store.baseHi[slot] = baseHi;
    store.baseLo[slot] = baseLo;
    store.inherited[slot] = inherited;
    store.level[slot] = level;
    store.cache.info[slot] = this.#info[level]!;
  }
}
