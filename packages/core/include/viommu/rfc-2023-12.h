/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The uAPI of a mailing-list thread of December 2023 about nesting in iommufd, which Linux did not take in this form.
 * viommu serves it beside Linux's with `viommu run --uapi rfc-2023-12`; docs/rfc-2023-12.md says what it does.
 *
 * It can be included together with <linux/iommufd.h>: what Linux has under the same name in another form is called
 * IOMMU_RFC_* here.
 */
#ifndef VIOMMU_RFC_2023_12_H
#define VIOMMU_RFC_2023_12_H

#include <linux/types.h>
#include <sys/ioctl.h>

#define VIOMMU_RFC_REQUEST(number) _IO(';', number)

#define IOMMUFD_CMD_RFC_BASE 0xc0
#define IOMMUFD_CMD_RFC_VIOMMU_ALLOC 0xc0
#define IOMMUFD_CMD_RFC_HWPT_ALLOC 0xc1
#define IOMMUFD_CMD_RFC_GET_HW_INFO 0xc2
#define IOMMUFD_CMD_DEV_ASSIGN_VIRTUAL_ID 0xc3
#define IOMMUFD_CMD_DEV_INVALIDATE 0xc4
#define IOMMUFD_CMD_HWPT_IOTLB_SYNC 0xc5

/*
 * A viommu: a stage 2 that several may share, and a table of virtual ids, for the physical IOMMU that dev_id is behind.
 * A device can be attached to it: VFIO_DEVICE_ATTACH_IOMMUFD_PT takes out_viommu_id and gives it the stage 2.
 */
#define IOMMU_RFC_VIOMMU_ALLOC VIOMMU_RFC_REQUEST(IOMMUFD_CMD_RFC_VIOMMU_ALLOC)
struct iommu_rfc_viommu_alloc {
	__u32 size;
	__u32 flags; /* 0 */
	__u32 dev_id;
	__u32 hwpt_id; /* made with IOMMU_HWPT_ALLOC_NEST_PARENT */
	__u32 out_viommu_id;
	__u32 __reserved;
};

/* IOMMU_HWPT_ALLOC of Linux 6.7 with a viommu_id. */
#define IOMMU_RFC_HWPT_ALLOC VIOMMU_RFC_REQUEST(IOMMUFD_CMD_RFC_HWPT_ALLOC)
struct iommu_rfc_hwpt_alloc {
	__u32 size;
	__u32 flags;
	__u32 dev_id;
	__u32 pt_id; /* an IOAS or a nest parent; with viommu_id the nest parent that the viommu has */
	__u32 out_hwpt_id;
	__u32 __reserved;
	__u32 data_type;
	__u32 data_len;
	__aligned_u64 data_uptr;
	__u32 viommu_id; /* 0 for none */
	__u32 __reserved2;
};

/* IOMMU_GET_HW_INFO of Linux 7.3, and which physical IOMMU it is. */
#define IOMMU_RFC_GET_HW_INFO VIOMMU_RFC_REQUEST(IOMMUFD_CMD_RFC_GET_HW_INFO)
struct iommu_rfc_hw_info {
	__u32 size;
	__u32 flags;
	__u32 dev_id;
	__u32 data_len;
	__aligned_u64 data_uptr;
	__u32 out_data_type;
	__u8 out_max_pasid_log2;
	__u8 __reserved[3];
	__aligned_u64 out_capabilities;
	__u32 out_piommu_id; /* from 1 on, the same in every iommufd of the machine: one viommu for each */
	__u32 __reserved2;
};

enum iommu_dev_virtual_id_type {
	IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID = 0, /* domain id; several devices may have it */
	IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID = 1, /* device id */
	IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID = 2, /* StreamID */
};

/* A device that has an id of the type gets the new one instead. */
#define IOMMU_DEV_ASSIGN_VIRTUAL_ID VIOMMU_RFC_REQUEST(IOMMUFD_CMD_DEV_ASSIGN_VIRTUAL_ID)
struct iommu_dev_assign_virtual_id {
	__u32 size;
	__u32 dev_id;
	__u32 viommu_id; /* or a nest parent, which keeps the table where there is no viommu */
	__u32 id_type; /* enum iommu_dev_virtual_id_type */
	__aligned_u64 id;
};

enum iommu_dev_invalidate_data_type {
	IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3 = 1,
	IOMMU_DEV_INVALIDATE_DATA_AMD = 2,
};

/* CMD_ATC_INV, CMD_CFGI_CD or CMD_CFGI_CD_ALL as the guest has it; the StreamID becomes the device's. */
struct iommu_dev_invalidate_arm_smmuv3 {
	__aligned_u64 cmd_lo;
	__aligned_u64 cmd_hi;
};

/* INVALIDATE_IOTLB_PAGES as the guest has it; the DeviceID becomes the device's. */
struct iommu_dev_invalidate_amd {
	__aligned_u64 cmd_lo;
	__aligned_u64 cmd_hi;
};

/* Commands for what the device alone has in caches. EOPNOTSUPP behind VT-d, whose driver invalidates ATCs itself. */
#define IOMMU_DEV_INVALIDATE VIOMMU_RFC_REQUEST(IOMMUFD_CMD_DEV_INVALIDATE)
struct iommu_dev_invalidate {
	__u32 size;
	__u32 dev_id;
	__aligned_u64 data_uptr;
	__u32 data_type; /* enum iommu_dev_invalidate_data_type */
	__u32 entry_len;
	__u32 entry_num; /* out: how many were handled */
	__u32 __reserved;
};

enum iommu_hwpt_iotlb_sync_data_type {
	IOMMU_HWPT_IOTLB_SYNC_DATA_VTD_S1 = 0, /* struct iommu_hwpt_vtd_s1_invalidate */
	IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3 = 1, /* CMD_TLBI_*: two __aligned_u64 */
	IOMMU_HWPT_IOTLB_SYNC_DATA_AMD = 2, /* INVALIDATE_IOMMU_PAGES: two __aligned_u64 */
};

/* Commands for the IOTLB. */
#define IOMMU_HWPT_IOTLB_SYNC VIOMMU_RFC_REQUEST(IOMMUFD_CMD_HWPT_IOTLB_SYNC)
struct iommu_hwpt_iotlb_sync {
	__u32 size;
	__u32 hwpt_id; /* a nested HWPT; on Arm also the nest parent */
	__aligned_u64 data_uptr;
	__u32 data_type; /* enum iommu_hwpt_iotlb_sync_data_type */
	__u32 entry_len;
	__u32 entry_num; /* out: how many were handled */
	__u32 __reserved;
};

#endif
