import { readAddress, readField } from '../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { big, hex, U64_MAX } from '../../base/u64.ts';
import { EINVAL, ENODEV } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import {
  IOMMU_VTD_INV_FLAGS_LEAF,
  IOMMU_VTD_S1_EAFE,
  IOMMU_VTD_S1_SRE,
  IOMMU_VTD_S1_WPE,
  iommu_hw_info_vtd,
  iommu_hwpt_vtd_s1,
  iommu_hwpt_vtd_s1_invalidate,
} from '../../abi/iommufd-data.ts';
import { intelFeatures, type IntelConfig } from '../../iommu/intel/hardware/config.ts';
import { FaultLog } from '../../iommu/intel/hardware/fault-log.ts';
import { Interrupts } from '../../iommu/intel/hardware/interrupts.ts';
import { RegisterFile, type RegisterChange } from '../../iommu/intel/hardware/registers.ts';
import type { EventInterrupt } from '../../iommu/intel/hardware/transaction.ts';
import {
  DESC,
  IOTLB_INV_DSC,
  P_IOTLB_GRANULARITY,
  P_IOTLB_INV_DSC,
} from '../../iommu/intel/spec/invalidation.ts';
import { FSPM, PASID_ENTRY, PGTT } from '../../iommu/intel/spec/pasid.ts';
import {
  GSTS,
  ICS,
  IOTLB_GRANULARITY,
  IQEI,
  OFFSET,
  RTADDR,
  TTM,
  type Iqei,
} from '../../iommu/intel/spec/registers.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { findPasidEntry } from './guest-tables.ts';
import { GuestInvalidationQueue } from './invalidation-queue.ts';
import { guestConfig, lacks } from './registers.ts';

// The VT-d that a guest sees, in scalable mode: registers and queue are ours, first-stage tables are the guest's and
// nested on the host's second stage, the caches are the physical unit's. As QEMU's hw/i386/intel_iommu_accel.c has it.

export interface VirtualVtdOptions {
  readonly trace?: Trace;
  readonly onInterrupt?: (interrupt: EventInterrupt) => void;
}

/** A device behind it, and what its requests without PASID do now. */
interface Requester {
  readonly device: AssignedDevice;
  readonly id: number;
  /** The second stage that its nested domains lie on. */
  readonly parent: number;
  /** What it does, as the guest's tables had it when they were last looked at. */
  now: Wanted;
  /** Its own nested HWPT with the guest's domain id and PASID, while it has one. */
  nested: { readonly hwpt: number; readonly did: number; readonly pasid: number } | null;
}

/** What the guest's entry asks for. */
type Wanted =
  | { readonly kind: 'blocked' | 'pass-through' }
  | { readonly kind: 'nested'; readonly data: Uint8Array; readonly did: number; readonly pasid: number };

export class VirtualVtd {
  readonly #vm: VirtualMachine;
  readonly #config: IntelConfig;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #queue: GuestInvalidationQueue;
  readonly #trace: Trace | null;
  readonly #requesters = new Map<number, Requester>();
  /** Second stages: devices share one wherever the kernel takes it. */
  readonly #parents: number[] = [];
  #root = { address: 0, scalable: false };

  /** A virtual unit that has no more than the one `first` is behind. ENODEV where that is no VT-d with first stages. */
  static create(
    vm: VirtualMachine,
    first: AssignedDevice,
    options: VirtualVtdOptions = {},
  ): Result<VirtualVtd> {
    const config = configOf(first);
    return failed(config) ? config : new VirtualVtd(vm, config, options);
  }

