import { fail, failed, type Result } from '../base/result.ts';
import { exact } from '../base/u64.ts';
import { EBADF, EBADFD, EFAULT, EINVAL, EIO, EOPNOTSUPP } from '../abi/errno.ts';
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_ATTACH_PASID,
  VFIO_DEVICE_BIND_FLAG_TOKEN,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_PCI_HOT_RESET,
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
import { copyStructFromUser } from '../iommu/user-data.ts';
import { IommufdContext } from '../iommufd/context.ts';
import type { FileBacking, OpenFile } from '../memory/file.ts';
import type { AddressSpace, Task } from '../memory/process.ts';
import type { VfioDeviceState } from './device.ts';
import { getHotResetInfo, hotReset } from './pci/hot-reset.ts';
import { regionAt } from './pci/regions.ts';
import { vfioRequestName } from './request-names.ts';
import { readPart, readWord, writeWord } from './user-struct.ts';

// struct vfio_device_file: one open of a device. drivers/vfio/device_cdev.c and vfio_main.c.

// Linux releases that first know of VFIO_DEVICE_ATTACH_PASID, and of token_uuid_ptr.
const PASID_SINCE = 615;
const TOKEN_SINCE = 617;
const UUID_BYTES = 16;

type Handler = (file: VfioDeviceFile, task: Task, arg: bigint) => Result<number | void>;

export class VfioDeviceFile implements OpenFile {
  readonly type = 'vfio-device';
  backing: FileBacking | undefined;
  readonly state: VfioDeviceState;
  /** It came by VFIO_GROUP_GET_DEVICE_FD. */
  readonly #byGroup: boolean;
  /** df->access_granted */
  #granted: boolean;

  /** `byGroup`: the device is open for this file already. */
  constructor(state: VfioDeviceState, byGroup: boolean) {
    this.state = state;
    this.#byGroup = byGroup;
    this.#granted = byGroup;
  }

  ioctl(task: Task, cmd: number, arg: bigint): number {
    const { kernel, name } = this.state;
    kernel.current = task;
    const answer = this.#serve(task, cmd, arg);
    const result = failed(answer) ? -answer.errno : (answer ?? 0);
    const { trace } = kernel;
    if (trace.active) {
      const outcome = failed(answer) ? { errno: answer.errno, reason: answer.reason } : { result };
      trace.emit({
        kind: 'vfio',
        pid: task.process.pid,
        device: name,
        request: vfioRequestName(cmd),
        ...outcome,
      });
    }
    return result;
  }

