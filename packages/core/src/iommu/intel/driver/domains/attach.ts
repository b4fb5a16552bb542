import { failed, type Result } from '../../../../base/result.ts';
import { IOMMU_NO_PASID, type IommuDomain } from '../../../driver.ts';
import type { DmarDomain } from './domain-base.ts';
import type { IntelDevice } from '../device.ts';
import { tearDownEntry } from '../configuration/pasid.ts';

// What attaching and detaching is made of: drivers/iommu/intel/iommu.c and iommu.h.

/** iopf_for_domain_set(): a domain with a fault queue takes the device's page requests. */
export function iopfSet(domain: IommuDomain | null, device: IntelDevice): Result<void> {
  if (domain !== null && domain.iopfHandler !== null) return device.enableIopf();
}

/** iopf_for_domain_remove() */
export function iopfRemove(domain: IommuDomain | null, device: IntelDevice): void {
  if (domain !== null && domain.iopfHandler !== null) device.disableIopf();
}

/** iopf_for_domain_replace() */
export function iopfReplace(
  next: IommuDomain | null,
  old: IommuDomain | null,
  device: IntelDevice,
): Result<void> {
  const set = iopfSet(next, device);
  if (failed(set)) return set;
  iopfRemove(old, device);
}

/**
 * device_block_translation(): transactions without a PASID are blocked, and nothing of the domain that they met is cached
 * any more.
 */
export function blockTranslation(device: IntelDevice): void {
  if (!device.attached) return;
  const { domain } = device;
  domain?.unassignTags(device, IOMMU_NO_PASID);
  tearDownEntry(device, IOMMU_NO_PASID);
  device.attached = false;
  if (domain === null) return;
  domain.devices.splice(domain.devices.indexOf(device), 1);
  domain.detachUnit(device.unit);
  device.domain = null;
}

/** The other way round: transactions without a PASID meet the domain from now on. */
export function noteAttached(device: IntelDevice, domain: DmarDomain): void {
  device.domain = domain;
  device.attached = true;
  domain.devices.unshift(device);
}

/** domain_remove_dev_pasid(): what domains without translations need not be told. */
export function removeDevicePasid(domain: IommuDomain | null, device: IntelDevice, pasid: number): void {
  if (domain === null || domain.type === 'identity' || domain.type === 'blocked') return;
  const from = domain as DmarDomain;
  const at = from.devicePasids.findIndex((each) => each.device === device && each.pasid === pasid);
  if (at < 0) return;
  from.devicePasids.splice(at, 1);
  from.unassignTags(device, pasid);
  from.detachUnit(device.unit);
}
