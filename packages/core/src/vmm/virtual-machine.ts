import { failed, type Failure, type Result } from '../base/result.ts';
import * as abi from '../abi/iommufd.ts';
import { AssignedDevice } from './assigned-device.ts';
import { GuestMemory } from './guest-memory.ts';
import type { PageFaultQueue } from './page-fault-queue.ts';
import { Program, type Machine, type RefusedRequest } from './program.ts';

/** A guest's RAM. */
export interface MemoryOptions {
  /** Guest physical address of the first byte. */
  readonly base?: number;
  readonly bytes?: number;
  /** Where the program has it; it is allocated where this is left out. */
  readonly va?: bigint;
}

/** What a VMM has before it has a vIOMMU: an iommufd, an IOAS of the guest's memory, and devices. */
export class VirtualMachine {
  readonly program: Program;
  readonly iommufd: number;
  /** Guest physical addresses, for devices. */
  readonly ioas: number;
  readonly memory: GuestMemory;

  static create(
    machine: Machine,
    options: MemoryOptions & { readonly pid?: number } = {},
  ): Result<VirtualMachine> {
    return VirtualMachine.of(new Program(machine, options.pid ?? 1), options);
  }

  /** The same of a program that is there. */
  static of(
    program: Program,
    { base = 0x4000_0000, bytes = 16 << 20, va }: MemoryOptions = {},
  ): Result<VirtualMachine> {
    const iommufd = program.open('/dev/iommu');
    if (failed(iommufd)) return iommufd;
    const ioas = allocIoas(program, iommufd);
    if (failed(ioas)) return ioas;
    const memory = new GuestMemory(program, base, bytes, va);
    const mapped = memory.mapInto(iommufd, ioas);
    return failed(mapped) ? mapped : new VirtualMachine(program, iommufd, ioas, memory);
  }

  private constructor(program: Program, iommufd: number, ioas: number, memory: GuestMemory) {
    this.program = program;
    this.iommufd = iommufd;
    this.ioas = ioas;
    this.memory = memory;
  }

  openDevice(path: string): Result<AssignedDevice> {
    return AssignedDevice.open(this.program, this.iommufd, path);
  }

  // ---- address spaces ----

  /** An empty IOAS. */
  allocIoas(): Result<number> {
    return allocIoas(this.program, this.iommufd);
  }

  /** Maps guest memory at `iova` of an IOAS, with the pins that it has in {@link ioas}: IOMMU_IOAS_COPY. */
  share(
    ioas: number,
    iova: bigint,
    guestAddress: bigint,
    length: bigint,
    may: { readonly read: boolean; readonly write: boolean },
  ): Result<void> {
    const done = this.program.request(this.iommufd, abi.IOMMU_IOAS_COPY, abi.iommu_ioas_copy, {
      flags:
        abi.IOMMU_IOAS_MAP_FIXED_IOVA |
        (may.read ? abi.IOMMU_IOAS_MAP_READABLE : 0) |
        (may.write ? abi.IOMMU_IOAS_MAP_WRITEABLE : 0),
      dst_ioas_id: ioas,
      src_ioas_id: this.ioas,
      length,
      dst_iova: iova,
      src_iova: guestAddress,
    });
    if (failed(done)) return done;
  }

  unmap(ioas: number, iova: bigint, length: bigint): void {
    const values = { ioas_id: ioas, iova, length };
    this.program.request(this.iommufd, abi.IOMMU_IOAS_UNMAP, abi.iommu_ioas_unmap, values);
  }

  // ---- objects that vIOMMUs are made of ----

  /** A stage 2 of the guest's memory that nested domains can lie on; with `pasids` PASIDs can be attached to it. */
  nestParent(device: AssignedDevice, pasids = false): Result<number> {
    const flags = abi.IOMMU_HWPT_ALLOC_NEST_PARENT | (pasids ? abi.IOMMU_HWPT_ALLOC_PASID : 0);
    const values = { flags, dev_id: device.id, pt_id: this.ioas };
    const made = this.program.request(this.iommufd, abi.IOMMU_HWPT_ALLOC, abi.iommu_hwpt_alloc, values);
    return failed(made) ? made : made.out_hwpt_id;
  }

