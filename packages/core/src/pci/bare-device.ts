import type { DeviceModel, FunctionDescription, TranslationFeatures } from './function.ts';

/** A function that does nothing on its own: it has a configuration space, and does the DMA that it is told to. */
export class BareDevice implements DeviceModel {
  readonly description: FunctionDescription;

  constructor(features: TranslationFeatures = {}) {
    this.description = {
      identity: { vendor: 0x1209, device: 0x7d39, classCode: 0xff0000 },
      bars: [],
      ...features,
    };
  }

  connect(): void {}

  reset(): void {}
}
