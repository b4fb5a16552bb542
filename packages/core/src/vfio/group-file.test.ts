import { describe, expect, test } from 'vitest';
import { EBADF, EBADFD, EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOSPC, ENOTTY } from '../abi/errno.ts';
import {
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  VFIO_PCI_DEVID_NOT_OWNED,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
  vfio_device_info,
  vfio_group_status,
  vfio_pci_dependent_device,
  vfio_pci_hot_reset,
  vfio_pci_hot_reset_info,
} from '../abi/vfio.ts';
import {
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_MAP_DMA,
  VFIO_SET_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  vfio_iommu_type1_dma_map,
  vfio_iommu_type1_info,
} from '../abi/vfio-type1.ts';
import { VIOMMU_DEVICE_DMA_WRITE } from '../abi/viommu.ts';
import { Kernel } from '../machine/kernel.ts';
import { loadParts } from '../machine/machine-file/parts.ts';
import { ARGUMENT, BUFFER, LENGTH, Program } from './testing/program.ts';

const device = (name: string): object => ({
  name,
  iommu: 'smmu0',
  pasids: 0,
  ats: false,
  model: 'dma-engine',
});
const NAMES = ['0000:0a:00.0', '0000:0a:00.1', '0000:00:05.0'];
// Two functions on one bus, and one on the root bus.
const PARTS = await loadParts({
  iommus: [{ name: 'smmu0', type: 'arm-smmu-v3' }],
  devices: NAMES.map(device),
} as Parameters<typeof loadParts>[0]);

const program = (): Program => new Program(new Kernel({ parts: PARTS }));

/** A group with its container, and the device of it. */
function byGroup(path = '/dev/vfio/vfio'): { it: Program; container: number; group: number; fd: number } {
  const it = program();
  const [container, group] = [it.open(path), it.open('/dev/vfio/0')];
  expect(it.setContainer(group, container)).toBe(0);
  const fd = it.getDeviceFd(group, NAMES[0]!);
  expect(fd).toBeGreaterThanOrEqual(0);
  return { it, container, group, fd };
}

/** VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, the last of the capabilities. */
function iovaRanges(it: Program, container: number): [bigint, bigint][] {
  const { size } = vfio_iommu_type1_info;
  const { out, more } = it.call(
    container,
    VFIO_IOMMU_GET_INFO,
    vfio_iommu_type1_info,
    {},
    new Uint8Array(256),
  );
  const view = new DataView(more.buffer, more.byteOffset);
  let at = out.cap_offset - size;
  for (let next = at; next >= 0; next = view.getUint32(at + 4, true) - size) at = next;
  return Array.from({ length: view.getUint32(at + 8, true) }, (_, index) => [
    view.getBigUint64(at + 16 + 16 * index, true),
    view.getBigUint64(at + 24 + 16 * index, true),
  ]);
}

const status = (it: Program, group: number): number => {
  const { rc, out } = it.call(group, VFIO_GROUP_GET_STATUS, vfio_group_status, {});
  expect(rc).toBe(0);
  return out.flags;
};

