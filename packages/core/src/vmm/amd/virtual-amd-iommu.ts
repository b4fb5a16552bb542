import { readAddress, readField, type Field } from '../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { big, hi32, lo32, u64 } from '../../base/u64.ts';
import { ENODEV } from '../../abi/errno.ts';
import * as amd from '../../abi/amd-viommu.ts';
import * as abi from '../../abi/iommufd.ts';
import { iommu_hw_info_amd } from '../../abi/iommufd-data.ts';
import { CMD, CMD_INVALIDATE_DEVICE } from '../../iommu/amd/spec/commands.ts';
import { CONTROL, OFFSET, RING_BASE, RING_ENTRY_BYTES } from '../../iommu/amd/spec/registers.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import type { MappedWords } from '../program.ts';
import type { VirtualIommu } from '../virtual-iommu.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { PASS_THROUGH, wantedOfEntry } from './guest-device-table.ts';
import { GuestDevices } from './guest-devices.ts';

// The AMD IOMMU that a guest sees, with AMD's hardware vIOMMU behind it (the trial uAPI amd-viommu): the guest's command
// buffer and event log are served by the IOMMU itself. The rest of the registers is ours, and a command that says that a
// device table entry has changed is looked at on its way.

/** Registers below it are ours; the page from it on is the hardware's. */
const HARDWARE_PAGE = 0x2000;
const REGISTER_BYTES = 0x3000;
const PAGE_BYTES = 0x1000;
/** What of its own registers a guest may write. */
const WRITABLE: ReadonlySet<number> = new Set([
  OFFSET.DEV_TAB_BASE,
  OFFSET.CMD_BUF_BASE,
  OFFSET.EVT_LOG_BASE,
  OFFSET.PPR_LOG_BASE,
  OFFSET.CONTROL,
]);
const READ_ONLY: ReadonlySet<number> = new Set([OFFSET.EFR, OFFSET.EFR2]);

/** A kind of ring, which CONTROL turns on and off. */
interface RingKind {
  readonly type: number;
  /** Offset of its base register. */
  readonly base: number;
  /** All of them are set while it runs. */
  readonly enables: readonly Field[];
  /** IOMMU_HW_QUEUE_FLAG_AMD_* of it. */
  readonly flags: number;
}

const RINGS: readonly RingKind[] = [
  {
    type: amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD,
    base: OFFSET.CMD_BUF_BASE,
    enables: [CONTROL.CmdBufEn],
    flags: amd.QUEUE_FLAG.CMDBUF_EN,
  },
  {
    type: amd.IOMMU_HW_QUEUE_TYPE_AMD_EVT,
    base: OFFSET.EVT_LOG_BASE,
    enables: [CONTROL.EventLogEn],
    flags: amd.QUEUE_FLAG.EVT_LOG_EN,
  },
  {
    type: amd.IOMMU_HW_QUEUE_TYPE_AMD_PPR,
    base: OFFSET.PPR_LOG_BASE,
    enables: [CONTROL.PPRLogEn, CONTROL.PPREn],
    flags: amd.QUEUE_FLAG.PPRLOG_EN | amd.QUEUE_FLAG.PPR_EN,
  },
];

/** A ring that the hardware serves. */
interface Ring {
  readonly queue: number;
  readonly base: number;
  readonly bytes: number;
}

export class VirtualAmdIommu implements VirtualIommu {
  readonly viommu: number;
  readonly #vm: VirtualMachine;
  readonly #page: MappedWords;
  readonly #trace: Trace | null;
  /** Words by byte offset. */
  readonly #registers = new Map<number, number>();
  /** By their type. */
  readonly #rings = new Map<number, Ring>();
  readonly #devices: GuestDevices;

  /** A virtual IOMMU in front of the one that `first` is behind. ENODEV where that is no AMD IOMMU. */
  static create(
    vm: VirtualMachine,
    first: AssignedDevice,
    options: { readonly trace?: Trace } = {},
  ): Result<VirtualAmdIommu> {
    const info = first.hardwareInfo();
    if (failed(info)) return info;
    if (info.type !== abi.IOMMU_HW_INFO_TYPE_AMD)
      return fail(ENODEV, `${first.name} is behind an IOMMU of type ${info.type}, which is no AMD IOMMU`);
    const parent = vm.nestParent(first);
    if (failed(parent)) return parent;
    const made = vm.viommu(first, amd.IOMMU_VIOMMU_TYPE_AMD, parent, amd.iommu_viommu_amd.size);
    if (failed(made)) return made;
    const { out_vfmmio_mmap_offset: offset } = amd.iommu_viommu_amd.read(made.data);
    const page = vm.program.mmap(vm.iommufd, offset, big(PAGE_BYTES));
    if (failed(page)) return page;
    return new VirtualAmdIommu(vm, made.id, parent, page, info.data, options.trace ?? null);
  }

