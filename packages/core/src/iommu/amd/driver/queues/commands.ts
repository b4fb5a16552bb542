import { encode } from '../../../../base/bit-fields.ts';
import { POW2 } from '../../../../pagetable/page-sizes.ts';
import {
  CMD,
  CMD_COMPLETE_PPR,
  CMD_COMPLETION_WAIT,
  CMD_INVALIDATE_ALL,
  CMD_INVALIDATE_DEVICE,
  CMD_INVALIDATE_IOTLB,
  CMD_INVALIDATE_PAGES,
} from '../../spec/commands.ts';
import { ALL_PAGES } from '../limits.ts';

// Commands as the driver builds them: drivers/iommu/amd/iommu.c build_*(). A range is a first and a last page of 4 KiB.

/** Four words. */
export type Command = Uint32Array;

export interface PageRange {
  readonly first: number;
  readonly last: number;
}

export const ALL: PageRange = { first: 0, last: ALL_PAGES - 1 };

/** What an invalidation of pages takes beside leaves. */
export interface InvalidateFlags {
  /** Entries that lead to tables. */
  readonly pde?: boolean;
  /** Guest translations, of a PASID. */
  readonly gn?: boolean;
}

/** fls64() of a difference of page numbers. */
function bitLength(value: number): number {
  const hi = Math.floor(value / 0x1_0000_0000);
  return hi === 0 ? 32 - Math.clz32(value) : 64 - Math.clz32(hi);
}

/** XOR of two numbers below 2^52. */
function differing(a: number, b: number): number {
  const hi = (Math.floor(a / 0x1_0000_0000) ^ Math.floor(b / 0x1_0000_0000)) >>> 0;
  return hi * 0x1_0000_0000 + ((a ^ b) >>> 0);
}

/** Address bits 63:12, and S: one aligned power of two that covers the range. */
export function invalidationAddress({ first, last }: PageRange): {
  readonly page: number;
  readonly s: boolean;
} {
  const bits = 12 + bitLength(differing(first, last));
  if (bits === 12) return { page: first, s: false };
  // Bit 51 is the highest that encodes a size (table 14): beyond that it is everything.
  if (bits > 52) return { page: 2 ** 51 - 1, s: true };
  const size = POW2[bits - 12]!;
  const aligned = Math.floor(first / size) * size;
  // Ones below the highest bit of the size, which stays clear.
  return { page: aligned + size / 2 - 1, s: true };
}

/** The address goes into bits 63:12 of the upper half, which holds S, PDE and GN below. */
function setAddress(command: Command, page: number): Command {
  command[2] = (command[2]! | ((page % 0x10_0000) * 4096)) >>> 0;
  command[3] = Math.floor(page / 0x10_0000);
  return command;
}

/** build_completion_wait(): the IOMMU stores `data` at `address`, a multiple of 8. */
export function completionWait(address: number, data: bigint): Command {
  return encode(CMD_COMPLETION_WAIT, {
    s: 1,
    StoreAddress: address / 8,
    Opcode: CMD.COMPLETION_WAIT,
    StoreData: data,
  });
}

/** build_inv_dte() */
export function invalidateDte(deviceId: number): Command {
  return encode(CMD_INVALIDATE_DEVICE, { DeviceID: deviceId, Opcode: CMD.INVALIDATE_DEVTAB_ENTRY });
}

/** build_inv_irt() */
export function invalidateInterruptTable(deviceId: number): Command {
  return encode(CMD_INVALIDATE_DEVICE, { DeviceID: deviceId, Opcode: CMD.INVALIDATE_INTERRUPT_TABLE });
}

/** build_inv_iommu_pages(): the PASID counts with `gn`. */
export function invalidatePages(
  range: PageRange,
  domainId: number,
  pasid: number,
  flags: InvalidateFlags,
): Command {
  const { page, s } = invalidationAddress(range);
  const command = encode(CMD_INVALIDATE_PAGES, {
    PASID: flags.gn === true ? pasid : 0,
    DomainID: domainId,
    Opcode: CMD.INVALIDATE_IOMMU_PAGES,
    S: s,
    PDE: flags.pde === true,
    GN: flags.gn === true,
  });
  return setAddress(command, page);
}

/** build_inv_iotlb_pages(): at the device. The PASID counts with `gn`. */
export function invalidateIotlb(
  deviceId: number,
  queueDepth: number,
  range: PageRange,
  pasid: number,
  gn: boolean,
): Command {
  const { page, s } = invalidationAddress(range);
  const command = encode(CMD_INVALIDATE_IOTLB, {
    DeviceID: deviceId,
    PASID_15_8: gn ? (pasid >>> 8) & 0xff : 0,
    MaxPend: queueDepth & 0xff,
    QueueID: deviceId,
    PASID_7_0: gn ? pasid & 0xff : 0,
    Opcode: CMD.INVALIDATE_IOTLB_PAGES,
    S: s,
    GN: gn,
  });
  return setAddress(command, page);
}

/** build_complete_ppr() */
export function completePpr(
  deviceId: number,
  pasid: number,
  code: number,
  tag: number,
  gn: boolean,
): Command {
  return encode(CMD_COMPLETE_PPR, {
    DeviceID: deviceId,
    PASID: gn ? pasid : 0,
    Opcode: CMD.COMPLETE_PPR_REQUEST,
    GN: gn,
    PRGIndex: tag & 0x1ff,
    ResponseCode: code & 0xf,
  });
}

/** build_inv_all() */
export function invalidateAll(): Command {
  return encode(CMD_INVALIDATE_ALL, { Opcode: CMD.INVALIDATE_IOMMU_ALL });
}
