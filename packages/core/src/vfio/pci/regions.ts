import { big, exact } from '../../base/u64.ts';
import { VFIO_PCI_NUM_REGIONS } from '../../abi/vfio.ts';

// Where the regions of a device are in its file. The offsets are the kernel's to choose, and programs use what
// VFIO_DEVICE_GET_REGION_INFO answers.

/** include/linux/vfio_pci_core.h VFIO_PCI_OFFSET_SHIFT. */
const INDEX_SHIFT = 40n;
const OFFSET_MASK = (1n << INDEX_SHIFT) - 1n;
/**
 * DEVIATION: bits 62 to 56 are set, and Linux's are not: so the host can tell an access to a region by its offset alone,
 * and need not stop every pread(2) and pwrite(2) of a program.
 */
const TAG = 0x7fn << 56n;
const INDEX_MASK = (1n << 16n) - 1n;

/** The offset of a region's first byte. */
export function regionOffset(index: number): bigint {
  return TAG | (big(index) << INDEX_SHIFT);
}

/**
 * The region that an offset is in, and where there; null where there is none. Linux's own offsets will do, for programs
 * that do not ask.
 */
export function regionAt(offset: bigint): { readonly index: number; readonly at: number } | null {
  const index = exact((offset >> INDEX_SHIFT) & INDEX_MASK);
  const tag = offset >> 56n;
  if ((tag !== TAG >> 56n && tag !== 0n) || index >= VFIO_PCI_NUM_REGIONS) return null;
  return { index, at: exact(offset & OFFSET_MASK) };
}
