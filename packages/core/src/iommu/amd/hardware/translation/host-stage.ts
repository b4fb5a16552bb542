// Host tables: from a GPA to a SPA, out of the IOTLB or by a walk. Guests' tables are found through them too.

import {
  AMD_V1_FAULT,
  AMD_V1_PERM,
  type AmdV1Fault,
  AmdV1Walker,
  amdV1InWidth,
} from '../../../../pagetable/amd-v1.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import { type TableSpace, aboveHi, aboveLo } from '../../../../pagetable/walk.ts';
import type { Trace } from '../../../../trace/trace.ts';
import type { TableView } from '../../../caches/cache-tables.ts';
import { ACCESS, ALL_RIGHTS } from './access.ts';
import { inInterruptRange } from './addresses.ts';
import type { AmdIommuFeatures } from '../registers/config.ts';
import type { DeviceConfig } from '../configuration/device-config.ts';
import {
  type Domain,
  ENTRY,
  FAST_SIZE_MAX,
  HOST_SPACE,
  type Iotlb,
  type TlbStore,
  fastFlags,
  traceFill,
  traceHit,
} from './iotlb.ts';
import { type TranslationFault, hostFault, pageFault } from './translation-fault.ts';

/** Finds one translation at a time; the answer is in the fields. */
export class HostStage implements TableSpace {
  /** The start of the page, by word, and log2 of its bytes. */
  outHi = 0;
  outLo = 0;
  bits = 0;
  /** ACCESS bits without and with the DTE's. */
  permissions = 0;
  granted = 0;
  /** ENTRY flags. */
  flags = 0;
  fault: TranslationFault | null = null;
  /** Whether the IOTLB keeps what is found. */
  keep = true;
  descriptorHi = 0;
  descriptorLo = 0;
  readonly #features: AmdIommuFeatures;
  readonly #store: TlbStore;
  readonly #trace: Trace | null;
  readonly #walker: AmdV1Walker;
  readonly #tables: TableView | null;
  /** Whose guest tables are being walked. */
  #device: DeviceConfig | null = null;
  #domain: Domain | null = null;

  constructor(memory: PhysicalMemory, features: AmdIommuFeatures, iotlb: Iotlb, trace: Trace | null) {
    this.#features = features;
    this.#store = iotlb.host;
    this.#trace = trace;
    this.#walker = new AmdV1Walker(memory);
    this.#tables = iotlb.hostTables?.view() ?? null;
    this.#walker.cache = this.#tables;
  }

  /** Translates a GPA. `rights` are the DTE's for accesses of the device, and all for those of the IOMMU itself. */
  find(
    device: DeviceConfig,
    rights: number,
    domain: Domain,
    hi: number,
    lo: number,
    need: number,
    want: number,
  ): boolean {
    const { host } = device;
    if ((rights & need) !== need) {
      this.fault = pageFault(false, hi, lo, 'DTE.IR or DTE.IW denies it', true, true);
      return false;
    }
    if (host === null) return this.#identity(rights);
    if (!amdV1InWidth(host, hi, lo)) return this.#fail(AMD_V1_FAULT.WIDTH, hi, lo);
    const store = this.#store;
    const slot = store.cache.lookup(domain.host, HOST_SPACE, 0, hi, lo);
    if (slot >= 0) {
      const flags = store.flags[slot]!;
      if ((flags & ENTRY.ABSENT) !== 0) return this.#fail(AMD_V1_FAULT.NOT_PRESENT, hi, lo);
      const permissions = store.permissions[slot]!;
      if ((permissions & need) !== need) return this.#fail(AMD_V1_FAULT.PERMISSION, hi, lo);
      const writes = (want & rights & permissions & ACCESS.WRITE) !== 0;
      if ((flags & ENTRY.CLEAN) === 0 || !device.dirty || !writes) {
        this.outHi = store.cache.outHi(slot);
        this.outLo = store.cache.outLo(slot);
        this.bits = store.cache.sizeOf(slot);
        this.permissions = permissions;
        this.granted = permissions & rights;
        this.flags = flags;
        if (this.#trace !== null && this.#trace.active)
          traceHit(this.#trace, 'iotlb', domain, null, hi, lo, this.bits);
        return true;
      }
    }
    this.#tables?.bind(domain.hostTables, HOST_SPACE, hi);
    const walker = this.#walker;
    if (!walker.walk(host, hi, lo, need, want & rights)) {
      if (walker.fault === AMD_V1_FAULT.NOT_PRESENT && this.#features.npCache && this.keep) {
        store.setAbsent(domain.host, HOST_SPACE, hi, lo);
      }
      return this.#fail(walker.fault, hi, lo);
    }
    this.#found(rights, domain, hi, lo, slot < 0);
    return true;
  }

  /** Mode 0: nothing is translated. */
  #identity(rights: number): true {
    this.outHi = 0;
    this.outLo = 0;
    this.bits = 52;
    this.granted = rights;
    this.flags = 0;
    return true;
  }

  /** Answers with what the walk found, and keeps it; `missing` where nothing in the IOTLB covers the address. */
  #found(rights: number, domain: Domain, hi: number, lo: number, missing: boolean): void {
    const walker = this.#walker;
    const { permissions, leafBits } = walker;
    const flags =
      (walker.clean ? ENTRY.CLEAN : 0) |
      (walker.forceCoherent ? ENTRY.COHERENT : 0) |
      (walker.untranslatedOnly ? ENTRY.UNTRANSLATED : 0);
    this.outHi = walker.outHi;
    this.outLo = walker.outLo;
    this.bits = leafBits;
    this.permissions = permissions;
    this.granted = permissions & rights;
    this.flags = flags;
    if (!this.keep) return;
    const store = this.#store;
    const slot = missing
      ? store.cache.place(domain.host, HOST_SPACE, hi, lo, leafBits)
      : store.cache.insert(domain.host, HOST_SPACE, hi, lo, leafBits);
    store.permissions[slot] = permissions;
    store.flags[slot] = flags;
    const slow = leafBits > FAST_SIZE_MAX || inInterruptRange(hi, lo, leafBits);
    store.cache.fill(slot, walker.outHi, walker.outLo, slow ? 0 : permissions | fastFlags(flags));
    if (this.#trace !== null && this.#trace.active)
      traceFill(this.#trace, 'iotlb', domain, null, hi, lo, leafBits);
  }

  /** Guest tables of this device and domain are about to be walked: descriptor() finds them. */
  begin(device: DeviceConfig, domain: Domain): this {
    this.#device = device;
    this.#domain = domain;
    return this;
  }

  /** DTE.IR and DTE.IW are about the device's accesses, not these. */
  descriptor(hi: number, lo: number, write: boolean): boolean {
    const need = write ? ALL_RIGHTS : AMD_V1_PERM.IR;
    if (!this.find(this.#device!, ALL_RIGHTS, this.#domain!, hi, lo, need, need)) return false;
    this.descriptorHi = this.outHi | (hi & ~aboveHi(this.bits));
    this.descriptorLo = this.outLo | (lo & ~aboveLo(this.bits));
    return true;
  }

  #fail(fault: AmdV1Fault, hi: number, lo: number): false {
    this.fault = hostFault(fault, hi, lo, this.#walker.fetchAddress);
    return false;
  }
}
