import { fail, failed, type Result } from '../../../../base/result.ts';
import { ENOMEM } from '../../../../abi/errno.ts';
import { IOMMU_NO_PASID } from '../../../driver.ts';
import {
  deviceTlb,
  iotlbDomain,
  iotlbPages,
  ORDER_ALL,
  pasidDeviceTlb,
  pasidIotlbAll,
  pasidIotlbPages,
  type Descriptor,
} from '../queues/descriptors.ts';
import type { IntelDevice } from '../device.ts';
import type { DmarUnit } from '../dmar-unit.ts';
import { QI_BATCH_MAX } from '../limits.ts';

// Which caches may hold something of a domain, and how they are told that it changed: drivers/iommu/intel/cache.c.

export type CacheTagType = 'iotlb' | 'devtlb' | 'nesting-iotlb' | 'nesting-devtlb';

/** struct cache_tag. */
export interface CacheTag {
  readonly type: CacheTagType;
  readonly unit: DmarUnit;
  /** Whose translation cache it is, of a tag for one. */
  readonly device: IntelDevice | null;
  readonly did: number;
  readonly pasid: number;
  users: number;
}

/** 2^`order` pages from `page` on. */
interface PageBlock {
  readonly page: number;
  readonly order: number;
}

const HIGH = 0x1_0000_0000;

/** The bits of a page number, up to the highest that is set: fls_long(). */
function bitLength(hi: number, lo: number): number {
  return hi !== 0 ? 64 - Math.clz32(hi) : 32 - Math.clz32(lo);
}

/** calculate_psi_aligned_address(): the smallest aligned power of two that has both pages. */
export function alignedBlock(start: number, last: number): PageBlock {
  const hi = Math.floor(start / HIGH) ^ Math.floor(last / HIGH);
  const lo = (start ^ last) >>> 0;
  const order = bitLength(hi, lo);
  if (order >= ORDER_ALL) return { page: 0, order: ORDER_ALL };
  return { page: start - (start % 2 ** order), order };
}

function isDeviceTlb(type: CacheTagType): boolean {
  return type === 'devtlb' || type === 'nesting-devtlb';
}

/** struct qi_batch: descriptors that go to a unit together. */
class Batch {
  #unit: DmarUnit | null = null;
  #descriptors: Descriptor[] = [];

