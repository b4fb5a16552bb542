// Entries of the command buffer (§2.4): 16 bytes each, little-endian. Bits that no field names are reserved, and make
// a command illegal.

import { RW, layout } from '../../../base/bit-fields.ts';

/** §2.4 */
export const CMD = {
  COMPLETION_WAIT: 0x1,
  INVALIDATE_DEVTAB_ENTRY: 0x2,
  INVALIDATE_IOMMU_PAGES: 0x3,
  INVALIDATE_IOTLB_PAGES: 0x4,
  INVALIDATE_INTERRUPT_TABLE: 0x5,
  PREFETCH_IOMMU_PAGES: 0x6,
  COMPLETE_PPR_REQUEST: 0x7,
  INVALIDATE_IOMMU_ALL: 0x8,
  INSERT_GUEST_EVENT: 0x9,
  RESET_VMMIO: 0xa,
} as const;

export const CMD_BYTES = 16;
export const CMD_WORDS = 4;

/** §2.4.1 */
export const CMD_COMPLETION_WAIT = layout('COMPLETION_WAIT', 128, {
  s: RW([0]),
  i: RW([1]),
  f: RW([2]),
  StoreAddress: RW([51, 3]),
  Opcode: RW([63, 60]),
  StoreData: RW([127, 64]),
});

/** §2.4.2, §2.4.5: INVALIDATE_DEVTAB_ENTRY and INVALIDATE_INTERRUPT_TABLE. */
export const CMD_INVALIDATE_DEVICE = layout('INVALIDATE_DEVTAB_ENTRY', 128, {
  DeviceID: RW([15, 0]),
  Opcode: RW([63, 60]),
});

/** §2.4.3 */
export const CMD_INVALIDATE_PAGES = layout('INVALIDATE_IOMMU_PAGES', 128, {
  PASID: RW([19, 0]),
  DomainID: RW([47, 32]),
  Opcode: RW([63, 60]),
  S: RW([64]),
  PDE: RW([65]),
  GN: RW([66]),
  Address: RW([127, 76]),
});

/** §2.4.4. Type is there with EFR.InvIotlbTypeSup, and reserved here. */
export const CMD_INVALIDATE_IOTLB = layout('INVALIDATE_IOTLB_PAGES', 128, {
  DeviceID: RW([15, 0]),
  PASID_15_8: RW([23, 16]),
  MaxPend: RW([31, 24]),
  QueueID: RW([47, 32]),
  PASID_7_0: RW([55, 48]),
  PASID_19_16: RW([59, 56]),
  Opcode: RW([63, 60]),
  S: RW([64]),
  GN: RW([66]),
  Address: RW([127, 76]),
});

/** §2.4.6 */
export const CMD_PREFETCH = layout('PREFETCH_IOMMU_PAGES', 128, {
  DeviceID: RW([15, 0]),
  PFCount: RW([31, 24]),
  PASID: RW([51, 32]),
  Opcode: RW([63, 60]),
  S: RW([64]),
  GN: RW([66]),
  Inval: RW([68]),
  Address: RW([127, 76]),
});

/** §2.4.7. The Completion Tag is taken apart as drivers/iommu/amd/iommu.c build_complete_ppr() puts it together. */
export const CMD_COMPLETE_PPR = layout('COMPLETE_PPR_REQUEST', 128, {
  DeviceID: RW([15, 0]),
  PASID: RW([51, 32]),
  Opcode: RW([63, 60]),
  GN: RW([66]),
  PRGIndex: RW([104, 96]),
  ResponseCode: RW([111, 108]),
});
/** ResponseCode, as PCIe's PRG Response Message has it. */
export const PPR_RESPONSE = { SUCCESS: 0, INVALID: 1, FAILURE: 0xf } as const;

/** §2.4.8 */
export const CMD_INVALIDATE_ALL = layout('INVALIDATE_IOMMU_ALL', 128, { Opcode: RW([63, 60]) });

/** First clear bits of an S == 1 address above this one say all of the address space (table 14). */
export const SIZE_BIT_MAX = 51;
