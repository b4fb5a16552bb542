/*
 * A guest's VT-d in front of a physical one: the same as nested.c, with a first-stage table of the guest over the
 * kernel's second stage. There is no viommu: the invalidation names the table, and the kernel adds the device.
 */
#include "include/guest.h"

/* Four levels of first-stage tables (D51397, 9.7), which are those of x86-64. */
#define TOP_TABLE 0x10000UL
#define TABLE_OF_GIGABYTES 0x11000UL
#define TABLE_OF_2_MEGABYTES 0x12000UL
#define TABLE_OF_PAGES 0x13000UL

/* Present, writable, user, accessed; a leaf that may be written to is dirty as well. */
enum { TABLE = 0x27, LEAF = 0x67 };

static void map_page(uint64_t page)
{
	put64(TABLE_OF_PAGES, page | LEAF);
}

static void build_guest_first_stage(void)
{
	put64(TOP_TABLE, TABLE_OF_GIGABYTES | TABLE);
	put64(TABLE_OF_GIGABYTES + (IOVA >> 30) * 8, TABLE_OF_2_MEGABYTES | TABLE);
	put64(TABLE_OF_2_MEGABYTES, TABLE_OF_PAGES | TABLE);
	map_page(OLD_PAGE);
}

static void ask_for_hardware(int iommu, uint32_t device_id)
{
	struct iommu_hw_info_vtd vtd;
	struct iommu_hw_info info = {
		.size = sizeof(info), .dev_id = device_id, .data_len = sizeof(vtd), .data_uptr = (uintptr_t)&vtd,
	};

	request(iommu, IOMMU_GET_HW_INFO, &info, "IOMMU_GET_HW_INFO");
	if (info.out_data_type != IOMMU_HW_INFO_TYPE_INTEL_VTD) {
		fprintf(stderr, "the device is not behind VT-d: run this with machines/intel.yaml\n");
		exit(1);
	}
	say("CAP_REG is %#lx, ECAP_REG %#lx", (unsigned long)vtd.cap_reg, (unsigned long)vtd.ecap_reg);
}

int main(void)
{
	int iommu = open_iommu();
	struct iommu_hwpt_vtd_s1 table = { .pgtbl_addr = TOP_TABLE, .addr_width = 48 };
	struct iommu_hwpt_alloc nested = {
		.size = sizeof(nested), .data_type = IOMMU_HWPT_DATA_VTD_S1, .data_len = sizeof(table),
		.data_uptr = (uintptr_t)&table,
	};
	struct iommu_hwpt_vtd_s1_invalidate page = { .addr = IOVA, .npages = 1, .flags = IOMMU_VTD_INV_FLAGS_LEAF };
	struct iommu_hwpt_invalidate invalidate = {
		.size = sizeof(invalidate), .data_uptr = (uintptr_t)&page,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_VTD_S1, .entry_len = sizeof(page), .entry_num = 1,
	};

	make_guest_memory();
	build_guest_first_stage();
	nested.dev_id = bind_device(iommu);
	ask_for_hardware(iommu, nested.dev_id);
	nested.pt_id = make_parent(iommu, nested.dev_id);
	request(iommu, IOMMU_HWPT_ALLOC, &nested, "IOMMU_HWPT_ALLOC");
	attach_device(nested.out_hwpt_id);
	say("the device reads through the guest's page tables: %s", device_reads());

	map_page(NEW_PAGE);
	say("the entry has changed and nobody told the IOMMU: %s", device_reads());

	invalidate.hwpt_id = nested.out_hwpt_id;
	request(iommu, IOMMU_HWPT_INVALIDATE, &invalidate, "IOMMU_HWPT_INVALIDATE");
	say("after IOMMU_HWPT_INVALIDATE, which the guest had forgotten: %s", device_reads());
	return strcmp(device_reads(), "the new page") != 0;
}
