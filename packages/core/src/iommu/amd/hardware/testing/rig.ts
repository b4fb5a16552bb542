// What the tests of this folder share: an IOMMU with memory around it, and builders of tables, DTEs and commands that
// read like the specification's figures.

import { encode, decode, writeField } from '../../../../base/bit-fields.ts';
import { exact, hi32, lo32, u64 } from '../../../../base/u64.ts';
import { Ram } from '../../../../memory/physical.ts';
import { Trace, type TraceEvent } from '../../../../trace/trace.ts';
import { DTE, IRTE } from '../../spec/dte.ts';
import {
  CMD,
  CMD_COMPLETE_PPR,
  CMD_COMPLETION_WAIT,
  CMD_INVALIDATE_DEVICE,
  CMD_INVALIDATE_IOTLB,
  CMD_INVALIDATE_PAGES,
  CMD_PREFETCH,
} from '../../spec/commands.ts';
import {
  COMMAND_RECORD,
  EVENT,
  HARDWARE_ERROR_RECORD,
  ILLEGAL_DTE_RECORD,
  INVALID_PPR_RECORD,
  INVALID_REQUEST_RECORD,
  IO_PAGE_FAULT_RECORD,
  PPR_RECORD,
} from '../../spec/events.ts';
import { CONTROL, OFFSET } from '../../spec/registers.ts';
import { AmdIommu } from '../amd-iommu.ts';
import { type AmdIommuConfig, type ConfigOverrides, amdIommuConfig } from '../registers/config.ts';
import { eventName } from '../queues/events.ts';
import type { InterruptSource, Msi, Outcome, Transaction } from '../transaction.ts';

/** Fields of a record or structure by name. */
export type Fields = Readonly<Record<string, number | bigint | boolean>>;

/** A page table entry of the host format: §2.2.3. */
export function pte(
  address: bigint,
  options: { next?: number; ir?: 0 | 1; iw?: 0 | 1; bits?: bigint } = {},
): bigint {
  const { next = 0, ir = 1, iw = 1, bits = 0n } = options;
  return address | 1n | (BigInt(next) << 9n) | (BigInt(ir) << 61n) | (BigInt(iw) << 62n) | bits;
}

/** The address field of a leaf with Next Level 7 that maps 2^size bytes at `address`. */
export function sized(address: bigint, size: number): bigint {
  return address | ((1n << BigInt(size - 1)) - (1n << 12n));
}

/** Bits of CONTROL. */
export const BASIC = CONTROL.IommuEn.inPlace | CONTROL.EventLogEn.inPlace | CONTROL.CmdBufEn.inPlace;

export interface LoggedEvent {
  readonly name: string;
  readonly fields: Record<string, number | bigint>;
  readonly words: Uint32Array;
}

export class Rig {
  readonly ram = new Ram();
  readonly trace = new Trace();
  readonly iommu: AmdIommu;
  readonly config: AmdIommuConfig;
  readonly interrupts: InterruptSource[] = [];
  readonly msis: Msi[] = [];
  readonly deviceMsis: Msi[] = [];
  readonly deviceTable: number;
  readonly commandBuffer: number;
  readonly eventLog: number;
  readonly pprLog: number;
  #nextPage = 0x100;

  /** `deviceTablePages` is how large the device table is: 128 entries each. */
  constructor(overrides: ConfigOverrides | AmdIommuConfig = {}, deviceTablePages = 1) {
    this.config = 'efr' in overrides ? overrides : amdIommuConfig(overrides);
    this.iommu = new AmdIommu({
      memory: this.ram,
      config: this.config,
      trace: this.trace,
      onInterrupt: (source) => this.interrupts.push(source),
      onMsi: (msi) => this.msis.push(msi),
      onDeviceInterrupt: (msi) => this.deviceMsis.push(msi),
    });
    this.deviceTable = this.pages(deviceTablePages);
    this.commandBuffer = this.page();
    this.eventLog = this.page();
    this.pprLog = this.page();
    this.set(OFFSET.DEV_TAB_BASE, BigInt(this.deviceTable + deviceTablePages - 1));
    this.set(OFFSET.CMD_BUF_BASE, BigInt(this.commandBuffer) | (8n << 56n));
    this.set(OFFSET.EVT_LOG_BASE, BigInt(this.eventLog) | (8n << 56n));
    this.set(OFFSET.PPR_LOG_BASE, BigInt(this.pprLog) | (8n << 56n));
    this.control(BASIC);
  }

