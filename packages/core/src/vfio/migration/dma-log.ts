import { fail, failed, type Result } from '../../base/result.ts';
import { big, exact, PAGE_SHIFT, PAGE_SIZE, PAGE_SIZE_N, U64_MAX, wrap64 } from '../../base/u64.ts';
import { E2BIG, EFAULT, EINVAL, EOVERFLOW } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_SET,
  vfio_device_feature_dma_logging_control,
  vfio_device_feature_dma_logging_range,
  vfio_device_feature_dma_logging_report,
} from '../../abi/vfio.ts';
import { UserBitmap } from '../../iommufd/hwpt/dirty-bitmap.ts';
import {
  checkFeature,
  readFeatureData,
  writeFeatureData,
  type FeatureAnswer,
  type FeatureRequest,
} from '../feature.ts';

// A device's log of the pages that it wrote to: drivers/vfio/vfio_main.c vfio_ioctl_device_feature_logging_start() and
// its kin; what a page tracker refuses is as in drivers/vfio/pci/mlx5/cmd.c.

/** LOG_MAX_RANGES: what fits in a page. */
const RANGES_MAX = PAGE_SIZE / vfio_device_feature_dma_logging_range.size;
/** The largest page that the tracker counts by: 2 MiB, as log2. */
const TRACKED_SHIFT_MAX = 21;

interface IovaRange {
  readonly start: bigint;
  /** Inclusive. */
  readonly last: bigint;
}

interface Tracker {
  readonly ranges: readonly IovaRange[];
  /** log2 of the bytes of a page. */
  readonly shift: bigint;
  /** Numbers of written pages. */
  readonly written: Set<number>;
}

export class DmaLog {
  #tracker: Tracker | null = null;

  /** The device wrote `bytes` bytes from `iova` on, without a PASID. */
  record(iova: bigint, bytes: number): void {
    const tracker = this.#tracker;
    if (tracker === null || bytes === 0) return;
    const { ranges, shift, written } = tracker;
    const last = iova + big(bytes) - 1n;
    for (const range of ranges) {
      const from = iova > range.start ? iova : range.start;
      const to = last < range.last ? last : range.last;
      if (from > to) continue;
      const end = exact(to >> shift);
      for (let page = exact(from >> shift); page <= end; page++) written.add(page);
    }
  }

  /** vfio_ioctl_device_feature_logging_start() */
  start(request: FeatureRequest): FeatureAnswer {
    const layout = vfio_device_feature_dma_logging_control;
    const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_SET, layout.size);
    if (failed(carryOut)) return carryOut;
    if (!carryOut) return;
    const bytes = readFeatureData(request, layout.size);
    if (failed(bytes)) return bytes;
    const control = layout.read(bytes);
    const ranges = readRanges(request, control);
    if (failed(ranges)) return ranges;
    if (this.#tracker !== null) return fail(EINVAL, 'the log is kept already');
    const shift = trackedShift(control.page_size);
    layout.write(bytes, 0, { ...control, page_size: 1n << shift });
    const told = writeFeatureData(request, bytes);
    if (!failed(told)) this.#tracker = { ranges, shift, written: new Set() };
    return told;
  }

  /** vfio_ioctl_device_feature_logging_stop(): where none is kept nothing happens. */
  stop(request: FeatureRequest): FeatureAnswer {
    const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_SET, 0);
    if (failed(carryOut)) return carryOut;
    if (carryOut) this.#tracker = null;
  }

  /** vfio_ioctl_device_feature_logging_report(): what it tells is forgotten. */
  report(request: FeatureRequest): FeatureAnswer {
    const layout = vfio_device_feature_dma_logging_report;
    const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_GET, layout.size);
    if (failed(carryOut)) return carryOut;
    if (!carryOut) return;
    const bytes = readFeatureData(request, layout.size);
    if (failed(bytes)) return bytes;
    const { iova, length, page_size, bitmap } = layout.read(bytes);
    if (page_size < PAGE_SIZE_N || (page_size & (page_size - 1n)) !== 0n)
      return fail(EINVAL, 'page_size is no power of two from 4096 on');
    if (iova + length > U64_MAX) return fail(EOVERFLOW, 'iova + length passes 2^64');
    const tracker = this.#tracker;
    if (tracker === null) return fail(EINVAL, 'no log is kept');
    if (length === 0n) return;
    const into = new UserBitmap(request.task.process.memory, bitmap, iova, length, page_size);
    into.forEach(() => take(tracker, iova, iova + length - 1n, into));
  }
}

/** Tells the written pages that touch a range, as far as they lie in it, and forgets them. */
function take({ shift, written }: Tracker, start: bigint, last: bigint, into: UserBitmap): void {
  const [first, end] = [exact(start >> shift), exact(last >> shift)];
  const pages = [...written].filter((page) => page >= first && page <= end).sort((a, b) => a - b);
  for (const page of pages) {
    written.delete(page);
    const at = big(page) << shift;
    const pageLast = at + (1n << shift) - 1n;
    const from = at > start ? at : start;
    into.set(from, (pageLast < last ? pageLast : last) - from + 1n);
  }
}

/** log2 of the bytes of the pages that are counted: the hint, as far as the tracker can. */
function trackedShift(hint: bigint): bigint {
  let shift = PAGE_SHIFT;
  while (shift < TRACKED_SHIFT_MAX && 1n << big(shift + 1) <= hint) shift++;
  return big(shift);
}

function readRanges(
  { task }: FeatureRequest,
  control: ReturnType<typeof vfio_device_feature_dma_logging_control.create>,
): Result<IovaRange[]> {
  const { num_ranges, ranges: at, page_size } = control;
  if (num_ranges === 0) return fail(EINVAL, 'there are no ranges');
  if (num_ranges > RANGES_MAX) return fail(E2BIG, `more than ${RANGES_MAX} ranges`);
  const layout = vfio_device_feature_dma_logging_range;
  const bytes = new Uint8Array(layout.size);
  const ranges: IovaRange[] = [];
  for (let n = 0; n < num_ranges; n++) {
    if (!task.process.memory.read(at + big(n * layout.size), bytes))
      return fail(EFAULT, 'the ranges cannot be read');
    const { iova, length } = layout.read(bytes);
    // IS_ALIGNED(), whatever the size is.
    if (((iova | length) & wrap64(page_size - 1n)) !== 0n)
      return fail(EINVAL, 'a range is not aligned to page_size');
    if (iova + length > U64_MAX) return fail(EOVERFLOW, 'a range passes 2^64');
    const range = { start: iova, last: wrap64(iova + length - 1n) };
    if (ranges.some((other) => other.start <= range.last && range.start <= other.last))
      return fail(EINVAL, 'two ranges overlap');
    ranges.push(range);
  }
  return ranges;
}
