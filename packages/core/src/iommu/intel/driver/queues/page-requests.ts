import { readField, readField64 } from '../../../../base/bit-fields.ts';
import { hex, lo32 } from '../../../../base/u64.ts';
import {
  IOMMU_PGFAULT_PERM_EXEC,
  IOMMU_PGFAULT_PERM_PRIV,
  IOMMU_PGFAULT_PERM_READ,
  IOMMU_PGFAULT_PERM_WRITE,
} from '../../../../abi/iommufd.ts';
import {
  IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
  IOMMU_FAULT_PAGE_REQUEST_PASID_VALID,
  IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID,
  reportDeviceFault,
} from '../../../iopf.ts';
import { PAGE_REQ_BYTES, PAGE_REQ_DSC } from '../../spec/faults.ts';
import { RESPONSE_CODE } from '../../spec/invalidation.ts';
import { OFFSET, PRS } from '../../spec/registers.ts';
import { pageGroupResponse } from './descriptors.ts';
import type { DmarUnit } from '../dmar-unit.ts';
import { PRQ_ORDER } from '../limits.ts';

// The page request queue: drivers/iommu/intel/prq.c.

const PAGES = 1 << PRQ_ORDER;
const BYTES = PAGES * 4096;
/** PRQ_RING_MASK */
const RING_MASK = BYTES - PAGE_REQ_BYTES;
/** PRQ_DEPTH: page requests that a function may have outstanding. */
export const PRQ_DEPTH = BYTES / PAGE_REQ_BYTES;
/** Flags of a request with one. */
const WITH_PASID = IOMMU_FAULT_PAGE_REQUEST_PASID_VALID | IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID;
/** __VIRTUAL_MASK_SHIFT of a kernel with five levels: the host of a unit that has them too. */
const CANONICAL_BITS = 57;

function isCanonical(address: bigint): boolean {
  return BigInt.asUintN(64, BigInt.asIntN(CANONICAL_BITS, address)) === address;
}

export class PageRequestQueue {
  readonly base: number;
  readonly #unit: DmarUnit;

  constructor(unit: DmarUnit) {
    this.#unit = unit;
    this.base = unit.kernel.physical.allocate(PAGES);
  }

  /** intel_iommu_enable_prq(), after its interrupt was set up. */
  program(): void {
    const { mmio } = this.#unit;
    mmio.write64(OFFSET.PQH, 0n);
    mmio.write64(OFFSET.PQT, 0n);
    mmio.write64(OFFSET.PQA, BigInt(this.base) | BigInt(PRQ_ORDER));
  }

  /** intel_iommu_finish_prq() */
  stop(): void {
    for (const offset of [OFFSET.PQH, OFFSET.PQT, OFFSET.PQA]) this.#unit.mmio.write64(offset, 0n);
  }

  free(): void {
    this.#unit.kernel.physical.free(this.base, PAGES);
  }

  #index(offset: number): number {
    return lo32(this.#unit.mmio.read64(offset)) & RING_MASK;
  }

