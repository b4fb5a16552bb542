import type { DmaAbort } from '../requests/dma-port.ts';
import { HardwarePort } from '../requests/hardware-port.ts';
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

function describe(stopped: Stalled | Terminated): Omit<DmaAbort, 'done'> {
  if (stopped.kind === 'stalled') {
    const { stall } = stopped;
    if (stall.outcome !== null) return { kind: 'aborted', reason: `${stall.outcome.kind} after a stall` };
    const onResumed = (listener: (goesOn: boolean) => void): void => {
      stall.onOutcome = ({ kind }) => listener(kind === 'translated');
    };
    return { kind: 'stalled', reason: 'stalled', onResumed };
  }
  const { event } = stopped;
  return { kind: 'aborted', reason: event === null ? 'aborted' : `event 0x${event.type.toString(16)}` };
}