  private constructor(
    vm: VirtualMachine,
    viommu: number,
    parent: number,
    page: MappedWords,
    info: Uint8Array,
    trace: Trace | null,
  ) {
    this.#vm = vm;
    this.viommu = viommu;
    this.#page = page;
    this.#trace = trace;
    const { efr, efr2 } = iommu_hw_info_amd.read(info);
    this.#devices = new GuestDevices({
      vm,
      viommu,
      parent,
      trace,
      wantedOf: (id) =>
        this.#on([CONTROL.IommuEn])
          ? wantedOfEntry(vm.memory, this.#get(OFFSET.DEV_TAB_BASE), id)
          : PASS_THROUGH,
    });
    this.#set(OFFSET.EFR, efr);
    this.#set(OFFSET.EFR2, efr2);
  }

  /** Puts a device behind it, as `id` of the guest. EINVAL where it is behind another physical IOMMU. */
  addDevice(device: AssignedDevice, id: number): Result<void> {
    return this.#devices.add(device, id);
  }

  // ---- the guest's loads and stores ----

  readRegister(offset: number, bytes: number): bigint {
    if (!legal(offset, bytes)) return 0n;
    const lo = this.#load(offset);
    return bytes === 8 ? u64(this.#load(offset + 4), lo) : big(lo);
  }

  writeRegister(offset: number, bytes: number, value: bigint): void {
    if (!legal(offset, bytes)) return;
    if (offset >= HARDWARE_PAGE) return this.#storeToPage(offset, lo32(value));
    const at = offset & ~7;
    if (!WRITABLE.has(at)) return;
    const before = this.#get(at);
    this.#registers.set(offset, lo32(value));
    if (bytes === 8) this.#registers.set(offset + 4, hi32(value));
    if (at === OFFSET.CONTROL) this.#controlChanged(before);
  }

  #load(offset: number): number {
    if (offset >= HARDWARE_PAGE) return this.#page.load(offset - HARDWARE_PAGE);
    const at = offset & ~7;
    return WRITABLE.has(at) || READ_ONLY.has(at) ? (this.#registers.get(offset) ?? 0) : 0;
  }

  /** A register as two words. */
  #get(offset: number): Uint32Array {
    return Uint32Array.of(this.#registers.get(offset) ?? 0, this.#registers.get(offset + 4) ?? 0);
  }

  #set(offset: number, value: bigint): void {
    this.#registers.set(offset, lo32(value));
    this.#registers.set(offset + 4, hi32(value));
  }

  #on(fields: readonly Field[], control = this.#get(OFFSET.CONTROL)): boolean {
    return fields.every((field) => readField(field, control) !== 0);
  }

  #controlChanged(before: Uint32Array): void {
    for (const kind of RINGS) {
      const on = this.#on(kind.enables);
      if (on === this.#on(kind.enables, before)) continue;
      if (on) this.#startRing(kind);
      else this.#stopRing(kind);
    }
    const enable = [CONTROL.IommuEn];
    if (this.#on(enable) !== this.#on(enable, before)) this.#devices.settleAll();
  }

  /** The kernel takes the ring at the guest's address; the guest's hardware reads it from then on. */
  #startRing({ type, base: register, flags }: RingKind): void {
    const words = this.#get(register);
    const [base, log2] = [readAddress(RING_BASE.Base, words), readField(RING_BASE.Len, words)];
    const queue = this.#vm.hwQueue(this.viommu, type, big(base), big(log2), flags);
    if (failed(queue)) this.#note(`a ring is refused: ${queue.reason}`);
    else this.#rings.set(type, { queue, base, bytes: 2 ** log2 * RING_ENTRY_BYTES });
  }

  #stopRing({ type }: RingKind): void {
    const ring = this.#rings.get(type);
    if (ring !== undefined) this.#vm.destroy(ring.queue);
    this.#rings.delete(type);
  }

  // ---- the page of the hardware ----

  #storeToPage(offset: number, value: number): void {
    if (offset === OFFSET.CMD_TAIL) this.#lookAtCommands(value);
    this.#page.store(offset - HARDWARE_PAGE, value);
  }

  /** Device table entries are ours to read: the hardware knows nested domains, and not the guest's table. */
  #lookAtCommands(tail: number): void {
    const ring = this.#rings.get(amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD);
    const head = this.#page.load(OFFSET.CMD_TAIL - HARDWARE_PAGE);
    // The hardware takes no commands up to a tail that is none.
    if (ring === undefined || !pointsInto(ring, head) || !pointsInto(ring, tail)) return;
    const command = new Uint32Array(4);
    for (let at = head; at !== tail; at = (at + RING_ENTRY_BYTES) % ring.bytes) {
      for (const word of [0, 2])
        if (!this.#vm.memory.load64(ring.base + at + word * 4, command.subarray(word, word + 2))) return;
      const opcode = command[1]! >>> 28;
      if (opcode === CMD.INVALIDATE_DEVTAB_ENTRY) {
        this.#devices.settle(readField(CMD_INVALIDATE_DEVICE.DeviceID, command));
      } else if (opcode === CMD.INVALIDATE_IOMMU_ALL) this.#devices.settleAll();
    }
  }

  /** Events and page requests of the guest's come to its logs without us. */
  poll(): boolean {
    return false;
  }

  #note(what: string): void {
    if (this.#trace?.active === true) this.#trace.emit({ kind: 'guest-amd', what });
  }
}

/** An access of 4 or 8 aligned bytes. */
function legal(offset: number, bytes: number): boolean {
  return (
    (bytes === 4 || bytes === 8) && offset % bytes === 0 && offset >= 0 && offset + bytes <= REGISTER_BYTES
  );
}

function pointsInto(ring: Ring, pointer: number): boolean {
  return pointer % RING_ENTRY_BYTES === 0 && pointer < ring.bytes;
}
