import { encode } from '../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../base/result.ts';
import { exact, hex, u64 } from '../../../base/u64.ts';
import { EINVAL, ENOSPC } from '../../../abi/errno.ts';
import {
  IOMMU_HW_QUEUE_TYPE_AMD_CMD,
  IOMMU_HW_QUEUE_TYPE_AMD_EVT,
  IOMMU_HW_QUEUE_TYPE_AMD_PPR,
  IOMMU_VIOMMU_TYPE_AMD,
  iommu_viommu_amd,
  QUEUE_FLAG,
} from '../../../abi/amd-viommu.ts';
import type { AddressSpace } from '../../../memory/process.ts';
import type { HwQueueCore, IommuDomain, VdeviceCore, ViommuCore } from '../../driver.ts';
import { copyToUserData, copyUserData, type UserData } from '../../user-data.ts';
import { writeDomain } from '../driver/domains/attach.ts';
import type { AmdPagingDomain } from '../driver/domains/domain.ts';
import type { AmdIommuDevice } from '../driver/device.ts';
import { makeClearDte } from '../driver/configuration/dte.ts';
import type { Ivhd } from '../driver/ivhd.ts';
import { RING_LOG2_MIN } from '../spec/registers.ts';
import {
  GUEST_COMMAND_CONTROL,
  GUEST_EVENT_CONTROL,
  GUEST_ID_MAP,
  GUEST_MISC_CONTROL,
  GUEST_PPR_CONTROL,
  VF_PAGE_BYTES,
  VFCTRL,
} from '../spec/viommu.ts';
import { allocNestedDomain } from './nested-domain.ts';
import type { ViommuResources } from './resources.ts';
import { AmdViommu } from './viommu.ts';

// AMD's hardware vIOMMU, in which guests have command buffers and logs of their own. No released Linux has it; this
// follows the tree AMDESE/linux-iommu of 2026 (drivers/iommu/amd/iommufd.c, viommu.c, nested.c), where struct
// iommu_viommu_amd holds out_vfmmio_mmap_offset and nothing else.

const RING_LOG2_MAX = 15;

/** A domain id of a guest: struct guest_domain_mapping_info. */
export interface GuestDomain {
  readonly guestId: number;
  readonly hostId: number;
  /** Nested domains with the guest's id. */
  users: number;
}

/** GUEST_ID_MAP, with Write; as many are stored as there are ids. */
function idMapping(guestId: number, hostId: number, valid: number): bigint {
  const { Valid, HostID, GuestID, Write } = GUEST_ID_MAP;
  const lo = (valid << Valid.shift) | (hostId << HostID.shift);
  return u64(((1 << Write.shift) | (guestId << GuestID.shift)) >>> 0, lo >>> 0);
}

function value(words: Uint32Array): bigint {
  return u64(words[1]!, words[0]!);
}

/** struct amd_iommu_viommu of that tree. */
export class HwViommu extends AmdViommu {
  /** gid: by which the hardware knows the guest. */
  readonly guestId: number;
  /**
   * gdomid_array: the domain ids of the guest, and which of the host's stands for each. The guest tags its translations
   * by (domain id, PASID), so an id of its own must be one of the host's, and of no other guest's.
   */
  readonly guestDomains = new Map<number, GuestDomain>();
  readonly #resources: ViommuResources;
  readonly #transDeviceId: number;
  #mmapOffset: bigint | null = null;
  /** The guest's ids of its devices. */
  readonly #names = new Map<AmdIommuDevice, number>();
  /** What each control register of a ring has from the newest queue. */
  readonly #rings = new Map<number, Uint32Array>();

