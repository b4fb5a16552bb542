// A PCIe function with an IOTLB of its own (ATS): its accesses use the translations that it was given.

import { Atc, type AtcEntry, type AtcInvalidation } from '../../cache-atc.ts';
import type { AmdIommu } from './amd-iommu.ts';
import type { AtsCompletion } from './ats.ts';
import type { Endpoint } from './endpoint.ts';
import type { PageResponse } from './ppr-log.ts';
import type { Aborted, Outcome, Transaction } from './transaction.ts';

/** An access of the function, by untranslated address. */
export interface AtsAccess {
  readonly pasid?: number | null;
  readonly hi: number;
  readonly lo: number;
  readonly write?: boolean;
  /** Both count with a PASID alone. */
  readonly execute?: boolean;
  readonly privileged?: boolean;
}

/** The IOMMU gave no translation: the function may ask for the page by PRI, or gives up. */
export interface Denied {
  readonly kind: 'denied';
  readonly completion: AtsCompletion;
}

export interface AtsAccessResult {
  readonly done: number;
  /** What stopped it: null where all bytes were transferred. */
  readonly stopped: Aborted | Denied | 'bus' | null;
}

export interface AtsFunctionOptions {
  /** Entries of the IOTLB. */
  readonly entries?: number;
  /** A PRG Response Message came. */
  readonly onPageResponse?: (response: PageResponse) => void;
}

export class AtsFunction implements Endpoint {
  readonly deviceId: number;
  readonly atc: Atc;
  readonly #iommu: AmdIommu;
  readonly #onPageResponse: (response: PageResponse) => void;

  constructor(iommu: AmdIommu, deviceId: number, options: AtsFunctionOptions = {}) {
    this.#iommu = iommu;
    this.deviceId = deviceId;
    this.atc = new Atc(options.entries);
    this.#onPageResponse = options.onPageResponse ?? (() => {});
    iommu.attachEndpoint(deviceId, this);
  }

  /** Enables or disables ATS; disabling empties the IOTLB. */
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

  /** The function's translation of an address: from the IOTLB, or asked for. Null: untranslated requests alone. */
  resolve(access: AtsAccess): AtcEntry | Denied | null {
    const pasid = access.pasid ?? null;
    const privileged = pasid !== null && access.privileged === true;
    const { hi, lo } = access;
    const known = this.atc.lookup(hi, lo, pasid, privileged);
    if (known !== null && allows(known, access)) return known;
    const completion = this.#iommu.requestTranslation({
      deviceId: this.deviceId,
      pasid,
      hi,
      lo,
      write: access.write === true,
      execute: access.execute === true,
      privileged,
    });
    const { entry } = completion;
    if (entry?.untranslatedOnly === true) return null;
    if (entry === null || !allows(entry, access)) return { kind: 'denied', completion };
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

  /** Transfers `data.length` bytes, as AmdIommu.access() does. */
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
      deviceId: this.deviceId,
      pasid,
      hi,
      lo,
      write: access.write === true,
      execute: access.execute === true,
      privileged: access.privileged === true,
    };
  }

  #translated(access: AtsAccess, entry: AtcEntry, hi: number, lo: number): Transaction {
    const address = entry.translated + offsetIn(entry, hi, lo);
    return {
      deviceId: this.deviceId,
      hi: Math.floor(address / 0x1_0000_0000),
      lo: address >>> 0,
      write: access.write === true,
      translated: true,
    };
  }
}

function allows(entry: AtcEntry, access: AtsAccess): boolean {
  if (access.write === true) return entry.write;
  if (access.execute === true && (access.pasid ?? null) !== null) return entry.execute;
  return entry.read;
}

/** The offset of an address in the entry's block. */
function offsetIn(entry: AtcEntry, hi: number, lo: number): number {
  if (entry.sizeBits <= 31) return lo & ((1 << entry.sizeBits) - 1);
  const high = hi & (2 ** (entry.sizeBits - 32) - 1);
  return (high >>> 0) * 0x1_0000_0000 + (lo >>> 0);
}
