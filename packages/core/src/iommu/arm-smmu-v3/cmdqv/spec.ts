// NVIDIA Tegra241 CMDQ-V: queues of commands beside an SMMUv3's own, some of which a VM has to itself. There is no public
// specification: registers and rules are those that drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c of Linux 7.3 names.

import { RO, RW, layout } from '../../../base/bit-fields.ts';

// ---- the configuration page ----

export const CONFIG = layout('CMDQV_CONFIG', 32, { CMDQV_EN: RW([0]) });

/** log2 of how many there are: queues, virtual interfaces, and pairs of SID_MATCH and SID_REPLACE per interface. */
export const PARAM = layout('CMDQV_PARAM', 32, {
  VER: RO([3, 0]),
  NUM_VCMDQ_LOG2: RO([7, 4]),
  NUM_VINTF_LOG2: RO([11, 8]),
  NUM_SID_PER_VM_LOG2: RO([15, 12]),
});

export const STATUS = layout('CMDQV_STATUS', 32, { ENABLED: RO([0]) });

/** Which logical queue of which interface a queue is. */
export const CMDQ_ALLOC = layout('CMDQV_CMDQ_ALLOC', 32, {
  ALLOCATED: RW([0]),
  LVCMDQ: RW([7, 1]),
  VINTF: RW([20, 15]),
});

// ---- a virtual interface (VINTF) ----

/** HYP_OWN: the hypervisor's own, which takes every command and changes none. */
export const VINTF_CONFIG = layout('VINTF_CONFIG', 32, { EN: RW([0]), VMID: RW([16, 1]), HYP_OWN: RW([17]) });
export const VINTF_STATUS = layout('VINTF_STATUS', 32, { ENABLED: RO([0]), STATUS: RO([3, 1]) });
export const SID_MATCH = layout('VINTF_SID_MATCH', 32, { ENABLE: RW([0]), VIRT_SID: RW([20, 1]) });
export const SID_REPLACE = layout('VINTF_SID_REPLACE', 32, { SID: RW([31, 0]) });

// ---- a queue (VCMDQ): page 0 ----

export const VCMDQ_CONS = layout('VCMDQ_CONS', 32, { RD: RW([19, 0]), ERR: RO([30, 24]) });
export const VCMDQ_PROD = layout('VCMDQ_PROD', 32, { WR: RW([19, 0]) });
export const VCMDQ_CONFIG = layout('VCMDQ_CONFIG', 32, { EN: RW([0]) });
export const VCMDQ_STATUS = layout('VCMDQ_STATUS', 32, { ENABLED: RO([0]) });
/** As SMMU_GERROR.CMDQ_ERR: an error is active while the bit differs from GERRORN's. */
export const VCMDQ_GERROR = layout('VCMDQ_GERROR', 32, { CMDQ_ERR: RO([0]) });
export const VCMDQ_GERRORN = layout('VCMDQ_GERRORN', 32, { CMDQ_ERR: RW([0]) });

// ---- page 1 ----

export const VCMDQ_BASE = layout('VCMDQ_BASE', 64, { LOG2SIZE: RW([4, 0]), ADDR: RW([47, 5]) });
/** Where the hardware would also store CONS. Linux leaves it 0. */
export const VCMDQ_CONS_INDX_BASE = layout('VCMDQ_CONS_INDX_BASE', 64, { ADDR: RW([47, 0]) });

// ---- places ----

export const PAGE_BYTES = 0x1_0000;

/** Offsets in the configuration page. */
export const OFFSET = {
  CONFIG: 0x0000,
  PARAM: 0x0004,
  STATUS: 0x0008,
  /** 64 bits, not aligned to 8: one per interface. */
  VINTF_ERR_MAP: 0x0014,
  VINTF_INT_MASK: 0x001c,
  /** Four of 32 bits: one bit per queue. */
  CMDQ_ERR_MAP: 0x0024,
  CMDQ_ALLOC: 0x0200,
} as const;

/** Offsets in the registers of an interface, which {@link vintfBase} places. */
export const VINTF = {
  CONFIG: 0x00,
  STATUS: 0x04,
  SID_MATCH: 0x40,
  SID_REPLACE: 0x80,
  /** Two of 64 bits: one bit per logical queue. */
  LVCMDQ_ERR_MAP: 0xc0,
} as const;
export const VINTF_BYTES = 0x100;

/** Offsets in the registers of a queue, in page 0 and in page 1. */
export const VCMDQ = {
  CONS: 0x00,
  PROD: 0x04,
  CONFIG: 0x08,
  STATUS: 0x0c,
  GERROR: 0x10,
  GERRORN: 0x14,
} as const;
export const VCMDQ_PAGE1 = { BASE: 0x00, CONS_INDX_BASE: 0x08 } as const;
export const VCMDQ_BYTES = 0x80;

/** Pages with all queues by their own number. */
export const VCMDQ_PAGE0_BASE = PAGE_BYTES;
export const VCMDQ_PAGE1_BASE = 2 * PAGE_BYTES;
/** Two pages per interface, with its queues by their logical number: the first is for a VM to map. */
export const VINTF_PAGES_BASE = 3 * PAGE_BYTES;

export const VINTFS_MAX = 64;
export const VCMDQS_MAX = 128;
/** SID_MATCH and SID_REPLACE have 64 bytes each. */
export const SIDS_PER_VINTF_MAX = 16;

export function vintfBase(vintf: number): number {
  return 0x1000 + VINTF_BYTES * vintf;
}

export function lvcmdqPage0(vintf: number, lvcmdq: number): number {
  return VINTF_PAGES_BASE + 2 * PAGE_BYTES * vintf + VCMDQ_BYTES * lvcmdq;
}

export function lvcmdqPage1(vintf: number, lvcmdq: number): number {
  return lvcmdqPage0(vintf, lvcmdq) + PAGE_BYTES;
}

export function registerBytes(vintfs: number): number {
  return VINTF_PAGES_BASE + 2 * PAGE_BYTES * vintfs;
}
