/*
 * A guest behind an SMMUv3: its memory, a context descriptor and tables of stage 1 in it, and a device that reads
 * through them.
 */
#ifndef EXAMPLES_SMMUV3_GUEST_H
#define EXAMPLES_SMMUV3_GUEST_H

#include "guest.h"

#define L1_TABLE 0x10000UL /* 4 KiB granule, a 39-bit input address: levels 1 to 3 */
#define L2_TABLE 0x11000UL
#define L3_TABLE 0x12000UL
#define CONTEXT_DESCRIPTOR 0x13000UL

#define VIRTUAL_SID 0x9

/* A level 3 page: readable, writable, accessed, inner shareable, normal memory by MAIR index 0 (Arm DDI 0487, D8.3). */
static inline void map_page(uint64_t page)
{
	put64(L3_TABLE, page | (1UL << 10) | (3UL << 8) | (1UL << 6) | 3);
}

/* The context descriptor and the tables below it (Arm IHI 0070, 5.4), with the old page mapped. */
static inline void build_guest_stage_1(void)
{
	put64(L1_TABLE + (IOVA >> 30) * 8, L2_TABLE | 3);
	put64(L2_TABLE, L3_TABLE | 3);
	map_page(OLD_PAGE);
	/* T0SZ 25, no TTB1, little-endian, valid, 40-bit IPS, AA64, R and A, ASID 1. */
	put64(CONTEXT_DESCRIPTOR, 25 | (1UL << 30) | (1UL << 31) | (2UL << 32) | (1UL << 41) | (3UL << 45) | (1UL << 48));
	put64(CONTEXT_DESCRIPTOR + 8, L1_TABLE);
	put64(CONTEXT_DESCRIPTOR + 24, 0xff); /* MAIR: write-back */
}

/* The guest's memory, and what leads to the first of its pages. */
static inline void make_guest(void)
{
	make_guest_memory();
	build_guest_stage_1();
}

/*
 * Puts the first device behind the guest's SMMU: a nesting parent that maps the guest's memory, the viommu (whose type
 * and data the caller has set), the guest's name for the device, and a nested domain of the entry that the guest's
 * driver wrote to its stream table.
 */
static inline void attach_guest(int iommu, struct iommu_viommu_alloc *viommu)
{
	struct iommu_vdevice_alloc vdevice = { .size = sizeof(vdevice), .virt_id = VIRTUAL_SID };
	/* Valid, with stage 1 and write-back tables (IHI 0070, 5.2). */
	uint64_t ste[2] = { 1 | (5UL << 1) | CONTEXT_DESCRIPTOR, (1UL << 2) | (1UL << 4) | (3UL << 6) };
	struct iommu_hwpt_alloc nested = {
		.size = sizeof(nested), .data_type = IOMMU_HWPT_DATA_ARM_SMMUV3, .data_len = sizeof(ste),
		.data_uptr = (uintptr_t)ste,
	};

	viommu->dev_id = vdevice.dev_id = nested.dev_id = bind_device(iommu);
	viommu->hwpt_id = make_parent(iommu, viommu->dev_id);
	request(iommu, IOMMU_VIOMMU_ALLOC, viommu, "IOMMU_VIOMMU_ALLOC");
	vdevice.viommu_id = nested.pt_id = viommu->out_viommu_id;
	request(iommu, IOMMU_VDEVICE_ALLOC, &vdevice, "IOMMU_VDEVICE_ALLOC");
	request(iommu, IOMMU_HWPT_ALLOC, &nested, "IOMMU_HWPT_ALLOC");
	attach_device(nested.out_hwpt_id);
}

#endif
