// A PCIe function with a Device-TLB: its accesses use the translations that it was given.

import { Atc, type AtcEntry, type AtcInvalidation } from '../../cache-atc.ts';
import type { AtsCompletion } from './ats.ts';
import type { Endpoint, PageResponse } from './endpoint.ts';
import type { IntelIommu } from './intel-iommu.ts';
import type { Blocked, Outcome, Transaction } from './transaction.ts';

/** An access of the function, by untranslated address. */
export interface AtsAccess {
  readonly pasid?: number | null;
  readonly hi: number;
  readonly lo: number;
  readonly write?: boolean;
  /** Counts with a PASID alone. */
  readonly privileged?: boolean;
}

/** The remapping hardware gave no translation: the function may ask for the page by PRI, or gives up. */
export interface Denied {
  readonly kind: 'denied';
  readonly completion: AtsCompletion;
}

export interface AtsAccessResult {
  readonly done: number;
  /** What stopped it: null where all bytes were transferred. */
  readonly stopped: Blocked | Denied | 'bus' | null;
}

export interface AtsFunctionOptions {
  /** Entries of the Device-TLB. */
  readonly entries?: number;
  /** A Page Group Response came. */
  readonly onPageResponse?: (response: PageResponse) => void;
}

export class AtsFunction implements Endpoint {
  readonly requesterId: number;
  readonly atc: Atc;
  readonly #iommu: IntelIommu;
  readonly #onPageResponse: (response: PageResponse) => void;

  constructor(iommu: IntelIommu, requesterId: number, options: AtsFunctionOptions = {}) {
    this.#iommu = iommu;
    this.requesterId = requesterId;
    this.atc = new Atc(options.entries);
    this.#onPageResponse = options.onPageResponse ?? (() => {});
    iommu.attachEndpoint(requesterId, this);
  }

  /** Enables or disables ATS; disabling empties the Device-TLB. */
  enable(on: boolean): void {
    this.atc.enable(on);
  }

  invalidate(request: AtcInvalidation): boolean {
    this.atc.invalidate(request);
    return true;
  }

  pageResponse(response: PageResponse): void {
    this.#onPageResponse(response);
  }

  /** The function's translation of an address: from the Device-TLB, or asked for. Null: untranslated requests alone. */
  resolve(access: AtsAccess): AtcEntry | Denied | null {
    const pasid = access.pasid ?? null;
    const privileged = pasid !== null && access.privileged === true;
    const { hi, lo } = access;
    const write = access.write === true;
    const known = this.atc.lookup(hi, lo, pasid, privileged);
    if (known !== null && (write ? known.write : known.read)) return known;
    const { requesterId } = this;
    const completion = this.#iommu.requestTranslation({ requesterId, pasid, hi, lo, write, privileged });
    const [entry] = completion.entries;
    if (entry?.untranslatedOnly === true) return null;
    if (entry === undefined || !(write ? entry.write : entry.read)) return { kind: 'denied', completion };
    this.atc.fill(hi, lo, pasid, privileged, entry);
    return entry;
  }

  /** What becomes of an access: as a translated request where ATS is enabled, else as an untranslated one. */
  translate(access: AtsAccess): Outcome | Denied {
    const entry = this.atc.enabled ? this.resolve(access) : null;
    if (entry === null) return this.#iommu.translate(this.#plain(access, access.hi, access.lo));
    if ('kind' in entry) return entry;
    return this.#iommu.translate(this.#translated(access, entry, access.hi, access.lo));
  }

  /** Transfers `data.length` bytes, as IntelIommu.access() does. */
  access(access: AtsAccess, data: Uint8Array): AtsAccessResult {
    let done = 0;
    while (done < data.length) {
      const low = (access.lo >>> 0) + done;
      const lo = low >>> 0;
      const hi = (access.hi + (low > 0xffff_ffff ? 1 : 0)) >>> 0;
      const entry = this.atc.enabled ? this.resolve({ ...access, hi, lo }) : null;
      if (entry === null) {
        const rest = this.#iommu.access(this.#plain(access, hi, lo), data.subarray(done));
        return { done: done + rest.done, stopped: rest.stopped };
      }
      if ('kind' in entry) return { done, stopped: entry };
      const left = 2 ** entry.sizeBits - offsetIn(entry, hi, lo);
      const part = data.subarray(done, done + Math.min(left, data.length - done));
      const result = this.#iommu.access(this.#translated(access, entry, hi, lo), part);
      done += result.done;
      if (result.stopped !== null) return { done, stopped: result.stopped };
    }
    return { done, stopped: null };
  }

  #plain(access: AtsAccess, hi: number, lo: number): Transaction {
    const pasid = access.pasid ?? null;
    return {
      requesterId: this.requesterId,
      pasid,
      hi,
      lo,
      write: access.write === true,
      privileged: pasid !== null && access.privileged === true,
    };
  }

  /** Translated requests carry no PASID here: a function need not, whatever ECAP.PTRS says. */
  #translated(access: AtsAccess, entry: AtcEntry, hi: number, lo: number): Transaction {
    const address = entry.translated + offsetIn(entry, hi, lo);
    return {
      requesterId: this.requesterId,
      hi: Math.floor(address / 0x1_0000_0000),
      lo: address >>> 0,
      write: access.write === true,
      translated: true,
    };
  }
}

/** The offset of an address in the entry's block. */
function offsetIn(entry: AtcEntry, hi: number, lo: number): number {
  if (entry.sizeBits <= 31) return lo & ((1 << entry.sizeBits) - 1);
  const high = hi & (2 ** (entry.sizeBits - 32) - 1);
  return (high >>> 0) * 0x1_0000_0000 + (lo >>> 0);
}