  private constructor(
    vm: VirtualMachine,
    config: IntelConfig,
    { trace: watcher, onInterrupt }: VirtualVtdOptions,
  ) {
    this.#vm = vm;
    this.#config = config;
    const trace = watcher ?? null;
    this.#trace = trace;
    const features = intelFeatures(config);
    this.#registers = new RegisterFile(config, features, null);
    this.#interrupts = new Interrupts(this.#registers, trace, onInterrupt ?? (() => {}));
    const faults = new FaultLog(config, features, this.#registers, this.#interrupts, trace);
    const target = {
      execute: (type: number, words: Uint32Array) => this.#execute(type, words),
      waited: () => this.#waited(),
    };
    this.#queue = new GuestInvalidationQueue(vm.memory, this.#registers, faults, target, trace);
    this.#registers.onChange = (change) => this.#changed(change, faults);
  }

  /**
   * Puts a device behind it, as requester `id` of the guest. EINVAL where its physical unit has less than the guest was
   * told. Devices behind several units can be behind one virtual one: each second stage is shared as far as it fits.
   */
  addDevice(device: AssignedDevice, id: number): Result<void> {
    const config = configOf(device);
    if (failed(config)) return config;
    const missing = lacks(config, this.#config);
    if (missing !== null) return fail(EINVAL, `${device.name} is behind a unit without ${missing}`);
    const parent = this.#parentFor(device);
    if (failed(parent)) return parent;
    const requester: Requester = { device, id, parent, now: { kind: 'pass-through' }, nested: null };
    this.#requesters.set(id, requester);
    this.#settle(requester);
  }

  /** Attaches the device to a second stage of the guest's memory: one that others have, or else a new one. */
  #parentFor(device: AssignedDevice): Result<number> {
    for (const parent of this.#parents) if (!failed(device.attach(parent))) return parent;
    const parent = this.#vm.nestParent(device);
    if (failed(parent)) return parent;
    const attached = device.attach(parent);
    if (failed(attached)) return attached;
    this.#parents.push(parent);
    return parent;
  }

  // ---- the guest's loads and stores ----

  readRegister(offset: number, bytes: number): bigint {
    return this.#registers.read(offset, bytes);
  }

  writeRegister(offset: number, bytes: number, value: bigint): void {
    this.#registers.write(offset, bytes, value);
  }

  #changed(change: RegisterChange, faults: FaultLog): void {
    switch (change) {
      case 'SRTP': {
        const ttm = readField(RTADDR.TTM, [this.#registers.get(OFFSET.RTADDR)]);
        const address = this.#registers.getAddress(OFFSET.RTADDR, 12);
        this.#root = { address, scalable: ttm === TTM.SCALABLE };
        return this.#settleAll();
      }
      case 'TE':
        return this.#settleAll();
      case 'QIE':
        this.#queue.configure();
        return this.#queue.run();
      case 'IQT':
        return this.#queue.run();
      case 'FSTS':
      case 'FRCD':
        faults.serviced();
        return this.#queue.run();
      case 'FECTL':
        return this.#interrupts.unmasked('fault');
      case 'ICS':
        if ((this.#registers.get(OFFSET.ICS) & ICS.IWC.inPlace) === 0)
          this.#interrupts.serviced('invalidation');
        return;
      case 'IECTL':
        return this.#interrupts.unmasked('invalidation');
      default:
        return;
    }
  }

  #waited(): void {
    const before = this.#registers.get(OFFSET.ICS);
    this.#registers.set(OFFSET.ICS, before | ICS.IWC.inPlace);
    if ((before & ICS.IWC.inPlace) === 0) this.#interrupts.raise('invalidation');
  }

  // ---- devices ----

  #settleAll(): void {
    for (const requester of this.#requesters.values()) this.#settle(requester);
  }

  /** Attaches a device to what the guest's registers and tables say. */
  #settle(requester: Requester): void {
    const wanted = this.#wanted(requester);
    if (same(wanted, requester.now)) return;
    const before = requester.nested;
    requester.now = wanted;
    const refused = this.#attach(requester, wanted);
    if (failed(refused)) {
      this.#note(requester, `it is blocked: ${refused.reason}`);
      requester.device.detach();
      requester.nested = null;
    }
    if (before !== null) this.#vm.destroy(before.hwpt);
  }

  #attach(requester: Requester, wanted: Wanted): Result<void> {
    const { device, parent } = requester;
    if (wanted.kind !== 'nested') {
      requester.nested = null;
      if (wanted.kind === 'pass-through') return device.attach(parent);
      return device.detach();
    }
    const hwpt = this.#vm.nested(device, parent, abi.IOMMU_HWPT_DATA_VTD_S1, wanted.data);
    if (failed(hwpt)) return hwpt;
    const attached = device.attach(hwpt);
    if (failed(attached)) {
      this.#vm.destroy(hwpt);
      return attached;
    }
    requester.nested = { hwpt, did: wanted.did, pasid: wanted.pasid };
  }

  #wanted({ id }: Requester): Wanted {
    if (!this.#registers.enabled(GSTS.TES.inPlace)) return { kind: 'pass-through' };
    if (!this.#root.scalable) return { kind: 'blocked' };
    const found = findPasidEntry(this.#vm.memory, this.#root.address, id);
    if (found === null) return { kind: 'blocked' };
    const { words, pasid } = found;
    const pgtt = readField(PASID_ENTRY.PGTT, words);
    if (pgtt === PGTT.PASS_THROUGH) return { kind: 'pass-through' };
    // A guest's own second stage would have to be shadowed; its unit does not advertise one.
    if (pgtt !== PGTT.FIRST_STAGE) return { kind: 'blocked' };
    return { kind: 'nested', data: firstStage(words), did: readField(PASID_ENTRY.DID, words), pasid };
  }

  #note({ device, id }: Requester, what: string): void {
    if (this.#trace?.active === true)
      this.#trace.emit({ kind: 'guest-vtd', device: device.name, requester: hex(id), what });
  }

  // ---- descriptors ----

  #execute(type: number, words: Uint32Array): Iqei {
    switch (type) {
      case DESC.CC_INV:
      case DESC.PC_INV:
        // Whatever it names: an entry that says the same again is left as it is.
        this.#settleAll();
        return IQEI.NONE;
      case DESC.P_IOTLB_INV:
        return this.#invalidatePasid(words);
      case DESC.IOTLB_INV:
        return this.#invalidateDomain(words);
      case DESC.DEV_TLB_INV:
      case DESC.P_DEV_TLB_INV:
        // The kernel flushes device TLBs with what it flushes for us.
        return IQEI.NONE;
      default:
        return IQEI.TYPE;
    }
  }

  /** p_iotlb_inv_dsc (§6.5.2.4): all of a PASID, or 2^AM pages of it. */
  #invalidatePasid(words: Uint32Array): Iqei {
    const granularity = readField(P_IOTLB_INV_DSC.G, words);
    if (granularity !== P_IOTLB_GRANULARITY.PASID && granularity !== P_IOTLB_GRANULARITY.PAGE)
      return IQEI.RESERVED;
    const did = readField(P_IOTLB_INV_DSC.DID, words);
    const pasid = readField(P_IOTLB_INV_DSC.PASID, words);
    const pages = granularity === P_IOTLB_GRANULARITY.PAGE;
    const am = readField(P_IOTLB_INV_DSC.AM, words);
    const leaf = readField(P_IOTLB_INV_DSC.IH, words) !== 0;
    const address = ((big(words[3]!) << 32n) | big(words[2]!)) & ~((1n << BigInt(12 + am)) - 1n);
    this.#send(
      (nested) => nested.did === did && nested.pasid === pasid,
      pages ? address : 0n,
      pages ? 1n << BigInt(am) : U64_MAX,
      pages && leaf ? IOMMU_VTD_INV_FLAGS_LEAF : 0,
    );
    return IQEI.NONE;
  }

  /** iotlb_inv_dsc (§6.5.2.3): of first stages, everything of a domain or of all. */
  #invalidateDomain(words: Uint32Array): Iqei {
    const granularity = readField(IOTLB_INV_DSC.G, words);
    if (granularity === IOTLB_GRANULARITY.ERROR) return IQEI.RESERVED;
    const did = readField(IOTLB_INV_DSC.DID, words);
    const all = granularity === IOTLB_GRANULARITY.GLOBAL;
    this.#send((nested) => all || nested.did === did, 0n, U64_MAX, 0);
    return IQEI.NONE;
  }

