// What becomes of a request before any page table is looked at: its address, its DTE, and which tables it uses
// (§2.1.2, §2.2.2 tables 5 to 8).

import { CONTROL, EXCLUSION_BASE, OFFSET } from '../../spec/registers.ts';
import { IO_CTL, SYS_MGT } from '../../spec/dte.ts';
import { INVALID_ACCESS, INVALID_TRANSLATION } from '../../spec/events.ts';
import { INTERRUPT_RANGE_BITS, INTERRUPT_RANGE_START, inInterruptRange } from '../translation/addresses.ts';
import type { AmdIommuFeatures } from '../registers/config.ts';
import type { DeviceConfig } from './device-config.ts';
import { type CachedDevice, type DeviceTable, LOOKUP } from './device-table.ts';
import type { Request } from '../queues/events.ts';
import type { Faults } from '../queues/faults.ts';
import type { RegisterFile } from '../registers/registers.ts';
import type { Aborted } from '../transaction.ts';

/** The address is one already, or may be used as one. */
export interface Forward {
  readonly kind: 'forward';
}
/** Host tables translate the address, or Mode 0 checks it. */
export interface HostRoute {
  readonly kind: 'host';
  readonly device: CachedDevice;
}
/** Guest tables translate it first. */
export interface GuestRoute {
  readonly kind: 'guest';
  readonly device: CachedDevice;
  readonly pasid: number;
  /** The address is zero-extended, not canonical. */
  readonly extend: boolean;
}
/** A write to the interrupt range. */
export interface InterruptRoute {
  readonly kind: 'interrupt';
}
export type Route = Forward | HostRoute | GuestRoute | InterruptRoute | Aborted;

const FORWARD: Forward = { kind: 'forward' };
const INTERRUPT: InterruptRoute = { kind: 'interrupt' };

/** Requests of a device that need no further look at its DTE and the registers: CachedDevice.admitted. */
export const ADMIT = {
  /** Without a PASID, outside of the interrupt range: to host tables, or to guest ones. */
  HOST: 1,
  GUEST: 2,
  /** With a PASID: to guest tables. */
  PASID: 4,
} as const;

/** The HyperTransport ranges, which are no memory unless EFR2.HTRangeIgnore: FD_0000_0000h to FF_FFFF_FFFFh. */
const HT_RANGE_FIRST_HI = 0xfd;
const HT_RANGE_LAST_HI = 0xff;

export class Admission {
  /** Another number when registers have changed that admitted() depends on. */
  epoch = 0;
  readonly #features: AmdIommuFeatures;
  readonly #registers: RegisterFile;
  readonly #table: DeviceTable;
  readonly #faults: Faults;

  constructor(features: AmdIommuFeatures, registers: RegisterFile, table: DeviceTable, faults: Faults) {
    this.#features = features;
    this.#registers = registers;
    this.#table = table;
    this.#faults = faults;
  }

  /** Which requests of a device, but for translated ones and translation requests, need no route(). */
  admitted(device: CachedDevice): number {
    if (device.admittedAt === this.epoch) return device.admitted;
    device.admittedAt = this.epoch;
    device.admitted = this.#admit(device.config);
    return device.admitted;
  }

  #admit(config: DeviceConfig): number {
    if (!config.v || config.illegal !== null || !config.tv || config.mode > this.#features.hostLevels)
      return 0;
    const guest = config.gv && this.#registers.enabled(CONTROL.GTEn.inPlace);
    const pasid = guest ? ADMIT.PASID : 0;
    if (guest && config.giov) return pasid | ADMIT.GUEST;
    const special = !this.#features.htRangeIgnore || this.#mayExclude(config);
    return pasid | (special || config.host === null ? 0 : ADMIT.HOST);
  }

  /** The route of a request; `translated` says that its address comes from a Translation Completion. */
  route(request: Request, translated: boolean): Route {
    if (!translated && request.pasid === null && inInterruptRange(request.hi, request.lo)) {
      if (request.write && !request.translation) return INTERRUPT;
      const kind = request.translation ? INVALID_TRANSLATION.ADDRESS : INVALID_ACCESS.READ_IN_INTERRUPT_RANGE;
      return this.#faults.invalidRequest(request, kind, 'the interrupt range takes writes alone');
    }
    const device = this.#table.device(request.deviceId);
    if (device === null) return this.noDevice(request);
    const { config } = device;
    if (translated) {
      if (config.v && config.iotlb && this.#features.iotlb && config.illegal === null) return FORWARD;
      if (!config.v || config.illegal === null) {
        const why = 'DTE.V or DTE.I does not allow translated requests';
        return this.#faults.invalidRequest(request, INVALID_ACCESS.PRETRANSLATED, why);
      }
    }
    if (!config.v && !request.translation) return FORWARD;
    if (config.v && config.illegal !== null) return this.#faults.illegalDte(request, device, false);
    if (request.translation && !(config.v && config.tv && config.iotlb && this.#features.iotlb)) {
      const why = 'DTE.V, DTE.TV or DTE.I does not allow translation requests';
      return this.#faults.invalidRequest(request, INVALID_TRANSLATION.DISABLED, why);
    }
    if (!config.tv) return this.#pageFault(request, device, 'DTE.TV is 0');
    return this.#tables(request, device);
  }

  #tables(request: Request, device: CachedDevice): Route {
    const { config } = device;
    if (config.mode > this.#features.hostLevels) {
      return this.#pageFault(request, device, 'DTE.Mode is reserved or above HATS', true);
    }
    const guest = config.gv && this.#registers.enabled(CONTROL.GTEn.inPlace);
    if (request.pasid !== null) {
      if (guest) return { kind: 'guest', device, pasid: request.pasid, extend: false };
      return this.#pageFault(
        request,
        device,
        'a PASID without guest translation (GTEn, DTE.GV)',
        false,
        true,
      );
    }
    if (guest && config.giov) return { kind: 'guest', device, pasid: 0, extend: true };
    if (!this.#features.htRangeIgnore && request.hi >= HT_RANGE_FIRST_HI && request.hi <= HT_RANGE_LAST_HI) {
      const route = this.#special(request, config);
      if (route !== null) return route;
    }
    if (this.excluded(config, request.hi, request.lo)) return FORWARD;
    return { kind: 'host', device };
  }

