/*
 * A guest behind an SMMUv3: its memory, a context descriptor and tables of stage 1 in it, and a device that reads
 * through them.
 */
#ifndef EXAMPLES_SMMUV3_GUEST_H
#define EXAMPLES_SMMUV3_GUEST_H

#include "example.h"
#include "vfio.h"

/* The guest's memory, as guest physical addresses: what the nesting parent maps. */
#define GUEST_BYTES (4UL << 20)
#define L1_TABLE 0x10000UL /* 4 KiB granule, a 39-bit input address: levels 1 to 3 */
#define L2_TABLE 0x11000UL
#define L3_TABLE 0x12000UL
#define CONTEXT_DESCRIPTOR 0x13000UL
#define OLD_PAGE 0x100000UL
#define NEW_PAGE 0x200000UL

#define IOVA 0x40000000UL
#define VIRTUAL_SID 0x9

static uint8_t *guest;
static int device;

static inline void put64(uint64_t address, uint64_t value)
{
	memcpy(guest + address, &value, sizeof(value));
}

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

/* One DMA read of the device. */
static inline const char *device_reads(void)
{
	static char text[16];
	struct viommu_device_dma dma = {
		.argsz = sizeof(dma), .iova = IOVA, .length = sizeof(text), .data = (uintptr_t)text,
	};

	request(device, VIOMMU_DEVICE_DMA, &dma, "VIOMMU_DEVICE_DMA");
	return text;
}

/* The guest's memory: two pages of data, and what leads to the first. Shared, as VMMs have it. */
static inline void make_guest(void)
{
	guest = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (guest == MAP_FAILED)
		stop("mmap");
	strcpy((char *)guest + OLD_PAGE, "the old page");
	strcpy((char *)guest + NEW_PAGE, "the new page");
	build_guest_stage_1();
}

/*
 * Puts the first device behind the guest's SMMU: a nesting parent that maps the guest's memory, the viommu (whose type
 * and data the caller has set), the guest's name for the device, and a nested domain of the entry that the guest's
 * driver wrote to its stream table.
 */
static inline void attach_guest(int iommu, struct iommu_viommu_alloc *viommu)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = iommu };
	struct iommu_hwpt_alloc parent = { .size = sizeof(parent), .flags = IOMMU_HWPT_ALLOC_NEST_PARENT };
	struct iommu_vdevice_alloc vdevice = { .size = sizeof(vdevice), .virt_id = VIRTUAL_SID };
	/* Valid, with stage 1 and write-back tables (IHI 0070, 5.2). */
	uint64_t ste[2] = { 1 | (5UL << 1) | CONTEXT_DESCRIPTOR, (1UL << 2) | (1UL << 4) | (3UL << 6) };
	struct iommu_hwpt_alloc nested = {
		.size = sizeof(nested), .data_type = IOMMU_HWPT_DATA_ARM_SMMUV3, .data_len = sizeof(ste),
		.data_uptr = (uintptr_t)ste,
	};
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };

	device = open("/dev/vfio/devices/vfio0", O_RDWR | O_CLOEXEC);
	if (device < 0)
		stop("/dev/vfio/devices/vfio0");
	request(device, VFIO_DEVICE_BIND_IOMMUFD, &bind, "VFIO_DEVICE_BIND_IOMMUFD");
	parent.dev_id = viommu->dev_id = vdevice.dev_id = nested.dev_id = bind.out_devid;
	parent.pt_id = ioas_alloc(iommu);
	request(iommu, IOMMU_HWPT_ALLOC, &parent, "IOMMU_HWPT_ALLOC");
	ioas_map(iommu, parent.pt_id, guest, GUEST_BYTES, 0);
	viommu->hwpt_id = parent.out_hwpt_id;
	request(iommu, IOMMU_VIOMMU_ALLOC, viommu, "IOMMU_VIOMMU_ALLOC");
	vdevice.viommu_id = nested.pt_id = viommu->out_viommu_id;
	request(iommu, IOMMU_VDEVICE_ALLOC, &vdevice, "IOMMU_VDEVICE_ALLOC");
	request(iommu, IOMMU_HWPT_ALLOC, &nested, "IOMMU_HWPT_ALLOC");
	attach.pt_id = nested.out_hwpt_id;
	request(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
}

#endif
