import { failed, type Result } from '../../base/result.ts';
import { machineSchema } from '../../machine/machine-file/description.ts';
import { Kernel } from '../../machine/kernel.ts';
import { loadParts, type IommuType } from '../../machine/machine-file/parts.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import { textOf } from '../../base/testing/ascii.ts';

/** Where guest RAM begins. */
export const BASE = 0x4000_0000;

/** What must have succeeded. */
export function ok<T>(result: Result<T>): T {
  if (failed(result)) throw new Error(result.reason);
  return result;
}

/** What of a machine is not as in every other test. */
export interface MachineOptions {
  readonly iommus?: number;
  readonly devices?: number;
  readonly ats?: boolean;
  readonly pasids?: number;
  /** Fields of the IOMMUs' registers. */
  readonly registers?: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

/** An SMMU whose streams stall: PCI functions do not, unless it does nothing else. */
export const STALLING: MachineOptions = { ats: false, registers: { IDR0: { STALL_MODEL: 2 } } };

/** A machine with DMA engines behind IOMMUs of one kind, one after the other. */
export async function machine(
  type: IommuType,
  { iommus = 1, devices = 1, ats = true, pasids = 64, registers }: MachineOptions = {},
): Promise<Kernel> {
  const description = machineSchema.parse({
    iommus: Array.from({ length: iommus }, (_, index) => ({
      name: `iommu${index}`,
      type,
      ...(registers !== undefined && { registers }),
    })),
    devices: Array.from({ length: devices }, (_, index) => ({
      name: `0000:0${index + 1}:00.0`,
      iommu: `iommu${index % iommus}`,
      model: 'dma-engine',
      ats,
      pasids,
    })),
  });
  const parts = await loadParts(description);
  return new Kernel({ parts, uapis: type === 'amd-iommu' ? ['amd-viommu'] : [] });
}

/** Three characters that a device finds at an address; 'fault' where the IOMMU refuses. */
export function found(device: AssignedDevice, iova: bigint, pasid: number | null = null): string {
  const read = device.dmaRead(iova, 3, pasid);
  return failed(read) ? 'fault' : textOf(read);
}