describe('a group', () => {
  test('is open once, and exists where a device has it', () => {
    const it = program();
    const group = it.open('/dev/vfio/0');
    expect(it.tryOpen('/dev/vfio/0')).toBe(-EBUSY);
    expect(it.tryOpen('/dev/vfio/3')).toBe(-ENOENT);
    expect(it.tryOpen('/dev/vfio/1')).toBeGreaterThan(0);
    it.process.close(group);
    expect(it.tryOpen('/dev/vfio/0')).toBeGreaterThanOrEqual(0);
  });

  test('and the device files of it exclude each other', () => {
    const it = program();
    const [group, iommufd] = [it.open('/dev/vfio/0'), it.open('/dev/iommu')];
    const cdev = it.open('/dev/vfio/devices/vfio0');
    expect(it.bind(cdev, iommufd)).toBe(-EBUSY);
    it.process.close(group);
    expect(it.bind(cdev, iommufd)).toBe(0);
    expect(it.tryOpen('/dev/vfio/0')).toBe(-EBUSY);
    it.process.close(cdev);
    expect(it.tryOpen('/dev/vfio/0')).toBeGreaterThanOrEqual(0);
  });

  test('is viable, and says when it has a container', () => {
    const it = program();
    const [container, group] = [it.open('/dev/vfio/vfio'), it.open('/dev/vfio/0')];
    expect(status(it, group)).toBe(VFIO_GROUP_FLAGS_VIABLE);
    expect(it.call(group, VFIO_GROUP_GET_STATUS, vfio_group_status, { argsz: 7 }).rc).toBe(-EINVAL);
    expect(it.setContainer(group, container)).toBe(0);
    expect(status(it, group)).toBe(VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET);
    expect(it.setContainer(group, container)).toBe(-EINVAL);
    expect(it.ioctl(group, VFIO_GROUP_UNSET_CONTAINER, 0n)).toBe(0);
    expect(it.ioctl(group, VFIO_GROUP_UNSET_CONTAINER, 0n)).toBe(-EINVAL);
    expect(status(it, group)).toBe(VFIO_GROUP_FLAGS_VIABLE);
  });

  test('limits what its container can map before a program has the device, as after', () => {
    const it = program();
    const [container, group] = [it.open('/dev/vfio/vfio'), it.open('/dev/vfio/0')];
    expect(it.setContainer(group, container)).toBe(0);
    const before = iovaRanges(it, container);
    expect(before).toEqual([
      [0n, 0x7ff_ffffn],
      [0x810_0000n, 0xffff_ffff_ffffn],
    ]);
    it.getDeviceFd(group, NAMES[0]!);
    expect(iovaRanges(it, container)).toEqual(before);
    const other = it.open('/dev/vfio/vfio');
    expect(it.setContainer(it.open('/dev/vfio/2'), other)).toBe(0);
    expect(iovaRanges(it, other)).toEqual(before);
  });

  test('refuses what is no container, and requests that it does not have', () => {
    const it = program();
    const group = it.open('/dev/vfio/0');
    expect(it.setContainer(group, 99)).toBe(-EBADF);
    expect(it.setContainer(group, group)).toBe(-EBADFD);
    expect(it.ioctl(group, VFIO_GROUP_SET_CONTAINER, 0xdead_0000n)).toBe(-EFAULT);
    expect(it.ioctl(group, VFIO_DEVICE_GET_INFO, ARGUMENT)).toBe(-ENOTTY);
  });
});

describe('VFIO_GROUP_GET_DEVICE_FD', () => {
  test('wants a container, and the name of a device of the group without anything behind it', () => {
    const it = program();
    const [container, group] = [it.open('/dev/vfio/vfio'), it.open('/dev/vfio/0')];
    expect(it.getDeviceFd(group, NAMES[0]!)).toBe(-EINVAL);
    it.setContainer(group, container);
    expect(it.getDeviceFd(group, NAMES[1]!)).toBe(-ENODEV);
    expect(it.getDeviceFd(group, '')).toBe(-ENODEV);
    const token = 'vf_token=52ac9bff-3a88-4fbd-901a-0d767c3b6c97';
    expect(it.getDeviceFd(group, `${NAMES[0]!} ${token}`)).toBe(-EINVAL);
    expect(it.getDeviceFd(group, `${NAMES[0]!} quickly`)).toBe(-EINVAL);
    expect(it.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, 0xdead_0000n)).toBe(-EFAULT);
    expect(it.getDeviceFd(group, NAMES[0]!)).toBeGreaterThan(0);
  });

  test.each(['/dev/vfio/vfio', '/dev/iommu'])('gives a device that does DMA in what %s maps', (path) => {
    const { it, container, fd } = byGroup(path);
    expect(it.ioctl(container, VFIO_SET_IOMMU, BigInt(VFIO_TYPE1v2_IOMMU))).toBe(0);
    const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    const map = { flags, vaddr: BUFFER, iova: 0x10_0000n, size: LENGTH };
    expect(it.call(container, VFIO_IOMMU_MAP_DMA, vfio_iommu_type1_dma_map, map).rc).toBe(0);
    it.process.memory.write(ARGUMENT + 0x100n, Uint8Array.of(0xab));
    const dma = { flags: VIOMMU_DEVICE_DMA_WRITE, iova: 0x10_0010n, length: 1n, data: ARGUMENT + 0x100n };
    expect(it.dma(fd, dma)).toBe(0);
    const byte = new Uint8Array(1);
    it.process.memory.read(BUFFER + 0x10n, byte);
    expect(byte[0]).toBe(0xab);
  });

  test('gives the same device as often as it is asked for, and the last close resets it', () => {
    const { it, group, fd } = byGroup();
    const second = it.getDeviceFd(group, NAMES[0]!);
    expect(second).toBeGreaterThan(fd);
    it.process.close(fd);
    expect(it.call(second, VFIO_DEVICE_GET_INFO, vfio_device_info, {}).rc).toBe(0);
    it.process.close(second);
    expect(it.getDeviceFd(group, NAMES[0]!)).toBe(fd);
  });

  test('gives a device that cannot be bound or attached again', () => {
    const { it, fd } = byGroup();
    expect(it.bind(fd, it.open('/dev/iommu'))).toBe(-EINVAL);
    expect(it.ioctl(fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, ARGUMENT)).toBe(-ENOTTY);
    expect(it.ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, 0xdead_0000n)).toBe(-EFAULT);
  });

  test('a device outlives its group’s file and its container’s', () => {
    const { it, container, group, fd } = byGroup();
    it.process.close(container);
    it.process.close(group);
    expect(it.call(fd, VFIO_DEVICE_GET_INFO, vfio_device_info, {}).rc).toBe(0);
    it.process.close(fd);
    expect(it.tryOpen('/dev/vfio/0')).toBeGreaterThanOrEqual(0);
  });
});

