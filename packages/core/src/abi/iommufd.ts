// uapi/linux/iommufd.h of Linux 7.3: the ioctls, their structs, flags and object types. What a vendor's IOMMU adds is in
// iommufd-data.ts. The enums of the header are objects of the same name, so that values can be printed by name.

import { bytes, s32, struct, u16, u32, u64, u8 } from '../base/struct.ts';
import { IO, IOMMUFD_TYPE } from './ioctl.ts';

export { IOMMUFD_TYPE };

export const IOMMUFD_CMD_BASE = 0x80;
export const IOMMUFD_CMD_DESTROY = IOMMUFD_CMD_BASE;
export const IOMMUFD_CMD_IOAS_ALLOC = 0x81;
export const IOMMUFD_CMD_IOAS_ALLOW_IOVAS = 0x82;
export const IOMMUFD_CMD_IOAS_COPY = 0x83;
export const IOMMUFD_CMD_IOAS_IOVA_RANGES = 0x84;
export const IOMMUFD_CMD_IOAS_MAP = 0x85;
export const IOMMUFD_CMD_IOAS_UNMAP = 0x86;
export const IOMMUFD_CMD_OPTION = 0x87;
export const IOMMUFD_CMD_VFIO_IOAS = 0x88;
export const IOMMUFD_CMD_HWPT_ALLOC = 0x89;
export const IOMMUFD_CMD_GET_HW_INFO = 0x8a;
export const IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING = 0x8b;
export const IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP = 0x8c;
export const IOMMUFD_CMD_HWPT_INVALIDATE = 0x8d;
export const IOMMUFD_CMD_FAULT_QUEUE_ALLOC = 0x8e;
export const IOMMUFD_CMD_IOAS_MAP_FILE = 0x8f;
export const IOMMUFD_CMD_VIOMMU_ALLOC = 0x90;
export const IOMMUFD_CMD_VDEVICE_ALLOC = 0x91;
export const IOMMUFD_CMD_IOAS_CHANGE_PROCESS = 0x92;
export const IOMMUFD_CMD_VEVENTQ_ALLOC = 0x93;
export const IOMMUFD_CMD_HW_QUEUE_ALLOC = 0x94;
export const IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA = 0x95;

export const iommu_destroy = struct('iommu_destroy', 8, { size: u32, id: u32 });
export const IOMMU_DESTROY = IO(IOMMUFD_TYPE, IOMMUFD_CMD_DESTROY);

export const iommu_ioas_alloc = struct('iommu_ioas_alloc', 12, { size: u32, flags: u32, out_ioas_id: u32 });
export const IOMMU_IOAS_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOC);

/** Both ends are inclusive. */
export const iommu_iova_range = struct('iommu_iova_range', 16, { start: u64, last: u64 });

export const iommu_ioas_iova_ranges = struct('iommu_ioas_iova_ranges', 32, {
  size: u32,
  ioas_id: u32,
  num_iovas: u32,
  __reserved: u32,
  allowed_iovas: u64,
  out_iova_alignment: u64,
});
export const IOMMU_IOAS_IOVA_RANGES = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_IOVA_RANGES);

export const iommu_ioas_allow_iovas = struct('iommu_ioas_allow_iovas', 24, {
  size: u32,
  ioas_id: u32,
  num_iovas: u32,
  __reserved: u32,
  allowed_iovas: u64,
});
export const IOMMU_IOAS_ALLOW_IOVAS = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOW_IOVAS);

export const iommufd_ioas_map_flags = {
  IOMMU_IOAS_MAP_FIXED_IOVA: 1 << 0,
  IOMMU_IOAS_MAP_WRITEABLE: 1 << 1,
  IOMMU_IOAS_MAP_READABLE: 1 << 2,
} as const;
export const { IOMMU_IOAS_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_WRITEABLE, IOMMU_IOAS_MAP_READABLE } =
  iommufd_ioas_map_flags;

export const iommu_ioas_map = struct('iommu_ioas_map', 40, {
  size: u32,
  flags: u32,
  ioas_id: u32,
  __reserved: u32,
  user_va: u64,
  length: u64,
  iova: u64,
});
export const IOMMU_IOAS_MAP = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP);

export const iommu_ioas_noiommu_get_pa = struct('iommu_ioas_noiommu_get_pa', 40, {
  size: u32,
  flags: u32,
  ioas_id: u32,
  __reserved: u32,
  iova: u64,
  length: u64,
  out_phys: u64,
});
export const IOMMU_IOAS_NOIOMMU_GET_PA = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA);

