import { assert } from '../../base/assert.ts';
import * as amd from '../../abi/amd-viommu.ts';
import * as abi from '../../abi/iommufd.ts';
import { GuestTables, X86 } from '../../iommu/testing/guest.ts';
import { BUFFER } from '../../iommufd/testing/program.ts';
import { MappedFile } from '../../vmm/mapped-file.ts';
import type { Kernel } from '../kernel.ts';
import { Vm, type Passed } from './vm.ts';

// For tests: a VM with AMD's hardware vIOMMU, and a guest that programs it as a driver does.

const DATA = BUFFER + 0x8000n;
const PAGE = 0x1000n;
const RING_BYTES = 0x1000;

/** A guest's DTE: V, TV, GIOV, GV, the GCR3 table, and its domain id; four levels. */
export function guestDte(gcr3: bigint, domain: bigint): readonly bigint[] {
  const page = gcr3 >> 12n;
  const flags = 3n | (1n << 54n) | (1n << 55n);
  return [
    flags | ((page & 7n) << 58n),
    domain | (((page >> 3n) & 0xffffn) << 16n) | ((page >> 19n) << 43n),
    0n,
    0n,
  ];
}

/** A device of a VM, with the viommu of the IOMMU that it is behind. */
export class AmdPort {
  readonly vm: Vm;
  readonly device: Passed;
  readonly viommuId: number;
  readonly #file: MappedFile;
  readonly #at: bigint;
  #commands = 0n;
  #tail = 0;

  /** `virtualId` is how the guest calls the device. */
  constructor(vm: Vm, device: Passed, parent: number, virtualId: bigint, file: MappedFile) {
    this.vm = vm;
    this.device = device;
    const { errno, id, offset } = allocViommu(vm, device, parent, amd.IOMMU_VIOMMU_TYPE_AMD);
    assert(errno === 0, `a viommu answers ${errno}`);
    this.viommuId = id;
    vm.vdevice(id, device.id, virtualId);
    assert(vm.context.mmap(vm.task, offset, PAGE, 3) === 0, 'the page is mapped');
    this.#file = file;
    this.#at = offset;
  }

  nestedOf(dte: readonly bigint[]): { errno: number; id: number } {
    const bytes = new Uint8Array(new BigUint64Array(dte).buffer);
    return this.vm.linuxNested(this.device, this.viommuId, { type: abi.IOMMU_HWPT_DATA_AMD_GUEST, bytes });
  }

  tryQueue(type: number, base: bigint, length: bigint, flags: number): { errno: number; id: number } {
    const { rc, out } = this.vm.call(abi.IOMMU_HW_QUEUE_ALLOC, abi.iommu_hw_queue_alloc, {
      flags,
      viommu_id: this.viommuId,
      type,
      nesting_parent_iova: base,
      length,
    });
    return { errno: Math.abs(rc), id: out.out_hw_queue_id };
  }

  /** A ring of 256 entries; its guest address. */
  queue(type: number): bigint {
    const base = this.vm.guest.page();
    const { errno } = this.tryQueue(type, base, 8n, amd.QUEUE_FLAGS);
    assert(errno === 0, `a queue answers ${errno}`);
    if (type === amd.IOMMU_HW_QUEUE_TYPE_AMD_CMD) this.#commands = base;
    return base;
  }

  /** A register of the guest's page: MMIO 2000h to 2FFFh. */
  register(offset: number): number {
    return this.#file.load32(this.#at + BigInt(offset & 0xfff));
  }

  setRegister(offset: number, value: number): void {
    this.#file.store32(this.#at + BigInt(offset & 0xfff), value);
  }

