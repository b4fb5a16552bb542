import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VFIO_BASE, VFIO_TYPE } from '../abi/vfio.ts';
import { IO } from '../abi/ioctl.ts';
import { Kernel } from '../machine/kernel.ts';
import { loadParts } from '../machine/machine-file/parts.ts';
import type { FileBacking, OpenFile } from '../memory/file.ts';
import { SimulatedEventfd } from '../memory/simulated-process.ts';
import { regionOffset } from './pci/regions.ts';
import { ARGUMENT, Program } from './testing/program.ts';

// Whatever a program does with VFIO's files, each call answers a number or an errno, and when the program has gone the
// devices are there for the next one.

const PATHS = [
  '/dev/iommu',
  '/dev/vfio/vfio',
  '/dev/vfio/0',
  '/dev/vfio/1',
  '/dev/vfio/devices/vfio0',
  '/dev/vfio/devices/vfio1',
];
const ERRNO_MAX = 4095;
const PARTS = await loadParts({
  iommus: [{ name: 'smmu0', type: 'arm-smmu-v3' }],
  devices: [
    {
      name: '0000:0a:00.0',
      iommu: 'smmu0',
      pasids: 16,
      ats: true,
      model: 'dma-engine',
      migration: { p2p: true, preCopy: true, dmaLogging: true },
    },
    { name: '0000:0a:00.1', iommu: 'smmu0', pasids: 0, ats: false, model: 'igb-loopback' },
  ],
} as Parameters<typeof loadParts>[0]);

const word = fc.oneof(
  fc.nat(8),
  fc.nat(64),
  fc.constantFrom(0xffff_ffff, 0x8000_0000, 0x7fff_ffff),
  fc.integer({ min: 0, max: 31 }).map((bit) => 2 ** bit),
);
const offset = fc.oneof(
  fc.tuple(fc.nat(9), fc.nat(0x2_0010)).map(([index, at]) => regionOffset(index) + BigInt(at)),
  fc.tuple(fc.constant(7), fc.nat(0x110)).map(([index, at]) => regionOffset(index) + BigInt(at)),
  fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
);
const address = fc.oneof(
  { weight: 8, arbitrary: fc.constant(ARGUMENT) },
  fc.constantFrom(0n, ARGUMENT + 0xff8n),
);
// The size, flags and two words more are what most structs begin with.
const struct = fc.tuple(
  fc.oneof(fc.constantFrom(12, 16, 20, 24, 32, 40, 64), word),
  fc.oneof(fc.nat(63), word),
  fc.array(word, { maxLength: 14 }),
);

type Step = (program: Program, fds: readonly number[]) => number;

const anyFd = fc.nat();
const pick = (fds: readonly number[], which: number): number | undefined =>
  fds[which % Math.max(1, fds.length)];
const isOurs = (program: Program, fd: number | undefined): fd is number =>
  fd !== undefined && program.process.file(fd) !== null && 'ioctl' in program.file(fd);

const request: fc.Arbitrary<Step> = fc
  .tuple(anyFd, fc.integer({ min: 3, max: 22 }), struct, address)
  .map(([which, number, [size, flags, words], at]) => (program, fds) => {
    const fd = which % 3 === 0 ? pick(fds, which) : ofType(program, fds, 'vfio-device', which);
    if (!isOurs(program, fd)) return 0;
    program.process.memory.write(ARGUMENT, new Uint8Array(new Uint32Array([size, flags, ...words]).buffer));
    return program.ioctl(fd, IO(VFIO_TYPE, VFIO_BASE + number), at);
  });

const feature: fc.Arbitrary<Step> = fc
  .tuple(anyFd, fc.nat(14), fc.constantFrom(1, 2, 2, 1, 4, 5, 6, 7, 0), fc.array(word, { maxLength: 10 }))
  .map(([which, index, ways, words]) => (program, fds) => {
    const fd = ofType(program, fds, 'vfio-device', which);
    if (!isOurs(program, fd)) return 0;
    const flags = index | (ways << 16);
    return Math.min(0, program.feature(fd, flags, new Uint8Array(new Uint32Array(words).buffer)).rc);
  });

const transfer: fc.Arbitrary<Step> = fc
  .tuple(anyFd, fc.nat(200), fc.option(fc.array(fc.nat(255), { minLength: 1, maxLength: 20 })))
  .map(([which, count, bytes]) => (program, fds) => {
    const fd = ofType(program, fds, 'migration-data', which);
    if (!isOurs(program, fd) || program.file(fd).type !== 'migration-data') return 0;
    if (bytes !== null) return program.write(fd, new Uint8Array(bytes));
    const done = program.read(fd, count);
    return typeof done === 'number' ? done : done.length;
  });

const access: fc.Arbitrary<Step> = fc
  .tuple(anyFd, fc.boolean(), offset, fc.array(fc.nat(255), { minLength: 1, maxLength: 20 }), fc.nat(0x3000))
  .map(([which, writes, at, bytes, count]) => (program, fds) => {
    const fd = ofType(program, fds, 'vfio-device', which);
    if (!isOurs(program, fd) || program.file(fd).pread === undefined) return 0;
    return writes ? program.pwrite(fd, at, bytes) : program.pread(fd, at, count);
  });