export const iommu_ioas_map_file = struct('iommu_ioas_map_file', 40, {
  size: u32,
  flags: u32,
  ioas_id: u32,
  fd: s32,
  start: u64,
  length: u64,
  iova: u64,
});
export const IOMMU_IOAS_MAP_FILE = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP_FILE);

export const iommu_ioas_copy = struct('iommu_ioas_copy', 40, {
  size: u32,
  flags: u32,
  dst_ioas_id: u32,
  src_ioas_id: u32,
  length: u64,
  dst_iova: u64,
  src_iova: u64,
});
export const IOMMU_IOAS_COPY = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_COPY);

export const iommu_ioas_unmap = struct('iommu_ioas_unmap', 24, {
  size: u32,
  ioas_id: u32,
  iova: u64,
  length: u64,
});
export const IOMMU_IOAS_UNMAP = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_UNMAP);

export const iommufd_option = { IOMMU_OPTION_RLIMIT_MODE: 0, IOMMU_OPTION_HUGE_PAGES: 1 } as const;
export const { IOMMU_OPTION_RLIMIT_MODE, IOMMU_OPTION_HUGE_PAGES } = iommufd_option;

export const iommufd_option_ops = { IOMMU_OPTION_OP_SET: 0, IOMMU_OPTION_OP_GET: 1 } as const;
export const { IOMMU_OPTION_OP_SET, IOMMU_OPTION_OP_GET } = iommufd_option_ops;

export const iommu_option = struct('iommu_option', 24, {
  size: u32,
  option_id: u32,
  op: u16,
  __reserved: u16,
  object_id: u32,
  val64: u64,
});
export const IOMMU_OPTION = IO(IOMMUFD_TYPE, IOMMUFD_CMD_OPTION);

export const iommufd_vfio_ioas_op = {
  IOMMU_VFIO_IOAS_GET: 0,
  IOMMU_VFIO_IOAS_SET: 1,
  IOMMU_VFIO_IOAS_CLEAR: 2,
} as const;
export const { IOMMU_VFIO_IOAS_GET, IOMMU_VFIO_IOAS_SET, IOMMU_VFIO_IOAS_CLEAR } = iommufd_vfio_ioas_op;

export const iommu_vfio_ioas = struct('iommu_vfio_ioas', 12, {
  size: u32,
  ioas_id: u32,
  op: u16,
  __reserved: u16,
});
export const IOMMU_VFIO_IOAS = IO(IOMMUFD_TYPE, IOMMUFD_CMD_VFIO_IOAS);

export const iommufd_hwpt_alloc_flags = {
  IOMMU_HWPT_ALLOC_NEST_PARENT: 1 << 0,
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING: 1 << 1,
  IOMMU_HWPT_FAULT_ID_VALID: 1 << 2,
  IOMMU_HWPT_ALLOC_PASID: 1 << 3,
} as const;
export const {
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_FAULT_ID_VALID,
  IOMMU_HWPT_ALLOC_PASID,
} = iommufd_hwpt_alloc_flags;

export const iommu_hwpt_data_type = {
  IOMMU_HWPT_DATA_NONE: 0,
  IOMMU_HWPT_DATA_VTD_S1: 1,
  IOMMU_HWPT_DATA_ARM_SMMUV3: 2,
  IOMMU_HWPT_DATA_AMD_GUEST: 3,
} as const;
export const {
  IOMMU_HWPT_DATA_NONE,
  IOMMU_HWPT_DATA_VTD_S1,
  IOMMU_HWPT_DATA_ARM_SMMUV3,
  IOMMU_HWPT_DATA_AMD_GUEST,
} = iommu_hwpt_data_type;

export const iommu_hwpt_alloc = struct('iommu_hwpt_alloc', 48, {
  size: u32,
  flags: u32,
  dev_id: u32,
  pt_id: u32,
  out_hwpt_id: u32,
  __reserved: u32,
  data_type: u32,
  data_len: u32,
  data_uptr: u64,
  fault_id: u32,
  __reserved2: u32,
});
export const IOMMU_HWPT_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_ALLOC);

/** IOMMU_HW_INFO_TYPE_NONE comes back, IOMMU_HW_INFO_TYPE_DEFAULT is asked for; both are 0. */
export const iommu_hw_info_type = {
  IOMMU_HW_INFO_TYPE_NONE: 0,
  IOMMU_HW_INFO_TYPE_DEFAULT: 0,
  IOMMU_HW_INFO_TYPE_INTEL_VTD: 1,
  IOMMU_HW_INFO_TYPE_ARM_SMMUV3: 2,
  IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV: 3,
  IOMMU_HW_INFO_TYPE_AMD: 4,
} as const;
export const {
  IOMMU_HW_INFO_TYPE_NONE,
  IOMMU_HW_INFO_TYPE_DEFAULT,
  IOMMU_HW_INFO_TYPE_INTEL_VTD,
  IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
  IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV,
  IOMMU_HW_INFO_TYPE_AMD,
} = iommu_hw_info_type;