  /** No DTE: the DeviceID lies outside of the table, or memory refused the entry. */
  noDevice(request: Request): Aborted {
    if (this.#table.fault === LOOKUP.REFUSED) {
      return this.#faults.deviceTableError(request, this.#table.fetchAddress);
    }
    const why = 'the DeviceID is outside of the device table';
    if (request.translation) return this.#faults.invalidRequest(request, INVALID_TRANSLATION.DEVICE_ID, why);
    return this.#pageFault(request, null, why);
  }

  #pageFault(
    request: Request,
    device: CachedDevice | null,
    reason: string,
    present = false,
    gn = false,
  ): Aborted {
    const { hi, lo } = request;
    const detail = { gn, hi, lo, present, permission: false, reserved: false };
    return this.#faults.pageFault(request, detail, device, reason);
  }

  /** Whether there is an exclusion range for the device. */
  #mayExclude(config: DeviceConfig): boolean {
    const base = this.#registers.get(OFFSET.EXCL_BASE);
    if ((base & EXCLUSION_BASE.ExEn.inPlace) === 0) return false;
    return (base & EXCLUSION_BASE.Allow.inPlace) !== 0 || config.exclusion;
  }

  /** Whether the exclusion range lets the address through (0020h, 0028h). */
  excluded(config: DeviceConfig, hi: number, lo: number): boolean {
    if (!this.#mayExclude(config)) return false;
    const address = (hi >>> 0) * 0x1_0000_0000 + ((lo & ~0xfff) >>> 0);
    return (
      address >= this.#registers.address(OFFSET.EXCL_BASE) &&
      address <= this.#registers.address(OFFSET.EXCL_LIMIT)
    );
  }

  /** The bytes from an address on that page tables translate: special addresses may lie within a large page. */
  untilSpecial(config: DeviceConfig, hi: number, lo: number, bytes: number): number {
    if (bytes <= 4096) return bytes;
    const address = hi * 0x1_0000_0000 + lo;
    return Math.min(bytes, this.#nextSpecial(config, address) - address);
  }

  /** log2 of the bytes of the largest aligned block around an address, at most `bits`, without special addresses. */
  withoutSpecial(config: DeviceConfig, hi: number, lo: number, bits: number): number {
    const address = hi * 0x1_0000_0000 + lo;
    let size = bits;
    for (; size > 12; size--) {
      const start = address - (address % 2 ** size);
      if (this.#nextSpecial(config, start) >= start + 2 ** size) break;
    }
    return size;
  }

  /** The first address from `from` on that page tables do not translate. */
  #nextSpecial(config: DeviceConfig, from: number): number {
    let next =
      from < INTERRUPT_RANGE_START + 2 ** INTERRUPT_RANGE_BITS
        ? Math.max(from, INTERRUPT_RANGE_START)
        : Infinity;
    const range = (start: number, end: number): void => {
      if (from < end) next = Math.min(next, Math.max(from, start));
    };
    if (!this.#features.htRangeIgnore) {
      range(HT_RANGE_FIRST_HI * 0x1_0000_0000, (HT_RANGE_LAST_HI + 1) * 0x1_0000_0000);
    }
    if (!this.#mayExclude(config)) return next;
    range(this.#registers.address(OFFSET.EXCL_BASE), this.#registers.address(OFFSET.EXCL_LIMIT) + 4096);
    return next;
  }

  /** HyperTransport's special addresses (§2.1.2, table 3); null where the page tables decide. */
  #special(request: Request, config: DeviceConfig): Route | null {
    const { hi } = request;
    const lo = request.lo >>> 0;
    const refuse = (access: number, reason: string): Aborted =>
      this.#faults.invalidRequest(
        request,
        request.translation ? INVALID_TRANSLATION.ADDRESS : access,
        reason,
      );
    if (hi === 0xfd && lo < 0xf900_0000) {
      if (!request.write)
        return refuse(INVALID_ACCESS.READ_IN_INTERRUPT_RANGE, 'a read of the interrupt range');
      if (lo >= 0xf800_0000)
        return refuse(INVALID_ACCESS.INTERRUPT_RANGE, 'HyperTransport interrupts are not modelled');
      return refuse(INVALID_ACCESS.RESERVED_INTERRUPT_RANGE, 'the reserved interrupt range');
    }
    if (hi === 0xfd && lo >= 0xf910_0000 && lo < 0xf920_0000) {
      if (config.sysMgt === SYS_MGT.TRANSLATE) return null;
      if (config.sysMgt === SYS_MGT.FORWARD && !request.translation) return FORWARD;
      return refuse(INVALID_ACCESS.SYS_MGT, 'DTE.SysMgt does not allow the system management range');
    }
    if (hi === 0xfd && lo >= 0xfc00_0000 && lo < 0xfe00_0000) {
      if (config.ioCtl === IO_CTL.TRANSLATE) return null;
      if (config.ioCtl === IO_CTL.FORWARD && !request.translation) return FORWARD;
      return refuse(INVALID_ACCESS.PORT_IO, 'DTE.IoCtl does not allow port I/O');
    }
    return refuse(INVALID_ACCESS.RESERVED_INTERRUPT_RANGE, 'a reserved HyperTransport address');
  }
}
