import type { AttachHandle, IommuDomain } from '../../iommu/driver.ts';
import type { IommuGroup } from '../../iommu/group.ts';
import type { IommufdDevice } from './device.ts';
import type { Hwpt } from '../hwpt/hwpt.ts';
import type { SwMsiMap } from './sw-msi.ts';

// drivers/iommu/iommufd/device.c: what an iommufd knows of a group of devices that share an IOMMU group.

/** Devices of a group that are attached at one PASID: struct iommufd_attach. */
export interface GroupAttach {
  hwpt: Hwpt;
  readonly devices: Map<number, IommufdDevice>;
}

/** What iommufd leaves with the IOMMU layer while a device is attached: struct iommufd_attach_handle. */
export interface IommufdAttachHandle extends AttachHandle {
  domain: IommuDomain;
  readonly idev: IommufdDevice;
}

/** struct iommufd_group. */
export class IommufdGroup {
  readonly group: IommuGroup;
  /** Bound devices; the group goes with the last. */
  references = 1;
  /** By PASID; IOMMU_NO_PASID is 0. */
  readonly attached = new Map<number, GroupAttach>();
  /** Where the driver wants software-managed MSIs; null where it wants none. */
  swMsiStart: bigint | null = null;
  /** Pages that its devices write messages to: required_sw_msi. */
  readonly swMsi = new Set<SwMsiMap>();

  constructor(group: IommuGroup) {
    this.group = group;
  }

  /** The handle that is attached at `pasid`. */
  handle(pasid: number): IommufdAttachHandle | null {
    return this.group.handle(pasid) as IommufdAttachHandle | null;
  }
}