export const iommufd_hw_capabilities = {
  IOMMU_HW_CAP_DIRTY_TRACKING: 1 << 0,
  IOMMU_HW_CAP_PCI_PASID_EXEC: 1 << 1,
  IOMMU_HW_CAP_PCI_PASID_PRIV: 1 << 2,
  IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED: 1 << 3,
} as const;
export const {
  IOMMU_HW_CAP_DIRTY_TRACKING,
  IOMMU_HW_CAP_PCI_PASID_EXEC,
  IOMMU_HW_CAP_PCI_PASID_PRIV,
  IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
} = iommufd_hw_capabilities;

export const iommufd_hw_info_flags = { IOMMU_HW_INFO_FLAG_INPUT_TYPE: 1 << 0 } as const;
export const { IOMMU_HW_INFO_FLAG_INPUT_TYPE } = iommufd_hw_info_flags;

/** `out_data_type` is `in_data_type` on the way in: the header has a union of the two. */
export const iommu_hw_info = struct('iommu_hw_info', 40, {
  size: u32,
  flags: u32,
  dev_id: u32,
  data_len: u32,
  data_uptr: u64,
  out_data_type: u32,
  out_max_pasid_log2: u8,
  __reserved: bytes(3),
  out_capabilities: u64,
});
export const IOMMU_GET_HW_INFO = IO(IOMMUFD_TYPE, IOMMUFD_CMD_GET_HW_INFO);

export const iommufd_hwpt_set_dirty_tracking_flags = { IOMMU_HWPT_DIRTY_TRACKING_ENABLE: 1 } as const;
export const { IOMMU_HWPT_DIRTY_TRACKING_ENABLE } = iommufd_hwpt_set_dirty_tracking_flags;

export const iommu_hwpt_set_dirty_tracking = struct('iommu_hwpt_set_dirty_tracking', 16, {
  size: u32,
  flags: u32,
  hwpt_id: u32,
  __reserved: u32,
});
export const IOMMU_HWPT_SET_DIRTY_TRACKING = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING);

export const iommufd_hwpt_get_dirty_bitmap_flags = { IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR: 1 } as const;
export const { IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR } = iommufd_hwpt_get_dirty_bitmap_flags;

export const iommu_hwpt_get_dirty_bitmap = struct('iommu_hwpt_get_dirty_bitmap', 48, {
  size: u32,
  hwpt_id: u32,
  flags: u32,
  __reserved: u32,
  iova: u64,
  length: u64,
  page_size: u64,
  data: u64,
});
export const IOMMU_HWPT_GET_DIRTY_BITMAP = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP);

export const iommu_hwpt_invalidate_data_type = {
  IOMMU_HWPT_INVALIDATE_DATA_VTD_S1: 0,
  IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: 1,
} as const;
export const { IOMMU_HWPT_INVALIDATE_DATA_VTD_S1, IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 } =
  iommu_hwpt_invalidate_data_type;

export const iommu_hwpt_invalidate = struct('iommu_hwpt_invalidate', 32, {
  size: u32,
  hwpt_id: u32,
  data_uptr: u64,
  data_type: u32,
  entry_len: u32,
  entry_num: u32,
  __reserved: u32,
});
export const IOMMU_HWPT_INVALIDATE = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_INVALIDATE);

export const iommu_hwpt_pgfault_flags = {
  IOMMU_PGFAULT_FLAGS_PASID_VALID: 1 << 0,
  IOMMU_PGFAULT_FLAGS_LAST_PAGE: 1 << 1,
} as const;
export const { IOMMU_PGFAULT_FLAGS_PASID_VALID, IOMMU_PGFAULT_FLAGS_LAST_PAGE } = iommu_hwpt_pgfault_flags;

export const iommu_hwpt_pgfault_perm = {
  IOMMU_PGFAULT_PERM_READ: 1 << 0,
  IOMMU_PGFAULT_PERM_WRITE: 1 << 1,
  IOMMU_PGFAULT_PERM_EXEC: 1 << 2,
  IOMMU_PGFAULT_PERM_PRIV: 1 << 3,
} as const;
export const {
  IOMMU_PGFAULT_PERM_READ,
  IOMMU_PGFAULT_PERM_WRITE,
  IOMMU_PGFAULT_PERM_EXEC,
  IOMMU_PGFAULT_PERM_PRIV,
} = iommu_hwpt_pgfault_perm;

