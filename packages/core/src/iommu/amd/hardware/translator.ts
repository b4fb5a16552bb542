// From a DTE, a PASID and an address to a physical address: IOTLB, walks, permissions. Which of the two kinds of tables
// a transaction uses is decided in amd-iommu.ts.

import { readField } from '../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../memory/physical.ts';
import {
  AMD_V1_FAULT,
  AMD_V1_PERM,
  type AmdV1Fault,
  AmdV1Walker,
  amdV1InWidth,
} from '../../../pagetable/amd-v1.ts';
import {
  X86_FAULT,
  type X86Config,
  type X86Fault,
  X86Walker,
  x86Config,
  x86Permissions,
} from '../../../pagetable/x86-64.ts';
import { type TableSpace, aboveHi, aboveLo, addressOf } from '../../../pagetable/walk.ts';
import type { Trace } from '../../../trace/trace.ts';
import { POW2, type TranslationCache } from '../../cache.ts';
import type { TableView } from '../../cache-tables.ts';
import { GCR3_ENTRY, GCR3_LEVEL_BITS } from '../spec/dte.ts';
import { MISC_INFO0 } from '../spec/features.ts';
import { ACCESS, ALL_RIGHTS, USER_SHIFT, hostAccess, hostGrants } from './access.ts';
import { canonical, offsetIn, signExtend, zeroExtended } from './addresses.ts';
import type { AmdIommuConfig, AmdIommuFeatures } from './config.ts';
import type { DeviceConfig } from './device-config.ts';
import type { CachedDevice } from './device-table.ts';
import {
  type Domain,
  ENTRY,
  FAST,
  FAST_BITS_SHIFT,
  FAST_SIZE_MAX,
  type GuestSpace,
  HOST_SPACE,
  type Iotlb,
  fastFlags,
} from './iotlb.ts';
import type { Translated } from './transaction.ts';
import {
  type TranslationFault,
  guestFault,
  hardwareFault,
  hostFault,
  pageFault,
} from './translation-fault.ts';

/** How CONTROL stands. */
export interface GuestControl {
  /** DTE.GCR3 is a GPA (GCR3TRPMode). */
  readonly gcr3Gpa: boolean;
  readonly updateAccessed: boolean;
  readonly updateDirty: boolean;
}

/** Bits that an entry of a GCR3 table may have. */
const GCR3_BITS = GCR3_ENTRY.$.writable;

/** Translates one address at a time; the answer is in the fields. */
export class Translator implements TableSpace {
  pa = 0;
  /** Bytes from `pa` on that are mapped alike, and log2 of the translation's. */
  bytes = 0;
  sizeBits = 0;
  /** ACCESS bits that the tables and the DTE grant. */
  granted = 0;
  forceCoherent = false;
  untranslatedOnly = false;
  fault: TranslationFault | null = null;
  descriptorHi = 0;
  descriptorLo = 0;
  control: GuestControl = { gcr3Gpa: false, updateAccessed: true, updateDirty: true };
  readonly #memory: PhysicalMemory;
  readonly #features: AmdIommuFeatures;
  readonly #iotlb: Iotlb;
  readonly #trace: Trace | null;
  readonly #host: AmdV1Walker;
  readonly #guest: X86Walker;
  readonly #hostView: TableView | null;
  readonly #guestView: TableView | null;
  /** The IOTLB's parts, one step nearer. */
  readonly #hostLeaves: TranslationCache;
  readonly #hostFast: Int32Array;
  readonly #hostOuts: Float64Array;
  readonly #guestLeaves: TranslationCache;
  readonly #guestFast: Int32Array;
  readonly #guestSpas: Float64Array;
  readonly #guestAt: Int32Array;
  readonly #permissions: Uint8Array;
  readonly #addressBits: number;
  readonly #pair = new Uint32Array(2);
  /** The device and domain whose guest tables are being walked. */
  #device: DeviceConfig | null = null;
  #domain: Domain | null = null;
  /**
   * What the host lookup below found: output by word, log2 of its bytes, ACCESS bits without and with the DTE's, entry
   * flags.
   */
  #hostHi = 0;
  #hostLo = 0;
  #hostBits = 0;
  #hostPermissions = 0;
  #hostGranted = 0;
  #hostFlags = 0;
  /** What the guest lookup found, and the entry that has it. */
  #guestSlot = 0;
  #gpaHi = 0;
  #gpaLo = 0;
  #guestBits = 0;
  #guestGranted = 0;
  /** Whether the IOTLB keeps what is found. */
  #keep = true;

