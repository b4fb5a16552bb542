import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL } from '../../abi/errno.ts';
import { smmuV3Features, type SmmuV3Config } from '../../iommu/arm-smmu-v3/hardware/registers/config.ts';
import { EventQueue } from '../../iommu/arm-smmu-v3/hardware/queues/event-queue.ts';
import { Interrupts, type Msi } from '../../iommu/arm-smmu-v3/hardware/registers/interrupts.ts';
import { RegisterFile, type RegisterChange } from '../../iommu/arm-smmu-v3/hardware/registers/registers.ts';
import type { Interrupt } from '../../iommu/arm-smmu-v3/hardware/transaction.ts';
import { OFFSET, STALL_MODEL } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import { PageFaultQueue } from '../page-fault-queue.ts';
import type { VirtualIommu } from '../virtual-iommu.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { GuestCommandQueue } from './command-queue.ts';
import { GuestCommands } from './commands.ts';
import { deliverEvents } from './events.ts';
import { steOf } from './guest-stream-table.ts';
import { idrOf, PhysicalSmmu } from './physical-smmu.ts';
import { guestConfig, lacks } from './registers.ts';
import { GuestStalls } from './stalls.ts';
import { Streams } from './streams.ts';

// The SMMUv3 that a guest sees: registers and queues are ours, translation and its caches are the physical SMMU's. As
// QEMU's hw/arm/smmuv3-accel.c and OpenVMM have it.

export interface VirtualSmmuOptions {
  readonly trace?: Trace;
  /** A wired interrupt of the guest's SMMU. */
  readonly onInterrupt?: (which: Interrupt) => void;
  /** An MSI of the guest's SMMU: true where its address is a doorbell; else it is a store to memory. */
  readonly onMsi?: (msi: Msi) => boolean;
}

export class VirtualSmmu implements VirtualIommu {
  readonly #vm: VirtualMachine;
  readonly #config: SmmuV3Config;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #events: EventQueue;
  readonly #commands: GuestCommandQueue;
  readonly #streams: Streams;
  /** Where the guest's streams can stall. */
  readonly #faults: PageFaultQueue | null;
  readonly #stalls: GuestStalls | null;

  /** A virtual SMMU that has no more than the physical one `first` is behind. ENODEV where that is no SMMUv3. */
  static create(
    vm: VirtualMachine,
    first: AssignedDevice,
    options: VirtualSmmuOptions = {},
  ): Result<VirtualSmmu> {
    const idr = idrOf(first);
    if (failed(idr)) return idr;
    const config = guestConfig(idr);
    const stalls = smmuV3Features(config).stallModel !== STALL_MODEL.TERMINATE;
    const faults = stalls ? PageFaultQueue.create(vm) : null;
    return failed(faults) ? faults : new VirtualSmmu(vm, config, faults, options);
  }

  private constructor(
    vm: VirtualMachine,
    config: SmmuV3Config,
    faults: PageFaultQueue | null,
    { trace: watcher, onInterrupt, onMsi }: VirtualSmmuOptions,
  ) {
    const { memory } = vm;
    const trace = watcher ?? null;
    const features = smmuV3Features(config);
    const registers = new RegisterFile(config, features, null);
    this.#vm = vm;
    this.#config = config;
    this.#registers = registers;
    this.#interrupts = new Interrupts(
      memory,
      features,
      registers,
      trace,
      onInterrupt ?? (() => {}),
      onMsi ?? (() => false),
    );
    this.#events = new EventQueue(memory, features, registers, this.#interrupts, trace);
    this.#streams = new Streams({
      vm,
      trace,
      steOf: (sid) => steOf(memory, registers, features, sid),
      physicalOf: (device) => this.#physicalOf(device),
      onAttach: (stream) => this.#stalls?.forget(stream),
    });
    this.#faults = faults;
    this.#stalls =
      faults === null
        ? null
        : new GuestStalls(faults, this.#events, this.#streams, Math.max(1, features.stallMax));
    const commands = new GuestCommands(features, this.#streams, this.#stalls, this.#interrupts);
    this.#commands = new GuestCommandQueue(
      memory,
      features.cmdqs,
      registers,
      this.#interrupts,
      commands,
      trace,
    );
    registers.onChange = (change) => this.#changed(change);
  }

  /**
   * Puts a device behind it, as stream `sid` of the guest. Devices behind several physical SMMUs can be behind one virtual
   * one: EINVAL where another one has less than the guest was told.
   */
  addDevice(device: AssignedDevice, sid: number): Result<void> {
    return this.#streams.add(device, sid);
  }

  #physicalOf(device: AssignedDevice): Result<PhysicalSmmu> {
    const idr = idrOf(device);
    if (failed(idr)) return idr;
    const missing = lacks(idr, this.#config.idr);
    if (missing !== null) return fail(EINVAL, `${device.name} is behind an SMMU that differs in ${missing}`);
    return PhysicalSmmu.create(this.#vm, device, this.#faults);
  }

  // ---- the guest's loads and stores ----

  readRegister(offset: number, bytes: number): bigint {
    return this.#registers.read(offset, bytes);
  }

  writeRegister(offset: number, bytes: number, value: bigint): void {
    this.#registers.write(offset, bytes, value);
    // What a stream does while the SMMU is off.
    if (offset === OFFSET.GBPA) this.#streams.settleAll();
  }

  #changed(change: RegisterChange): void {
    switch (change) {
      case 'CR0':
        this.#streams.settleAll();
        return this.#commands.run();
      case 'CMDQ_PROD':
      case 'GERRORN':
        return this.#commands.run();
      case 'CMDQ_BASE':
      case 'CMDQ_CONS':
        return this.#commands.configure();
      case 'EVENTQ_BASE':
        return this.#events.configure();
      case 'EVENTQ_PROD':
        return this.#events.normalize();
      default:
        // Tables are read when the guest says that they changed.
        return;
    }
  }

  // ---- what comes from the kernel ----

  poll(): boolean {
    let any = this.#stalls?.deliver() ?? false;
    for (const { eventFd } of this.#streams.physicals)
      if (deliverEvents(this.#vm.program, eventFd, this.#events)) any = true;
    return any;
  }
}
