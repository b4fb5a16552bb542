import { StructWriter } from '../model/script/script.ts';

// What requests need: objects of every type, and mappings.

/** What the variables hold. */
export const IOAS = 1;
export const DEVICE_SELFTEST = 2;
export const DEVICE_HWPT = 3;
export const DEVICE = 4;
export const PARENT = 5;
export const VIOMMU = 6;
export const VDEVICE = 7;
export const FAULT = 8;
export const FAULT_FD = 9;
export const VEVENTQ = 10;
export const NESTED = 12;
export const NESTED_FAULT = 13;
export const HW_QUEUE = 14;
export const ACCESS_FD = 15;
export const IOAS_2 = 17;
export const SELFTEST_2 = 18;
export const DEVICE_2 = 20;
export const DIRTY = 21;
export const EMPTY = 22;
export const PASID_HWPT = 23;
export const PAGES = 24;
export const PARENT_2 = 26;
export const VIOMMU_2 = 27;
/** How many there are. */
export const VARIABLES = 30;
/** The descriptor of the first dma-buf that is made: Linux 7.3 does not tell it. */
export const DMABUF_FD = 10;
/** Makes a dma-buf of four pages. */
export const MAKE_DMABUF = new StructWriter(72).u32(4, 22).u32(16, 0x4000).u32(20, 0o2000000).line(0, 0xa0);

export const struct = (size: number): StructWriter => new StructWriter(size);
export const test = (op: number): StructWriter => new StructWriter(72).u32(4, op);
export const v = (variable: number): { readonly variable: number } => ({ variable });

/** A request, and which of its words go into variables: [offset, variable]. */
export interface Made {
  readonly command: number;
  readonly arg: StructWriter;
  readonly keep?: readonly (readonly [number, number])[];
  readonly before?: readonly string[];
}

function line(made: Made): string[] {
  return [
    ...(made.before ?? []),
    made.arg.line(0, made.command),
    ...(made.keep ?? []).map(([at, variable]) => `S ${at} ${variable}`),
  ];
}

/** Where the mock IOMMU's aperture begins. */
export const AP = 1n << 24n;

