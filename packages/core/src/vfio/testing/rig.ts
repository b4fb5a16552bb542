import { assert } from '../../base/assert.ts';
import { failed } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import type { AnyStruct } from '../../base/struct.ts';
import {
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_SET_IRQS,
  VFIO_PCI_CONFIG_REGION_INDEX,
  vfio_irq_set,
  vfio_region_info,
} from '../../abi/vfio.ts';
import { SimulatedEventfd, SimulatedProcess, simulatedTask } from '../../memory/simulated-process.ts';
import { PciFunction } from '../../pci/function.ts';
import { VfioPciCore } from '../pci/core.ts';
import { TestDevice } from './device.ts';

const ARGUMENT = 0x1000n;
const BUFFER = 0x10_0000n;
const BUFFER_BYTES = 0x1_0000n;

/** A program that has a function by VFIO, without an IOMMU. Answers are as ioctl(2) has them: 0, or a negative errno. */
export class Rig {
  readonly process = new SimulatedProcess(100);
  readonly task = simulatedTask(this.process);
  readonly device = new TestDevice();
  readonly pci = new PciFunction('0000:0a:00.0', this.device);
  readonly core: VfioPciCore;

  /** `version`: which Linux it is. */
  constructor(version = 703) {
    this.core = new VfioPciCore(this.pci, { version, migration: null, prepareMessages: null });
    this.process.memory.map(ARGUMENT, 0x1000n);
    this.process.memory.map(BUFFER, BUFFER_BYTES);
  }

  /** A request whose struct is `bytes`; what came back of them. */
  raw(cmd: number, bytes: Uint8Array): { rc: number; out: Uint8Array } {
    this.process.memory.write(ARGUMENT, bytes);
    this.core.resume();
    const answer = this.core.ioctl(this.task, cmd, ARGUMENT);
    this.core.idle();
    const out = new Uint8Array(bytes.length);
    this.process.memory.read(ARGUMENT, out);
    return { rc: failed(answer) ? -answer.errno : (answer ?? 0), out };
  }

  call<Layout extends AnyStruct>(
    cmd: number,
    layout: Layout,
    values: Partial<ReturnType<Layout['create']>>,
    extra = 0,
  ): { rc: number; out: ReturnType<Layout['create']>; more: Uint8Array } {
    const bytes = new Uint8Array(layout.size + extra);
    layout.write(bytes, 0, { ...layout.create(), argsz: bytes.length, ...values });
    const { rc, out } = this.raw(cmd, bytes);
    return { rc, out: layout.read(out) as ReturnType<Layout['create']>, more: out.subarray(layout.size) };
  }

  region(index: number): ReturnType<typeof vfio_region_info.create> {
    const { rc, out } = this.call(VFIO_DEVICE_GET_REGION_INFO, vfio_region_info, { index }, 8);
    assert(rc === 0, `region ${index} is there`);
    return out;
  }

  /** VFIO_DEVICE_SET_IRQS with bytes or descriptors behind the struct. */
  setIrqs(
    flags: number,
    index: number,
    start: number,
    count: number,
    data: { readonly bools?: readonly number[]; readonly fds?: readonly number[] } = {},
  ): number {
    const { bools = [], fds = [] } = data;
    const tail = new Uint8Array(bools.length + 4 * fds.length);
    tail.set(bools);
    const view = new DataView(tail.buffer);
    for (const [place, fd] of fds.entries()) view.setInt32(bools.length + 4 * place, fd, true);
    const bytes = new Uint8Array(vfio_irq_set.size + tail.length);
    vfio_irq_set.write(bytes, 0, { argsz: bytes.length, flags, index, start, count });
    bytes.set(tail, vfio_irq_set.size);
    return this.raw(VFIO_DEVICE_SET_IRQS, bytes).rc;
  }

  /** An eventfd of the program's, with its descriptor. */
  eventfd(): { fd: number; eventfd: SimulatedEventfd } {
    const eventfd = new SimulatedEventfd();
    const fd = this.process.open(eventfd);
    assert(!failed(fd), 'a descriptor is free');
    return { fd, eventfd };
  }

  /** pread(2): the bytes, or a negative errno. */
  read(index: number, at: number, count: number): Uint8Array | number {
    const done = this.core.read(this.task, BUFFER, count, this.region(index).offset + big(at));
    if (failed(done)) return -done.errno;
    const bytes = new Uint8Array(done);
    this.process.memory.read(BUFFER, bytes);
    return bytes;
  }

  /** pwrite(2) */
  write(index: number, at: number, bytes: readonly number[]): number {
    this.process.memory.write(BUFFER, new Uint8Array(bytes));
    const done = this.core.write(this.task, BUFFER, bytes.length, this.region(index).offset + big(at));
    return failed(done) ? -done.errno : done;
  }

  /** A little-endian number of configuration space. */
  config(at: number, size: 1 | 2 | 4): number {
    const bytes = this.read(VFIO_PCI_CONFIG_REGION_INDEX, at, size);
    assert(typeof bytes !== 'number', `configuration space at ${at} can be read`);
    return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  setConfig(at: number, size: 1 | 2 | 4, value: number): number {
    const bytes = Array.from({ length: size }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);
    return this.write(VFIO_PCI_CONFIG_REGION_INDEX, at, bytes);
  }

  /** Where a capability is in the list as the program sees it, or 0. */
  capability(id: number): number {
    for (let at = this.config(0x34, 1); at !== 0; at = this.config(at + 1, 1))
      if (this.config(at, 1) === id) return at;
    return 0;
  }

  /** The extended capabilities that the program sees, in order. */
  extendedCapabilities(): number[] {
    const ids: number[] = [];
    for (let at = 0x100; at !== 0;) {
      const header = this.config(at, 4);
      if ((header & 0xffff) !== 0) ids.push(header & 0xffff);
      at = header >>> 20;
    }
    return ids;
  }
}
