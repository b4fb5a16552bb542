/*
 * A guest's SMMUv3 in front of a physical one: a device does DMA through page tables that lie in this program's memory,
 * nested on the kernel's. Then a page table entry changes, the invalidation is forgotten, and the device still reaches
 * the old page, until the command is sent.
 */
#include "include/smmuv3-guest.h"

int main(void)
{
	int iommu = open_iommu();
	struct iommu_viommu_alloc viommu = { .size = sizeof(viommu), .type = IOMMU_VIOMMU_TYPE_ARM_SMMUV3 };
	/* CMD_TLBI_NH_VA of one page, ASID 1, leaf only (IHI 0070, 4.4.2). */
	uint64_t command[2] = { 0x12 | (1UL << 48), IOVA | 1 };
	struct iommu_hwpt_invalidate invalidate = {
		.size = sizeof(invalidate), .data_uptr = (uintptr_t)command,
		.data_type = IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3, .entry_len = sizeof(command), .entry_num = 1,
	};

	make_guest();
	attach_guest(iommu, &viommu);
	say("the device reads through the guest's page tables: %s", device_reads());

	map_page(NEW_PAGE);
	say("the entry has changed and nobody told the SMMU: %s", device_reads());

	invalidate.hwpt_id = viommu.out_viommu_id;
	request(iommu, IOMMU_HWPT_INVALIDATE, &invalidate, "IOMMU_HWPT_INVALIDATE");
	say("after CMD_TLBI_NH_VA, which the guest had forgotten: %s", device_reads());
	return strcmp(device_reads(), "the new page") != 0;
}
