import { assert } from '../base/assert.ts';
import { fail, failed, type Result } from '../base/result.ts';
import { exact } from '../base/u64.ts';
import { EBADF, EBADFD, EFAULT, EINVAL, EIO, ENOTTY, EOPNOTSUPP } from '../abi/errno.ts';
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_ATTACH_PASID,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  vfio_device_attach_iommufd_pt,
  vfio_device_bind_iommufd,
  vfio_device_detach_iommufd_pt,
} from '../abi/vfio.ts';
import {
  VIOMMU_DEVICE_DMA,
  VIOMMU_DEVICE_DMA_BYTES_MAX,
  VIOMMU_DEVICE_DMA_PASID,
  VIOMMU_DEVICE_DMA_WRITE,
  viommu_device_dma,
} from '../abi/viommu.ts';
import { IOMMU_NO_PASID, type Device, type Kernel } from '../iommu/driver.ts';
import { copyStructFromUser } from '../iommu/user-data.ts';
import { attachDevice, detachDevice, replaceDevice } from '../iommufd/attach.ts';
import { IommufdContext } from '../iommufd/context.ts';
import { bindDevice, unbindDevice, type IommufdDevice } from '../iommufd/device.ts';
import type { OpenFile } from '../memory/file.ts';
import type { AddressSpace, Task } from '../memory/process.ts';
import type { PciFunction } from '../pci/function.ts';

// drivers/vfio/device_cdev.c and iommufd.c: /dev/vfio/devices/vfioN.

/** A device that VFIO offers to programs. */
export interface VfioDevice {
  readonly name: string;
  /** As its IOMMU's driver knows it. */
  readonly device: Device;
  readonly pci: PciFunction;
}

// Linux releases that first know of VFIO_DEVICE_ATTACH_PASID, and of token_uuid_ptr.
const PASID_SINCE = 615;
const TOKEN_SINCE = 617;

/** The one open file that has a device, by device: VFIO lets one user in. */
const users = new WeakMap<VfioDevice, VfioDeviceFile>();

type Handler = (file: VfioDeviceFile, task: Task, arg: bigint) => Result<number>;

/** One open of a device: struct vfio_device_file. */
export class VfioDeviceFile implements OpenFile {
  readonly type = 'vfio-device';
  readonly #kernel: Kernel;
  readonly #device: VfioDevice;
  #bound: { readonly context: IommufdContext; readonly idev: IommufdDevice } | null = null;
  #attached = false;
  readonly #pasids = new Set<number>();

  constructor(kernel: Kernel, device: VfioDevice) {
    this.#kernel = kernel;
    this.#device = device;
  }

