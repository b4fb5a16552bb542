/*
 * A guest whose memory a nesting parent maps, and a device that reads through page tables in it. Which format those have
 * is the business of who includes this.
 */
#ifndef EXAMPLES_GUEST_H
#define EXAMPLES_GUEST_H

#include "example.h"
#include "vfio.h"

/* The guest's memory, as guest physical addresses: what the nesting parent maps. */
#define GUEST_BYTES (4UL << 20)
#define OLD_PAGE 0x100000UL
#define NEW_PAGE 0x200000UL

/* Where the guest's tables have one of those pages. */
#define IOVA 0x40000000UL

static uint8_t *guest;
static int device;

static inline void put64(uint64_t address, uint64_t value)
{
	memcpy(guest + address, &value, sizeof(value));
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

/* The guest's memory with two pages of data. Shared, as VMMs have it. */
static inline void make_guest_memory(void)
{
	guest = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (guest == MAP_FAILED)
		stop("mmap");
	strcpy((char *)guest + OLD_PAGE, "the old page");
	strcpy((char *)guest + NEW_PAGE, "the new page");
}

/* Opens and binds the first device; its id. */
static inline uint32_t bind_device(int iommu)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = iommu };

	device = open("/dev/vfio/devices/vfio0", O_RDWR | O_CLOEXEC);
	if (device < 0)
		stop("/dev/vfio/devices/vfio0");
	request(device, VFIO_DEVICE_BIND_IOMMUFD, &bind, "VFIO_DEVICE_BIND_IOMMUFD");
	return bind.out_devid;
}

/* A nesting parent that maps the guest's memory; its id. */
static inline uint32_t make_parent(int iommu, uint32_t device_id)
{
	struct iommu_hwpt_alloc parent = {
		.size = sizeof(parent), .flags = IOMMU_HWPT_ALLOC_NEST_PARENT, .dev_id = device_id,
		.pt_id = ioas_alloc(iommu),
	};

	request(iommu, IOMMU_HWPT_ALLOC, &parent, "IOMMU_HWPT_ALLOC");
	ioas_map(iommu, parent.pt_id, guest, GUEST_BYTES, 0);
	return parent.out_hwpt_id;
}

static inline void attach_device(uint32_t hwpt)
{
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach), .pt_id = hwpt };

	request(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
}

#endif