/** Objects of every type, mappings of memory and of a file, and a device on a nested domain. */
const STEPS: readonly Made[] = [
  { command: 0x81, arg: struct(12), keep: [[8, IOAS]] },
  {
    command: 0xa0,
    arg: test(12).reference(8, v(IOAS)).u32(28, 4),
    keep: [
      [16, DEVICE_SELFTEST],
      [20, DEVICE_HWPT],
      [24, DEVICE],
    ],
  },
  {
    command: 0x85,
    arg: struct(40).u32(4, 7).reference(8, v(IOAS)).arena(16, 0x10000n).u64(24, 0x8000n).u64(32, AP),
  },
  {
    command: 0x85,
    arg: struct(40)
      .u32(4, 7)
      .reference(8, v(IOAS))
      .arena(16, 0x18000n)
      .u64(24, 0x4000n)
      .u64(32, AP + 0x8000n),
  },
  {
    command: 0x85,
    arg: struct(40)
      .u32(4, 5)
      .reference(8, v(IOAS))
      .arena(16, 0x20000n)
      .u64(24, 0x2000n)
      .u64(32, AP + 0x10000n),
  },
  {
    command: 0x8f,
    arg: struct(40)
      .u32(4, 7)
      .reference(8, v(IOAS))
      .memfd(12, 0)
      .u64(24, 0x10000n)
      .u64(32, AP + 0x20000n),
  },
  {
    command: 0x89,
    arg: struct(48).u32(4, 1).reference(8, v(DEVICE)).reference(12, v(IOAS)),
    keep: [[16, PARENT]],
  },
  {
    command: 0x90,
    arg: struct(40).u32(8, 0xdeadbeef).reference(12, v(DEVICE)).reference(16, v(PARENT)),
    keep: [[20, VIOMMU]],
  },
  {
    command: 0x91,
    arg: struct(24).reference(4, v(VIOMMU)).reference(8, v(DEVICE)).u64(16, 0x99n),
    keep: [[12, VDEVICE]],
  },
  {
    command: 0x8e,
    arg: struct(16),
    keep: [
      [8, FAULT],
      [12, FAULT_FD],
    ],
  },
  {
    command: 0x93,
    arg: struct(32).reference(8, v(VIOMMU)).u32(12, 0xbeefbeef).u32(16, 2),
    keep: [
      [20, VEVENTQ],
      [24, 11],
    ],
  },
  {
    before: ['A 3 efbead0b00000000'],
    command: 0x89,
    arg: struct(48).reference(8, v(DEVICE)).reference(12, v(VIOMMU)).u32(24, 0xdead).u32(28, 8).buffer(32, 3),
    keep: [[16, NESTED]],
  },
  {
    command: 0x89,
    arg: struct(48)
      .u32(4, 4)
      .reference(8, v(DEVICE))
      .reference(12, v(VIOMMU))
      .u32(24, 0xdead)
      .u32(28, 8)
      .buffer(32, 3)
      .reference(40, v(FAULT)),
    keep: [[16, NESTED_FAULT]],
  },
  {
    command: 0x94,
    arg: struct(40)
      .reference(8, v(VIOMMU))
      .u32(12, 0xdeadbeef)
      .u64(24, AP + 0x20000n)
      .u64(32, 0x1000n),
    keep: [[20, HW_QUEUE]],
  },
  {
    command: 0xa0,
    arg: test(5).reference(8, v(IOAS)).u32(20, 1),
    keep: [
      [16, ACCESS_FD],
      [8, 16],
    ],
  },
  { command: 0x81, arg: struct(12), keep: [[8, IOAS_2]] },
  {
    command: 0xa0,
    arg: test(12).reference(8, v(IOAS_2)).u32(28, 4),
    keep: [
      [16, SELFTEST_2],
      [20, 19],
      [24, DEVICE_2],
    ],
  },
  {
    command: 0x85,
    arg: struct(40)
      .u32(4, 7)
      .reference(8, v(IOAS_2))
      .arena(16, 0x28800n)
      .u64(24, 0x1800n)
      .u64(32, AP + 0x800n),
  },
  {
    command: 0x89,
    arg: struct(48).u32(4, 2).reference(8, v(DEVICE_2)).reference(12, v(IOAS)),
    keep: [[16, DIRTY]],
  },
  { command: 0x81, arg: struct(12), keep: [[8, EMPTY]] },
  {
    command: 0x89,
    arg: struct(48).u32(4, 8).reference(8, v(DEVICE_2)).reference(12, v(IOAS_2)),
    keep: [[16, PASID_HWPT]],
  },
  {
    command: 0xa0,
    arg: test(7)
      .reference(8, v(ACCESS_FD))
      .u64(24, AP + 0x1000n)
      .u64(32, 0x2000n)
      .arena(40, 0x11000n),
    keep: [[20, PAGES]],
  },
  {
    command: 0x89,
    arg: struct(48).u32(4, 1).reference(8, v(DEVICE_2)).reference(12, v(IOAS_2)),
    keep: [[16, PARENT_2]],
  },
  {
    command: 0x90,
    arg: struct(40).u32(8, 0xdeadbeef).reference(12, v(DEVICE_2)).reference(16, v(PARENT_2)),
    keep: [[20, VIOMMU_2]],
  },
  { command: 0xa0, arg: test(10).reference(8, v(DEVICE_SELFTEST)).reference(16, v(NESTED_FAULT)) },
];

/** The steps that make all that. */
export function environment(): string[] {
  return ['C 0', 'W 10000 20000 165', 'M 0 10000', 'M 1 200000', ...STEPS.flatMap(line)];
}
