// The GCR3 tables (§2.2.6): where the tables of a PASID start, and what they are.

import { readField } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import { addressOf } from '../../../../pagetable/walk.ts';
import { type X86Config, x86Config, x86Permissions } from '../../../../pagetable/x86-64.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { GCR3_ENTRY, GCR3_LEVEL_BITS } from '../../spec/dte.ts';
import { MISC_INFO0 } from '../../spec/features.ts';
import type { AmdIommuConfig, AmdIommuFeatures } from '../registers/config.ts';
import type { DeviceConfig } from './device-config.ts';
import type { HostStage } from '../translation/host-stage.ts';
import type { Domain, GuestSpace, Iotlb } from '../translation/iotlb.ts';
import { type TranslationFault, hardwareFault, pageFault } from '../translation/translation-fault.ts';

/** How CONTROL stands. */
export interface GuestControl {
  /** DTE.GCR3 is a GPA (GCR3TRPMode). */
  readonly gcr3Gpa: boolean;
  readonly updateAccessed: boolean;
  readonly updateDirty: boolean;
}

/** Bits that an entry of a GCR3 table may have. */
const GCR3_BITS = GCR3_ENTRY.$.writable;

export class GuestRoots {
  fault: TranslationFault | null = null;
  control: GuestControl = { gcr3Gpa: false, updateAccessed: true, updateDirty: true };
  readonly #memory: PhysicalMemory;
  readonly #iotlb: Iotlb;
  readonly #host: HostStage;
  readonly #trace: Trace | null;
  readonly #permissions: Uint8Array;
  readonly #addressBits: number;
  readonly #pair = new Uint32Array(2);

  constructor(
    memory: PhysicalMemory,
    config: AmdIommuConfig,
    features: AmdIommuFeatures,
    iotlb: Iotlb,
    host: HostStage,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#iotlb = iotlb;
    this.#host = host;
    this.#trace = trace;
    this.#addressBits = readField(MISC_INFO0.PAsize, [config.miscInfo0]);
    // As a processor with CR0.WP == 1, CR4.SMEP == 0 and, with NXSup, EFER.NXE == 1.
    this.#permissions = x86Permissions({ writeProtect: true, smep: false, noExecute: features.nx });
  }

  /**
   * The tables of a guest space, from its CR3; null with the fault. The host stage has been told whose they are
   * (HostStage.begin()), and `hi` and `lo` are the address to report.
   */
  tables(device: DeviceConfig, domain: Domain, space: GuestSpace, hi: number, lo: number): X86Config | null {
    const { updateAccessed, updateDirty } = this.control;
    const key = device.guestLevels | (updateAccessed ? 8 : 0) | (updateDirty ? 16 : 0);
    if (space.config !== null && space.configKey === key) return space.config;
    if (space.root < 0) {
      const root = this.#fetch(device, space.pasid, hi, lo);
      if (root < 0) return null;
      this.#iotlb.keepRoot(space, root);
      if (this.#trace !== null && this.#trace.active) {
        const { pasid } = space;
        this.#trace.emit({ kind: 'cache-fill', cache: 'gcr3', domainId: domain.id, pasid, root });
      }
    }
    space.configKey = key;
    space.config = x86Config({
      levels: device.guestLevels,
      root: space.root,
      addressBits: this.#addressBits,
      pages1G: true,
      accessed: updateAccessed,
      dirty: updateDirty,
      permissions: this.#permissions,
    });
    return space.config;
  }

  /** Walks the GCR3 table of one to three levels; -1 with the fault. */
  #fetch(device: DeviceConfig, pasid: number, hi: number, lo: number): number {
    const host = this.#host;
    const pair = this.#pair;
    let base = device.gcr3Root;
    for (let level = device.gcr3Levels - 1; level >= 0; level--) {
      let address = base + ((pasid >>> (GCR3_LEVEL_BITS * level)) & 0x1ff) * 8;
      // The pointer in the DTE is a GPA with GCR3TRPMode alone, those in tables always are.
      const spa = level === device.gcr3Levels - 1 && !this.control.gcr3Gpa;
      if (!spa) {
        if (!host.descriptor((address / 0x1_0000_0000) | 0, address | 0, false))
          return this.#fail(host.fault!);
        address = addressOf(host.descriptorHi, host.descriptorLo);
      }
      if (!this.#memory.load64(address, pair)) {
        return this.#fail(hardwareFault(true, address, 'a GCR3 table entry could not be read'));
      }
      if ((pair[0]! & 1) === 0) {
        return this.#fail(pageFault(true, hi, lo, 'the GCR3 table entry is not valid'));
      }
      if ((pair[0]! & ~GCR3_BITS[0]!) !== 0 || (pair[1]! & ~GCR3_BITS[1]!) !== 0) {
        const reason = 'a reserved bit of a GCR3 table entry is set';
        return this.#fail(pageFault(true, hi, lo, reason, true, false, true));
      }
      base = addressOf(pair[1]! & 0xf_ffff, pair[0]! & ~0xfff);
    }
    return base;
  }

  #fail(fault: TranslationFault): -1 {
    this.fault = fault;
    return -1;
  }
}
