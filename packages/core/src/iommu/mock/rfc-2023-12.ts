import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_TEST_INVALIDATE_FLAG_ALL,
  IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
  IOMMU_VIOMMU_TYPE_SELFTEST,
  MOCK_DEV_CACHE_ID_MAX,
  iommu_viommu_invalidate_selftest,
} from '../../abi/iommufd-test.ts';
import { iommu_dev_virtual_id_type } from '../../abi/rfc-2023-12.ts';
import type { AddressSpace } from '../../memory/process.ts';
import type { Device, Kernel, Rfc202312Ops } from '../driver.ts';
import { copyFullUserArray, type UserDataArray } from '../user-data.ts';
import type { MockDevice } from './device.ts';

// The trial uAPI rfc-2023-12 on the mock IOMMU, which takes the virtual ids of every vendor.

const VIRTUAL_ID_LAST = 0xffff_ffffn;

// The commands of a viommu (mock_viommu_cache_invalidate()), whose vdev_id does not count here.
function deviceInvalidate(
  kernel: Kernel,
  device: Device,
  memory: AddressSpace,
  array: UserDataArray,
): Result<void> {
  const total = array.entryNum;
  if (kernel.failpoint()) return fail(ENOMEM, 'no memory for the commands');
  const { size } = iommu_viommu_invalidate_selftest;
  const bytes = copyFullUserArray(memory, array, IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, size);
  if (failed(bytes)) return bytes;
  for (let i = 0; i < total; i++) {
    const rc = invalidate(device as MockDevice, bytes, i * size);
    if (failed(rc)) return rc;
    array.entryNum = i + 1;
  }
}

function invalidate({ cache }: MockDevice, bytes: Uint8Array, at: number): Result<void> {
  const { flags, cache_id } = iommu_viommu_invalidate_selftest.read(bytes, at);
  if ((flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
  if (cache_id > MOCK_DEV_CACHE_ID_MAX) return fail(EINVAL, `there is no cache entry ${cache_id}`);
  if (flags !== 0) cache.fill(0);
  else cache[cache_id] = 0;
}

export function mockRfc202312(kernel: Kernel): Rfc202312Ops {
  return {
    virtualIds: new Map(Object.values(iommu_dev_virtual_id_type).map((type) => [type, VIRTUAL_ID_LAST])),
    viommuType: IOMMU_VIOMMU_TYPE_SELFTEST,
    deviceInvalidate: (device, memory, array) => deviceInvalidate(kernel, device, memory, array),
  };
}
