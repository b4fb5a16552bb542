import { fail, failed, type Result } from '../../base/result.ts';
import { big, hex } from '../../base/u64.ts';
import { EEXIST } from '../../abi/errno.ts';
import { CMD, CMD_WORDS } from '../../iommu/arm-smmu-v3/spec/commands.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { STE_ABORT, STE_BYPASS, type SteWords } from './guest-stream-table.ts';
import type { PhysicalSmmu } from './physical-smmu.ts';

/** A device behind the guest's SMMU, and what its stream does now. */
export interface Stream {
  readonly device: AssignedDevice;
  readonly sid: number;
  /** The physical SMMU that it is behind. */
  readonly physical: PhysicalSmmu;
  /** The STE that it is attached for; null where that was refused, or before there is one. */
  ste: SteWords | null;
  /** The HWPT that it is attached to; 0 before there is one. */
  hwpt: number;
}

export interface StreamsOptions {
  readonly vm: VirtualMachine;
  readonly trace: Trace | null;
  /** What the guest says that a stream does. */
  readonly steOf: (sid: number) => SteWords;
  /** Makes what the guest has of the SMMU that a device is behind. */
  readonly physicalOf: (device: AssignedDevice) => Result<PhysicalSmmu>;
  /** The stream has another domain: what waited in the old one is over. */
  readonly onAttach: (stream: Stream) => void;
}

/** The streams of the guest's SMMU, each attached to what the guest says of it. */
export class Streams {
  readonly #options: StreamsOptions;
  readonly #bySid = new Map<number, Stream>();
  /** One viommu for each physical SMMU, in the order in which devices came. */
  readonly physicals: PhysicalSmmu[] = [];

  constructor(options: StreamsOptions) {
    this.#options = options;
  }

  [Symbol.iterator](): IterableIterator<Stream> {
    return this.#bySid.values();
  }

  get(sid: number): Stream | undefined {
    return this.#bySid.get(sid);
  }

  /** A device of that id in the iommufd. */
  ofDevice(id: number): Stream | undefined {
    for (const stream of this.#bySid.values()) if (stream.device.id === id) return stream;
  }

  /** Puts a device behind the guest's SMMU: a vDEVICE of the viommu that belongs to its physical one. EEXIST. */
  add(device: AssignedDevice, sid: number): Result<void> {
    if (this.#bySid.has(sid)) return fail(EEXIST, `the guest has a stream ${hex(sid)}`);
    const physical = this.#placeOf(device, sid);
    if (failed(physical)) return physical;
    const stream: Stream = { device, sid, physical, ste: null, hwpt: 0 };
    this.#bySid.set(sid, stream);
    return this.settle(stream);
  }

  /** The kernel says which viommu a device fits: EINVAL where it is behind another SMMU. */
  #placeOf(device: AssignedDevice, sid: number): Result<PhysicalSmmu> {
    const { vm, physicalOf } = this.#options;
    for (const physical of this.physicals)
      if (!failed(vm.vdevice(physical.viommu, device, big(sid)))) return physical;
    const physical = physicalOf(device);
    if (failed(physical)) return physical;
    const vdevice = vm.vdevice(physical.viommu, device, big(sid));
    if (failed(vdevice)) return vdevice;
    this.physicals.push(physical);
    return physical;
  }

  settleAll(): void {
    for (const stream of this.#bySid.values()) this.settle(stream);
  }

  /** Attaches a stream to what the guest says. Where the kernel refuses that, nothing of it passes. */
  settle(stream: Stream): Result<void> {
    const ste = this.#options.steOf(stream.sid);
    if (stream.ste !== null && same(ste, stream.ste)) return this.#forgetContexts(stream);
    const made = stream.physical.nested(stream.device, ste);
    if (failed(made)) this.#note(stream, `its STE is refused: ${made.reason}`);
    const attached = failed(made) ? made : this.#attach(stream, made);
    stream.ste = failed(attached) ? null : ste;
    if (!failed(attached)) return;
    if (failed(made)) return this.#block(stream);
    this.#note(stream, `it cannot be attached: ${attached.reason}`);
    return failed(this.#block(stream)) ? attached : undefined;
  }

  #block(stream: Stream): Result<void> {
    const abort = stream.physical.nested(stream.device, STE_ABORT);
    return failed(abort) ? abort : this.#attach(stream, abort);
  }

  #attach(stream: Stream, hwpt: number): Result<void> {
    const { device, physical, hwpt: before } = stream;
    const attached = device.attach(hwpt);
    if (failed(attached)) {
      physical.release(hwpt);
      return attached;
    }
    stream.hwpt = hwpt;
    if (before === hwpt) return;
    this.#options.onAttach(stream);
    if (before !== 0) physical.release(before);
  }

  /** CMD_CFGI_STE of an STE that says the same again: the CDs that were cached go all the same (§4.3.1). */
  #forgetContexts({ physical, sid, ste }: Stream): void {
    if (ste === STE_ABORT || ste === STE_BYPASS) return;
    const command = new Uint32Array(CMD_WORDS);
    command.set([CMD.CFGI_CD_ALL, sid]);
    physical.send([command]);
  }

  #note(stream: Stream, what: string): void {
    const { trace } = this.#options;
    if (trace?.active === true)
      trace.emit({ kind: 'guest-smmuv3', device: stream.device.name, sid: hex(stream.sid), what });
  }
}

function same(one: SteWords, other: SteWords): boolean {
  return one === other || (one[0] === other[0] && one[1] === other[1]);
}
