/*
 * Why invalidations of a guest go to Linux in one request: with the two of a thread of December 2023, a device's
 * translation cache is filled again from an IOTLB that is still stale. The requests are those of rfc-2023-12, which
 * Linux does not have.
 */
#include "../packages/core/include/viommu/rfc-2023-12.h"
#include "include/smmuv3-guest.h"

#define ARRAY(commands) .data_uptr = (uintptr_t)(commands), .entry_len = 16, .entry_num = sizeof(commands) / 16

/* One page, ASID 1, leaf only; one page of the device's cache, by a StreamID that does not matter (IHI 0070, 4.4, 4.5). */
static uint64_t for_iotlb[2] = { 0x12 | (1UL << 48), IOVA | 1 };
static uint64_t for_device[2] = { 0x40 | ((uint64_t)VIRTUAL_SID << 32), IOVA };

static struct iommu_rfc_viommu_alloc viommu = { .size = sizeof(viommu) };
static struct iommu_rfc_hwpt_alloc nested = { .size = sizeof(nested) };

/* As attach_guest(), by the requests of the thread. */
static void attach_guest_of_the_thread(int iommu)
{
	struct iommu_rfc_hw_info info = { .size = sizeof(info) };
	struct iommu_dev_assign_virtual_id assign = {
		.size = sizeof(assign), .id_type = IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID, .id = VIRTUAL_SID,
	};
	/* Valid, with stage 1, write-back tables and ATS (IHI 0070, 5.2). */
	uint64_t ste[2] = { 1 | (5UL << 1) | CONTEXT_DESCRIPTOR, (1UL << 2) | (1UL << 4) | (3UL << 6) | (1UL << 28) };

	info.dev_id = viommu.dev_id = assign.dev_id = nested.dev_id = bind_device(iommu);
	request(iommu, IOMMU_RFC_GET_HW_INFO, &info, "IOMMU_RFC_GET_HW_INFO");
	say("the device is behind physical IOMMU %u, which takes a viommu", info.out_piommu_id);
	viommu.hwpt_id = nested.pt_id = make_parent(iommu, nested.dev_id);
	request(iommu, IOMMU_RFC_VIOMMU_ALLOC, &viommu, "IOMMU_RFC_VIOMMU_ALLOC");
	assign.viommu_id = nested.viommu_id = viommu.out_viommu_id;
	request(iommu, IOMMU_DEV_ASSIGN_VIRTUAL_ID, &assign, "IOMMU_DEV_ASSIGN_VIRTUAL_ID");
	nested.data_type = IOMMU_HWPT_DATA_ARM_SMMUV3;
	nested.data_len = sizeof(ste);
	nested.data_uptr = (uintptr_t)ste;
	request(iommu, IOMMU_RFC_HWPT_ALLOC, &nested, "IOMMU_RFC_HWPT_ALLOC");
	attach_device(nested.out_hwpt_id);
}

static void two_requests(int iommu)
{
	struct iommu_dev_invalidate of_device = {
		.size = sizeof(of_device), .dev_id = nested.dev_id,
		.data_type = IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3, ARRAY(for_device),
	};
	struct iommu_hwpt_iotlb_sync of_iotlb = {
		.size = sizeof(of_iotlb), .hwpt_id = nested.out_hwpt_id,
		.data_type = IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3, ARRAY(for_iotlb),
	};

	request(iommu, IOMMU_DEV_INVALIDATE, &of_device, "IOMMU_DEV_INVALIDATE");
	say("the device's cache is empty, and filled from the IOTLB: %s", device_reads());
	request(iommu, IOMMU_HWPT_IOTLB_SYNC, &of_iotlb, "IOMMU_HWPT_IOTLB_SYNC");
	say("all that the guest asked for is done: %s", device_reads());
}

static void one_request(int iommu)
{
	uint64_t commands[4] = { for_iotlb[0], for_iotlb[1], for_device[0], for_device[1] };
	struct iommu_hwpt_invalidate all = {
		.size = sizeof(all), .hwpt_id = viommu.out_viommu_id,
		.data_type = IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3, ARRAY(commands),
	};

	request(iommu, IOMMU_HWPT_INVALIDATE, &all, "IOMMU_HWPT_INVALIDATE");
	say("the same commands in the guest's order, by Linux's one request: %s", device_reads());
}

int main(void)
{
	int iommu = open_iommu();

	make_guest();
	attach_guest_of_the_thread(iommu);
	say("the device reads through the guest's page tables: %s", device_reads());
	map_page(NEW_PAGE);
	two_requests(iommu);
	if (strcmp(device_reads(), "the old page") != 0)
		return 1;
	one_request(iommu);
	return strcmp(device_reads(), "the new page") != 0;
}
