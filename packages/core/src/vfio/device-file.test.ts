import { describe, expect, it } from 'vitest';
import { E2BIG, EBADF, EBADFD, EFAULT, EINVAL, EIO, ENOTTY } from '../abi/errno.ts';
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_ATTACH_PASID,
  VFIO_DEVICE_BIND_FLAG_TOKEN,
  VFIO_DEVICE_BIND_IOMMUFD,
  vfio_device_attach_iommufd_pt,
  vfio_device_bind_iommufd,
} from '../abi/vfio.ts';
import { VIOMMU_DEVICE_DMA_WRITE } from '../abi/viommu.ts';
import { findProfile } from '../iommufd/profile.ts';
import { Kernel } from '../machine/kernel.ts';
import type { TraceEvent } from '../trace/trace.ts';
import { regionOffset } from './pci/regions.ts';
import { ARGUMENT, BUFFER, LENGTH, PARTS, Program } from './testing/program.ts';

const DEVICE = '/dev/vfio/devices/vfio0';

function opened(): { program: Program; iommufd: number; device: number } {
  const program = new Program();
  return { program, iommufd: program.open('/dev/iommu'), device: program.open(DEVICE) };
}

describe('VFIO_DEVICE_BIND_IOMMUFD', () => {
  it('comes before everything else', () => {
    const { program, device } = opened();
    expect(program.attach(device, 1)).toBe(-EINVAL);
    expect(program.dma(device, { length: 1n })).toBe(-EINVAL);
    expect(program.ioctl(device, 0x3b80, 0n)).toBe(-EINVAL);
  });

  it('answers the id of the device, once', () => {
    const { program, iommufd, device } = opened();
    const first = program.call(device, VFIO_DEVICE_BIND_IOMMUFD, vfio_device_bind_iommufd, { iommufd });
    expect(first.rc).toBe(0);
    expect(first.out.out_devid).toBe(1);
    expect(program.bind(device, iommufd)).toBe(-EINVAL);
    expect(program.ioctl(device, 0x3b80, 0n)).toBe(-ENOTTY);
  });

  it('refuses what is no iommufd, a size that is too small, flags and bytes that nobody knows', () => {
    const { program, iommufd, device } = opened();
    expect(program.bind(device, 99)).toBe(-EBADF);
    expect(program.bind(device, -1)).toBe(-EINVAL);
    expect(program.bind(device, device)).toBe(-EBADFD);
    expect(program.bind(device, iommufd, { argsz: 12 })).toBe(-EINVAL);
    expect(program.bind(device, iommufd, { flags: 2 })).toBe(-EINVAL);
    const token = { flags: VFIO_DEVICE_BIND_FLAG_TOKEN, token_uuid_ptr: BUFFER };
    expect(program.bind(device, iommufd, token)).toBe(-EINVAL);
    expect(program.bind(device, iommufd, { ...token, token_uuid_ptr: 0n })).toBe(-EFAULT);
    expect(program.ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, 0x9999_0000n)).toBe(-EFAULT);
    program.process.memory.write(ARGUMENT + 24n, Uint8Array.of(1));
    expect(program.bind(device, iommufd, { argsz: 32 })).toBe(-E2BIG);
    program.process.memory.write(ARGUMENT + 24n, Uint8Array.of(0));
    expect(program.bind(device, iommufd, { argsz: 32 })).toBe(0);
  });

  it('lets one user have a device, until the last close of its file', () => {
    const { program, iommufd, device } = opened();
    const second = program.open(DEVICE);
    expect(program.bind(device, iommufd)).toBe(0);
    expect(program.attach(device, program.ioas(iommufd))).toBe(0);
    expect(program.bind(second, iommufd)).toBe(-EINVAL);
    const copy = program.process.dup(device);
    program.process.close(device);
    expect(program.bind(second, iommufd)).toBe(-EINVAL);
    program.process.close(copy as number);
    expect(program.bind(second, iommufd)).toBe(0);
  });
});

