import { encode, readField } from '../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../base/result.ts';
import { big, exact, hex } from '../../../base/u64.ts';
import { EEXIST, EINVAL, EIO, ENOSPC, EOPNOTSUPP } from '../../../abi/errno.ts';
import {
  IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV,
  IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV,
} from '../../../abi/iommufd.ts';
import { iommu_viommu_tegra241_cmdqv } from '../../../abi/iommufd-data.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { HwQueueCore, VdeviceCore, ViommuCore } from '../../driver.ts';
import { copyToUserData, copyUserData, type UserData } from '../../user-data.ts';
import { CMD_BYTES } from '../spec/commands.ts';
import { IDR1, OFFSET as SMMU_OFFSET } from '../spec/registers.ts';
import type { ArmSmmuDomain } from '../driver/domains/domain.ts';
import { IdAllocator } from '../../drivers/ids.ts';
import type { ArmSmmuMaster } from '../driver/master.ts';
import { ArmVsmmu } from '../viommu/vsmmu.ts';
import { vcmdqBase, type Tegra241Driver, type Vcmdq, type VintfState } from './driver.ts';
import { PAGE_BYTES, SID_MATCH } from './spec.ts';

// The part of tegra241-cmdqv.c that a VM has: an interface whose first page it maps, queues in its own memory, and a
// table from its StreamIDs to physical ones that the hardware reads.

const BASE_MASK = (1n << 48n) - 1n - 0x1fn;
/** Bytes of the smallest queue. */
const QUEUE_BYTES_MIN = 32n;

/** struct tegra241_vintf of a VM. */
export class Tegra241Vintf extends ArmVsmmu {
  readonly state: VintfState;
  readonly #cmdqv: Tegra241Driver;
  readonly #sids: IdAllocator;
  readonly #cores = new Map<Vcmdq, HwQueueCore>();
  #mmapOffset: bigint | null = null;

  constructor(cmdqv: Tegra241Driver, core: ViommuCore, parent: ArmSmmuDomain, index: number) {
    super(cmdqv.smmu, core, parent);
    this.#cmdqv = cmdqv;
    this.#sids = new IdAllocator(0, cmdqv.sidsPerVintf - 1);
    const queues = Array.from({ length: cmdqv.lvcmdqsPerVintf }, () => null);
    this.state = { index, vmid: parent.vmid, queues };
  }

  static checkData(memory: AddressSpace, data: UserData): Result<Uint8Array> {
    const { size } = iommu_viommu_tegra241_cmdqv;
    return copyUserData(memory, data, IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV, size, size);
  }

  /** Enables the interface, without queues, and offers its first page to mmap(2). */
  start(memory: AddressSpace, data: UserData): Result<void> {
    const { index } = this.state;
    const ready = this.#cmdqv.initVintf(this.state, false);
    if (failed(ready)) return ready;
    const offset = this.core.allocMmap(this.#cmdqv.page0(index), PAGE_BYTES);
    if (failed(offset)) {
      this.#cmdqv.deinitVintf(this.state);
      return offset;
    }
    const { size } = iommu_viommu_tegra241_cmdqv;
    const bytes = new Uint8Array(size);
    const answer = { out_vintf_mmap_offset: offset, out_vintf_mmap_length: big(PAGE_BYTES) };
    iommu_viommu_tegra241_cmdqv.write(bytes, 0, answer);
    const told = copyToUserData(memory, data, IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV, bytes, size);
    if (!failed(told)) {
      this.#mmapOffset = offset;
      return;
    }
    this.core.destroyMmap(offset);
    this.#cmdqv.deinitVintf(this.state);
    return told;
  }

  /** tegra241_cmdqv_destroy_vintf_user() */
  override destroy(): void {
    if (this.#mmapOffset !== null) this.core.destroyMmap(this.#mmapOffset);
    this.#cmdqv.deinitVintf(this.state);
    this.#cmdqv.releaseVintf(this.state.index);
  }

  /** tegra241_vintf_init_vsid(): the hardware finds the device by its virtual StreamID. */
  override vdeviceInit(vdevice: VdeviceCore): Result<() => void> {
    const master = vdevice.device as ArmSmmuMaster;
    if (vdevice.virtualId > BigInt(SID_MATCH.VIRT_SID.mask))
      return fail(EINVAL, `the virtual StreamID ${hex(vdevice.virtualId)} has more than 20 bits`);
    if (master.streamIds.length !== 1)
      return fail(EOPNOTSUPP, `${master.name} has ${master.streamIds.length} streams`);
    const slot = this.#sids.take();
    if (slot === null) return fail(ENOSPC, 'the interface has no room for another StreamID');
    const match = encode(SID_MATCH, { ENABLE: 1, VIRT_SID: vdevice.virtualId })[0]!;
    this.#cmdqv.writeSid(this.state.index, slot, master.streamIds[0]!, match);
    return () => {
      this.#cmdqv.writeSid(this.state.index, slot, 0, 0);
      this.#sids.free(slot);
    };
  }

  hwQueueSupported(type: number): boolean {
    return type === IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV;
  }

  /**
   * tegra241_vintf_alloc_lvcmdq_user(): queues come in ascending order, are powers of two of at least 32 bytes and at most
   * what IDR1.CMDQS says, and are aligned to their length.
   */
  hwQueueInitPhys(core: HwQueueCore, index: number, basePa: number): Result<() => void> {
    const { queues } = this.state;
    if (index >= queues.length) return fail(EINVAL, `there is no queue ${index}`);
    if (queues[index] !== null) return fail(EEXIST, `queue ${index} exists`);
    const previous = index === 0 ? null : queues[index - 1]!;
    if (index > 0 && previous === null) return fail(EIO, `queue ${index - 1} must be made first`);
    const cmdqs = readField(IDR1.CMDQS, [this.smmu.mmio.read32(SMMU_OFFSET.IDR1)]);
    const { length } = core;
    const longest = big(2 ** cmdqs * CMD_BYTES);
    if ((length & (length - 1n)) !== 0n || length < QUEUE_BYTES_MIN || length > longest)
      return fail(EINVAL, `a queue of ${length} bytes is not a power of two from 32 to ${longest}`);
    const pa = BigInt(basePa);
    if ((pa & ~BASE_MASK) !== 0n || (pa & (length - 1n)) !== 0n)
      return fail(EINVAL, `the queue at ${hex(pa)} is not aligned to its ${length} bytes`);
    const log2 = Math.log2(exact(length) / CMD_BYTES);
    return this.#takeQueue(
      core,
      { vintf: this.state.index, lvcmdq: index, base: vcmdqBase(basePa, log2), queue: null },
      previous,
    );
  }

  #takeQueue(core: HwQueueCore, queue: Vcmdq, previous: Vcmdq | null): Result<() => void> {
    const before = previous === null ? null : this.#cores.get(previous)!;
    if (before !== null) core.depend(before);
    this.#cmdqv.mapQueue(queue);
    this.#cmdqv.configureQueue(queue);
    this.state.queues[queue.lvcmdq] = queue;
    this.#cores.set(queue, core);
    return () => {
      this.#cmdqv.stopQueue(queue);
      this.#cmdqv.unmapQueue(queue);
      this.state.queues[queue.lvcmdq] = null;
      this.#cores.delete(queue);
      if (before !== null) core.undepend(before);
    };
  }
}
