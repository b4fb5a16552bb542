import { EBUSY, EINVAL, ENOENT, ENOMEM, Errno, errnoOf, must } from './errno.ts';
import type { Attachment, Context, Device, Hwpt, Ioas, PagingHwpt } from './context.ts';
import { destroy } from './destroy.ts';
import { newPagingHwpt } from './hwpt.ts';

// drivers/iommu/iommufd/device.c, drivers/iommu/iommu.c and the mock IOMMU below them. A mock device is alone in its
// group.

const FAKE_ERROR_PASID = 1024;

function dirtyOps(hwpt: Hwpt): boolean {
  return hwpt.type === 'hwpt-paging' && hwpt.domain.dirtyOps;
}

/** mock_domain_nop_attach(). */
function attachRid(device: Device, hwpt: Hwpt): void {
  const { mock } = device;
  must(!(dirtyOps(hwpt) && mock.noDirty), EINVAL);
  const viommu = hwpt.type === 'hwpt-nested' ? hwpt.viommu : null;
  let vdevId = 0n;
  if (viommu !== null) {
    // iommufd_viommu_get_vdev_id()
    must(device.vdevice !== null && device.vdevice.viommu === viommu, ENOENT);
    vdevId = device.vdevice.virtId;
  }
  if (viommu === mock.viommu) return;
  mock.viommu = viommu;
  mock.vdevId = vdevId;
}

/** mock_domain_set_dev_pasid_nop(). */
function attachPasid(device: Device, pasid: number): void {
  if (pasid !== FAKE_ERROR_PASID) return;
  const fail = device.mock.fakeError;
  device.mock.fakeError = !fail;
  if (fail) throw new Errno(ENOMEM);
}

/** iommufd_hwpt_pasid_compat(). */
function checkPasid(device: Device, pasid: number, hwpt: Hwpt): void {
  if (pasid === 0) {
    must(hwpt.pasidCompat || ![...device.attached.keys()].some((other) => other > 0), EINVAL);
    return;
  }
  must(hwpt.pasidCompat, EINVAL);
  const rid = device.attached.get(0);
  must(rid === undefined || rid.hwpt.pasidCompat, EINVAL);
}

/** iommufd_hw_pagetable_attach(). */
function attachHwpt(device: Device, pasid: number, hwpt: Hwpt): void {
  must(!device.attached.has(pasid), EBUSY);
  checkPasid(device, pasid, hwpt);
  if (pasid === 0) {
    attachRid(device, hwpt);
  } else {
    must(pasid < device.mock.maxPasids, EINVAL);
    attachPasid(device, pasid);
  }
  device.attached.set(pasid, { device, hwpt });
  hwpt.users++;
}

/** iommufd_auto_response_faults(). */
function answerFaults({ hwpt }: Attachment, attachment: Attachment): void {
  if (hwpt.fault === null) return;
  hwpt.fault.deliver = hwpt.fault.deliver.filter((fault) => fault.attachment !== attachment);
  for (const [cookie, fault] of hwpt.fault.responses)
    if (fault.attachment === attachment) hwpt.fault.responses.delete(cookie);
}

/** iommufd_hw_pagetable_put(): what was made for a device goes with its last user. */
function put(context: Context, hwpt: Hwpt): void {
  hwpt.users--;
  if (hwpt.type === 'hwpt-paging' && hwpt.auto && hwpt.users === 1) destroy(context, hwpt);
}

/** iommufd_hw_pagetable_detach(), without the put. */
function detachHwpt(device: Device, pasid: number): Attachment {
  const attachment = device.attached.get(pasid)!;
  device.attached.delete(pasid);
  if (pasid === 0) {
    device.mock.viommu = null;
    device.mock.vdevId = 0n;
  } else if (pasid === FAKE_ERROR_PASID) {
    device.mock.fakeError = false;
  }
  answerFaults(attachment, attachment);
  return attachment;
}

/** iommufd_device_do_replace(). Answers what was attached before, null where that is the same. */
function replaceHwpt(device: Device, pasid: number, hwpt: Hwpt): Attachment | null {
  const old = device.attached.get(pasid);
  must(old !== undefined, EINVAL);
  if (old.hwpt === hwpt) return null;
  checkPasid(device, pasid, hwpt);
  if (pasid === 0) attachRid(device, hwpt);
  else attachPasid(device, pasid);
  device.attached.set(pasid, { device, hwpt });
  answerFaults(old, old);
  hwpt.users++;
  return old;
}

/** iommufd_device_auto_get_domain(): what `act` takes of the IOAS's own domains, or a new one. */
function autoDomain(
  context: Context,
  device: Device,
  ioas: Ioas,
  act: (hwpt: PagingHwpt) => void,
  immediate: boolean,
): PagingHwpt {
  for (const hwpt of ioas.hwpts) {
    if (!hwpt.auto) continue;
    const errno = errnoOf(() => act(hwpt));
    if (errno === 0) return hwpt;
    if (errno !== EINVAL) throw new Errno(errno);
  }
  return context.withId(() => {
    const hwpt = newPagingHwpt(ioas, device, 0, null);
    if (immediate) {
      act(hwpt);
      try {
        ioas.iopt.addDomain(hwpt.domain);
      } catch (error) {
        detachHwpt(device, [...device.attached].find(([, attached]) => attached.hwpt === hwpt)![0]);
        throw error;
      }
    } else {
      ioas.iopt.addDomain(hwpt.domain);
      try {
        act(hwpt);
      } catch (error) {
        ioas.iopt.removeDomain(hwpt.domain);
        throw error;
      }
    }
    hwpt.auto = true;
    ioas.users++;
    ioas.hwpts.push(hwpt);
    return hwpt;
  });
}

/** iommufd_device_change_pt(). Answers the id of the HWPT. */
function changePt(
  context: Context,
  device: Device,
  ptId: number,
  act: (hwpt: Hwpt) => void,
  immediate: boolean,
): number {
  const target = context.find(ptId);
  switch (target.type) {
    case 'hwpt-paging':
    case 'hwpt-nested':
      act(target);
      return target.id;
    case 'ioas': {
      const hwpt = autoDomain(context, device, target, act, immediate);
      if (hwpt.id === 0) context.add(hwpt);
      return hwpt.id;
    }
    default:
      throw new Errno(EINVAL);
  }
}

/** iommufd_device_attach(). */
export function attach(context: Context, device: Device, pasid: number, ptId: number): number {
  const id = changePt(context, device, ptId, (hwpt) => attachHwpt(device, pasid, hwpt), true);
  device.users++;
  return id;
}

/** iommufd_device_replace(). */
export function replace(context: Context, device: Device, pasid: number, ptId: number): number {
  let old: Attachment | null = null;
  const id = changePt(context, device, ptId, (hwpt) => (old = replaceHwpt(device, pasid, hwpt)), false);
  if (old !== null) put(context, (old as Attachment).hwpt);
  return id;
}

/** iommufd_device_detach(). */
export function detach(context: Context, device: Device, pasid: number): void {
  if (!device.attached.has(pasid)) return;
  const { hwpt } = detachHwpt(device, pasid);
  put(context, hwpt);
  device.users--;
}