  ioctl(task: Task, cmd: number, arg: bigint): number {
    this.#kernel.current = task;
    const answer = this.#serve(task, cmd, arg);
    const { trace } = this.#kernel;
    if (trace.active) {
      const outcome = failed(answer) ? { errno: answer.errno, reason: answer.reason } : { result: answer };
      trace.emit({ kind: 'vfio', pid: task.process.pid, device: this.#device.name, cmd, ...outcome });
    }
    return failed(answer) ? -answer.errno : answer;
  }

  #serve(task: Task, cmd: number, arg: bigint): Result<number> {
    if (cmd === VFIO_DEVICE_BIND_IOMMUFD) return this.bind(task, arg);
    // vfio_device_fops_unl_ioctl(): nothing else is served before the device is bound.
    if (this.#bound === null) return fail(EINVAL, 'the device is not bound to an iommufd');
    const handler = HANDLERS[cmd];
    return handler === undefined
      ? fail(ENOTTY, `there is no request 0x${cmd.toString(16)}`)
      : handler(this, task, arg);
  }

  /** vfio_df_ioctl_bind_iommufd(). */
  bind(task: Task, arg: bigint): Result<number> {
    const { memory } = task.process;
    const argsz = readWord(memory, arg);
    if (failed(argsz)) return argsz;
    if (argsz < vfio_device_bind_iommufd.endOf('out_devid')) return fail(EINVAL, 'argsz is too small');
    const { size } = vfio_device_bind_iommufd;
    const bytes =
      this.#kernel.version >= TOKEN_SINCE
        ? copyStructFromUser(memory, arg, argsz, size)
        : readPart(memory, arg, vfio_device_bind_iommufd.endOf('out_devid'), size);
    if (failed(bytes)) return bytes;
    const bind = vfio_device_bind_iommufd.read(bytes);
    if (bind.iommufd < 0 || bind.flags !== 0)
      return fail(EINVAL, 'iommufd is negative, or flags are unknown');
    if (this.#bound !== null) return fail(EINVAL, 'the device is bound already');
    const file = task.process.file(bind.iommufd);
    if (file === null) return fail(EBADF, `descriptor ${bind.iommufd} is not open`);
    if (!(file instanceof IommufdContext))
      return fail(EBADFD, `descriptor ${bind.iommufd} is not an iommufd`);
    if (users.has(this.#device)) return fail(EINVAL, `${this.#device.name} has another user`);
    const idev = bindDevice(file, this.#device.device, true);
    if (failed(idev)) return idev;
    this.#bound = { context: file, idev };
    users.set(this.#device, this);
    const id = new Uint8Array(4);
    new DataView(id.buffer).setUint32(0, idev.id, true);
    if (memory.write(arg + BigInt(vfio_device_bind_iommufd.offset.out_devid), id)) return 0;
    this.#unbind();
    return fail(EFAULT, 'out_devid cannot be written');
  }

  /** vfio_df_ioctl_attach_pt(): what is attached already is replaced. */
  attach(task: Task, arg: bigint): Result<number> {
    const { memory } = task.process;
    const layout = vfio_device_attach_iommufd_pt;
    const bytes = readPart(memory, arg, layout.endOf('pt_id'), layout.size);
    if (failed(bytes)) return bytes;
    const head = layout.read(bytes);
    if (head.argsz < layout.endOf('pt_id') || (head.flags & ~this.#pasidFlag()) !== 0)
      return fail(EINVAL, 'argsz is too small, or flags are unknown');
    const pasid = this.#pasid(memory, arg, layout.offset.pasid, layout.size, head.argsz, head.flags);
    if (failed(pasid)) return pasid;
    const { context, idev } = this.#bound!;
    const has = pasid === null ? this.#attached : this.#pasids.has(pasid);
    const change = has ? replaceDevice : attachDevice;
    const ptId = change(context, idev, pasid ?? IOMMU_NO_PASID, head.pt_id);
    if (failed(ptId)) return ptId;
    if (pasid === null) this.#attached = true;
    else this.#pasids.add(pasid);
    const id = new Uint8Array(4);
    new DataView(id.buffer).setUint32(0, ptId, true);
    if (memory.write(arg + BigInt(layout.offset.pt_id), id)) return 0;
    // As in Linux: what is undone is the attachment without a PASID.
    this.#detach(null);
    return fail(EFAULT, 'pt_id cannot be written');
  }

  /** vfio_df_ioctl_detach_pt(): nothing happens where nothing is attached. */
  detach(task: Task, arg: bigint): Result<number> {
    const { memory } = task.process;
    const layout = vfio_device_detach_iommufd_pt;
    const bytes = readPart(memory, arg, layout.endOf('flags'), layout.size);
    if (failed(bytes)) return bytes;
    const head = layout.read(bytes);
    if (head.argsz < layout.endOf('flags') || (head.flags & ~this.#pasidFlag()) !== 0)
      return fail(EINVAL, 'argsz is too small, or flags are unknown');
    const pasid = this.#pasid(memory, arg, layout.offset.pasid, layout.size, head.argsz, head.flags);
    if (failed(pasid)) return pasid;
    this.#detach(pasid);
    return 0;
  }

  // VFIO_DEVICE_ATTACH_PASID and VFIO_DEVICE_DETACH_PASID are the same bit.
  #pasidFlag(): number {
    return this.#kernel.version >= PASID_SINCE ? VFIO_DEVICE_ATTACH_PASID : 0;
  }

  #pasid(
    memory: AddressSpace,
    arg: bigint,
    offset: number,
    end: number,
    argsz: number,
    flags: number,
  ): Result<number | null> {
    if ((flags & VFIO_DEVICE_ATTACH_PASID) === 0) return null;
    if (this.#device.device.maxPasids === 0) return fail(EOPNOTSUPP, `${this.#device.name} has no PASIDs`);
    if (argsz < end) return fail(EINVAL, 'argsz has no room for pasid');
    return readWord(memory, arg + BigInt(offset));
  }

  #detach(pasid: number | null): void {
    const { context, idev } = this.#bound!;
    if (pasid === null) {
      if (this.#attached) detachDevice(context, idev, IOMMU_NO_PASID);
      this.#attached = false;
    } else if (this.#pasids.delete(pasid)) {
      detachDevice(context, idev, pasid);
    }
  }

  /** VIOMMU_DEVICE_DMA: the device does one DMA. */
  dma(task: Task, arg: bigint): Result<number> {
    const { memory } = task.process;
    const argsz = readWord(memory, arg);
    if (failed(argsz)) return argsz;
    if (argsz < viommu_device_dma.size) return fail(EINVAL, 'argsz is too small');
    const bytes = copyStructFromUser(memory, arg, argsz, viommu_device_dma.size);
    if (failed(bytes)) return bytes;
    const cmd = viommu_device_dma.read(bytes);
    const known = VIOMMU_DEVICE_DMA_WRITE | VIOMMU_DEVICE_DMA_PASID;
    if ((cmd.flags & ~known) !== 0 || cmd.__reserved !== 0) return fail(EINVAL, 'unknown flags');
    if (cmd.length === 0n || cmd.length > BigInt(VIOMMU_DEVICE_DMA_BYTES_MAX))
      return fail(EINVAL, `length is 0 or more than ${VIOMMU_DEVICE_DMA_BYTES_MAX}`);
    const write = (cmd.flags & VIOMMU_DEVICE_DMA_WRITE) !== 0;
    const data = new Uint8Array(exact(cmd.length));
    if (write && !memory.read(cmd.data, data)) return fail(EFAULT, 'data cannot be read');
    const pasid = (cmd.flags & VIOMMU_DEVICE_DMA_PASID) !== 0 ? cmd.pasid : null;
    // Its driver would have turned on what the configuration of the function turns on.
    const options = { pasid, forced: true };
    const { dma } = this.#device.pci;
    const stopped = write ? dma.write(cmd.iova, data, options) : dma.read(cmd.iova, data, options);
    if (stopped !== null) return fail(EIO, stopped.reason);
    if (!write && !memory.write(cmd.data, data)) return fail(EFAULT, 'data cannot be written');
    return 0;
  }

  release(): void {
    if (this.#bound !== null) this.#unbind();
  }

  // vfio_iommufd_physical_unbind()
  #unbind(): void {
    for (const pasid of this.#pasids) this.#detach(pasid);
    this.#detach(null);
    const { idev } = this.#bound!;
    assert(users.get(this.#device) === this, 'a bound device has this file as its user');
    users.delete(this.#device);
    this.#bound = null;
    unbindDevice(idev);
  }
}

const HANDLERS: Readonly<Record<number, Handler>> = {
  [VFIO_DEVICE_ATTACH_IOMMUFD_PT]: (file, task, arg) => file.attach(task, arg),
  [VFIO_DEVICE_DETACH_IOMMUFD_PT]: (file, task, arg) => file.detach(task, arg),
  [VIOMMU_DEVICE_DMA]: (file, task, arg) => file.dma(task, arg),
};

function readWord(memory: AddressSpace, at: bigint): Result<number> {
  const bytes = new Uint8Array(4);
  if (!memory.read(at, bytes)) return fail(EFAULT, 'the argument cannot be read');
  return new DataView(bytes.buffer).getUint32(0, true);
}

// The first `bytes` of a struct of `size`; the rest is zero.
function readPart(memory: AddressSpace, at: bigint, bytes: number, size: number): Result<Uint8Array> {
  const struct = new Uint8Array(size);
  return memory.read(at, struct.subarray(0, bytes)) ? struct : fail(EFAULT, 'the argument cannot be read');
}
