import { beforeEach, describe, expect, test } from 'vitest';
import { EFAULT, EINVAL, EMFILE, ENODEV, ENOMEM, ENOTTY, EOPNOTSUPP, EOVERFLOW } from '../../abi/errno.ts';
import {
  IOMMU_IOAS_MAP_FILE,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  iommu_ioas_map_file,
} from '../../abi/iommufd.ts';
import {
  VFIO_DEVICE_FEATURE_DMA_BUF,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_RESET,
  VFIO_PCI_CONFIG_REGION_INDEX,
  vfio_device_feature_dma_buf,
  vfio_region_dma_range,
} from '../../abi/vfio.ts';
import { big } from '../../base/u64.ts';
import { findProfile } from '../../iommufd/profile.ts';
import { Kernel } from '../../machine/kernel.ts';
import { loadParts } from '../../machine/machine-file/parts.ts';
import { COMMAND, ERROR, REGISTER, STATUS } from '../../pci/dma-engine/registers.ts';
import { PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../../pci/spec.ts';
import { BUFFER, Program } from '../testing/program.ts';
import { regionOffset } from './regions.ts';

const PAGE = 0x1000n;
const GET = VFIO_DEVICE_FEATURE_DMA_BUF | VFIO_DEVICE_FEATURE_GET;
/** Where the BAR of the other engine is mapped. */
const IOVA = 0x10_0000n;

const partsOf = (type: 'arm-smmu-v3' | 'intel-iommu' | 'amd-iommu'): ReturnType<typeof loadParts> =>
  loadParts({
    iommus: [{ name: 'iommu0', type }],
    devices: [
      { name: '0000:0a:00.0', iommu: 'iommu0', pasids: 0, ats: false, model: 'dma-engine' },
      { name: '0000:0b:00.0', iommu: 'iommu0', pasids: 0, ats: false, model: 'dma-engine' },
      { name: '0000:0c:00.0', iommu: 'iommu0', pasids: 0, ats: false, model: 'virtio-console', console: {} },
    ],
  } as Parameters<typeof loadParts>[0]);

const PARTS = {
  'arm-smmu-v3': await partsOf('arm-smmu-v3'),
  'intel-iommu': await partsOf('intel-iommu'),
  'amd-iommu': await partsOf('amd-iommu'),
};
type Kind = keyof typeof PARTS;

/** A program with two engines, of which the first has an IOAS; the second offers its BAR. */
class Rig {
  readonly program: Program;
  readonly iommufd: number;
  readonly ioas: number;
  readonly engine: number;
  readonly other: number;

  constructor(kind: Kind = 'arm-smmu-v3', profile = 'linux-7.3') {
    const kernel = new Kernel({ parts: PARTS[kind], profile: findProfile(profile)! });
    const program = new Program(kernel);
    this.program = program;
    this.iommufd = program.open('/dev/iommu');
    this.engine = program.open('/dev/vfio/devices/vfio0');
    this.other = program.open('/dev/vfio/devices/vfio1');
    expect(program.bind(this.engine, this.iommufd)).toBe(0);
    expect(program.bind(this.other, this.iommufd)).toBe(0);
    this.ioas = program.ioas(this.iommufd);
    expect(program.attach(this.engine, this.ioas)).toBe(0);
    for (const device of [this.engine, this.other])
      this.setCommand(device, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
  }

  setCommand(device: number, command: number): void {
    const at = regionOffset(VFIO_PCI_CONFIG_REGION_INDEX) + big(PCI_COMMAND);
    expect(this.program.pwrite(device, at, [command & 0xff, command >> 8])).toBe(2);
  }

  set(device: number, register: number, value: bigint, bytes = 4): void {
    const data = Array.from({ length: bytes }, (_, n) => Number((value >> BigInt(8 * n)) & 0xffn));
    expect(this.program.pwrite(device, regionOffset(0) + big(register), data)).toBe(bytes);
  }

  get(device: number, register: number): number {
    expect(this.program.pread(device, regionOffset(0) + big(register), 4)).toBe(4);
    const bytes = new Uint8Array(4);
    this.program.process.memory.read(BUFFER, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  exportBar(
    ranges: readonly (readonly [bigint, bigint])[] = [[0n, PAGE]],
    values: Partial<ReturnType<typeof vfio_device_feature_dma_buf.create>> = {},
    device = this.other,
  ): number {
    const bytes = new Uint8Array(16 + 16 * ranges.length);
    const head = { region_index: 0, open_flags: 0, flags: 0, nr_ranges: ranges.length, ...values };
    vfio_device_feature_dma_buf.write(bytes, 0, head);
    for (const [n, [offset, length]] of ranges.entries())
      vfio_region_dma_range.write(bytes, 16 + 16 * n, { offset, length });
    return this.program.feature(device, GET, bytes).rc;
  }

  map(fd: number, length = PAGE, start = 0n, iova = IOVA): number {
    const flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
    const values = { flags, ioas_id: this.ioas, fd, start, length, iova };
    return this.program.call(this.iommufd, IOMMU_IOAS_MAP_FILE, iommu_ioas_map_file, values).rc;
  }

  /** The first engine copies 4 bytes; how that ended. */
  copy(source: bigint, destination: bigint): { status: number; error: number } {
    this.set(this.engine, REGISTER.SOURCE, source, 8);
    this.set(this.engine, REGISTER.DESTINATION, destination, 8);
    this.set(this.engine, REGISTER.LENGTH, 4n);
    this.set(this.engine, REGISTER.COMMAND, big(COMMAND.COPY));
    return {
      status: this.get(this.engine, REGISTER.STATUS),
      error: this.get(this.engine, REGISTER.ERROR),
    };
  }
}

let rig: Rig;
beforeEach(() => {
  rig = new Rig();
});

describe('VFIO_DEVICE_FEATURE_DMA_BUF', () => {
  test.each(Object.keys(PARTS) as Kind[])('lets another device reach a BAR, behind %s', (kind) => {
    rig = new Rig(kind);
    const fd = rig.exportBar();
    expect(fd).toBeGreaterThanOrEqual(0);
    expect(rig.map(fd)).toBe(0);
    rig.program.process.memory.write(BUFFER + 0x100n, Uint8Array.of(0x78, 0x56, 0x34, 0x12));
    expect(rig.copy(0x100n, IOVA + big(REGISTER.PATTERN)).status).toBe(STATUS.DONE);
    expect(rig.get(rig.other, REGISTER.PATTERN)).toBe(0x1234_5678);
    expect(rig.copy(IOVA + big(REGISTER.PATTERN), 0x200n).status).toBe(STATUS.DONE);
    const bytes = new Uint8Array(4);
    rig.program.process.memory.read(BUFFER + 0x200n, bytes);
    expect([...bytes]).toEqual([0x78, 0x56, 0x34, 0x12]);
  });

  test('lets a device start another one by its registers', () => {
    expect(rig.map(rig.exportBar())).toBe(0);
    rig.program.process.memory.write(BUFFER + 0x100n, Uint8Array.of(0x77));
    expect(rig.copy(0x100n, IOVA + big(REGISTER.COMMAND)).status).toBe(STATUS.DONE);
    expect(rig.get(rig.other, REGISTER.ERROR)).toBe(ERROR.COMMAND);
  });

  test('does not let a device that starts itself go on for ever', () => {
    expect(rig.map(rig.exportBar([[0n, PAGE]], {}, rig.engine))).toBe(0);
    rig.program.process.memory.write(BUFFER + 0x100n, Uint8Array.of(COMMAND.COPY));
    expect(rig.copy(0x100n, IOVA + big(REGISTER.COMMAND)).status).toBe(STATUS.DONE);
  });

  test('can be asked about, and got, and not set', () => {
    const probe = VFIO_DEVICE_FEATURE_DMA_BUF | VFIO_DEVICE_FEATURE_PROBE;
    expect(rig.program.feature(rig.other, probe).rc).toBe(0);
    expect(rig.program.feature(rig.other, probe | VFIO_DEVICE_FEATURE_GET).rc).toBe(0);
    expect(rig.program.feature(rig.other, probe | VFIO_DEVICE_FEATURE_SET).rc).toBe(-EINVAL);
    const set = VFIO_DEVICE_FEATURE_DMA_BUF | VFIO_DEVICE_FEATURE_SET;
    expect(rig.program.feature(rig.other, set, new Uint8Array(32)).rc).toBe(-EINVAL);
    expect(rig.program.feature(rig.other, GET, new Uint8Array(15)).rc).toBe(-EINVAL);
  });

  test('came with Linux 6.19', () => {
    expect(new Rig('arm-smmu-v3', 'linux-6.17').exportBar()).toBe(-ENOTTY);
    expect(new Rig('arm-smmu-v3', 'linux-7.0').exportBar()).toBeGreaterThanOrEqual(0);
  });

  test('needs ranges of whole pages within a memory BAR', () => {
    expect(rig.exportBar([])).toBe(-EINVAL);
    expect(rig.exportBar([[0n, PAGE]], { flags: 1 })).toBe(-EINVAL);
    for (const region_index of [1, 2, 5, 6, 7, 0xffff_ffff])
      expect(rig.exportBar([[0n, PAGE]], { region_index })).toBe(-ENODEV);
    for (const range of [
      [0n, 0n],
      [1n, PAGE],
      [0n, 1n],
      [0n, 0x5000n],
      [0x4000n, PAGE],
      [0x1000n, 0x4000n],
      [0n, 1n << 63n],
    ] as const)
      expect(rig.exportBar([range])).toBe(-EINVAL);
    expect(rig.exportBar([[0xffff_ffff_ffff_f000n, PAGE]])).toBe(-EOVERFLOW);
    const most = 0xffff_ffff_ffff_f000n;
    expect(
      rig.exportBar([
        [0n, most],
        [0n, PAGE],
      ]),
    ).toBe(-EINVAL);
    expect(rig.exportBar([[0n, PAGE]], { nr_ranges: 0x1000 })).toBe(-EFAULT);
    expect(rig.exportBar([[0n, PAGE]], { nr_ranges: 0xffff_ffff })).toBe(-ENOMEM);
  });

  test('is mapped where it is one range, and no further than it reaches', () => {
    const several = rig.exportBar([
      [0n, PAGE],
      [0x1000n, PAGE],
    ]);
    expect(several).toBeGreaterThanOrEqual(0);
    expect(rig.map(several)).toBe(-EOPNOTSUPP);
    const one = rig.exportBar([[0x1000n, 2n * PAGE]]);
    expect(rig.map(one, 3n * PAGE)).toBe(-EINVAL);
    expect(rig.map(one, PAGE, PAGE)).toBe(0);
  });

  test('answers the error of a descriptor that cannot be made, and keeps nothing', () => {
    while (rig.exportBar() >= 0) continue;
    expect(rig.exportBar()).toBe(-EMFILE);
  });
});

describe('a dma-buf of a BAR', () => {
  const unmapped = { status: STATUS.ERROR, error: ERROR.WRITE };

  test('is taken back by a reset, for good; new ones can be mapped then', () => {
    const fd = rig.exportBar();
    expect(rig.map(fd)).toBe(0);
    expect(rig.program.ioctl(rig.other, VFIO_DEVICE_RESET, 0n)).toBe(0);
    expect(rig.copy(0n, IOVA)).toEqual(unmapped);
    expect(rig.map(fd, PAGE, 0n, IOVA + PAGE)).toBe(0);
    rig.setCommand(rig.other, PCI_COMMAND_MEMORY);
    expect(rig.copy(0n, IOVA + PAGE + 0x10n).status).toBe(STATUS.DONE);
    expect(rig.copy(0n, IOVA)).toEqual(unmapped);
  });

  test('is taken back while memory space is off, or the device sleeps', () => {
    const fd = rig.exportBar();
    expect(rig.map(fd)).toBe(0);
    rig.setCommand(rig.other, 0);
    expect(rig.copy(0n, IOVA)).toEqual(unmapped);
    expect(rig.map(fd, PAGE, 0n, IOVA + PAGE)).toBe(-ENODEV);
    const dead = rig.exportBar();
    expect(rig.map(dead, PAGE, 0n, IOVA + PAGE)).toBe(-ENODEV);
    rig.setCommand(rig.other, PCI_COMMAND_MEMORY);
    expect(rig.map(dead, PAGE, 0n, IOVA + PAGE)).toBe(0);

    const entry = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | VFIO_DEVICE_FEATURE_SET;
    expect(rig.program.feature(rig.other, entry).rc).toBe(0);
    expect(rig.copy(0n, IOVA + PAGE)).toEqual(unmapped);
    expect(rig.map(dead, PAGE, 0n, IOVA + 2n * PAGE)).toBe(-ENODEV);
    const exit = VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | VFIO_DEVICE_FEATURE_SET;
    expect(rig.program.feature(rig.other, exit).rc).toBe(0);
    expect(rig.map(dead, PAGE, 0n, IOVA + 2n * PAGE)).toBe(0);
  });

  test('outlives the device’s file, and nobody can map it then', () => {
    const fd = rig.exportBar();
    expect(rig.map(fd)).toBe(0);
    rig.program.process.close(rig.other);
    expect(rig.copy(0n, IOVA)).toEqual(unmapped);
    expect(rig.map(fd, PAGE, 0n, IOVA + PAGE)).toBe(-ENODEV);
    const again = rig.program.open('/dev/vfio/devices/vfio1');
    expect(rig.program.bind(again, rig.iommufd)).toBe(0);
    expect(rig.map(fd, PAGE, 0n, IOVA + PAGE)).toBe(-ENODEV);
  });

  test('cannot be mapped by a program, and has no requests', () => {
    const fd = rig.exportBar();
    expect(rig.program.mmap(fd, 0n, PAGE)).toBe(-EINVAL);
    expect(rig.program.ioctl(fd, 0x1234, 0n)).toBe(-ENOTTY);
  });
});
