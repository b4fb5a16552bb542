import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import { iommu_dev_invalidate, iommu_hwpt_iotlb_sync } from '../../abi/rfc-2023-12.ts';
import type { Command } from '../command.ts';
import type { IommufdContext } from '../context.ts';
import type { IommufdDevice } from '../device/device.ts';
import { Hwpt } from '../hwpt/hwpt.ts';
import { serveInvalidation, type InvalidateHandler } from '../hwpt/invalidate.ts';

// Message 1 tells IOTLB commands from those that a device's own caches need: the former go to a HWPT, which knows the
// VMID or domain id, the latter to a device, which knows its own id. docs/rfc-2023-12.md has what is wrong with that.

/** IOMMU_DEV_INVALIDATE. EOPNOTSUPP for VT-d, which "will not implement it" (message 5): its driver does all itself. */
export function devInvalidate(command: Command): Result<number> {
  const cmd = iommu_dev_invalidate.read(command.bytes);
  return serveInvalidation(command, iommu_dev_invalidate, cmd, (context) =>
    deviceHandler(context, cmd.dev_id),
  );
}

function deviceHandler(context: IommufdContext, id: number): Result<InvalidateHandler> {
  const idev = context.objects.get<IommufdDevice>(id, 'DEVICE');
  if (failed(idev)) return idev;
  const { device } = idev;
  const ops = device.driver.rfc202312;
  if (ops?.deviceInvalidate === undefined)
    return fail(EOPNOTSUPP, `${device.iommu.name} takes no invalidations of a device`);
  return (memory, array) => ops.deviceInvalidate!(device, memory, array);
}

/** IOMMU_HWPT_IOTLB_SYNC. VT-d's also takes what ATCs hold (message 7). */
export function hwptIotlbSync(command: Command): Result<number> {
  const cmd = iommu_hwpt_iotlb_sync.read(command.bytes);
  return serveInvalidation(command, iommu_hwpt_iotlb_sync, cmd, (context) =>
    domainHandler(context, cmd.hwpt_id),
  );
}

// Message 1: "It should be setup to allow that the target domain object can be any HWPT."
function domainHandler(context: IommufdContext, id: number): Result<InvalidateHandler> {
  const hwpt = context.objects.get(id);
  if (failed(hwpt)) return hwpt;
  if (!(hwpt instanceof Hwpt)) return fail(EINVAL, `object ${id} is of type ${hwpt.type}, not a HWPT`);
  const domain = hwpt.ready;
  const sync = domain.owner?.rfc202312?.iotlbSync;
  if (sync !== undefined) return (memory, array) => sync(domain, memory, array);
  if (domain.cacheInvalidateUser === undefined)
    return fail(EOPNOTSUPP, `HWPT ${id} has no IOTLB to synchronise`);
  return (memory, array) => domain.cacheInvalidateUser!(memory, array);
}
