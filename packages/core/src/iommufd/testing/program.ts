import { assert } from '../../base/assert.ts';
import { failed } from '../../base/result.ts';
import type { AnyStruct } from '../../base/struct.ts';
import * as abi from '../../abi/iommufd.ts';
import * as mock from '../../abi/iommufd-test.ts';
import { Kernel, type KernelOptions } from '../../machine/kernel.ts';
import type { OpenFile } from '../../memory/file.ts';
import {
  CAP_IPC_LOCK,
  CAP_SYS_RAWIO,
  CAP_SYS_RESOURCE,
  type ForeignFile,
  type SharedFile,
} from '../../memory/process.ts';
import { SimulatedProcess, simulatedTask } from '../../memory/simulated-process.ts';
import { IommufdContext } from '../context.ts';
import { findProfile } from '../profile.ts';

type Values<Layout extends AnyStruct> = ReturnType<Layout['create']>;

/** Where a program has its structs, and whatever they point to. */
const STRUCTS = 0x1000n;
export const BUFFER = 0x10000n;
const BUFFER_BYTES = 0x10000n;
/** What a program maps: private memory, each page of it for itself. */
export const ARENA = 0x1_0000_0000n;
const ARENA_BYTES = 0x20_0000n;

/** The lowest IOVA of the mock's domains. */
export const APERTURE = mock.MOCK_APERTURE_START;

export const PAGE = 4096n;
const READ_WRITE = abi.IOMMU_IOAS_MAP_READABLE | abi.IOMMU_IOAS_MAP_WRITEABLE;

/** What an ioctl answered, and the struct as it came back. */
export interface Answer<Layout extends AnyStruct> {
  /** Zero or more, or the errno, negative. */
  readonly rc: number;
  readonly out: Values<Layout>;
}

/** A mock device and where it is attached, by their ids. */
export interface MockIds {
  readonly stdev: number;
  readonly hwpt: number;
  readonly idev: number;
}

export interface MapValues {
  /** Where room is, where it is left out. */
  readonly iova?: bigint;
  readonly va?: bigint;
  readonly length?: bigint;
  readonly flags?: number;
}

/** A machine as Linux `profile` has it. */
export function machine(profile: string, options: KernelOptions = {}): Kernel {
  const found = findProfile(profile);
  assert(found !== null, `${profile} is a profile`);
  return new Kernel({ ...options, profile: found });
}

/** A program with /dev/iommu open. What has a short name must succeed, and answers ids. */
export class Program {
  readonly kernel: Kernel;
  readonly process: SimulatedProcess;
  readonly task: ReturnType<typeof simulatedTask>;
  /** The descriptor of its iommufd. */
  readonly fd: number;

  constructor(kernel = new Kernel(), pid = 100) {
    this.kernel = kernel;
    this.process = new SimulatedProcess(pid);
    for (const capability of [CAP_IPC_LOCK, CAP_SYS_RAWIO, CAP_SYS_RESOURCE])
      this.process.capabilities.add(capability);
    this.task = simulatedTask(this.process);
    const { memory } = this.process;
    memory.map(STRUCTS, PAGE);
    memory.map(BUFFER, BUFFER_BYTES);
    memory.map(ARENA, ARENA_BYTES);
    this.fd = this.openDevice('/dev/iommu');
  }

  openDevice(path: string): number {
    const file = this.kernel.open(path, this.task);
    assert(!failed(file), `${path} opens`);
    return this.descriptor(file);
  }

  descriptor(file?: OpenFile | SharedFile | ForeignFile): number {
    const fd = this.process.open(file);
    assert(!failed(fd), 'a descriptor is free');
    return fd;
  }

  /** The open iommufd itself. */
  get context(): IommufdContext {
    const file = this.process.file(this.fd);
    assert(file instanceof IommufdContext, 'the iommufd is open');
    return file;
  }

  /** The open file behind a descriptor. */
  file(fd: number): OpenFile {
    return this.process.file(fd) as OpenFile;
  }

  ioctl(cmd: number, arg: bigint, fd = this.fd): number {
    this.kernel.current = this.task;
    return this.file(fd).ioctl(this.task, cmd, arg);
  }

