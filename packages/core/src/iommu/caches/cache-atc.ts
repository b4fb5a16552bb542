// The Address Translation Cache of a PCIe function (PCI Express Base, chapter 10): filled by Translation Completions,
// emptied by Invalidate Requests and by disabling ATS, by nothing else.

import { ANY_SPACE, CacheDomain, TranslationCache, addressRange } from './cache.ts';

/** What a Translation Completion grants. */
export interface AtcEntry {
  /** The translated address of the first byte of the entry. */
  readonly translated: number;
  /** log2 of the bytes that the entry covers. */
  readonly sizeBits: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
}

/** An Invalidate Request. Addresses are two u32. */
export interface AtcInvalidation {
  readonly hi: number;
  readonly lo: number;
  /** log2 of the bytes; 64 for all. */
  readonly sizeBits: number;
  readonly pasid: number | null;
  /** Global Invalidate: with a PASID, entries of every PASID that were completed as global. None are. */
  readonly global: boolean;
}

/** A null PASID stands for requests without one. */
export class Atc {
  enabled = false;
  readonly #cache: TranslationCache;
  readonly #domain = new CacheDomain(1);
  readonly #translated: Float64Array;
  readonly #permissions: Uint8Array;

  constructor(entries = 256) {
    this.#cache = new TranslationCache(entries);
    this.#translated = new Float64Array(this.#cache.capacity);
    this.#permissions = new Uint8Array(this.#cache.capacity);
  }

  /** Enables or disables ATS; disabling empties the cache. */
  enable(on: boolean): void {
    if (!on) this.#empty();
    this.enabled = on;
  }

  #empty(): void {
    this.#cache.clear();
    this.#domain.renew(1);
  }

  /** The entry for an address, or null. */
  lookup(hi: number, lo: number, pasid: number | null, privileged: boolean): AtcEntry | null {
    const slot = this.#cache.lookup(this.#domain, spaceOf(pasid, privileged), 0, hi, lo);
    if (slot < 0) return null;
    const permissions = this.#permissions[slot]!;
    return {
      translated: this.#translated[slot]!,
      sizeBits: this.#cache.sizeOf(slot),
      read: (permissions & 1) !== 0,
      write: (permissions & 2) !== 0,
      execute: (permissions & 4) !== 0,
    };
  }

  /** Keeps a completion for the aligned block of `entry.sizeBits` that holds the address. */
  fill(hi: number, lo: number, pasid: number | null, privileged: boolean, entry: AtcEntry): void {
    if (!this.enabled || !(entry.read || entry.write)) return;
    const slot = this.#cache.insert(this.#domain, spaceOf(pasid, privileged), hi, lo, entry.sizeBits);
    this.#translated[slot] = entry.translated;
    this.#permissions[slot] = (entry.read ? 1 : 0) | (entry.write ? 2 : 0) | (entry.execute ? 4 : 0);
  }

  /**
   * Obeys an Invalidate Request. One without a PASID takes all entries of the range, those with a PASID included
   * (drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c arm_smmu_atc_inv_to_cmd()).
   */
  invalidate(request: AtcInvalidation): void {
    if (request.sizeBits >= 64 && request.pasid === null) return this.#empty();
    const bytes = 2 ** request.sizeBits;
    const mask = request.sizeBits >= 32 ? 0 : -1 << request.sizeBits;
    const maskHi = request.sizeBits >= 64 ? 0 : request.sizeBits > 32 ? -1 << (request.sizeBits - 32) : -1;
    const range =
      request.sizeBits >= 64
        ? { startHi: 0, startLo: 0, lastHi: -1, lastLo: -1 }
        : addressRange(request.hi & maskHi, request.lo & mask, bytes);
    if (request.pasid === null) this.#cache.removeRange(this.#domain, ANY_SPACE, 0, 0, range);
    else {
      const plain = spaceOf(request.pasid, false);
      this.#cache.removeRange(this.#domain, plain, spaceOf(request.pasid, true), 0, range);
    }
  }
}

function spaceOf(pasid: number | null, privileged: boolean): number {
  return (pasid === null ? 1 : pasid + 2) * 2 + (privileged ? 1 : 0);
}
