// The device table (§2.2.2), whole or in segments, and the cache of its entries. What was fetched is kept in whatever
// state it was, illegal entries too, until INVALIDATE_DEVTAB_ENTRY takes it (§2.4.2).

import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { DTE_BYTES, DTE_WORDS } from '../../spec/dte.ts';
import { type DeviceConfig, DteDecoder } from './device-config.ts';
import type { AmdIommuFeatures } from '../registers/config.ts';
import type { Domain, GuestSpace } from '../translation/iotlb.ts';
import type { QuickRoute } from './quick-routes.ts';

/** A DTE in the cache. */
export class CachedDevice {
  readonly config: DeviceConfig;
  /** An IO_PAGE_FAULT of the device was logged since the entry was fetched (DTE.SE). */
  faulted = false;
  /** What Admission worked out for it (ADMIT), and Admission.epoch then. */
  admitted = 0;
  admittedAt = -1;
  /** Its domain and the last PASID's space in the IOTLB, until that starts over. */
  domain: Domain | null = null;
  space: GuestSpace | null = null;
  /** Of requests without a PASID, and with the last one; QuickRoutes looks after them. */
  plainRoute: QuickRoute | null = null;
  pasidRoute: QuickRoute | null = null;

  constructor(config: DeviceConfig) {
    this.config = config;
  }
}

/** One segment: its base, and how many entries it has. */
export interface TableSegment {
  readonly base: number;
  readonly entries: number;
}

export const LOOKUP = { OUTSIDE: 'outside', REFUSED: 'refused' } as const;
export type LookupFault = (typeof LOOKUP)[keyof typeof LOOKUP];

export class DeviceTable {
  /** Segments, as the registers say: 1, 2, 4 or 8. DeviceID's upper bits select one. */
  segments: readonly TableSegment[] = [{ base: 0, entries: 0 }];
  /** Why the last lookup failed, and the address that memory refused. */
  fault: LookupFault = LOOKUP.OUTSIDE;
  fetchAddress = 0;
  readonly #memory: PhysicalMemory;
  readonly #decoder: DteDecoder;
  readonly #limit: number;
  readonly #trace: Trace | null;
  readonly #cache = new Map<number, CachedDevice>();
  /** The one that was looked up last. */
  #last: CachedDevice | null = null;
  #lastId = -1;
  /** The one that was found last: null where anything has changed since then that it depends on. */
  lastRoute: QuickRoute | null = null;
  readonly #words = new Uint32Array(DTE_WORDS);
  readonly #pair = new Uint32Array(2);

  constructor(memory: PhysicalMemory, features: AmdIommuFeatures, limit: number, trace: Trace | null) {
    this.#memory = memory;
    this.#decoder = new DteDecoder(features);
    this.#limit = limit;
    this.#trace = trace;
  }

  /** The cached DTE of a device; null where there is none. */
  known(deviceId: number): CachedDevice | null {
    if (deviceId === this.#lastId) return this.#last;
    const known = this.#cache.get(deviceId);
    if (known === undefined) return null;
    this.#last = known;
    this.#lastId = deviceId;
    return known;
  }

  /** The DTE of a device, from the cache or the table; null with `fault`. */
  device(deviceId: number): CachedDevice | null {
    const known = this.known(deviceId);
    if (known !== null) return known;
    const { length } = this.segments;
    const perSegment = 0x1_0000 / length;
    const segment = this.segments[Math.floor(deviceId / perSegment)]!;
    const index = deviceId % perSegment;
    if (index >= segment.entries) {
      this.fault = LOOKUP.OUTSIDE;
      return null;
    }
    const address = segment.base + index * DTE_BYTES;
    if (!this.#load(address)) {
      this.fault = LOOKUP.REFUSED;
      this.fetchAddress = address;
      return null;
    }
    const config = this.#decoder.decode(deviceId, this.#words);
    const device = new CachedDevice(config);
    this.#makeRoom();
    this.#cache.set(deviceId, device);
    if (this.#trace !== null && this.#trace.active) {
      const illegal = config.illegal?.reason ?? null;
      this.#trace.emit({ kind: 'cache-fill', cache: 'dte', deviceId, domainId: config.domainId, illegal });
    }
    return device;
  }

  #load(address: number): boolean {
    for (let i = 0; i < DTE_WORDS; i += 2) {
      if (!this.#memory.load64(address + i * 4, this.#pair)) return false;
      this.#words[i] = this.#pair[0]!;
      this.#words[i + 1] = this.#pair[1]!;
    }
    return true;
  }

  #makeRoom(): void {
    if (this.#cache.size < this.#limit) return;
    const oldest = this.#cache.keys().next().value!;
    this.#cache.delete(oldest);
    this.#forgetLast();
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'cache-evict', cache: 'dte', deviceId: oldest });
    }
  }

  /** INVALIDATE_DEVTAB_ENTRY (§2.4.2). */
  invalidate(deviceId: number): void {
    this.#cache.delete(deviceId);
    this.#forgetLast();
  }

  invalidateAll(): void {
    this.#cache.clear();
    this.#forgetLast();
  }

  #forgetLast(): void {
    this.#lastId = -1;
    this.lastRoute = null;
  }

  /** Something else has changed that routes depend on. */
  forgetRoute(): void {
    this.lastRoute = null;
  }

  /** The IOTLB gave up its tags: devices that hold them look them up again. Entries stay. */
  forgetTags(): void {
    for (const device of this.#cache.values()) {
      device.domain = null;
      device.space = null;
      device.plainRoute = null;
      device.pasidRoute = null;
    }
    this.lastRoute = null;
  }

  /** The cached entries; for looking in from outside. */
  cached(): Iterable<CachedDevice> {
    return this.#cache.values();
  }
}
