import { fail, failed, type Result } from '../../base/result.ts';
import { big, exact, PAGE_SIZE } from '../../base/u64.ts';
import { EBADF, EFAULT, EINVAL, ENOENT, ENOMEM, EOVERFLOW } from '../../abi/errno.ts';
import {
  iommu_test_cmd_dirty,
  iommu_test_cmd_dmabuf_get,
  iommu_test_cmd_dmabuf_revoke,
  iommu_test_cmd_trigger_iopf,
  iommu_test_cmd_trigger_vevent,
} from '../../abi/iommufd-test.ts';
import { IOMMU_NO_PASID } from '../../iommu/driver.ts';
import {
  IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
  IOMMU_FAULT_PAGE_REQUEST_PASID_VALID,
  reportDeviceFault,
} from '../../iommu/iopf.ts';
import { MockDevice } from '../../iommu/mock/device.ts';
import type { Command } from '../command.ts';
import type { IommufdDevice } from '../device/device.ts';
import { DmaBuf } from '../pages/dma-buf.ts';
import { getMockDomain } from './checks.ts';

// drivers/iommu/iommufd/selftest.c: what a device would do: dirty pages, page faults, events, and a dma-buf to import.

/** SZ_16M * BITS_PER_BYTE. */
const DIRTY_PAGES_MAX = 16n << 23n;
/** PAGE_SIZE * 512. */
const DMA_BUF_BYTES_MAX = PAGE_SIZE * 512;
const O_CLOEXEC = 0o2000000;

function getMockDevice(command: Command, id: number): Result<MockDevice> {
  const idev = command.context.objects.get<IommufdDevice>(id, 'DEVICE');
  if (failed(idev)) return idev;
  return idev.device instanceof MockDevice
    ? idev.device
    : fail(EINVAL, `${idev.device.name} is not a mock device`);
}

/** iommufd_test_dirty(): marks pages as written, as a bitmap of the program tells. */
export function dirty(command: Command): Result<number> {
  const cmd = iommu_test_cmd_dirty.read(command.bytes);
  const { iova, length, page_size: pageSize, uptr } = cmd;
  if (pageSize === 0n || length === 0n || iova % pageSize !== 0n || length % pageSize !== 0n || uptr === 0n)
    return fail(EINVAL, 'page_size, length or uptr is zero, or the range is not aligned');
  const pages = length / pageSize;
  if (pages > DIRTY_PAGES_MAX) return fail(EOVERFLOW, `more than ${DIRTY_PAGES_MAX} pages`);
  const domain = getMockDomain(command.context, cmd.id);
  if (failed(domain)) return domain;
  if (!domain.dirtyTracking) return fail(EINVAL, 'dirty tracking is off');
  if (command.context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the bitmap');
  const count = exact(pages);
  const bitmap = new Uint8Array(Math.ceil(count / 8));
  if (!command.memory.read(uptr, bitmap)) return fail(EFAULT, 'uptr cannot be read');
  let set = 0;
  for (let i = 0; i < count; i++) {
    if ((bitmap[i >> 3]! & (1 << (i & 7))) === 0) continue;
    if (domain.markDirty(iova + big(i) * pageSize, pageSize)) set++;
  }
  cmd.out_nr_dirty = big(set);
  const rc = command.respond(iommu_test_cmd_dirty, cmd);
  return failed(rc) ? rc : 0;
}

/** iommufd_test_trigger_iopf(): a page request of the device; nobody is told where it is refused. */
export function triggerIopf(command: Command): Result<number> {
  const cmd = iommu_test_cmd_trigger_iopf.read(command.bytes);
  const device = getMockDevice(command, cmd.dev_id);
  if (failed(device)) return device;
  const pasidValid = cmd.pasid === IOMMU_NO_PASID ? 0 : IOMMU_FAULT_PAGE_REQUEST_PASID_VALID;
  reportDeviceFault(command.context.kernel, device, {
    flags: IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE | pasidValid,
    pasid: cmd.pasid,
    grpid: cmd.grpid,
    perm: cmd.perm,
    addr: cmd.addr,
  });
  return 0;
}

/** iommufd_test_trigger_vevent(). ENOENT where the device is on no viommu or has no virtual id but 0. */
export function triggerVevent(command: Command): Result<number> {
  const cmd = iommu_test_cmd_trigger_vevent.read(command.bytes);
  const device = getMockDevice(command, cmd.dev_id);
  if (failed(device)) return device;
  if (device.viommu === null || device.virtualId === 0n)
    return fail(ENOENT, `${device.name} is on no viommu`);
  const rc = device.viommu.reportEvent(device.virtualId);
  return failed(rc) ? rc : 0;
}

/**
 * iommufd_test_dmabuf_get(): answers a descriptor. DEVIATION: Linux 7.3 as published answers 0, whatever number it gave the
 * descriptor, and its own tests then use descriptor 0.
 */
export function dmabufGet(command: Command): Result<number> {
  const cmd = iommu_test_cmd_dmabuf_get.read(command.bytes);
  const { kernel } = command.context;
  const size = Math.ceil(cmd.length / PAGE_SIZE) * PAGE_SIZE;
  if (size === 0 || size > DMA_BUF_BYTES_MAX)
    return fail(EINVAL, `length is 0 or more than ${DMA_BUF_BYTES_MAX}`);
  if (kernel.failpoint() || kernel.failpoint()) return fail(ENOMEM, 'no memory for the dma-buf');
  const pages = size / PAGE_SIZE;
  const pa = kernel.physical.allocate(pages);
  const file = new DmaBuf([{ first: pa / PAGE_SIZE, pages }], () => kernel.physical.free(pa, pages));
  const fd = command.task.process.install(file, { closeOnExec: (cmd.open_flags & O_CLOEXEC) !== 0 });
  if (failed(fd)) file.release();
  return fd;
}

/** iommufd_test_dmabuf_revoke(). */
export function dmabufRevoke(command: Command): Result<number> {
  const cmd = iommu_test_cmd_dmabuf_revoke.read(command.bytes);
  const file = command.task.process.file(cmd.dmabuf_fd);
  if (file === null) return fail(EBADF, `descriptor ${cmd.dmabuf_fd} is not open`);
  if (!(file instanceof DmaBuf)) return fail(EINVAL, `descriptor ${cmd.dmabuf_fd} is not a dma-buf`);
  file.setRevoked(cmd.revoked !== 0);
  return 0;
}
