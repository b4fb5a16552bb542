import { CHECKED_BYTES_MAX } from '../../base/limits.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import {
  big,
  countTrailingZeros,
  PAGE_MASK_N,
  PAGE_SIZE,
  PAGE_SIZE_N,
  pageNumber,
  pageOffset,
  U64_MAX,
} from '../../base/u64.ts';
import { EFAULT, EINVAL, EIO, ENOMEM } from '../../abi/errno.ts';
import {
  MOCK_DEV_CACHE_ID_MAX,
  MOCK_NESTED_DOMAIN_IOTLB_ID_MAX,
  MOCK_PAGE_SIZE,
  iommu_test_cmd_check_dev_cache,
  iommu_test_cmd_check_iotlb,
  iommu_test_cmd_check_map,
  iommu_test_cmd_check_refs,
} from '../../abi/iommufd-test.ts';
import { MockDevice } from '../../iommu/mock/device.ts';
import { MockNestedDomain, MockPagingDomain } from '../../iommu/mock/domain.ts';
import { GENERIC_PT_SINCE } from '../../iommu/mock/xarray-domain.ts';
import { resolveUserPages } from '../../memory/pin.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import type { IommufdDevice } from '../device/device.ts';
import type { Hwpt } from '../hwpt/hwpt.ts';

// drivers/iommu/iommufd/selftest.c: looking at what the mock IOMMU holds.

/** get_md_pagetable(). */
export function getMockDomain(context: IommufdContext, id: number): Result<MockPagingDomain> {
  const hwpt = context.objects.get<Hwpt>(id, 'HWPT_PAGING');
  if (failed(hwpt)) return hwpt;
  return hwpt.domain instanceof MockPagingDomain ? hwpt.domain : fail(EINVAL, `HWPT ${id} is not the mock's`);
}

/** The frame of the page at `va`, or -1 where it is not pinned: get_user_pages_fast(). Fails as resolveUserPages(). */
export function frameAt(command: Command, va: bigint): Result<number> {
  const found = resolveUserPages(command.memory, pageNumber(va), 1, false);
  if (failed(found)) return found;
  const { backing, firstPage } = found[0]!;
  return command.context.kernel.physical.frames.frameOf(backing, firstPage);
}

/** iommufd_test_md_check_pa(): the domain shows the same memory as the program's address space. */
export function checkMap(command: Command): Result<number> {
  const cmd = iommu_test_cmd_check_map.read(command.bytes);
  const misaligned = (step: bigint): boolean =>
    ((cmd.iova | cmd.length | cmd.uptr) & (step - 1n)) !== 0n || cmd.uptr + cmd.length > U64_MAX;
  // With one page size for all domains that was seen before the domain was looked for.
  if (command.context.shared.profile.version < GENERIC_PT_SINCE && misaligned(big(MOCK_PAGE_SIZE)))
    return fail(EINVAL, 'iova, length or uptr is not aligned');
  const domain = getMockDomain(command.context, cmd.id);
  if (failed(domain)) return domain;
  const step = 1n << big(countTrailingZeros(domain.pgsizeBitmap));
  if (misaligned(step)) return fail(EINVAL, 'iova, length or uptr is not aligned');
  for (let at = 0n; at < cmd.length; at += step) {
    const va = cmd.uptr + at;
    const frame = frameAt(command, va);
    if (failed(frame)) return frame;
    if (domain.iovaToPhys((cmd.iova + at) & U64_MAX) !== frame * PAGE_SIZE + pageOffset(va))
      return fail(EINVAL, 'the domain shows other memory');
  }
  return 0;
}

/** iommufd_test_md_check_refs(): every page is pinned that often. Pages of huge ones are not looked at. */
export function checkRefs(command: Command): Result<number> {
  const cmd = iommu_test_cmd_check_refs.read(command.bytes);
  if (((cmd.length | cmd.uptr) & PAGE_MASK_N) !== 0n || cmd.uptr + cmd.length > U64_MAX)
    return fail(EINVAL, 'length or uptr is not aligned');
  const { frames } = command.context.kernel.physical;
  for (let at = 0n; at < cmd.length; at += PAGE_SIZE_N) {
    // DEVIATION: Linux goes on, as long as it has memory for the pages, and serves others meanwhile.
    if (at === CHECKED_BYTES_MAX) return fail(ENOMEM, `no more than ${at} bytes are looked at`);
    const va = cmd.uptr + at;
    const found = resolveUserPages(command.memory, pageNumber(va), 1, false);
    if (failed(found)) return fail(EFAULT, 'the page is not there');
    const vma = command.memory.mappings(va, va)[0]!;
    if (vma.pageBytes !== PAGE_SIZE) continue;
    const pins = frames.pinCount(found[0]!.backing, found[0]!.firstPage);
    if (pins !== cmd.refs) return fail(EIO, `the page at 0x${va.toString(16)} is pinned ${pins} times`);
  }
  return 0;
}

/** iommufd_test_md_check_iotlb(). */
export function checkIotlb(command: Command): Result<number> {
  const cmd = iommu_test_cmd_check_iotlb.read(command.bytes);
  const hwpt = command.context.objects.get<Hwpt>(cmd.id, 'HWPT_NESTED');
  if (failed(hwpt)) return hwpt;
  if (!(hwpt.domain instanceof MockNestedDomain)) return fail(EINVAL, `HWPT ${cmd.id} is not the mock's`);
  const right =
    cmd.iotlb_id <= MOCK_NESTED_DOMAIN_IOTLB_ID_MAX && hwpt.domain.iotlb[cmd.iotlb_id] === cmd.iotlb;
  return right ? 0 : fail(EINVAL, 'the IOTLB entry is another');
}

/** iommufd_test_dev_check_cache(). */
export function checkDeviceCache(command: Command): Result<number> {
  const cmd = iommu_test_cmd_check_dev_cache.read(command.bytes);
  const idev = command.context.objects.get<IommufdDevice>(cmd.id, 'DEVICE');
  if (failed(idev)) return idev;
  if (!(idev.device instanceof MockDevice)) return fail(EINVAL, `${idev.device.name} is not a mock device`);
  const right = cmd.cache_id <= MOCK_DEV_CACHE_ID_MAX && idev.device.cache[cmd.cache_id] === cmd.cache;
  return right ? 0 : fail(EINVAL, 'the cache entry is another');
}
