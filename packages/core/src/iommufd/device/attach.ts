import { assert } from '../../base/assert.ts';
import { fail, failed, type Failure, type Result } from '../../base/result.ts';
import { EBUSY, EINVAL, ENOMEM } from '../../abi/errno.ts';
import { IOMMU_NO_PASID } from '../../iommu/driver.ts';
import type { IommufdContext } from '../context.ts';
import type { IommufdDevice } from './device.ts';
import type { IommufdAttachHandle, IommufdGroup } from './group.ts';
import { allocHwptPaging, abortHwpt, putHwpt, type Hwpt, type HwptPaging } from '../hwpt/hwpt.ts';
import type { Ioas } from '../ioas/ioas.ts';
import { setupGroupMsi } from './sw-msi.ts';
import type { Viommu } from '../viommu/viommu.ts';

// drivers/iommu/iommufd/device.c: attaching, replacing and detaching. All devices of a group follow its first; every
// one of them brings its own reserved regions.

/** A page table that nobody uses any more, to be put after the change; null where there is none. */
type Replaced = Hwpt | null;
type DoAttach = (context: IommufdContext, idev: IommufdDevice, pasid: number, hwpt: Hwpt) => Result<Replaced>;

// iommufd_hwpt_pasid_compat(): domains that may meet a PASID are marked when they are made.
function checkPasidCompat(hwpt: Hwpt, group: IommufdGroup, pasid: number): Result<void> {
  if (pasid === IOMMU_NO_PASID) {
    const others = [...group.attached.keys()].some((each) => each !== IOMMU_NO_PASID);
    if (!hwpt.pasidCompat && others)
      return fail(EINVAL, `HWPT ${hwpt.id} was not made for a device that uses PASIDs`);
    return;
  }
  if (!hwpt.pasidCompat) return fail(EINVAL, `HWPT ${hwpt.id} was not made to be attached to a PASID`);
  const base = group.attached.get(IOMMU_NO_PASID);
  if (base !== undefined && !base.hwpt.pasidCompat)
    return fail(
      EINVAL,
      `HWPT ${base.hwpt.id}, which the device has, was not made for a device that uses PASIDs`,
    );
}

