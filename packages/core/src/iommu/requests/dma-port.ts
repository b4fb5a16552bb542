// Where a function's requests enter the system, in the words of PCI Express and of no vendor: what the IOMMU that a
// function is behind offers to it.

import type { AtcEntry, AtcInvalidation } from '../caches/cache-atc.ts';

/** An address of a function's own, and whose it is. */
export interface DmaAddress {
  readonly address: bigint;
  /** Null: without a PASID TLP prefix. */
  readonly pasid: number | null;
  /** Privileged Mode Requested and Execute Requested: they count with a PASID alone. */
  readonly privileged?: boolean;
  readonly execute?: boolean;
}

/** A Memory Read or Memory Write of any length; what crosses pages is several packets. */
export interface MemoryRequest extends DmaAddress {
  readonly write: boolean;
  /** AT = 10b: the address is from a Translation Completion. */
  readonly translated?: boolean;
}

/** A request that did not pass. */
export interface DmaAbort {
  /** 'stalled': it waits for software, and what it was to transfer is lost. */
  readonly kind: 'aborted' | 'stalled';
  /** Bytes that were transferred before. */
  readonly done: number;
  /** For people. */
  readonly reason: string;
  /** Of one that is stalled: has `listener` called once, when software lets it go on (from `done`), or ends it. */
  readonly onResumed?: (listener: (goesOn: boolean) => void) => void;
}

/** Null: every byte was transferred. */
export type DmaResult = DmaAbort | null;

/** An ATS Translation Request; without `write`, No Write is set. */
export interface TranslationRequest extends DmaAddress {
  readonly write: boolean;
}

/** One translation; where `untranslatedOnly`, the address may be used untranslated alone (bit U). */
export interface TranslationEntry extends AtcEntry {
  readonly untranslatedOnly?: boolean;
}

/** A Translation Completion. */
export interface TranslationCompletion {
  /** Unsupported Request and Completer Abort carry no entries. */
  readonly status: 'success' | 'UR' | 'CA';
  readonly entries: readonly TranslationEntry[];
}

/** A Page Request Message: PCI Express Base, §10.4.1. */
export interface PageRequestMessage extends DmaAddress {
  /** 9 bits. */
  readonly prgIndex: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly last: boolean;
}

/** PCI Express Base, §10.4.2: Response Code. */
export const PRG_RESPONSE_CODE = { SUCCESS: 0, INVALID_REQUEST: 1, RESPONSE_FAILURE: 15 } as const;

/** A PRG Response Message. */
export interface PageResponseMessage {
  readonly pasid: number | null;
  readonly prgIndex: number;
  /** {@link PRG_RESPONSE_CODE}, or a reserved value. */
  readonly code: number;
}

/** What reaches a function from its IOMMU. */
export interface DmaEndpoint {
  /** An Invalidate Request. False: no completion comes. */
  invalidate(request: AtcInvalidation): boolean;
  pageResponse(response: PageResponseMessage): void;
}

/** A function's way through its IOMMU to memory. */
export interface DmaPort {
  /** Bus, device and function. */
  readonly requesterId: number;
  /** Writes `data`, or fills it. */
  access(request: MemoryRequest, data: Uint8Array): DmaResult;
  requestTranslation(request: TranslationRequest): TranslationCompletion;
  /** The answer comes to the endpoint, perhaps before this returns. */
  requestPage(message: PageRequestMessage): void;
  /** Names who gets what the IOMMU sends. */
  connect(endpoint: DmaEndpoint): void;
}
