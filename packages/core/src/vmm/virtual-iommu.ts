import type { Result } from '../base/result.ts';
import type { AssignedDevice } from './assigned-device.ts';

/** An IOMMU that a guest sees. */
export interface VirtualIommu {
  /** Puts a device behind it, which the guest calls `id`: a stream id, a requester id, a device id. */
  addDevice(device: AssignedDevice, id: number): Result<void>;
  /** A load of 4 or 8 bytes of a register. */
  readRegister(offset: number, bytes: number): bigint;
  writeRegister(offset: number, bytes: number, value: bigint): void;
  /**
   * Hands the guest what has come for it in the kernel: events, page requests. What a VMM does when one of those
   * descriptors is readable. False where there was nothing.
   */
  poll(): boolean;
}
