import { readAddress, readField } from '../../base/bit-fields.ts';
import { failed, fail, type Result } from '../../base/result.ts';
import { hex, lo32, hi32, u64 } from '../../base/u64.ts';
import { ENODEV } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import {
  iommu_hw_info_arm_smmuv3,
  iommu_hwpt_arm_smmuv3,
  iommu_vevent_arm_smmuv3,
} from '../../abi/iommufd-data.ts';
import { smmuV3Features, type SmmuV3Features } from '../../iommu/arm-smmu-v3/hardware/config.ts';
import { EventQueue } from '../../iommu/arm-smmu-v3/hardware/event-queue.ts';
import { Interrupts, type Msi } from '../../iommu/arm-smmu-v3/hardware/interrupts.ts';
import { RegisterFile, type RegisterChange } from '../../iommu/arm-smmu-v3/hardware/registers.ts';
import { locateSte, type L1Std } from '../../iommu/arm-smmu-v3/hardware/stream-table.ts';
import type { EventType, Interrupt } from '../../iommu/arm-smmu-v3/hardware/transaction.ts';
import { CFGI_ALL, CMD, CMD_CFGI, CMD_SYNC, SYNC_CS } from '../../iommu/arm-smmu-v3/spec/commands.ts';
import { EVENT_RECORD, EVENT_WORDS } from '../../iommu/arm-smmu-v3/spec/events.ts';
import { CERROR, CR0, GBPA, OFFSET, STRTAB_BASE_CFG } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import { L1STD, STE, STE_CONFIG } from '../../iommu/arm-smmu-v3/spec/ste.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { GuestCommandQueue, type CommandTarget } from './command-queue.ts';
import { guestConfig } from './registers.ts';

// The SMMUv3 that a guest sees: registers and queues are ours, translation and its caches are the physical SMMU's. As
// QEMU's hw/arm/smmuv3-accel.c and OpenVMM have it.

export interface VirtualSmmuOptions {
  readonly trace?: Trace;
  /** A wired interrupt of the guest's SMMU. */
  readonly onInterrupt?: (which: Interrupt) => void;
  /** An MSI of the guest's SMMU: true where its address is a doorbell; else it is a store to memory. */
  readonly onMsi?: (msi: Msi) => boolean;
}

/** A device behind it, and what its stream does now. */
interface Stream {
  readonly device: AssignedDevice;
  readonly sid: number;
  /** The HWPT that it is attached to, where that is of its own STE; else 0. */
  hwpt: number;
}

const EVENTS_DEPTH = 128;
const EVENT_READ_BYTES = 4096;
const HEADER_BYTES = abi.iommufd_vevent_header.size;
/** The part of a guest's STE that a nested domain is made of. */
const STE_ABORT: SteWords = [u64(0, 1), 0n];
const STE_BYPASS: SteWords = [1n | (BigInt(STE_CONFIG.BYPASS) << 1n), 0n];

type SteWords = readonly [bigint, bigint];

const FORWARDED: ReadonlySet<number> = new Set([
  CMD.CFGI_CD,
  CMD.CFGI_CD_ALL,
  CMD.TLBI_NH_ALL,
  CMD.TLBI_NH_ASID,
  CMD.TLBI_NH_VA,
  CMD.TLBI_NH_VAA,
  CMD.TLBI_NSNH_ALL,
  CMD.ATC_INV,
]);
/** Those of them that name a stream: what is nobody's is not for the physical SMMU. */
const OF_A_STREAM: ReadonlySet<number> = new Set([CMD.CFGI_CD, CMD.CFGI_CD_ALL, CMD.ATC_INV]);

export class VirtualSmmu {
  readonly viommu: number;
  readonly #vm: VirtualMachine;
  readonly #features: SmmuV3Features;
  readonly #registers: RegisterFile;
  readonly #interrupts: Interrupts;
  readonly #events: EventQueue;
  readonly #commands: GuestCommandQueue;
  readonly #streams = new Map<number, Stream>();
  readonly #eventFd: number;
  /** Nested domains that every stream shares. */
  readonly #abort: number;
  readonly #bypass: number;
  readonly #trace: Trace | null;
  readonly #pair = new Uint32Array(2);

