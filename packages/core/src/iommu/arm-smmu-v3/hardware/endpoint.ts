// What an SMMU knows of the PCIe functions behind it that use ATS and PRI: where its outgoing messages go (§4.5).

import type { AtcInvalidation } from '../../caches/cache-atc.ts';
import type { PageResponse } from './queues/pri-queue.ts';

export interface Endpoint {
  /** An ATS Invalidate Request. False: no completion came in time (§3.9.1.4). */
  invalidate(request: AtcInvalidation): boolean;
  /** A PRG Response Message: to CMD_PRI_RESP, or automatic. */
  pageResponse(response: PageResponse): void;
}
