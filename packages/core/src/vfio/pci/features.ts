import { fail, failed, type Result } from '../../base/result.ts';
import { big } from '../../base/u64.ts';
import { EFAULT, EINVAL, ENOTTY } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  vfio_device_feature,
  vfio_device_low_power_entry_with_wakeup,
} from '../../abi/vfio.ts';
import type { Eventfd, Task } from '../../memory/process.ts';
import { readPart } from '../user-struct.ts';

// VFIO_DEVICE_FEATURE: drivers/vfio/vfio_main.c vfio_ioctl_device_feature() and vfio_pci_core.c. These functions are
// neither virtual nor have virtual ones, so there is no token; they cannot be migrated and keep no log of their DMA; and
// their memory is not offered as dma-bufs (CONFIG_VFIO_PCI_DMABUF): all of that is ENOTTY.

/** What changes the power state. */
export interface PowerControl {
  /** vfio_pci_runtime_pm_entry(): `wakeup` is signalled when the device is used again. EINVAL where it sleeps already. */
  enterLowPower(wakeup: Eventfd | null): Result<void>;
  exitLowPower(): void;
}

/** vfio_check_feature(): true where the request is to be carried out, false where it was only asked about. */
function wanted(flags: number, bytes: number, supported: number, minsz: number): Result<boolean> {
  const both = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
  if ((flags & both & ~supported) !== 0) return fail(EINVAL, 'the feature cannot be got, or not be set');
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return false;
  if ((flags & both) === 0) return fail(EINVAL, 'neither get nor set');
  return bytes < minsz ? fail(EINVAL, 'argsz has no room for the feature') : true;
}

export function deviceFeature(power: PowerControl, task: Task, arg: bigint): Result<void> {
  const { memory } = task.process;
  const head = readPart(memory, arg, vfio_device_feature.size, vfio_device_feature.size);
  if (failed(head)) return head;
  const { argsz, flags } = vfio_device_feature.read(head);
  if (argsz < vfio_device_feature.size) return fail(EINVAL, 'argsz is too small');
  const both = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
  if ((flags & ~(VFIO_DEVICE_FEATURE_MASK | both | VFIO_DEVICE_FEATURE_PROBE)) !== 0)
    return fail(EINVAL, 'flags are unknown');
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) === 0 && (flags & both) === both)
    return fail(EINVAL, 'get and set at once');
  const bytes = argsz - vfio_device_feature.size;
  const at = arg + big(vfio_device_feature.size);
  switch (flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
    case VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
      return lowPower(power, task, flags, at, bytes);
    case VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
      return fail(EINVAL, 'the device has no pre-copy');
    default:
      return fail(ENOTTY, 'the device does not have this feature');
  }
}

function lowPower(
  power: PowerControl,
  { process }: Task,
  flags: number,
  at: bigint,
  bytes: number,
): Result<void> {
  const feature = flags & VFIO_DEVICE_FEATURE_MASK;
  const withWakeup = feature === VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP;
  const layout = vfio_device_low_power_entry_with_wakeup;
  const carryOut = wanted(flags, bytes, VFIO_DEVICE_FEATURE_SET, withWakeup ? layout.size : 0);
  if (failed(carryOut)) return carryOut;
  if (!carryOut) return;
  if (feature === VFIO_DEVICE_FEATURE_LOW_POWER_EXIT) return power.exitLowPower();
  if (!withWakeup) return power.enterLowPower(null);
  const entry = new Uint8Array(layout.size);
  if (!process.memory.read(at, entry)) return fail(EFAULT, 'the feature cannot be read');
  const { wakeup_eventfd } = layout.read(entry);
  if (wakeup_eventfd < 0) return fail(EINVAL, 'wakeup_eventfd is negative');
  const eventfd = process.eventfd(wakeup_eventfd);
  if (failed(eventfd)) return eventfd;
  const entered = power.enterLowPower(eventfd);
  if (failed(entered)) eventfd.release();
  return entered;
}
