import { fail, failed, type Result } from '../../../../base/result.ts';
import { EINVAL, EOPNOTSUPP } from '../../../../abi/errno.ts';
import type { AmdIommuDevice } from '../device.ts';
import type { ProtectionDomain } from './domain-base.ts';

// Domains of PASIDs: drivers/iommu/amd/pasid.c.

// is_pasid_valid()
function valid(device: AmdIommuDevice, pasid: number): boolean {
  return pasid > 0 && pasid < device.pasidLimit;
}

/** iommu_sva_set_dev_pasid(), of a domain with guest tables of the kernel's. */
export function attachPasid(
  device: AmdIommuDevice,
  pasid: number,
  domain: ProtectionDomain,
  old: unknown,
): Result<void> {
  if (old !== null) return fail(EOPNOTSUPP, 'the domain of a PASID cannot be replaced');
  if (!valid(device, pasid)) return fail(EINVAL, `${device.name} has no PASID ${pasid}`);
  if (!device.pasidEnabled || device.gcr3 === null)
    return fail(EINVAL, `${device.name} has a domain that leaves no room for PASIDs`);
  const set = device.setGcr3(pasid, domain.guestRoot);
  if (failed(set)) return set;
  domain.pasidUsers.push({ device, pasid });
}

/** amd_iommu_remove_dev_pasid() */
export function detachPasid(device: AmdIommuDevice, pasid: number, domain: ProtectionDomain): void {
  const at = domain.pasidUsers.findIndex((user) => user.device === device && user.pasid === pasid);
  if (at < 0) return;
  domain.pasidUsers.splice(at, 1);
  if (device.gcr3 !== null) device.setGcr3(pasid, null);
}
