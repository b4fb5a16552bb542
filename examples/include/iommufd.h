/*
 * What the examples use of Linux's uAPI: <linux/iommufd.h>, and iommufd_test.h of drivers/iommu/iommufd for the mock
 * IOMMU. Under the same names, so that a program written with this compiles with the system's headers too, where these
 * are new enough.
 */
#ifndef EXAMPLES_IOMMUFD_H
#define EXAMPLES_IOMMUFD_H

#include <stdint.h>
#include <sys/ioctl.h>

#define IOMMUFD_REQUEST(number) _IO(';', number)
#define IOMMUFD_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)

#define IOMMU_DESTROY IOMMUFD_REQUEST(0x80)
struct iommu_destroy {
	uint32_t size;
	uint32_t id;
};
IOMMUFD_SIZE(iommu_destroy, 8);

#define IOMMU_IOAS_ALLOC IOMMUFD_REQUEST(0x81)
struct iommu_ioas_alloc {
	uint32_t size;
	uint32_t flags;
	uint32_t out_ioas_id;
};
IOMMUFD_SIZE(iommu_ioas_alloc, 12);

/* Both ends inclusive. */
struct iommu_iova_range {
	uint64_t start;
	uint64_t last;
};

#define IOMMU_IOAS_IOVA_RANGES IOMMUFD_REQUEST(0x84)
struct iommu_ioas_iova_ranges {
	uint32_t size;
	uint32_t ioas_id;
	uint32_t num_iovas;
	uint32_t __reserved;
	uint64_t allowed_iovas; /* a pointer to struct iommu_iova_range[num_iovas] */
	uint64_t out_iova_alignment;
};
IOMMUFD_SIZE(iommu_ioas_iova_ranges, 32);

enum {
	IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0,
	IOMMU_IOAS_MAP_WRITEABLE = 1 << 1,
	IOMMU_IOAS_MAP_READABLE = 1 << 2,
};

#define IOMMU_IOAS_MAP IOMMUFD_REQUEST(0x85)
struct iommu_ioas_map {
	uint32_t size;
	uint32_t flags;
	uint32_t ioas_id;
	uint32_t __reserved;
	uint64_t user_va;
	uint64_t length;
	uint64_t iova; /* in with FIXED_IOVA, else out */
};
IOMMUFD_SIZE(iommu_ioas_map, 40);

#define IOMMU_IOAS_UNMAP IOMMUFD_REQUEST(0x86)
struct iommu_ioas_unmap {
	uint32_t size;
	uint32_t ioas_id;
	uint64_t iova;
	uint64_t length; /* out: how much was unmapped */
};
IOMMUFD_SIZE(iommu_ioas_unmap, 24);

enum { IOMMU_HWPT_ALLOC_NEST_PARENT = 1 << 0 };

#define IOMMU_HWPT_ALLOC IOMMUFD_REQUEST(0x89)
struct iommu_hwpt_alloc {
	uint32_t size;
	uint32_t flags;
	uint32_t dev_id;
	uint32_t pt_id; /* an IOAS, a parent HWPT or a viommu */
	uint32_t out_hwpt_id;
	uint32_t __reserved;
	uint32_t data_type;
	uint32_t data_len;
	uint64_t data_uptr;
	uint32_t fault_id;
	uint32_t __reserved2;
};
IOMMUFD_SIZE(iommu_hwpt_alloc, 48);

enum { IOMMU_HWPT_DATA_VTD_S1 = 1, IOMMU_HWPT_DATA_AMD_GUEST = 3 };

struct iommu_hwpt_vtd_s1 {
	uint64_t flags;
	uint64_t pgtbl_addr; /* where the nesting parent's memory has the guest's top table */
	uint32_t addr_width; /* 48 for four levels, 57 for five */
	uint32_t __reserved;
};
IOMMUFD_SIZE(iommu_hwpt_vtd_s1, 24);

enum { IOMMU_HW_INFO_TYPE_INTEL_VTD = 1 };

#define IOMMU_GET_HW_INFO IOMMUFD_REQUEST(0x8a)
struct iommu_hw_info {
	uint32_t size;
	uint32_t flags;
	uint32_t dev_id;
	uint32_t data_len;
	uint64_t data_uptr;
	uint32_t out_data_type;
	uint8_t out_max_pasid_log2;
	uint8_t __reserved[3];
	uint64_t out_capabilities;
};
IOMMUFD_SIZE(iommu_hw_info, 40);

struct iommu_hw_info_vtd {
	uint32_t flags;
	uint32_t __reserved;
	uint64_t cap_reg;
	uint64_t ecap_reg;
};
IOMMUFD_SIZE(iommu_hw_info_vtd, 24);

#define IOMMU_HWPT_INVALIDATE IOMMUFD_REQUEST(0x8d)
struct iommu_hwpt_invalidate {
	uint32_t size;
	uint32_t hwpt_id; /* a nested HWPT or a viommu */
	uint64_t data_uptr;
	uint32_t data_type;
	uint32_t entry_len;
	uint32_t entry_num; /* out: how many were carried out */
	uint32_t __reserved;
};
IOMMUFD_SIZE(iommu_hwpt_invalidate, 32);

