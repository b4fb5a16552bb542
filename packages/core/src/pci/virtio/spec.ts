// Virtual I/O Device (VIRTIO) Version 1.2: the PCI transport (§4.1) and split virtqueues (§2.7). Data only; names as in
// Linux's include/uapi/linux/virtio_pci.h, virtio_ring.h, virtio_config.h and virtio_console.h.

export const VIRTIO_VENDOR = 0x1af4;
/** Plus the device's type. */
export const VIRTIO_DEVICE_BASE = 0x1040;

export const VIRTIO_PCI_CAP = {
  COMMON_CFG: 1,
  NOTIFY_CFG: 2,
  ISR_CFG: 3,
  DEVICE_CFG: 4,
  PCI_CFG: 5,
} as const;

/** struct virtio_pci_cap, from the capability on. */
export const CAP = { LEN: 2, TYPE: 3, BAR: 4, OFFSET: 8, LENGTH: 12, AFTER: 16 } as const;

/** struct virtio_pci_common_cfg. */
export const COMMON = {
  DEVICE_FEATURE_SELECT: 0x00,
  DEVICE_FEATURE: 0x04,
  DRIVER_FEATURE_SELECT: 0x08,
  DRIVER_FEATURE: 0x0c,
  CONFIG_MSIX_VECTOR: 0x10,
  NUM_QUEUES: 0x12,
  DEVICE_STATUS: 0x14,
  CONFIG_GENERATION: 0x15,
  QUEUE_SELECT: 0x16,
  QUEUE_SIZE: 0x18,
  QUEUE_MSIX_VECTOR: 0x1a,
  QUEUE_ENABLE: 0x1c,
  QUEUE_NOTIFY_OFF: 0x1e,
  QUEUE_DESC: 0x20,
  QUEUE_DRIVER: 0x28,
  QUEUE_DEVICE: 0x30,
} as const;
export const COMMON_BYTES = 0x38;

export const STATUS = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  NEEDS_RESET: 64,
  FAILED: 128,
} as const;

/** Feature bits. */
export const VIRTIO_F_INDIRECT_DESC = 28;
export const VIRTIO_F_VERSION_1 = 32;
export const VIRTIO_F_ACCESS_PLATFORM = 33;

export const VIRTIO_MSI_NO_VECTOR = 0xffff;
export const ISR_QUEUE = 1;
export const ISR_CONFIG = 2;

export const VRING_DESC_F_NEXT = 1;
export const VRING_DESC_F_WRITE = 2;
export const VRING_DESC_F_INDIRECT = 4;
export const VRING_DESC_BYTES = 16;
export const VRING_AVAIL_F_NO_INTERRUPT = 1;

export const VIRTIO_ID_CONSOLE = 3;
export const CONSOLE_RECEIVEQ = 0;
export const CONSOLE_TRANSMITQ = 1;
export const VIRTIO_CONSOLE_F_SIZE = 0;
