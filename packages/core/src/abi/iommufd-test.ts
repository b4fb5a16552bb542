// drivers/iommu/iommufd/iommufd_test.h of Linux 7.3: IOMMU_TEST_CMD and the data structs of the mock IOMMU.

import { pad, s32, struct, u32, u64 } from '../base/struct.ts';
import { IO, IOMMUFD_TYPE } from './ioctl.ts';
import { IOMMUFD_CMD_BASE } from './iommufd.ts';

/** The header's first anonymous enum. */
export const iommu_test_op = {
  IOMMU_TEST_OP_ADD_RESERVED: 1,
  IOMMU_TEST_OP_MOCK_DOMAIN: 2,
  IOMMU_TEST_OP_MD_CHECK_MAP: 3,
  IOMMU_TEST_OP_MD_CHECK_REFS: 4,
  IOMMU_TEST_OP_CREATE_ACCESS: 5,
  IOMMU_TEST_OP_DESTROY_ACCESS_PAGES: 6,
  IOMMU_TEST_OP_ACCESS_PAGES: 7,
  IOMMU_TEST_OP_ACCESS_RW: 8,
  IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT: 9,
  IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE: 10,
  IOMMU_TEST_OP_ACCESS_REPLACE_IOAS: 11,
  IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS: 12,
  IOMMU_TEST_OP_DIRTY: 13,
  IOMMU_TEST_OP_MD_CHECK_IOTLB: 14,
  IOMMU_TEST_OP_TRIGGER_IOPF: 15,
  IOMMU_TEST_OP_DEV_CHECK_CACHE: 16,
  IOMMU_TEST_OP_TRIGGER_VEVENT: 17,
  IOMMU_TEST_OP_PASID_ATTACH: 18,
  IOMMU_TEST_OP_PASID_REPLACE: 19,
  IOMMU_TEST_OP_PASID_DETACH: 20,
  IOMMU_TEST_OP_PASID_CHECK_HWPT: 21,
  IOMMU_TEST_OP_DMABUF_GET: 22,
  IOMMU_TEST_OP_DMABUF_REVOKE: 23,
} as const;
export const {
  IOMMU_TEST_OP_ADD_RESERVED,
  IOMMU_TEST_OP_MOCK_DOMAIN,
  IOMMU_TEST_OP_MD_CHECK_MAP,
  IOMMU_TEST_OP_MD_CHECK_REFS,
  IOMMU_TEST_OP_CREATE_ACCESS,
  IOMMU_TEST_OP_DESTROY_ACCESS_PAGES,
  IOMMU_TEST_OP_ACCESS_PAGES,
  IOMMU_TEST_OP_ACCESS_RW,
  IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT,
  IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
  IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
  IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
  IOMMU_TEST_OP_DIRTY,
  IOMMU_TEST_OP_MD_CHECK_IOTLB,
  IOMMU_TEST_OP_TRIGGER_IOPF,
  IOMMU_TEST_OP_DEV_CHECK_CACHE,
  IOMMU_TEST_OP_TRIGGER_VEVENT,
  IOMMU_TEST_OP_PASID_ATTACH,
  IOMMU_TEST_OP_PASID_REPLACE,
  IOMMU_TEST_OP_PASID_DETACH,
  IOMMU_TEST_OP_PASID_CHECK_HWPT,
  IOMMU_TEST_OP_DMABUF_GET,
  IOMMU_TEST_OP_DMABUF_REVOKE,
} = iommu_test_op;

export const MOCK_IOMMUPT_DEFAULT = 0;
export const MOCK_IOMMUPT_HUGE = 1;

/** IOVAs, inclusive. They hold for MOCK_IOMMUPT_DEFAULT, as do the page sizes. */
export const MOCK_APERTURE_START = 1n << 24n;
export const MOCK_APERTURE_LAST = (1n << 31n) - 1n;
/** Bytes. */
export const MOCK_PAGE_SIZE = 2048;
/** Bytes. */
export const MOCK_HUGE_PAGE_SIZE = 512 * MOCK_PAGE_SIZE;

export const MOCK_FLAGS_ACCESS_WRITE = 1 << 0;
export const MOCK_FLAGS_ACCESS_SYZ = 1 << 16;

export const MOCK_ACCESS_RW_WRITE = 1 << 0;
export const MOCK_ACCESS_RW_SLOW_PATH = 1 << 2;

export const MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES = 1 << 0;

export const MOCK_FLAGS_DEVICE_NO_DIRTY = 1 << 0;
export const MOCK_FLAGS_DEVICE_PASID = 1 << 2;

export const MOCK_NESTED_DOMAIN_IOTLB_ID_MAX = 3;
export const MOCK_NESTED_DOMAIN_IOTLB_NUM = 4;

