// Page requests of devices (§7.4.1): the tables they have to pass, the implicit invalidation, and the queue.

import { ADDRESS_TYPE, FAULT, FAULT_TYPE, type FaultCondition } from '../../spec/faults.ts';
import { RESPONSE_CODE } from '../../spec/invalidation.ts';
import { PGTT } from '../../spec/pasid.ts';
import { TTM } from '../../spec/registers.ts';
import type { IntelFeatures } from '../registers/config.ts';
import type { ConfigTable, Route } from '../configuration/config-table.ts';
import type { PageResponse } from '../endpoint.ts';
import { type Iotlb, regionOf } from '../translation/iotlb.ts';
import type { PageRequest, PageRequestQueue } from './page-request-queue.ts';
import type { Fault, FaultedRequest } from '../transaction.ts';

export class PageRequests {
  readonly #features: IntelFeatures;
  readonly #table: ConfigTable;
  readonly #iotlb: Iotlb;
  readonly #queue: PageRequestQueue;
  readonly #report: (fault: Fault, request: FaultedRequest) => boolean;

  constructor(
    features: IntelFeatures,
    table: ConfigTable,
    iotlb: Iotlb,
    queue: PageRequestQueue,
    report: (fault: Fault, request: FaultedRequest) => boolean,
  ) {
    this.#features = features;
    this.#table = table;
    this.#iotlb = iotlb;
    this.#queue = queue;
    this.#report = report;
  }

  /** Takes a request: into the queue (null), or answers it at once where a response is required. */
  request(request: PageRequest): PageResponse | null {
    const route = this.#route(request);
    const marker = this.#features.sms && isStopMarker(request);
    if ('condition' in route) {
      this.#report(route, faulted(request));
      return marker ? null : respond(request, RESPONSE_CODE.INVALID_REQUEST);
    }
    // Table 31: what does not fit is answered as served, and asked for again.
    if (this.#queue.overflowed || this.#queue.full) {
      if (!this.#queue.overflowed) this.#queue.overflow();
      return marker ? null : respond(request, RESPONSE_CODE.SUCCESS);
    }
    this.#invalidate(route, request);
    if (this.#queue.write(request)) return null;
    return respond(request, RESPONSE_CODE.INVALID_REQUEST);
  }

  /** The PASID table entry of the request, or the fault (Table 30). */
  #route(request: PageRequest): Route | Fault {
    const table = this.#table;
    const wrong: FaultCondition | null =
      table.root.ttm === TTM.LEGACY ? FAULT.RTA_3 : table.rootFault(request.pasid !== null);
    if (wrong !== null) return { condition: wrong, fpd: false };
    const context = table.context(request.requesterId);
    if (context === null) return table.fault!;
    if (context.mode === 'legacy') return { condition: FAULT.RTA_3, fpd: false };
    const { fpd } = context;
    if (context.inconsistent) return { condition: FAULT.SCT_4_3, fpd };
    if (!context.pageRequests) return { condition: FAULT.SCT_8, fpd };
    return table.route(request.requesterId, context, request.pasid) ?? table.fault!;
  }

  /** Table 27: stale translations of the address must not make the device ask again. */
  #invalidate(route: Route, request: PageRequest): void {
    const { did, pgtt } = route.entry;
    if (pgtt === PGTT.FIRST_STAGE) {
      this.#iotlb.invalidatePasidPages(did, route.pasid, request.hi, request.lo & ~0xfff, 0, false);
    } else if (pgtt === PGTT.NESTED) this.#iotlb.invalidateDomain(did);
    else {
      const range = regionOf(request.hi, request.lo & ~0xfff, 0, this.#features.mgaw);
      this.#iotlb.invalidatePages(did, range, false);
    }
  }
}

/** PCI Express: no more requests with the PASID will come. */
function isStopMarker(request: PageRequest): boolean {
  return request.pasid !== null && request.last && !request.read && !request.write;
}

function respond(request: PageRequest, code: number): PageResponse | null {
  if (!request.last) return null;
  return { requesterId: request.requesterId, pasid: request.pasid, prgIndex: request.prgIndex, code };
}

function faulted(request: PageRequest): FaultedRequest {
  return {
    requesterId: request.requesterId,
    pasid: request.pasid,
    hi: request.hi,
    lo: request.lo,
    type: FAULT_TYPE.PAGE_REQUEST,
    addressType: ADDRESS_TYPE.UNTRANSLATED,
    privileged: request.privileged,
    execute: request.execute,
  };
}