  // --- memory ---

  page(): number {
    return this.pages(1);
  }

  pages(count: number): number {
    const first = this.#nextPage;
    this.#nextPage += count;
    for (let i = 0; i < count; i++) this.ram.add(first + i);
    return first * 4096;
  }

  put(address: number | bigint, value: bigint): void {
    this.ram.add(Math.floor(plain(address) / 4096));
    this.ram.store64(plain(address), lo32(value), hi32(value));
  }

  at(address: number | bigint): bigint {
    const words = new Uint32Array(2);
    this.ram.load64(plain(address), words);
    return u64(words[1]!, words[0]!);
  }

  // --- registers ---

  set(offset: number, value: bigint | number): void {
    this.iommu.writeRegister(offset, 8, BigInt(value));
  }

  get(offset: number): bigint {
    return this.iommu.readRegister(offset, 8);
  }

  get status(): number {
    return exact(this.get(OFFSET.STATUS));
  }

  /** Sets CONTROL to these bits of its lower word, and of its upper one. */
  control(lo: number, hi = 0): void {
    this.set(OFFSET.CONTROL, u64(hi, lo));
  }

  // --- tables ---

  /** Writes a DTE; V and TV are 1, IR and IW too, unless said otherwise. Nothing is invalidated. */
  dte(deviceId: number, fields: Fields = {}): void {
    const words = encode(DTE, { V: 1, TV: 1, IR: 1, IW: 1, ...fields });
    for (let i = 0; i < 4; i++)
      this.put(this.deviceTable + deviceId * 32 + i * 8, u64(words[2 * i + 1]!, words[2 * i]!));
  }

  /** A DTE with host tables: `root` is an address. */
  hostDte(deviceId: number, root: number, mode: number, fields: Fields = {}): void {
    this.dte(deviceId, { Mode: mode, HostPTRoot: root / 4096, DomainID: 7, ...fields });
  }

  /** A DTE with a GCR3 table. */
  guestDte(deviceId: number, gcr3: number, fields: Fields = {}): void {
    this.dte(deviceId, { GV: 1, DomainID: 7, ...gcr3Fields(gcr3), ...fields });
  }

  /**
   * Puts `leaf` at `level` of host tables whose root is at `mode`, with directories of IR and IW on the way. Answers
   * the address of the entry.
   */
  map(root: number, mode: number, iova: bigint, leaf: bigint, level = 1): number {
    let table = root;
    for (let at = mode; at > level; at--) {
      const entry = table + exact((iova >> BigInt(3 + 9 * at)) & 511n) * 8;
      if ((this.at(entry) & 1n) === 0n) this.put(entry, pte(BigInt(this.page()), { next: at - 1 }));
      table = exact(this.at(entry) & 0xf_ffff_ffff_f000n);
    }
    const entry = table + exact((iova >> BigInt(3 + 9 * level)) & 511n) * 8;
    this.put(entry, leaf);
    return entry;
  }

  /** The same for guest tables: entries are present, writable and a user's. */
  mapGuest(root: number, levels: number, gva: bigint, leaf: bigint, level = 1): number {
    let table = root;
    for (let at = levels; at > level; at--) {
      const entry = table + exact((gva >> BigInt(3 + 9 * at)) & 511n) * 8;
      if ((this.at(entry) & 1n) === 0n) this.put(entry, BigInt(this.page()) | 7n);
      table = exact(this.at(entry) & 0xf_ffff_ffff_f000n);
    }
    const entry = table + exact((gva >> BigInt(3 + 9 * level)) & 511n) * 8;
    this.put(entry, leaf);
    return entry;
  }

