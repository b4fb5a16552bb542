/* An I/O address space: what is mapped where, and what is refused. */
#include "include/example.h"

#define LENGTH 0x10000UL

static void show_ranges(int iommu, uint32_t ioas)
{
	struct iommu_iova_range ranges[8];
	struct iommu_ioas_iova_ranges cmd = { .size = sizeof(cmd), .ioas_id = ioas };

	refused(iommu, IOMMU_IOAS_IOVA_RANGES, &cmd, EMSGSIZE, "room for 0 ranges");
	cmd.allowed_iovas = (uintptr_t)ranges;
	cmd.num_iovas = sizeof(ranges) / sizeof(ranges[0]);
	request(iommu, IOMMU_IOAS_IOVA_RANGES, &cmd, "IOMMU_IOAS_IOVA_RANGES");
	for (uint32_t i = 0; i < cmd.num_iovas; i++)
		say("usable: %#lx to %#lx", (unsigned long)ranges[i].start, (unsigned long)ranges[i].last);
}

int main(void)
{
	int iommu = open_iommu();
	uint32_t ioas = ioas_alloc(iommu);
	char *buffer = allocate(LENGTH);
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)buffer,
		.length = LENGTH,
	};
	struct iommu_ioas_unmap unmap = { .size = sizeof(unmap), .ioas_id = ioas, .length = LENGTH };
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = ioas };

	say("I/O address space %u", ioas);
	show_ranges(iommu, ioas);

	request(iommu, IOMMU_IOAS_MAP, &map, "IOMMU_IOAS_MAP");
	say("mapped %#lx bytes, the kernel chose IOVA %#lx", LENGTH, (unsigned long)map.iova);

	map.flags |= IOMMU_IOAS_MAP_FIXED_IOVA;
	refused(iommu, IOMMU_IOAS_MAP, &map, EEXIST, "once more at that IOVA");

	unmap.iova = map.iova + 0x1000;
	unmap.length = 0x1000;
	refused(iommu, IOMMU_IOAS_UNMAP, &unmap, ENOENT, "unmap a page in its middle");

	unmap.iova = map.iova;
	unmap.length = LENGTH;
	request(iommu, IOMMU_IOAS_UNMAP, &unmap, "IOMMU_IOAS_UNMAP");
	say("unmapped %#lx bytes", (unsigned long)unmap.length);

	request(iommu, IOMMU_DESTROY, &destroy, "IOMMU_DESTROY");
	return 0;
}
