import { struct, u32, u64 } from '../base/struct.ts';
import { IO } from './ioctl.ts';
import { VFIO_TYPE } from './vfio.ts';

// What viommu adds to Linux's uAPI, for programs and tests that have no device model of their own at hand.

/** Does one DMA of the device behind a VFIO cdev, as the device would: through its IOMMU. */
export const viommu_device_dma = struct('viommu_device_dma', 40, {
  argsz: u32,
  /** VIOMMU_DEVICE_DMA_WRITE, VIOMMU_DEVICE_DMA_PASID. */
  flags: u32,
  /** Used with VIOMMU_DEVICE_DMA_PASID. */
  pasid: u32,
  __reserved: u32,
  iova: u64,
  /** Bytes, at most VIOMMU_DEVICE_DMA_BYTES_MAX. */
  length: u64,
  /** The program's buffer: read from where the device writes, written to where it reads. */
  data: u64,
});
export const VIOMMU_DEVICE_DMA_WRITE = 1 << 0;
export const VIOMMU_DEVICE_DMA_PASID = 1 << 1;
export const VIOMMU_DEVICE_DMA_BYTES_MAX = 1 << 20;
/** EFAULT where the buffer is not there, EIO where the IOMMU does not let the access pass. */
export const VIOMMU_DEVICE_DMA = IO(VFIO_TYPE, 0xf0);
