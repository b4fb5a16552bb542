import { assert } from '../../base/assert.ts';
import { KMALLOC_BYTES_MAX } from '../../base/limits.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { big, exact, PAGE_SIZE, PAGE_SIZE_N, pageNumber, pageOffset, U64_MAX } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENODEV, ENOMEM, EOVERFLOW } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_PCI_ROM_REGION_INDEX,
  vfio_device_feature_dma_buf,
  vfio_region_dma_range,
} from '../../abi/vfio.ts';
import { DmaBuf, type PhysicalPages } from '../../iommufd/pages/dma-buf.ts';
import type { PciFunction } from '../../pci/function.ts';
import { barAddress } from '../../pci/header.ts';
import { checkFeature, readFeatureData, type FeatureAnswer, type FeatureRequest } from '../feature.ts';

// drivers/vfio/pci/vfio_pci_dmabuf.c: parts of BARs as dma-bufs, which iommufd maps for other devices.

const O_CLOEXEC = 0o2000000;
/** include/linux/iommu-dma.h DMA_IOVA_USE_SWIOTLB: a bit that no length may have. */
const LENGTH_FORBIDDEN = 1n << 63n;

interface Range {
  readonly offset: bigint;
  readonly length: bigint;
}

/** The dma-bufs of an open device. */
export class VfioDmaBufs {
  readonly #pci: PciFunction;
  readonly #memoryEnabled: () => boolean;
  readonly #buffers = new Set<DmaBuf>();

  constructor(pci: PciFunction, memoryEnabled: () => boolean) {
    this.#pci = pci;
    this.#memoryEnabled = memoryEnabled;
  }

  /** vfio_pci_core_feature_dma_buf(): answers a descriptor. */
  feature(request: FeatureRequest): FeatureAnswer {
    const layout = vfio_device_feature_dma_buf;
    const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_GET, layout.size);
    if (failed(carryOut)) return carryOut;
    if (!carryOut) return;
    const bytes = readFeatureData(request, layout.size);
    if (failed(bytes)) return bytes;
    const { region_index, open_flags, flags, nr_ranges } = layout.read(bytes);
    if (nr_ranges === 0 || flags !== 0) return fail(EINVAL, 'no ranges, or flags are not 0');
    const bar = region_index < VFIO_PCI_ROM_REGION_INDEX ? this.#pci.bars[region_index]! : null;
    if (bar === null) return fail(ENODEV, `region ${region_index} is no BAR`);
    const ranges = readRanges(request, nr_ranges);
    if (failed(ranges)) return ranges;
    const valid = checkRanges(ranges);
    if (failed(valid)) return valid;
    // pcim_p2pdma_provider()
    if (bar.kind === 'io') return fail(EINVAL, `BAR ${region_index} is no memory`);
    const memory = physicalRanges(ranges, barAddress(this.#pci.config, bar), big(bar.size));
    if (failed(memory)) return memory;
    const buffer = new DmaBuf(memory, () => this.#buffers.delete(buffer));
    if (!this.#memoryEnabled()) buffer.setRevoked(true);
    this.#buffers.add(buffer);
    const closeOnExec = (open_flags & O_CLOEXEC) !== 0;
    const fd = request.task.process.install(buffer, { closeOnExec });
    if (failed(fd)) buffer.release();
    return fd;
  }

  /** vfio_pci_dma_buf_move(true): nobody may reach the memory any more. */
  revoke(): void {
    this.#move(true);
  }

  /** vfio_pci_dma_buf_move(false), where memory space is on: those who come from now on may. */
  offer(): void {
    if (this.#memoryEnabled()) this.#move(false);
  }

  #move(revoked: boolean): void {
    for (const buffer of this.#buffers) if (buffer.revoked !== revoked) buffer.setRevoked(revoked);
  }

  /** vfio_pci_dma_buf_cleanup(): the device is closed, and its buffers stay revoked. */
  cleanup(): void {
    this.#move(true);
    this.#buffers.clear();
  }
}

// memdup_array_user()
function readRanges({ task, at }: FeatureRequest, count: number): Result<Range[]> {
  const each = vfio_region_dma_range.size;
  if (count * each > KMALLOC_BYTES_MAX) return fail(ENOMEM, `${count} ranges are too many`);
  const bytes = new Uint8Array(count * each);
  if (!task.process.memory.read(at + big(vfio_device_feature_dma_buf.size), bytes))
    return fail(EFAULT, 'the ranges cannot be read');
  return Array.from({ length: count }, (_, n) => vfio_region_dma_range.read(bytes, n * each));
}

// validate_dmabuf_input()
function checkRanges(ranges: readonly Range[]): Result<void> {
  let total = 0n;
  for (const { offset, length } of ranges) {
    if (length === 0n || pageOffset(offset) !== 0 || pageOffset(length) !== 0)
      return fail(EINVAL, 'a range is empty, or not of whole pages');
    total += length;
    if (total > U64_MAX) return fail(EINVAL, 'the ranges are too long');
  }
  if ((total & LENGTH_FORBIDDEN) !== 0n) return fail(EINVAL, 'the ranges are too long');
}

// vfio_pci_core_fill_phys_vec()
function physicalRanges(ranges: readonly Range[], start: bigint, size: bigint): Result<PhysicalPages[]> {
  const memory: PhysicalPages[] = [];
  for (const { offset, length } of ranges) {
    const end = start + offset + length;
    if (end > U64_MAX) return fail(EOVERFLOW, 'a range passes 2^64');
    if (end > start + size) return fail(EINVAL, 'a range reaches beyond the BAR');
    memory.push({ first: pageNumber(start + offset), pages: exact(length / PAGE_SIZE_N) });
  }
  assert(start % big(PAGE_SIZE) === 0n, 'a BAR that has whole pages begins with one');
  return memory;
}
