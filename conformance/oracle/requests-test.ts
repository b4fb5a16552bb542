import {
  ACCESS_FD,
  AP,
  DEVICE,
  DEVICE_SELFTEST,
  DIRTY,
  DMABUF_FD,
  MAKE_DMABUF,
  EMPTY,
  FAULT_FD,
  IOAS,
  NESTED,
  PAGES,
  PARENT,
  PASID_HWPT,
  SELFTEST_2,
  struct,
  test,
  v,
} from './environment.ts';
import type { Request } from './request.ts';

// An operation of IOMMU_TEST_CMD of each kind that works in environment.ts.

export const TEST_REQUESTS: readonly Request[] = [
  {
    name: 't-reserved',
    command: 0xa0,
    arg: test(1)
      .reference(8, v(EMPTY))
      .u64(16, AP + 0x400000n)
      .u64(24, 0x1000n),
  },
  {
    name: 't-domain',
    command: 0xa0,
    arg: test(2).reference(8, v(IOAS)),
    after: ['S 16 47', struct(8).reference(4, v(47)).line(0, 0x80)],
  },
  {
    name: 't-domain-flags',
    command: 0xa0,
    arg: test(12).reference(8, v(IOAS)).u32(28, 4),
    after: ['S 16 47', struct(8).reference(4, v(47)).line(0, 0x80)],
  },
  {
    name: 't-check-map',
    command: 0xa0,
    arg: test(3)
      .reference(8, v(PARENT))
      .u64(16, AP + 0x1000n)
      .u64(24, 0x2000n)
      .arena(32, 0x11000n),
  },
  { name: 't-check-refs', command: 0xa0, arg: test(4).u64(16, 0x2000n).arena(24, 0x11000n).u32(32, 1) },
  {
    name: 't-access',
    command: 0xa0,
    arg: test(5).reference(8, v(IOAS)).u32(20, 1),
    after: ['S 16 48', 'Z 48'],
  },
  {
    name: 't-destroy-pages',
    command: 0xa0,
    arg: test(6).reference(8, v(ACCESS_FD)).reference(16, v(PAGES)),
  },
  {
    name: 't-pages',
    command: 0xa0,
    arg: test(7)
      .reference(8, v(ACCESS_FD))
      .u32(16, 1)
      .u64(24, AP + 0x2000n)
      .u64(32, 0x2000n)
      .arena(40, 0x12000n),
    after: ['S 20 49', test(6).reference(8, v(ACCESS_FD)).reference(16, v(49)).line(0, 0xa0)],
  },
  {
    name: 't-rw',
    command: 0xa0,
    arg: test(8)
      .reference(8, v(ACCESS_FD))
      .u64(16, AP + 0x1800n)
      .u64(24, 0x900n)
      .arena(32, 0x300000n),
    after: ['D 300000 2000', 'D 10000 20000'],
  },
  {
    name: 't-rw-write',
    command: 0xa0,
    arg: test(8)
      .reference(8, v(ACCESS_FD))
      .u64(16, AP + 0x1800n)
      .u64(24, 0x900n)
      .arena(32, 0x300000n)
      .u32(40, 5),
    before: ['W 300000 1000 90'],
    after: ['D 300000 2000', 'D 10000 20000'],
  },
  {
    name: 't-replace',
    command: 0xa0,
    arg: test(10).reference(8, v(DEVICE_SELFTEST)).reference(16, v(NESTED)),
  },
  {
    name: 't-access-replace',
    command: 0xa0,
    arg: test(11).reference(8, v(ACCESS_FD)).reference(16, v(EMPTY)),
  },
  {
    name: 't-dirty',
    command: 0xa0,
    arg: test(13).reference(8, v(DIRTY)).u64(24, AP).u64(32, 0x4000n).u64(40, 0x800n).buffer(48, 2),
    before: [struct(16).u32(4, 1).reference(8, v(DIRTY)).line(0, 0x8b), 'A 2 a5ff'],
  },
  { name: 't-iotlb', command: 0xa0, arg: test(14).reference(8, v(NESTED)).u32(20, 0xbadbeef) },
  {
    name: 't-iopf',
    command: 0xa0,
    arg: test(15).reference(16, v(DEVICE)).u32(24, 1).u32(28, 3).u64(32, 0x12345000n),
    after: [`R ${FAULT_FD} 80`, `T ${FAULT_FD} 0100000000000000`],
  },
  { name: 't-cache', command: 0xa0, arg: test(16).reference(8, v(DEVICE)).u32(20, 0xbaddad) },
  { name: 't-vevent', command: 0xa0, arg: test(17).reference(16, v(DEVICE)), after: ['R 11 64'] },
  {
    name: 't-pasid-attach',
    command: 0xa0,
    arg: test(18).reference(8, v(SELFTEST_2)).u32(16, 5).reference(20, v(PASID_HWPT)),
    before: [test(10).reference(8, v(SELFTEST_2)).reference(16, v(PASID_HWPT)).line(0, 0xa0)],
    after: [test(20).reference(8, v(SELFTEST_2)).u32(16, 5).line(0, 0xa0)],
  },
  {
    name: 't-pasid-replace',
    command: 0xa0,
    arg: test(19).reference(8, v(SELFTEST_2)).u32(16, 5).reference(20, v(PASID_HWPT)),
    before: [
      test(10).reference(8, v(SELFTEST_2)).reference(16, v(PASID_HWPT)).line(0, 0xa0),
      test(18).reference(8, v(SELFTEST_2)).u32(16, 5).reference(20, v(PASID_HWPT)).line(0, 0xa0),
    ],
    after: [test(20).reference(8, v(SELFTEST_2)).u32(16, 5).line(0, 0xa0)],
  },
  {
    name: 't-pasid-detach',
    command: 0xa0,
    arg: test(20).reference(8, v(SELFTEST_2)).u32(16, 5),
    before: [
      test(10).reference(8, v(SELFTEST_2)).reference(16, v(PASID_HWPT)).line(0, 0xa0),
      test(18).reference(8, v(SELFTEST_2)).u32(16, 5).reference(20, v(PASID_HWPT)).line(0, 0xa0),
    ],
    after: [test(20).reference(8, v(SELFTEST_2)).u32(16, 5).line(0, 0xa0)],
  },
  {
    name: 't-pasid-check',
    command: 0xa0,
    arg: test(21).reference(8, v(SELFTEST_2)).u32(16, 5).reference(20, v(PASID_HWPT)),
    before: [
      test(10).reference(8, v(SELFTEST_2)).reference(16, v(PASID_HWPT)).line(0, 0xa0),
      test(18).reference(8, v(SELFTEST_2)).u32(16, 5).reference(20, v(PASID_HWPT)).line(0, 0xa0),
    ],
    after: [test(20).reference(8, v(SELFTEST_2)).u32(16, 5).line(0, 0xa0)],
  },
  { name: 't-dmabuf', command: 0xa0, arg: test(22).u32(16, 0x4000).u32(20, 0o2000000) },
  {
    name: 't-revoke',
    command: 0xa0,
    arg: test(23).u32(16, DMABUF_FD).u32(20, 1),
    before: [MAKE_DMABUF],
    after: [struct(40).u32(4, 6).reference(8, v(EMPTY)).u32(12, DMABUF_FD).u64(24, 0x2000n).line(0, 0x8f)],
  },
];
