import { fail, failed, type Result } from '../../base/result.ts';
import type { StructValue } from '../../base/struct.ts';
import { big } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HW_CAP_DIRTY_TRACKING,
  IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
  IOMMU_HW_CAP_PCI_PASID_EXEC,
  IOMMU_HW_CAP_PCI_PASID_PRIV,
  IOMMU_HW_INFO_FLAG_INPUT_TYPE,
  IOMMU_HW_INFO_TYPE_DEFAULT,
  IOMMU_HW_INFO_TYPE_NONE,
  iommu_hw_info,
} from '../../abi/iommufd.ts';
import type { Device } from '../../iommu/driver.ts';
import { clearUser } from '../../iommu/user-data.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import { IommufdGroup } from './group.ts';
import { IommufdObject } from '../objects.ts';
import { hasFix } from '../profile.ts';
import type { VirtualIds } from '../rfc-2023-12/virtual-ids.ts';
import type { Vdevice } from '../viommu/viommu.ts';

// drivers/iommu/iommufd/device.c: binding, and what a program may ask about the hardware.

/** The input type of GET_HW_INFO came with this Linux, and the ATS capability with this one. */
const INPUT_TYPE_SINCE = 617;
const ATS_CAPABILITY_SINCE = 701;
/** out_max_pasid_log2 was reserved before. 6.12.32 took it over. */
const PASID_SINCE = 615;
const PASID_BACKPORTED = [612];

/** A bound device: struct iommufd_device. */
export class IommufdDevice extends IommufdObject {
  readonly type = 'DEVICE';
  readonly device: Device;
  readonly context: IommufdContext;
  /** Null only while binding fails. */
  #group: IommufdGroup | null = null;
  enforceCacheCoherency = false;
  vdevice: Vdevice | null = null;
  destroying = false;
  /** The table that has virtual ids of the device without a vDEVICE: of the trial uAPI rfc-2023-12. */
  virtualIds: VirtualIds | null = null;
  readonly #holdsContext: boolean;

  constructor(context: IommufdContext, device: Device, holdsContext: boolean) {
    super();
    this.context = context;
    this.device = device;
    this.#holdsContext = holdsContext;
  }

  get group(): IommufdGroup {
    return this.#group!;
  }

