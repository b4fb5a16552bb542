import { readAddress, readField, writeField } from '../../../../base/bit-fields.ts';
import {
  CMD,
  CMD_COMPLETE_PPR,
  CMD_COMPLETION_WAIT,
  CMD_INVALIDATE_ALL,
  CMD_INVALIDATE_DEVICE,
  CMD_INVALIDATE_IOTLB,
  CMD_INVALIDATE_PAGES,
  CMD_PREFETCH,
} from '../../spec/commands.ts';
import { STATUS } from '../../spec/registers.ts';
import { RESULT, type Commands } from '../queues/commands.ts';
import type { DeviceTable } from '../configuration/device-table.ts';
import type { InterruptRemapper } from '../interrupt-remapper.ts';
import type { Iotlb } from '../translation/iotlb.ts';
import type { Guest } from './guest.ts';

/** What became of a guest's command. */
export type GuestResult = 'done' | 'illegal' | 'memory' | 'unmapped';

/** What a guest's commands act on. */
export interface GuestCommandTarget {
  readonly commands: Commands;
  readonly table: DeviceTable;
  readonly iotlb: Iotlb;
  readonly remapper: InterruptRemapper;
  /** The physical address of a guest's, or -1 where it has none. */
  readonly resolve: (guest: Guest, address: number, write: boolean) => number;
  readonly store64: (pa: number, lo: number, hi: number) => boolean;
}

/** Fields of commands that hold an id of a device. */
const DEVICE_FIELDS: Readonly<Record<number, readonly (typeof CMD_PREFETCH.DeviceID)[]>> = {
  [CMD.INVALIDATE_DEVTAB_ENTRY]: [CMD_INVALIDATE_DEVICE.DeviceID],
  [CMD.INVALIDATE_INTERRUPT_TABLE]: [CMD_INVALIDATE_DEVICE.DeviceID],
  [CMD.INVALIDATE_IOTLB_PAGES]: [CMD_INVALIDATE_IOTLB.DeviceID, CMD_INVALIDATE_IOTLB.QueueID],
  [CMD.PREFETCH_IOMMU_PAGES]: [CMD_PREFETCH.DeviceID],
  [CMD.COMPLETE_PPR_REQUEST]: [CMD_COMPLETE_PPR.DeviceID],
};

/** Commands of guests: their ids are replaced, their addresses translated, and what concerns others is out of reach. */
export class GuestCommands {
  readonly #target: GuestCommandTarget;

  constructor(target: GuestCommandTarget) {
    this.#target = target;
  }

  /** Executes one; `words` are its own and change. */
  execute(guest: Guest, words: Uint32Array): GuestResult {
    const opcode = words[1]! >>> 28;
    switch (opcode) {
      case CMD.COMPLETION_WAIT:
        return this.#completionWait(guest, words);
      case CMD.INVALIDATE_IOMMU_ALL:
        return this.#invalidateAll(guest, words);
      case CMD.INVALIDATE_IOMMU_PAGES: {
        const domain = guest.domains.hostOf(readField(CMD_INVALIDATE_PAGES.DomainID, words));
        if (domain < 0) return 'unmapped';
        writeField(CMD_INVALIDATE_PAGES.DomainID, words, domain);
        return this.#forward(words);
      }
    }
    const fields = DEVICE_FIELDS[opcode];
    if (fields === undefined) return 'illegal';
    for (const field of fields) {
      const device = guest.devices.hostOf(readField(field, words));
      if (device < 0) return 'unmapped';
      writeField(field, words, device);
    }
    return this.#forward(words);
  }

  #forward(words: Uint32Array): GuestResult {
    return this.#target.commands.execute(words, 0) === RESULT.DONE ? 'done' : 'illegal';
  }

  #completionWait(guest: Guest, words: Uint32Array): GuestResult {
    const { writable } = CMD_COMPLETION_WAIT.$;
    for (let i = 0; i < 4; i++) if ((words[i]! & ~writable[i]!) !== 0) return 'illegal';
    if (readField(CMD_COMPLETION_WAIT.s, words) !== 0) {
      const address = readAddress(CMD_COMPLETION_WAIT.StoreAddress, words);
      const pa = this.#target.resolve(guest, address, true);
      if (pa < 0 || !this.#target.store64(pa, words[2]!, words[3]!)) return 'memory';
    }
    if (readField(CMD_COMPLETION_WAIT.i, words) !== 0) guest.setStatus(STATUS.ComWaitInt.inPlace, true);
    return 'done';
  }

  /** All of the guest's own: of its devices and of its domains. */
  #invalidateAll(guest: Guest, words: Uint32Array): GuestResult {
    const { writable } = CMD_INVALIDATE_ALL.$;
    for (let i = 0; i < 4; i++) if ((words[i]! & ~writable[i]!) !== 0) return 'illegal';
    const { table, iotlb, remapper } = this.#target;
    for (const device of guest.devices.hosts()) {
      table.invalidate(device);
      remapper.invalidate(device);
    }
    for (const domain of guest.domains.hosts()) {
      iotlb.invalidateHost(domain, null, true);
      iotlb.invalidateGuests(domain);
    }
    return 'done';
  }
}
