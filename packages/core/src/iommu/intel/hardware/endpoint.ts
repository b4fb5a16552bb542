// What remapping hardware knows of the PCIe functions behind it that use ATS and PRI: where its messages go.

import type { AtcInvalidation } from '../../caches/cache-atc.ts';

/** A Page Group Response (§7.6.1). */
export interface PageResponse {
  readonly requesterId: number;
  readonly pasid: number | null;
  readonly prgIndex: number;
  /** RESPONSE_CODE */
  readonly code: number;
}

export interface Endpoint {
  /**
   * An Invalidation Request with its ITag. True: completed. False: no completion came in time (§4.3).
   * 'pending': IntelIommu.completeInvalidation() will tell.
   */
  invalidate(request: AtcInvalidation, itag: number): boolean | 'pending';
  /** A Page Group Response: software's or an automatic one. */
  pageResponse(response: PageResponse): void;
}
