import { BareDevice } from '../pci/bare-device.ts';
import { DmaEngine } from '../pci/dma-engine/dma-engine.ts';
import type { DeviceModel, TranslationFeatures } from '../pci/function.ts';
import { Igb } from '../pci/igb/igb.ts';

/** The device models that a machine file can name. */
export const DEVICE_MODELS = {
  none: (features: TranslationFeatures): DeviceModel => new BareDevice(features),
  'dma-engine': (features: TranslationFeatures): DeviceModel => new DmaEngine(features),
  'igb-loopback': (features: TranslationFeatures): DeviceModel => new Igb(features),
} as const;

export type DeviceModelName = keyof typeof DEVICE_MODELS;
export const DEVICE_MODEL_NAMES = Object.keys(DEVICE_MODELS) as [DeviceModelName, ...DeviceModelName[]];
