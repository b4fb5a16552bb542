import type { Kernel } from '../iommu/driver.ts';
import { fail, type Result } from '../base/result.ts';
import { ENODEV, ENOENT } from '../abi/errno.ts';
import type { OpenFile } from '../memory/file.ts';
import { VfioDeviceFile } from './device-file.ts';
import { VfioDeviceState, type VfioDevice, type VfioGroup } from './device.ts';
import { VfioGroupFile } from './group-file.ts';

/** The devices and groups that VFIO has: drivers/vfio/vfio_main.c and group.c struct vfio. */
export class VfioRegistry {
  readonly #kernel: Kernel;
  /** By the number in vfioN. */
  readonly devices: readonly VfioDeviceState[];
  readonly #groups = new Map<number, VfioGroup>();

  constructor(kernel: Kernel, devices: readonly VfioDevice[]) {
    this.#kernel = kernel;
    this.devices = devices.map((device) => new VfioDeviceState(kernel, device, this.#groupOf(device)));
    for (const device of this.devices) device.siblings = this.devices;
  }

  /** /dev/vfio/devices/vfioN */
  openDevice(index: number): Result<OpenFile> {
    const device = this.devices[index];
    if (device === undefined) return fail(ENOENT, `there is no vfio${index}`);
    return device.leaving
      ? fail(ENODEV, `${device.name} is being removed`)
      : new VfioDeviceFile(device, false);
  }

  /** /dev/vfio/N */
  openGroup(id: number): Result<OpenFile> {
    const group = this.#groups.get(id);
    if (group === undefined) return fail(ENOENT, `there is no group ${id}`);
    const devices = this.devices.filter((device) => device.group === group);
    if (devices.every((device) => device.leaving)) return fail(ENODEV, `group ${id} has no devices any more`);
    return VfioGroupFile.open(this.#kernel, group, devices);
  }

  #groupOf({ device }: VfioDevice): VfioGroup {
    const iommuGroup = device.group;
    const known = this.#groups.get(iommuGroup.id);
    if (known !== undefined) return known;
    const group = { id: iommuGroup.id, iommuGroup, opened: false, cdevOpenCount: 0, context: null };
    this.#groups.set(iommuGroup.id, group);
    return group;
  }
}
