// What each command does (§2.4).

import { type LayoutInfo, readAddress, readField } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import { type AddressRange, addressRange } from '../../../caches/cache.ts';
import {
  CMD,
  CMD_COMPLETE_PPR,
  CMD_COMPLETION_WAIT,
  CMD_INVALIDATE_ALL,
  CMD_INVALIDATE_DEVICE,
  CMD_INVALIDATE_IOTLB,
  CMD_INVALIDATE_PAGES,
  CMD_PREFETCH,
  SIZE_BIT_MAX,
} from '../../spec/commands.ts';
import { EVENT } from '../../spec/events.ts';
import { CONTROL, INV_TIMEOUT_NONE, STATUS } from '../../spec/registers.ts';
import type { AmdIommuFeatures } from '../registers/config.ts';
import type { DeviceTable } from '../configuration/device-table.ts';
import type { Endpoint } from '../endpoint.ts';
import { commandEvent } from './events.ts';
import type { Faults } from './faults.ts';
import type { InterruptRemapper } from '../interrupt-remapper.ts';
import type { Interrupts } from '../registers/interrupts.ts';
import type { Iotlb } from '../translation/iotlb.ts';
import type { RegisterFile } from '../registers/registers.ts';

/** What the commands act on. */
export interface CommandTarget {
  readonly memory: PhysicalMemory;
  readonly features: AmdIommuFeatures;
  readonly registers: RegisterFile;
  readonly table: DeviceTable;
  readonly iotlb: Iotlb;
  readonly remapper: InterruptRemapper;
  readonly interrupts: Interrupts;
  readonly faults: Faults;
  readonly endpoints: ReadonlyMap<number, Endpoint>;
  /** Translates an address for nobody: caches fill. */
  readonly prefetch: (deviceId: number, pasid: number | null, hi: number, lo: number) => void;
}

/** What became of a command. */
export const RESULT = { DONE: 0, ILLEGAL: 1, HARDWARE_ERROR: 2 } as const;
export type CommandResult = (typeof RESULT)[keyof typeof RESULT];

const LAYOUTS: Readonly<Record<number, LayoutInfo>> = {
  [CMD.COMPLETION_WAIT]: CMD_COMPLETION_WAIT.$,
  [CMD.INVALIDATE_DEVTAB_ENTRY]: CMD_INVALIDATE_DEVICE.$,
  [CMD.INVALIDATE_IOMMU_PAGES]: CMD_INVALIDATE_PAGES.$,
  [CMD.INVALIDATE_IOTLB_PAGES]: CMD_INVALIDATE_IOTLB.$,
  [CMD.INVALIDATE_INTERRUPT_TABLE]: CMD_INVALIDATE_DEVICE.$,
  [CMD.PREFETCH_IOMMU_PAGES]: CMD_PREFETCH.$,
  [CMD.COMPLETE_PPR_REQUEST]: CMD_COMPLETE_PPR.$,
  [CMD.INVALIDATE_IOMMU_ALL]: CMD_INVALIDATE_ALL.$,
};

export class Commands {
  /** After HARDWARE_ERROR: the address that memory refused. */
  failedAddress = 0;
  readonly #target: CommandTarget;

  constructor(target: CommandTarget) {
    this.#target = target;
  }

  /** Executes one command; `words` are its four, `address` is where it stands. */
  execute(words: Uint32Array, address: number): CommandResult {
    const opcode = words[1]! >>> 28;
    const of = LAYOUTS[opcode];
    if (of === undefined || !this.#supported(opcode)) return RESULT.ILLEGAL;
    // A reserved bit makes a command illegal (§2.5.6).
    for (let i = 0; i < 4; i++) if ((words[i]! & ~of.writable[i]!) !== 0) return RESULT.ILLEGAL;
    switch (opcode) {
      case CMD.COMPLETION_WAIT:
        return this.#completionWait(words);
      case CMD.INVALIDATE_DEVTAB_ENTRY:
        this.#target.table.invalidate(words[0]! & 0xffff);
        break;
      case CMD.INVALIDATE_IOMMU_PAGES:
        this.#invalidatePages(words);
        break;
      case CMD.INVALIDATE_IOTLB_PAGES:
        this.#invalidateIotlb(words, address);
        break;
      case CMD.INVALIDATE_INTERRUPT_TABLE:
        this.#target.remapper.invalidate(words[0]! & 0xffff);
        break;
      case CMD.PREFETCH_IOMMU_PAGES:
        this.#prefetch(words);
        break;
      case CMD.COMPLETE_PPR_REQUEST:
        this.#completePpr(words);
        break;
      case CMD.INVALIDATE_IOMMU_ALL:
        this.#target.table.invalidateAll();
        this.#target.iotlb.invalidateAll();
        this.#target.remapper.invalidateAll();
        break;
    }
    return RESULT.DONE;
  }

  /** Commands of features that are not advertised are illegal. */
  #supported(opcode: number): boolean {
    const { features } = this.#target;
    switch (opcode) {
      case CMD.INVALIDATE_IOTLB_PAGES:
        return features.iotlb;
      case CMD.PREFETCH_IOMMU_PAGES:
        return features.prefetch;
      case CMD.COMPLETE_PPR_REQUEST:
        return features.ppr;
      case CMD.INVALIDATE_IOMMU_ALL:
        return features.ia;
      default:
        return true;
    }
  }