export const MOCK_DEV_CACHE_ID_MAX = 3;
export const MOCK_DEV_CACHE_NUM = 4;

/** The PASID whose replacement fails the first time (drivers/iommu/iommufd/selftest.c). */
export const IOMMU_TEST_PASID_RESERVED = 1024;

export const IOMMU_TEST_CMD = IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 32);

// struct iommu_test_cmd holds a union of what the operations take. Here it is one struct per member of the union, each
// with the whole size, plus iommu_test_cmd for what all have in common.

const HEAD = { size: u32, op: u32, id: u32, __reserved: u32 } as const;
const TAIL = { last: u32, __pad_end: pad(4) } as const;
const SIZE = 72;

export const iommu_test_cmd = struct('iommu_test_cmd', SIZE, { ...HEAD, __union: pad(48), ...TAIL });

export const iommu_test_cmd_add_reserved = struct('iommu_test_cmd_add_reserved', SIZE, {
  ...HEAD,
  start: u64,
  length: u64,
  __union: pad(32),
  ...TAIL,
});

export const iommu_test_cmd_mock_domain = struct('iommu_test_cmd_mock_domain', SIZE, {
  ...HEAD,
  out_stdev_id: u32,
  out_hwpt_id: u32,
  out_idev_id: u32,
  __union: pad(36),
  ...TAIL,
});

export const iommu_test_cmd_mock_domain_flags = struct('iommu_test_cmd_mock_domain_flags', SIZE, {
  ...HEAD,
  out_stdev_id: u32,
  out_hwpt_id: u32,
  out_idev_id: u32,
  dev_flags: u32,
  __union: pad(32),
  ...TAIL,
});

export const iommu_test_cmd_mock_domain_replace = struct('iommu_test_cmd_mock_domain_replace', SIZE, {
  ...HEAD,
  pt_id: u32,
  __union: pad(44),
  ...TAIL,
});

export const iommu_test_cmd_check_map = struct('iommu_test_cmd_check_map', SIZE, {
  ...HEAD,
  iova: u64,
  length: u64,
  uptr: u64,
  __union: pad(24),
  ...TAIL,
});

export const iommu_test_cmd_check_refs = struct('iommu_test_cmd_check_refs', SIZE, {
  ...HEAD,
  length: u64,
  uptr: u64,
  refs: u32,
  __union: pad(28),
  ...TAIL,
});

export const iommu_test_cmd_create_access = struct('iommu_test_cmd_create_access', SIZE, {
  ...HEAD,
  out_access_fd: u32,
  flags: u32,
  __union: pad(40),
  ...TAIL,
});

export const iommu_test_cmd_destroy_access_pages = struct('iommu_test_cmd_destroy_access_pages', SIZE, {
  ...HEAD,
  access_pages_id: u32,
  __union: pad(44),
  ...TAIL,
});

export const iommu_test_cmd_access_pages = struct('iommu_test_cmd_access_pages', SIZE, {
  ...HEAD,
  flags: u32,
  out_access_pages_id: u32,
  iova: u64,
  length: u64,
  uptr: u64,
  __union: pad(16),
  ...TAIL,
});

export const iommu_test_cmd_access_rw = struct('iommu_test_cmd_access_rw', SIZE, {
  ...HEAD,
  iova: u64,
  length: u64,
  uptr: u64,
  flags: u32,
  __union: pad(20),
  ...TAIL,
});

export const iommu_test_cmd_memory_limit = struct('iommu_test_cmd_memory_limit', SIZE, {
  ...HEAD,
  limit: u32,
  __union: pad(44),
  ...TAIL,
});

export const iommu_test_cmd_access_replace_ioas = struct('iommu_test_cmd_access_replace_ioas', SIZE, {
  ...HEAD,
  ioas_id: u32,
  __union: pad(44),
  ...TAIL,
});

export const iommu_test_cmd_dirty = struct('iommu_test_cmd_dirty', SIZE, {
  ...HEAD,
  flags: u32,
  __pad: pad(4),
  iova: u64,
  length: u64,
  page_size: u64,
  uptr: u64,
  out_nr_dirty: u64,
  ...TAIL,
});

/** `iotlb_id` is check_iotlb.id: the struct's own `id` is the HWPT's. */
export const iommu_test_cmd_check_iotlb = struct('iommu_test_cmd_check_iotlb', SIZE, {
  ...HEAD,
  iotlb_id: u32,
  iotlb: u32,
  __union: pad(40),
  ...TAIL,
});

