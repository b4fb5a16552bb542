// uapi/linux/iommufd.h of Linux 7.3: the structs that `data_uptr` and the event queues carry, one group per vendor.

import { array, struct, u32, u64, u8 } from '../base/struct.ts';

// Intel VT-d

export const iommu_hw_info_vtd_flags = { IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17: 1 << 0 } as const;
export const { IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 } = iommu_hw_info_vtd_flags;

/** IOMMU_HW_INFO_TYPE_INTEL_VTD: CAP_REG and ECAP_REG (VT-d rev 5.0 §11.4.2, §11.4.3). */
export const iommu_hw_info_vtd = struct('iommu_hw_info_vtd', 24, {
  flags: u32,
  __reserved: u32,
  cap_reg: u64,
  ecap_reg: u64,
});

export const iommu_hwpt_vtd_s1_flags = {
  IOMMU_VTD_S1_SRE: 1 << 0,
  IOMMU_VTD_S1_EAFE: 1 << 1,
  IOMMU_VTD_S1_WPE: 1 << 2,
} as const;
export const { IOMMU_VTD_S1_SRE, IOMMU_VTD_S1_EAFE, IOMMU_VTD_S1_WPE } = iommu_hwpt_vtd_s1_flags;

/** IOMMU_HWPT_DATA_VTD_S1: a first-stage table of the guest. `addr_width` in bits. */
export const iommu_hwpt_vtd_s1 = struct('iommu_hwpt_vtd_s1', 24, {
  flags: u64,
  pgtbl_addr: u64,
  addr_width: u32,
  __reserved: u32,
});

export const iommu_hwpt_vtd_s1_invalidate_flags = { IOMMU_VTD_INV_FLAGS_LEAF: 1 << 0 } as const;
export const { IOMMU_VTD_INV_FLAGS_LEAF } = iommu_hwpt_vtd_s1_invalidate_flags;

/** IOMMU_HWPT_INVALIDATE_DATA_VTD_S1. `npages` of 4 KiB; `addr` 0 with `npages` 2^64 - 1 is everything. */
export const iommu_hwpt_vtd_s1_invalidate = struct('iommu_hwpt_vtd_s1_invalidate', 24, {
  addr: u64,
  npages: u64,
  flags: u32,
  __reserved: u32,
});

// Arm SMMUv3

export const iommu_hw_info_arm_smmuv3_flags = {
  IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI: 1 << 0,
} as const;
export const { IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI } = iommu_hw_info_arm_smmuv3_flags;

/** IOMMU_HW_INFO_TYPE_ARM_SMMUV3: SMMU_IDR0 to IDR5, IIDR and AIDR (IHI 0070G §6.3.1 to §6.3.8). */
export const iommu_hw_info_arm_smmuv3 = struct('iommu_hw_info_arm_smmuv3', 40, {
  flags: u32,
  __reserved: u32,
  idr: array(u32, 6),
  iidr: u32,
  aidr: u32,
});

/** IOMMU_HWPT_DATA_ARM_SMMUV3: the first two words of the guest's STE (IHI 0070G §5.2). */
export const iommu_hwpt_arm_smmuv3 = struct('iommu_hwpt_arm_smmuv3', 16, { ste: array(u64, 2) });

/** IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: one command of the guest's command queue (IHI 0070G §4). */
export const iommu_viommu_arm_smmuv3_invalidate = struct('iommu_viommu_arm_smmuv3_invalidate', 16, {
  cmd: array(u64, 2),
});

/** IOMMU_VEVENTQ_TYPE_ARM_SMMUV3: an event record with a virtual StreamID (IHI 0070G §7.3). */
export const iommu_vevent_arm_smmuv3 = struct('iommu_vevent_arm_smmuv3', 32, { evt: array(u64, 4) });

// NVIDIA Tegra241 CMDQV

/** IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV: fields of the CMDQV's PARAM register. */
export const iommu_hw_info_tegra241_cmdqv = struct('iommu_hw_info_tegra241_cmdqv', 8, {
  flags: u32,
  version: u8,
  log2vcmdqs: u8,
  log2vsids: u8,
  __reserved: u8,
});

/** IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV: where to mmap page 0 of the VINTF. */
export const iommu_viommu_tegra241_cmdqv = struct('iommu_viommu_tegra241_cmdqv', 16, {
  out_vintf_mmap_offset: u64,
  out_vintf_mmap_length: u64,
});

/** IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV: one bit per logical VCMDQ of the VINTF. */
export const iommu_vevent_tegra241_cmdqv = struct('iommu_vevent_tegra241_cmdqv', 16, {
  lvcmdq_err_map: array(u64, 2),
});

// AMD IOMMU

/** IOMMU_HW_INFO_TYPE_AMD: EFR and EFR2 (AMD 48882 rev 3.10, MMIO offsets 0030h and 01A0h). */
export const iommu_hw_info_amd = struct('iommu_hw_info_amd', 16, { efr: u64, efr2: u64 });

/** IOMMU_HWPT_DATA_AMD_GUEST: the guest's device table entry. */
export const iommu_hwpt_amd_guest = struct('iommu_hwpt_amd_guest', 32, { dte: array(u64, 4) });
