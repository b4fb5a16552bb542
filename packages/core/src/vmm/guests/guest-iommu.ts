import type { GuestPages, GuestPageTable } from './guest-pages.ts';

/** An address space of a guest: tables, and the number that the guest tells them by (ASID, domain id). */
export interface GuestSpace {
  readonly tables: GuestPageTable;
  readonly id: number;
}

/** A page that a device waits for. */
export interface GuestPageRequest {
  readonly device: number;
  /** 0 without a PASID. */
  readonly pasid: number;
  /** Of the page. */
  readonly address: bigint;
  readonly write: boolean;
  /** What the answer has to name: a stall tag, a PRG index. */
  readonly tag: number;
}

/**
 * A guest's driver of its IOMMU. One for each vendor, each as short as a driver can be. A `pasid` of 0, which it is where
 * it is left out, stands for requests without one.
 */
export interface GuestIommu {
  readonly pages: GuestPages;
  /** An empty address space. */
  space(): GuestSpace;
  attach(device: number, space: GuestSpace, pasid?: number): void;
  /** Takes an address space away; what the device reads and writes there is a fault then. */
  detach(device: number, pasid?: number): void;
  /** Lets everything of a device pass as it is. */
  bypass(device: number): void;
  /** The entry of a page has changed: neither the IOMMU nor the device may go on with the old one. */
  invalidate(device: number, space: GuestSpace, iova: bigint, pasid?: number): void;
  /** The next page request; null where there is none. */
  pageRequest(): GuestPageRequest | null;
  /** The page is there now, or will not be. */
  answer(request: GuestPageRequest, granted: boolean): void;
}
