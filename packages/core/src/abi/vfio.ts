// uapi/linux/vfio.h of Linux 7.3: the device cdev, groups, and PCI devices. The container of the type 1 IOMMU is in
// vfio-type1.ts. Structs that end in a flexible array are described up to that array. Not here: what belongs to GFX,
// CCW, AP, NVLink, EEH, SPAPR and zPCI devices.

import { struct, s32, u16, u32, u64, u8 } from '../base/struct.ts';
import { IO } from './ioctl.ts';

export const VFIO_TYPE = 0x3b;
export const VFIO_BASE = 100;
export const VFIO_API_VERSION = 0;

/** One link of a capability chain: `next` is an offset from the beginning of the info struct, 0 at the end. */
export const vfio_info_cap_header = struct('vfio_info_cap_header', 8, { id: u16, version: u16, next: u32 });

// Groups

export const vfio_group_status = struct('vfio_group_status', 8, { argsz: u32, flags: u32 });
export const VFIO_GROUP_FLAGS_VIABLE = 1 << 0;
export const VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1;

export const VFIO_GROUP_GET_STATUS = IO(VFIO_TYPE, VFIO_BASE + 3);
export const VFIO_GROUP_SET_CONTAINER = IO(VFIO_TYPE, VFIO_BASE + 4);
export const VFIO_GROUP_UNSET_CONTAINER = IO(VFIO_TYPE, VFIO_BASE + 5);
export const VFIO_GROUP_GET_DEVICE_FD = IO(VFIO_TYPE, VFIO_BASE + 6);

// Devices

export const vfio_device_info = struct('vfio_device_info', 24, {
  argsz: u32,
  flags: u32,
  num_regions: u32,
  num_irqs: u32,
  cap_offset: u32,
  pad: u32,
});
export const VFIO_DEVICE_FLAGS_RESET = 1 << 0;
export const VFIO_DEVICE_FLAGS_PCI = 1 << 1;
export const VFIO_DEVICE_FLAGS_PLATFORM = 1 << 2;
export const VFIO_DEVICE_FLAGS_AMBA = 1 << 3;
export const VFIO_DEVICE_FLAGS_CCW = 1 << 4;
export const VFIO_DEVICE_FLAGS_AP = 1 << 5;
export const VFIO_DEVICE_FLAGS_FSL_MC = 1 << 6;
export const VFIO_DEVICE_FLAGS_CAPS = 1 << 7;
export const VFIO_DEVICE_FLAGS_CDX = 1 << 8;
export const VFIO_DEVICE_GET_INFO = IO(VFIO_TYPE, VFIO_BASE + 7);

export const VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP = 5;
export const vfio_device_info_cap_pci_atomic_comp = struct('vfio_device_info_cap_pci_atomic_comp', 16, {
  header: vfio_info_cap_header,
  flags: u32,
  reserved: u32,
});
export const VFIO_PCI_ATOMIC_COMP32 = 1 << 0;
export const VFIO_PCI_ATOMIC_COMP64 = 1 << 1;
export const VFIO_PCI_ATOMIC_COMP128 = 1 << 2;

/** `offset` is where pread, pwrite and mmap of the device file reach the region; `size` in bytes. */
export const vfio_region_info = struct('vfio_region_info', 32, {
  argsz: u32,
  flags: u32,
  index: u32,
  cap_offset: u32,
  size: u64,
  offset: u64,
});
export const VFIO_REGION_INFO_FLAG_READ = 1 << 0;
export const VFIO_REGION_INFO_FLAG_WRITE = 1 << 1;
export const VFIO_REGION_INFO_FLAG_MMAP = 1 << 2;
export const VFIO_REGION_INFO_FLAG_CAPS = 1 << 3;
export const VFIO_DEVICE_GET_REGION_INFO = IO(VFIO_TYPE, VFIO_BASE + 8);

export const VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
export const VFIO_REGION_INFO_CAP_TYPE = 2;
export const VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;