  #send(
    concerns: (nested: NonNullable<Requester['nested']>) => boolean,
    addr: bigint,
    npages: bigint,
    flags: number,
  ): void {
    const layout = iommu_hwpt_vtd_s1_invalidate;
    const entry = new Uint8Array(layout.size);
    layout.write(entry, 0, { addr, npages, flags, __reserved: 0 });
    for (const requester of this.#requesters.values()) {
      if (requester.nested === null || !concerns(requester.nested)) continue;
      const type = abi.IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
      const { refused } = this.#vm.invalidate(requester.nested.hwpt, type, layout.size, entry);
      if (refused !== null) this.#note(requester, `an invalidation is refused: ${refused.reason}`);
    }
  }
}

function same(one: Wanted, other: Wanted): boolean {
  if (one.kind !== 'nested' || other.kind !== 'nested') return one.kind === other.kind;
  if (one.did !== other.did || one.pasid !== other.pasid) return false;
  return one.data.every((byte, index) => byte === other.data[index]);
}

function configOf(device: AssignedDevice): Result<IntelConfig> {
  const info = device.hardwareInfo();
  if (failed(info)) return info;
  if (info.type !== abi.IOMMU_HW_INFO_TYPE_INTEL_VTD)
    return fail(ENODEV, `${device.name} is behind an IOMMU of type ${info.type}, which is no VT-d`);
  const { cap_reg, ecap_reg } = iommu_hw_info_vtd.read(info.data);
  return guestConfig(cap_reg, ecap_reg) ?? fail(ENODEV, `${device.name} is behind a VT-d without nesting`);
}

/** struct iommu_hwpt_vtd_s1 of a guest's PASID table entry. */
function firstStage(words: Uint32Array): Uint8Array {
  const flag = (field: typeof PASID_ENTRY.SRE, bit: number): number =>
    readField(field, words) !== 0 ? bit : 0;
  const data = new Uint8Array(iommu_hwpt_vtd_s1.size);
  iommu_hwpt_vtd_s1.write(data, 0, {
    flags: big(
      flag(PASID_ENTRY.SRE, IOMMU_VTD_S1_SRE) |
        flag(PASID_ENTRY.EAFE, IOMMU_VTD_S1_EAFE) |
        flag(PASID_ENTRY.WPE, IOMMU_VTD_S1_WPE),
    ),
    pgtbl_addr: big(readAddress(PASID_ENTRY.FSPTPTR, words)),
    addr_width: readField(PASID_ENTRY.FSPM, words) === FSPM.LEVELS_5 ? 57 : 48,
    __reserved: 0,
  });
  return data;
}
