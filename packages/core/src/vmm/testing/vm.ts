import { failed, type Result } from '../../base/result.ts';
import { machineSchema } from '../../machine/description.ts';
import { Kernel } from '../../machine/kernel.ts';
import { loadParts, type IommuType } from '../../machine/parts.ts';
import type { AssignedDevice } from '../assigned-device.ts';

/** Where guest RAM begins. */
export const BASE = 0x4000_0000;

/** What must have succeeded. */
export function ok<T>(result: Result<T>): T {
  if (failed(result)) throw new Error(result.reason);
  return result;
}

/** A machine with DMA engines behind IOMMUs of one kind, one after the other. */
export async function machine(
  type: IommuType,
  { iommus = 1, devices = 1, ats = true } = {},
): Promise<Kernel> {
  const description = machineSchema.parse({
    iommus: Array.from({ length: iommus }, (_, index) => ({ name: `iommu${index}`, type })),
    devices: Array.from({ length: devices }, (_, index) => ({
      name: `0000:0${index + 1}:00.0`,
      iommu: `iommu${index % iommus}`,
      model: 'dma-engine',
      ats,
    })),
  });
  const parts = await loadParts(description);
  return new Kernel({ parts, uapis: type === 'amd-iommu' ? ['amd-viommu'] : [] });
}

/** Three characters that a device finds at an address; 'fault' where the IOMMU refuses. */
export function found(device: AssignedDevice, iova: bigint): string {
  const read = device.dmaRead(iova, 3);
  return failed(read) ? 'fault' : String.fromCharCode(...read);
}
