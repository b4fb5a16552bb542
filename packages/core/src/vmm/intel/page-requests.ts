import { readField } from '../../base/bit-fields.ts';
import { hi32, lo32 } from '../../base/u64.ts';
import * as abi from '../../abi/iommufd.ts';
import type { PageRequestQueue } from '../../iommu/intel/hardware/queues/page-request-queue.ts';
import { PAGE_GRP_RESP_DSC, RESPONSE_CODE } from '../../iommu/intel/spec/invalidation.ts';
import type { PageFaultGroup, PageFaultQueue } from '../page-fault-queue.ts';
import type { Requester, Requesters } from './requesters.ts';

/**
 * Page requests that wait for the guest (VT-d §7.4, §7.6): page faults of the kernel's queue become descriptors of the
 * guest's page request queue, and page_grp_resp_dsc becomes the answer.
 */
export class GuestPageRequests {
  readonly #faults: PageFaultQueue;
  readonly #queue: PageRequestQueue;
  readonly #requesters: Requesters;
  readonly #waiting = new Map<PageFaultGroup, Requester>();

  constructor(faults: PageFaultQueue, queue: PageRequestQueue, requesters: Requesters) {
    this.#faults = faults;
    this.#queue = queue;
    this.#requesters = requesters;
  }

  /** Hands the guest all that has come. False where there was nothing. */
  deliver(): boolean {
    let any = false;
    for (let group = this.#faults.take(); group !== null; group = this.#faults.take()) {
      any = true;
      const requester = this.#requesters.ofDevice(group.device);
      if (requester === undefined) this.#faults.answer(group, false);
      else this.#deliver(requester, group);
    }
    return any;
  }

  #deliver(requester: Requester, group: PageFaultGroup): void {
    for (const [index, fault] of group.faults.entries()) {
      // Table 31: what does not fit is answered as served, and asked for again.
      if (this.#queue.overflowed || this.#queue.full) {
        if (!this.#queue.overflowed) this.#queue.overflow();
        this.#faults.answer(group, true);
        return;
      }
      const has = (permission: number): boolean => (fault.permissions & permission) !== 0;
      const written = this.#queue.write({
        requesterId: requester.id,
        pasid: fault.pasid,
        hi: hi32(fault.address),
        lo: lo32(fault.address),
        prgIndex: fault.group,
        read: has(abi.IOMMU_PGFAULT_PERM_READ),
        write: has(abi.IOMMU_PGFAULT_PERM_WRITE),
        execute: has(abi.IOMMU_PGFAULT_PERM_EXEC),
        privileged: has(abi.IOMMU_PGFAULT_PERM_PRIV),
        last: index === group.faults.length - 1,
      });
      if (!written) {
        this.#faults.answer(group, false);
        return;
      }
    }
    this.#waiting.set(group, requester);
  }

  /** page_grp_resp_dsc (§7.6.1): the oldest group of that name. What names none does nothing. */
  respond(words: Uint32Array): void {
    const id = readField(PAGE_GRP_RESP_DSC.RID, words);
    const index = readField(PAGE_GRP_RESP_DSC.PRGI, words);
    const withPasid = readField(PAGE_GRP_RESP_DSC.PP, words) !== 0;
    const pasid = withPasid ? readField(PAGE_GRP_RESP_DSC.PASID, words) : null;
    for (const [group, requester] of this.#waiting) {
      if (requester.id !== id || group.pasid !== pasid || group.faults[0]!.group !== index) continue;
      this.#waiting.delete(group);
      this.#faults.answer(group, readField(PAGE_GRP_RESP_DSC.RC, words) === RESPONSE_CODE.SUCCESS);
      return;
    }
  }

  /** These requests have another domain: the kernel has answered what waited. */
  forget(requester: Requester, pasid: number | null): void {
    const its = (group: PageFaultGroup): boolean =>
      group.device === requester.device.id && group.pasid === pasid;
    for (const group of this.#waiting.keys()) if (its(group)) this.#waiting.delete(group);
    this.#faults.forget(its);
  }
}
