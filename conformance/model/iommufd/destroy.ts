import { EBUSY, must } from './errno.ts';
import { releaseAccess } from './access.ts';
import { detach } from './attach.ts';
import type { Context, Device, Hwpt, HwQueue, Obj, Vdevice } from './context.ts';
import { U64_MAX } from './memory.ts';

// The destroy operations of drivers/iommu/iommufd/main.c iommufd_object_ops.

/** Destroys what only the context still uses: IOMMU_DESTROY. EBUSY for anything else. */
export function destroy(context: Context, object: Obj): void {
  must(object.users === 1, EBUSY);
  context.remove(object);
  switch (object.type) {
    case 'ioas':
      object.iopt.unmapRange(0n, U64_MAX, { bytes: 0n });
      break;
    case 'hwpt-paging':
    case 'hwpt-nested':
      destroyHwpt(object);
      break;
    case 'selftest':
      detach(context, object.device, 0);
      unbind(context, object.device);
      break;
    case 'viommu':
      object.hwpt.users--;
      if (object.mmapOffset !== 0n) context.mmaps.delete(object.mmapOffset);
      break;
    case 'vdevice':
      destroyVdevice(object);
      break;
    case 'veventq':
      object.viommu.users--;
      object.viommu.veventqs.splice(object.viommu.veventqs.indexOf(object), 1);
      break;
    case 'hw-queue':
      destroyHwQueue(context, object);
      break;
    default:
      // A fault queue answers its faults, which nobody sees. A device or an access always has another user.
      break;
  }
}

function destroyHwpt(hwpt: Hwpt): void {
  if (hwpt.type === 'hwpt-paging') {
    hwpt.ioas.hwpts.splice(hwpt.ioas.hwpts.indexOf(hwpt), 1);
    hwpt.ioas.iopt.removeDomain(hwpt.domain);
    hwpt.ioas.users--;
  } else {
    (hwpt.viommu ?? hwpt.parent).users--;
  }
  if (hwpt.fault !== null) hwpt.fault.users--;
}

function destroyVdevice(vdevice: Vdevice): void {
  vdevice.viommu.vdevices.delete(vdevice.virtId);
  vdevice.viommu.users--;
  vdevice.device.vdevice = null;
}

/** iommufd_hw_queue_destroy(). */
function destroyHwQueue(context: Context, queue: HwQueue): void {
  // mock_hw_queue_destroy(): nobody sets the index, so it is 0 for every queue.
  queue.viommu.queues[0] = null;
  if (queue.previous !== null) queue.previous.users--;
  queue.viommu.users--;
  releaseAccess(queue.access, { first: queue.first, last: queue.last, internal: true });
  queue.access.users--;
  context.remove(queue.access);
}

/** iommufd_device_unbind(): the vDEVICE goes with it, its id stays taken. */
export function unbind(context: Context, device: Device): void {
  const { vdevice } = device;
  if (vdevice !== null) {
    context.remove(vdevice, true);
    destroyVdevice(vdevice);
  }
  device.users--;
  context.remove(device);
}