export const vfio_region_sparse_mmap_area = struct('vfio_region_sparse_mmap_area', 16, {
  offset: u64,
  size: u64,
});

/** `nr_areas` of vfio_region_sparse_mmap_area follow. */
export const vfio_region_info_cap_sparse_mmap = struct('vfio_region_info_cap_sparse_mmap', 16, {
  header: vfio_info_cap_header,
  nr_areas: u32,
  reserved: u32,
});

export const vfio_region_info_cap_type = struct('vfio_region_info_cap_type', 16, {
  header: vfio_info_cap_header,
  type: u32,
  subtype: u32,
});
export const VFIO_REGION_TYPE_PCI_VENDOR_TYPE = 0x8000_0000;
export const VFIO_REGION_TYPE_PCI_VENDOR_MASK = 0xffff;

export const vfio_irq_info = struct('vfio_irq_info', 16, { argsz: u32, flags: u32, index: u32, count: u32 });
export const VFIO_IRQ_INFO_EVENTFD = 1 << 0;
export const VFIO_IRQ_INFO_MASKABLE = 1 << 1;
export const VFIO_IRQ_INFO_AUTOMASKED = 1 << 2;
export const VFIO_IRQ_INFO_NORESIZE = 1 << 3;
export const VFIO_DEVICE_GET_IRQ_INFO = IO(VFIO_TYPE, VFIO_BASE + 9);

/** `count` bytes (DATA_BOOL) or descriptors of 4 bytes (DATA_EVENTFD) follow. */
export const vfio_irq_set = struct('vfio_irq_set', 20, {
  argsz: u32,
  flags: u32,
  index: u32,
  start: u32,
  count: u32,
});
export const VFIO_IRQ_SET_DATA_NONE = 1 << 0;
export const VFIO_IRQ_SET_DATA_BOOL = 1 << 1;
export const VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2;
export const VFIO_IRQ_SET_ACTION_MASK = 1 << 3;
export const VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5;
export const VFIO_IRQ_SET_DATA_TYPE_MASK =
  VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD;
export const VFIO_IRQ_SET_ACTION_TYPE_MASK =
  VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER;
export const VFIO_DEVICE_SET_IRQS = IO(VFIO_TYPE, VFIO_BASE + 10);

export const VFIO_DEVICE_RESET = IO(VFIO_TYPE, VFIO_BASE + 11);

// PCI

/** The header's anonymous enum of region indices. */
export const vfio_pci_region_index = {
  VFIO_PCI_BAR0_REGION_INDEX: 0,
  VFIO_PCI_BAR1_REGION_INDEX: 1,
  VFIO_PCI_BAR2_REGION_INDEX: 2,
  VFIO_PCI_BAR3_REGION_INDEX: 3,
  VFIO_PCI_BAR4_REGION_INDEX: 4,
  VFIO_PCI_BAR5_REGION_INDEX: 5,
  VFIO_PCI_ROM_REGION_INDEX: 6,
  VFIO_PCI_CONFIG_REGION_INDEX: 7,
  VFIO_PCI_VGA_REGION_INDEX: 8,
} as const;
export const {
  VFIO_PCI_BAR0_REGION_INDEX,
  VFIO_PCI_BAR1_REGION_INDEX,
  VFIO_PCI_BAR2_REGION_INDEX,
  VFIO_PCI_BAR3_REGION_INDEX,
  VFIO_PCI_BAR4_REGION_INDEX,
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_VGA_REGION_INDEX,
} = vfio_pci_region_index;
export const VFIO_PCI_NUM_REGIONS = 9;

/** The header's anonymous enum of interrupt indices. */
export const vfio_pci_irq_index = {
  VFIO_PCI_INTX_IRQ_INDEX: 0,
  VFIO_PCI_MSI_IRQ_INDEX: 1,
  VFIO_PCI_MSIX_IRQ_INDEX: 2,
  VFIO_PCI_ERR_IRQ_INDEX: 3,
  VFIO_PCI_REQ_IRQ_INDEX: 4,
} as const;
export const {
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
} = vfio_pci_irq_index;
export const VFIO_PCI_NUM_IRQS = 5;