  /** Puts commands into the guest's buffer, and lets time pass. */
  send(...commands: readonly (readonly [bigint, bigint])[]): void {
    for (const [low, high] of commands) {
      this.vm.guest.write64(this.#commands + BigInt(this.#tail), low);
      this.vm.guest.write64(this.#commands + BigInt(this.#tail + 8), high);
      this.#tail = (this.#tail + 16) % RING_BYTES;
    }
    this.setRegister(0x2008, this.#tail);
    this.settle();
  }

  settle(): void {
    while (this.vm.kernel.doorbells.look());
  }
}

/** IOMMU_VIOMMU_ALLOC: the errno, the id, and where the page is mapped. */
export function allocViommu(
  vm: Vm,
  device: Passed,
  parent: number,
  type: number,
  withData = true,
): { errno: number; id: number; offset: bigint } {
  const { size } = amd.iommu_viommu_amd;
  vm.write(DATA, new Uint8Array(size));
  const { rc, out } = vm.call(abi.IOMMU_VIOMMU_ALLOC, abi.iommu_viommu_alloc, {
    type,
    dev_id: device.id,
    hwpt_id: parent,
    ...(withData && { data_len: size, data_uptr: DATA }),
  });
  const offset = amd.iommu_viommu_amd.read(vm.read(DATA, size)).out_vfmmio_mmap_offset;
  return { errno: Math.abs(rc), id: out.out_viommu_id, offset };
}

/** A VM whose devices stand behind AMD IOMMUs, with one nest parent for all of them. */
export class AmdVm extends Vm {
  readonly parentId: number;
  readonly ports: readonly AmdPort[];

  /**
   * `indexes` are those of vfioN; the guest calls all of them `virtualId`, each on an IOMMU of its own. `parentFlags` are
   * flags of the nest parent beside its own.
   */
  constructor(
    kernel: Kernel,
    pid: number,
    indexes: readonly number[],
    virtualId: bigint,
    parentFlags: number = 0,
  ) {
    super(kernel, pid);
    const devices = indexes.map((index) => this.pass(index));
    const parent = this.hwpt(devices[0]!.id, this.ioasId, abi.IOMMU_HWPT_ALLOC_NEST_PARENT | parentFlags);
    this.parentId = parent;
    const file = new MappedFile();
    this.context.backing = file;
    this.ports = devices.map((device) => new AmdPort(this, device, parent, virtualId, file));
  }

  get port(): AmdPort {
    return this.ports[0]!;
  }

  /** Gives the first device guest tables under the guest's domain id. */
  translate(domain: bigint): GuestTables {
    const tables = new GuestTables(this.guest, X86);
    const gcr3 = this.guest.page();
    this.guest.write64(gcr3, tables.root | 1n);
    const { errno, id } = this.port.nestedOf(guestDte(gcr3, domain));
    assert(errno === 0, `a nested HWPT answers ${errno}`);
    assert(this.attach(this.port.device, id) === 0, 'the nested HWPT is attached');
    return tables;
  }
}

/** Commands as a guest's driver writes them (48882 §2.4). */
export const guestCommand = {
  completionWait: (address: bigint, data: bigint): [bigint, bigint] => [(1n << 60n) | address | 1n, data],
  invalidateDte: (device: bigint): [bigint, bigint] => [(2n << 60n) | device, 0n],
  /** One page of a PASID. */
  invalidatePage: (domain: bigint, address: bigint, pasid = 0n): [bigint, bigint] => [
    (3n << 60n) | (domain << 32n) | pasid,
    address | 4n,
  ],
  invalidateIotlb: (device: bigint): [bigint, bigint] => [
    (4n << 60n) | (device << 32n) | device,
    0x7fff_ffff_ffff_f001n,
  ],
  /** Everything of a PASID in a domain, with the tables and the PASID's own. */
  invalidateDomain: (domain: bigint, pasid = 0n): [bigint, bigint] => [
    (3n << 60n) | (domain << 32n) | pasid,
    0x7fff_ffff_ffff_f007n,
  ],
  /** SUCCESS, to a request with a PASID. */
  completePageRequest: (device: bigint, pasid: bigint, group: bigint): [bigint, bigint] => [
    (7n << 60n) | (pasid << 32n) | device,
    (group << 32n) | 4n,
  ],
  invalidateAll: (): [bigint, bigint] => [8n << 60n, 0n],
};
