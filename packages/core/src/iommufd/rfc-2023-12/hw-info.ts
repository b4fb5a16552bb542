import { fail, failed, type Result } from '../../base/result.ts';
import { EOPNOTSUPP } from '../../abi/errno.ts';
import { iommu_rfc_hw_info } from '../../abi/rfc-2023-12.ts';
import type { Kernel, PhysicalIommu } from '../../iommu/driver.ts';
import type { Command } from '../command.ts';
import { fillHwInfo } from '../device/device.ts';

// Which physical IOMMUs the devices of a VM are behind: message 6, "VMM should know if it needs to allocate multiple
// viommu objects -- this probably needs the hw_info ioctl to return a piommu_id"; message 7 of the maintainer: yes.

/** The physical IOMMUs that were asked for, in that order: ids count from 1. */
const numbered = new WeakMap<Kernel, PhysicalIommu[]>();

/** The number of a physical IOMMU in its machine. */
function piommuId(kernel: Kernel, iommu: PhysicalIommu): number {
  const known = numbered.get(kernel) ?? [];
  numbered.set(kernel, known);
  const at = known.indexOf(iommu);
  return at >= 0 ? at + 1 : known.push(iommu);
}

/** IOMMU_RFC_GET_HW_INFO. */
export function getHwInfo(command: Command): Result<number> {
  const cmd = iommu_rfc_hw_info.read(command.bytes);
  if (cmd.__reserved2 !== 0) return fail(EOPNOTSUPP, '__reserved2 must be 0');
  const device = fillHwInfo(command, cmd);
  if (failed(device)) return device;
  cmd.out_piommu_id = piommuId(command.context.kernel, device.iommu);
  const rc = command.respond(iommu_rfc_hw_info, cmd);
  return failed(rc) ? rc : 0;
}