  /** Descriptors go to this unit from now on. */
  start(unit: DmarUnit): void {
    if (this.#unit !== unit) this.flush();
    this.#unit = unit;
  }

  add(descriptor: Descriptor): void {
    this.#descriptors.push(descriptor);
    if (this.#descriptors.length === QI_BATCH_MAX) this.flush();
  }

  flush(): void {
    if (this.#descriptors.length > 0) this.#unit!.invalidate(this.#descriptors);
    this.#descriptors = [];
  }
}

/** The tags of one domain. Those of one unit are next to each other, so that they share batches. */
export class CacheTags {
  readonly #tags: CacheTag[] = [];
  /** intel_domain_use_piotlb(): its translations are tagged by PASID. */
  readonly #byPasid: boolean;
  #batch: Batch | null = null;

  constructor(byPasid: boolean) {
    this.#byPasid = byPasid;
  }

  get all(): readonly CacheTag[] {
    return this.#tags;
  }

  /** `__cache_tag_assign_domain()`, and `__cache_tag_assign_parent_domain()` for tags of nesting. */
  assignDomain(device: IntelDevice, did: number, pasid: number, nesting: boolean): Result<void> {
    const { kernel } = device.unit;
    if (this.#batch === null) {
      if (kernel.failpoint()) return fail(ENOMEM, 'no memory for a batch of descriptors');
      this.#batch = new Batch();
    }
    const assigned = this.assign(device, did, pasid, nesting ? 'nesting-iotlb' : 'iotlb');
    if (failed(assigned) || !device.atsEnabled) return assigned;
    const second = this.assign(device, did, pasid, nesting ? 'nesting-devtlb' : 'devtlb');
    if (failed(second)) this.#unassign(device, did, pasid, nesting ? 'nesting-iotlb' : 'iotlb');
    return second;
  }

  unassignDomain(device: IntelDevice, did: number, pasid: number, nesting: boolean): void {
    this.#unassign(device, did, pasid, nesting ? 'nesting-iotlb' : 'iotlb');
    if (device.atsEnabled) this.#unassign(device, did, pasid, nesting ? 'nesting-devtlb' : 'devtlb');
  }

  /** cache_tag_assign() */
  assign(device: IntelDevice, did: number, pasid: number, type: CacheTagType): Result<void> {
    const { unit } = device;
    if (unit.kernel.failpoint()) return fail(ENOMEM, 'no memory for a cache tag');
    const known = this.#find(device, did, pasid, type);
    if (known >= 0) {
      this.#tags[known]!.users++;
      return;
    }
    const tag = { type, unit, device: isDeviceTlb(type) ? device : null, did, pasid, users: 1 };
    const before = this.#tags.findLastIndex((each) => each.unit === unit);
    this.#tags.splice(before + 1, 0, tag);
  }

  #unassign(device: IntelDevice, did: number, pasid: number, type: CacheTagType): void {
    const at = this.#find(device, did, pasid, type);
    if (at >= 0 && --this.#tags[at]!.users === 0) this.#tags.splice(at, 1);
  }

  // cache_tage_match()
  #find(device: IntelDevice, did: number, pasid: number, type: CacheTagType): number {
    return this.#tags.findIndex(
      (tag) =>
        tag.type === type &&
        tag.did === did &&
        tag.pasid === pasid &&
        (isDeviceTlb(type) ? tag.device === device : tag.unit === device.unit),
    );
  }

  // ---- invalidation ----

  /**
   * cache_tag_flush_range(): pages `start` to `last` have changed. With `leaf`, tables that lead to them have not.
   */
  flushRange(start: number, last: number, leaf: boolean): void {
    const block = alignedBlock(start, last);
    this.#eachTag((batch, tag) => {
      switch (tag.type) {
        case 'iotlb':
        case 'nesting-iotlb':
          return this.#flushIotlb(batch, tag, block, leaf);
        case 'nesting-devtlb':
          // It caches what both stages made together: nobody knows which of that comes from where.
          return flushDeviceTlb(batch, tag, { page: 0, order: ORDER_ALL });
        case 'devtlb':
          return flushDeviceTlb(batch, tag, block);
      }
    });
  }

  /** cache_tag_flush_all() */
  flushAll(): void {
    this.flushRange(0, 2 ** ORDER_ALL - 1, false);
  }

  /** cache_tag_flush_range_np(): pages that were not mapped are now, which matters where that was cached. */
  flushRangeNotPresent(start: number, last: number, firstStage: boolean): void {
    const block = alignedBlock(start, last);
    this.#eachTag((batch, tag) => {
      if (!tag.unit.features.cachingMode || firstStage || isDeviceTlb(tag.type)) return;
      this.#flushIotlb(batch, tag, block, false);
    });
  }

  #eachTag(visit: (batch: Batch, tag: CacheTag) => void): void {
    if (this.#tags.length === 0) return;
    const batch = (this.#batch ??= new Batch());
    for (const tag of this.#tags) {
      batch.start(tag.unit);
      visit(batch, tag);
    }
    batch.flush();
  }

  // cache_tag_flush_iotlb()
  #flushIotlb(batch: Batch, tag: CacheTag, { page, order }: PageBlock, leaf: boolean): void {
    const { features } = tag.unit;
    const { did, pasid } = tag;
    if (this.#byPasid) {
      batch.add(
        order >= ORDER_ALL ? pasidIotlbAll(did, pasid) : pasidIotlbPages(did, pasid, page, order, leaf),
      );
    } else if (!features.pageSelective || order > features.maxAddressMask) {
      batch.add(iotlbDomain(features, did));
    } else batch.add(iotlbPages(features, did, page, order, leaf));
  }
}

// cache_tag_flush_devtlb_psi()
function flushDeviceTlb(batch: Batch, tag: CacheTag, { page, order }: PageBlock): void {
  const device = tag.device!;
  for (let times = device.extraFlush ? 2 : 1; times > 0; times--) {
    batch.add(
      tag.pasid === IOMMU_NO_PASID
        ? deviceTlb(device, page, order)
        : pasidDeviceTlb(device, tag.pasid, page, order),
    );
  }
}