describe('attaching and DMA', () => {
  it('moves bytes between the device and the memory of the program', () => {
    const { program, iommufd, device } = opened();
    program.bind(device, iommufd);
    expect(program.dma(device, { iova: 0n, length: 4n, data: BUFFER })).toBe(-EIO);
    expect(program.attach(device, program.ioas(iommufd))).toBe(0);
    const { memory } = program.process;
    memory.write(BUFFER, Uint8Array.of(1, 2, 3, 4));
    expect(program.dma(device, { iova: 0n, length: 4n, data: BUFFER + 8n })).toBe(0);
    const seen = new Uint8Array(4);
    memory.read(BUFFER + 8n, seen);
    expect([...seen]).toEqual([1, 2, 3, 4]);
    const flags = VIOMMU_DEVICE_DMA_WRITE;
    expect(program.dma(device, { flags, iova: 0x2ffen, length: 4n, data: BUFFER })).toBe(0);
    memory.read(BUFFER + 0x2ffen, seen);
    expect([...seen]).toEqual([1, 2, 3, 4]);
    expect(program.dma(device, { flags, iova: LENGTH - 2n, length: 4n, data: BUFFER })).toBe(-EIO);
    expect(program.detach(device)).toBe(0);
    expect(program.dma(device, { iova: 0n, length: 4n, data: BUFFER })).toBe(-EIO);
    expect(program.detach(device)).toBe(0);
  });

  it('replaces what is attached', () => {
    const { program, iommufd, device } = opened();
    program.bind(device, iommufd);
    const [first, second] = [program.ioas(iommufd), program.ioas(iommufd)];
    const attach = (pt_id: number): number =>
      program.call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, vfio_device_attach_iommufd_pt, { pt_id }).out.pt_id;
    const [one, two] = [attach(first), attach(second)];
    expect(new Set([first, second, one, two]).size).toBe(4);
    expect(program.dma(device, { iova: 0n, length: 4n, data: BUFFER })).toBe(0);
  });

  it('gives a PASID a page table of its own only where the whole struct is there', () => {
    const { program, iommufd, device } = opened();
    program.bind(device, iommufd);
    const values = { argsz: 12, flags: VFIO_DEVICE_ATTACH_PASID, pt_id: program.ioas(iommufd) };
    const layout = vfio_device_attach_iommufd_pt;
    expect(program.call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, layout, values).rc).toBe(-EINVAL);
    expect(program.attach(device, values.pt_id, 2)).toBe(-EINVAL);
  });

  it('knows PASIDs from Linux 6.15 on, and the token from 6.17 on', () => {
    const program = new Program(new Kernel({ parts: PARTS, profile: findProfile('linux-6.12')! }));
    const [iommufd, device] = [program.open('/dev/iommu'), program.open(DEVICE)];
    program.process.memory.write(ARGUMENT + 24n, Uint8Array.of(1));
    expect(program.bind(device, iommufd, { argsz: 32 })).toBe(0);
    expect(program.attach(device, program.ioas(iommufd), VFIO_DEVICE_ATTACH_PASID, 5)).toBe(-EINVAL);
  });

  it('refuses a DMA of no bytes, of too many, of unknown flags, and a buffer that is not there', () => {
    const { program, iommufd, device } = opened();
    program.bind(device, iommufd);
    program.attach(device, program.ioas(iommufd));
    expect(program.dma(device, { length: 0n })).toBe(-EINVAL);
    expect(program.dma(device, { length: 1n << 40n })).toBe(-EINVAL);
    expect(program.dma(device, { length: 1n, flags: 8 })).toBe(-EINVAL);
    expect(program.dma(device, { length: 1n, argsz: 16 })).toBe(-EINVAL);
    expect(program.dma(device, { length: 1n, data: 0x9999_0000n })).toBe(-EFAULT);
    expect(program.dma(device, { length: 1n, flags: 1, data: 0x9999_0000n })).toBe(-EFAULT);
  });

  it('leaves nothing behind when the program ends, in whatever order its files close', () => {
    const kernel = new Kernel({ parts: PARTS });
    for (let round = 0; round < 3; round++) {
      const program = new Program(kernel);
      const [device, iommufd] = [program.open(DEVICE), program.open('/dev/iommu')];
      expect(program.bind(device, iommufd)).toBe(0);
      expect(program.attach(device, program.ioas(iommufd))).toBe(0);
      if (round === 1) program.process.close(iommufd);
      if (round === 2) program.process.close(device);
      program.process.exit();
      expect(kernel.physical.frames.pinned).toBe(0);
    }
  });
});

it('tells the trace which request was answered how, and which region was accessed where', () => {
  const kernel = new Kernel({ parts: PARTS });
  const program = new Program(kernel);
  const [device, iommufd] = [program.open(DEVICE), program.open('/dev/iommu')];
  const events: TraceEvent[] = [];
  kernel.trace.subscribe((event) => events.push(event));
  program.bind(device, device);
  program.bind(device, iommufd);
  program.pread(device, regionOffset(7) + 2n, 2);
  const told = events.filter(({ kind }) => kind === 'vfio' || kind === 'vfio-region');
  const request = 'VFIO_DEVICE_BIND_IOMMUFD';
  expect(told).toMatchObject([
    { kind: 'vfio', pid: 100, device: '0000:0a:00.0', request, errno: EBADFD },
    { kind: 'vfio', request, result: 0 },
    { kind: 'vfio-region', way: 'read', region: 7, at: 2, count: 2, result: 2 },
  ]);
});