  // --- requests ---

  /** A transaction without a PASID, unless one is given. */
  dma(deviceId: number, iova: bigint, rest: Partial<Transaction> = {}): Outcome {
    return this.iommu.translate({ deviceId, hi: hi32(iova), lo: lo32(iova), ...rest });
  }

  /** Where it is translated to, or why it is not: the event's name, or the reason where there is no event. */
  where(deviceId: number, iova: bigint, rest: Partial<Transaction> = {}): bigint | string {
    const outcome = this.dma(deviceId, iova, rest);
    if (outcome.kind === 'translated') return BigInt(outcome.pa);
    if (outcome.kind === 'interrupt') return 'interrupt';
    return outcome.event === null ? outcome.reason : eventName(outcome.event.type);
  }

  /** What is traced while `what` is done. */
  traced(what: () => void): TraceEvent[] {
    const events: TraceEvent[] = [];
    const end = this.trace.subscribe((event) => void events.push(event));
    what();
    end();
    return events;
  }

  // --- the command buffer ---

  /** Puts commands into the buffer and tells the IOMMU. */
  submit(...commands: readonly Uint32Array[]): void {
    let tail = exact(this.get(OFFSET.CMD_TAIL));
    for (const words of commands) {
      this.put(this.commandBuffer + tail, u64(words[1]!, words[0]!));
      this.put(this.commandBuffer + tail + 8, u64(words[3]!, words[2]!));
      tail = (tail + 16) % 4096;
    }
    this.set(OFFSET.CMD_TAIL, tail);
  }

  // --- logs ---

  /** Reads the events that software has not seen, as the Linux driver does: head follows tail. */
  events(): LoggedEvent[] {
    return this.#drain(this.eventLog, OFFSET.EVT_HEAD, OFFSET.EVT_TAIL).map(decodeEvent);
  }

  pprs(): Record<string, number | bigint>[] {
    return this.#drain(this.pprLog, OFFSET.PPR_HEAD, OFFSET.PPR_TAIL).map((words) =>
      decode(PPR_RECORD, words),
    );
  }

  #drain(base: number, headRegister: number, tailRegister: number): Uint32Array[] {
    const out: Uint32Array[] = [];
    let head = exact(this.get(headRegister));
    const tail = exact(this.get(tailRegister));
    while (head !== tail) {
      const [low, high] = [this.at(base + head), this.at(base + head + 8)];
      out.push(Uint32Array.of(lo32(low), hi32(low), lo32(high), hi32(high)));
      head = (head + 16) % 4096;
    }
    this.set(headRegister, head);
    return out;
  }
}

function plain(address: number | bigint): number {
  return typeof address === 'bigint' ? exact(address) : address;
}

function decodeEvent(words: Uint32Array): LoggedEvent {
  const type = words[1]! >>> 28;
  return { name: eventName(type), fields: eventFields(type, words), words };
}

function eventFields(type: number, words: Uint32Array): Record<string, number | bigint> {
  switch (type) {
    case EVENT.ILLEGAL_DEV_TABLE_ENTRY:
      return decode(ILLEGAL_DTE_RECORD, words);
    case EVENT.IO_PAGE_FAULT:
      return decode(IO_PAGE_FAULT_RECORD, words);
    case EVENT.ILLEGAL_COMMAND_ERROR:
    case EVENT.IOTLB_INV_TIMEOUT:
      return decode(COMMAND_RECORD, words);
    case EVENT.INVALID_DEVICE_REQUEST:
      return decode(INVALID_REQUEST_RECORD, words);
    case EVENT.INVALID_PPR_REQUEST:
      return decode(INVALID_PPR_RECORD, words);
    default:
      return decode(HARDWARE_ERROR_RECORD, words);
  }
}