  /** prq_event_thread() */
  serve(): void {
    const { mmio } = this.#unit;
    mmio.write32(OFFSET.PRS, PRS.PPR.inPlace);
    const tail = this.#index(OFFSET.PQT);
    for (let head = this.#index(OFFSET.PQH); head !== tail; head = (head + PAGE_REQ_BYTES) & RING_MASK)
      this.#take(this.#load(head));
    mmio.write64(OFFSET.PQH, BigInt(tail));
    if ((mmio.read32(OFFSET.PRS) & PRS.PRO.inPlace) !== 0) this.#clearOverflow();
  }

  #clearOverflow(): void {
    const unit = this.#unit;
    unit.log('PRQ overflow detected');
    if (this.#index(OFFSET.PQH) !== this.#index(OFFSET.PQT)) return;
    // iopf_queue_discard_partial(): what came of their groups may be lost.
    for (const device of unit.devices.values()) if (device.faults !== null) device.faults.partial.length = 0;
    unit.mmio.write32(OFFSET.PRS, PRS.PRO.inPlace);
    unit.log('PRQ overflow cleared');
  }

  /** True while one of a function's requests, of that PASID or of none, is still in the queue. */
  holds(requesterId: number, pasid: number): boolean {
    const tail = this.#index(OFFSET.PQT);
    for (let head = this.#index(OFFSET.PQH); head !== tail; head = (head + PAGE_REQ_BYTES) & RING_MASK) {
      const words = this.#load(head);
      if (readField(PAGE_REQ_DSC.RID, words) !== requesterId) continue;
      const its = readField(PAGE_REQ_DSC.PP, words) !== 0 ? readField(PAGE_REQ_DSC.PASID, words) : 0;
      if (its === pasid) return true;
    }
    return false;
  }

  get overflowed(): boolean {
    return (this.#unit.mmio.read32(OFFSET.PRS) & PRS.PRO.inPlace) !== 0;
  }

  #load(head: number): Uint32Array {
    const words = new Uint32Array(PAGE_REQ_BYTES / 4);
    const word = new Uint32Array(2);
    for (let i = 0; i < words.length; i += 2) {
      this.#unit.kernel.physical.load64(this.base + head + i * 4, word);
      words.set(word, i);
    }
    return words;
  }

  #take(words: Uint32Array): void {
    const has = (field: (typeof PAGE_REQ_DSC)['RDR']): boolean => readField(field, words) !== 0;
    const address = readField64(PAGE_REQ_DSC.ADDR, words) << 12n;
    const [read, write] = [has(PAGE_REQ_DSC.RDR), has(PAGE_REQ_DSC.WRR)];
    if (!isCanonical(address)) return this.#refuse(words, 'Address is not canonical');
    if (has(PAGE_REQ_DSC.PMR) && (read || write))
      return this.#refuse(words, 'Page request in Privilege Mode');
    if (has(PAGE_REQ_DSC.EXR) && read) return this.#refuse(words, 'Execution request not supported');
    const last = has(PAGE_REQ_DSC.LPIG);
    // A stop marker: nothing is asked.
    if (last && !read && !write) return;
    const device = this.#unit.devices.get(readField(PAGE_REQ_DSC.RID, words));
    if (device === undefined) return this.#refuse(words, 'no such device');
    const bit = (on: boolean, value: number): number => (on ? value : 0);
    // intel_prq_report()
    reportDeviceFault(this.#unit.kernel, device, {
      flags: bit(last, IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE) | bit(has(PAGE_REQ_DSC.PP), WITH_PASID),
      pasid: readField(PAGE_REQ_DSC.PASID, words),
      grpid: readField(PAGE_REQ_DSC.PRGI, words),
      perm:
        bit(read, IOMMU_PGFAULT_PERM_READ) |
        bit(write, IOMMU_PGFAULT_PERM_WRITE) |
        bit(has(PAGE_REQ_DSC.EXR), IOMMU_PGFAULT_PERM_EXEC) |
        bit(has(PAGE_REQ_DSC.PMR), IOMMU_PGFAULT_PERM_PRIV),
      addr: address,
    });
  }

  // handle_bad_prq_event()
  #refuse(words: Uint32Array, why: string): void {
    const requesterId = readField(PAGE_REQ_DSC.RID, words);
    this.#unit.log(`Invalid page request of ${hex(requesterId)}: ${why}`);
    if (readField(PAGE_REQ_DSC.LPIG, words) === 0) return;
    const pasid = readField(PAGE_REQ_DSC.PP, words) !== 0 ? readField(PAGE_REQ_DSC.PASID, words) : null;
    const group = readField(PAGE_REQ_DSC.PRGI, words);
    this.#unit.invalidate([pageGroupResponse(requesterId, pasid, group, RESPONSE_CODE.INVALID_REQUEST)]);
  }
}
