import { assert } from '../../base/assert.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { EEXIST, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import { IOMMU_VIOMMU_TYPE_DEFAULT, iommu_vdevice_alloc, iommu_viommu_alloc } from '../../abi/iommufd.ts';
import type { Device, PhysicalIommu, VdeviceCore, ViommuCore, ViommuDriver } from '../../iommu/driver.ts';
import type { UserData } from '../../iommu/user-data.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import type { IommufdDevice } from '../device/device.ts';
import { getHwptPaging, type Hwpt, type HwptPaging } from '../hwpt/hwpt.ts';
import { IommufdObject } from '../objects.ts';
import type { Veventq } from '../eventq/veventq.ts';

// drivers/iommu/iommufd/viommu.c and driver.c: the slice of a physical IOMMU that a VM has, and its table from virtual
// device ids to devices.

/** Since this Linux a device has one vDEVICE, which goes with it. Before it had any number, and they stayed. */
const ONE_OF_DEVICE_SINCE = 617;

/** struct iommufd_viommu. */
export class Viommu extends IommufdObject {
  readonly type = 'VIOMMU';
  readonly context: IommufdContext;
  readonly hwpt: HwptPaging;
  readonly iommu: PhysicalIommu;
  readonly vdevices = new Map<bigint, Vdevice>();
  readonly veventqs: Veventq[] = [];
  #driver: ViommuDriver | null = null;

  constructor(context: IommufdContext, hwpt: HwptPaging, iommu: PhysicalIommu) {
    super();
    this.context = context;
    this.hwpt = hwpt;
    this.iommu = iommu;
    hwpt.users++;
  }

  /** What a device gets that is attached to the viommu itself. Null on Linux, where it cannot be. */
  get stage2(): Hwpt | null {
    return null;
  }

  get driver(): ViommuDriver {
    assert(this.#driver !== null, 'a viommu in use has its driver');
    return this.#driver;
  }

  setDriver(driver: ViommuDriver): void {
    this.#driver = driver;
  }

  /** What the driver of the physical IOMMU may ask of it. */
  core(type: number): ViommuCore {
    return {
      iommu: this.iommu,
      type,
      findDevice: (virtualId) => this.findDevice(virtualId),
      virtualIdOf: (device) => this.virtualIdOf(device),
      reportEvent: (eventType, data) => this.#reportEvent(eventType, data),
      allocMmap: (pa, length) =>
        this.context.kernel.failpoint()
          ? fail(ENOMEM, 'no memory for the region')
          : this.context.allocMmap(this, pa, length),
      destroyMmap: (offset) => this.context.destroyMmap(offset),
    };
  }

  /** iommufd_viommu_find_dev() */
  findDevice(virtualId: bigint): Device | null {
    return this.vdevices.get(virtualId)?.idev.device ?? null;
  }

  /** iommufd_viommu_get_vdev_id(): the lowest where there are more. */
  virtualIdOf(device: Device): Result<bigint> {
    let lowest: bigint | null = null;
    for (const { idev, virtualId } of this.vdevices.values())
      if (idev.device === device && (lowest === null || virtualId < lowest)) lowest = virtualId;
    return lowest ?? fail(ENOENT, `${device.name} has no vDEVICE on viommu ${this.id}`);
  }

  #reportEvent(eventType: number, data: Uint8Array): Result<void> {
    const queue = this.veventqs.find((each) => each.eventType === eventType);
    if (queue === undefined)
      return fail(EOPNOTSUPP, `viommu ${this.id} has no event queue of type ${eventType}`);
    return queue.report(this.context, data);
  }

  destroy(): void {
    this.#driver?.destroy();
    this.hwpt.users--;
  }
}

/** The viommu of that id. */
export function getViommu(context: IommufdContext, id: number): Result<Viommu> {
  return context.objects.get<Viommu>(id, 'VIOMMU');
}

