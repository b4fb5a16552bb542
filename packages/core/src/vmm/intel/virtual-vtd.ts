import { readField } from '../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, ENODEV } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import { iommu_hw_info_vtd } from '../../abi/iommufd-data.ts';
import {
  intelFeatures,
  type IntelConfig,
  type IntelFeatures,
} from '../../iommu/intel/hardware/registers/config.ts';
import { FaultLog } from '../../iommu/intel/hardware/queues/fault-log.ts';
import { Interrupts } from '../../iommu/intel/hardware/registers/interrupts.ts';
import { PageRequestQueue } from '../../iommu/intel/hardware/queues/page-request-queue.ts';
import { RegisterFile, type RegisterChange } from '../../iommu/intel/hardware/registers/registers.ts';
import type { EventInterrupt } from '../../iommu/intel/hardware/transaction.ts';
import { DESC } from '../../iommu/intel/spec/invalidation.ts';
import { GSTS, ICS, IQEI, OFFSET, RTADDR, TTM, type Iqei } from '../../iommu/intel/spec/registers.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import { PageFaultQueue } from '../page-fault-queue.ts';
import type { VirtualIommu } from '../virtual-iommu.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { GuestInvalidationQueue, type DescriptorTarget } from './invalidation-queue.ts';
import { GuestInvalidations } from './invalidations.ts';
import { GuestPageRequests } from './page-requests.ts';
import { guestConfig, lacks } from './registers.ts';
import { Requesters, type RootState } from './requesters.ts';

// The VT-d that a guest sees: registers and queues are ours. In scalable mode first-stage tables are the guest's and
// nested on the host's second stage, and the caches are the physical unit's, as QEMU's hw/i386/intel_iommu_accel.c has it.
// In legacy mode the guest's second stage is shadowed.

export interface VirtualVtdOptions {
  readonly trace?: Trace;
  readonly onInterrupt?: (interrupt: EventInterrupt) => void;
}

export class VirtualVtd implements VirtualIommu, DescriptorTarget {
  readonly #config: IntelConfig;
  readonly #features: IntelFeatures;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #faultLog: FaultLog;
  readonly #queue: GuestInvalidationQueue;
  readonly #invalidations: GuestInvalidations;
  readonly #requesters: Requesters;
  readonly #pageQueue: PageRequestQueue;
  /** Where the guest's unit takes page requests. */
  readonly #pageRequests: GuestPageRequests | null;
  #root: Pick<RootState, 'mode' | 'root'> = { mode: 'legacy', root: 0 };

  /** A virtual unit that has no more than the one `first` is behind. ENODEV where that is no VT-d with first stages. */
  static create(
    vm: VirtualMachine,
    first: AssignedDevice,
    options: VirtualVtdOptions = {},
  ): Result<VirtualVtd> {
    const config = configOf(first);
    if (failed(config)) return config;
    const faults = intelFeatures(config).prs ? PageFaultQueue.create(vm) : null;
    return failed(faults) ? faults : new VirtualVtd(vm, config, faults, options);
  }

