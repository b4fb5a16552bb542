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
  type EntrySpace,
  X86_FAULT,
  type X86Config,
  type X86Fault,
  X86Walker,
  x86Config,
  x86Permissions,
} from '../../../pagetable/x86-64.ts';
import type { Trace } from '../../../trace/trace.ts';
import { GCR3_ENTRY, GCR3_LEVEL_BITS } from '../spec/dte.ts';
import { MISC_INFO0 } from '../spec/features.ts';
import type { AmdIommuConfig, AmdIommuFeatures } from './config.ts';
import type { DeviceConfig } from './device-config.ts';
import { type Domain, ENTRY, type GuestSpace, HOST_SPACE, type Iotlb, type TableView } from './iotlb.ts';

/** What an access does, or is granted. The first two are AMD_V1_PERM. */
export const ACCESS = { READ: 1, WRITE: 2, EXECUTE: 4 } as const;

/** What translation ran into. */
export interface TranslationFault {
  /** IO_PAGE_FAULT, or PAGE_TAB_HARDWARE_ERROR. */
  readonly kind: 'page-fault' | 'hardware';
  /** The address is a GVA; else it is a GPA. */
  readonly gn: boolean;
  /** The address to report, as two u32: of the access, or of the entry that memory refused. */
  readonly hi: number;
  readonly lo: number;
  /** PR, PE and RZ of IO_PAGE_FAULT. */
  readonly present: boolean;
  readonly permission: boolean;
  readonly reserved: boolean;
  /** For people. */
  readonly reason: string;
}

/** How CONTROL stands. */
export interface GuestControl {
  /** DTE.GCR3 is a GPA (GCR3TRPMode). */
  readonly gcr3Gpa: boolean;
  readonly updateAccessed: boolean;
  readonly updateDirty: boolean;
}

const V1_REASONS: Readonly<Record<AmdV1Fault, string>> = {
  [AMD_V1_FAULT.NONE]: '',
  [AMD_V1_FAULT.WIDTH]: 'the address is wider than DTE.Mode resolves',
  [AMD_V1_FAULT.NOT_PRESENT]: 'a host page table entry is not present',
  [AMD_V1_FAULT.LEVEL]: 'Next Level is not below the level of its entry',
  [AMD_V1_FAULT.SKIPPED]: 'address bits of a skipped level are not zero',
  [AMD_V1_FAULT.RESERVED]: 'a reserved bit of a host page table entry is set',
  [AMD_V1_FAULT.PAGE_SIZE]: 'a leaf says a page size that its level does not have',
  [AMD_V1_FAULT.PERMISSION]: 'IR or IW of the host page tables denies it',
  [AMD_V1_FAULT.FETCH]: 'a host page table entry could not be read',
  [AMD_V1_FAULT.UPDATE]: 'a host page table entry could not be updated',
};
const X86_REASONS: Readonly<Partial<Record<X86Fault, string>>> = {
  [X86_FAULT.NOT_CANONICAL]: 'the guest address is not canonical',
  [X86_FAULT.NOT_PRESENT]: 'a guest page table entry is not present',
  [X86_FAULT.RESERVED]: 'a reserved bit of a guest page table entry is set',
  [X86_FAULT.PERMISSION]: 'the guest page tables deny it',
  [X86_FAULT.FETCH]: 'a guest page table entry could not be read',
  [X86_FAULT.UPDATE]: 'a guest page table entry could not be updated',
};

const ALL_RIGHTS = AMD_V1_PERM.IR | AMD_V1_PERM.IW;

/** Bits that an entry of a GCR3 table may have. */
const GCR3_BITS = GCR3_ENTRY.$.writable;