  /**
   * A virtual SMMU in front of the physical one that `first` is behind. ENODEV where that is no SMMUv3; and what the
   * kernel says.
   */
  static create(
    vm: VirtualMachine,
    first: AssignedDevice,
    options: VirtualSmmuOptions = {},
  ): Result<VirtualSmmu> {
    const info = first.hardwareInfo();
    if (failed(info)) return info;
    if (info.type !== abi.IOMMU_HW_INFO_TYPE_ARM_SMMUV3)
      return fail(ENODEV, `${first.name} is behind an IOMMU of type ${info.type}, which is no SMMUv3`);
    const parent = vm.nestParent(first);
    if (failed(parent)) return parent;
    const viommu = vm.viommu(first, abi.IOMMU_VIOMMU_TYPE_ARM_SMMUV3, parent);
    if (failed(viommu)) return viommu;
    const events = vm.eventQueue(viommu, abi.IOMMU_VEVENTQ_TYPE_ARM_SMMUV3, EVENTS_DEPTH);
    if (failed(events)) return events;
    const [abort, bypass] = [STE_ABORT, STE_BYPASS].map((ste) => nestedOf(vm, first, viommu, ste));
    if (failed(abort)) return abort;
    if (failed(bypass)) return bypass;
    const { idr } = iommu_hw_info_arm_smmuv3.read(info.data);
    return new VirtualSmmu(vm, viommu, idr, events, abort!, bypass!, options);
  }