/** IOMMU_VIOMMU_ALLOC. */
export function viommuAlloc(command: Command): Result<number> {
  const cmd = iommu_viommu_alloc.read(command.bytes);
  const { context } = command;
  if (cmd.flags !== 0 || cmd.type === IOMMU_VIOMMU_TYPE_DEFAULT)
    return fail(EOPNOTSUPP, 'flags must be 0, type must not');
  const idev = context.objects.get<IommufdDevice>(cmd.dev_id, 'DEVICE');
  if (failed(idev)) return idev;
  const { device } = idev;
  const { driver } = device;
  if (driver.viommuInit === undefined || !(driver.viommuSupported?.(device, cmd.type) ?? false))
    return fail(EOPNOTSUPP, `${device.iommu.name} offers no viommu of type ${cmd.type}`);
  const hwpt = getHwptPaging(context, cmd.hwpt_id);
  if (failed(hwpt)) return hwpt;
  if (!hwpt.nestParent) return fail(EINVAL, `HWPT ${cmd.hwpt_id} was not made as a nest parent`);
  const viommu = context.objects.allocate(new Viommu(context, hwpt, device.iommu));
  if (failed(viommu)) {
    hwpt.users--;
    return viommu;
  }
  command.newObject = viommu;
  const data: UserData = { type: cmd.type, uptr: cmd.data_uptr, len: cmd.data_len };
  const made = driver.viommuInit(
    viommu.core(cmd.type),
    hwpt.domain!,
    command.memory,
    data.len > 0 ? data : null,
  );
  if (failed(made)) return made;
  viommu.setDriver(made);
  cmd.out_viommu_id = viommu.id;
  const rc = command.respond(iommu_viommu_alloc, cmd);
  return failed(rc) ? rc : 0;
}

/** struct iommufd_vdevice: a device as a VM names it. */
export class Vdevice extends IommufdObject implements VdeviceCore {
  readonly type = 'VDEVICE';
  readonly viommu: Viommu;
  readonly idev: IommufdDevice;
  readonly virtualId: bigint;
  #undo: (() => void) | null = null;

  constructor(viommu: Viommu, idev: IommufdDevice, virtualId: bigint) {
    super();
    this.viommu = viommu;
    this.idev = idev;
    this.virtualId = virtualId;
    viommu.users++;
    if (viommu.context.shared.profile.version >= ONE_OF_DEVICE_SINCE) idev.vdevice = this;
  }

  get device(): Device {
    return this.idev.device;
  }

  /** Enters the viommu's table: EEXIST where the virtual id is taken. */
  enter(): Result<void> {
    if (this.viommu.findDevice(this.virtualId) !== null)
      return fail(EEXIST, `virtual id ${this.virtualId} is taken on viommu ${this.viommu.id}`);
    const undo = this.viommu.driver.vdeviceInit?.(this);
    if (failed(undo)) return undo;
    this.#undo = undo ?? null;
    this.viommu.vdevices.set(this.virtualId, this);
  }

  destroy(): void {
    this.#undo?.();
    if (this.viommu.vdevices.get(this.virtualId) === this) this.viommu.vdevices.delete(this.virtualId);
    this.viommu.users--;
    if (this.idev.vdevice === this) this.idev.vdevice = null;
  }
}

/** IOMMU_VDEVICE_ALLOC. */
export function vdeviceAlloc(command: Command): Result<number> {
  const cmd = iommu_vdevice_alloc.read(command.bytes);
  const { context } = command;
  const viommu = getViommu(context, cmd.viommu_id);
  if (failed(viommu)) return viommu;
  const idev = context.objects.get<IommufdDevice>(cmd.dev_id, 'DEVICE');
  if (failed(idev)) return idev;
  if (viommu.iommu !== idev.device.iommu)
    return fail(EINVAL, `${idev.device.name} is behind ${idev.device.iommu.name}, not ${viommu.iommu.name}`);
  if (idev.destroying) return fail(ENOENT, `device ${idev.id} is being unbound`);
  if (idev.vdevice !== null) return fail(EEXIST, `device ${idev.id} has a vDEVICE already`);
  const vdevice = new Vdevice(viommu, idev, cmd.virt_id);
  const allocated = context.objects.allocate(vdevice);
  if (failed(allocated)) {
    vdevice.destroy();
    return allocated;
  }
  const abort = (failure: Result<number>): Result<number> => {
    vdevice.destroy();
    context.objects.abort(vdevice);
    return failure;
  };
  if (context.kernel.failpoint()) return abort(fail(ENOMEM, 'no memory for the table of virtual ids'));
  const entered = vdevice.enter();
  if (failed(entered)) return abort(entered);
  cmd.out_vdevice_id = vdevice.id;
  const rc = command.respond(iommu_vdevice_alloc, cmd);
  if (failed(rc)) return abort(rc);
  context.objects.publish(vdevice);
  return 0;
}
