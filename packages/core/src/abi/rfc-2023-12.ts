// The uAPI of a mailing-list thread of December 2023 about nesting in iommufd ("[PATCH v6 0/6] iommufd: Add nesting
// infrastructure (part 2/2)"), which Linux did not take in this form. include/viommu/rfc-2023-12.h says the same in C,
// docs/rfc-2023-12.md what it is about.
//
// Where the thread extends a struct that Linux has, the extended one has a number and a name of its own here, so that
// Linux's stay what they are. Messages of the thread are cited by their number in it; 6 is the one that has the structs.

import { bytes, struct, u32, u64, u8 } from '../base/struct.ts';
import { IO, IOMMUFD_TYPE } from './ioctl.ts';

/** Linux 7.3 ends at 0x95, and the mock IOMMU has 0xa0. */
export const IOMMUFD_CMD_RFC_BASE = 0xc0;
export const IOMMUFD_CMD_RFC_VIOMMU_ALLOC = IOMMUFD_CMD_RFC_BASE;
export const IOMMUFD_CMD_RFC_HWPT_ALLOC = 0xc1;
export const IOMMUFD_CMD_RFC_GET_HW_INFO = 0xc2;
export const IOMMUFD_CMD_DEV_ASSIGN_VIRTUAL_ID = 0xc3;
export const IOMMUFD_CMD_DEV_INVALIDATE = 0xc4;
export const IOMMUFD_CMD_HWPT_IOTLB_SYNC = 0xc5;

/** Message 6, "we also need an iommu_viommu_alloc structure": a parent, and a device for the physical IOMMU. */
export const iommu_rfc_viommu_alloc = struct('iommu_rfc_viommu_alloc', 24, {
  size: u32,
  /** 0. */
  flags: u32,
  dev_id: u32,
  /** A HWPT that was made as a nest parent; other viommus may have the same. */
  hwpt_id: u32,
  out_viommu_id: u32,
  __reserved: u32,
});
export const IOMMU_RFC_VIOMMU_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_RFC_VIOMMU_ALLOC);

/** Message 6: struct iommu_hwpt_alloc of Linux 6.7 with a viommu_id behind it. */
export const iommu_rfc_hwpt_alloc = struct('iommu_rfc_hwpt_alloc', 48, {
  size: u32,
  flags: u32,
  dev_id: u32,
  /** An IOAS or a nest parent; with a viommu, the one that the viommu holds. */
  pt_id: u32,
  out_hwpt_id: u32,
  __reserved: u32,
  data_type: u32,
  data_len: u32,
  data_uptr: u64,
  /** 0 for none. */
  viommu_id: u32,
  __reserved2: u32,
});
export const IOMMU_RFC_HWPT_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_RFC_HWPT_ALLOC);

/** Message 6, "the hw_info ioctl to return a piommu_id": struct iommu_hw_info of Linux 7.3 with it behind. */
export const iommu_rfc_hw_info = struct('iommu_rfc_hw_info', 48, {
  size: u32,
  flags: u32,
  dev_id: u32,
  data_len: u32,
  data_uptr: u64,
  out_data_type: u32,
  out_max_pasid_log2: u8,
  __reserved: bytes(3),
  out_capabilities: u64,
  /** Which physical IOMMU it is: from 1 on, the same in every iommufd of the machine. */
  out_piommu_id: u32,
  __reserved2: u32,
});
export const IOMMU_RFC_GET_HW_INFO = IO(IOMMUFD_TYPE, IOMMUFD_CMD_RFC_GET_HW_INFO);

/** Message 6. */
export const iommu_dev_virtual_id_type = {
  /** The guest's domain id, which several devices may have. */
  IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID: 0,
  /** The guest's device id. */
  IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID: 1,
  /** The guest's StreamID. */
  IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID: 2,
} as const;
export const {
  IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID,
  IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_RID,
  IOMMU_DEV_VIRTUAL_ID_TYPE_ARM_SMMU_SID,
} = iommu_dev_virtual_id_type;