/** DTE fields of a GCR3 table's address. */
export function gcr3Fields(address: number): Fields {
  const bits = BigInt(address);
  return {
    GCR3_14_12: (bits >> 12n) & 7n,
    GCR3_30_15: (bits >> 15n) & 0xffffn,
    GCR3_51_31: bits >> 31n,
  };
}

// --- commands ---

export const completionWait = (fields: {
  s?: number;
  i?: number;
  f?: number;
  address?: number;
  data?: bigint;
}): Uint32Array =>
  encode(CMD_COMPLETION_WAIT, {
    s: fields.s ?? 0,
    i: fields.i ?? 0,
    f: fields.f ?? 0,
    StoreAddress: (fields.address ?? 0) / 8,
    StoreData: fields.data ?? 0n,
    Opcode: CMD.COMPLETION_WAIT,
  });

export const invalidateDevice = (deviceId: number): Uint32Array =>
  encode(CMD_INVALIDATE_DEVICE, { DeviceID: deviceId, Opcode: CMD.INVALIDATE_DEVTAB_ENTRY });

export const invalidateInterrupts = (deviceId: number): Uint32Array =>
  encode(CMD_INVALIDATE_DEVICE, { DeviceID: deviceId, Opcode: CMD.INVALIDATE_INTERRUPT_TABLE });

/** INVALIDATE_IOMMU_PAGES of 2^size bytes; 64 is everything, as Linux says it. */
export function invalidatePages(
  domain: number,
  address: bigint,
  options: { size?: number; pde?: number; pasid?: number } = {},
): Uint32Array {
  const { size = 12, pde = 1, pasid } = options;
  const words = encode(CMD_INVALIDATE_PAGES, {
    PASID: pasid ?? 0,
    DomainID: domain,
    PDE: pde,
    GN: pasid !== undefined,
    S: size > 12,
    Opcode: CMD.INVALIDATE_IOMMU_PAGES,
  });
  writeField(CMD_INVALIDATE_PAGES.Address, words, sizedAddress(address, size) >> 12n);
  return words;
}

/** Table 14: the lowest clear bit above bit 11 says the size. */
function sizedAddress(address: bigint, size: number): bigint {
  if (size === 64) return 0x7fff_ffff_ffff_f000n;
  if (size === 12) return address;
  return sized(address & ~((1n << BigInt(size)) - 1n), size);
}

export function invalidateIotlb(
  deviceId: number,
  address: bigint,
  options: { size?: number; pasid?: number } = {},
): Uint32Array {
  const { size = 12, pasid = 0 } = options;
  const words = encode(CMD_INVALIDATE_IOTLB, {
    DeviceID: deviceId,
    QueueID: deviceId,
    PASID_7_0: pasid & 0xff,
    PASID_15_8: (pasid >> 8) & 0xff,
    PASID_19_16: pasid >> 16,
    S: size > 12,
    GN: options.pasid !== undefined,
    Opcode: CMD.INVALIDATE_IOTLB_PAGES,
  });
  writeField(CMD_INVALIDATE_IOTLB.Address, words, sizedAddress(address, size) >> 12n);
  return words;
}

export function prefetch(deviceId: number, address: bigint, fields: Fields = {}): Uint32Array {
  return encode(CMD_PREFETCH, {
    DeviceID: deviceId,
    PFCount: 1,
    Address: address >> 12n,
    Opcode: CMD.PREFETCH_IOMMU_PAGES,
    ...fields,
  });
}

export const completePpr = (fields: Fields): Uint32Array =>
  encode(CMD_COMPLETE_PPR, { Opcode: CMD.COMPLETE_PPR_REQUEST, ...fields });

export const invalidateAll = (): Uint32Array =>
  Uint32Array.of(0, (CMD.INVALIDATE_IOMMU_ALL << 28) >>> 0, 0, 0);

/** A 32-bit interrupt remapping table entry that is enabled. */
export const irte = (fields: Fields): number => encode(IRTE, { RemapEn: 1, ...fields })[0]!;