  #serve(task: Task, cmd: number, arg: bigint): Result<number | void> {
    if (cmd === VFIO_DEVICE_BIND_IOMMUFD) return this.bind(task, arg);
    // vfio_device_fops_unl_ioctl(): nothing else is served before the device is bound.
    if (!this.#granted) return fail(EINVAL, 'the device is not bound to an iommufd');
    const { core } = this.state;
    core.resume();
    const handler = HANDLERS[cmd] ?? (this.#byGroup ? undefined : CDEV_HANDLERS[cmd]);
    const answer = handler === undefined ? core.ioctl(task, cmd, arg) : handler(this, task, arg);
    core.idle();
    return answer;
  }

  /** vfio_df_ioctl_bind_iommufd(). */
  bind(task: Task, arg: bigint): Result<void> {
    const { memory } = task.process;
    const { state } = this;
    const argsz = readWord(memory, arg);
    if (failed(argsz)) return argsz;
    const { size } = vfio_device_bind_iommufd;
    const minsz = vfio_device_bind_iommufd.endOf('out_devid');
    if (argsz < minsz) return fail(EINVAL, 'argsz is too small');
    const tokens = state.kernel.version >= TOKEN_SINCE;
    const bytes = tokens ? copyStructFromUser(memory, arg, argsz, size) : readPart(memory, arg, minsz, size);
    if (failed(bytes)) return bytes;
    const bind = vfio_device_bind_iommufd.read(bytes);
    if (bind.iommufd < 0 || (bind.flags & ~(tokens ? VFIO_DEVICE_BIND_FLAG_TOKEN : 0)) !== 0)
      return fail(EINVAL, 'iommufd is negative, or flags are unknown');
    if (this.#byGroup) return fail(EINVAL, 'the device was opened by its group');
    const blocked = state.blockGroup();
    if (failed(blocked)) return blocked;
    const bound = this.#granted
      ? fail(EINVAL, 'the device is bound already')
      : this.#bind(task, arg, bind.iommufd, bind.flags === 0 ? null : bind.token_uuid_ptr);
    if (failed(bound)) state.unblockGroup();
    return bound;
  }

  #bind(task: Task, arg: bigint, fd: number, token: bigint | null): Result<void> {
    const { process } = task;
    const { state } = this;
    if (token !== null) {
      // vfio_pci_core_match_token_uuid(): these functions are neither virtual nor have virtual ones.
      return process.memory.read(token, new Uint8Array(UUID_BYTES))
        ? fail(EINVAL, `${state.name} takes no token`)
        : fail(EFAULT, 'the token cannot be read');
    }
    const file = process.file(fd);
    if (file === null) return fail(EBADF, `descriptor ${fd} is not open`);
    if (!(file instanceof IommufdContext)) return fail(EBADFD, `descriptor ${fd} is not an iommufd`);
    const opened = state.open(file, false);
    if (failed(opened)) return opened;
    const id = arg + BigInt(vfio_device_bind_iommufd.offset.out_devid);
    if (!writeWord(process.memory, id, state.deviceId)) {
      state.close();
      return fail(EFAULT, 'out_devid cannot be written');
    }
    state.cdevOpened = true;
    this.#granted = true;
  }

  /** vfio_df_ioctl_attach_pt(): what is attached already is replaced. */
  attach(task: Task, arg: bigint): Result<void> {
    const { memory } = task.process;
    const layout = vfio_device_attach_iommufd_pt;
    const bytes = readPart(memory, arg, layout.endOf('pt_id'), layout.size);
    if (failed(bytes)) return bytes;
    const head = layout.read(bytes);
    if (head.argsz < layout.endOf('pt_id') || (head.flags & ~this.#pasidFlag()) !== 0)
      return fail(EINVAL, 'argsz is too small, or flags are unknown');
    const pasid = this.#pasid(memory, arg, layout.offset.pasid, layout.size, head.argsz, head.flags);
    if (failed(pasid)) return pasid;
    const hwpt = this.state.attach(pasid, head.pt_id);
    if (failed(hwpt)) return hwpt;
    if (writeWord(memory, arg + BigInt(layout.offset.pt_id), hwpt)) return;
    // As in Linux: what is undone is the attachment without a PASID.
    this.state.detach(null);
    return fail(EFAULT, 'pt_id cannot be written');
  }

  /** vfio_df_ioctl_detach_pt(): nothing happens where nothing is attached. */
  detach(task: Task, arg: bigint): Result<void> {
    const { memory } = task.process;
    const layout = vfio_device_detach_iommufd_pt;
    const bytes = readPart(memory, arg, layout.endOf('flags'), layout.size);
    if (failed(bytes)) return bytes;
    const head = layout.read(bytes);
    if (head.argsz < layout.endOf('flags') || (head.flags & ~this.#pasidFlag()) !== 0)
      return fail(EINVAL, 'argsz is too small, or flags are unknown');
    const pasid = this.#pasid(memory, arg, layout.offset.pasid, layout.size, head.argsz, head.flags);
    if (failed(pasid)) return pasid;
    this.state.detach(pasid);
  }

  // VFIO_DEVICE_ATTACH_PASID and VFIO_DEVICE_DETACH_PASID are the same bit.
  #pasidFlag(): number {
    return this.state.kernel.version >= PASID_SINCE ? VFIO_DEVICE_ATTACH_PASID : 0;
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
    const { device, name } = this.state;
    if (device.maxPasids === 0) return fail(EOPNOTSUPP, `${name} has no PASIDs`);
    if (argsz < end) return fail(EINVAL, 'argsz has no room for pasid');
    return readWord(memory, arg + BigInt(offset));
  }

  /** VIOMMU_DEVICE_DMA: the device does one DMA. */
  dma(task: Task, arg: bigint): Result<void> {
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
    const { dma } = this.state.pci;
    const stopped = write ? dma.write(cmd.iova, data, options) : dma.read(cmd.iova, data, options);
    if (stopped !== null) return fail(EIO, stopped.reason);
    if (!write && !memory.write(cmd.data, data)) return fail(EFAULT, 'data cannot be written');
  }

  // ---- regions ----

  pread(task: Task, va: bigint, count: number, offset: bigint): number {
    return this.#transfer(task, 'read', va, count, offset);
  }

  pwrite(task: Task, va: bigint, count: number, offset: bigint): number {
    return this.#transfer(task, 'write', va, count, offset);
  }

  #transfer(task: Task, way: 'read' | 'write', va: bigint, count: number, offset: bigint): number {
    const { kernel, name } = this.state;
    kernel.current = task;
    const answer = this.#granted
      ? this.state.core[way](task, va, count, offset)
      : fail(EINVAL, 'the device is not bound to an iommufd');
    const { trace } = kernel;
    if (trace.active) {
      const outcome = failed(answer) ? { errno: answer.errno, reason: answer.reason } : { result: answer };
      const { pid } = task.process;
      const { index: region = -1, at = 0 } = regionAt(offset) ?? {};
      trace.emit({ kind: 'vfio-region', pid, device: name, way, region, at, count, ...outcome });
    }
    return failed(answer) ? -answer.errno : answer;
  }

  /** vfio_device_fops_mmap() */
  mmap(task: Task, offset: bigint, length: bigint): number {
    this.state.kernel.current = task;
    if (!this.#granted) return -EINVAL;
    const mapped = this.state.core.mmap(offset, length, this.backing);
    return failed(mapped) ? -mapped.errno : 0;
  }

  release(): void {
    if (!this.#granted) return;
    const { state, backing } = this;
    if (backing !== undefined) state.core.unmap(backing);
    state.close();
    if (!this.#byGroup) state.unblockGroup();
  }
}

const HANDLERS: Readonly<Record<number, Handler>> = {
  [VFIO_DEVICE_GET_PCI_HOT_RESET_INFO]: ({ state }, task, arg) => getHotResetInfo(state, task, arg),
  [VFIO_DEVICE_PCI_HOT_RESET]: ({ state }, task, arg) => hotReset(state, task, arg),
  [VIOMMU_DEVICE_DMA]: (file, task, arg) => file.dma(task, arg),
};

const CDEV_HANDLERS: Readonly<Record<number, Handler>> = {
  [VFIO_DEVICE_ATTACH_IOMMUFD_PT]: (file, task, arg) => file.attach(task, arg),
  [VFIO_DEVICE_DETACH_IOMMUFD_PT]: (file, task, arg) => file.detach(task, arg),
};
