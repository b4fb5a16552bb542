import { readAddress, readField } from '../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { big, hex, hi32, lo32, u64 } from '../../base/u64.ts';
import { ENODEV } from '../../abi/errno.ts';
import * as amd from '../../abi/amd-viommu.ts';
import * as abi from '../../abi/iommufd.ts';
import { iommu_hw_info_amd, iommu_hwpt_amd_guest } from '../../abi/iommufd-data.ts';
import { CMD, CMD_INVALIDATE_DEVICE } from '../../iommu/amd/spec/commands.ts';
import { DTE_BYTES, DTE_WORDS } from '../../iommu/amd/spec/dte.ts';
import {
  CONTROL,
  DEV_TAB_BASE,
  OFFSET,
  RING_BASE,
  RING_ENTRY_BYTES,
} from '../../iommu/amd/spec/registers.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import type { MappedWords } from '../program.ts';
import type { VirtualMachine } from '../virtual-machine.ts';

// The AMD IOMMU that a guest sees, with AMD's hardware vIOMMU behind it (the trial uAPI amd-viommu): the guest's command
// buffer and event log are served by the IOMMU itself. The rest of the registers is ours, and a command that says that a
// device table entry has changed is looked at on its way.

/** Registers below it are ours; the page from it on is the hardware's. */
const HARDWARE_PAGE = 0x2000;
const PAGE_BYTES = 0x1000;
/** What of its own registers a guest may write. */
const WRITABLE: ReadonlySet<number> = new Set([
  OFFSET.DEV_TAB_BASE,
  OFFSET.CMD_BUF_BASE,
  OFFSET.EVT_LOG_BASE,
  OFFSET.CONTROL,
]);
const READ_ONLY: ReadonlySet<number> = new Set([OFFSET.EFR, OFFSET.EFR2]);

/** V without TV: nothing passes. */
const BLOCKED = 1n;

/** A ring of the guest's, which CONTROL turns on and off. */
interface Ring {
  readonly type: number;
  readonly base: number;
  readonly enable: (typeof CONTROL)['CmdBufEn'];
  /** IOMMU_HW_QUEUE_FLAG_AMD_* of it. */
  readonly flags: number;
}

const RINGS: readonly Ring[] = [
  {
    type: amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD,
    base: OFFSET.CMD_BUF_BASE,
    enable: CONTROL.CmdBufEn,
    flags: amd.QUEUE_FLAG.CMDBUF_EN,
  },
  {
    type: amd.IOMMU_HW_QUEUE_TYPE_AMD_EVT,
    base: OFFSET.EVT_LOG_BASE,
    enable: CONTROL.EventLogEn,
    flags: amd.QUEUE_FLAG.EVT_LOG_EN,
  },
];

interface Device {
  readonly device: AssignedDevice;
  readonly id: number;
  /** The entry that it is attached for: its words, and the nested HWPT where that is one. */
  entry: Uint8Array | null;
  hwpt: number;
}