/** `devid` is `group_id` unless VFIO_PCI_HOT_RESET_FLAG_DEV_ID is set: the header has a union of the two. */
export const vfio_pci_dependent_device = struct('vfio_pci_dependent_device', 8, {
  devid: u32,
  segment: u16,
  bus: u8,
  devfn: u8,
});
export const VFIO_PCI_DEVID_OWNED = 0;
/** -1 in the header, in a field of type u32. */
export const VFIO_PCI_DEVID_NOT_OWNED = 0xffff_ffff;

/** `count` of vfio_pci_dependent_device follow. */
export const vfio_pci_hot_reset_info = struct('vfio_pci_hot_reset_info', 12, {
  argsz: u32,
  flags: u32,
  count: u32,
});
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0;
export const VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1;
export const VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = IO(VFIO_TYPE, VFIO_BASE + 12);

/** `count` descriptors of 4 bytes follow. */
export const vfio_pci_hot_reset = struct('vfio_pci_hot_reset', 12, { argsz: u32, flags: u32, count: u32 });
export const VFIO_DEVICE_PCI_HOT_RESET = IO(VFIO_TYPE, VFIO_BASE + 13);

export const vfio_device_ioeventfd = struct('vfio_device_ioeventfd', 32, {
  argsz: u32,
  flags: u32,
  offset: u64,
  data: u64,
  fd: s32,
  reserved: u32,
});
export const VFIO_DEVICE_IOEVENTFD_8 = 1 << 0;
export const VFIO_DEVICE_IOEVENTFD_16 = 1 << 1;
export const VFIO_DEVICE_IOEVENTFD_32 = 1 << 2;
export const VFIO_DEVICE_IOEVENTFD_64 = 1 << 3;
export const VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 0xf;
export const VFIO_DEVICE_IOEVENTFD = IO(VFIO_TYPE, VFIO_BASE + 16);

// Device features

/** The feature's own struct follows. */
export const vfio_device_feature = struct('vfio_device_feature', 8, { argsz: u32, flags: u32 });
export const VFIO_DEVICE_FEATURE_MASK = 0xffff;
export const VFIO_DEVICE_FEATURE_GET = 1 << 16;
export const VFIO_DEVICE_FEATURE_SET = 1 << 17;
export const VFIO_DEVICE_FEATURE_PROBE = 1 << 18;
export const VFIO_DEVICE_FEATURE = IO(VFIO_TYPE, VFIO_BASE + 17);

/** What the bits of VFIO_DEVICE_FEATURE_MASK say. */
export const vfio_device_feature_index = {
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: 0,
  VFIO_DEVICE_FEATURE_MIGRATION: 1,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: 2,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: 3,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: 4,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: 5,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START: 6,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: 7,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: 8,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: 9,
  VFIO_DEVICE_FEATURE_BUS_MASTER: 10,
  VFIO_DEVICE_FEATURE_DMA_BUF: 11,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: 12,
  VFIO_DEVICE_FEATURE_ZPCI_ERROR: 13,
} as const;
export const {
  VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_BUS_MASTER,
  VFIO_DEVICE_FEATURE_DMA_BUF,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_ZPCI_ERROR,
} = vfio_device_feature_index;

export const vfio_device_feature_migration = struct('vfio_device_feature_migration', 8, { flags: u64 });
export const VFIO_MIGRATION_STOP_COPY = 1 << 0;
export const VFIO_MIGRATION_P2P = 1 << 1;
export const VFIO_MIGRATION_PRE_COPY = 1 << 2;

export const vfio_device_feature_mig_state = struct('vfio_device_feature_mig_state', 8, {
  device_state: u32,
  data_fd: s32,
});

