import { assert } from '../../../base/assert.ts';
import { failed, type Result } from '../../../base/result.ts';
import * as abi from '../../../abi/iommufd.ts';
import { iommu_hwpt_arm_smmuv3 } from '../../../abi/iommufd-data.ts';
import type { OpenFile } from '../../../memory/file.ts';
import type { Task } from '../../../memory/process.ts';
import type { SimulatedProcess } from '../../../memory/simulated-process.ts';
import type { AnyStruct } from '../../../base/struct.ts';
import { Program, type RefusedRequest } from '../../../vmm/program.ts';

// For tests: a program that has /dev/iommu open, and what an SMMUv3's VMM asks of it.

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
