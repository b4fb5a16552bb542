/* What the examples need of <linux/vfio.h>, of <linux/iommufd.h> for the SMMUv3, and of viommu itself. */
#ifndef EXAMPLES_VFIO_H
#define EXAMPLES_VFIO_H

#include <stdint.h>
#include <sys/ioctl.h>

#define IOMMU_HWPT_DATA_ARM_SMMUV3 2
#define IOMMU_VIOMMU_TYPE_ARM_SMMUV3 1
#define IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 1

#define VFIO_DEVICE_BIND_IOMMUFD _IO(';', 118)
struct vfio_device_bind_iommufd {
	uint32_t argsz;
	uint32_t flags;
	int32_t iommufd;
	uint32_t out_devid;
	uint64_t token_uuid_ptr;
};

#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(';', 119)
struct vfio_device_attach_iommufd_pt {
	uint32_t argsz;
	uint32_t flags;
	uint32_t pt_id;
	uint32_t pasid;
};

#define VFIO_DEVICE_GET_REGION_INFO _IO(';', 108)
struct vfio_region_info {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t cap_offset;
	uint64_t size;
	uint64_t offset; /* of the device's descriptor */
};

enum { VFIO_PCI_BAR0_REGION_INDEX = 0, VFIO_PCI_CONFIG_REGION_INDEX = 7 };

/* viommu's own: the device does one DMA, as its driver would have it do. EIO where the IOMMU refuses. */
#define VIOMMU_DEVICE_DMA _IO(';', 0xf0)
#define VIOMMU_DEVICE_DMA_WRITE (1 << 0)
struct viommu_device_dma {
	uint32_t argsz;
	uint32_t flags;
	uint32_t pasid;
	uint32_t __reserved;
	uint64_t iova;
	uint64_t length;
	uint64_t data; /* a pointer: read from where the device writes, written to where it reads */
};

#endif