  /**
   * amd_iommufd_viommu_init(): ENOSPC where no guest id or no device id is left. The parent is attached to the IOMMU as by
   * a device of its own: the IOMMU caches the guest's addresses also while no device of the guest is.
   */
  static make(
    core: ViommuCore,
    parent: AmdPagingDomain,
    resources: ViommuResources,
    memory: AddressSpace,
    data: UserData | null,
  ): Result<HwViommu> {
    if (data === null) return fail(EINVAL, 'a hardware vIOMMU has data');
    const { size } = iommu_viommu_amd;
    const bytes = copyUserData(memory, data, IOMMU_VIOMMU_TYPE_AMD, size, size);
    if (failed(bytes)) return bytes;
    const guestId = resources.guestIds.take();
    if (guestId === null) return fail(ENOSPC, 'all guest ids are in use');
    const trans = resources.takeTransDevice();
    if (trans === null) {
      resources.guestIds.free(guestId);
      return fail(ENOSPC, 'no device id is left for the translation of guest addresses');
    }
    const entered = parent.enterIvhd(core.iommu as Ivhd);
    if (failed(entered)) {
      resources.freeTransDevice(trans);
      resources.guestIds.free(guestId);
      return entered;
    }
    const made = new HwViommu(core, parent, resources, guestId, trans);
    const started = made.#start(memory, data);
    if (!failed(started)) return made;
    made.destroy();
    return started;
  }

  private constructor(
    core: ViommuCore,
    parent: AmdPagingDomain,
    resources: ViommuResources,
    guestId: number,
    transDeviceId: number,
  ) {
    super(core, parent);
    this.guestId = guestId;
    this.#resources = resources;
    this.#transDeviceId = transDeviceId;
  }

  #start(memory: AddressSpace, data: UserData): Result<void> {
    this.parentChanged();
    this.#control(VFCTRL.MISC_CONTROL, encode(GUEST_MISC_CONTROL, { TransDeviceID: this.#transDeviceId }));
    // A domain id that the guest has not given to a device yet is the parent's: its invalidations find nothing.
    for (let id = 0; id < 0x1_0000; id++) this.mapDomain(id, this.parent.id);
    const offset = this.core.allocMmap(this.#resources.page(this.guestId), VF_PAGE_BYTES);
    if (failed(offset)) return offset;
    this.#mmapOffset = offset;
    const bytes = new Uint8Array(iommu_viommu_amd.size);
    iommu_viommu_amd.write(bytes, 0, { out_vfmmio_mmap_offset: offset });
    return copyToUserData(memory, data, IOMMU_VIOMMU_TYPE_AMD, bytes, iommu_viommu_amd.size);
  }

  override hostDomainIds(): readonly number[] {
    return [...this.guestDomains.values()].map(({ hostId }) => hostId);
  }

  /** amd_iommu_set_translate_dte(): the entry by which the hardware finds guest addresses. */
  override parentChanged(): void {
    const { ivhd } = this;
    const dte = makeClearDte(null);
    this.parent.setHostTables(dte, this.parent.id, false);
    ivhd.segment.writer(ivhd, this.#transDeviceId).write(dte);
  }

  // ---- what the guest's ids stand for ----

  #control(offset: number, words: Uint32Array): void {
    this.#resources.writeControl(this.guestId, offset, value(words));
  }

  /** amd_viommu_domain_id_update() */
  mapDomain(guestId: number, hostId: number): void {
    this.#resources.writeControl(this.guestId, VFCTRL.DID_MAP_CONTROL1, idMapping(guestId, hostId, 1));
  }