export const vfio_device_mig_state = {
  VFIO_DEVICE_STATE_ERROR: 0,
  VFIO_DEVICE_STATE_STOP: 1,
  VFIO_DEVICE_STATE_RUNNING: 2,
  VFIO_DEVICE_STATE_STOP_COPY: 3,
  VFIO_DEVICE_STATE_RESUMING: 4,
  VFIO_DEVICE_STATE_RUNNING_P2P: 5,
  VFIO_DEVICE_STATE_PRE_COPY: 6,
  VFIO_DEVICE_STATE_PRE_COPY_P2P: 7,
} as const;
export const {
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
} = vfio_device_mig_state;
export const VFIO_DEVICE_STATE_NR = 8;

export const vfio_precopy_info = struct('vfio_precopy_info', 24, {
  argsz: u32,
  flags: u32,
  initial_bytes: u64,
  dirty_bytes: u64,
});
export const VFIO_PRECOPY_INFO_REINIT = 1 << 0;
export const VFIO_MIG_GET_PRECOPY_INFO = IO(VFIO_TYPE, VFIO_BASE + 21);

export const vfio_device_low_power_entry_with_wakeup = struct('vfio_device_low_power_entry_with_wakeup', 8, {
  wakeup_eventfd: s32,
  reserved: u32,
});

export const vfio_device_feature_dma_logging_control = struct('vfio_device_feature_dma_logging_control', 24, {
  page_size: u64,
  num_ranges: u32,
  __reserved: u32,
  ranges: u64,
});

export const vfio_device_feature_dma_logging_range = struct('vfio_device_feature_dma_logging_range', 16, {
  iova: u64,
  length: u64,
});

export const vfio_device_feature_dma_logging_report = struct('vfio_device_feature_dma_logging_report', 32, {
  iova: u64,
  length: u64,
  page_size: u64,
  bitmap: u64,
});

export const vfio_device_feature_mig_data_size = struct('vfio_device_feature_mig_data_size', 8, {
  stop_copy_length: u64,
});

export const vfio_device_feature_bus_master = struct('vfio_device_feature_bus_master', 4, { op: u32 });
export const VFIO_DEVICE_FEATURE_CLEAR_MASTER = 0;
export const VFIO_DEVICE_FEATURE_SET_MASTER = 1;

export const vfio_region_dma_range = struct('vfio_region_dma_range', 16, { offset: u64, length: u64 });

/** `nr_ranges` of vfio_region_dma_range follow. */
export const vfio_device_feature_dma_buf = struct('vfio_device_feature_dma_buf', 16, {
  region_index: u32,
  open_flags: u32,
  flags: u32,
  nr_ranges: u32,
});

// The device cdev and iommufd

/** `token_uuid_ptr` (Linux 6.17) points to the 16 bytes of the VF token where VFIO_DEVICE_BIND_FLAG_TOKEN is set. */
export const vfio_device_bind_iommufd = struct('vfio_device_bind_iommufd', 24, {
  argsz: u32,
  flags: u32,
  iommufd: s32,
  out_devid: u32,
  token_uuid_ptr: u64,
});
export const VFIO_DEVICE_BIND_FLAG_TOKEN = 1 << 0;
export const VFIO_DEVICE_BIND_IOMMUFD = IO(VFIO_TYPE, VFIO_BASE + 18);

export const vfio_device_attach_iommufd_pt = struct('vfio_device_attach_iommufd_pt', 16, {
  argsz: u32,
  flags: u32,
  pt_id: u32,
  pasid: u32,
});
export const VFIO_DEVICE_ATTACH_PASID = 1 << 0;
export const VFIO_DEVICE_ATTACH_IOMMUFD_PT = IO(VFIO_TYPE, VFIO_BASE + 19);

export const vfio_device_detach_iommufd_pt = struct('vfio_device_detach_iommufd_pt', 12, {
  argsz: u32,
  flags: u32,
  pasid: u32,
});
export const VFIO_DEVICE_DETACH_PASID = 1 << 0;
export const VFIO_DEVICE_DETACH_IOMMUFD_PT = IO(VFIO_TYPE, VFIO_BASE + 20);
