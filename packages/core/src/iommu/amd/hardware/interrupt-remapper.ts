// Interrupt remapping (§2.2.5): what becomes of a device's write to the interrupt range. Entries are cached by device
// and index until INVALIDATE_INTERRUPT_TABLE takes the device's (§2.4.5).

import { readField } from '../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../memory/physical.ts';
import type { Trace } from '../../../trace/trace.ts';
import { INT_CTL, INT_TYPE, IRTE, IRTE_GA } from '../spec/dte.ts';
import { CONTROL, OFFSET } from '../spec/registers.ts';
import type { Admission } from './configuration/admission.ts';
import type { CachedDevice, DeviceTable } from './configuration/device-table.ts';
import type { Request } from './queues/events.ts';
import type { Faults } from './queues/faults.ts';
import type { RegisterFile } from './registers/registers.ts';
import type { Aborted, Msi } from './transaction.ts';

/** A device's MSI: a 32-bit write to the interrupt range. */
export interface InterruptRequest {
  readonly deviceId: number;
  /** The address, FEE0_0000h to FEEF_FFFFh. */
  readonly address: number;
  readonly data: number;
}

/** The interrupt goes on, as an MSI to the processors. */
export interface Delivered {
  readonly kind: 'delivered';
  readonly message: Msi;
  readonly remapped: boolean;
}

interface Entry {
  readonly enabled: boolean;
  readonly silent: boolean;
  readonly type: number;
  readonly guestMode: boolean;
  readonly logical: boolean;
  readonly destination: number;
  readonly vector: number;
}

export class InterruptRemapper {
  readonly #memory: PhysicalMemory;
  readonly #registers: RegisterFile;
  readonly #table: DeviceTable;
  readonly #admission: Admission;
  readonly #faults: Faults;
  readonly #limit: number;
  readonly #trace: Trace | null;
  readonly #cache = new Map<number, Entry>();
  readonly #words = new Uint32Array(4);
  readonly #pair = new Uint32Array(2);

  constructor(
    memory: PhysicalMemory,
    registers: RegisterFile,
    table: DeviceTable,
    admission: Admission,
    faults: Faults,
    limit: number,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#registers = registers;
    this.#table = table;
    this.#admission = admission;
    this.#faults = faults;
    this.#limit = limit;
    this.#trace = trace;
  }

  /** INVALIDATE_INTERRUPT_TABLE */
  invalidate(deviceId: number): void {
    for (const key of this.#cache.keys()) if (Math.floor(key / 2048) === deviceId) this.#cache.delete(key);
  }

  invalidateAll(): void {
    this.#cache.clear();
  }

  get cached(): number {
    return this.#cache.size;
  }

  interrupt(asked: InterruptRequest): Delivered | Aborted {
    const pass: Delivered = {
      kind: 'delivered',
      message: { hi: 0, lo: asked.address, data: asked.data },
      remapped: false,
    };
    if (!this.#registers.enabled(CONTROL.IommuEn.inPlace)) return pass;
    const request: Request = {
      deviceId: asked.deviceId,
      pasid: null,
      hi: 0,
      lo: asked.address,
      write: true,
      execute: false,
      privileged: false,
      translation: false,
      interrupt: true,
    };
    const device = this.#table.device(asked.deviceId);
    if (device === null) return this.#admission.noDevice(request);
    const { interrupts } = device.config;
    if (!interrupts.iv) return pass;
    if (interrupts.illegal !== null) return this.#faults.illegalDte(request, device, true);
    const type = (asked.data >>> 8) & 7;
    if (type !== INT_TYPE.FIXED && type !== INT_TYPE.ARBITRATED)
      return this.#other(device, asked, type, pass);
    if (interrupts.control === INT_CTL.FORWARD) return pass;
    if (interrupts.control === INT_CTL.ABORT) return refuse('DTE.IntCtl aborts interrupts');
    return this.#remap(request, device, asked.data & 0x7ff);
  }

  /** Interrupts that are never remapped pass where the DTE says so; only physical destinations do. */
  #other(device: CachedDevice, asked: InterruptRequest, type: number, pass: Delivered): Delivered | Aborted {
    const allowed = device.config.interrupts.pass;
    const passes =
      type === INT_TYPE.SMI ||
      (type === INT_TYPE.NMI && allowed.nmi) ||
      (type === INT_TYPE.INIT && allowed.init) ||
      (type === INT_TYPE.EXTINT && allowed.extInt);
    if (!passes) return refuse('the DTE does not pass such interrupts');
    return (asked.address & 4) === 0 ? pass : refuse('only physical destinations pass');
  }

  #remap(request: Request, device: CachedDevice, index: number): Delivered | Aborted {
    const { interrupts } = device.config;
    if (index >= 2 ** interrupts.log2Entries) {
      return this.#fault(request, device, null, 'the interrupt is outside of its table', false);
    }
    const entry = this.#entry(device, index);
    if (entry === null) return refuse('the interrupt remapping table entry could not be read');
    if (!entry.enabled) return this.#fault(request, device, entry, 'IRTE.RemapEn is 0', false);
    if (entry.guestMode || entry.type > INT_TYPE.ARBITRATED) {
      return this.#fault(request, device, entry, 'IRTE.GuestMode or IRTE.IntType is reserved', true);
    }
    const { destination } = entry;
    const lo = 0xfee0_0000 | ((destination & 0xff) << 12) | (entry.logical ? 4 : 0);
    const message: Msi = {
      hi: (destination & 0xffff_ff00) >>> 0,
      lo: lo >>> 0,
      data: entry.vector | (entry.type << 8),
    };
    return { kind: 'delivered', message, remapped: true };
  }

