import { fail, failed, type Result } from '../../base/result.ts';
import { hex } from '../../base/u64.ts';
import { EEXIST, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP } from '../../abi/errno.ts';
import { iommu_dev_assign_virtual_id } from '../../abi/rfc-2023-12.ts';
import type { Device } from '../../iommu/driver.ts';
import type { Command } from '../command.ts';
import type { IommufdDevice } from '../device/device.ts';
import type { HwptPaging } from '../hwpt/hwpt.ts';
import { ownViommu, RfcViommu } from './viommu.ts';
import { namesDevice } from './virtual-ids.ts';

// The table that the id enters: a viommu's, or the one that a nest parent keeps (message 1: "ARM will need to pass in
// the Nesting Parent ID").
function tableFor(command: Command, id: number, device: Device): Result<RfcViommu> {
  const on = command.context.objects.get(id);
  if (failed(on)) return on;
  if (on.type === 'HWPT_PAGING') return ownViommu(command, on as HwptPaging, device);
  if (on instanceof RfcViommu) return on;
  return on.type === 'VIOMMU'
    ? fail(EINVAL, `viommu ${id} is Linux's: its virtual ids are vDEVICEs`)
    : fail(ENOENT, `object ${id} is of type ${on.type}, neither a viommu nor a nest parent`);
}

function checkId(device: Device, type: number, id: bigint): Result<void> {
  const last = device.driver.rfc202312?.virtualIds.get(type);
  if (last === undefined)
    return fail(EOPNOTSUPP, `devices behind ${device.iommu.name} have no virtual ids of type ${type}`);
  if (id > last) return fail(EINVAL, `a virtual id of type ${type} is at most ${hex(last)}`);
}

/**
 * IOMMU_DEV_ASSIGN_VIRTUAL_ID. A device that has an id of the type gets the new one instead: message 3, "assign can just
 * change it", so that there is no request to take one back. Errors as Linux's viommu.c iommufd_vdevice_alloc_ioctl()
 * has them: EEXIST where another device has the id, EINVAL where the device is behind another physical IOMMU.
 */
export function devAssignVirtualId(command: Command): Result<number> {
  const cmd = iommu_dev_assign_virtual_id.read(command.bytes);
  const { context } = command;
  const idev = context.objects.get<IommufdDevice>(cmd.dev_id, 'DEVICE');
  if (failed(idev)) return idev;
  const { device } = idev;
  const valid = checkId(device, cmd.id_type, cmd.id);
  if (failed(valid)) return valid;
  const viommu = tableFor(command, cmd.viommu_id, device);
  if (failed(viommu)) return viommu;
  if (viommu.iommu !== device.iommu)
    return fail(EINVAL, `${device.name} is behind ${device.iommu.name}, not ${viommu.iommu.name}`);
  if (idev.vdevice !== null) return fail(EEXIST, `device ${idev.id} has a vDEVICE`);
  if (context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the table of virtual ids');
  return assign(viommu, idev, cmd.id_type, cmd.id);
}

function assign(viommu: RfcViommu, idev: IommufdDevice, type: number, id: bigint): Result<number> {
  const { device } = idev;
  const previous = idev.virtualIds?.find(idev, type) ?? null;
  if (previous?.id === id && idev.virtualIds === viommu.ids) return 0;
  if (!namesDevice(type)) {
    viommu.ids.remove(idev, type);
    viommu.ids.add({ idev, type, id, undo: null });
    return 0;
  }
  if (viommu.findDevice(id) !== null) return fail(EEXIST, `virtual id ${hex(id)} is taken`);
  const undo = viommu.driver.vdeviceInit?.({ device, virtualId: id }) ?? null;
  if (failed(undo)) return undo;
  viommu.ids.remove(idev, type);
  viommu.ids.add({ idev, type, id, undo });
  return 0;
}
