// What an IOMMU knows of the PCIe functions behind it that use ATS and PRI: where its outgoing messages go.

import type { AtcInvalidation } from '../../caches/cache-atc.ts';
import type { PageResponse } from './queues/ppr-log.ts';

export interface Endpoint {
  /** An ATS Invalidate Request. False: no completion comes (§2.5.8). */
  invalidate(request: AtcInvalidation): boolean;
  /** A PRG Response Message: to COMPLETE_PPR_REQUEST, or automatic. */
  pageResponse(response: PageResponse): void;
}
