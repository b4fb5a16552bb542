import {
  AP,
  DEVICE,
  DEVICE_2,
  DIRTY,
  DMABUF_FD,
  MAKE_DMABUF,
  EMPTY,
  FAULT,
  HW_QUEUE,
  IOAS,
  IOAS_2,
  NESTED,
  PARENT,
  VIOMMU,
  VIOMMU_2,
  struct,
  test,
  v,
} from './environment.ts';
import type { Request } from './request.ts';

// A request of each kind of the uAPI that works in environment.ts, and of VFIO's container.

export const UAPI_REQUESTS: readonly Request[] = [
  { name: 'destroy', command: 0x80, arg: struct(8).reference(4, v(HW_QUEUE)) },
  { name: 'ioas-alloc', command: 0x81, arg: struct(12) },
  {
    name: 'allow',
    command: 0x82,
    arg: struct(24).reference(4, v(EMPTY)).u32(8, 1).buffer(16, 1),
    before: [`A 1 0000000100000000ffff0f0100000000`],
  },
  {
    name: 'copy',
    command: 0x83,
    arg: struct(40)
      .u32(4, 7)
      .reference(8, v(IOAS_2))
      .reference(12, v(IOAS))
      .u64(16, 0x2000n)
      .u64(24, AP + 0x100000n)
      .u64(32, AP + 0x1000n),
  },
  {
    name: 'ranges',
    command: 0x84,
    arg: struct(32).reference(4, v(IOAS)).u32(8, 4).buffer(16, 2),
    before: ['A 2 00'],
    after: ['O 2 64'],
  },
  {
    name: 'map',
    command: 0x85,
    arg: struct(40).u32(4, 6).reference(8, v(IOAS_2)).arena(16, 0x40000n).u64(24, 0x3000n).u64(32, AP),
  },
  {
    name: 'map-fixed',
    command: 0x85,
    arg: struct(40)
      .u32(4, 7)
      .reference(8, v(IOAS))
      .arena(16, 0x40000n)
      .u64(24, 0x3000n)
      .u64(32, AP + 0x80000n),
  },
  {
    name: 'map-empty',
    command: 0x85,
    arg: struct(40)
      .u32(4, 7)
      .reference(8, v(EMPTY))
      .arena(16, 0x40000n)
      .u64(24, 0x3000n)
      .u64(32, AP + 0x80000n),
  },
  {
    name: 'unmap',
    command: 0x86,
    arg: struct(24)
      .reference(4, v(IOAS))
      .u64(8, AP + 0x8000n)
      .u64(16, 0x4000n),
  },
  { name: 'option', command: 0x87, arg: struct(24).u32(4, 1).reference(12, v(EMPTY)).u64(16, 0n) },
  { name: 'option-rlimit', command: 0x87, arg: struct(24).u32(4, 0).u64(16, 1n) },
  { name: 'vfio-ioas', command: 0x88, arg: struct(12).reference(4, v(IOAS)).u32(8, 1) },
  {
    name: 'hwpt',
    command: 0x89,
    arg: struct(48).u32(4, 0).reference(8, v(DEVICE)).reference(12, v(IOAS)),
    after: ['S 16 40'],
  },
  {
    name: 'hwpt-data',
    command: 0x89,
    arg: struct(48)
      .u32(4, 0)
      .reference(8, v(DEVICE))
      .reference(12, v(IOAS))
      .u32(24, 0xdead)
      .u32(28, 8)
      .buffer(32, 4),
    before: ['A 4 0500000001000000'],
    after: ['S 16 40'],
  },
  {
    name: 'hwpt-nested',
    command: 0x89,
    arg: struct(48).reference(8, v(DEVICE)).reference(12, v(VIOMMU)).u32(24, 0xdead).u32(28, 8).buffer(32, 3),
    before: ['A 3 efbead0b00000000'],
    after: ['S 16 40'],
  },
  {
    name: 'hwpt-on-parent',
    command: 0x89,
    arg: struct(48).reference(8, v(DEVICE)).reference(12, v(PARENT)).u32(24, 0xdead).u32(28, 8).buffer(32, 3),
    before: ['A 3 efbead0b00000000'],
  },
  {
    name: 'hwpt-fault',
    command: 0x89,
    arg: struct(48)
      .u32(4, 4)
      .reference(8, v(DEVICE))
      .reference(12, v(VIOMMU))
      .u32(24, 0xdead)
      .u32(28, 8)
      .buffer(32, 3)
      .reference(40, v(FAULT)),
    before: ['A 3 efbead0b00000000'],
  },
  {
    name: 'hw-info',
    command: 0x8a,
    arg: struct(40).reference(8, v(DEVICE)).u32(12, 8).buffer(16, 5),
    before: ['A 5 ffffffffffffffffffffffffffffffff'],
    after: ['O 5 64'],
  },
  {
    name: 'hw-info-type',
    command: 0x8a,
    arg: struct(40).u32(4, 1).reference(8, v(DEVICE)).u32(12, 32).u32(24, 0xfeedbeef).buffer(16, 5),
    before: ['A 5 ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff'],
    after: ['O 5 64'],
  },
  { name: 'set-tracking', command: 0x8b, arg: struct(16).u32(4, 1).reference(8, v(DIRTY)) },
  {
    name: 'get-dirty',
    command: 0x8c,
    arg: struct(48).reference(4, v(DIRTY)).u64(16, AP).u64(24, 0x8000n).u64(32, 0x1000n).buffer(40, 4),
    before: [
      struct(16).u32(4, 1).reference(8, v(DIRTY)).line(0, 0x8b),
      'A 2 ffffff',
      test(13)
        .reference(8, v(DIRTY))
        .u64(24, AP)
        .u64(32, 0x4000n)
        .u64(40, 0x1000n)
        .buffer(48, 2)
        .line(0, 0xa0),
      'A 4 00',
    ],
    after: ['O 4 64'],
  },
  {
    name: 'invalidate',
    command: 0x8d,
    arg: struct(32).reference(4, v(NESTED)).buffer(8, 2).u32(16, 0xdeadbeef).u32(20, 8).u32(24, 1),
    before: ['A 2 0000000001000000'],
  },
  {
    name: 'invalidate-viommu',
    command: 0x8d,
    arg: struct(32).reference(4, v(VIOMMU)).buffer(8, 2).u32(16, 0xdeadbeef).u32(20, 12).u32(24, 2),
    before: ['A 2 000000009900000001000000010000009900000003000000'],
  },
  { name: 'fault', command: 0x8e, arg: struct(16), after: ['S 12 41', 'Z 41'] },
  {
    name: 'map-file',
    command: 0x8f,
    arg: struct(40)
      .u32(4, 7)
      .reference(8, v(IOAS))
      .memfd(12, 1)
      .u64(16, 0x1000n)
      .u64(24, 0x2000n)
      .u64(32, AP + 0x90000n),
  },
  {
    name: 'map-file-empty',
    command: 0x8f,
    arg: struct(40)
      .u32(4, 6)
      .reference(8, v(EMPTY))
      .memfd(12, 1)
      .u64(16, 0x1000n)
      .u64(24, 0x2000n)
      .u64(32, AP + 0x90000n),
  },
  {
    name: 'map-dmabuf',
    command: 0x8f,
    arg: struct(40)
      .u32(4, 7)
      .reference(8, v(IOAS))
      .u32(12, DMABUF_FD)
      .u64(16, 0x1000n)
      .u64(24, 0x2000n)
      .u64(32, AP + 0x90000n),
    before: [MAKE_DMABUF],
  },
  {
    name: 'viommu',
    command: 0x90,
    arg: struct(40).u32(8, 0xdeadbeef).reference(12, v(DEVICE)).reference(16, v(PARENT)),
    after: ['S 20 42', struct(8).reference(4, v(42)).line(0, 0x80)],
  },
  {
    name: 'viommu-data',
    command: 0x90,
    arg: struct(40)
      .u32(8, 0xdeadbeef)
      .reference(12, v(DEVICE))
      .reference(16, v(PARENT))
      .u32(24, 24)
      .buffer(32, 1),
    before: ['A 1 78563412ffffffffffffffffffffffff'],
    after: ['O 1 64'],
  },
  {
    name: 'vdevice',
    command: 0x91,
    arg: struct(24).reference(4, v(VIOMMU_2)).reference(8, v(DEVICE_2)).u64(16, 5n),
    after: ['S 12 43', struct(8).reference(4, v(43)).line(0, 0x80)],
  },
  { name: 'change-process', command: 0x92, arg: struct(8) },
  {
    name: 'veventq',
    command: 0x93,
    arg: struct(32).reference(8, v(VIOMMU_2)).u32(12, 0xbeefbeef).u32(16, 2),
    after: ['S 20 44', 'S 24 45', 'Z 45', struct(8).reference(4, v(44)).line(0, 0x80)],
  },
  {
    name: 'hw-queue',
    command: 0x94,
    arg: struct(40)
      .reference(8, v(VIOMMU))
      .u32(12, 0xdeadbeef)
      .u32(16, 1)
      .u64(24, AP + 0x21000n)
      .u64(32, 0x1000n),
    after: ['S 20 46', struct(8).reference(4, v(46)).line(0, 0x80)],
  },
  {
    name: 'hw-queue-user',
    command: 0x94,
    arg: struct(40).reference(8, v(VIOMMU)).u32(12, 0xdeadbeef).u32(16, 1).u64(24, AP).u64(32, 0x1000n),
    after: ['S 20 46', struct(8).reference(4, v(46)).line(0, 0x80)],
  },
  {
    name: 'vfio-info',
    command: 0x70,
    arg: struct(128).u32(0, 16),
    before: [struct(12).reference(4, v(IOAS)).u32(8, 1).line(0, 0x88)],
  },
  {
    name: 'vfio-map',
    command: 0x71,
    arg: struct(32)
      .u32(4, 3)
      .arena(8, 0x50000n)
      .u64(16, AP + 0x70000n)
      .u64(24, 0x2000n),
    before: [struct(12).reference(4, v(IOAS)).u32(8, 1).line(0, 0x88)],
  },
  {
    name: 'vfio-unmap',
    command: 0x72,
    arg: struct(24)
      .u64(8, AP + 0x8000n)
      .u64(16, 0x4000n),
    before: [struct(12).reference(4, v(IOAS)).u32(8, 1).line(0, 0x88)],
  },
];
