// uapi/linux/vfio.h of Linux 7.3: the container and its type 1 IOMMU, which iommufd answers too
// (drivers/iommu/iommufd/vfio_compat.c). Structs that end in a flexible array are described up to that array.

import { pad, struct, u32, u64 } from '../base/struct.ts';
import { IO } from './ioctl.ts';
import { VFIO_BASE, vfio_info_cap_header, VFIO_TYPE } from './vfio.ts';

/** What VFIO_CHECK_EXTENSION and VFIO_SET_IOMMU take. */
export const vfio_extension = {
  VFIO_TYPE1_IOMMU: 1,
  VFIO_SPAPR_TCE_IOMMU: 2,
  VFIO_TYPE1v2_IOMMU: 3,
  VFIO_DMA_CC_IOMMU: 4,
  VFIO_EEH: 5,
  __VFIO_RESERVED_TYPE1_NESTING_IOMMU: 6,
  VFIO_SPAPR_TCE_v2_IOMMU: 7,
  VFIO_NOIOMMU_IOMMU: 8,
  VFIO_UNMAP_ALL: 9,
  VFIO_UPDATE_VADDR: 10,
} as const;
export const {
  VFIO_TYPE1_IOMMU,
  VFIO_SPAPR_TCE_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_DMA_CC_IOMMU,
  VFIO_EEH,
  __VFIO_RESERVED_TYPE1_NESTING_IOMMU,
  VFIO_SPAPR_TCE_v2_IOMMU,
  VFIO_NOIOMMU_IOMMU,
  VFIO_UNMAP_ALL,
  VFIO_UPDATE_VADDR,
} = vfio_extension;

export const VFIO_GET_API_VERSION = IO(VFIO_TYPE, VFIO_BASE + 0);
export const VFIO_CHECK_EXTENSION = IO(VFIO_TYPE, VFIO_BASE + 1);
export const VFIO_SET_IOMMU = IO(VFIO_TYPE, VFIO_BASE + 2);

/** `iova_pgsizes` is a bitmap of page sizes in bytes; `cap_offset` came with Linux 5.4. */
export const vfio_iommu_type1_info = struct('vfio_iommu_type1_info', 24, {
  argsz: u32,
  flags: u32,
  iova_pgsizes: u64,
  cap_offset: u32,
  pad: u32,
});
export const VFIO_IOMMU_INFO_PGSIZES = 1 << 0;
export const VFIO_IOMMU_INFO_CAPS = 1 << 1;
export const VFIO_IOMMU_GET_INFO = IO(VFIO_TYPE, VFIO_BASE + 12);

export const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;
export const VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2;
export const VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3;

/** `end` is inclusive. */
export const vfio_iova_range = struct('vfio_iova_range', 16, { start: u64, end: u64 });

/** `nr_iovas` of vfio_iova_range follow. */
export const vfio_iommu_type1_info_cap_iova_range = struct('vfio_iommu_type1_info_cap_iova_range', 16, {
  header: vfio_info_cap_header,
  nr_iovas: u32,
  reserved: u32,
});

export const vfio_iommu_type1_info_cap_migration = struct('vfio_iommu_type1_info_cap_migration', 32, {
  header: vfio_info_cap_header,
  flags: u32,
  __hole: pad(4),
  pgsize_bitmap: u64,
  max_dirty_bitmap_size: u64,
});

export const vfio_iommu_type1_info_dma_avail = struct('vfio_iommu_type1_info_dma_avail', 12, {
  header: vfio_info_cap_header,
  avail: u32,
});

export const vfio_iommu_type1_dma_map = struct('vfio_iommu_type1_dma_map', 32, {
  argsz: u32,
  flags: u32,
  vaddr: u64,
  iova: u64,
  size: u64,
});
export const VFIO_DMA_MAP_FLAG_READ = 1 << 0;
export const VFIO_DMA_MAP_FLAG_WRITE = 1 << 1;
export const VFIO_DMA_MAP_FLAG_VADDR = 1 << 2;
export const VFIO_IOMMU_MAP_DMA = IO(VFIO_TYPE, VFIO_BASE + 13);

/** `pgsize` and `size` in bytes; `data` is the address of the bits. */
export const vfio_bitmap = struct('vfio_bitmap', 24, { pgsize: u64, size: u64, data: u64 });

/** A vfio_bitmap follows where VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP is set. */
export const vfio_iommu_type1_dma_unmap = struct('vfio_iommu_type1_dma_unmap', 24, {
  argsz: u32,
  flags: u32,
  iova: u64,
  size: u64,
});
export const VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0;
export const VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1;
export const VFIO_DMA_UNMAP_FLAG_VADDR = 1 << 2;
export const VFIO_IOMMU_UNMAP_DMA = IO(VFIO_TYPE, VFIO_BASE + 14);

export const VFIO_IOMMU_ENABLE = IO(VFIO_TYPE, VFIO_BASE + 15);
export const VFIO_IOMMU_DISABLE = IO(VFIO_TYPE, VFIO_BASE + 16);

/** A vfio_iommu_type1_dirty_bitmap_get follows where VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP is set. */
export const vfio_iommu_type1_dirty_bitmap = struct('vfio_iommu_type1_dirty_bitmap', 8, {
  argsz: u32,
  flags: u32,
});
export const VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1 << 0;
export const VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 1 << 1;
export const VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 1 << 2;

export const vfio_iommu_type1_dirty_bitmap_get = struct('vfio_iommu_type1_dirty_bitmap_get', 40, {
  iova: u64,
  size: u64,
  bitmap: vfio_bitmap,
});
export const VFIO_IOMMU_DIRTY_PAGES = IO(VFIO_TYPE, VFIO_BASE + 17);
