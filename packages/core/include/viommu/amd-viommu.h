/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The uAPI of AMD's hardware vIOMMU after AMD's public tree, which no released Linux has. viommu serves it with
 * `viommu run --uapi amd-viommu`; docs/amd-viommu.md says what it does. To be included after <linux/iommufd.h>.
 */
#ifndef VIOMMU_AMD_VIOMMU_H
#define VIOMMU_AMD_VIOMMU_H

#include <linux/types.h>

/* IOMMU_VIOMMU_ALLOC */
#define IOMMU_VIOMMU_TYPE_AMD 3

/* out_vfmmio_mmap_offset: where mmap() of the iommufd has the guest's MMIO 2000h to 2FFFh, one page. */
struct iommu_viommu_amd {
	__u64 out_vfmmio_mmap_offset __attribute__((aligned(8)));
};

/* IOMMU_HW_QUEUE_ALLOC: nesting_parent_iova is the ring's base for the guest, length is log2 of its entries. */
#define IOMMU_HW_QUEUE_TYPE_AMD_CMD 2
#define IOMMU_HW_QUEUE_TYPE_AMD_EVT 3
#define IOMMU_HW_QUEUE_TYPE_AMD_PPR 4

/* Its flags: bits of the guest's control register that concern the ring. */
#define IOMMU_HW_QUEUE_FLAG_AMD_CMDBUF_EN (1 << 0)
#define IOMMU_HW_QUEUE_FLAG_AMD_COMWAIT_EN (1 << 1)
#define IOMMU_HW_QUEUE_FLAG_AMD_EVT_LOG_EN (1 << 2)
#define IOMMU_HW_QUEUE_FLAG_AMD_EVT_INT_EN (1 << 3)
#define IOMMU_HW_QUEUE_FLAG_AMD_PPRLOG_EN (1 << 4)
#define IOMMU_HW_QUEUE_FLAG_AMD_PPRINT_EN (1 << 5)
#define IOMMU_HW_QUEUE_FLAG_AMD_PPR_EN (1 << 6)

#endif
