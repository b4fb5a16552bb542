import { assert } from '../../base/assert.ts';
import { failed } from '../../base/result.ts';
import type { AnyStruct } from '../../base/struct.ts';
import {
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  iommu_ioas_alloc,
  iommu_ioas_map,
} from '../../abi/iommufd.ts';
import {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_DEVICE_FEATURE,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_SET_CONTAINER,
  vfio_device_attach_iommufd_pt,
  vfio_device_bind_iommufd,
  vfio_device_detach_iommufd_pt,
  vfio_device_feature,
} from '../../abi/vfio.ts';
import { VIOMMU_DEVICE_DMA, viommu_device_dma } from '../../abi/viommu.ts';
import { Kernel } from '../../machine/kernel.ts';
import { DEFAULT_PARTS, loadParts } from '../../machine/machine-file/parts.ts';
import type { OpenFile } from '../../memory/file.ts';
import { SimulatedProcess, simulatedTask } from '../../memory/simulated-process.ts';
import { bytesOf } from '../../base/testing/ascii.ts';

export const ARGUMENT = 0x1000n;
export const BUFFER = 0x10_0000n;
export const LENGTH = 0x4000n;
export const PARTS = await loadParts(DEFAULT_PARTS);

/** A program on a machine; every file it opens has a descriptor. */
export class Program {
  readonly process = new SimulatedProcess(100);
  readonly #task = simulatedTask(this.process);
  readonly #kernel: Kernel;

  constructor(kernel = new Kernel({ parts: PARTS })) {
    this.#kernel = kernel;
    this.process.memory.map(ARGUMENT, 0x1000n);
    this.process.memory.map(BUFFER, LENGTH);
  }

  /** open(2): a descriptor, or a negative errno. */
  tryOpen(path: string): number {
    const file = this.#kernel.open(path, this.#task);
    if (failed(file)) return -file.errno;
    const fd = this.process.open(file);
    assert(!failed(fd), 'a descriptor is free');
    return fd;
  }

  open(path: string): number {
    const fd = this.tryOpen(path);
    assert(fd >= 0, `${path} opens`);
    return fd;
  }

  file(fd: number): OpenFile {
    return this.process.file(fd) as OpenFile;
  }

  /** Answers what the ioctl answered, and the struct as it came back, with `extra` bytes behind it. */
  call<Layout extends AnyStruct>(
    fd: number,
    cmd: number,
    layout: Layout,
    values: Partial<ReturnType<Layout['create']>>,
    extra: Uint8Array = new Uint8Array(),
  ): { rc: number; out: ReturnType<Layout['create']>; more: Uint8Array } {
    const bytes = new Uint8Array(layout.size + extra.length);
    layout.write(bytes, 0, { ...layout.create(), argsz: bytes.length, size: layout.size, ...values });
    bytes.set(extra, layout.size);
    this.process.memory.write(ARGUMENT, bytes);
    const rc = this.ioctl(fd, cmd, ARGUMENT);
    this.process.memory.read(ARGUMENT, bytes);
    const out = layout.read(bytes) as ReturnType<Layout['create']>;
    return { rc, out, more: bytes.subarray(layout.size) };
  }

  ioctl(fd: number, cmd: number, arg: bigint): number {
    return this.file(fd).ioctl(this.#task, cmd, arg);
  }

  bind(
    device: number,
    iommufd: number,
    more: { argsz?: number; flags?: number; token_uuid_ptr?: bigint } = {},
  ): number {
    return this.call(device, VFIO_DEVICE_BIND_IOMMUFD, vfio_device_bind_iommufd, { iommufd, ...more }).rc;
  }

  attach(device: number, pt_id: number, flags = 0, pasid = 0): number {
    const values = { pt_id, flags, pasid };
    return this.call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, vfio_device_attach_iommufd_pt, values).rc;
  }

  detach(device: number): number {
    return this.call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, vfio_device_detach_iommufd_pt, {}).rc;
  }

  /** VFIO_DEVICE_FEATURE with the feature's own struct: what was answered, and that struct as it came back. */
  feature(
    device: number,
    flags: number,
    data: Uint8Array = new Uint8Array(),
  ): { rc: number; more: Uint8Array } {
    return this.call(device, VFIO_DEVICE_FEATURE, vfio_device_feature, { flags }, data);
  }

  /** VFIO_GROUP_SET_CONTAINER */
  setContainer(group: number, container: number): number {
    const fd = new Uint8Array(4);
    new DataView(fd.buffer).setInt32(0, container, true);
    this.process.memory.write(ARGUMENT, fd);
    return this.ioctl(group, VFIO_GROUP_SET_CONTAINER, ARGUMENT);
  }

  /** VFIO_GROUP_GET_DEVICE_FD */
  getDeviceFd(group: number, name: string): number {
    this.process.memory.write(ARGUMENT, bytesOf(`${name}\0`));
    return this.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, ARGUMENT);
  }

  /** An IOAS with the program's buffer at IOVA 0. */
  ioas(iommufd: number): number {
    const { out } = this.call(iommufd, IOMMU_IOAS_ALLOC, iommu_ioas_alloc, {});
    const flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
    const values = { flags, ioas_id: out.out_ioas_id, user_va: BUFFER, length: LENGTH, iova: 0n };
    const { rc } = this.call(iommufd, IOMMU_IOAS_MAP, iommu_ioas_map, values);
    assert(rc === 0, 'the buffer is mapped');
    return out.out_ioas_id;
  }

  dma(device: number, values: Partial<ReturnType<typeof viommu_device_dma.create>>): number {
    return this.call(device, VIOMMU_DEVICE_DMA, viommu_device_dma, values).rc;
  }

  /** read(2): what came, or a negative errno. */
  read(fd: number, count: number): Uint8Array | number {
    const done = this.file(fd).read!(this.#task, BUFFER, count);
    if (done < 0) return done;
    const bytes = new Uint8Array(done);
    this.process.memory.read(BUFFER, bytes);
    return bytes;
  }

  /** write(2) */
  write(fd: number, bytes: Uint8Array): number {
    this.process.memory.write(BUFFER, bytes);
    return this.file(fd).write!(this.#task, BUFFER, bytes.length);
  }

  pread(fd: number, offset: bigint, count: number): number {
    return this.file(fd).pread!(this.#task, BUFFER, count, offset);
  }

  pwrite(fd: number, offset: bigint, bytes: readonly number[]): number {
    this.process.memory.write(BUFFER, new Uint8Array(bytes));
    return this.file(fd).pwrite!(this.#task, BUFFER, bytes.length, offset);
  }

  mmap(fd: number, offset: bigint, length: bigint): number {
    return this.file(fd).mmap!(this.#task, offset, length, 3);
  }
}