  /** Fields that are left out are 0, and `size` (or `argsz`) is the struct's. */
  call<Layout extends AnyStruct>(
    cmd: number,
    layout: Layout,
    values: Partial<Values<Layout>>,
    fd = this.fd,
  ): Answer<Layout> {
    const bytes = new Uint8Array(layout.size);
    layout.write(bytes, 0, { ...layout.create(), size: layout.size, argsz: layout.size, ...values });
    this.write(STRUCTS, bytes);
    const rc = this.ioctl(cmd, STRUCTS, fd);
    return { rc, out: layout.read(this.read(STRUCTS, layout.size)) as Values<Layout> };
  }

  /** One IOMMU_TEST_CMD. */
  test<Layout extends AnyStruct>(
    op: number,
    layout: Layout,
    values: Partial<Values<Layout>>,
  ): Answer<Layout> {
    return this.call(mock.IOMMU_TEST_CMD, layout, { op, ...values });
  }

  #must<Layout extends AnyStruct>(answer: Answer<Layout>): Values<Layout> {
    assert(answer.rc === 0, `a request answers ${answer.rc}`);
    return answer.out;
  }

  // ---- memory ----

  read(va: bigint, bytes: number): Uint8Array {
    const into = new Uint8Array(bytes);
    assert(this.process.memory.read(va, into), 'the program reads its memory');
    return into;
  }

  write(va: bigint, bytes: Uint8Array): void {
    assert(this.process.memory.write(va, bytes), 'the program writes its memory');
  }

  /** Puts structs one after another to {@link BUFFER}; answers where. */
  put<Layout extends AnyStruct>(layout: Layout, ...entries: readonly Partial<Values<Layout>>[]): bigint {
    const bytes = new Uint8Array(layout.size * entries.length);
    for (const [index, entry] of entries.entries())
      layout.write(bytes, index * layout.size, { ...layout.create(), ...entry });
    this.write(BUFFER, bytes);
    return BUFFER;
  }

  // ---- requests ----

  ioas(): number {
    return this.#must(this.call(abi.IOMMU_IOAS_ALLOC, abi.iommu_ioas_alloc, {})).out_ioas_id;
  }

  tryMap(
    ioas: number,
    { iova, va = ARENA, length = PAGE, flags = READ_WRITE }: MapValues = {},
  ): Answer<typeof abi.iommu_ioas_map> {
    return this.call(abi.IOMMU_IOAS_MAP, abi.iommu_ioas_map, {
      flags: iova === undefined ? flags : flags | abi.IOMMU_IOAS_MAP_FIXED_IOVA,
      ioas_id: ioas,
      user_va: va,
      length,
      iova: iova ?? 0n,
    });
  }

  /** Answers the IOVA. */
  map(ioas: number, values: MapValues = {}): bigint {
    return this.#must(this.tryMap(ioas, values)).iova;
  }

  tryMapFile(
    ioas: number,
    fd: number,
    { iova, start = 0n, length = PAGE }: { iova?: bigint; start?: bigint; length?: bigint } = {},
  ): Answer<typeof abi.iommu_ioas_map_file> {
    return this.call(abi.IOMMU_IOAS_MAP_FILE, abi.iommu_ioas_map_file, {
      flags: iova === undefined ? READ_WRITE : READ_WRITE | abi.IOMMU_IOAS_MAP_FIXED_IOVA,
      ioas_id: ioas,
      fd,
      start,
      length,
      iova: iova ?? 0n,
    });
  }

  unmap(ioas: number, iova: bigint, length: bigint): Answer<typeof abi.iommu_ioas_unmap> {
    return this.call(abi.IOMMU_IOAS_UNMAP, abi.iommu_ioas_unmap, { ioas_id: ioas, iova, length });
  }

  copy(from: number, srcIova: bigint, to: number, dstIova: bigint, length = PAGE): number {
    return this.call(abi.IOMMU_IOAS_COPY, abi.iommu_ioas_copy, {
      flags: READ_WRITE | abi.IOMMU_IOAS_MAP_FIXED_IOVA,
      dst_ioas_id: to,
      src_ioas_id: from,
      length,
      dst_iova: dstIova,
      src_iova: srcIova,
    }).rc;
  }

  destroy(id: number): number {
    return this.call(abi.IOMMU_DESTROY, abi.iommu_destroy, { id }).rc;
  }

  option(values: Partial<Values<typeof abi.iommu_option>>): Answer<typeof abi.iommu_option> {
    return this.call(abi.IOMMU_OPTION, abi.iommu_option, values);
  }

  tryHwpt(values: Partial<Values<typeof abi.iommu_hwpt_alloc>>): Answer<typeof abi.iommu_hwpt_alloc> {
    return this.call(abi.IOMMU_HWPT_ALLOC, abi.iommu_hwpt_alloc, values);
  }

  hwpt(idev: number, on: number, flags = 0): number {
    return this.#must(this.tryHwpt({ dev_id: idev, pt_id: on, flags })).out_hwpt_id;
  }

  /** A nested HWPT on a parent or a viommu. */
  nested(idev: number, on: number, flags = 0, fault = 0): number {
    const data = this.put(mock.iommu_hwpt_selftest, { iotlb: mock.IOMMU_TEST_IOTLB_DEFAULT });
    return this.#must(
      this.tryHwpt({
        dev_id: idev,
        pt_id: on,
        flags,
        fault_id: fault,
        data_type: mock.IOMMU_HWPT_DATA_SELFTEST,
        data_len: mock.iommu_hwpt_selftest.endOf('iotlb'),
        data_uptr: data,
      }),
    ).out_hwpt_id;
  }

  tryMock(on: number, devFlags = 0): Answer<typeof mock.iommu_test_cmd_mock_domain_flags> {
    return this.test(mock.IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, mock.iommu_test_cmd_mock_domain_flags, {
      id: on,
      dev_flags: devFlags,
    });
  }

  /** A new mock device, attached to `on`. */
  mock(on: number, devFlags = 0): MockIds {
    const out = this.#must(this.tryMock(on, devFlags));
    return { stdev: out.out_stdev_id, hwpt: out.out_hwpt_id, idev: out.out_idev_id };
  }

  replace(stdev: number, on: number): Answer<typeof mock.iommu_test_cmd_mock_domain_replace> {
    return this.test(mock.IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, mock.iommu_test_cmd_mock_domain_replace, {
      id: stdev,
      pt_id: on,
    });
  }

  pasidAttach(stdev: number, pasid: number, on: number): number {
    return this.test(mock.IOMMU_TEST_OP_PASID_ATTACH, mock.iommu_test_cmd_pasid_attach, {
      id: stdev,
      pasid,
      pt_id: on,
    }).rc;
  }

  pasidReplace(stdev: number, pasid: number, on: number): number {
    return this.test(mock.IOMMU_TEST_OP_PASID_REPLACE, mock.iommu_test_cmd_pasid_replace, {
      id: stdev,
      pasid,
      pt_id: on,
    }).rc;
  }

  pasidDetach(stdev: number, pasid: number): number {
    return this.test(mock.IOMMU_TEST_OP_PASID_DETACH, mock.iommu_test_cmd_pasid_detach, { id: stdev, pasid })
      .rc;
  }

  /** 0 where PASID `pasid` has `hwpt`; 0 stands for none. */
  pasidCheck(stdev: number, pasid: number, hwpt: number): number {
    return this.test(mock.IOMMU_TEST_OP_PASID_CHECK_HWPT, mock.iommu_test_cmd_pasid_check, {
      id: stdev,
      pasid,
      hwpt_id: hwpt,
    }).rc;
  }

  reserve(ioas: number, start: bigint, length: bigint): number {
    return this.test(mock.IOMMU_TEST_OP_ADD_RESERVED, mock.iommu_test_cmd_add_reserved, {
      id: ioas,
      start,
      length,
    }).rc;
  }

  /** 0 where the mock domain translates the range to the program's pages at `va`. */
  checkMap(hwpt: number, iova: bigint, va: bigint, length = PAGE): number {
    return this.test(mock.IOMMU_TEST_OP_MD_CHECK_MAP, mock.iommu_test_cmd_check_map, {
      id: hwpt,
      iova,
      length,
      uptr: va,
    }).rc;
  }

  /** 0 where every page of the range is pinned that often. */
  checkRefs(va: bigint, length: bigint, refs: number): number {
    return this.test(mock.IOMMU_TEST_OP_MD_CHECK_REFS, mock.iommu_test_cmd_check_refs, {
      length,
      uptr: va,
      refs,
    }).rc;
  }

  /** The descriptor of a new access. */
  access(ioas: number, flags: number = mock.MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES): number {
    return this.#must(
      this.test(mock.IOMMU_TEST_OP_CREATE_ACCESS, mock.iommu_test_cmd_create_access, { id: ioas, flags }),
    ).out_access_fd;
  }

  pin(
    access: number,
    iova: bigint,
    length: bigint,
    flags: number = mock.MOCK_FLAGS_ACCESS_WRITE,
  ): Answer<typeof mock.iommu_test_cmd_access_pages> {
    return this.test(mock.IOMMU_TEST_OP_ACCESS_PAGES, mock.iommu_test_cmd_access_pages, {
      id: access,
      flags,
      iova,
      length,
    });
  }

  unpin(access: number, item: number): number {
    return this.test(mock.IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, mock.iommu_test_cmd_destroy_access_pages, {
      id: access,
      access_pages_id: item,
    }).rc;
  }

  /** Copies between {@link BUFFER} and what `iova` shows. */
  rw(access: number, iova: bigint, length: bigint, flags = 0): number {
    return this.test(mock.IOMMU_TEST_OP_ACCESS_RW, mock.iommu_test_cmd_access_rw, {
      id: access,
      iova,
      length,
      flags,
      uptr: BUFFER,
    }).rc;
  }

  faultQueue(): { id: number; fd: number } {
    const out = this.#must(this.call(abi.IOMMU_FAULT_QUEUE_ALLOC, abi.iommu_fault_alloc, {}));
    return { id: out.out_fault_id, fd: out.out_fault_fd };
  }

  /** A page request of the device. */
  fault(idev: number, values: { pasid?: number; grpid?: number; perm?: number; addr?: bigint } = {}): void {
    this.#must(
      this.test(mock.IOMMU_TEST_OP_TRIGGER_IOPF, mock.iommu_test_cmd_trigger_iopf, {
        dev_id: idev,
        ...values,
      }),
    );
  }

  tryViommu(values: Partial<Values<typeof abi.iommu_viommu_alloc>>): Answer<typeof abi.iommu_viommu_alloc> {
    return this.call(abi.IOMMU_VIOMMU_ALLOC, abi.iommu_viommu_alloc, {
      type: mock.IOMMU_VIOMMU_TYPE_SELFTEST,
      ...values,
    });
  }

  viommu(idev: number, parent: number): number {
    return this.#must(this.tryViommu({ dev_id: idev, hwpt_id: parent })).out_viommu_id;
  }

  tryVdevice(viommu: number, idev: number, virtualId: bigint): Answer<typeof abi.iommu_vdevice_alloc> {
    return this.call(abi.IOMMU_VDEVICE_ALLOC, abi.iommu_vdevice_alloc, {
      viommu_id: viommu,
      dev_id: idev,
      virt_id: virtualId,
    });
  }

  vdevice(viommu: number, idev: number, virtualId: bigint): number {
    return this.#must(this.tryVdevice(viommu, idev, virtualId)).out_vdevice_id;
  }

  tryVeventq(
    values: Partial<Values<typeof abi.iommu_veventq_alloc>>,
  ): Answer<typeof abi.iommu_veventq_alloc> {
    return this.call(abi.IOMMU_VEVENTQ_ALLOC, abi.iommu_veventq_alloc, {
      type: mock.IOMMU_VEVENTQ_TYPE_SELFTEST,
      veventq_depth: 4,
      ...values,
    });
  }

  tryHwQueue(
    values: Partial<Values<typeof abi.iommu_hw_queue_alloc>>,
  ): Answer<typeof abi.iommu_hw_queue_alloc> {
    return this.call(abi.IOMMU_HW_QUEUE_ALLOC, abi.iommu_hw_queue_alloc, {
      type: mock.IOMMU_HW_QUEUE_TYPE_SELFTEST,
      ...values,
    });
  }

  /** read(2) of an event queue to {@link BUFFER}. */
  readEvents(fd: number, count: number): number {
    this.kernel.current = this.task;
    return this.file(fd).read!(this.task, BUFFER, count);
  }

  /** write(2) to an event queue. */
  writeEvents(fd: number, va: bigint, count: number): number {
    this.kernel.current = this.task;
    return this.file(fd).write!(this.task, va, count);
  }
}
