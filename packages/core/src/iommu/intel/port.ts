import { HardwarePort } from '../requests/hardware-port.ts';
import type { DmarUnit } from './driver/dmar-unit.ts';
import type { IntelIommu } from './hardware/intel-iommu.ts';
import type { Blocked } from './hardware/transaction.ts';

export type IntelPort = HardwarePort<Blocked>;

/** A PCI function's way through its VT-d unit. */
export function intelPort(
  hardware: IntelIommu,
  unit: DmarUnit,
  name: string,
  requesterId: number,
): IntelPort {
  return new HardwarePort(name, requesterId, {
    attach: (endpoint) => hardware.attachEndpoint(requesterId, endpoint),
    access: ({ pasid, hi, lo, write, execute, privileged, translated }, data) =>
      hardware.access({ requesterId, pasid, hi, lo, write, execute, privileged, translated }, data),
    requestTranslation: (packet) => hardware.requestTranslation({ requesterId, ...packet }),
    requestPage: (packet) => void hardware.requestPage({ requesterId, ...packet }),
    describe: ({ fault, status }) => ({
      kind: 'aborted',
      reason: fault === null ? status : `fault ${fault.code}`,
    }),
    serveInterrupts: () => unit.serveInterrupts(),
  });
}