  private constructor(
    vm: VirtualMachine,
    config: IntelConfig,
    faults: PageFaultQueue | null,
    { trace: watcher, onInterrupt }: VirtualVtdOptions,
  ) {
    const { memory } = vm;
    const trace = watcher ?? null;
    const features = intelFeatures(config);
    const registers = new RegisterFile(config, features, null);
    this.#config = config;
    this.#features = features;
    this.#registers = registers;
    this.#interrupts = new Interrupts(registers, trace, onInterrupt ?? (() => {}));
    this.#faultLog = new FaultLog(config, features, registers, this.#interrupts, trace);
    this.#requesters = new Requesters(vm, faults, trace);
    this.#invalidations = new GuestInvalidations(vm, this.#requesters, () => this.#state);
    this.#queue = new GuestInvalidationQueue(memory, registers, this.#faultLog, this, trace);
    this.#pageQueue = new PageRequestQueue(memory, registers, this.#interrupts, trace);
    this.#pageRequests =
      faults === null ? null : new GuestPageRequests(faults, this.#pageQueue, this.#requesters);
    this.#requesters.onAttach = (requester, pasid) => this.#pageRequests?.forget(requester, pasid);
    registers.onChange = (change) => this.#changed(change);
  }

  get #state(): RootState {
    return { translating: this.#registers.enabled(GSTS.TES.inPlace), ...this.#root };
  }

  /**
   * Puts a device behind it, as requester `id` of the guest. EINVAL where its physical unit has less than the guest was
   * told. Devices behind several units can be behind one virtual one: each second stage is shared as far as it fits.
   */
  addDevice(device: AssignedDevice, id: number): Result<void> {
    const info = device.hardwareInfo();
    if (failed(info)) return info;
    const config = configOf(device);
    if (failed(config)) return config;
    const missing = lacks(config, this.#config);
    if (missing !== null) return fail(EINVAL, `${device.name} is behind a unit without ${missing}`);
    const { pasid, pasidLimit } = this.#features;
    const pasids = pasid && info.maxPasidLog2 > 0 ? Math.min(pasidLimit, 2 ** info.maxPasidLog2) : 0;
    return this.#requesters.add(device, id, pasids, this.#state);
  }

  // ---- the guest's loads and stores ----

  readRegister(offset: number, bytes: number): bigint {
    return this.#registers.read(offset, bytes);
  }

  writeRegister(offset: number, bytes: number, value: bigint): void {
    this.#registers.write(offset, bytes, value);
  }

  #changed(change: RegisterChange): void {
    switch (change) {
      case 'SRTP':
        this.#root = this.#readRoot();
        return this.#requesters.settleAll(this.#state);
      case 'TE':
        return this.#requesters.settleAll(this.#state);
      case 'CCMD':
        return this.#invalidations.contextCommand(this.#registers);
      case 'IOTLB':
        return this.#invalidations.iotlbCommand(this.#registers);
      case 'QIE':
        this.#queue.configure();
        return this.#queue.run();
      case 'IQT':
        return this.#queue.run();
      case 'FSTS':
      case 'FRCD':
        this.#faultLog.serviced();
        return this.#queue.run();
      case 'FECTL':
        return this.#interrupts.unmasked('fault');
      case 'ICS':
        if ((this.#registers.get(OFFSET.ICS) & ICS.IWC.inPlace) === 0)
          this.#interrupts.serviced('invalidation');
        return;
      case 'IECTL':
        return this.#interrupts.unmasked('invalidation');
      case 'PRS':
        return this.#pageQueue.serviced();
      case 'PECTL':
        return this.#interrupts.unmasked('page-request');
    }
  }

  #readRoot(): Pick<RootState, 'mode' | 'root'> {
    const ttm = readField(RTADDR.TTM, [this.#registers.get(OFFSET.RTADDR)]);
    const mode = ttm === TTM.LEGACY ? 'legacy' : ttm === TTM.SCALABLE ? 'scalable' : 'abort';
    return { mode, root: this.#registers.getAddress(OFFSET.RTADDR, 12) };
  }

  // ---- descriptors ----

  get narrow(): boolean {
    return this.#root.mode === 'legacy';
  }

  execute(type: number, words: Uint32Array): Iqei {
    if (type !== DESC.PAGE_GRP_RESP) return this.#invalidations.execute(type, words);
    if (this.#pageRequests === null || this.#root.mode === 'legacy') return IQEI.TYPE;
    this.#pageRequests.respond(words);
    return IQEI.NONE;
  }

  waited(): void {
    const before = this.#registers.get(OFFSET.ICS);
    this.#registers.set(OFFSET.ICS, before | ICS.IWC.inPlace);
    if ((before & ICS.IWC.inPlace) === 0) this.#interrupts.raise('invalidation');
  }

  // ---- what comes from the kernel ----

  /** Page requests. Linux hands no other faults of a VT-d to programs. */
  poll(): boolean {
    return this.#pageRequests?.deliver() ?? false;
  }
}

function configOf(device: AssignedDevice): Result<IntelConfig> {
  const info = device.hardwareInfo();
  if (failed(info)) return info;
  if (info.type !== abi.IOMMU_HW_INFO_TYPE_INTEL_VTD)
    return fail(ENODEV, `${device.name} is behind an IOMMU of type ${info.type}, which is no VT-d`);
  const { cap_reg, ecap_reg } = iommu_hw_info_vtd.read(info.data);
  return guestConfig(cap_reg, ecap_reg) ?? fail(ENODEV, `${device.name} is behind a VT-d without nesting`);
}