  /** A viommu, and what the kernel tells of it in `bytes` of data, which most types do not have. */
  viommu(
    device: AssignedDevice,
    type: number,
    parent: number,
    bytes = 0,
  ): Result<{ readonly id: number; readonly data: Uint8Array }> {
    const place = bytes === 0 ? 0n : this.program.place(new Uint8Array(bytes));
    const values = { type, dev_id: device.id, hwpt_id: parent, data_len: bytes, data_uptr: place };
    const made = this.program.request(this.iommufd, abi.IOMMU_VIOMMU_ALLOC, abi.iommu_viommu_alloc, values);
    return failed(made) ? made : { id: made.out_viommu_id, data: this.program.placed(bytes) };
  }

  /** A queue of the guest's that hardware serves. */
  hwQueue(viommu: number, type: number, base: bigint, length: bigint, flags: number): Result<number> {
    const made = this.program.request(this.iommufd, abi.IOMMU_HW_QUEUE_ALLOC, abi.iommu_hw_queue_alloc, {
      flags,
      viommu_id: viommu,
      type,
      nesting_parent_iova: base,
      length,
    });
    return failed(made) ? made : made.out_hw_queue_id;
  }

  vdevice(viommu: number, device: AssignedDevice, virtualId: bigint): Result<number> {
    const values = { viommu_id: viommu, dev_id: device.id, virt_id: virtualId };
    const made = this.program.request(this.iommufd, abi.IOMMU_VDEVICE_ALLOC, abi.iommu_vdevice_alloc, values);
    return failed(made) ? made : made.out_vdevice_id;
  }

  /** A nested domain on a viommu or on a nest parent, of what the guest wrote. */
  nested(
    device: AssignedDevice,
    on: number,
    type: number,
    data: Uint8Array,
    { faults, pasids = false }: NestedOptions = {},
  ): Result<number> {
    const made = this.program.request(this.iommufd, abi.IOMMU_HWPT_ALLOC, abi.iommu_hwpt_alloc, {
      flags:
        (faults === undefined ? 0 : abi.IOMMU_HWPT_FAULT_ID_VALID) |
        (pasids ? abi.IOMMU_HWPT_ALLOC_PASID : 0),
      dev_id: device.id,
      pt_id: on,
      data_type: type,
      data_len: data.length,
      data_uptr: this.program.place(data),
      fault_id: faults?.id ?? 0,
    });
    return failed(made) ? made : made.out_hwpt_id;
  }

  /** A queue of events: its descriptor. */
  eventQueue(viommu: number, type: number, depth: number): Result<number> {
    const values = { viommu_id: viommu, type, veventq_depth: depth };
    const made = this.program.request(this.iommufd, abi.IOMMU_VEVENTQ_ALLOC, abi.iommu_veventq_alloc, values);
    return failed(made) ? made : made.out_veventq_fd;
  }

  /** Sends invalidations in order; how many were handled, and why not the next. */
  invalidate(on: number, type: number, entryBytes: number, entries: Uint8Array): InvalidationResult {
    const values = {
      hwpt_id: on,
      data_uptr: this.program.place(entries),
      data_type: type,
      entry_len: entryBytes,
      entry_num: entries.length / entryBytes,
    };
    const layout = abi.iommu_hwpt_invalidate;
    const done = this.program.request(this.iommufd, abi.IOMMU_HWPT_INVALIDATE, layout, values);
    if (!failed(done)) return { handled: done.entry_num, refused: null };
    const answer = (done as RefusedRequest).answer as ReturnType<typeof layout.create>;
    return { handled: answer.entry_num, refused: done };
  }

  destroy(id: number): void {
    this.program.request(this.iommufd, abi.IOMMU_DESTROY, abi.iommu_destroy, { id });
  }

  /** The VMM ends, as exit(2) ends it. */
  exit(): void {
    this.program.process.exit();
  }
}

function allocIoas(program: Program, iommufd: number): Result<number> {
  const made = program.request(iommufd, abi.IOMMU_IOAS_ALLOC, abi.iommu_ioas_alloc, {});
  return failed(made) ? made : made.out_ioas_id;
}

export interface NestedOptions {
  /** Where page faults of the domain go, and wait for an answer. */
  readonly faults?: PageFaultQueue | undefined;
  /** PASIDs can be attached to it. */
  readonly pasids?: boolean;
}

export interface InvalidationResult {
  readonly handled: number;
  readonly refused: Failure | null;
}