export const iommu_hwpt_pgfault = struct('iommu_hwpt_pgfault', 40, {
  flags: u32,
  dev_id: u32,
  pasid: u32,
  grpid: u32,
  perm: u32,
  __reserved: u32,
  addr: u64,
  length: u32,
  cookie: u32,
});

export const iommufd_page_response_code = {
  IOMMUFD_PAGE_RESP_SUCCESS: 0,
  IOMMUFD_PAGE_RESP_INVALID: 1,
} as const;
export const { IOMMUFD_PAGE_RESP_SUCCESS, IOMMUFD_PAGE_RESP_INVALID } = iommufd_page_response_code;

export const iommu_hwpt_page_response = struct('iommu_hwpt_page_response', 8, { cookie: u32, code: u32 });

export const iommu_fault_alloc = struct('iommu_fault_alloc', 16, {
  size: u32,
  flags: u32,
  out_fault_id: u32,
  out_fault_fd: u32,
});
export const IOMMU_FAULT_QUEUE_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_FAULT_QUEUE_ALLOC);

export const iommu_viommu_type = {
  IOMMU_VIOMMU_TYPE_DEFAULT: 0,
  IOMMU_VIOMMU_TYPE_ARM_SMMUV3: 1,
  IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV: 2,
} as const;
export const { IOMMU_VIOMMU_TYPE_DEFAULT, IOMMU_VIOMMU_TYPE_ARM_SMMUV3, IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV } =
  iommu_viommu_type;

export const iommu_viommu_alloc = struct('iommu_viommu_alloc', 40, {
  size: u32,
  flags: u32,
  type: u32,
  dev_id: u32,
  hwpt_id: u32,
  out_viommu_id: u32,
  data_len: u32,
  __reserved: u32,
  data_uptr: u64,
});
export const IOMMU_VIOMMU_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_VIOMMU_ALLOC);

export const iommu_vdevice_alloc = struct('iommu_vdevice_alloc', 24, {
  size: u32,
  viommu_id: u32,
  dev_id: u32,
  out_vdevice_id: u32,
  virt_id: u64,
});
export const IOMMU_VDEVICE_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_VDEVICE_ALLOC);

export const iommu_ioas_change_process = struct('iommu_ioas_change_process', 8, {
  size: u32,
  __reserved: u32,
});
export const IOMMU_IOAS_CHANGE_PROCESS = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_CHANGE_PROCESS);

export const iommu_veventq_flag = { IOMMU_VEVENTQ_FLAG_LOST_EVENTS: 1 << 0 } as const;
export const { IOMMU_VEVENTQ_FLAG_LOST_EVENTS } = iommu_veventq_flag;

/** `sequence` runs from 0 to 2^31 - 1 and starts again at 0. */
export const iommufd_vevent_header = struct('iommufd_vevent_header', 8, { flags: u32, sequence: u32 });

export const iommu_veventq_type = {
  IOMMU_VEVENTQ_TYPE_DEFAULT: 0,
  IOMMU_VEVENTQ_TYPE_ARM_SMMUV3: 1,
  IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV: 2,
} as const;
export const {
  IOMMU_VEVENTQ_TYPE_DEFAULT,
  IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
  IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV,
} = iommu_veventq_type;

export const iommu_veventq_alloc = struct('iommu_veventq_alloc', 32, {
  size: u32,
  flags: u32,
  viommu_id: u32,
  type: u32,
  veventq_depth: u32,
  out_veventq_id: u32,
  out_veventq_fd: u32,
  __reserved: u32,
});
export const IOMMU_VEVENTQ_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_VEVENTQ_ALLOC);

export const iommu_hw_queue_type = {
  IOMMU_HW_QUEUE_TYPE_DEFAULT: 0,
  IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV: 1,
} as const;
export const { IOMMU_HW_QUEUE_TYPE_DEFAULT, IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV } = iommu_hw_queue_type;

export const iommu_hw_queue_alloc = struct('iommu_hw_queue_alloc', 40, {
  size: u32,
  flags: u32,
  viommu_id: u32,
  type: u32,
  index: u32,
  out_hw_queue_id: u32,
  nesting_parent_iova: u64,
  length: u64,
});
export const IOMMU_HW_QUEUE_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HW_QUEUE_ALLOC);
