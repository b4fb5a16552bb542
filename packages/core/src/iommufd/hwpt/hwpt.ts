import { assert } from '../../base/assert.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HWPT_DATA_NONE,
  IOMMU_HWPT_FAULT_ID_VALID,
  iommu_hwpt_alloc,
} from '../../abi/iommufd.ts';
import type { IommuDomain, PagingDomain } from '../../iommu/driver.ts';
import type { AddressSpace } from '../../memory/process.ts';
import type { UserData } from '../../iommu/user-data.ts';
import { attachHwpt, detachHwpt } from '../device/attach.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import type { IommufdDevice } from '../device/device.ts';
import type { FaultQueue } from '../eventq/fault-queue.ts';
import type { Ioas } from '../ioas/ioas.ts';
import { IommufdObject } from '../objects.ts';
import type { SwMsiMap } from '../device/sw-msi.ts';
import type { Viommu } from '../viommu/viommu.ts';

// drivers/iommu/iommufd/hw_pagetable.c

/** What may be asked of an HWPT, and since which Linux. */
const PAGING_FLAGS = [
  { flag: IOMMU_HWPT_ALLOC_NEST_PARENT, since: 607 },
  { flag: IOMMU_HWPT_ALLOC_DIRTY_TRACKING, since: 607 },
  { flag: IOMMU_HWPT_FAULT_ID_VALID, since: 613 },
  { flag: IOMMU_HWPT_ALLOC_PASID, since: 615 },
];
const NESTED_FLAGS = [
  { flag: IOMMU_HWPT_FAULT_ID_VALID, since: 611 },
  { flag: IOMMU_HWPT_ALLOC_PASID, since: 615 },
];

function unknownFlags(context: IommufdContext, flags: number, known: typeof PAGING_FLAGS): boolean {
  const { version } = context.shared.profile;
  const mask = known.reduce((bits, { flag, since }) => (version >= since ? bits | flag : bits), 0);
  return (flags & ~mask) !== 0;
}

/** A page table that hardware uses: struct iommufd_hw_pagetable. */
export abstract class Hwpt extends IommufdObject {
  abstract override readonly type: 'HWPT_PAGING' | 'HWPT_NESTED';
  abstract readonly domain: IommuDomain | null;
  /** find_hwpt_paging(): the table that translates to physical addresses. */
  abstract readonly paging: HwptPaging;
  fault: FaultQueue | null = null;
  pasidCompat = false;

  /** The domain of an HWPT that was made completely. */
  get ready(): IommuDomain {
    assert(this.domain !== null, 'an HWPT in use has its domain');
    return this.domain;
  }

  /** So many devices more, or fewer, have it. */
  hold(devices: number): void {
    this.users += devices;
  }

  protected freeDomain(): void {
    this.domain?.free();
    if (this.fault !== null) this.fault.users--;
  }
}

/** struct iommufd_hwpt_paging. */
export class HwptPaging extends Hwpt {
  readonly type = 'HWPT_PAGING';
  readonly ioas: Ioas;
  override domain: PagingDomain | null = null;
  autoDomain = false;
  enforceCacheCoherency = false;
  nestParent = false;
  /** Pages of interrupt controllers that it maps: present_sw_msi. */
  readonly swMsi = new Set<SwMsiMap>();
  /** Where virtual ids are kept without a viommu object: of the trial uAPI rfc-2023-12. */
  ownViommu: Viommu | null = null;

  constructor(ioas: Ioas) {
    super();
    this.ioas = ioas;
    ioas.users++;
  }

  get paging(): this {
    return this;
  }

  destroy(): void {
    this.ownViommu?.destroy();
    const at = this.ioas.hwpts.indexOf(this);
    if (at >= 0) {
      this.ioas.hwpts.splice(at, 1);
      this.ioas.iopt.removeDomain(this.domain!);
    }
    this.freeDomain();
    this.ioas.users--;
  }
}

/** struct iommufd_hwpt_nested. */
export class HwptNested extends Hwpt {
  readonly type = 'HWPT_NESTED';
  readonly parent: HwptPaging;
  readonly viommu: Viommu | null;
  override domain: IommuDomain | null = null;

  constructor(parent: HwptPaging, viommu: Viommu | null) {
    super();
    this.parent = parent;
    this.viommu = viommu;
    (viommu ?? parent).users++;
  }

  get paging(): HwptPaging {
    return this.parent;
  }

  destroy(): void {
    this.freeDomain();
    (this.viommu ?? this.parent).users--;
  }
}

