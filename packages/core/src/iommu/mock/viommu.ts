import { fail, failed, type Result } from '../../base/result.ts';
import { big, lo32, PAGE_SIZE } from '../../base/u64.ts';
import { EEXIST, EFAULT, EINVAL, EIO, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HW_QUEUE_TYPE_SELFTEST,
  IOMMU_TEST_HW_QUEUE_MAX,
  IOMMU_TEST_INVALIDATE_FLAG_ALL,
  IOMMU_VEVENTQ_TYPE_SELFTEST,
  IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
  IOMMU_VIOMMU_TYPE_SELFTEST,
  MOCK_DEV_CACHE_ID_MAX,
  iommu_viommu_event_selftest,
  iommu_viommu_invalidate_selftest,
  iommu_viommu_selftest,
} from '../../abi/iommufd-test.ts';
import { IOMMU_HWPT_ALLOC_PASID } from '../../abi/iommufd.ts';
import type { AddressSpace } from '../../memory/process.ts';
import type { HwQueueCore, IommuDomain, Kernel, PagingDomain, ViommuCore, ViommuDriver } from '../driver.ts';
import {
  copyFullUserArray,
  copyToUserData,
  copyUserData,
  type UserData,
  type UserDataArray,
} from '../user-data.ts';
import type { MockDevice } from './device.ts';
import type { MockIommu } from './driver.ts';

// drivers/iommu/iommufd/selftest.c struct mock_viommu.

/** What the page that programs may map takes. */
const REGION_PAGES = 2;

export class MockViommu implements ViommuDriver {
  readonly core: ViommuCore;
  readonly #iommu: MockIommu;
  readonly #kernel: Kernel;
  readonly #parent: PagingDomain;
  readonly #queues: (HwQueueCore | null)[] = Array.from({ length: IOMMU_TEST_HW_QUEUE_MAX }, () => null);
  #region: { readonly pa: number; readonly offset: bigint } | null = null;

  constructor(iommu: MockIommu, core: ViommuCore, parent: PagingDomain) {
    this.#iommu = iommu;
    this.#kernel = iommu.kernel;
    this.core = core;
    this.#parent = parent;
  }

  /** mock_viommu_init(): where data is given, offers two pages to mmap(2), the first of which starts with in_data. */
  init(memory: AddressSpace, data: UserData): Result<void> {
    const { size } = iommu_viommu_selftest;
    const minLen = iommu_viommu_selftest.endOf('out_data');
    const bytes = copyUserData(memory, data, IOMMU_VIOMMU_TYPE_SELFTEST, size, minLen);
    if (failed(bytes)) return bytes;
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory for the pages');
    const pa = this.#kernel.physical.allocate(REGION_PAGES);
    const offset = this.core.allocMmap(pa, REGION_PAGES * PAGE_SIZE);
    if (failed(offset)) {
      this.#kernel.physical.free(pa, REGION_PAGES);
      return offset;
    }
    this.#region = { pa, offset };
    const value = iommu_viommu_selftest.read(bytes);
    const word = new Uint8Array(4);
    new DataView(word.buffer).setUint32(0, value.in_data, true);
    this.#kernel.physical.write(pa, word);
    value.out_data = value.in_data;
    value.out_mmap_length = big(REGION_PAGES * PAGE_SIZE);
    value.out_mmap_offset = offset;
    iommu_viommu_selftest.write(bytes, 0, value);
    const rc = copyToUserData(memory, data, IOMMU_VIOMMU_TYPE_SELFTEST, bytes, minLen);
    if (failed(rc)) this.destroy();
    return rc;
  }

  destroy(): void {
    if (this.#region === null) return;
    this.core.destroyMmap(this.#region.offset);
    this.#kernel.physical.free(this.#region.pa, REGION_PAGES);
    this.#region = null;
  }

  /** mock_viommu_alloc_domain_nested(). */
  allocDomainNested(flags: number, memory: AddressSpace, data: UserData): Result<IommuDomain> {
    if ((flags & ~IOMMU_HWPT_ALLOC_PASID) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
    return this.#iommu.makeNested(memory, data, this);
  }

  /** mock_viommu_cache_invalidate(). */
  cacheInvalidate(memory: AddressSpace, array: UserDataArray): Result<void> {
    const type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST;
    // An empty array asks whether the type is known.
    if (array.entryNum === 0 && array.type === type) return;
    const total = array.entryNum;
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory for the commands');
    const { size } = iommu_viommu_invalidate_selftest;
    const bytes = copyFullUserArray(memory, array, type, size);
    if (failed(bytes)) return bytes;
    for (let i = 0; i < total; i++) {
      const rc = this.#invalidate(bytes, i * size);
      if (failed(rc)) return rc;
      array.entryNum = i + 1;
    }
  }

  #invalidate(bytes: Uint8Array, at: number): Result<void> {
    const { flags, cache_id, vdev_id } = iommu_viommu_invalidate_selftest.read(bytes, at);
    if ((flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
    if (cache_id > MOCK_DEV_CACHE_ID_MAX) return fail(EINVAL, `there is no cache entry ${cache_id}`);
    const device = this.core.findDevice(big(vdev_id)) as MockDevice | null;
    if (device === null) return fail(EINVAL, `there is no virtual device 0x${vdev_id.toString(16)}`);
    if (flags !== 0) device.cache.fill(0);
    else device.cache[cache_id] = 0;
  }

  hwQueueSupported(type: number): boolean {
    return type === IOMMU_HW_QUEUE_TYPE_SELFTEST;
  }

  /** mock_hw_queue_init_phys(): queue 1 needs queue 0. */
  hwQueueInitPhys(queue: HwQueueCore, index: number, basePa: number): Result<() => void> {
    if (index >= IOMMU_TEST_HW_QUEUE_MAX) return fail(EINVAL, `there is no queue ${index}`);
    if (this.#queues[index] !== null) return fail(EEXIST, `queue ${index} exists`);
    const previous = index === 0 ? null : this.#queues[index - 1]!;
    if (index > 0 && previous === null) return fail(EIO, `queue ${index - 1} must be made first`);
    if (basePa !== this.#parent.iovaToPhys(queue.baseAddress))
      return fail(EFAULT, 'the queue is not where the parent domain maps it');
    if (previous !== null) queue.depend(previous);
    this.#queues[index] = queue;
    return () => {
      // mock_hw_queue_destroy() takes the index that nobody ever wrote down: queue 1 stays for good, and queue 0 goes.
      // DEVIATION: not where the request fails after all, which leaves everything as it was.
      this.#queues[queue.failed ? index : 0] = null;
      if (previous !== null) queue.undepend(previous);
    };
  }

  /** iommufd_test_trigger_vevent(): an event that names the device as the guest knows it. */
  reportEvent(virtualId: bigint): Result<void> {
    const bytes = new Uint8Array(iommu_viommu_event_selftest.size);
    iommu_viommu_event_selftest.write(bytes, 0, { virt_id: lo32(virtualId) });
    return this.core.reportEvent(IOMMU_VEVENTQ_TYPE_SELFTEST, bytes);
  }
}