  /** iommufd_bind_iommu(). */
  bind(): Result<void> {
    const { device, context } = this;
    if (!device.driver.capable(device, 'cache-coherency'))
      return fail(EINVAL, `${device.iommu.name} cannot keep DMA coherent with the CPU's caches`);
    const group = getGroup(context, device);
    if (failed(group)) return group;
    const claimed = device.group.claim(context);
    if (failed(claimed)) {
      putGroup(context, group);
      return claimed;
    }
    this.#group = group;
    this.enforceCacheCoherency = device.driver.capable(device, 'enforce-cache-coherency');
    if (this.#holdsContext) context.get();
  }

  // iommufd_device_remove_vdev(): the vDEVICE goes with its device; its id stays taken.
  override preDestroy(): void {
    this.destroying = true;
    if (this.vdevice === null) return;
    this.vdevice.users++;
    this.context.objects.destroyUser(this.vdevice, true);
  }

  destroy(): void {
    if (this.#group === null) return;
    this.virtualIds?.removeAll(this);
    this.device.group.release();
    putGroup(this.context, this.#group);
    if (this.#holdsContext) this.context.put();
  }
}

// iommufd_get_group()
function getGroup(context: IommufdContext, device: Device): Result<IommufdGroup> {
  const existing = context.groups.get(device.group.id);
  if (existing !== undefined) {
    existing.references++;
    return existing;
  }
  if (context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the group');
  const group = new IommufdGroup(device.group);
  context.groups.set(device.group.id, group);
  return group;
}

function putGroup(context: IommufdContext, group: IommufdGroup): void {
  if (--group.references === 0) context.groups.delete(group.group.id);
}

/**
 * iommufd_device_bind(): the device belongs to this iommufd until {@link unbindDevice}. `holdsContext` is false for the
 * mock's devices, whose lifetime the iommufd itself decides.
 */
export function bindDevice(
  context: IommufdContext,
  device: Device,
  holdsContext: boolean,
): Result<IommufdDevice> {
  const idev = context.objects.allocate(new IommufdDevice(context, device, holdsContext));
  if (failed(idev)) return idev;
  const rc = idev.bind();
  if (failed(rc)) {
    context.objects.abort(idev);
    return rc;
  }
  // The calling driver is a user until it unbinds.
  idev.users++;
  context.objects.publish(idev);
  return idev;
}

/** iommufd_device_unbind(). The device must be detached. */
export function unbindDevice(idev: IommufdDevice): void {
  idev.context.objects.destroyUser(idev);
}

/** IOMMU_GET_HW_INFO. */
export function getHwInfo(command: Command): Result<number> {
  const cmd = iommu_hw_info.read(command.bytes);
  const device = fillHwInfo(command, cmd);
  if (failed(device)) return device;
  const rc = command.respond(iommu_hw_info, cmd);
  return failed(rc) ? rc : 0;
}

/** iommufd_get_hw_info(): the driver's struct, cut to the program's buffer or padded with zeroes. Answers whose it is. */
export function fillHwInfo(command: Command, cmd: StructValue<typeof iommu_hw_info>): Result<Device> {
  const { version } = command.context.shared.profile;
  const known = version >= INPUT_TYPE_SINCE ? IOMMU_HW_INFO_FLAG_INPUT_TYPE : 0;
  if ((cmd.flags & ~known) !== 0) return fail(EOPNOTSUPP, 'unknown flags');
  if (cmd.__reserved.some((byte) => byte !== 0)) return fail(EOPNOTSUPP, '__reserved must be 0');
  // in_data_type and out_data_type are one field.
  const asked =
    (cmd.flags & IOMMU_HW_INFO_FLAG_INPUT_TYPE) !== 0 ? cmd.out_data_type : IOMMU_HW_INFO_TYPE_DEFAULT;
  const idev = command.context.objects.get<IommufdDevice>(cmd.dev_id, 'DEVICE');
  if (failed(idev)) return idev;
  const { device } = idev;
  if (command.context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the information');
  const info = device.driver.hwInfo?.(device, asked) ?? {
    type: IOMMU_HW_INFO_TYPE_NONE,
    data: new Uint8Array(0),
  };
  if (failed(info)) return info;
  const copied = copyInfo(command, cmd.data_uptr, cmd.data_len, info.data);
  if (failed(copied)) return copied;
  cmd.out_data_type = info.type;
  cmd.data_len = info.data.length;
  cmd.out_capabilities = big(capabilities(device, version));
  const pasids = hasFix(version, PASID_SINCE, PASID_BACKPORTED) ? device.maxPasids : 0;
  cmd.out_max_pasid_log2 = pasids === 0 ? 0 : 31 - Math.clz32(pasids);
  return device;
}

function copyInfo(command: Command, va: bigint, room: number, data: Uint8Array): Result<void> {
  const copied = Math.min(room, data.length);
  if (copied > 0 && !command.memory.write(va, data.subarray(0, copied)))
    return fail(EFAULT, 'data_uptr cannot be written');
  if (!clearUser(command.memory, va + big(copied), room - copied))
    return fail(EFAULT, 'data_uptr cannot be written');
}

function capabilities(device: Device, version: number): number {
  let bits = 0;
  if (device.driver.capable(device, 'dirty-tracking')) bits |= IOMMU_HW_CAP_DIRTY_TRACKING;
  if (version >= ATS_CAPABILITY_SINCE && !device.driver.capable(device, 'pci-ats-supported'))
    bits |= IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED;
  if (hasFix(version, PASID_SINCE, PASID_BACKPORTED) && device.maxPasids > 0 && device.pci !== null) {
    if (device.pci.pasidExec) bits |= IOMMU_HW_CAP_PCI_PASID_EXEC;
    if (device.pci.pasidPriv) bits |= IOMMU_HW_CAP_PCI_PASID_PRIV;
  }
  return bits;
}