export const iommu_test_cmd_trigger_iopf = struct('iommu_test_cmd_trigger_iopf', SIZE, {
  ...HEAD,
  dev_id: u32,
  pasid: u32,
  grpid: u32,
  perm: u32,
  addr: u64,
  __union: pad(24),
  ...TAIL,
});

/** `cache_id` is check_dev_cache.id: the struct's own `id` is the device's. */
export const iommu_test_cmd_check_dev_cache = struct('iommu_test_cmd_check_dev_cache', SIZE, {
  ...HEAD,
  cache_id: u32,
  cache: u32,
  __union: pad(40),
  ...TAIL,
});

export const iommu_test_cmd_trigger_vevent = struct('iommu_test_cmd_trigger_vevent', SIZE, {
  ...HEAD,
  dev_id: u32,
  __union: pad(44),
  ...TAIL,
});

/** `id` is the mock device. */
export const iommu_test_cmd_pasid_attach = struct('iommu_test_cmd_pasid_attach', SIZE, {
  ...HEAD,
  pasid: u32,
  pt_id: u32,
  __union: pad(40),
  ...TAIL,
});

/** `id` is the mock device. */
export const iommu_test_cmd_pasid_replace = struct('iommu_test_cmd_pasid_replace', SIZE, {
  ...HEAD,
  pasid: u32,
  pt_id: u32,
  __union: pad(40),
  ...TAIL,
});

/** `id` is the mock device. */
export const iommu_test_cmd_pasid_detach = struct('iommu_test_cmd_pasid_detach', SIZE, {
  ...HEAD,
  pasid: u32,
  __union: pad(44),
  ...TAIL,
});

/** `id` is the mock device. */
export const iommu_test_cmd_pasid_check = struct('iommu_test_cmd_pasid_check', SIZE, {
  ...HEAD,
  pasid: u32,
  hwpt_id: u32,
  __union: pad(40),
  ...TAIL,
});

export const iommu_test_cmd_dmabuf_get = struct('iommu_test_cmd_dmabuf_get', SIZE, {
  ...HEAD,
  length: u32,
  open_flags: u32,
  __union: pad(40),
  ...TAIL,
});

export const iommu_test_cmd_dmabuf_revoke = struct('iommu_test_cmd_dmabuf_revoke', SIZE, {
  ...HEAD,
  dmabuf_fd: s32,
  revoked: u32,
  __union: pad(40),
  ...TAIL,
});

/** Bits of a PASID. */
export const MOCK_PASID_WIDTH = 20;

export const IOMMU_HW_INFO_TYPE_SELFTEST = 0xfeedbeef;
export const IOMMU_HW_INFO_SELFTEST_REGVAL = 0xdeadbeef;

export const iommu_test_hw_info = struct('iommu_test_hw_info', 8, { flags: u32, test_reg: u32 });

export const IOMMU_HWPT_DATA_SELFTEST = 0xdead;
export const IOMMU_TEST_IOTLB_DEFAULT = 0xbadbeef;
export const IOMMU_TEST_DEV_CACHE_DEFAULT = 0xbaddad;

/** `pagetable_type` is MOCK_IOMMUPT_DEFAULT or MOCK_IOMMUPT_HUGE. */
export const iommu_hwpt_selftest = struct('iommu_hwpt_selftest', 8, { iotlb: u32, pagetable_type: u32 });

export const IOMMU_HWPT_INVALIDATE_DATA_SELFTEST = 0xdeadbeef;
export const IOMMU_HWPT_INVALIDATE_DATA_SELFTEST_INVALID = 0xdadbeef;

export const IOMMU_TEST_INVALIDATE_FLAG_ALL = 1 << 0;

export const iommu_hwpt_invalidate_selftest = struct('iommu_hwpt_invalidate_selftest', 8, {
  flags: u32,
  iotlb_id: u32,
});

export const IOMMU_VIOMMU_TYPE_SELFTEST = 0xdeadbeef;

export const iommu_viommu_selftest = struct('iommu_viommu_selftest', 24, {
  in_data: u32,
  out_data: u32,
  out_mmap_offset: u64,
  out_mmap_length: u64,
});

export const IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST = 0xdeadbeef;
export const IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID = 0xdadbeef;

export const iommu_viommu_invalidate_selftest = struct('iommu_viommu_invalidate_selftest', 12, {
  flags: u32,
  vdev_id: u32,
  cache_id: u32,
});

export const IOMMU_VEVENTQ_TYPE_SELFTEST = 0xbeefbeef;

export const iommu_viommu_event_selftest = struct('iommu_viommu_event_selftest', 4, { virt_id: u32 });

export const IOMMU_HW_QUEUE_TYPE_SELFTEST = 0xdeadbeef;
export const IOMMU_TEST_HW_QUEUE_MAX = 2;