  constructor(
    memory: PhysicalMemory,
    config: AmdIommuConfig,
    features: AmdIommuFeatures,
    iotlb: Iotlb,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#features = features;
    this.#iotlb = iotlb;
    this.#trace = trace;
    this.#host = new AmdV1Walker(memory);
    this.#guest = new X86Walker(memory);
    this.#hostView = iotlb.hostTables?.view() ?? null;
    this.#guestView = iotlb.guestTables?.view() ?? null;
    this.#hostLeaves = iotlb.host.cache;
    this.#hostFast = iotlb.host.fast;
    this.#hostOuts = iotlb.host.out;
    this.#guestLeaves = iotlb.guest.cache;
    this.#guestFast = iotlb.guest.fast;
    this.#guestSpas = iotlb.guestSpas;
    this.#guestAt = iotlb.guestAt;
    this.#host.cache = this.#hostView;
    this.#guest.cache = this.#guestView;
    this.#addressBits = readField(MISC_INFO0.PAsize, [config.miscInfo0]);
    // As a processor with CR0.WP == 1, CR4.SMEP == 0 and, with NXSup, EFER.NXE == 1.
    this.#permissions = x86Permissions({ writeProtect: true, smep: false, noExecute: features.nx });
  }

  /**
   * The outcome of an access by GPA where the IOTLB has all that is needed; null says nothing but that translate() has
   * to be asked. `need` is not 0.
   */
  quick(device: CachedDevice, hi: number, lo: number, need: number): Translated | null {
    const { rights, host, dirty } = device.config;
    if (host === null || (rights & need) !== need || !amdV1InWidth(host, hi, lo)) return null;
    const domain = this.#domainOf(device);
    const slot = this.#hostLeaves.lookup(domain.host, HOST_SPACE, 0, hi, lo);
    if (slot < 0) return null;
    const fast = this.#hostFast[slot]!;
    if ((fast & need) !== need || (dirty && (fast & FAST.CLEAN) !== 0)) return null;
    if (this.#trace !== null && this.#trace.active) return null;
    return fastHit(fast, this.#hostOuts[slot]!, lo, (fast & FAST.COHERENT) !== 0);
  }

  /** The same by GVA, as translateGuest(). */
  quickGuest(
    device: CachedDevice,
    pasid: number,
    extend: boolean,
    hi: number,
    lo: number,
    need: number,
    privileged: boolean,
  ): Translated | null {
    const { config } = device;
    const { space, domain } = device;
    if (space === null || space.pasid !== pasid || device.knownAt !== this.#iotlb.epoch) return null;
    if (config.rights !== ALL_RIGHTS || !(extend ? zeroExtended : canonical)(hi, config.guestLevels))
      return null;
    const slot = this.#guestLeaves.lookup(domain!.guest, space.leaves.id, 0, hi, lo);
    if (slot < 0 || this.#guestAt[slot] !== domain!.hostAge) return null;
    const fast = this.#guestFast[slot]!;
    const wanted = privileged || !this.#features.us ? need : need << USER_SHIFT;
    if ((fast & wanted) !== wanted || (config.dirty && (fast & FAST.CLEAN) !== 0)) return null;
    if (((fast & FAST.NESTED) !== 0) !== (config.host !== null)) return null;
    if (this.#trace !== null && this.#trace.active) return null;
    const coherent = config.host === null ? config.mode0Coherent : (fast & FAST.COHERENT) !== 0;
    return fastHit(fast, this.#guestSpas[slot]!, lo, coherent);
  }

  /** The domain of a device; looked for once in the life of either. */
  #domainOf(device: CachedDevice): Domain {
    const { epoch } = this.#iotlb;
    if (device.domain !== null && device.knownAt === epoch) return device.domain;
    device.domain = this.#iotlb.domain(device.config.domainId);
    device.knownAt = epoch;
    device.space = null;
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
    this.#keep = keep;
    const { config } = device;
    const domain = this.#domainOf(device);
    if (!this.#lookupHost(config, config.rights, domain, hi, lo, need, want)) return false;
    // Where nothing is translated every page is its own.
    const bits = config.host === null ? 12 : this.#hostBits;
    this.#measure(hi, lo, bits);
    this.granted = this.#hostGranted;
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
    this.#keep = keep;
    const { config } = device;
    const domain = this.#domainOf(device);
    this.#device = config;
    this.#domain = domain;
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
    if (!this.#lookupHost(config, config.rights, domain, gpaHi, gpaLo, hostNeed, hostWant)) return false;
    this.#measure(gpaHi, gpaLo, Math.min(guestBits, this.#hostBits));
    this.granted = guestGranted & hostGrants(this.#hostGranted);
    this.#attributes(config);
    if (keep && guestBits <= Math.min(this.#hostBits, FAST_SIZE_MAX))
      this.#keepBoth(config, domain, lo, guestBits);
    return true;
  }

  /** Keeps where the guest's page, all of which one host page has, leads: quickGuest() asks nothing else. */
  #keepBoth(config: DeviceConfig, domain: Domain, lo: number, bits: number): void {
    const slot = this.#guestSlot;
    const { guest } = this.#iotlb;
    const host = config.host === null ? ALL_RIGHTS : this.#hostPermissions;
    let permissions = guest.permissions[slot]! & (hostGrants(host) | (hostGrants(host) << USER_SHIFT));
    // Writes have to set Dirty first.
    if ((guest.flags[slot]! & ENTRY.CLEAN) !== 0)
      permissions &= ~(ACCESS.WRITE | (ACCESS.WRITE << USER_SHIFT));
    const nested = config.host === null ? 0 : FAST.NESTED | fastFlags(this.#hostFlags);
    this.#guestFast[slot] = permissions | nested | (bits << FAST_BITS_SHIFT);
    this.#guestSpas[slot] = this.pa - (lo & ((1 << bits) - 1));
    this.#guestAt[slot] = domain.hostAge;
  }

  #attributes(device: DeviceConfig): void {
    this.forceCoherent =
      device.host === null ? device.mode0Coherent : (this.#hostFlags & ENTRY.COHERENT) !== 0;
    this.untranslatedOnly = (this.#hostFlags & ENTRY.UNTRANSLATED) !== 0;
  }

  // --- host translation ---

  /** `rights` are the DTE's for accesses of the device, and all for those of the IOMMU itself. */
  #lookupHost(
    device: DeviceConfig,
    rights: number,
    domain: Domain,
    hi: number,
    lo: number,
    need: number,
    want: number,
  ): boolean {
    const { host } = device;
    if ((rights & need) !== need)
      return this.#fail(pageFault(false, hi, lo, 'DTE.IR or DTE.IW denies it', true, true));
    if (host === null) {
      this.#hostHi = 0;
      this.#hostLo = 0;
      this.#hostBits = 52;
      this.#hostGranted = rights;
      this.#hostFlags = 0;
      return true;
    }
    if (!amdV1InWidth(host, hi, lo)) return this.#v1Fault(AMD_V1_FAULT.WIDTH, hi, lo);
    const writes = (want & rights & ACCESS.WRITE) !== 0;
    const store = this.#iotlb.host;
    const slot = this.#hostLeaves.lookup(domain.host, HOST_SPACE, 0, hi, lo);
    if (slot >= 0) {
      const flags = store.flags[slot]!;
      if ((flags & ENTRY.ABSENT) !== 0) return this.#v1Fault(AMD_V1_FAULT.NOT_PRESENT, hi, lo);
      const permissions = store.permissions[slot]!;
      if ((permissions & need) !== need) return this.#v1Fault(AMD_V1_FAULT.PERMISSION, hi, lo);
      if ((flags & ENTRY.CLEAN) === 0 || !device.dirty || !writes || (permissions & ACCESS.WRITE) === 0) {
        const out = store.out[slot]!;
        this.#hostHi = (out / 0x1_0000_0000) | 0;
        this.#hostLo = out | 0;
        this.#hostBits = store.cache.sizeOf(slot);
        this.#hostPermissions = permissions;
        this.#hostGranted = permissions & rights;
        this.#hostFlags = flags;
        if (this.#trace !== null && this.#trace.active)
          this.#traceHit('iotlb', domain, null, hi, lo, this.#hostBits);
        return true;
      }
    }
    this.#hostView?.bind(domain.hostTables, HOST_SPACE, hi);
    const walker = this.#host;
    if (!walker.walk(host, hi, lo, need, want & rights)) {
      if (walker.fault === AMD_V1_FAULT.NOT_PRESENT && this.#features.npCache && this.#keep) {
        const absent = store.cache.insert(domain.host, HOST_SPACE, hi, lo, 12);
        store.flags[absent] = ENTRY.ABSENT;
        store.fast[absent] = 0;
      }
      return this.#v1Fault(walker.fault, hi, lo);
    }
    this.#keepHost(rights, domain, hi, lo);
    return true;
  }

  #keepHost(rights: number, domain: Domain, hi: number, lo: number): void {
    const walker = this.#host;
    const flags =
      (walker.clean ? ENTRY.CLEAN : 0) |
      (walker.forceCoherent ? ENTRY.COHERENT : 0) |
      (walker.untranslatedOnly ? ENTRY.UNTRANSLATED : 0);
    this.#hostHi = walker.outHi;
    this.#hostLo = walker.outLo;
    this.#hostBits = walker.leafBits;
    this.#hostPermissions = walker.permissions;
    this.#hostGranted = walker.permissions & rights;
    this.#hostFlags = flags;
    if (!this.#keep) return;
    const store = this.#iotlb.host;
    const slot = store.cache.insert(domain.host, HOST_SPACE, hi, lo, walker.leafBits);
    store.out[slot] = walker.out;
    store.permissions[slot] = walker.permissions;
    store.flags[slot] = flags;
    const size = walker.leafBits;
    store.fast[slot] =
      size > FAST_SIZE_MAX ? 0 : walker.permissions | fastFlags(flags) | (size << FAST_BITS_SHIFT);
    if (this.#trace !== null && this.#trace.active)
      this.#traceFill('iotlb', domain, null, hi, lo, walker.leafBits);
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
    // Without USSup the U/S bits count for nothing: every access is a supervisor's.
    const user = !privileged && this.#features.us;
    const shift = user ? USER_SHIFT : 0;
    const space = this.#spaceOf(device, domain, pasid);
    const store = this.#iotlb.guest;
    const slot = this.#guestLeaves.lookup(domain.guest, space.leaves.id, 0, hi, lo);
    if (slot >= 0) {
      const flags = store.flags[slot]!;
      if ((flags & ENTRY.ABSENT) !== 0) return this.#x86Fault(X86_FAULT.NOT_PRESENT, hi, lo);
      const granted = (store.permissions[slot]! >>> shift) & 7;
      if ((granted & need) !== need) return this.#x86Fault(X86_FAULT.PERMISSION, hi, lo);
      const writes = (granted & want & ACCESS.WRITE) !== 0;
      if ((flags & ENTRY.CLEAN) === 0 || !writes || !this.control.updateDirty) {
        this.#guestSlot = slot;
        this.#guestBits = store.cache.sizeOf(slot);
        this.#placeGuest((store.out[slot]! / 0x1_0000_0000) | 0, store.out[slot]! | 0, lo);
        this.#guestGranted = granted;
        if (this.#trace !== null && this.#trace.active)
          this.#traceHit('iotlb-guest', domain, pasid, hi, lo, this.#guestBits);
        return true;
      }
    }
    const walkHi = extend ? signExtend(hi, config.guestLevels) : hi;
    const tables = this.#guestConfig(config, domain, space, hi, lo);
    if (tables === null) return false;
    return this.#walkGuest(domain, space, tables, hi, walkHi, lo, need << shift, want << shift, shift);
  }

  #walkGuest(
    domain: Domain,
    space: GuestSpace,
    config: X86Config,
    hi: number,
    walkHi: number,
    lo: number,
    need: number,
    want: number,
    shift: number,
  ): boolean {
    const device = this.#device!;
    const store = this.#iotlb.guest;
    const walker = this.#guest;
    this.#guestView?.bind(domain.guestTables, space.tables.id, hi);
    // Table addresses are GPAs.
    const resolver = device.host === null ? null : this;
    if (!walker.walk(config, walkHi, lo, need, resolver, want)) {
      if (walker.nestedFault) return false;
      if (walker.fault === X86_FAULT.NOT_PRESENT && this.#features.npCache && this.#keep) {
        const absent = store.cache.insert(domain.guest, space.leaves.id, hi, lo, 12);
        store.flags[absent] = ENTRY.ABSENT;
        store.fast[absent] = 0;
      }
      return this.#x86Fault(walker.fault, hi, lo);
    }
    this.#guestBits = walker.leafBits;
    this.#placeGuest(walker.outHi, walker.outLo, lo);
    this.#guestGranted = (walker.permissions >>> shift) & 7;
    if (!this.#keep) return true;
    const slot = store.cache.insert(domain.guest, space.leaves.id, hi, lo, walker.leafBits);
    store.out[slot] = walker.out;
    store.permissions[slot] = walker.permissions;
    store.flags[slot] = walker.clean ? ENTRY.CLEAN : 0;
    store.fast[slot] = 0;
    this.#guestSlot = slot;
    if (this.#trace !== null && this.#trace.active) {
      this.#traceFill('iotlb-guest', domain, space.pasid, hi, lo, walker.leafBits);
    }
    return true;
  }

  /** The GPA of an address in a page of guests, which has at most 2^30 bytes. */
  #placeGuest(outHi: number, outLo: number, lo: number): void {
    this.#gpaHi = outHi;
    this.#gpaLo = outLo | (lo & ~aboveLo(this.#guestBits));
  }

  /** The tables of a guest space, from its CR3; null with the fault. */
  #guestConfig(
    device: DeviceConfig,
    domain: Domain,
    space: GuestSpace,
    hi: number,
    lo: number,
  ): X86Config | null {
    const { updateAccessed, updateDirty } = this.control;
    const key = device.guestLevels | (updateAccessed ? 8 : 0) | (updateDirty ? 16 : 0);
    if (space.config !== null && space.configKey === key) return space.config;
    if (space.root < 0) {
      const root = this.#fetchRoot(device, space.pasid, hi, lo);
      if (root < 0) return null;
      this.#iotlb.keepRoot(space, root);
      if (this.#trace !== null && this.#trace.active) {
        this.#trace.emit({
          kind: 'cache-fill',
          cache: 'gcr3',
          domainId: domain.id,
          pasid: space.pasid,
          root,
        });
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

  /** §2.2.6: walks the GCR3 table of one to three levels; -1 with the fault. */
  #fetchRoot(device: DeviceConfig, pasid: number, hi: number, lo: number): number {
    let base = device.gcr3Root;
    for (let level = device.gcr3Levels - 1; level >= 0; level--) {
      let address = base + ((pasid >>> (GCR3_LEVEL_BITS * level)) & 0x1ff) * 8;
      // The pointer in the DTE is a GPA with GCR3TRPMode alone, those in tables always are.
      const spa = level === device.gcr3Levels - 1 && !this.control.gcr3Gpa;
      if (!spa) {
        if (!this.descriptor((address / 0x1_0000_0000) | 0, address | 0, false)) return -1;
        address = addressOf(this.descriptorHi, this.descriptorLo);
      }
      if (!this.#memory.load64(address, this.#pair)) {
        this.#fail(hardwareFault(true, address, 'a GCR3 table entry could not be read'));
        return -1;
      }
      if ((this.#pair[0]! & 1) === 0) {
        this.#fail(pageFault(true, hi, lo, 'the GCR3 table entry is not valid'));
        return -1;
      }
      if ((this.#pair[0]! & ~GCR3_BITS[0]!) !== 0 || (this.#pair[1]! & ~GCR3_BITS[1]!) !== 0) {
        this.#fail(pageFault(true, hi, lo, 'a reserved bit of a GCR3 table entry is set', true, false, true));
        return -1;
      }
      base = addressOf(this.#pair[1]! & 0xf_ffff, this.#pair[0]! & ~0xfff);
    }
    return base;
  }

  /**
   * Finds the physical address of a guest's table entry. DTE.IR and DTE.IW are about the device's accesses, not this
   * one.
   */
  descriptor(hi: number, lo: number, write: boolean): boolean {
    const need = write ? AMD_V1_PERM.IR | AMD_V1_PERM.IW : AMD_V1_PERM.IR;
    if (!this.#lookupHost(this.#device!, ALL_RIGHTS, this.#domain!, hi, lo, need, need)) return false;
    this.descriptorHi = this.#hostHi | (hi & ~aboveHi(this.#hostBits));
    this.descriptorLo = this.#hostLo | (lo & ~aboveLo(this.#hostBits));
    return true;
  }

  // --- results ---

  /** The answer for a GPA from what the host lookup found; `bits` is the size of the whole translation. */
  #measure(hi: number, lo: number, bits: number): void {
    this.sizeBits = bits;
    this.bytes = POW2[bits]! - offsetIn(hi, lo, bits);
    const paHi = this.#hostHi | (hi & ~aboveHi(this.#hostBits));
    this.pa = addressOf(paHi, this.#hostLo | (lo & ~aboveLo(this.#hostBits)));
  }

  #fail(fault: TranslationFault): false {
    this.fault = fault;
    return false;
  }

  #v1Fault(fault: AmdV1Fault, hi: number, lo: number): false {
    return this.#fail(hostFault(fault, hi, lo, this.#host.fetchAddress));
  }

  #x86Fault(fault: X86Fault, hi: number, lo: number): false {
    return this.#fail(guestFault(fault, hi, lo, this.#guest.fetchAddress));
  }

  #traceHit(cache: string, domain: Domain, pasid: number | null, hi: number, lo: number, bits: number): void {
    this.#trace!.emit({
      kind: 'cache-hit',
      cache,
      domainId: domain.id,
      pasid,
      hi: hi >>> 0,
      lo: lo >>> 0,
      bits,
    });
  }

  #traceFill(
    cache: string,
    domain: Domain,
    pasid: number | null,
    hi: number,
    lo: number,
    bits: number,
  ): void {
    this.#trace!.emit({
      kind: 'cache-fill',
      cache,
      domainId: domain.id,
      pasid,
      hi: hi >>> 0,
      lo: lo >>> 0,
      bits,
    });
  }
}

/** What FAST says of an address in the page at `out`. */
function fastHit(fast: number, out: number, lo: number, forceCoherent: boolean): Translated {
  const size = 1 << ((fast >>> FAST_BITS_SHIFT) & 31);
  const offset = lo & (size - 1);
  return { kind: 'translated', pa: out + offset, bytes: size - offset, forceCoherent };
}
