// A PCIe function that uses ATS: its accesses go through its Address Translation Cache.

import { Atc, type AtcEntry, type AtcInvalidation } from '../../cache-atc.ts';
import type { AtsCompletion } from './ats.ts';
import type { Endpoint } from './endpoint.ts';
import type { PageResponse } from './pri-queue.ts';
import type { SmmuV3 } from './smmu.ts';
import type { Outcome, Transaction } from './transaction.ts';

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

/** The translation agent gave no translation: the function may ask for the page by PRI, or gives up. */
export interface Denied {
  readonly kind: 'denied';
  readonly completion: AtsCompletion;
}

export interface AtsAccessResult {
  readonly done: number;
  /** What stopped it: null where all bytes were transferred. */
  readonly stopped: Exclude<Outcome, { kind: 'translated' }> | Denied | 'bus' | null;
}

export interface AtsFunctionOptions {
  /** Entries of the ATC. */
  readonly entries?: number;
  /** A PRG Response Message came. */
  readonly onPageResponse?: (response: PageResponse) => void;
}

export class AtsFunction implements Endpoint {
  readonly streamId: number;
  readonly atc: Atc;
  readonly #smmu: SmmuV3;
  readonly #onPageResponse: (response: PageResponse) => void;

  constructor(smmu: SmmuV3, streamId: number, options: AtsFunctionOptions = {}) {
    this.#smmu = smmu;
    this.streamId = streamId;
    this.atc = new Atc(options.entries);
    this.#onPageResponse = options.onPageResponse ?? (() => {});
    smmu.attachEndpoint(streamId, this);
  }

  /** Enables or disables ATS; disabling empties the ATC. */
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

  /** The function's translation of an address: from the ATC, or asked for. */
  resolve(access: AtsAccess): AtcEntry | Denied {
    const pasid = access.pasid ?? null;
    const privileged = pasid !== null && access.privileged === true;
    const { hi, lo } = access;
    const known = this.atc.lookup(hi, lo, pasid, privileged);
    if (known !== null && allows(known, access)) return known;
    const completion = this.#smmu.requestTranslation({
      streamId: this.streamId,
      substreamId: pasid,
      hi,
      lo,
      write: access.write === true,
      execute: access.execute === true,
      privileged,
    });
    const [entry] = completion.entries;
    if (entry === undefined || !allows(entry, access)) return { kind: 'denied', completion };
    this.atc.fill(hi, lo, pasid, privileged, entry);
    return entry;
  }

  /** What becomes of an access: as a Translated transaction where ATS is enabled, else as an ordinary one. */
  translate(access: AtsAccess): Outcome | Denied {
    const { hi, lo } = access;
    if (!this.atc.enabled) return this.#smmu.translate(this.#plain(access, hi, lo));
    const entry = this.resolve(access);
    if ('kind' in entry) return entry;
    return this.#smmu.translate(this.#translated(access, entry, hi, lo));
  }

  /** Transfers `data.length` bytes, as SmmuV3.access() does. */
  access(access: AtsAccess, data: Uint8Array): AtsAccessResult {
    if (!this.atc.enabled) return this.#smmu.access(this.#plain(access, access.hi, access.lo), data);
    let done = 0;
    while (done < data.length) {
      const low = (access.lo >>> 0) + done;
      const lo = low >>> 0;
      const hi = (access.hi + (low > 0xffff_ffff ? 1 : 0)) >>> 0;
      const entry = this.resolve({ ...access, hi, lo });
      if ('kind' in entry) return { done, stopped: entry };
      const left = 2 ** entry.sizeBits - offsetIn(entry, hi, lo);
      const part = data.subarray(done, done + Math.min(left, data.length - done));
      const result = this.#smmu.access(this.#translated(access, entry, hi, lo), part);
      done += result.done;
      if (result.stopped !== null) return { done, stopped: result.stopped };
    }
    return { done, stopped: null };
  }

  #plain(access: AtsAccess, hi: number, lo: number): Transaction {
    const pasid = access.pasid ?? null;
    return {
      streamId: this.streamId,
      substreamId: pasid,
      hi,
      lo,
      write: access.write === true,
      instruction: pasid !== null && access.execute === true,
      privileged: pasid !== null && access.privileged === true,
      stallable: false,
    };
  }

  /** Translated transactions carry no PASID where the SMMU does not support it there. */
  #translated(access: AtsAccess, entry: AtcEntry, hi: number, lo: number): Transaction {
    const address = entry.translated + offsetIn(entry, hi, lo);
    return {
      streamId: this.streamId,
      hi: Math.floor(address / 0x1_0000_0000),
      lo: address >>> 0,
      write: access.write === true,
      translated: true,
      stallable: false,
    };
  }
}

function allows(entry: AtcEntry, access: AtsAccess): boolean {
  if (access.write === true) return entry.write;
  if (access.execute === true && (access.pasid ?? null) !== null) return entry.execute;
  return entry.read;
}

function offsetIn({ sizeBits }: AtcEntry, hi: number, lo: number): number {
  if (sizeBits <= 32) return (lo >>> 0) % 2 ** sizeBits;
  return ((hi >>> 0) % 2 ** (sizeBits - 32)) * 0x1_0000_0000 + (lo >>> 0);
}
