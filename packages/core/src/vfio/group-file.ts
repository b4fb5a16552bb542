import { fail, failed, type Result } from '../base/result.ts';
import { EBADF, EBADFD, EBUSY, EFAULT, EINVAL, ENODEV, ENOTTY } from '../abi/errno.ts';
import {
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  vfio_group_status,
} from '../abi/vfio.ts';
import type { Kernel } from '../iommu/driver.ts';
import { IommufdContext } from '../iommufd/context.ts';
import { compatIoasId, createCompatIoas } from '../iommufd/vfio-compat/vfio-container.ts';
import type { OpenFile } from '../memory/file.ts';
import type { AddressSpace, Task } from '../memory/process.ts';
import { VfioDeviceFile } from './device-file.ts';
import type { VfioDeviceState, VfioGroup } from './device.ts';
import { vfioRequestName } from './request-names.ts';
import { readPart, readWord } from './user-struct.ts';

// drivers/vfio/group.c: /dev/vfio/N, the way to a device for programs that know no device files. Its container is an
// iommufd, as with CONFIG_IOMMUFD_VFIO_CONTAINER.

/** strndup_user(arg, PAGE_SIZE) */
const NAME_BYTES_MAX = 4096;
const TOKEN = 'vf_token=';

export class VfioGroupFile implements OpenFile {
  readonly type = 'vfio-group';
  readonly group: VfioGroup;
  readonly #kernel: Kernel;
  readonly #devices: readonly VfioDeviceState[];

  private constructor(kernel: Kernel, group: VfioGroup, devices: readonly VfioDeviceState[]) {
    this.#kernel = kernel;
    this.group = group;
    this.#devices = devices;
  }

  /** vfio_group_fops_open(): one open file, and none while a device of the group is open by its own file. */
  static open(kernel: Kernel, group: VfioGroup, devices: readonly VfioDeviceState[]): Result<VfioGroupFile> {
    if (group.cdevOpenCount > 0) return fail(EBUSY, `a device of group ${group.id} is open by its own file`);
    if (group.opened) return fail(EBUSY, `group ${group.id} is open`);
    group.opened = true;
    return new VfioGroupFile(kernel, group, devices);
  }

  ioctl(task: Task, cmd: number, arg: bigint): number {
    this.#kernel.current = task;
    const answer = this.#serve(task, cmd, arg);
    const { trace } = this.#kernel;
    if (trace.active) {
      const outcome = failed(answer) ? { errno: answer.errno, reason: answer.reason } : { result: answer };
      trace.emit({
        kind: 'vfio',
        pid: task.process.pid,
        device: `group ${this.group.id}`,
        request: vfioRequestName(cmd),
        ...outcome,
      });
    }
    return failed(answer) ? -answer.errno : answer;
  }

  #serve(task: Task, cmd: number, arg: bigint): Result<number> {
    switch (cmd) {
      case VFIO_GROUP_GET_STATUS:
        return this.#getStatus(task.process.memory, arg);
      case VFIO_GROUP_SET_CONTAINER:
        return this.#setContainer(task, arg);
      case VFIO_GROUP_UNSET_CONTAINER:
        return this.#unsetContainer();
      case VFIO_GROUP_GET_DEVICE_FD:
        return this.#getDeviceFd(task, arg);
      default:
        return fail(ENOTTY, `there is no request 0x${cmd.toString(16)}`);
    }
  }

  // vfio_group_ioctl_get_status()
  #getStatus(memory: AddressSpace, arg: bigint): Result<number> {
    const bytes = readPart(memory, arg, vfio_group_status.size, vfio_group_status.size);
    if (failed(bytes)) return bytes;
    const status = vfio_group_status.read(bytes);
    if (status.argsz < vfio_group_status.size) return fail(EINVAL, 'argsz is too small');
    const { context, iommuGroup } = this.group;
    if (context !== null) status.flags = VFIO_GROUP_FLAGS_CONTAINER_SET | VFIO_GROUP_FLAGS_VIABLE;
    else status.flags = iommuGroup.ownerCount > 0 ? 0 : VFIO_GROUP_FLAGS_VIABLE;
    vfio_group_status.write(bytes, 0, status);
    return memory.write(arg, bytes) ? 0 : fail(EFAULT, 'the answer cannot be written');
  }

  // vfio_group_ioctl_set_container()
  #setContainer({ process }: Task, arg: bigint): Result<number> {
    const fd = readWord(process.memory, arg);
    if (failed(fd)) return fd;
    const file = process.file(fd | 0);
    if (file === null) return fail(EBADF, `descriptor ${fd | 0} is not open`);
    if (this.group.context !== null) return fail(EINVAL, 'the group has a container');
    if (!(file instanceof IommufdContext)) return fail(EBADFD, `descriptor ${fd} is no container`);
    const created = createCompatIoas(file);
    if (failed(created)) return created;
    file.get();
    this.group.context = file;
    for (const { device } of this.#devices) file.containerDevices.add(device);
    return 0;
  }

  #unsetContainer(): Result<number> {
    if (this.group.context === null) return fail(EINVAL, 'the group has no container');
    for (const { device } of this.#devices) this.group.context.containerDevices.delete(device);
    this.group.context.put();
    this.group.context = null;
    return 0;
  }

  // vfio_group_ioctl_get_device_fd()
  #getDeviceFd({ process }: Task, arg: bigint): Result<number> {
    const text = readString(process.memory, arg);
    if (failed(text)) return text;
    const device = this.#find(text);
    if (failed(device)) return device;
    const { context } = this.group;
    if (context === null) return fail(EINVAL, 'the group has no container');
    const first = device.context === null;
    const opened = device.open(context, true);
    if (failed(opened)) return opened;
    // vfio_iommufd_compat_attach_ioas()
    const ioas = first ? compatIoasId(context) : 0;
    const attached = failed(ioas) || !first ? ioas : device.attach(null, ioas);
    if (failed(attached)) {
      device.close();
      return attached;
    }
    const file = new VfioDeviceFile(device, true);
    const fd = process.install(file, { closeOnExec: true });
    if (failed(fd)) file.release();
    return fd;
  }

  // vfio_pci_core_match(): the address, and a token where the function has one, which none here has.
  #find(text: string): Result<VfioDeviceState> {
    const [name, ...options] = text.split(' ').filter((word, index) => index === 0 || word !== '');
    const device = this.#devices.find((each) => each.name === name && !each.leaving);
    if (device === undefined) return fail(ENODEV, `group ${this.group.id} has no device ${text}`);
    if (options.length === 0) return device;
    const why = options[0]!.startsWith(TOKEN) ? 'the device takes no token' : 'an unknown option';
    return fail(EINVAL, `${why}: ${options[0]!}`);
  }

  release(): void {
    if (this.group.context !== null) this.#unsetContainer();
    this.group.opened = false;
  }
}

function readString(memory: AddressSpace, at: bigint): Result<string> {
  const byte = new Uint8Array(1);
  const bytes: number[] = [];
  while (bytes.length < NAME_BYTES_MAX) {
    if (!memory.read(at + BigInt(bytes.length), byte)) return fail(EFAULT, 'the name cannot be read');
    if (byte[0] === 0) return String.fromCharCode(...bytes);
    bytes.push(byte[0]!);
  }
  return fail(EINVAL, 'the name is too long');
}
