import { failed, type Result } from '../../../../base/result.ts';
import { readField } from '../../../../base/bit-fields.ts';
import { DTE } from '../../spec/dte.ts';
import type { AmdIommuDevice, GuestDte } from '../device.ts';
import type { ProtectionDomain } from './domain-base.ts';
import { readDte } from '../configuration/dte.ts';

// A device and its domain: drivers/iommu/amd/iommu.c attach_device() and detach_device().

/** attach_device(): the device has no domain before. */
export function attachDevice(device: AmdIommuDevice, domain: ProtectionDomain): Result<void> {
  const { ivhd } = device;
  const entered = domain.enterIvhd(ivhd);
  if (failed(entered)) return entered;
  if (domain.pasidCapable) {
    const made = device.initGcr3(domain);
    if (failed(made)) {
      domain.leaveIvhd(ivhd);
      return made;
    }
  }
  if (device.pciFunction !== null && domain.pasidCapable) {
    device.enableCaps();
    device.addIopf();
  } else {
    device.enableAts();
  }
  device.domain = domain;
  domain.devices.unshift(device);
  writeDomain(device);
}

/**
 * nested_attach_device(): the parent, with a guest's tables in front. A device of the parent stays in place, and its
 * DTE changes at once. DEVIATION: Linux 7.3 and AMD's tree leave PRI off at the device, so that the guest's PPR log stays
 * empty; a guest cannot turn it on, since VFIO keeps the capability.
 */
export function attachNested(
  device: AmdIommuDevice,
  parent: ProtectionDomain,
  guest: GuestDte,
): Result<void> {
  if (device.domain !== parent) {
    if (device.domain !== null) detachDevice(device);
    const entered = parent.enterIvhd(device.ivhd);
    if (failed(entered)) return entered;
    device.enableAts();
    device.domain = parent;
    parent.devices.unshift(device);
  }
  device.nested = guest;
  if (guest.pageRequests) device.enablePri();
  writeDomain(device);
}

/** set_dte_entry(): the entry, and the end of what an old domain id left behind. */
export function writeDomain(device: AmdIommuDevice): void {
  const { ivhd } = device;
  const old = readDte(ivhd.kernel, ivhd.segment.dteAddress(device.deviceId));
  device.updateDte(device.makeDte());
  const oldId = readField(DTE.DomainID, old);
  if (oldId !== 0) ivhd.flushDomainId(oldId);
}

/** detach_device(): blocked afterwards, with nothing of the domain in any cache. */
export function detachDevice(device: AmdIommuDevice): void {
  const domain = device.domain!;
  device.removeIopf();
  device.disableCaps();
  device.updateDte(device.clearDte());
  domain.flushAll();
  domain.devices.splice(domain.devices.indexOf(device), 1);
  if (domain.pasidCapable) device.destroyGcr3(domain);
  device.domain = null;
  device.nested = null;
  domain.leaveIvhd(device.ivhd);
}
