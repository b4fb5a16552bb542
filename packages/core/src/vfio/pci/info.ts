import { fail, failed, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EFAULT, EINVAL } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  vfio_device_info,
  vfio_info_cap_header,
  vfio_irq_info,
  vfio_region_info,
} from '../../abi/vfio.ts';
import type { AddressSpace } from '../../memory/process.ts';
import { PCI_CFG_SPACE_EXP_BYTES } from '../../pci/spec.ts';
import { readPart } from '../user-struct.ts';
import type { VfioBars } from './bars.ts';
import { regionOffset } from './regions.ts';

// What a program may ask of a device: drivers/vfio/vfio_main.c and pci/vfio_pci_core.c.

const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

/** vfio_pci_ioctl_get_info() */
export function getInfo(memory: AddressSpace, arg: bigint): Result<void> {
  const minsz = vfio_device_info.endOf('num_irqs');
  const bytes = readPart(memory, arg, minsz, vfio_device_info.size);
  if (failed(bytes)) return bytes;
  const info = vfio_device_info.read(bytes);
  if (info.argsz < minsz) return fail(EINVAL, 'argsz is too small');
  info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
  info.num_regions = VFIO_PCI_NUM_REGIONS;
  info.num_irqs = VFIO_PCI_NUM_IRQS;
  vfio_device_info.write(bytes, 0, info);
  const answered = bytes.subarray(0, Math.min(info.argsz, bytes.length));
  if (!memory.write(arg, answered)) return fail(EFAULT, 'the answer cannot be written');
}

/** vfio_get_region_info() with vfio_pci_ioctl_get_region_info(). */
export function getRegionInfo(bars: VfioBars, memory: AddressSpace, arg: bigint): Result<void> {
  const minsz = vfio_region_info.size;
  const bytes = readPart(memory, arg, minsz, minsz);
  if (failed(bytes)) return bytes;
  const info = vfio_region_info.read(bytes);
  if (info.argsz < minsz) return fail(EINVAL, 'argsz is too small');
  const region = describeRegion(bars, info.index);
  if (region === null) return fail(EINVAL, `there is no region ${info.index}`);
  info.flags = region.flags;
  info.size = big(region.size);
  info.offset = regionOffset(info.index);
  if (region.capability !== null) {
    const chain = new Uint8Array(vfio_info_cap_header.size);
    vfio_info_cap_header.write(chain, 0, { id: region.capability, version: 1, next: 0 });
    info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
    info.cap_offset = info.argsz < minsz + chain.length ? 0 : minsz;
    if (info.cap_offset === 0) info.argsz = minsz + chain.length;
    else if (!memory.write(arg + big(minsz), chain))
      return fail(EFAULT, 'the capabilities cannot be written');
  }
  vfio_region_info.write(bytes, 0, info);
  if (!memory.write(arg, bytes)) return fail(EFAULT, 'the answer cannot be written');
}

interface Region {
  readonly flags: number;
  readonly size: number;
  readonly capability: number | null;
}

function describeRegion(bars: VfioBars, index: number): Region | null {
  if (index === VFIO_PCI_CONFIG_REGION_INDEX)
    return { flags: READ_WRITE, size: PCI_CFG_SPACE_EXP_BYTES, capability: null };
  // No function here has an expansion ROM; and none is of class VGA, so that region 8 is not there.
  if (index === VFIO_PCI_ROM_REGION_INDEX) return { flags: 0, size: 0, capability: null };
  if (index > VFIO_PCI_BAR5_REGION_INDEX) return null;
  const bar = bars.bar(index);
  if (bar === null) return { flags: 0, size: 0, capability: null };
  if (!bars.mappable(index)) return { flags: READ_WRITE, size: bar.size, capability: null };
  const capability = bars.excluded(index) === null ? null : VFIO_REGION_INFO_CAP_MSIX_MAPPABLE;
  return { flags: READ_WRITE | VFIO_REGION_INFO_FLAG_MMAP, size: bar.size, capability };
}

/** vfio_pci_ioctl_get_irq_info(). `counts`: how many interrupts an index has. */
export function getIrqInfo(
  counts: (index: number) => number,
  memory: AddressSpace,
  arg: bigint,
): Result<void> {
  const bytes = readPart(memory, arg, vfio_irq_info.size, vfio_irq_info.size);
  if (failed(bytes)) return bytes;
  const info = vfio_irq_info.read(bytes);
  if (info.argsz < vfio_irq_info.size || info.index >= VFIO_PCI_NUM_IRQS)
    return fail(EINVAL, 'argsz is too small, or there is no such index');
  info.count = counts(info.index);
  info.flags = VFIO_IRQ_INFO_EVENTFD;
  if (info.index === VFIO_PCI_INTX_IRQ_INDEX) info.flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
  // pci_msix_can_alloc_dyn(): vectors of MSI-X come and go one by one.
  else if (info.index !== VFIO_PCI_MSIX_IRQ_INDEX) info.flags |= VFIO_IRQ_INFO_NORESIZE;
  vfio_irq_info.write(bytes, 0, info);
  if (!memory.write(arg, bytes)) return fail(EFAULT, 'the answer cannot be written');
}
