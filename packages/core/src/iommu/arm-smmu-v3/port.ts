import type { DmaAbort } from '../dma-port.ts';
import { HardwarePort } from '../hardware-port.ts';
import type { ArmSmmu } from './driver/smmu.ts';
import type { SmmuV3 } from './hardware/smmu.ts';
import type { Stalled, Terminated } from './hardware/transaction.ts';

/** What a port needs of the device that it is of. */
export interface SmmuPortOptions {
  readonly name: string;
  /** Its lower 16 bits are the requester id. */
  readonly streamId: number;
  readonly stallable: boolean;
}

export type SmmuPort = HardwarePort<Stalled | Terminated>;

/** A PCI function's way through an SMMU. */
export function smmuPort(
  hardware: SmmuV3,
  smmu: ArmSmmu,
  { name, streamId, stallable }: SmmuPortOptions,
): SmmuPort {
  return new HardwarePort(name, streamId & 0xffff, {
    attach: (endpoint) =>
      hardware.attachEndpoint(streamId, {
        invalidate: (request) => endpoint.invalidate(request),
        pageResponse: ({ substreamId, prgIndex, code }) =>
          endpoint.pageResponse({ pasid: substreamId, prgIndex, code }),
      }),
    access: ({ pasid, hi, lo, write, execute, privileged, translated }, data) =>
      hardware.access(
        {
          streamId,
          substreamId: pasid,
          hi,
          lo,
          write,
          instruction: execute,
          privileged,
          translated,
          stallable,
        },
        data,
      ),
    requestTranslation: ({ pasid, ...rest }) =>
      hardware.requestTranslation({ streamId, substreamId: pasid, ...rest }),
    requestPage: ({ pasid, ...rest }) => void hardware.requestPage({ streamId, substreamId: pasid, ...rest }),
    describe,
    serveInterrupts: () => smmu.serveInterrupts(),
  });
}

function describe(stopped: Stalled | Terminated): Pick<DmaAbort, 'kind' | 'reason'> {
  if (stopped.kind === 'stalled') {
    const { outcome } = stopped.stall;
    if (outcome === null) return { kind: 'stalled', reason: 'stalled' };
    return { kind: 'aborted', reason: `${outcome.kind} after a stall` };
  }
  const { event } = stopped;
  return { kind: 'aborted', reason: event === null ? 'aborted' : `event 0x${event.type.toString(16)}` };
}