  private constructor(
    vm: VirtualMachine,
    viommu: number,
    idr: readonly number[],
    eventFd: number,
    abort: number,
    bypass: number,
    { trace, onInterrupt, onMsi }: VirtualSmmuOptions,
  ) {
    const config = guestConfig(idr);
    const { memory } = vm;
    this.viommu = viommu;
    this.#vm = vm;
    this.#eventFd = eventFd;
    this.#abort = abort;
    this.#bypass = bypass;
    this.#trace = trace ?? null;
    this.#features = smmuV3Features(config);
    this.#registers = new RegisterFile(config, this.#features, null);
    this.#interrupts = new Interrupts(
      memory,
      this.#features,
      this.#registers,
      this.#trace,
      onInterrupt ?? (() => {}),
      onMsi ?? (() => false),
    );
    this.#events = new EventQueue(memory, this.#features, this.#registers, this.#interrupts, this.#trace);
    this.#commands = new GuestCommandQueue(
      memory,
      this.#features.cmdqs,
      this.#registers,
      this.#interrupts,
      this.#commandTarget(),
      this.#trace,
    );
    this.#registers.onChange = (change) => this.#changed(change);
  }

  /**
   * Puts a device behind it, as stream `sid` of the guest. EINVAL where the device is behind another physical SMMU: that
   * needs another virtual one.
   */
  addDevice(device: AssignedDevice, sid: number): Result<void> {
    const vdevice = this.#vm.vdevice(this.viommu, device, BigInt(sid));
    if (failed(vdevice)) return vdevice;
    const stream = { device, sid, hwpt: 0 };
    this.#streams.set(sid, stream);
    return this.#settle(stream);
  }

  // ---- the guest's loads and stores ----

  readRegister(offset: number, bytes: number): bigint {
    return this.#registers.read(offset, bytes);
  }

  writeRegister(offset: number, bytes: number, value: bigint): void {
    this.#registers.write(offset, bytes, value);
    // What a stream does while the SMMU is off.
    if (offset === OFFSET.GBPA) this.#settleAll();
  }

  #changed(change: RegisterChange): void {
    switch (change) {
      case 'CR0':
        this.#settleAll();
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

  // ---- streams ----

  #settleAll(): void {
    for (const stream of this.#streams.values()) this.#settle(stream);
  }

  /** Attaches a stream to what the guest's registers and its STE say. */
  #settle(stream: Stream): Result<void> {
    const ste = this.#steOf(stream);
    const shared = ste === STE_ABORT ? this.#abort : ste === STE_BYPASS ? this.#bypass : 0;
    const made = shared !== 0 ? shared : nestedOf(this.#vm, stream.device, this.viommu, ste);
    if (failed(made)) this.#note(stream, `its STE is refused: ${made.reason}`);
    const hwpt = failed(made) ? this.#abort : made;
    const attached = stream.device.attach(hwpt);
    if (failed(attached)) {
      this.#note(stream, `it cannot be attached: ${attached.reason}`);
      if (hwpt !== shared) this.#vm.destroy(hwpt);
      return attached;
    }
    if (stream.hwpt !== 0) this.#vm.destroy(stream.hwpt);
    stream.hwpt = hwpt === this.#abort || hwpt === this.#bypass ? 0 : hwpt;
  }

  #steOf(stream: Stream): SteWords {
    if (!this.#registers.enabled(CR0.SMMUEN.inPlace)) {
      const gbpa = [this.#registers.get(OFFSET.GBPA)];
      return readField(GBPA.ABORT, gbpa) !== 0 ? STE_ABORT : STE_BYPASS;
    }
    const where = locateSte(this.#streamTable(), this.#features.sidSize, stream.sid, (_, address) =>
      this.#l1std(address),
    );
    if (typeof where !== 'number') return STE_ABORT;
    const words = new Uint32Array(4);
    for (const at of [0, 2])
      if (!this.#vm.memory.load64(where + at * 4, words.subarray(at, at + 2))) return STE_ABORT;
    if (readField(STE.V, words) === 0) return STE_ABORT;
    return [u64(words[1]!, words[0]!) & NESTING_ALLOWED[0], u64(words[3]!, words[2]!) & NESTING_ALLOWED[1]];
  }

  #streamTable(): Parameters<typeof locateSte>[0] {
    const cfg = [this.#registers.get(OFFSET.STRTAB_BASE_CFG)];
    const split = readField(STRTAB_BASE_CFG.SPLIT, cfg);
    return {
      base: this.#registers.getAddress(OFFSET.STRTAB_BASE, 6),
      log2Size: readField(STRTAB_BASE_CFG.LOG2SIZE, cfg),
      split: split === 8 || split === 10 ? split : 6,
      fmt: readField(STRTAB_BASE_CFG.FMT, cfg),
      e2h: false,
    };
  }

  #l1std(address: number): L1Std | null {
    if (!this.#vm.memory.load64(address, this.#pair)) return null;
    return { span: readField(L1STD.Span, this.#pair), l2ptr: readAddress(L1STD.L2Ptr, this.#pair) };
  }

  #note(stream: Stream, what: string): void {
    if (this.#trace?.active === true)
      this.#trace.emit({ kind: 'guest-smmuv3', device: stream.device.name, sid: hex(stream.sid), what });
  }

  // ---- commands ----

  #commandTarget(): CommandTarget {
    return {
      take: (words) => this.#take(words),
      waits: (words) => !FORWARDED.has(words[0]! & 0xff),
      send: (commands) => this.#send(commands),
      completeSync: (words) => this.#completeSync(words),
    };
  }

  #take(words: Uint32Array): 'forward' | number {
    const opcode = words[0]! & 0xff;
    if (FORWARDED.has(opcode)) {
      if (opcode === CMD.ATC_INV && !this.#features.ats) return CERROR.ILL;
      return OF_A_STREAM.has(opcode) && !this.#streams.has(words[1]!) ? CERROR.NONE : 'forward';
    }
    switch (opcode) {
      case CMD.PREFETCH_CONFIG:
      case CMD.PREFETCH_ADDR:
        return CERROR.NONE;
      case CMD.CFGI_STE:
      case CMD.CFGI_STE_RANGE:
        this.#settleNamed(opcode, words);
        return CERROR.NONE;
      case CMD.SYNC:
        return readField(CMD_SYNC.CS, words) > SYNC_CS.SEV ? CERROR.ILL : CERROR.NONE;
      default:
        // The guest's SMMU has no stage 2, no EL2, no page requests and no stalls.
        return CERROR.ILL;
    }
  }

  #settleNamed(opcode: number, words: Uint32Array): void {
    const sid = words[1]!;
    const range = opcode === CMD.CFGI_STE ? 0 : readField(CMD_CFGI.Range, words) + 1;
    const all = range === CFGI_ALL + 1;
    for (const stream of this.#streams.values())
      if (all || Math.floor(stream.sid / 2 ** range) === Math.floor(sid / 2 ** range)) this.#settle(stream);
  }

  #send(commands: readonly Uint32Array[]): { handled: number; error: number } {
    const bytes = new Uint8Array(commands.length * 16);
    const view = new DataView(bytes.buffer);
    for (const [index, command] of commands.entries())
      for (const [word, value] of command.entries()) view.setUint32(index * 16 + word * 4, value, true);
    const type = abi.IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3;
    const { handled, refused } = this.#vm.invalidate(this.viommu, type, 16, bytes);
    // EIO is for commands that cannot be; a device that did not answer is an ATC invalidation that timed out.
    return { handled, error: refused === null ? CERROR.NONE : CERROR.ILL };
  }

  #completeSync(words: Uint32Array): void {
    const cs = readField(CMD_SYNC.CS, words);
    if (cs !== SYNC_CS.IRQ) return;
    const address = (words[3]! & 0xff_ffff) * 0x1_0000_0000 + ((words[2]! & ~3) >>> 0);
    this.#interrupts.completeSync(address, words[1]!);
  }

  // ---- events ----

  /** Hands the guest what the physical SMMU has recorded of its streams: call it where the queue is readable. */
  deliverEvents(): void {
    while (this.#vm.program.readable(this.#eventFd)) {
      const bytes = this.#vm.program.read(this.#eventFd, EVENT_READ_BYTES);
      if (failed(bytes) || bytes.length === 0) return;
      for (let at = 0; at < bytes.length;) at = this.#deliver(bytes, at);
    }
  }

  /** True while there are events to deliver. */
  get eventsPending(): boolean {
    return this.#vm.program.readable(this.#eventFd);
  }

  #deliver(bytes: Uint8Array, at: number): number {
    const { flags } = abi.iommufd_vevent_header.read(bytes, at);
    if ((flags & abi.IOMMU_VEVENTQ_FLAG_LOST_EVENTS) !== 0) {
      this.#events.lost();
      return at + HEADER_BYTES;
    }
    const { evt } = iommu_vevent_arm_smmuv3.read(bytes, at + HEADER_BYTES);
    const words = new Uint32Array(EVENT_WORDS);
    for (const [index, word] of evt.entries()) words.set([lo32(word), hi32(word)], 2 * index);
    this.#events.record({ type: readField(EVENT_RECORD.Type, words) as EventType, words }, false);
    return at + HEADER_BYTES + iommu_vevent_arm_smmuv3.size;
  }
}

/** include/uapi/linux/iommufd.h struct iommu_hwpt_arm_smmuv3: what a guest decides. */
const NESTING_ALLOWED: SteWords = [
  maskOf([STE.V, STE.Config, STE.S1Fmt, STE.S1ContextPtr, STE.S1CDMax]),
  maskOf([STE.S1DSS, STE.S1CIR, STE.S1COR, STE.S1CSH, STE.S1STALLD, STE.EATS]) >> 64n,
];

function maskOf(fields: readonly { readonly lsb: number; readonly width: number }[]): bigint {
  return fields.reduce((mask, { lsb, width }) => mask | (((1n << BigInt(width)) - 1n) << BigInt(lsb)), 0n);
}

function nestedOf(vm: VirtualMachine, device: AssignedDevice, viommu: number, ste: SteWords): Result<number> {
  const data = new Uint8Array(iommu_hwpt_arm_smmuv3.size);
  iommu_hwpt_arm_smmuv3.write(data, 0, { ste: [...ste] });
  return vm.nested(device, viommu, abi.IOMMU_HWPT_DATA_ARM_SMMUV3, data);
}
