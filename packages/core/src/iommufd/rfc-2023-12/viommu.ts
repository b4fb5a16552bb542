import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import { IOMMU_VIOMMU_TYPE_DEFAULT } from '../../abi/iommufd.ts';
import { iommu_rfc_viommu_alloc } from '../../abi/rfc-2023-12.ts';
import type { Device, PagingDomain, PhysicalIommu, ViommuDriver } from '../../iommu/driver.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import type { IommufdDevice } from '../device/device.ts';
import { getHwptPaging, Hwpt, type HwptPaging } from '../hwpt/hwpt.ts';
import { Viommu } from '../viommu/viommu.ts';
import { VirtualIds } from './virtual-ids.ts';

// The viommu of message 6: "the object to hold a shared stage-2 HWPT/domain then", with a table from virtual ids to
// devices. It is "created per vIOMMU instance and each one actually tied to a pIOMMU" (message 5). Linux's requests for
// viommus take it too.

/** The viommu of a driver that needs to know nothing of it. */
const TABLE_ONLY: ViommuDriver = { destroy() {} };

/**
 * A viommu's stage 2 where a device is attached to it: message 6, struct iommufd_group, "should we attach to viommu
 * instead of hwpt?" The maintainer thought not, in message 7: "Attach is a statement of translation so you still attach
 * to the HWPT." Both can be done here.
 */
class ViommuStage2 extends Hwpt {
  readonly type = 'HWPT_PAGING';
  readonly domain: PagingDomain;
  readonly #viommu: RfcViommu;

  constructor(viommu: RfcViommu, domain: PagingDomain) {
    super();
    this.#viommu = viommu;
    this.domain = domain;
    this.id = viommu.id;
  }

  get paging(): HwptPaging {
    return this.#viommu.hwpt;
  }

  /** Whoever is attached has the viommu: it cannot be destroyed meanwhile. */
  override hold(devices: number): void {
    this.#viommu.users += devices;
  }

  destroy(): void {}
}

/** A viommu of the trial. */
export class RfcViommu extends Viommu {
  readonly ids = new VirtualIds();
  #stage2: ViommuStage2 | null = null;

  override get stage2(): ViommuStage2 | null {
    return this.#stage2;
  }

  /** Finds the stage 2 for the physical IOMMU, and what its driver has for a viommu. */
  start(command: Command, device: Device): Result<void> {
    const { driver, iommu } = device;
    const ops = driver.rfc202312!;
    const parent = this.hwpt.domain!;
    const domain = ops.stage2For?.(iommu, parent) ?? parent;
    if (failed(domain)) return domain;
    this.#stage2 = new ViommuStage2(this, domain);
    const type = ops.viommuType;
    const made =
      type === undefined
        ? (ops.viommuInit?.(this.core(IOMMU_VIOMMU_TYPE_DEFAULT), domain) ?? TABLE_ONLY)
        : driver.viommuInit!(this.core(type), domain, command.memory, null);
    if (failed(made)) return made;
    this.setDriver(made);
  }

  override findDevice(virtualId: bigint): Device | null {
    return super.findDevice(virtualId) ?? this.ids.findDevice(virtualId);
  }

  override virtualIdOf(device: Device): Result<bigint> {
    return this.ids.idOf(device) ?? super.virtualIdOf(device);
  }

  override destroy(): void {
    this.ids.clear();
    super.destroy();
    const domain = this.#stage2?.domain;
    if (domain !== undefined && domain !== this.hwpt.domain) domain.free();
  }
}

/** Whether the device's driver can have a viommu on `hwpt`. */
function checkParent(device: Device, hwpt: HwptPaging): Result<void> {
  const { driver, iommu } = device;
  if (!hwpt.nestParent) return fail(EINVAL, `HWPT ${hwpt.id} was not made as a nest parent`);
  if (hwpt.ready.owner !== driver)
    return fail(EINVAL, `HWPT ${hwpt.id} is not of the driver that ${iommu.name} has`);
}

/** EOPNOTSUPP where the driver has no viommus for the device. */
function checkSupport(device: Device): Result<void> {
  const { driver, iommu } = device;
  const ops = driver.rfc202312;
  if (ops === undefined) return fail(EOPNOTSUPP, `${iommu.name} has no part in rfc-2023-12`);
  if (ops.viommuType === undefined) return;
  if (driver.viommuInit === undefined || !(driver.viommuSupported?.(device, ops.viommuType) ?? false))
    return fail(EOPNOTSUPP, `${iommu.name} offers no viommu`);
}

/** IOMMU_RFC_VIOMMU_ALLOC. Errors as Linux's viommu.c iommufd_viommu_alloc_ioctl() has them. */
export function viommuAlloc(command: Command): Result<number> {
  const cmd = iommu_rfc_viommu_alloc.read(command.bytes);
  const { context } = command;
  if (cmd.flags !== 0 || cmd.__reserved !== 0) return fail(EOPNOTSUPP, 'flags and __reserved must be 0');
  const idev = context.objects.get<IommufdDevice>(cmd.dev_id, 'DEVICE');
  if (failed(idev)) return idev;
  const { device } = idev;
  const supported = checkSupport(device);
  if (failed(supported)) return supported;
  const hwpt = getHwptPaging(context, cmd.hwpt_id);
  if (failed(hwpt)) return hwpt;
  const fits = checkParent(device, hwpt);
  if (failed(fits)) return fits;
  const viommu = context.objects.allocate(new RfcViommu(context, hwpt, device.iommu));
  if (failed(viommu)) {
    hwpt.users--;
    return viommu;
  }
  command.newObject = viommu;
  const started = viommu.start(command, device);
  if (failed(started)) return started;
  cmd.out_viommu_id = viommu.id;
  const rc = command.respond(iommu_rfc_viommu_alloc, cmd);
  return failed(rc) ? rc : 0;
}

/** A viommu that is no object: the HWPT holds it, and nothing holds the HWPT for it. */
class OwnViommu extends RfcViommu {
  constructor(context: IommufdContext, hwpt: HwptPaging, iommu: PhysicalIommu) {
    super(context, hwpt, iommu);
    hwpt.users--;
  }

  override destroy(): void {
    this.hwpt.users++;
    super.destroy();
  }
}

/**
 * The table that a nest parent keeps itself: message 6, "We could stage the xarray in the iommu_hwpt_paging struct for
 * now, so a single-IOMMU system could still work with that". Made when it is first wanted. EINVAL where the device is
 * behind another physical IOMMU than the others are.
 */
export function ownViommu(command: Command, hwpt: HwptPaging, device: Device): Result<RfcViommu> {
  const supported = checkSupport(device);
  if (failed(supported)) return supported;
  const fits = checkParent(device, hwpt);
  if (failed(fits)) return fits;
  const made = hwpt.ownViommu as RfcViommu | null;
  if (made !== null)
    return made.iommu === device.iommu
      ? made
      : fail(
          EINVAL,
          `${device.name} is behind ${device.iommu.name}, and HWPT ${hwpt.id} serves ${made.iommu.name}`,
        );
  const viommu = new OwnViommu(command.context, hwpt, device.iommu);
  const started = viommu.start(command, device);
  const shared = !failed(started) && viommu.stage2!.domain !== hwpt.domain;
  if (failed(started) || shared) {
    viommu.destroy();
    return failed(started)
      ? started
      : fail(EINVAL, `HWPT ${hwpt.id} is of another IOMMU than ${device.iommu.name}: that takes a viommu`);
  }
  hwpt.ownViommu = viommu;
  return viommu;
}
