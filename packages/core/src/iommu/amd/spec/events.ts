// Records of the event log (§2.5) and of the PPR log (§2.6): 16 bytes each, little-endian.

import { RO, layout } from '../../../base/bit-fields.ts';

/** §2.5 */
export const EVENT = {
  ILLEGAL_DEV_TABLE_ENTRY: 0x1,
  IO_PAGE_FAULT: 0x2,
  DEV_TAB_HARDWARE_ERROR: 0x3,
  PAGE_TAB_HARDWARE_ERROR: 0x4,
  ILLEGAL_COMMAND_ERROR: 0x5,
  COMMAND_HARDWARE_ERROR: 0x6,
  IOTLB_INV_TIMEOUT: 0x7,
  INVALID_DEVICE_REQUEST: 0x8,
  INVALID_PPR_REQUEST: 0x9,
  EVENT_COUNTER_ZERO: 0xa,
  GUEST_EVENT_FAULT: 0xb,
  VIOMMU_HARDWARE_ERROR: 0xc,
  RMP_PAGE_FAULT: 0xd,
  RMP_HARDWARE_ERROR: 0xe,
} as const;

export const EVENT_BYTES = 16;
export const EVENT_WORDS = 4;

/** What all records begin with. */
export const EVENT_COMMON = layout('Event record', 128, { DeviceID: RO([15, 0]), EventCode: RO([63, 60]) });

/** §2.5.2. RZ: a reserved bit, else an invalid encoding. */
export const ILLEGAL_DTE_RECORD = layout('ILLEGAL_DEV_TABLE_ENTRY', 128, {
  DeviceID: RO([15, 0]),
  PASID_19_16: RO([19, 16]),
  PASID_15_0: RO([47, 32]),
  GN: RO([48]),
  I: RO([51]),
  RW: RO([53]),
  RZ: RO([55]),
  TR: RO([56]),
  EventCode: RO([63, 60]),
  Address: RO([127, 66]),
});

/** §2.5.3. With GN the address is a GVA, and PASID_15_0 stands where DomainID does. */
export const IO_PAGE_FAULT_RECORD = layout('IO_PAGE_FAULT', 128, {
  DeviceID: RO([15, 0]),
  PASID_19_16: RO([19, 16]),
  DomainID: RO([47, 32]),
  GN: RO([48]),
  NX: RO([49]),
  US: RO([50]),
  I: RO([51]),
  PR: RO([52]),
  RW: RO([53]),
  PE: RO([54]),
  RZ: RO([55]),
  TR: RO([56]),
  EventCode: RO([63, 60]),
  Address: RO([127, 64]),
});

/** §2.5.4, §2.5.5, §2.5.7; DomainID and GN are PAGE_TAB_HARDWARE_ERROR's. */
export const HARDWARE_ERROR_RECORD = layout('*_HARDWARE_ERROR', 128, {
  DeviceID: RO([15, 0]),
  PASID_19_16: RO([19, 16]),
  DomainID: RO([47, 32]),
  GN: RO([48]),
  I: RO([51]),
  RW: RO([53]),
  TR: RO([56]),
  Type: RO([58, 57]),
  EventCode: RO([63, 60]),
  Address: RO([127, 64]),
});
/** HARDWARE_ERROR_RECORD.Type */
export const HARDWARE_ERROR = { MASTER_ABORT: 1, TARGET_ABORT: 2, DATA_ERROR: 3 } as const;

/** §2.5.6, §2.5.8: ILLEGAL_COMMAND_ERROR, and IOTLB_INV_TIMEOUT, which has the DeviceID. */
export const COMMAND_RECORD = layout('ILLEGAL_COMMAND_ERROR', 128, {
  DeviceID: RO([15, 0]),
  EventCode: RO([63, 60]),
  Address: RO([127, 68]),
});

/** §2.5.9 */
export const INVALID_REQUEST_RECORD = layout('INVALID_DEVICE_REQUEST', 128, {
  DeviceID: RO([15, 0]),
  PASID_19_16: RO([19, 16]),
  PASID_15_0: RO([47, 32]),
  GN: RO([48]),
  TR: RO([56]),
  Type: RO([59, 57]),
  EventCode: RO([63, 60]),
  Address: RO([127, 64]),
});
/** INVALID_REQUEST_RECORD.Type with TR == 0: an access. */
export const INVALID_ACCESS = {
  READ_IN_INTERRUPT_RANGE: 0,
  PRETRANSLATED: 1,
  PORT_IO: 2,
  SYS_MGT: 3,
  INTERRUPT_RANGE: 4,
  RESERVED_INTERRUPT_RANGE: 5,
  SYS_MGT_ENCODING: 6,
} as const;
/** INVALID_REQUEST_RECORD.Type with TR == 1: a translation request. */
export const INVALID_TRANSLATION = { ADDRESS: 0, DISABLED: 1, DEVICE_ID: 2 } as const;

/**
 * §2.5.10, with RX and GN where drivers/iommu/amd/iommu.c amd_iommu_report_ppr_err() has them. RX: a response was sent
 * already.
 */
export const INVALID_PPR_RECORD = layout('INVALID_PPR_REQUEST', 128, {
  DeviceID: RO([15, 0]),
  PASID_15_0: RO([31, 16]),
  PPRTag: RO([41, 32]),
  PASID_19_16: RO([45, 42]),
  RX: RO([48]),
  GN: RO([57]),
  EventCode: RO([63, 60]),
  Address: RO([127, 76]),
});

/** §2.6.1; the flags as drivers/iommu/amd/amd_iommu_types.h has them. Last is the topmost bit of PPRTag. */
export const PPR_RECORD = layout('PAGE_SERVICE_REQUEST', 128, {
  DeviceID: RO([15, 0]),
  PASID_15_0: RO([31, 16]),
  PRGIndex: RO([40, 32]),
  Last: RO([41]),
  PASID_19_16: RO([45, 42]),
  EXE: RO([49]),
  READ: RO([50]),
  WRITE: RO([53]),
  US: RO([54]),
  RZ: RO([55]),
  GN: RO([56]),
  PPRCode: RO([63, 60]),
  Address: RO([127, 76]),
});
/** PPR_RECORD.PPRCode */
export const PAGE_SERVICE_REQUEST = 1;