describe('a reset of the bus', () => {
  const EACH = vfio_pci_dependent_device.size;
  const info = (it: Program, fd: number, room = 4): { rc: number; flags: number; devids: number[] } => {
    const extra = new Uint8Array(room * EACH);
    const { rc, out, more } = it.call(
      fd,
      VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
      vfio_pci_hot_reset_info,
      {},
      extra,
    );
    const count = Math.min(room, out.count);
    const devids = Array.from(
      { length: count },
      (_, n) => vfio_pci_dependent_device.read(more.subarray(n * EACH)).devid,
    );
    return { rc, flags: out.flags, devids };
  };
  const reset = (it: Program, fd: number, groups: readonly number[] = []): number => {
    const extra = new Uint8Array(new Int32Array(groups).buffer);
    return it.call(fd, VFIO_DEVICE_PCI_HOT_RESET, vfio_pci_hot_reset, { count: groups.length }, extra).rc;
  };

  test('reaches the functions that share it, and by device files the program must own them all', () => {
    const it = program();
    const iommufd = it.open('/dev/iommu');
    const [first, second] = [it.open('/dev/vfio/devices/vfio0'), it.open('/dev/vfio/devices/vfio1')];
    it.bind(first, iommufd);
    expect(info(it, first)).toEqual({
      rc: 0,
      flags: VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
      devids: [1, VFIO_PCI_DEVID_NOT_OWNED],
    });
    expect(info(it, first, 1).rc).toBe(-ENOSPC);
    expect(reset(it, first)).toBe(-EINVAL);
    it.bind(second, iommufd);
    const owned = VFIO_PCI_HOT_RESET_FLAG_DEV_ID | VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
    expect(info(it, first)).toEqual({ rc: 0, flags: owned, devids: [1, 2] });
    expect(reset(it, first)).toBe(0);
    expect(reset(it, first, [0])).toBe(-EINVAL);
  });

  test('by groups the program names them', () => {
    const { it, container, group, fd } = byGroup();
    const other = it.open('/dev/vfio/1');
    expect(info(it, fd)).toEqual({ rc: 0, flags: 0, devids: [0, 1] });
    expect(reset(it, fd)).toBe(-EINVAL);
    expect(reset(it, fd, [group])).toBe(-EINVAL);
    expect(reset(it, fd, [group, 99])).toBe(-EBADF);
    expect(reset(it, fd, [group, container])).toBe(-EINVAL);
    expect(reset(it, fd, [group, other, other])).toBe(-EINVAL);
    expect(reset(it, fd, [group, other])).toBe(0);
  });

  test('is not to be had on a root bus', () => {
    const it = program();
    const [iommufd, fd] = [it.open('/dev/iommu'), it.open('/dev/vfio/devices/vfio2')];
    it.bind(fd, iommufd);
    expect(info(it, fd).rc).toBe(-ENODEV);
    expect(reset(it, fd)).toBe(-ENODEV);
  });
});
