import { lastByte } from '../../base/range.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { U64_MAX } from '../../base/u64.ts';
import { EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
  IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
  iommu_hwpt_get_dirty_bitmap,
  iommu_hwpt_set_dirty_tracking,
} from '../../abi/iommufd.ts';
import type { DirtyOps, DirtyRecorder } from '../../iommu/driver.ts';
import type { Command } from '../command.ts';
import { UserBitmap } from './dirty-bitmap.ts';
import { hasFix } from '../profile.ts';
import { getHwptPaging } from './hwpt.ts';
import type { IoPagetable } from '../ioas/io-pagetable.ts';

// drivers/iommu/iommufd/hw_pagetable.c and io_pagetable.c: which pages devices wrote.

/** Before this Linux a range without length had its last byte before its first. 6.12.117 took it over. */
const LENGTH_CHECKED_SINCE = 703;
const LENGTH_CHECK_BACKPORTED = [612];

/** IOMMU_HWPT_SET_DIRTY_TRACKING. */
export function hwptSetDirtyTracking(command: Command): Result<number> {
  const cmd = iommu_hwpt_set_dirty_tracking.read(command.bytes);
  if ((cmd.flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
  const hwpt = getHwptPaging(command.context, cmd.hwpt_id);
  if (failed(hwpt)) return hwpt;
  const ops = hwpt.domain!.dirtyOps;
  if (ops === null) return fail(EOPNOTSUPP, `HWPT ${cmd.hwpt_id} was not made to track dirty pages`);
  const enable = (cmd.flags & IOMMU_HWPT_DIRTY_TRACKING_ENABLE) !== 0;
  if (enable) {
    const cleared = clearDirty(hwpt.ioas.iopt, ops);
    if (failed(cleared)) return cleared;
    hwpt.domain!.iotlbSync?.();
  }
  const rc = ops.setDirtyTracking(enable);
  return failed(rc) ? rc : 0;
}

// iopt_clear_dirty_data(): tracking starts from a clean slate.
function clearDirty(iopt: IoPagetable, ops: DirtyOps): Result<void> {
  for (const area of iopt.areas) {
    const rc = ops.readAndClearDirty(area.start, area.length, true, null);
    if (failed(rc)) return rc;
  }
}

/**
 * IOMMU_HWPT_GET_DIRTY_BITMAP. Neither a range that is not mapped whole nor a bitmap that cannot be written is an error:
 * io_pagetable.c iommu_read_and_clear_dirty() ignores both.
 */
export function hwptGetDirtyBitmap(command: Command): Result<number> {
  const cmd = iommu_hwpt_get_dirty_bitmap.read(command.bytes);
  if ((cmd.flags & ~IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR) !== 0 || cmd.__reserved !== 0)
    return fail(EOPNOTSUPP, 'unknown flags, or __reserved is not 0');
  const hwpt = getHwptPaging(command.context, cmd.hwpt_id);
  if (failed(hwpt)) return hwpt;
  const { iopt } = hwpt.ioas;
  const lengthChecked = hasFix(
    command.context.shared.profile.version,
    LENGTH_CHECKED_SINCE,
    LENGTH_CHECK_BACKPORTED,
  );
  if (cmd.length === 0n && lengthChecked) return fail(EINVAL, 'length is zero');
  const range = checkIovaRange(iopt, cmd.iova, cmd.length, cmd.page_size);
  if (failed(range)) return range;
  const ops = hwpt.domain!.dirtyOps;
  if (ops === null) return fail(EOPNOTSUPP, `HWPT ${cmd.hwpt_id} was not made to track dirty pages`);
  if (command.context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the bitmap');
  // From 0 to the last byte of all is never mapped whole, and then no bit is set.
  if (cmd.length === 0n) return 0;
  const clear = (cmd.flags & IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR) === 0;
  const bitmap = new UserBitmap(command.memory, cmd.data, cmd.iova, cmd.length, cmd.page_size);
  const record: DirtyRecorder = (iova, length) => bitmap.set(iova, length);
  for (const { start, last } of iopt.contiguous(cmd.iova, cmd.iova + cmd.length - 1n).slices) {
    if (failed(ops.readAndClearDirty(start, last - start + 1n, clear, record))) break;
  }
  bitmap.flush();
  if (clear) hwpt.domain!.iotlbSync?.();
  return 0;
}

// iommufd_check_iova_range()
function checkIovaRange(iopt: IoPagetable, iova: bigint, length: bigint, pageSize: bigint): Result<void> {
  // No length less one is 2^64 - 1.
  const last = lastByte(iova, length === 0n ? U64_MAX + 1n : length);
  if (last === null) return fail(EOVERFLOW, 'iova + length passes 2^64');
  const end = (last + 1n) & U64_MAX;
  const mask = iopt.iovaAlignment - 1n;
  if (((iova | end) & mask) !== 0n) return fail(EINVAL, 'the range is not aligned to the iova alignment');
  if (pageSize === 0n) return fail(EINVAL, 'page_size is zero');
  if (((iova | end) & (pageSize - 1n)) !== 0n) return fail(EINVAL, 'the range is not aligned to page_size');
}