/** Gives up an HWPT that was not published: iommufd_object_abort_and_destroy(). */
export function abortHwpt(context: IommufdContext, hwpt: Hwpt): void {
  hwpt.destroy();
  context.objects.abort(hwpt);
}

/** iommufd_hw_pagetable_put(): automatic domains go with their last user. */
export function putHwpt(context: IommufdContext, hwpt: Hwpt): void {
  if (hwpt instanceof HwptPaging && hwpt.autoDomain) context.objects.putAndTryDestroy(hwpt);
  else hwpt.hold(-1);
}

/** iommufd_hwpt_paging_alloc(): the HWPT has the IOAS's mappings, and is not published yet. */
export function allocHwptPaging(
  context: IommufdContext,
  ioas: Ioas,
  idev: IommufdDevice,
  pasid: number,
  flags: number,
  immediateAttach: boolean,
  data: UserData | null,
): Result<HwptPaging> {
  const { device } = idev;
  if (unknownFlags(context, flags, PAGING_FLAGS)) return fail(EOPNOTSUPP, 'unknown flags');
  if ((flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING) !== 0 && !device.driver.capable(device, 'dirty-tracking'))
    return fail(EOPNOTSUPP, `${device.name} cannot track dirty pages`);
  if ((flags & IOMMU_HWPT_FAULT_ID_VALID) !== 0 && (flags & IOMMU_HWPT_ALLOC_NEST_PARENT) !== 0)
    return fail(EOPNOTSUPP, 'a nest parent takes no fault queue');
  const hwpt = context.objects.allocate(new HwptPaging(ioas));
  if (failed(hwpt)) {
    ioas.users--;
    return hwpt;
  }
  hwpt.pasidCompat = (flags & IOMMU_HWPT_ALLOC_PASID) !== 0;
  hwpt.nestParent = (flags & IOMMU_HWPT_ALLOC_NEST_PARENT) !== 0;
  const rc = fillHwptPaging(
    context,
    hwpt,
    idev,
    pasid,
    flags & ~IOMMU_HWPT_FAULT_ID_VALID,
    immediateAttach,
    data,
  );
  if (!failed(rc)) return hwpt;
  abortHwpt(context, hwpt);
  return rc;
}

function fillHwptPaging(
  context: IommufdContext,
  hwpt: HwptPaging,
  idev: IommufdDevice,
  pasid: number,
  flags: number,
  immediateAttach: boolean,
  data: UserData | null,
): Result<void> {
  const { device } = idev;
  const memory = context.kernel.current.process.memory;
  const domain = device.driver.domainAllocPagingFlags(device, flags, memory, data);
  if (failed(domain)) return domain;
  hwpt.domain = domain;
  if (idev.enforceCacheCoherency && !hwpt.enforceCacheCoherency)
    hwpt.enforceCacheCoherency = domain.enforceCacheCoherency?.() ?? false;
  if (immediateAttach) {
    const attached = attachHwpt(context, hwpt, idev, pasid);
    if (failed(attached)) return attached;
  }
  const added = hwpt.ioas.iopt.addDomain(domain);
  if (failed(added)) {
    if (immediateAttach) detachHwpt(context, idev, pasid);
    return added;
  }
  hwpt.ioas.hwpts.push(hwpt);
}

/** iommufd_hwpt_nested_alloc(): not published yet. */
export function allocHwptNested(
  command: Command,
  parent: HwptPaging,
  idev: IommufdDevice,
  flags: number,
  data: UserData,
): Result<HwptNested> {
  const { device } = idev;
  const { driver } = device;
  if (
    unknownFlags(command.context, flags, NESTED_FLAGS) ||
    data.len === 0 ||
    driver.domainAllocNested === undefined
  )
    return fail(EOPNOTSUPP, 'unknown flags, no data, or a driver without nested domains');
  if (parent.autoDomain || !parent.nestParent || parent.domain!.owner !== driver)
    return fail(EINVAL, `HWPT ${parent.id} is not a nest parent of this driver`);
  return makeNested(command, new HwptNested(parent, null), flags, () =>
    driver.domainAllocNested!(
      device,
      parent.domain!,
      flags & ~IOMMU_HWPT_FAULT_ID_VALID,
      command.memory,
      data,
    ),
  );
}

/** How a driver makes a nested domain. */
type MakeDomain = (flags: number, memory: AddressSpace, data: UserData) => Result<IommuDomain>;