  /** §2.4.1: ComWaitInt is set whatever ComWaitIntEn says. Commands before it are done: they run one by one. */
  #completionWait(words: Uint32Array): CommandResult {
    const { memory, interrupts } = this.#target;
    if (readField(CMD_COMPLETION_WAIT.s, words) !== 0) {
      const address = readAddress(CMD_COMPLETION_WAIT.StoreAddress, words);
      if (!memory.store64(address, words[2]!, words[3]!)) {
        this.failedAddress = address;
        return RESULT.HARDWARE_ERROR;
      }
    }
    if (readField(CMD_COMPLETION_WAIT.i, words) !== 0) interrupts.raise(STATUS.ComWaitInt.inPlace);
    return RESULT.DONE;
  }

  /** §2.4.3 */
  #invalidatePages(words: Uint32Array): void {
    const { iotlb } = this.#target;
    const domain = readField(CMD_INVALIDATE_PAGES.DomainID, words);
    const pde = readField(CMD_INVALIDATE_PAGES.PDE, words) !== 0;
    const range = toRange(invalidationSize(words), words);
    if (readField(CMD_INVALIDATE_PAGES.GN, words) === 0) iotlb.invalidateHost(domain, range, pde);
    else iotlb.invalidateGuest(domain, readField(CMD_INVALIDATE_PAGES.PASID, words), range, pde);
  }

  /** §2.4.4: to the device's own IOTLB, and to nothing else. */
  #invalidateIotlb(words: Uint32Array, address: number): void {
    const { endpoints, registers, faults } = this.#target;
    const deviceId = readField(CMD_INVALIDATE_IOTLB.DeviceID, words);
    const pasid =
      readField(CMD_INVALIDATE_IOTLB.PASID_7_0, words) |
      (readField(CMD_INVALIDATE_IOTLB.PASID_15_8, words) << 8) |
      (readField(CMD_INVALIDATE_IOTLB.PASID_19_16, words) << 16);
    const sizeBits = invalidationSize(words);
    const endpoint = endpoints.get(deviceId);
    const answered =
      endpoint !== undefined &&
      endpoint.invalidate({
        hi: words[3]!,
        lo: (words[2]! & ~0xfff) >>> 0,
        sizeBits,
        pasid: readField(CMD_INVALIDATE_IOTLB.GN, words) === 0 ? null : pasid,
        global: false,
      });
    if (answered || registers.control(CONTROL.InvTimeOut) === INV_TIMEOUT_NONE) return;
    faults.record(commandEvent(EVENT.IOTLB_INV_TIMEOUT, address, deviceId));
  }

  /** §2.4.6: PFCount pages from the address on, at least one; Inval takes what is cached of them first. */
  #prefetch(words: Uint32Array): void {
    const { table, iotlb, prefetch } = this.#target;
    const deviceId = readField(CMD_PREFETCH.DeviceID, words);
    const pasid = readField(CMD_PREFETCH.GN, words) === 0 ? null : readField(CMD_PREFETCH.PASID, words);
    const sizeBits = invalidationSize(words);
    if (readField(CMD_PREFETCH.Inval, words) !== 0) {
      const domain = table.device(deviceId)?.config.domainId;
      const range = toRange(sizeBits, words);
      if (domain !== undefined && pasid === null) iotlb.invalidateHost(domain, range, false);
      else if (domain !== undefined) iotlb.invalidateGuest(domain, pasid!, range, false);
    }
    const count = Math.max(1, readField(CMD_PREFETCH.PFCount, words));
    const step = 2 ** Math.min(sizeBits, 52);
    const start = words[3]! * 0x1_0000_0000 + ((words[2]! & ~0xfff) >>> 0);
    const first = start - (start % step);
    for (let i = 0; i < count && first + i * step < 2 ** 64; i++) {
      const at = first + i * step;
      prefetch(deviceId, pasid, Math.floor(at / 0x1_0000_0000), at >>> 0);
    }
  }

  /** §2.4.7 */
  #completePpr(words: Uint32Array): void {
    const deviceId = readField(CMD_COMPLETE_PPR.DeviceID, words);
    this.#target.endpoints.get(deviceId)?.pageResponse({
      deviceId,
      pasid: readField(CMD_COMPLETE_PPR.GN, words) === 0 ? null : readField(CMD_COMPLETE_PPR.PASID, words),
      prgIndex: readField(CMD_COMPLETE_PPR.PRGIndex, words),
      code: readField(CMD_COMPLETE_PPR.ResponseCode, words),
    });
  }
}

/**
 * log2 of the bytes that S and Address of a command say (table 14): 12 with S == 0, else twice the unit of the lowest
 * clear bit from bit 12 on; 64 for the whole address space. S and Address are at the same place in all commands.
 */
function invalidationSize(words: Uint32Array): number {
  if ((words[2]! & 1) === 0) return 12;
  const low = ~(words[2]! >>> 12) & 0xf_ffff;
  if (low !== 0) return 44 - Math.clz32(low & -low);
  const high = ~words[3]!;
  const bit = high === 0 ? 64 : 63 - Math.clz32(high & -high);
  return bit > SIZE_BIT_MAX ? 64 : bit + 1;
}

/** The range that a command names; null for everything. */
function toRange(sizeBits: number, words: Uint32Array): AddressRange | null {
  if (sizeBits >= 64) return null;
  const lo = sizeBits >= 32 ? 0 : words[2]! & (-1 << sizeBits);
  const hi = sizeBits > 32 ? words[3]! & (-1 << (sizeBits - 32)) : words[3]! | 0;
  return addressRange(hi, lo, 2 ** sizeBits);
}