  /**
   * _amd_viommu_vdevice_init(). A device that has tables of the guest before it has a name, or still has them when it
   * loses the name, gets another DTE: events go to the guest by it.
   */
  vdeviceInit(vdevice: VdeviceCore): Result<() => void> {
    const device = vdevice.device as AmdIommuDevice;
    if (vdevice.virtualId > 0xffffn)
      return fail(EINVAL, `the virtual device id ${hex(vdevice.virtualId)} has more than 16 bits`);
    const virtualId = exact(vdevice.virtualId);
    const map = (valid: number): void => {
      const mapping = idMapping(virtualId, device.deviceId, valid);
      this.#resources.writeControl(this.guestId, VFCTRL.DID_MAP_CONTROL0, mapping);
      if (device.nested !== null) this.ivhd.exclusively(() => writeDomain(device));
    };
    this.#names.set(device, virtualId);
    map(1);
    return () => {
      if (this.#names.get(device) === virtualId) this.#names.delete(device);
      map(0);
    };
  }

  namesOf(device: AmdIommuDevice): { guestId: number; deviceId: number } | null {
    const deviceId = this.#names.get(device);
    return deviceId === undefined ? null : { guestId: this.guestId, deviceId };
  }

  allocDomainNested(_flags: number, memory: AddressSpace, data: UserData): Result<IommuDomain> {
    return allocNestedDomain(this, memory, data);
  }

  // ---- queues ----

  hwQueueSupported(type: number): boolean {
    return (
      type === IOMMU_HW_QUEUE_TYPE_AMD_CMD ||
      type === IOMMU_HW_QUEUE_TYPE_AMD_EVT ||
      type === IOMMU_HW_QUEUE_TYPE_AMD_PPR
    );
  }

  /**
   * amd_iommufd_hw_queue_init(): a queue at a guest address. Its length is what a ring's base register says in bits
   * 59:56: log2 of the entries.
   */
  hwQueueInit(queue: HwQueueCore, _index: number, flags: number): Result<() => void> {
    const { baseAddress, length, type } = queue;
    if ((baseAddress & 0xfffn) !== 0n || baseAddress >= 1n << 52n)
      return fail(EINVAL, `a queue at ${hex(baseAddress)} is not aligned, or beyond 52 bits`);
    if (length < BigInt(RING_LOG2_MIN) || length > BigInt(RING_LOG2_MAX))
      return fail(EINVAL, `a queue of 2^${length} entries: 2^8 to 2^15 are possible`);
    const on = (flag: number): boolean => (flags & flag) !== 0;
    const base = { Len: length, Base: baseAddress >> 12n };
    if (type === IOMMU_HW_QUEUE_TYPE_AMD_CMD) {
      const enables = { CmdBufEn: on(QUEUE_FLAG.CMDBUF_EN), ComWaitIntEn: on(QUEUE_FLAG.COMWAIT_EN) };
      return this.#queue(VFCTRL.COMMAND_CONTROL, encode(GUEST_COMMAND_CONTROL, { ...base, ...enables }));
    }
    if (type === IOMMU_HW_QUEUE_TYPE_AMD_EVT) {
      const enables = { EventLogEn: on(QUEUE_FLAG.EVT_LOG_EN), EventIntEn: on(QUEUE_FLAG.EVT_INT_EN) };
      return this.#queue(VFCTRL.EVENT_CONTROL, encode(GUEST_EVENT_CONTROL, { ...base, ...enables }));
    }
    const enables = {
      PPRLogEn: on(QUEUE_FLAG.PPRLOG_EN),
      PprIntEn: on(QUEUE_FLAG.PPRINT_EN),
      PPREn: on(QUEUE_FLAG.PPR_EN),
    };
    return this.#queue(VFCTRL.PPR_CONTROL, encode(GUEST_PPR_CONTROL, { ...base, ...enables }));
  }

  /** Another queue of the kind takes the ring's place: the end of the one before is nothing to it. */
  #queue(offset: number, words: Uint32Array): () => void {
    this.#control(offset, words);
    this.#rings.set(offset, words);
    return () => {
      if (this.#rings.get(offset) === words) this.#control(offset, new Uint32Array(2));
    };
  }

  /** amd_iommufd_viommu_destroy() */
  override destroy(): void {
    super.destroy();
    if (this.#mmapOffset !== null) this.core.destroyMmap(this.#mmapOffset);
    const { ivhd } = this;
    this.#resources.reset(this.guestId);
    ivhd.segment.writer(ivhd, this.#transDeviceId).write(makeClearDte(null));
    ivhd.flushDomainId(this.parent.id);
    this.parent.leaveIvhd(ivhd);
    this.#resources.freeTransDevice(this.#transDeviceId);
    this.#resources.guestIds.free(this.guestId);
  }
}
