import type { TrialUapi } from '../iommufd/trial-uapi.ts';
import { assert } from '../base/assert.ts';
import { fail, failed, type Result } from '../base/result.ts';
import type { Kernel } from '../iommu/driver.ts';
import { IommuGroup } from '../iommu/group.ts';
import type { PciAts, PciPri } from '../iommu/drivers/pci-services.ts';
import {
  pciDisableAts,
  pciDisablePri,
  pciEnableAts,
  pciEnablePasid,
  pciEnablePri,
} from '../pci/bus-driver.ts';
import { BarWindows } from '../pci/bar-windows.ts';
import { PciFunction, type TranslationFeatures } from '../pci/function.ts';
import type { Trace } from '../trace/trace.ts';
import type { MigrationSettings } from '../vfio/migration/migration.ts';
import type { VfioDevice } from '../vfio/device.ts';
import { BarAddresses } from './devices/bar-addresses.ts';
import type { ModelMaker } from './devices/device-models.ts';
import type { IommuSettings, IommuUnit, Vendor, VendorDriver } from './iommus/vendor.ts';

/** An IOMMU of a machine. */
export interface IommuPart {
  readonly name: string;
  readonly vendor: Vendor;
  readonly settings: IommuSettings;
}

/** A device of a machine, which VFIO offers to programs. */
export interface DevicePart {
  readonly name: string;
  /** What the IOMMU knows it by: a PCI requester id (bus, device, function), or a stream id. */
  readonly requesterId: number;
  /** The name of its IOMMU. */
  readonly iommu: string;
  /** How many PASIDs it may use; 0 where it has no PASID capability. */
  readonly pasids: number;
  /** Whether it has a translation cache of its own. */
  readonly ats: boolean;
  /** That it can be migrated; null or absent where it cannot. */
  readonly migration?: MigrationSettings | null;
  /** Makes what it does on its own. */
  readonly model: ModelMaker;
}

/** What a machine has beside the kernel's own mock. */
export interface MachineParts {
  readonly iommus: readonly IommuPart[];
  readonly devices: readonly DevicePart[];
}

export const NO_PARTS: MachineParts = { iommus: [], devices: [] };

/**
 * Brings the IOMMUs up and has their drivers probe the devices. Groups are numbered from `firstGroup` on. Fails where a
 * driver cannot run one of them: an error of the machine's description.
 */
export function buildDevices(
  kernel: Kernel,
  parts: MachineParts,
  firstGroup: number,
  uapis: ReadonlySet<TrialUapi> = new Set(),
): Result<VfioDevice[]> {
  const drivers = new Map<Vendor, VendorDriver>();
  const units = new Map<string, IommuUnit>();
  for (const { name, vendor, settings } of parts.iommus) {
    const driver = drivers.get(vendor) ?? vendor.start(kernel, uapis);
    drivers.set(vendor, driver);
    const unit = driver.addUnit(name, settings);
    if (failed(unit)) return fail(unit.errno, `the driver cannot run ${name}: ${unit.reason}`);
    units.set(name, unit);
  }
  const devices: VfioDevice[] = [];
  const addresses = new BarAddresses();
  const windows = new BarWindows();
  for (const device of parts.devices) {
    const unit = units.get(device.iommu);
    assert(unit !== undefined, `there is no IOMMU ${device.iommu}`);
    const pci = makeFunction(device, kernel.trace);
    if (failed(pci)) return fail(pci.errno, `${device.name}: ${pci.reason}`);
    addresses.assign(pci);
    for (const window of windows.of(pci)) kernel.physical.addWindow(window);
    const translation = device.ats ? { ats: atsOf(pci), pri: priOf(pci) } : { ats: null, pri: null };
    const part = { ...device, ...pciEnablePasid(pci), ...translation };
    const made = unit.addFunction(part, new IommuGroup(kernel, firstGroup + devices.length));
    if (failed(made))
      return fail(made.errno, `${device.name} cannot be put behind ${device.iommu}: ${made.reason}`);
    pci.dma.connect(made.port);
    pci.doorbell = made.doorbell ?? null;
    kernel.doorbells.add(pci);
    const { name, migration = null } = device;
    devices.push({ name, device: made.device, pci, migration });
  }
  return devices;
}

function makeFunction({ name, model, ats, pasids }: DevicePart, trace: Trace): Result<PciFunction> {
  const features: TranslationFeatures = {
    ...(ats ? { ats: {}, pri: 32 } : {}),
    ...(pasids > 0 ? { pasid: { width: Math.max(1, Math.ceil(Math.log2(pasids))) } } : {}),
  };
  const made = model(features);
  return failed(made) ? made : new PciFunction(name, made, trace);
}

function atsOf(pci: PciFunction): PciAts {
  return { enable: (stu) => pciEnableAts(pci, stu), disable: () => pciDisableAts(pci) };
}

function priOf(pci: PciFunction): PciPri {
  return { enable: (outstanding) => pciEnablePri(pci, outstanding), disable: () => pciDisablePri(pci) };
}
