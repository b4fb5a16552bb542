import { HardwarePort } from '../requests/hardware-port.ts';
import type { Ivhd } from './driver/ivhd.ts';
import type { AmdIommu } from './hardware/amd-iommu.ts';
import type { Aborted } from './hardware/transaction.ts';

export type AmdPort = HardwarePort<Aborted>;

/** A PCI function's way through an AMD IOMMU. */
export function amdPort(hardware: AmdIommu, ivhd: Ivhd, name: string, deviceId: number): AmdPort {
  return new HardwarePort(name, deviceId, {
    attach: (endpoint) => hardware.attachEndpoint(deviceId, endpoint),
    access: ({ pasid, hi, lo, write, execute, privileged, translated }, data) =>
      hardware.access({ deviceId, pasid, hi, lo, write, execute, privileged, translated }, data),
    requestTranslation: (packet) => {
      const { status, entry } = hardware.requestTranslation({ deviceId, ...packet });
      return { status, entries: entry === null ? [] : [entry] };
    },
    requestPage: (packet) => void hardware.requestPage({ deviceId, ...packet }),
    describe: ({ reason }) => ({ kind: 'aborted', reason }),
    serveInterrupts: () => ivhd.serveInterrupts(),
  });
}