function attachDomain(context: IommufdContext, hwpt: Hwpt, idev: IommufdDevice, pasid: number): Result<void> {
  const { group } = idev.group;
  const compat = checkPasidCompat(hwpt, idev.group, pasid);
  if (failed(compat)) return compat;
  if (context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the attach handle');
  const handle: IommufdAttachHandle = { domain: hwpt.ready, idev };
  return pasid === IOMMU_NO_PASID
    ? group.attach(hwpt.ready, handle)
    : group.attachPasid(hwpt.ready, idev.device, pasid, handle);
}

/** iommufd_hw_pagetable_attach(): one more device, and user, of `hwpt`. */
export function attachHwpt(
  context: IommufdContext,
  hwpt: Hwpt,
  idev: IommufdDevice,
  pasid: number,
): Result<void> {
  const group = idev.group;
  const iopt = pasid === IOMMU_NO_PASID ? hwpt.paging.ioas.iopt : null;
  const existing = group.attached.get(pasid);
  if (context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the attachment');
  if (existing !== undefined) {
    if (existing.devices.has(idev.id)) return fail(EBUSY, `${idev.device.name} is attached already`);
    if (existing.hwpt !== hwpt) return fail(EINVAL, `the group is attached to HWPT ${existing.hwpt.id}`);
  }
  if (iopt !== null) {
    const swMsi = iopt.enforceReservedRegions(idev.device);
    if (failed(swMsi)) return swMsi;
    if (swMsi !== null) group.swMsiStart = swMsi;
    const msi = existing === undefined ? setupGroupMsi(group, hwpt.paging) : undefined;
    if (failed(msi)) {
      iopt.reserved.removeOwner(idev.device);
      return msi;
    }
  }
  if (existing === undefined) {
    const rc = attachDomain(context, hwpt, idev, pasid);
    if (failed(rc)) {
      iopt?.reserved.removeOwner(idev.device);
      return rc;
    }
    group.attached.set(pasid, { hwpt, devices: new Map([[idev.id, idev]]) });
  } else {
    existing.devices.set(idev.id, idev);
  }
  hwpt.hold(1);
}

/** iommufd_hw_pagetable_detach(): true where the device was attached. */
export function detachHwpt(context: IommufdContext, idev: IommufdDevice, pasid: number): boolean {
  const group = idev.group;
  const attach = group.attached.get(pasid);
  if (attach === undefined) return false;
  const { hwpt } = attach;
  attach.devices.delete(idev.id);
  if (attach.devices.size === 0) {
    const handle = group.handle(pasid);
    if (pasid === IOMMU_NO_PASID) group.group.detach();
    else group.group.detachPasid(hwpt.ready, pasid);
    if (handle !== null) hwpt.fault?.autoRespond(handle);
    group.attached.delete(pasid);
  }
  if (pasid === IOMMU_NO_PASID) hwpt.paging.ioas.iopt.reserved.removeOwner(idev.device);
  putHwpt(context, hwpt);
  return true;
}

const doAttach: DoAttach = (context, idev, pasid, hwpt) => {
  const rc = attachHwpt(context, hwpt, idev, pasid);
  return failed(rc) ? rc : null;
};

// iommufd_group_do_replace_reserved_iova()
function replaceReserved(group: IommufdGroup, paging: HwptPaging): Failure | null {
  const attach = group.attached.get(IOMMU_NO_PASID)!;
  const devices = attach.hwpt.paging.ioas === paging.ioas ? [] : attach.devices.values();
  for (const each of devices) {
    const rc = paging.ioas.iopt.enforceReservedRegions(each.device);
    if (!failed(rc)) continue;
    removeReserved(group, paging);
    return rc;
  }
  const msi = setupGroupMsi(group, paging);
  if (!failed(msi)) return null;
  removeReserved(group, paging);
  return msi;
}

function removeReserved(group: IommufdGroup, paging: HwptPaging): void {
  const attach = group.attached.get(IOMMU_NO_PASID)!;
  for (const each of attach.devices.values()) paging.ioas.iopt.reserved.removeOwner(each.device);
}

const doReplace: DoAttach = (context, idev, pasid, hwpt) => {
  const group = idev.group;
  const attach = group.attached.get(pasid);
  if (attach === undefined || !attach.devices.has(idev.id))
    return fail(
      EINVAL,
      `${idev.device.name} is not attached${pasid === IOMMU_NO_PASID ? '' : ` at PASID ${pasid}`}`,
    );
  const old = attach.hwpt;
  if (old === hwpt) return null;
  const paging = hwpt.paging;
  if (pasid === IOMMU_NO_PASID) {
    const refused = replaceReserved(group, paging);
    if (refused !== null) return refused;
  }
  const rc = replaceDomain(context, idev, pasid, hwpt, old);
  if (failed(rc)) {
    // As in Linux, the regions of an IOAS that both share go as well.
    if (pasid === IOMMU_NO_PASID) removeReserved(group, paging);
    return rc;
  }
  if (pasid === IOMMU_NO_PASID && old.paging.ioas !== paging.ioas) removeReserved(group, old.paging);
  attach.hwpt = hwpt;
  hwpt.hold(attach.devices.size);
  old.hold(1 - attach.devices.size);
  return old;
};

// iommufd_hwpt_replace_device()
function replaceDomain(
  context: IommufdContext,
  idev: IommufdDevice,
  pasid: number,
  hwpt: Hwpt,
  old: Hwpt,
): Result<void> {
  const { group } = idev.group;
  const compat = checkPasidCompat(hwpt, idev.group, pasid);
  if (failed(compat)) return compat;
  const oldHandle = idev.group.handle(pasid);
  if (context.kernel.failpoint()) return fail(ENOMEM, 'no memory for the attach handle');
  const handle: IommufdAttachHandle = { domain: hwpt.ready, idev };
  const rc =
    pasid === IOMMU_NO_PASID
      ? group.replace(hwpt.ready, handle)
      : group.replacePasid(hwpt.ready, idev.device, pasid, handle);
  if (failed(rc)) return rc;
  if (oldHandle !== null) old.fault?.autoRespond(oldHandle);
}

// iommufd_device_auto_get_domain(): a domain that iommufd made before, else a new one.
function autoGetDomain(
  context: IommufdContext,
  idev: IommufdDevice,
  pasid: number,
  ioas: Ioas,
  attach: DoAttach,
): Result<{ id: number; replaced: Replaced }> {
  for (const hwpt of ioas.hwpts) {
    if (!hwpt.autoDomain) continue;
    const replaced = attach(context, idev, pasid, hwpt);
    if (!failed(replaced)) return { id: hwpt.id, replaced };
    // EINVAL: not for this device; another may be.
    if (replaced.errno !== EINVAL) return replaced;
  }
  const immediate = attach === doAttach;
  const hwpt = allocHwptPaging(context, ioas, idev, pasid, 0, immediate, null);
  if (failed(hwpt)) return hwpt;
  let replaced: Replaced = null;
  if (!immediate) {
    const rc = attach(context, idev, pasid, hwpt);
    if (failed(rc)) {
      abortHwpt(context, hwpt);
      return rc;
    }
    replaced = rc;
  }
  hwpt.autoDomain = true;
  context.objects.publish(hwpt);
  return { id: hwpt.id, replaced };
}

// iommufd_device_change_pt()
function changePt(
  context: IommufdContext,
  idev: IommufdDevice,
  pasid: number,
  ptId: number,
  attach: DoAttach,
): Result<number> {
  const on = context.objects.get(ptId);
  if (failed(on)) return on;
  let id = ptId;
  let replaced: Result<Replaced>;
  if (on.type === 'HWPT_PAGING' || on.type === 'HWPT_NESTED') {
    replaced = attach(context, idev, pasid, on as Hwpt);
    if (failed(replaced)) return replaced;
  } else if (on.type === 'IOAS') {
    const done = autoGetDomain(context, idev, pasid, on as Ioas, attach);
    if (failed(done)) return done;
    ({ id, replaced } = done);
  } else if (on.type === 'VIOMMU' && (on as Viommu).stage2 !== null) {
    const { stage2, iommu } = on as Viommu;
    if (iommu !== idev.device.iommu)
      return fail(EINVAL, `${idev.device.name} is behind ${idev.device.iommu.name}, not ${iommu.name}`);
    replaced = attach(context, idev, pasid, stage2!);
    if (failed(replaced)) return replaced;
  } else {
    return fail(EINVAL, `a device cannot be attached to an object of type ${on.type}`);
  }
  if (replaced !== null) putHwpt(context, replaced);
  return id;
}

/** iommufd_device_attach(): to an IOAS or a HWPT. Answers the id of the HWPT. */
export function attachDevice(
  context: IommufdContext,
  idev: IommufdDevice,
  pasid: number,
  ptId: number,
): Result<number> {
  const id = changePt(context, idev, pasid, ptId, doAttach);
  if (!failed(id)) idev.users++;
  return id;
}

/** iommufd_device_replace(): nothing changes where it fails. */
export function replaceDevice(
  context: IommufdContext,
  idev: IommufdDevice,
  pasid: number,
  ptId: number,
): Result<number> {
  return changePt(context, idev, pasid, ptId, doReplace);
}

/** iommufd_device_detach(). */
export function detachDevice(context: IommufdContext, idev: IommufdDevice, pasid: number): void {
  if (!detachHwpt(context, idev, pasid)) return;
  idev.users--;
  assert(idev.users > 0, 'a bound device has its driver as a user');
}
