import { struct, u64 } from '../base/struct.ts';

// The uAPI of AMD's hardware vIOMMU as AMD's public tree has it (AMDESE/linux-iommu, 2026). It is in no Linux: the names
// are that tree's, and the numbers the next free ones of Linux 7.3's lists.

export const IOMMU_VIOMMU_TYPE_AMD = 3;

/** IOMMU_VIOMMU_ALLOC: the offset at which mmap(2) of /dev/iommu has the guest's MMIO 2000h to 2FFFh. */
export const iommu_viommu_amd = struct('iommu_viommu_amd', 8, { out_vfmmio_mmap_offset: u64 });

/** IOMMU_HW_QUEUE_ALLOC: `nesting_parent_iova` is the ring's base, `length` is log2 of its entries. */
export const IOMMU_HW_QUEUE_TYPE_AMD_CMD = 2;
export const IOMMU_HW_QUEUE_TYPE_AMD_EVT = 3;
export const IOMMU_HW_QUEUE_TYPE_AMD_PPR = 4;

/** IOMMU_HW_QUEUE_FLAG_AMD_*, in `flags`: bits of the guest's control register that concern the ring. */
export const QUEUE_FLAG = {
  CMDBUF_EN: 1 << 0,
  COMWAIT_EN: 1 << 1,
  EVT_LOG_EN: 1 << 2,
  EVT_INT_EN: 1 << 3,
  PPRLOG_EN: 1 << 4,
  PPRINT_EN: 1 << 5,
  PPR_EN: 1 << 6,
} as const;
/** All of them. */
export const QUEUE_FLAGS = 0x7f;
