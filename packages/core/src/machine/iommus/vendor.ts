import type { Result } from '../../base/result.ts';
import type { DmaPort } from '../../iommu/requests/dma-port.ts';
import type { Device, Kernel } from '../../iommu/driver.ts';
import type { CmdqvSizes } from '../../iommu/arm-smmu-v3/cmdqv/platform.ts';
import type { IommuGroup } from '../../iommu/group.ts';
import type { TrialUapi } from '../../iommufd/trial-uapi.ts';
import type { MessageDoorbell } from '../../pci/message-doorbell.ts';
import type { PciAts, PciPri } from '../../iommu/drivers/pci-services.ts';

// What a machine is built from, whoever made its IOMMUs. One file beside this for each kind of IOMMU.

/** A PCI function, as the driver of the IOMMU that it is behind looks at it. */
export interface FunctionPart {
  readonly name: string;
  /** What the IOMMU knows it by: a PCI requester id (bus, device, function), or a stream id. */
  readonly requesterId: number;
  /** How many PASIDs it may use; 0 where it has no PASID capability. */
  readonly pasids: number;
  /** What of PASIDs is enabled. */
  readonly pasidExec: boolean;
  readonly pasidPriv: boolean;
  /** Null where it has no translation cache of its own. */
  readonly ats: PciAts | null;
  /** Null where it has no page requests. */
  readonly pri: PciPri | null;
}

/** A function behind an IOMMU. */
export interface PlacedFunction {
  /** As the driver knows it. */
  readonly device: Device;
  /** Where its requests go. */
  readonly port: DmaPort;
  /** Where its messages go, if the IOMMU translates them. */
  readonly doorbell?: MessageDoorbell;
}

/** An IOMMU that is up. */
export interface IommuUnit {
  /** Puts a function behind it, and has the driver probe it. */
  addFunction(part: FunctionPart, group: IommuGroup): Result<PlacedFunction>;
}

/** The driver of one kind of IOMMU in a machine. */
export interface VendorDriver {
  /** Makes the hardware of that name, and brings it up. ENXIO where the driver cannot run what the settings describe. */
  addUnit(name: string, settings: IommuSettings): Result<IommuUnit>;
}

/** What a machine file says of an IOMMU beyond its kind. */
export interface IommuSettings {
  /** Fields of registers that say what the hardware has, where they differ from the model's own. */
  readonly registers?: Readonly<Record<string, Readonly<Record<string, number>>>> | undefined;
  /** The CMDQ-V beside an SMMU; none where this is left out. */
  readonly cmdqv?: CmdqvSizes | undefined;
}

/** A kind of IOMMU. */
export interface Vendor {
  /** Throws where the settings contradict themselves or ask for what the model does not have. */
  check(settings: IommuSettings): void;
  /** `uapis` are the trial uAPIs that the machine serves. */
  start(kernel: Kernel, uapis: ReadonlySet<TrialUapi>): VendorDriver;
}
