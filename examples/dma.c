/* A device writes to memory through the IOMMU, as long as it may. */
#include "include/example.h"

#define LENGTH 0x2000UL
#define IOVA (MOCK_APERTURE_START + 0x10000)

int main(void)
{
	int iommu = open_iommu();
	uint32_t ioas = ioas_alloc(iommu);
	char *buffer = allocate(LENGTH);
	char message[] = "hello from the device";
	struct iommu_test_cmd device = mock_device(iommu, ioas);
	struct iommu_test_cmd check = {
		.size = sizeof(check),
		.op = IOMMU_TEST_OP_MD_CHECK_MAP,
		.id = device.mock_domain.out_hwpt_id,
		.check_map = { .iova = IOVA, .length = LENGTH, .uptr = (uintptr_t)buffer },
	};
	struct iommu_test_cmd access = { .size = sizeof(access), .op = IOMMU_TEST_OP_CREATE_ACCESS, .id = ioas };
	struct iommu_test_cmd write = {
		.size = sizeof(write),
		.op = IOMMU_TEST_OP_ACCESS_RW,
		/* Over the boundary of two pages. */
		.access_rw = { .iova = IOVA + 0xff6, .uptr = (uintptr_t)message, .flags = MOCK_ACCESS_RW_WRITE },
	};
	struct iommu_ioas_unmap unmap = { .size = sizeof(unmap), .ioas_id = ioas, .iova = IOVA, .length = LENGTH };

	say("device %u behind the mock IOMMU, page table %u", device.mock_domain.out_idev_id,
	    device.mock_domain.out_hwpt_id);
	ioas_map(iommu, ioas, buffer, LENGTH, IOVA);
	request(iommu, IOMMU_TEST_CMD, &check, "IOMMU_TEST_OP_MD_CHECK_MAP");
	say("the page table leads from %#lx to our buffer", IOVA);

	request(iommu, IOMMU_TEST_CMD, &access, "IOMMU_TEST_OP_CREATE_ACCESS");
	write.id = access.create_access.out_access_fd;
	write.access_rw.length = sizeof(message);
	request(iommu, IOMMU_TEST_CMD, &write, "IOMMU_TEST_OP_ACCESS_RW");
	say("in our buffer: '%s'", buffer + 0xff6);
	if (strcmp(buffer + 0xff6, message) != 0)
		return 1;

	request(iommu, IOMMU_IOAS_UNMAP, &unmap, "IOMMU_IOAS_UNMAP");
	refused(iommu, IOMMU_TEST_CMD, &write, ENOENT, "the same write after the unmap");
	return 0;
}
