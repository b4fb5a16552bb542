import { assert } from '../../../base/assert.ts';
import { failed, type Result } from '../../../base/result.ts';
import { big, exact } from '../../../base/u64.ts';
import * as abi from '../../../abi/iommufd.ts';
import { iommu_hwpt_arm_smmuv3 } from '../../../abi/iommufd-data.ts';
import type { OpenFile } from '../../../memory/file.ts';
import type { Task } from '../../../memory/process.ts';
import type { SimulatedProcess } from '../../../memory/simulated-process.ts';
import { GuestPageTable, type TableFormat } from '../../../vmm/guests/guest-pages.ts';
import type { AnyStruct } from '../../../base/struct.ts';
import { Program, type RefusedRequest } from '../../../vmm/program.ts';

// For tests: a program that has /dev/iommu open, and a guest that it runs.

/** ASCII. */
export function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

export function textOf(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

/** A program of the VMM's kind, with requests that answer the struct as it came back, whatever the errno. */
export class TestProgram {
  readonly process: SimulatedProcess;
  readonly task: Task;
  readonly file: OpenFile;
  /** Of the last request: 0 where it succeeded. */
  errno = 0;
  readonly #program: Program;
  readonly #fd: number;

  constructor(pid: number, open: (task: Task) => Result<OpenFile>) {
    this.#program = new Program({ open: (_path, task) => open(task) }, pid);
    this.process = this.#program.process;
    this.task = this.#program.task;
    const fd = this.#program.open('/dev/iommu');
    assert(!failed(fd), 'the file opens');
    this.#fd = fd;
    this.file = this.process.file(fd) as OpenFile;
  }

  /** Makes a request; answers the struct as it came back. */
  call<Layout extends AnyStruct>(
    cmd: number,
    layout: Layout,
    values: Partial<ReturnType<Layout['create']>>,
  ): ReturnType<Layout['create']> {
    const done = this.#program.request(this.#fd, cmd, layout, values);
    this.errno = failed(done) ? done.errno : 0;
    return failed(done) ? ((done as RefusedRequest).answer as ReturnType<Layout['create']>) : done;
  }

  write(va: bigint, bytes: Uint8Array): void {
    assert(this.process.memory.write(va, bytes), 'the program writes its own memory');
  }

  read(va: bigint, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    assert(this.process.memory.read(va, bytes), 'the program reads its own memory');
    return bytes;
  }

  /** Puts bytes where a request can point to. */
  data(bytes: Uint8Array): bigint {
    return this.#program.place(bytes);
  }

  // ---- requests ----

  ioas(): number {
    return this.call(abi.IOMMU_IOAS_ALLOC, abi.iommu_ioas_alloc, {}).out_ioas_id;
  }

  map(ioas: number, va: bigint, iova: bigint, length: bigint, writable = true): void {
    const flags =
      abi.IOMMU_IOAS_MAP_FIXED_IOVA |
      abi.IOMMU_IOAS_MAP_READABLE |
      (writable ? abi.IOMMU_IOAS_MAP_WRITEABLE : 0);
    this.call(abi.IOMMU_IOAS_MAP, abi.iommu_ioas_map, { flags, ioas_id: ioas, user_va: va, length, iova });
  }

  unmap(ioas: number, iova: bigint, length: bigint): void {
    this.call(abi.IOMMU_IOAS_UNMAP, abi.iommu_ioas_unmap, { ioas_id: ioas, iova, length });
  }

  hwpt(device: number, on: number, flags = 0, fault = 0): number {
    const values = { flags, dev_id: device, pt_id: on, fault_id: fault };
    return this.call(abi.IOMMU_HWPT_ALLOC, abi.iommu_hwpt_alloc, values).out_hwpt_id;
  }

  viommu(device: number, parent: number): number {
    const type = abi.IOMMU_VIOMMU_TYPE_ARM_SMMUV3;
    const values = { type, dev_id: device, hwpt_id: parent };
    return this.call(abi.IOMMU_VIOMMU_ALLOC, abi.iommu_viommu_alloc, values).out_viommu_id;
  }

  vdevice(viommu: number, device: number, virtualId: bigint): number {
    const values = { viommu_id: viommu, dev_id: device, virt_id: virtualId };
    return this.call(abi.IOMMU_VDEVICE_ALLOC, abi.iommu_vdevice_alloc, values).out_vdevice_id;
  }

  /** A nested HWPT for the first two words of a guest's STE. */
  nested(device: number, viommu: number, ste: readonly [bigint, bigint], fault = 0): number {
    const bytes = new Uint8Array(iommu_hwpt_arm_smmuv3.size);
    iommu_hwpt_arm_smmuv3.write(bytes, 0, { ste: [...ste] });
    return this.call(abi.IOMMU_HWPT_ALLOC, abi.iommu_hwpt_alloc, {
      flags: fault === 0 ? 0 : abi.IOMMU_HWPT_FAULT_ID_VALID,
      dev_id: device,
      pt_id: viommu,
      data_type: abi.IOMMU_HWPT_DATA_ARM_SMMUV3,
      data_len: bytes.length,
      data_uptr: this.data(bytes),
      fault_id: fault,
    }).out_hwpt_id;
  }

  /** Sends commands, 64-bit words two by two; answers how many were handled. */
  invalidate(viommu: number, commands: readonly (readonly [bigint, bigint])[]): number {
    const bytes = new Uint8Array(commands.length * 16);
    const view = new DataView(bytes.buffer);
    for (const [index, [low, high]] of commands.entries()) {
      view.setBigUint64(index * 16, low, true);
      view.setBigUint64(index * 16 + 8, high, true);
    }
    return this.call(abi.IOMMU_HWPT_INVALIDATE, abi.iommu_hwpt_invalidate, {
      hwpt_id: viommu,
      data_uptr: this.data(bytes),
      data_type: abi.IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
      entry_len: 16,
      entry_num: commands.length,
    }).entry_num;
  }

  veventq(viommu: number, depth = 16, type: number = abi.IOMMU_VEVENTQ_TYPE_ARM_SMMUV3): number {
    const values = { viommu_id: viommu, type, veventq_depth: depth };
    return this.call(abi.IOMMU_VEVENTQ_ALLOC, abi.iommu_veventq_alloc, values).out_veventq_fd;
  }

  /** IOMMU_FAULT_QUEUE_ALLOC: its id and descriptor. */
  faultQueue(): { id: number; fd: number } {
    const made = this.call(abi.IOMMU_FAULT_QUEUE_ALLOC, abi.iommu_fault_alloc, {});
    return { id: made.out_fault_id, fd: made.out_fault_fd };
  }

  destroy(id: number): void {
    this.call(abi.IOMMU_DESTROY, abi.iommu_destroy, { id });
  }

  /** read(2) of a queue; what came, or the negative errno. */
  readFile(fd: number, count: number): Uint8Array | number {
    const done = this.#program.read(fd, count);
    return failed(done) ? -done.errno : done;
  }

  writeFile(fd: number, bytes: Uint8Array): number {
    const done = this.#program.write(fd, bytes);
    return failed(done) ? -done.errno : done;
  }
}

// ---- the guest ----

const PAGE = 0x1000n;
/** A page of stage 1: valid, Attr 0, not privileged, Inner Shareable, accessed, not global. */
const LEAF = 0b11n | (1n << 6n) | (3n << 8n) | (1n << 10n) | (1n << 11n);
const READ_ONLY = 1n << 7n;
const TABLE = 0b11n;

/** A program that has a guest. */
export interface GuestHost {
  readonly process: SimulatedProcess;
  write(va: bigint, bytes: Uint8Array): void;
  read(va: bigint, length: number): Uint8Array;
}

/** A guest's physical memory: a part of the program, mapped at `ipa` in the nest parent. */
export class GuestMemory {
  readonly program: GuestHost;
  readonly va: bigint;
  readonly ipa: bigint;
  readonly bytes: bigint;
  #next: bigint;

  constructor(program: GuestHost, va: bigint, ipa: bigint, bytes: bigint) {
    this.program = program;
    this.va = va;
    this.ipa = ipa;
    this.bytes = bytes;
    this.#next = ipa;
    program.process.memory.map(va, bytes);
  }

  /** A zeroed page of the guest; its physical address there. */
  page(): bigint {
    const ipa = this.#next;
    this.#next += PAGE;
    assert(ipa + PAGE <= this.ipa + this.bytes, 'the guest has memory left');
    return ipa;
  }

  vaOf(ipa: bigint): bigint {
    return this.va + (ipa - this.ipa);
  }

  write64(ipa: bigint, value: bigint): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    this.program.write(this.vaOf(ipa), bytes);
  }

  read64(ipa: bigint): bigint {
    const bytes = this.program.read(this.vaOf(ipa), 8);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  write(ipa: bigint, text: string): void {
    this.program.write(this.vaOf(ipa), bytesOf(text));
  }

  text(ipa: bigint, length: number): string {
    return textOf(this.program.read(this.vaOf(ipa), length));
  }
}

/** What entries of four levels of 4 KiB tables say beside an address. */
export interface EntryFormat extends TableFormat {
  readonly readOnlyPageBits: bigint;
}

const VMSA: EntryFormat = {
  levels: 4,
  tableBits: TABLE,
  pageBits: LEAF,
  readOnlyPageBits: LEAF | READ_ONLY,
};
/** Tables of x86 and of AMD's guests: present, writable, user, accessed; pages dirty as well. */
export const X86: EntryFormat = { levels: 4, tableBits: 0x27n, pageBits: 0x67n, readOnlyPageBits: 0x65n };

/** Stage 1 tables of a guest: 4 KiB pages, 48 bits, four levels; VMSAv8-64 where `format` says nothing else. */
export class GuestTables {
  readonly memory: GuestMemory;
  readonly root: bigint;
  readonly #table: GuestPageTable;
  readonly #format: EntryFormat;

  constructor(memory: GuestMemory, format: EntryFormat = VMSA) {
    this.memory = memory;
    this.#format = format;
    this.#table = new GuestPageTable(
      {
        take: () => exact(memory.page()),
        load: (at) => memory.read64(big(at)),
        store: (at, value) => memory.write64(big(at), value),
      },
      format,
    );
    this.root = big(this.#table.root);
  }

  map(iova: bigint, ipa: bigint, writable = true): void {
    const { pageBits, readOnlyPageBits } = this.#format;
    this.#table.map(iova, exact(ipa), writable ? pageBits : readOnlyPageBits);
  }

  unmap(iova: bigint): void {
    this.#table.unmap(iova);
  }
}

/** A guest's CD: T0SZ 16, 4 KiB, 48-bit IPAs, with records. `stall` sets CD.S. */
export function writeGuestCd(
  memory: GuestMemory,
  at: bigint,
  tables: GuestTables,
  asid: number,
  stall = false,
): void {
  const EPD1 = 1n << 30n;
  const V = 1n << 31n;
  const IPS_48 = 5n << 32n;
  const AA64 = 1n << 41n;
  const S = stall ? 1n << 44n : 0n;
  const R_A = 3n << 45n;
  const words = [16n | EPD1 | V | IPS_48 | AA64 | S | R_A | (BigInt(asid) << 48n), tables.root, 0n, 0xffn];
  for (const [index, word] of words.entries()) memory.write64(at + BigInt(index) * 8n, word);
}

/** The first words of a guest's STE with a linear CD table of 2^log2 entries. */
export function guestSte(
  cdTable: bigint,
  options: { log2?: bigint; ats?: boolean; s1Dss?: bigint } = {},
): [bigint, bigint] {
  const { log2 = 0n, ats = false, s1Dss = 2n } = options;
  const V_S1 = 1n | (5n << 1n);
  return [
    V_S1 | cdTable | (log2 << 59n),
    s1Dss | (1n << 2n) | (1n << 4n) | (3n << 6n) | (ats ? 1n << 28n : 0n),
  ];
}

export const STE_ABORT: [bigint, bigint] = [1n, 0n];
export const STE_BYPASS: [bigint, bigint] = [9n, 0n];

/** Commands as a guest writes them into its queue. */
export const guestCommand = {
  tlbiAll: (): [bigint, bigint] => [0x30n, 0n],
  tlbiNhAll: (): [bigint, bigint] => [0x10n, 0n],
  tlbiAsid: (asid: number): [bigint, bigint] => [0x11n | (BigInt(asid) << 48n), 0n],
  tlbiVa: (asid: number, iova: bigint): [bigint, bigint] => [0x12n | (BigInt(asid) << 48n), iova | 1n],
  tlbiVaa: (iova: bigint): [bigint, bigint] => [0x13n, iova | 1n],
  cfgiCd: (vsid: number, ssid = 0): [bigint, bigint] => [
    0x05n | (BigInt(ssid) << 12n) | (BigInt(vsid) << 32n),
    1n,
  ],
  cfgiCdAll: (vsid: number): [bigint, bigint] => [0x06n | (BigInt(vsid) << 32n), 0n],
  /** Everything, or `log2` pages of 4 KiB. */
  atcInv: (vsid: number, iova = 0n, log2 = 52n): [bigint, bigint] => [
    0x40n | (BigInt(vsid) << 32n),
    iova | log2,
  ],
};