/** iommufd_viommu_alloc_hwpt_nested(): not published yet. `make` is absent where there are no nested domains. */
export function allocNestedOn(
  command: Command,
  viommu: Viommu,
  flags: number,
  data: UserData,
  make: MakeDomain | undefined,
): Result<HwptNested> {
  if (unknownFlags(command.context, flags, NESTED_FLAGS)) return fail(EOPNOTSUPP, 'unknown flags');
  if (data.len === 0) return fail(EOPNOTSUPP, 'a nested domain needs data');
  if (make === undefined) return fail(EOPNOTSUPP, 'this viommu has no nested domains');
  // A HWPT that keeps its table itself is held as that.
  const holder = viommu.hwpt.ownViommu === viommu ? null : viommu;
  return makeNested(command, new HwptNested(viommu.hwpt, holder), flags, () =>
    make(flags & ~IOMMU_HWPT_FAULT_ID_VALID, command.memory, data),
  );
}

function makeNested(
  command: Command,
  fresh: HwptNested,
  flags: number,
  allocDomain: () => Result<IommuDomain>,
): Result<HwptNested> {
  const hwpt = command.context.objects.allocate(fresh);
  if (failed(hwpt)) {
    (fresh.viommu ?? fresh.parent).users--;
    return hwpt;
  }
  hwpt.pasidCompat = (flags & IOMMU_HWPT_ALLOC_PASID) !== 0;
  const domain = allocDomain();
  if (failed(domain)) {
    abortHwpt(command.context, hwpt);
    return domain;
  }
  hwpt.domain = domain;
  return hwpt;
}

/** IOMMU_HWPT_ALLOC. */
export function hwptAlloc(command: Command): Result<number> {
  const cmd = iommu_hwpt_alloc.read(command.bytes);
  const { context } = command;
  if (cmd.__reserved !== 0) return fail(EOPNOTSUPP, '__reserved must be 0');
  if ((cmd.data_type === IOMMU_HWPT_DATA_NONE) !== (cmd.data_len === 0))
    return fail(EINVAL, 'data_type and data_len do not go together');
  const data: UserData = { type: cmd.data_type, uptr: cmd.data_uptr, len: cmd.data_len };
  const idev = context.objects.get<IommufdDevice>(cmd.dev_id, 'DEVICE');
  if (failed(idev)) return idev;
  const on = context.objects.get(cmd.pt_id);
  if (failed(on)) return fail(EINVAL, `there is no object ${cmd.pt_id}`);
  const hwpt = allocOn(command, on, idev, cmd.flags, data);
  if (failed(hwpt)) return hwpt;
  if ((cmd.flags & IOMMU_HWPT_FAULT_ID_VALID) !== 0) {
    const fault = context.objects.get<FaultQueue>(cmd.fault_id, 'FAULT');
    if (failed(fault)) {
      abortHwpt(context, hwpt);
      return fault;
    }
    hwpt.fault = fault;
    hwpt.ready.iopfHandler = (group) => fault.deliver(group);
    fault.users++;
  }
  cmd.out_hwpt_id = hwpt.id;
  const rc = command.respond(iommu_hwpt_alloc, cmd);
  if (failed(rc)) {
    abortHwpt(context, hwpt);
    return rc;
  }
  context.objects.publish(hwpt);
  return 0;
}

function allocOn(
  command: Command,
  on: IommufdObject,
  idev: IommufdDevice,
  flags: number,
  data: UserData,
): Result<Hwpt> {
  switch (on.type) {
    case 'IOAS':
      return allocHwptPaging(command.context, on as Ioas, idev, 0, flags, false, data.len > 0 ? data : null);
    case 'HWPT_PAGING':
      return allocHwptNested(command, on as HwptPaging, idev, flags, data);
    case 'VIOMMU': {
      const viommu = on as Viommu;
      if (viommu.iommu !== idev.device.iommu)
        return fail(
          EINVAL,
          `${idev.device.name} is behind ${idev.device.iommu.name}, not ${viommu.iommu.name}`,
        );
      return allocNestedOn(
        command,
        viommu,
        flags,
        data,
        viommu.driver.allocDomainNested?.bind(viommu.driver),
      );
    }
    default:
      return fail(EINVAL, `a HWPT cannot be made on an object of type ${on.type}`);
  }
}

/** The paging HWPT of that id. */
export function getHwptPaging(context: IommufdContext, id: number): Result<HwptPaging> {
  return context.objects.get<HwptPaging>(id, 'HWPT_PAGING');
}
