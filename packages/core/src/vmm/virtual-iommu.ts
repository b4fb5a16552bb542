import type { Result } from '../base/result.ts';
import type { AssignedDevice } from './assigned-device.ts';
import type { RegisterBus } from './guests/register-bus.ts';

/** An IOMMU that a guest sees, as its VMM has it. */
export interface VirtualIommu extends RegisterBus {
  /** Puts a device behind it, which the guest calls `id`: a stream id, a requester id, a device id. */
  addDevice(device: AssignedDevice, id: number): Result<void>;
  /**
   * Hands the guest what has come for it in the kernel: events, page requests. What a VMM does when one of those
   * descriptors is readable. False where there was nothing.
   */
  poll(): boolean;
}
