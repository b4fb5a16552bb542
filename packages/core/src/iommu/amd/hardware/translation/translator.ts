// From a DTE, a PASID and an address to a physical address: IOTLB, walks, permissions. Which of the two kinds of tables
// a transaction uses is decided in amd-iommu.ts.

import type { PhysicalMemory } from '../../../../memory/physical.ts';
import { X86_FAULT, type X86Config, type X86Fault, X86Walker } from '../../../../pagetable/x86-64.ts';
import { aboveHi, aboveLo, addressOf } from '../../../../pagetable/walk.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { POW2, type TranslationCache } from '../../../caches/cache.ts';
import type { TableView } from '../../../caches/cache-tables.ts';
import { GCR3_LEVEL_BITS } from '../../spec/dte.ts';
import { ACCESS, ALL_RIGHTS, USER_SHIFT, hostAccess, hostGrants } from './access.ts';
import { canonical, inInterruptRange, offsetIn, signExtend, zeroExtended } from './addresses.ts';
import type { AmdIommuConfig, AmdIommuFeatures } from '../registers/config.ts';
import type { DeviceConfig } from '../configuration/device-config.ts';
import type { CachedDevice } from '../configuration/device-table.ts';
import { GuestRoots } from '../configuration/guest-roots.ts';
import { HostStage } from './host-stage.ts';
import {
  type Domain,
  ENTRY,
  FAST,
  FAST_SIZE_MAX,
  type GuestSpace,
  type Iotlb,
  fastFlags,
  traceFill,
  traceHit,
} from './iotlb.ts';
import { type TranslationFault, guestFault, pageFault } from './translation-fault.ts';

/** Translates one address at a time; the answer is in the fields. */
export class Translator {
  pa = 0;
  /** Bytes from `pa` on that are mapped alike, and log2 of the translation's. */
  bytes = 0;
  sizeBits = 0;
  /** ACCESS bits that the tables and the DTE grant. */
  granted = 0;
  forceCoherent = false;
  untranslatedOnly = false;
  fault: TranslationFault | null = null;
  readonly guestRoots: GuestRoots;
  readonly #features: AmdIommuFeatures;
  readonly #iotlb: Iotlb;
  readonly #trace: Trace | null;
  readonly #host: HostStage;
  readonly #guest: X86Walker;
  readonly #guestView: TableView | null;
  /** The IOTLB's parts, one step nearer. */
  readonly #guestLeaves: TranslationCache;
  /** Where users' permissions are: without USSup every access is a supervisor's. */
  readonly #userShift: number = 0;
  /** What the guest lookup found, and the entry that has it. */
  #guestSlot = 0;
  #gpaHi = 0;
  #gpaLo = 0;
  #guestBits = 0;
  #guestGranted = 0;

  constructor(
    memory: PhysicalMemory,
    config: AmdIommuConfig,
    features: AmdIommuFeatures,
    iotlb: Iotlb,
    trace: Trace | null,
  ) {
    this.#features = features;
    this.#userShift = features.us ? USER_SHIFT : 0;
    this.#iotlb = iotlb;
    this.#trace = trace;
    this.#host = new HostStage(memory, features, iotlb, trace);
    this.guestRoots = new GuestRoots(memory, config, features, iotlb, this.#host, trace);
    this.#guest = new X86Walker(memory);
    this.#guestView = iotlb.guestTables?.view() ?? null;
    this.#guestLeaves = iotlb.guest.cache;
    this.#guest.cache = this.#guestView;
  }

  #domainOf(device: CachedDevice): Domain {
    device.domain ??= this.#iotlb.domain(device.config.domainId);
    return device.domain;
  }