/** Translates one address at a time; the answer is in the fields. */
export class Translator implements EntrySpace {
  pa = 0;
  /** Bytes from `pa` on that are mapped alike, and log2 of the translation's. */
  bytes = 0;
  sizeBits = 0;
  /** ACCESS bits that the tables and the DTE grant. */
  granted = 0;
  forceCoherent = false;
  untranslatedOnly = false;
  fault: TranslationFault | null = null;
  control: GuestControl = { gcr3Gpa: false, updateAccessed: true, updateDirty: true };
  readonly #memory: PhysicalMemory;
  readonly #features: AmdIommuFeatures;
  readonly #iotlb: Iotlb;
  readonly #trace: Trace | null;
  readonly #host: AmdV1Walker;
  readonly #guest: X86Walker;
  readonly #hostView: TableView | null;
  readonly #guestView: TableView | null;
  readonly #permissions: Uint8Array;
  readonly #addressBits: number;
  readonly #pair = new Uint32Array(2);
  /** The device and domain whose guest tables are being walked. */
  #device: DeviceConfig | null = null;
  #domain: Domain | null = null;
  /** What the host lookup below found: output, log2 of its bytes, ACCESS bits, entry flags. */
  #hostOut = 0;
  #hostBits = 0;
  #hostGranted = 0;
  #hostFlags = 0;
  /** What the guest lookup found. */
  #gpa = 0;
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
    this.#host.cache = this.#hostView;
    this.#guest.cache = this.#guestView;
    this.#addressBits = readField(MISC_INFO0.PAsize, [config.miscInfo0]);
    // As a processor with CR0.WP == 1, CR4.SMEP == 0 and, with NXSup, EFER.NXE == 1.
    this.#permissions = x86Permissions({ writeProtect: true, smep: false, noExecute: features.nx });
  }

  /**
   * Translates a GPA, which with Mode 0 is below 2^52. `need` are the ACCESS bits that the access must have; with 0 permissions deny nothing and
   * `granted` tells what would be allowed. `want` are those that will be used where they are granted. `keep` says
   * whether the IOTLB may keep the answer.
   */
  translate(
    device: DeviceConfig,
    hi: number,
    lo: number,
    need: number,
    want: number,
    keep: boolean,
  ): boolean {
    this.#keep = keep;
    const domain = this.#iotlb.domain(device.domainId);
    if (!this.#lookupHost(device, device.rights, domain, hi, lo, need, want)) return false;
    // Where nothing is translated every page is its own.
    const bits = device.host === null ? 12 : this.#hostBits;
    this.#measure(hi, lo, bits, this.#hostOut, this.#hostBits);
    this.granted = this.#hostGranted;
    this.#attributes(device);
    return true;
  }

  /**
   * Translates a GVA of a PASID, through guest tables and then host ones. `extend` says that the address is
   * zero-extended rather than canonical (requests without a PASID, DTE.GIOV).
   */
  translateGuest(
    device: DeviceConfig,
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
    const domain = this.#iotlb.domain(device.domainId);
    this.#device = device;
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
    const gpa = this.#gpa;
    const gpaHi = (gpa / 0x1_0000_0000) >>> 0;
    const hostNeed = hostAccess(need);
    const hostWant = hostAccess(want & guestGranted);
    if (!this.#lookupHost(device, device.rights, domain, gpaHi, gpa >>> 0, hostNeed, hostWant)) return false;
    this.#measure(gpaHi, gpa >>> 0, Math.min(guestBits, this.#hostBits), this.#hostOut, this.#hostBits);
    const host = this.#hostGranted | ((this.#hostGranted & ACCESS.READ) !== 0 ? ACCESS.EXECUTE : 0);
    this.granted = guestGranted & host;
    this.#attributes(device);
    return true;
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
      return this.#pageFault(false, hi, lo, 'DTE.IR or DTE.IW denies it', true, true);
    if (host === null) {
      this.#hostOut = 0;
      this.#hostBits = 52;
      this.#hostGranted = rights;
      this.#hostFlags = 0;
      return true;
    }
    if (!amdV1InWidth(host.mode, hi, lo)) return this.#v1Fault(AMD_V1_FAULT.WIDTH, hi, lo);
    const writes = (want & rights & ACCESS.WRITE) !== 0;
    const store = this.#iotlb.host;
    const slot = store.cache.lookup(domain.host, HOST_SPACE, 0, hi, lo);
    if (slot >= 0) {
      const flags = store.flags[slot]!;
      if ((flags & ENTRY.ABSENT) !== 0) return this.#v1Fault(AMD_V1_FAULT.NOT_PRESENT, hi, lo);
      const permissions = store.permissions[slot]!;
      if ((permissions & need) !== need) return this.#v1Fault(AMD_V1_FAULT.PERMISSION, hi, lo);
      if ((flags & ENTRY.CLEAN) === 0 || !device.dirty || !writes || (permissions & ACCESS.WRITE) === 0) {
        this.#hostOut = store.out[slot]!;
        this.#hostBits = store.cache.sizeOf(slot);
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
    this.#hostOut = walker.out;
    this.#hostBits = walker.leafBits;
    this.#hostGranted = walker.permissions & rights;
    this.#hostFlags = flags;
    if (!this.#keep) return;
    const store = this.#iotlb.host;
    const slot = store.cache.insert(domain.host, HOST_SPACE, hi, lo, walker.leafBits);
    store.out[slot] = walker.out;
    store.permissions[slot] = walker.permissions;
    store.flags[slot] = flags;
    if (this.#trace !== null && this.#trace.active)
      this.#traceFill('iotlb', domain, null, hi, lo, walker.leafBits);
  }

  // --- guest translation ---

  #lookupGuest(
    device: DeviceConfig,
    domain: Domain,
    pasid: number,
    extend: boolean,
    hi: number,
    lo: number,
    need: number,
    want: number,
    privileged: boolean,
  ): boolean {
    const { pasidBits } = this.#features;
    if (pasid >= 2 ** Math.min(pasidBits, GCR3_LEVEL_BITS * device.gcr3Levels)) {
      return this.#pageFault(true, hi, lo, 'the PASID is outside of the GCR3 table');
    }
    // Before the IOTLB is asked: both kinds of requests may share PASID 0 and its entries.
    if (!(extend ? zeroExtended : canonical)(hi, device.guestLevels)) {
      return this.#x86Fault(X86_FAULT.NOT_CANONICAL, hi, lo);
    }
    // Without USSup the U/S bits count for nothing: every access is a supervisor's.
    const user = !privileged && this.#features.us;
    const shift = user ? 3 : 0;
    const space = this.#iotlb.space(domain, pasid);
    const store = this.#iotlb.guest;
    const slot = store.cache.lookup(domain.guest, space.leaves.id, 0, hi, lo);
    if (slot >= 0) {
      const flags = store.flags[slot]!;
      if ((flags & ENTRY.ABSENT) !== 0) return this.#x86Fault(X86_FAULT.NOT_PRESENT, hi, lo);
      const granted = (store.permissions[slot]! >>> shift) & 7;
      if ((granted & need) !== need) return this.#x86Fault(X86_FAULT.PERMISSION, hi, lo);
      const writes = (granted & want & ACCESS.WRITE) !== 0;
      if ((flags & ENTRY.CLEAN) === 0 || !writes || !this.control.updateDirty) {
        this.#guestBits = store.cache.sizeOf(slot);
        this.#gpa = store.out[slot]! + offsetIn(hi, lo, this.#guestBits);
        this.#guestGranted = granted;
        if (this.#trace !== null && this.#trace.active)
          this.#traceHit('iotlb-guest', domain, pasid, hi, lo, this.#guestBits);
        return true;
      }
    }
    const walkHi = extend ? signExtend(hi, device.guestLevels) : hi;
    const config = this.#guestConfig(device, domain, space, hi, lo);
    if (config === null) return false;
    return this.#walkGuest(domain, space, config, hi, walkHi, lo, need << shift, want << shift, shift);
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
      }
      return this.#x86Fault(walker.fault, hi, lo);
    }
    this.#guestBits = walker.leafBits;
    this.#gpa = walker.out + offsetIn(hi, lo, walker.leafBits);
    this.#guestGranted = (walker.permissions >>> shift) & 7;
    if (!this.#keep) return true;
    const slot = store.cache.insert(domain.guest, space.leaves.id, hi, lo, walker.leafBits);
    store.out[slot] = walker.out;
    store.permissions[slot] = walker.permissions;
    store.flags[slot] = walker.clean ? ENTRY.CLEAN : 0;
    if (this.#trace !== null && this.#trace.active) {
      this.#traceFill('iotlb-guest', domain, space.pasid, hi, lo, walker.leafBits);
    }
    return true;
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
      const entry = base + ((pasid >>> (GCR3_LEVEL_BITS * level)) & 0x1ff) * 8;
      // The pointer in the DTE is a GPA with GCR3TRPMode alone, those in tables always are.
      const spa = level === device.gcr3Levels - 1 && !this.control.gcr3Gpa;
      const address = spa ? entry : this.entryAddress(entry, false);
      if (address < 0) return -1;
      if (!this.#memory.load64(address, this.#pair)) {
        this.#hardwareFault(true, address, 'a GCR3 table entry could not be read');
        return -1;
      }
      if ((this.#pair[0]! & 1) === 0) {
        this.#pageFault(true, hi, lo, 'the GCR3 table entry is not valid');
        return -1;
      }
      if ((this.#pair[0]! & ~GCR3_BITS[0]!) !== 0 || (this.#pair[1]! & ~GCR3_BITS[1]!) !== 0) {
        this.#pageFault(true, hi, lo, 'a reserved bit of a GCR3 table entry is set', true, false, true);
        return -1;
      }
      base = (this.#pair[1]! & 0xf_ffff) * 0x1_0000_0000 + ((this.#pair[0]! & ~0xfff) >>> 0);
    }
    return base;
  }

  /** The physical address of a guest's table entry. DTE.IR and DTE.IW are about the device's accesses, not this one. */
  entryAddress(address: number, write: boolean): number {
    const hi = (address / 0x1_0000_0000) >>> 0;
    const lo = address >>> 0;
    const need = write ? AMD_V1_PERM.IR | AMD_V1_PERM.IW : AMD_V1_PERM.IR;
    if (!this.#lookupHost(this.#device!, ALL_RIGHTS, this.#domain!, hi, lo, need, need)) return -1;
    return this.#hostOut + offsetIn(hi, lo, this.#hostBits);
  }

  // --- results ---

  /** The answer: `bits` is the size of the whole translation, `outBits` that of the page which starts at `out`. */
  #measure(hi: number, lo: number, bits: number, out: number, outBits: number = bits): void {
    this.sizeBits = bits;
    this.bytes = 2 ** bits - offsetIn(hi, lo, bits);
    this.pa = out + offsetIn(hi, lo, outBits);
  }

  #v1Fault(fault: AmdV1Fault, hi: number, lo: number): false {
    const reason = V1_REASONS[fault];
    switch (fault) {
      case AMD_V1_FAULT.FETCH:
      case AMD_V1_FAULT.UPDATE:
        return this.#hardwareFault(false, this.#host.fetchAddress, reason);
      case AMD_V1_FAULT.WIDTH:
      case AMD_V1_FAULT.NOT_PRESENT:
        return this.#pageFault(false, hi, lo, reason);
      case AMD_V1_FAULT.PERMISSION:
        return this.#pageFault(false, hi, lo, reason, true, true);
      default:
        return this.#pageFault(false, hi, lo, reason, true, false, fault === AMD_V1_FAULT.RESERVED);
    }
  }

  #x86Fault(fault: X86Fault, hi: number, lo: number): false {
    const reason = X86_REASONS[fault] ?? '';
    if (fault === X86_FAULT.FETCH || fault === X86_FAULT.UPDATE) {
      return this.#hardwareFault(true, this.#guest.fetchAddress, reason);
    }
    if (fault === X86_FAULT.PERMISSION) return this.#pageFault(true, hi, lo, reason, true, true);
    return this.#pageFault(
      true,
      hi,
      lo,
      reason,
      fault === X86_FAULT.RESERVED,
      false,
      fault === X86_FAULT.RESERVED,
    );
  }

  #pageFault(
    gn: boolean,
    hi: number,
    lo: number,
    reason: string,
    present = false,
    permission = false,
    reserved = false,
  ): false {
    this.fault = { kind: 'page-fault', gn, hi, lo, present, permission, reserved, reason };
    return false;
  }

  #hardwareFault(gn: boolean, address: number, reason: string): false {
    const hi = (address / 0x1_0000_0000) >>> 0;
    const lo = address >>> 0;
    this.fault = { kind: 'hardware', gn, hi, lo, present: false, permission: false, reserved: false, reason };
    return false;
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

/** Execution reads. */
function hostAccess(access: number): number {
  return (access & 3) | ((access & ACCESS.EXECUTE) !== 0 ? ACCESS.READ : 0);
}

/** The low `bits` bits of an address. */
function offsetIn(hi: number, lo: number, bits: number): number {
  if (bits <= 31) return lo & (2 ** bits - 1);
  return ((hi & (2 ** (bits - 32) - 1)) >>> 0) * 0x1_0000_0000 + (lo >>> 0);
}

/** Whether an address with a PASID has bits 63:47 or 63:56 alike. */
function canonical(hi: number, levels: 4 | 5): boolean {
  return (hi | 0) >> 31 === (hi | 0) >> (levels === 4 ? 15 : 24);
}

/** Whether an address without a PASID fits 48 or 57 bits. */
function zeroExtended(hi: number, levels: 4 | 5): boolean {
  return hi >>> (levels === 4 ? 16 : 25) === 0;
}

/** The canonical form of a zero-extended address: tables are indexed alike. */
function signExtend(hi: number, levels: 4 | 5): number {
  if (levels === 4) return (hi & 0x8000) !== 0 ? hi | 0xffff_0000 : hi;
  return (hi & 0x100_0000) !== 0 ? hi | 0xfe00_0000 : hi;
}
