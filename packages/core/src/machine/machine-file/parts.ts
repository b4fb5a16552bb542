import { assert } from '../../base/assert.ts';
import { NO_BACKENDS, type DeviceBackends } from '../devices/backends.ts';
import type { DevicePart, MachineParts } from '../build.ts';
import { loadModel, type DeviceModelName, type ModelSettings } from '../devices/device-models.ts';
import type { MigrationSettings } from '../../vfio/migration/migration.ts';
import { requesterIdOf } from './pci-address.ts';
import type { IommuSettings, Vendor } from '../iommus/vendor.ts';

// From what a machine file says to what a machine is built from.

/** The kinds of IOMMU, by their drivers' names in Linux. A model is loaded where a machine has it: they are large. */
const VENDORS = {
  'arm-smmu-v3': async () => (await import('../iommus/arm-smmu-v3.ts')).armSmmuV3,
  'intel-iommu': async () => (await import('../iommus/intel-iommu.ts')).intelIommu,
  'amd-iommu': async () => (await import('../iommus/amd-iommu.ts')).amdIommu,
} as const satisfies Record<string, () => Promise<Vendor>>;

export type IommuType = keyof typeof VENDORS;
export const IOMMU_TYPES = Object.keys(VENDORS) as [IommuType, ...IommuType[]];

/** The kinds of IOMMU that know a device by a stream id, which is its requester id where nothing else is said. */
export const STREAM_ID_TYPES: readonly IommuType[] = ['arm-smmu-v3'];

/** An IOMMU or a device cannot be as it is described. */
export class PartRefused extends Error {
  override name = 'PartRefused';
  /** The keys of the machine file that lead to what says so. */
  readonly keys: readonly (string | number)[];

  constructor(keys: readonly (string | number)[], message: string) {
    super(message);
    this.keys = keys;
  }
}

/** What a machine file says of a device. */
export interface DeviceDescription
  extends Omit<DevicePart, 'requesterId' | 'model' | 'migration'>, ModelSettings {
  readonly stream?: number | undefined;
  /** Absent where it cannot be migrated. */
  readonly migration?: MigrationSettings | undefined;
  readonly model: DeviceModelName;
}

/** What a machine file says of IOMMUs and devices. */
export interface PartsDescription {
  readonly iommus: readonly (IommuSettings & { readonly name: string; readonly type: IommuType })[];
  readonly devices: readonly DeviceDescription[];
}

/** One SMMU, and one device behind it: the machine of who names none. */
export const DEFAULT_PARTS = {
  iommus: [{ name: 'smmu0', type: 'arm-smmu-v3' }],
  devices: [
    { name: '0000:0a:00.0', iommu: 'smmu0', stream: 0x20, pasids: 0x10000, ats: true, model: 'none' },
  ],
} as const satisfies PartsDescription;

/**
 * Loads the models of the IOMMUs and the devices that a machine has. Throws {@link PartRefused} where one cannot be as it is described.
 * `backends`: what devices have outside of the machine.
 */
export async function loadParts(
  description: PartsDescription,
  backends: DeviceBackends = NO_BACKENDS,
): Promise<MachineParts> {
  const iommus = description.iommus.map(async ({ name, type, ...settings }, at) => {
    const vendor: Vendor = await VENDORS[type]();
    try {
      vendor.check(settings);
    } catch (error) {
      throw new PartRefused(['iommus', at, 'registers'], (error as Error).message);
    }
    return { name, vendor, settings };
  });
  const devices = description.devices.map(async (device) => {
    const { name, iommu, pasids, ats, migration = null } = device;
    const requesterId = device.stream ?? requesterIdOf(name);
    assert(requesterId !== null, `${name} has neither a PCI address nor a stream id`);
    const model = await loadModel(device.model, device, backends);
    return { name, iommu, pasids, ats, migration, requesterId, model };
  });
  return { iommus: await Promise.all(iommus), devices: await Promise.all(devices) };
}