  /** DTE.IG and IRTE.SupIOPF suppress the event. */
  #fault(
    request: Request,
    device: CachedDevice,
    entry: Entry | null,
    reason: string,
    present: boolean,
  ): Aborted {
    const silent = device.config.interrupts.ignoreUnmapped || entry?.silent === true;
    const detail = {
      gn: false,
      hi: request.hi,
      lo: request.lo,
      present,
      permission: false,
      reserved: present,
    };
    return this.#faults.pageFault(request, detail, device, reason, silent);
  }

  #entry(device: CachedDevice, index: number): Entry | null {
    const { deviceId, interrupts } = device.config;
    const key = deviceId * 2048 + index;
    const keep = (this.#registers.get(OFFSET.CONTROL + 4) & CONTROL.IRTCacheDis.inPlace) === 0;
    const known = keep ? this.#cache.get(key) : undefined;
    if (known !== undefined) return known;
    const wide = this.#registers.enabled(CONTROL.GAEn.inPlace);
    if (!(wide ? this.#load128(interrupts.root + index * 16) : this.#load32(interrupts.root + index * 4)))
      return null;
    const entry = wide ? this.#decode128() : this.#decode32();
    if (!keep) return entry;
    if (this.#cache.size >= this.#limit) this.#cache.delete(this.#cache.keys().next().value!);
    this.#cache.set(key, entry);
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'cache-fill', cache: 'irte', deviceId, index });
    }
    return entry;
  }

  #load32(address: number): boolean {
    if (!this.#memory.load64(address - (address % 8), this.#pair)) return false;
    this.#words[0] = this.#pair[address % 8 === 0 ? 0 : 1]!;
    return true;
  }

  #load128(address: number): boolean {
    for (let i = 0; i < 4; i += 2) {
      if (!this.#memory.load64(address + i * 4, this.#pair)) return false;
      this.#words[i] = this.#pair[0]!;
      this.#words[i + 1] = this.#pair[1]!;
    }
    return true;
  }

  #decode32(): Entry {
    const words = this.#words;
    return {
      enabled: readField(IRTE.RemapEn, words) !== 0,
      silent: readField(IRTE.SupIOPF, words) !== 0,
      type: readField(IRTE.IntType, words),
      guestMode: readField(IRTE.GuestMode, words) !== 0,
      logical: readField(IRTE.DM, words) !== 0,
      destination: readField(IRTE.Destination, words),
      vector: readField(IRTE.Vector, words),
    };
  }

  #decode128(): Entry {
    const words = this.#words;
    const xt = (this.#registers.get(OFFSET.CONTROL + 4) & CONTROL.XTEn.inPlace) !== 0;
    const low = readField(IRTE_GA.Destination23_0, words);
    return {
      enabled: readField(IRTE_GA.RemapEn, words) !== 0,
      silent: readField(IRTE_GA.SupIOPF, words) !== 0,
      type: readField(IRTE_GA.IntType, words),
      guestMode: readField(IRTE_GA.GuestMode, words) !== 0,
      logical: readField(IRTE_GA.DM, words) !== 0,
      destination: xt ? low + readField(IRTE_GA.Destination31_24, words) * 2 ** 24 : low & 0xff,
      vector: readField(IRTE_GA.Vector, words),
    };
  }
}

function refuse(reason: string): Aborted {
  return { kind: 'aborted', event: null, recorded: false, reason };
}