/** Message 6, with viommu_id and 64 bits for the id after message 3. */
export const iommu_dev_assign_virtual_id = struct('iommu_dev_assign_virtual_id', 24, {
  size: u32,
  dev_id: u32,
  /** The viommu whose table it enters; or a nest parent, which keeps one where there is no viommu. */
  viommu_id: u32,
  /** enum iommu_dev_virtual_id_type. */
  id_type: u32,
  id: u64,
});
export const IOMMU_DEV_ASSIGN_VIRTUAL_ID = IO(IOMMUFD_TYPE, IOMMUFD_CMD_DEV_ASSIGN_VIRTUAL_ID);

/** VT-d has no commands for a device, message 5. */
export const iommu_dev_invalidate_data_type = {
  IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3: 1,
  IOMMU_DEV_INVALIDATE_DATA_AMD: 2,
} as const;
export const { IOMMU_DEV_INVALIDATE_DATA_ARM_SMMUV3, IOMMU_DEV_INVALIDATE_DATA_AMD } =
  iommu_dev_invalidate_data_type;

/** A command of an SMMUv3: CMD_ATC_INV, CMD_CFGI_CD or CMD_CFGI_CD_ALL. Its StreamID does not count. */
export const iommu_dev_invalidate_arm_smmuv3 = struct('iommu_dev_invalidate_arm_smmuv3', 16, {
  cmd_lo: u64,
  cmd_hi: u64,
});

/** A command of an AMD IOMMU: INVALIDATE_IOTLB_PAGES. Its DeviceID does not count. */
export const iommu_dev_invalidate_amd = struct('iommu_dev_invalidate_amd', 16, { cmd_lo: u64, cmd_hi: u64 });

/** Message 1: "introduced with the same design as HWPT invalidate"; message 6: "a dev_id and a list of commands". */
export const iommu_dev_invalidate = struct('iommu_dev_invalidate', 32, {
  size: u32,
  dev_id: u32,
  data_uptr: u64,
  /** enum iommu_dev_invalidate_data_type. */
  data_type: u32,
  entry_len: u32,
  /** Out: how many were handled. */
  entry_num: u32,
  __reserved: u32,
});
export const IOMMU_DEV_INVALIDATE = IO(IOMMUFD_TYPE, IOMMUFD_CMD_DEV_INVALIDATE);

/** What is synchronised; IOMMU_HWPT_INVALIDATE_DATA_VTD_S1, 0, is VT-d's. */
export const iommu_hwpt_iotlb_sync_data_type = {
  IOMMU_HWPT_IOTLB_SYNC_DATA_VTD_S1: 0,
  IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3: 1,
  IOMMU_HWPT_IOTLB_SYNC_DATA_AMD: 2,
} as const;
export const {
  IOMMU_HWPT_IOTLB_SYNC_DATA_VTD_S1,
  IOMMU_HWPT_IOTLB_SYNC_DATA_ARM_SMMUV3,
  IOMMU_HWPT_IOTLB_SYNC_DATA_AMD,
} = iommu_hwpt_iotlb_sync_data_type;

/** Message 6, "s/cache_invalidate_user/iotlb_sync_user": what is left of it once devices have a request of their own. */
export const iommu_hwpt_iotlb_sync = struct('iommu_hwpt_iotlb_sync', 32, {
  size: u32,
  /** A nested HWPT; on Arm also the nest parent, whose VMID the commands get (message 1). */
  hwpt_id: u32,
  data_uptr: u64,
  /** enum iommu_hwpt_iotlb_sync_data_type. */
  data_type: u32,
  entry_len: u32,
  /** Out: how many were handled. */
  entry_num: u32,
  __reserved: u32,
});
export const IOMMU_HWPT_IOTLB_SYNC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_IOTLB_SYNC);
