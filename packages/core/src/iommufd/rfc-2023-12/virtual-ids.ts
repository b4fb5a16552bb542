import { IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID } from '../../abi/rfc-2023-12.ts';
import type { Device } from '../../iommu/driver.ts';
import type { IommufdDevice } from '../device/device.ts';

// The table of a viommu: message 6, struct iommufd_viommu's `struct xarray devices`.

/** One virtual id of a device. */
export interface VirtualId {
  readonly idev: IommufdDevice;
  /** IOMMU_DEV_VIRTUAL_ID_TYPE_*. */
  readonly type: number;
  readonly id: bigint;
  /** Takes back what the driver was told. */
  readonly undo: (() => void) | null;
}

/**
 * Virtual ids of devices, each device with at most one of each type. An id names one device, but for AMD's domain ids:
 * a guest's domain has as many devices as the guest likes. (Message 6 is "not sure how this fits the xarray": as a set
 * of devices.)
 */
export class VirtualIds {
  readonly #entries: VirtualId[] = [];

  /** All devices that have the id. */
  devices(type: number, id: bigint): IommufdDevice[] {
    return this.#entries.filter((entry) => entry.type === type && entry.id === id).map(({ idev }) => idev);
  }

  /** The device that an invalidation or an event means by a device id. */
  findDevice(id: bigint): Device | null {
    return this.#entries.find((entry) => namesDevice(entry.type) && entry.id === id)?.idev.device ?? null;
  }

  /** The device id that the guest has for the device, or null. */
  idOf(device: Device): bigint | null {
    return this.#entries.find((entry) => namesDevice(entry.type) && entry.idev.device === device)?.id ?? null;
  }

  find(idev: IommufdDevice, type: number): VirtualId | null {
    return this.#entries.find((entry) => entry.idev === idev && entry.type === type) ?? null;
  }

  /** Enters an id. What the device had elsewhere goes: it belongs to one table. */
  add(entry: VirtualId): void {
    const { idev } = entry;
    if (idev.virtualIds !== this) idev.virtualIds?.removeAll(idev);
    idev.virtualIds = this;
    this.#entries.push(entry);
  }

  /** Drops the device's id of that type. */
  remove(idev: IommufdDevice, type: number): void {
    const at = this.#entries.findIndex((entry) => entry.idev === idev && entry.type === type);
    if (at >= 0) this.#entries.splice(at, 1)[0]!.undo?.();
  }

  /** Drops all ids of the device. */
  removeAll(idev: IommufdDevice): void {
    for (const { type } of this.#entries.filter((entry) => entry.idev === idev)) this.remove(idev, type);
    idev.virtualIds = null;
  }

  clear(): void {
    for (const { idev } of [...this.#entries]) this.removeAll(idev);
  }
}

/** True for the types whose ids name one device. */
export function namesDevice(type: number): boolean {
  return type !== IOMMU_DEV_VIRTUAL_ID_TYPE_AMD_VIOMMU_DID;
}