const map: fc.Arbitrary<Step> = fc
  .tuple(anyFd, offset, fc.integer({ min: 1, max: 40 }))
  .map(([which, at, pages]) => (program, fds) => {
    const fd = ofType(program, fds, 'vfio-device', which);
    if (!isOurs(program, fd)) return 0;
    const file = program.file(fd);
    if (file.type !== 'vfio-device') return 0;
    file.backing ??= sparsePages();
    return program.mmap(fd, at & ~0xfffn, BigInt(pages) * 4096n);
  });

const open: fc.Arbitrary<Step> = fc
  .constantFrom(...PATHS)
  .map((path) => (program) => Math.min(0, program.tryOpen(path)));
const openEventfd: fc.Arbitrary<Step> = fc.constant((program) => {
  program.process.open(new SimulatedEventfd());
  return 0;
});
const close: fc.Arbitrary<Step> = anyFd.map((which) => (program, fds) => {
  const fd = pick(fds, which);
  if (fd !== undefined) program.process.close(fd);
  return 0;
});
/** The `which`-th descriptor of a file of that type, or any where there is none. */
function ofType(
  program: Program,
  fds: readonly number[],
  type: OpenFile['type'],
  which: number,
): number | undefined {
  const right = fds.filter((fd) => isOurs(program, fd) && program.file(fd).type === type);
  return pick(right.length > 0 ? right : fds, which);
}

/** The usual way to a device. */
const bind: fc.Arbitrary<Step> = fc.tuple(anyFd, anyFd).map(([device, iommufd]) => (program, fds) => {
  const one = ofType(program, fds, 'vfio-device', device);
  const other = ofType(program, fds, 'iommufd', iommufd);
  if (!isOurs(program, one) || !isOurs(program, other)) return 0;
  const rc = program.bind(one, other);
  return rc === 0 && program.file(other).type === 'iommufd' ? program.attach(one, program.ioas(other)) : rc;
});
const byGroup: fc.Arbitrary<Step> = fc
  .tuple(anyFd, anyFd, fc.constantFrom('0000:0a:00.0', '0000:0a:00.1', 'nothing'))
  .map(([group, container, name]) => (program, fds) => {
    const one = ofType(program, fds, 'vfio-group', group);
    const other = ofType(program, fds, 'iommufd', container);
    if (!isOurs(program, one) || other === undefined) return 0;
    program.setContainer(one, other);
    return Math.min(0, program.getDeviceFd(one, name));
  });

function sparsePages(): FileBacking {
  const bytes = new Map<bigint, number>();
  return {
    read: (at, into) => {
      for (let i = 0; i < into.length; i++) into[i] = bytes.get(at + BigInt(i)) ?? 0;
      return true;
    },
    write: (at, from) => {
      for (let i = 0; i < from.length; i++) if (from[i] !== 0) bytes.set(at + BigInt(i), from[i]!);
      return true;
    },
    mapped: () => true,
  };
}

const step = fc.oneof(
  { weight: 10, arbitrary: request },
  { weight: 6, arbitrary: feature },
  { weight: 4, arbitrary: transfer },
  { weight: 8, arbitrary: access },
  { weight: 2, arbitrary: map },
  { weight: 4, arbitrary: open },
  { weight: 2, arbitrary: openEventfd },
  { weight: 2, arbitrary: close },
  { weight: 3, arbitrary: bind },
  { weight: 3, arbitrary: byGroup },
);

/** How a program comes to its devices. */
const BEGINNINGS: readonly ((program: Program) => void)[] = [
  () => {},
  (program) => {
    const iommufd = program.open('/dev/iommu');
    const device = program.open('/dev/vfio/devices/vfio1');
    program.bind(device, iommufd);
    program.attach(device, program.ioas(iommufd));
  },
  (program) => {
    const [container, group] = [program.open('/dev/vfio/vfio'), program.open('/dev/vfio/0')];
    program.setContainer(group, container);
    program.getDeviceFd(group, '0000:0a:00.0');
  },
];

test('a program may do anything', { timeout: 60_000 }, () => {
  const kernel = new Kernel({ parts: PARTS, mock: false });
  fc.assert(
    fc.property(
      fc.constantFrom(...BEGINNINGS),
      fc.array(step, { minLength: 40, maxLength: 120 }),
      (begin, steps) => {
        const program = new Program(kernel);
        const fds = (): number[] =>
          Array.from({ length: 64 }, (_, fd) => fd).filter((fd) => program.process.file(fd) !== null);
        begin(program);
        for (const each of steps) {
          const rc = each(program, fds());
          expect(rc).toBeGreaterThanOrEqual(-ERRNO_MAX);
          kernel.doorbells.look();
        }
        program.process.exit();
        const next = new Program(kernel);
        const iommufd = next.open('/dev/iommu');
        for (const path of PATHS.slice(2, 4)) next.process.close(next.open(path));
        for (const path of PATHS.slice(4)) expect(next.bind(next.open(path), iommufd)).toBe(0);
        next.process.exit();
      },
    ),
    { numRuns: 300 },
  );
});
