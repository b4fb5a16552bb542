import { layout, RW } from '../../../base/bit-fields.ts';

// The registers of the hardware vIOMMU, as AMD's public Linux tree has them (AMDESE/linux-iommu,
// drivers/iommu/amd/amd_viommu.h and viommu.c): AMD's specification names the regions and leaves the layout open.

/** A guest's registers in the VF control BAR. */
export const VFCTRL_BYTES = 64;
export const VFCTRL = {
  DID_MAP_CONTROL0: 0x00,
  DID_MAP_CONTROL1: 0x08,
  MISC_CONTROL: 0x10,
  COMMAND_CONTROL: 0x20,
  EVENT_CONTROL: 0x28,
  PPR_CONTROL: 0x30,
} as const;

/** VFCTRL 00h for device ids and 08h for domain ids: a store with Write set maps one id of the guest. */
export const GUEST_ID_MAP = layout('Guest ID Map Control', 64, {
  Valid: RW([0]),
  HostID: RW([29, 14]),
  GuestID: RW([61, 46]),
  Write: RW([63]),
});

/** VFCTRL 10h: the device id whose host tables translate the guest's addresses. */
export const GUEST_MISC_CONTROL = layout('Guest Miscellaneous Control', 64, { TransDeviceID: RW([31, 16]) });

/** VFCTRL 20h. Len is log2 of the entries; Base is a guest's page. */
export const GUEST_COMMAND_CONTROL = layout('Guest Command Control', 64, {
  Len: RW([3, 0]),
  CmdBufEn: RW([8]),
  ComWaitIntEn: RW([9]),
  Base: RW([51, 12]),
});

/** VFCTRL 28h */
export const GUEST_EVENT_CONTROL = layout('Guest Event Control', 64, {
  Len: RW([3, 0]),
  EventLogEn: RW([8]),
  EventIntEn: RW([9]),
  Base: RW([51, 12]),
});

/** VFCTRL 30h */
export const GUEST_PPR_CONTROL = layout('Guest PPR Control', 64, {
  Len: RW([3, 0]),
  PPRLogEn: RW([8]),
  PprIntEn: RW([9]),
  PPREn: RW([10]),
  Base: RW([55, 16]),
});

/** A guest's page in the VF BAR: its MMIO 2000h to 2FFFh, which a VMM maps into the guest. */
export const VF_PAGE_BYTES = 4096;
export const VF_PAGE = {
  CMD_HEAD: 0x00,
  CMD_TAIL: 0x08,
  EVT_HEAD: 0x10,
  EVT_TAIL: 0x18,
  STATUS: 0x20,
  PPR_HEAD: 0x30,
  PPR_TAIL: 0x38,
} as const;

/** Guests that one IOMMU serves: a VF control BAR of 4 MiB. */
export const GUESTS_MAX = 0x1_0000;
