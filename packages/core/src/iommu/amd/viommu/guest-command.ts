import { readField, writeField, type Layout } from '../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../base/result.ts';
import { hex, u64 } from '../../../base/u64.ts';
import { EIO } from '../../../abi/errno.ts';
import type { UserDataArray } from '../../user-data.ts';
import type { AmdIommuDevice } from '../driver/device.ts';
import type { Command } from '../driver/queues/commands.ts';
import type { Ivhd } from '../driver/ivhd.ts';
import { CMD, CMD_BYTES, CMD_INVALIDATE_IOTLB, CMD_INVALIDATE_PAGES, CMD_WORDS } from '../spec/commands.ts';

// Commands of a guest on their way into the host's command buffer, with the ids of the host in them. Linux has none of
// this: it is made as the SMMUv3's (arm-smmu-v3-iommufd.c arm_vsmmu_convert_user_cmd()) is, and EIO is its errno.

/** What a guest's ids stand for. EIO where they stand for nothing. */
export interface GuestIds {
  deviceOf(guestId: number): Result<AmdIommuDevice>;
  domainOf(guestId: number): Result<number>;
}

type Words = Layout<Record<string, never>>['$'];

function refuse(command: Command): Result<never> {
  const [lo, hi] = [u64(command[1]!, command[0]!), u64(command[3]!, command[2]!)];
  return fail(EIO, `a guest may not send the command ${hex(lo)} ${hex(hi)}`);
}

function reservedSet(command: Command, { writable }: Words): boolean {
  return command.some((word, i) => (word & ~writable[i]!) !== 0);
}

/** The command that is sent for a guest's; null where nothing has to be. */
function convert(command: Command, ids: GuestIds): Result<Command | null> {
  switch (readField(CMD_INVALIDATE_PAGES.Opcode, command)) {
    case CMD.INVALIDATE_IOMMU_PAGES: {
      if (reservedSet(command, CMD_INVALIDATE_PAGES.$)) return refuse(command);
      const domain = ids.domainOf(readField(CMD_INVALIDATE_PAGES.DomainID, command));
      if (failed(domain)) return domain;
      writeField(CMD_INVALIDATE_PAGES.DomainID, command, domain);
      return command;
    }
    case CMD.INVALIDATE_IOTLB_PAGES: {
      if (reservedSet(command, CMD_INVALIDATE_IOTLB.$)) return refuse(command);
      const device = ids.deviceOf(readField(CMD_INVALIDATE_IOTLB.DeviceID, command));
      if (failed(device)) return device;
      writeField(CMD_INVALIDATE_IOTLB.DeviceID, command, device.deviceId);
      writeField(CMD_INVALIDATE_IOTLB.QueueID, command, device.deviceId);
      writeField(CMD_INVALIDATE_IOTLB.MaxPend, command, device.queueDepth & 0xff);
      return device.atsEnabled ? command : null;
    }
    default:
      return refuse(command);
  }
}

/** Sends commands of a guest in their order and waits for them. `entryNum`, 0 before, becomes how many were handled. */
export function sendGuestCommands(
  ivhd: Ivhd,
  bytes: Uint8Array,
  array: UserDataArray,
  ids: GuestIds,
): Result<void> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return ivhd.exclusively(() => {
    for (let at = 0; at < bytes.length; at += CMD_BYTES) {
      const words = Uint32Array.from({ length: CMD_WORDS }, (_, i) => view.getUint32(at + i * 4, true));
      const command = convert(words, ids);
      const queued = failed(command) || command === null ? command : ivhd.queue(command);
      if (failed(queued)) {
        ivhd.completionWait();
        return queued;
      }
      array.entryNum++;
    }
    return ivhd.completionWait();
  });
}