export class VirtualAmdIommu {
  readonly viommu: number;
  readonly #vm: VirtualMachine;
  readonly #parent: number;
  readonly #page: MappedWords;
  readonly #trace: Trace | null;
  /** Words by byte offset. */
  readonly #registers = new Map<number, number>();
  readonly #queues = new Map<number, number>();
  readonly #devices = new Map<number, Device>();

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
    const made = vm.viommuWithData(first, amd.IOMMU_VIOMMU_TYPE_AMD, parent, amd.iommu_viommu_amd.size);
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
    this.#parent = parent;
    this.#page = page;
    this.#trace = trace;
    const { efr, efr2 } = iommu_hw_info_amd.read(info);
    this.#set(OFFSET.EFR, efr);
    this.#set(OFFSET.EFR2, efr2);
  }

  /** Puts a device behind it, as `id` of the guest. EINVAL where it is behind another physical IOMMU. */
  addDevice(device: AssignedDevice, id: number): Result<void> {
    const vdevice = this.#vm.vdevice(this.viommu, device, BigInt(id));
    if (failed(vdevice)) return vdevice;
    const attached = device.attach(this.#parent);
    if (failed(attached)) return attached;
    const entry: Device = { device, id, entry: null, hwpt: 0 };
    this.#devices.set(id, entry);
    this.#settle(entry);
  }

  // ---- the guest's loads and stores ----

  readRegister(offset: number, bytes: number): bigint {
    const lo = this.#load(offset);
    return bytes === 8 ? u64(this.#load(offset + 4), lo) : big(lo);
  }

  writeRegister(offset: number, bytes: number, value: bigint): void {
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

  #on(field: (typeof CONTROL)['CmdBufEn'], control = this.#get(OFFSET.CONTROL)): boolean {
    return readField(field, control) !== 0;
  }

  #controlChanged(before: Uint32Array): void {
    for (const ring of RINGS) {
      const on = this.#on(ring.enable);
      if (on === this.#on(ring.enable, before)) continue;
      if (on) this.#startRing(ring);
      else this.#stopRing(ring);
    }
    if (this.#on(CONTROL.IommuEn) !== this.#on(CONTROL.IommuEn, before)) this.#settleAll();
  }

  #startRing({ type, base, flags }: Ring): void {
    const words = this.#get(base);
    const made = this.#vm.hwQueue(
      this.viommu,
      type,
      big(readAddress(RING_BASE.Base, words)),
      big(readField(RING_BASE.Len, words)),
      flags,
    );
    if (failed(made)) this.#note('a ring', `is refused: ${made.reason}`);
    else this.#queues.set(type, made);
  }

  #stopRing({ type }: Ring): void {
    const queue = this.#queues.get(type);
    if (queue !== undefined) this.#vm.destroy(queue);
    this.#queues.delete(type);
  }

  // ---- the page of the hardware ----

  #storeToPage(offset: number, value: number): void {
    if (offset === OFFSET.CMD_TAIL) this.#lookAtCommands(value);
    this.#page.store(offset - HARDWARE_PAGE, value);
  }

  /** Device table entries are ours to read: the hardware knows nested domains, and not the guest's table. */
  #lookAtCommands(tail: number): void {
    const words = this.#get(OFFSET.CMD_BUF_BASE);
    const base = readAddress(RING_BASE.Base, words);
    const bytes = 2 ** readField(RING_BASE.Len, words) * RING_ENTRY_BYTES;
    const command = new Uint32Array(4);
    for (let at = this.#page.load(OFFSET.CMD_TAIL - HARDWARE_PAGE); at !== tail % bytes;) {
      for (const word of [0, 2])
        if (!this.#vm.memory.load64(base + at + word * 4, command.subarray(word, word + 2))) return;
      const opcode = command[1]! >>> 28;
      if (opcode === CMD.INVALIDATE_DEVTAB_ENTRY) {
        const device = this.#devices.get(readField(CMD_INVALIDATE_DEVICE.DeviceID, command));
        if (device !== undefined) this.#settle(device);
      } else if (opcode === CMD.INVALIDATE_IOMMU_ALL) this.#settleAll();
      at = (at + RING_ENTRY_BYTES) % bytes;
    }
  }

  // ---- devices ----

  #settleAll(): void {
    for (const device of this.#devices.values()) this.#settle(device);
  }

  /** Attaches a device to what the guest's entry says; an entry that says the same again is left as it is. */
  #settle(device: Device): void {
    const entry = this.#entryOf(device.id);
    if (same(entry, device.entry)) return;
    const before = device.hwpt;
    device.entry = entry;
    device.hwpt = 0;
    const refused = entry === null ? device.device.attach(this.#parent) : this.#attach(device, entry);
    if (failed(refused)) {
      this.#note(`device ${hex(device.id)}`, `is blocked: ${refused.reason}`);
      device.device.detach();
    }
    if (before !== 0) this.#vm.destroy(before);
  }

  #attach(device: Device, entry: Uint8Array): Result<void> {
    const type = abi.IOMMU_HWPT_DATA_AMD_GUEST;
    const hwpt = this.#vm.nested(device.device, this.viommu, type, entry);
    if (failed(hwpt)) return hwpt;
    const attached = device.device.attach(hwpt);
    if (failed(attached)) {
      this.#vm.destroy(hwpt);
      return attached;
    }
    device.hwpt = hwpt;
  }

  /** The guest's DTE; null while its IOMMU is off, or the entry lets everything pass (V = 0, §2.2.2). */
  #entryOf(id: number): Uint8Array | null {
    if (!this.#on(CONTROL.IommuEn)) return null;
    const dte = this.#readTable(id);
    if ((dte[0]! & 1n) === 0n) return null;
    const data = new Uint8Array(iommu_hwpt_amd_guest.size);
    iommu_hwpt_amd_guest.write(data, 0, { dte });
    return data;
  }

  /** The four words of an entry; one that lets nothing pass where the table ends before it, or is not there. */
  #readTable(id: number): bigint[] {
    const table = this.#get(OFFSET.DEV_TAB_BASE);
    const bytes = (readField(DEV_TAB_BASE.Size, table) + 1) * 4096;
    const at = readAddress(DEV_TAB_BASE.DevTabBase, table) + id * DTE_BYTES;
    const words = new Uint32Array(DTE_WORDS);
    const present =
      (id + 1) * DTE_BYTES <= bytes &&
      [0, 2, 4, 6].every((word) => this.#vm.memory.load64(at + word * 4, words.subarray(word, word + 2)));
    return present ? [0, 2, 4, 6].map((word) => u64(words[word + 1]!, words[word]!)) : [BLOCKED, 0n, 0n, 0n];
  }

  #note(whose: string, what: string): void {
    if (this.#trace?.active === true) this.#trace.emit({ kind: 'guest-amd', whose, what });
  }
}

function same(one: Uint8Array | null, other: Uint8Array | null): boolean {
  if (one === null || other === null) return one === other;
  return one.every((byte, index) => byte === other[index]);
}