enum { IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0 };
enum { IOMMU_VTD_INV_FLAGS_LEAF = 1 << 0 };

struct iommu_hwpt_vtd_s1_invalidate {
	uint64_t addr;
	uint64_t npages; /* of 4 KiB */
	uint32_t flags;
	uint32_t __reserved;
};
IOMMUFD_SIZE(iommu_hwpt_vtd_s1_invalidate, 24);

#define IOMMU_VIOMMU_ALLOC IOMMUFD_REQUEST(0x90)
struct iommu_viommu_alloc {
	uint32_t size;
	uint32_t flags;
	uint32_t type;
	uint32_t dev_id;
	uint32_t hwpt_id; /* the parent that it shares */
	uint32_t out_viommu_id;
	uint32_t data_len;
	uint32_t __reserved;
	uint64_t data_uptr;
};
IOMMUFD_SIZE(iommu_viommu_alloc, 40);

#define IOMMU_VDEVICE_ALLOC IOMMUFD_REQUEST(0x91)
struct iommu_vdevice_alloc {
	uint32_t size;
	uint32_t viommu_id;
	uint32_t dev_id;
	uint32_t out_vdevice_id;
	uint64_t virt_id; /* what the guest calls the device */
};
IOMMUFD_SIZE(iommu_vdevice_alloc, 24);

enum { IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = 2 };

/* What the kernel tells of such a viommu: where to mmap(2) the registers of its queues. */
struct iommu_viommu_tegra241_cmdqv {
	uint64_t out_vintf_mmap_offset;
	uint64_t out_vintf_mmap_length;
};
IOMMUFD_SIZE(iommu_viommu_tegra241_cmdqv, 16);

enum { IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = 1 };

#define IOMMU_HW_QUEUE_ALLOC IOMMUFD_REQUEST(0x94)
struct iommu_hw_queue_alloc {
	uint32_t size;
	uint32_t flags;
	uint32_t viommu_id;
	uint32_t type;
	uint32_t index;
	uint32_t out_hw_queue_id;
	uint64_t nesting_parent_iova; /* where the queue lies in the guest's memory */
	uint64_t length;
};
IOMMUFD_SIZE(iommu_hw_queue_alloc, 40);

#define IOMMU_VEVENTQ_ALLOC IOMMUFD_REQUEST(0x93)
struct iommu_veventq_alloc {
	uint32_t size;
	uint32_t flags;
	uint32_t viommu_id;
	uint32_t type;
	uint32_t veventq_depth;
	uint32_t out_veventq_id;
	uint32_t out_veventq_fd;
	uint32_t __reserved;
};
IOMMUFD_SIZE(iommu_veventq_alloc, 32);

struct iommufd_vevent_header {
	uint32_t flags;
	uint32_t sequence;
};

/* The mock IOMMU, which Linux has with CONFIG_IOMMUFD_TEST. */

#define MOCK_APERTURE_START (1UL << 24)
#define MOCK_ACCESS_RW_WRITE (1 << 0)

#define IOMMU_HWPT_DATA_SELFTEST 0xdead
#define IOMMU_VIOMMU_TYPE_SELFTEST 0xdeadbeef
#define IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST 0xdeadbeef
#define IOMMU_VEVENTQ_TYPE_SELFTEST 0xbeefbeef
#define IOMMU_TEST_DEV_CACHE_DEFAULT 0xbaddad

enum {
	IOMMU_TEST_OP_MOCK_DOMAIN = 2,
	IOMMU_TEST_OP_MD_CHECK_MAP = 3,
	IOMMU_TEST_OP_CREATE_ACCESS = 5,
	IOMMU_TEST_OP_ACCESS_RW = 8,
	IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE = 10,
	IOMMU_TEST_OP_DEV_CHECK_CACHE = 16,
	IOMMU_TEST_OP_TRIGGER_VEVENT = 17,
};

#define IOMMU_TEST_CMD IOMMUFD_REQUEST(0xa0)
struct iommu_test_cmd {
	uint32_t size;
	uint32_t op;
	uint32_t id;
	uint32_t __reserved;
	union {
		struct {
			uint32_t out_stdev_id;
			uint32_t out_hwpt_id;
			uint32_t out_idev_id;
		} mock_domain;
		struct {
			uint32_t pt_id;
		} mock_domain_replace;
		struct {
			uint64_t iova;
			uint64_t length;
			uint64_t uptr;
		} check_map;
		struct {
			uint32_t out_access_fd;
			uint32_t flags;
		} create_access;
		struct {
			uint64_t iova;
			uint64_t length;
			uint64_t uptr;
			uint32_t flags;
		} access_rw;
		struct {
			uint32_t id;
			uint32_t cache;
		} check_dev_cache;
		struct {
			uint32_t dev_id;
		} trigger_vevent;
		uint64_t __largest[6];
	};
	uint32_t last;
};
IOMMUFD_SIZE(iommu_test_cmd, 72);

struct iommu_hwpt_selftest {
	uint32_t iotlb;
	uint32_t pagetable_type;
};

struct iommu_viommu_invalidate_selftest {
	uint32_t flags;
	uint32_t vdev_id;
	uint32_t cache_id;
};

struct iommu_viommu_event_selftest {
	uint32_t virt_id;
};

#endif
