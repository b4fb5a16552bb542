import type { Result } from '../base/result.ts';
import type { Kernel } from '../iommu/driver.ts';
import type { IommuGroup } from '../iommu/group.ts';
import type { VfioDevice } from '../vfio/cdev.ts';

// What a machine is built from, whoever made its IOMMUs. One file beside this for each kind of IOMMU.

/** A PCI function behind an IOMMU. */
export interface FunctionPart {
  readonly name: string;
  /** What the IOMMU knows it by: a PCI requester id (bus, device, function), or a stream id. */
  readonly requesterId: number;
  /** How many PASIDs it may use; 0 where it has no PASID capability. */
  readonly pasids: number;
  /** Whether it has a translation cache of its own. */
  readonly ats: boolean;
}

/** An IOMMU that is up. */
export interface IommuUnit {
  /** Makes a device behind it, and has the driver probe it. */
  addFunction(part: FunctionPart, group: IommuGroup): Result<VfioDevice>;
}

/** The driver of one kind of IOMMU in a machine. */
export interface VendorDriver {
  /** Makes the hardware of that name, and brings it up. */
  addUnit(name: string): Result<IommuUnit>;
}

/** A kind of IOMMU. */
export type Vendor = (kernel: Kernel) => VendorDriver;
