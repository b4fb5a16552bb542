// The machines that Linux's VFIO selftests run on.

import { writeFileSync } from 'node:fs';
import { outputDirectory } from './build.mjs';

export const IOMMUS = ['arm-smmu-v3', 'intel-iommu', 'amd-iommu'];
/** Two functions that a driver of the selftests knows (lib/drivers/igb). */
export const DEVICES = ['0000:0a:00.0', '0000:0b:00.0'];

/** Writes the machine file for an IOMMU of that type; its path. */
export function machineFile(type) {
  const file = `${outputDirectory}/${type}.yaml`;
  const devices = DEVICES.map((name) => `  - { name: '${name}', iommu: iommu0, model: igb-loopback }\n`);
  const iommus = `iommus:\n  - { name: iommu0, type: ${type} }\n`;
  writeFileSync(file, `mock: false\n${iommus}devices:\n${devices.join('')}`);
  return file;
}
