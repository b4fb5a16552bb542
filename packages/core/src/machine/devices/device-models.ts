import { failed, type Result } from '../../base/result.ts';
import type { DeviceModel, TranslationFeatures } from '../../pci/function.ts';
import { openDisk, type ConsoleSettings, type DeviceBackends, type DiskSettings } from './backends.ts';

/** What a machine file says of a device's model. */
export interface ModelSettings {
  readonly name: string;
  readonly disk?: DiskSettings | undefined;
  readonly console?: ConsoleSettings | undefined;
}

/** Makes a device. Fails where it cannot have what it needs from outside. */
export type ModelMaker = (features: TranslationFeatures) => Result<DeviceModel>;

type Load = (settings: ModelSettings, backends: DeviceBackends) => Promise<ModelMaker>;

/** The device models that a machine file can name. One is loaded where a machine has it. */
const MODELS = {
  none: async () => {
    const { BareDevice } = await import('../../pci/bare-device.ts');
    return (features) => new BareDevice(features);
  },
  'dma-engine': async () => {
    const { DmaEngine } = await import('../../pci/dma-engine/dma-engine.ts');
    return (features) => new DmaEngine(features);
  },
  'igb-loopback': async () => {
    const { Igb } = await import('../../pci/igb/igb.ts');
    return (features) => new Igb(features);
  },
  nvme: async ({ name, disk = {} }, backends) => {
    const { NvmeController } = await import('../../pci/nvme/controller.ts');
    const { diskIdentity } = await import('../../pci/nvme/identify.ts');
    return (features) => {
      const backend = openDisk(disk, backends);
      return failed(backend) ? backend : new NvmeController(backend, diskIdentity(name), features);
    };
  },
  'virtio-console': async (settings, backends) => {
    const { VirtioConsole } = await import('../../pci/virtio/console.ts');
    return (features) => {
      const backend = backends.openConsole(settings.console ?? {});
      return failed(backend) ? backend : VirtioConsole.create(backend, features);
    };
  },
} as const satisfies Record<string, Load>;

export type DeviceModelName = keyof typeof MODELS;
/** Those that can be migrated: {@link DeviceModel.migration}. */
export const MIGRATABLE_MODELS: readonly DeviceModelName[] = ['dma-engine'];
export const DEVICE_MODEL_NAMES = Object.keys(MODELS) as [DeviceModelName, ...DeviceModelName[]];

export function loadModel(
  model: DeviceModelName,
  settings: ModelSettings,
  backends: DeviceBackends,
): Promise<ModelMaker> {
  return (MODELS[model] as Load)(settings, backends);
}