  #spaceOf(device: CachedDevice, domain: Domain, pasid: number): GuestSpace {
    if (device.space !== null && device.space.pasid === pasid) return device.space;
    device.space = this.#iotlb.space(domain, pasid);
    return device.space;
  }

  /**
   * Translates a GPA, which with Mode 0 is below 2^52. `need` are the ACCESS bits that the access must have; with 0
   * permissions deny nothing and `granted` tells what would be allowed. `want` are those that will be used where they
   * are granted. `keep` says whether the IOTLB may keep the answer.
   */
  translate(
    device: CachedDevice,
    hi: number,
    lo: number,
    need: number,
    want: number,
    keep: boolean,
  ): boolean {
    const { config } = device;
    const host = this.#host;
    host.keep = keep;
    if (!host.find(config, config.rights, this.#domainOf(device), hi, lo, need, want))
      return this.#fail(host.fault!);
    // Where nothing is translated every page is its own.
    const bits = config.host === null ? 12 : host.bits;
    this.#measure(hi, lo, bits);
    this.granted = host.granted;
    this.#attributes(config);
    return true;
  }

  /**
   * Translates a GVA of a PASID, through guest tables and then host ones. `extend` says that the address is
   * zero-extended rather than canonical (requests without a PASID, DTE.GIOV).
   */
  translateGuest(
    device: CachedDevice,
    pasid: number,
    extend: boolean,
    hi: number,
    lo: number,
    need: number,
    want: number,
    privileged: boolean,
    keep: boolean,
  ): boolean {
    const { config } = device;
    const domain = this.#domainOf(device);
    const host = this.#host.begin(config, domain);
    host.keep = keep;
    if (!this.#lookupGuest(device, domain, pasid, extend, hi, lo, need, want, privileged)) return false;
    const guestBits = this.#guestBits;
    const guestGranted = this.#guestGranted;
    // A translation request that the guest tables grant nothing is not translated any further.
    if (need === 0 && guestGranted === 0) {
      this.granted = 0;
      this.sizeBits = guestBits;
      return true;
    }
    const gpaHi = this.#gpaHi;
    const gpaLo = this.#gpaLo;
    const hostNeed = hostAccess(need);
    const hostWant = hostAccess(want & guestGranted);
    if (!host.find(config, config.rights, domain, gpaHi, gpaLo, hostNeed, hostWant))
      return this.#fail(host.fault!);
    this.#measure(gpaHi, gpaLo, Math.min(guestBits, host.bits));
    this.granted = guestGranted & hostGrants(host.granted);
    this.#attributes(config);
    if (keep && guestBits <= Math.min(host.bits, FAST_SIZE_MAX))
      this.#keepBoth(config, domain, hi, lo, guestBits);
    return true;
  }

  /** Keeps where the guest's page, all of which one host page has, leads: a QuickRoute asks nothing else. */
  #keepBoth(config: DeviceConfig, domain: Domain, hi: number, lo: number, bits: number): void {
    const slot = this.#guestSlot;
    const { guest } = this.#iotlb;
    const host = config.host === null ? ALL_RIGHTS : this.#host.permissions;
    let permissions = guest.permissions[slot]! & (hostGrants(host) | (hostGrants(host) << USER_SHIFT));
    // Writes have to set Dirty first.
    if ((guest.flags[slot]! & ENTRY.CLEAN) !== 0)
      permissions &= ~(ACCESS.WRITE | (ACCESS.WRITE << USER_SHIFT));
    const nested = config.host === null ? 0 : FAST.NESTED | fastFlags(this.#host.flags);
    const interrupt = inInterruptRange(hi, lo, bits) ? FAST.INTERRUPT : 0;
    const start = this.pa - (lo & ((1 << bits) - 1));
    guest.cache.fill(
      slot,
      (start / 0x1_0000_0000) | 0,
      start | 0,
      permissions | nested | interrupt | domain.age,
    );
  }

  #attributes(device: DeviceConfig): void {
    const { flags } = this.#host;
    this.forceCoherent = device.host === null ? device.mode0Coherent : (flags & ENTRY.COHERENT) !== 0;
    this.untranslatedOnly = (flags & ENTRY.UNTRANSLATED) !== 0;
  }

  // --- guest translation ---

  #lookupGuest(
    device: CachedDevice,
    domain: Domain,
    pasid: number,
    extend: boolean,
    hi: number,
    lo: number,
    need: number,
    want: number,
    privileged: boolean,
  ): boolean {
    const { config } = device;
    const { pasidBits } = this.#features;
    if (pasid >>> Math.min(pasidBits, GCR3_LEVEL_BITS * config.gcr3Levels) !== 0) {
      return this.#fail(pageFault(true, hi, lo, 'the PASID is outside of the GCR3 table'));
    }
    // Before the IOTLB is asked: both kinds of requests may share PASID 0 and its entries.
    if (!(extend ? zeroExtended : canonical)(hi, config.guestLevels)) {
      return this.#x86Fault(X86_FAULT.NOT_CANONICAL, hi, lo);
    }
    const shift = privileged ? 0 : this.#userShift;
    const space = this.#spaceOf(device, domain, pasid);
    const store = this.#iotlb.guest;
    const slot = this.#guestLeaves.lookup(domain.guest, space.leaves.id, 0, hi, lo);
    if (slot >= 0) {
      const flags = store.flags[slot]!;
      if ((flags & ENTRY.ABSENT) !== 0) return this.#x86Fault(X86_FAULT.NOT_PRESENT, hi, lo);
      const granted = (store.permissions[slot]! >>> shift) & 7;
      if ((granted & need) !== need) return this.#x86Fault(X86_FAULT.PERMISSION, hi, lo);
      const writes = (granted & want & ACCESS.WRITE) !== 0;
      if ((flags & ENTRY.CLEAN) === 0 || !writes || !this.guestRoots.control.updateDirty) {
        this.#guestSlot = slot;
        this.#guestBits = store.cache.sizeOf(slot);
        const out = this.#iotlb.guestOut[slot]!;
        this.#placeGuest((out / 0x1_0000_0000) | 0, out | 0, lo);
        this.#guestGranted = granted;
        if (this.#trace !== null && this.#trace.active)
          traceHit(this.#trace, 'iotlb-guest', domain, pasid, hi, lo, this.#guestBits);
        return true;
      }
    }
    const walkHi = extend ? signExtend(hi, config.guestLevels) : hi;
    const tables = this.guestRoots.tables(config, domain, space, hi, lo);
    if (tables === null) return this.#fail(this.guestRoots.fault!);
    // Table addresses are GPAs.
    const through = config.host === null ? null : this.#host;
    const needed = need << shift;
    if (!this.#walkGuest(domain, space, tables, through, hi, walkHi, lo, needed, want << shift)) return false;
    this.#guestGranted = (this.#guest.permissions >>> shift) & 7;
    return true;
  }

  #walkGuest(
    domain: Domain,
    space: GuestSpace,
    config: X86Config,
    through: HostStage | null,
    hi: number,
    walkHi: number,
    lo: number,
    need: number,
    want: number,
  ): boolean {
    const store = this.#iotlb.guest;
    const walker = this.#guest;
    this.#guestView?.bind(domain.guestTables, space.tables.id, hi);
    const { keep } = this.#host;
    if (!walker.walk(config, walkHi, lo, need, through, want)) {
      if (walker.nestedFault) return this.#fail(through!.fault!);
      if (walker.fault === X86_FAULT.NOT_PRESENT && this.#features.npCache && keep) {
        store.setAbsent(domain.guest, space.leaves.id, hi, lo);
      }
      return this.#x86Fault(walker.fault, hi, lo);
    }
    this.#guestBits = walker.leafBits;
    this.#placeGuest(walker.outHi, walker.outLo, lo);
    if (!keep) return true;
    const slot = store.cache.insert(domain.guest, space.leaves.id, hi, lo, walker.leafBits);
    this.#iotlb.guestOut[slot] = walker.out;
    store.permissions[slot] = walker.permissions;
    store.flags[slot] = walker.clean ? ENTRY.CLEAN : 0;
    store.cache.fill(slot, 0, 0, 0);
    this.#guestSlot = slot;
    if (this.#trace !== null && this.#trace.active) {
      traceFill(this.#trace, 'iotlb-guest', domain, space.pasid, hi, lo, walker.leafBits);
    }
    return true;
  }

  /** The GPA of an address in a page of guests, which has at most 2^30 bytes. */
  #placeGuest(outHi: number, outLo: number, lo: number): void {
    this.#gpaHi = outHi;
    this.#gpaLo = outLo | (lo & ~aboveLo(this.#guestBits));
  }

  // --- results ---

  /** The answer for a GPA from what the host lookup found; `bits` is the size of the whole translation. */
  #measure(hi: number, lo: number, bits: number): void {
    this.sizeBits = bits;
    this.bytes = POW2[bits]! - offsetIn(hi, lo, bits);
    const { outHi, outLo, bits: own } = this.#host;
    this.pa = addressOf(outHi | (hi & ~aboveHi(own)), outLo | (lo & ~aboveLo(own)));
  }

  #fail(fault: TranslationFault): false {
    this.fault = fault;
    return false;
  }

  #x86Fault(fault: X86Fault, hi: number, lo: number): false {
    return this.#fail(guestFault(fault, hi, lo, this.#guest.fetchAddress));
  }
}
