import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, ENOTTY } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_DMA_BUF,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
  VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
  VFIO_DEVICE_FEATURE_SET,
  vfio_device_low_power_entry_with_wakeup,
} from '../../abi/vfio.ts';
import type { Eventfd } from '../../memory/process.ts';
import { checkFeature, readFeatureData, type FeatureAnswer, type FeatureRequest } from '../feature.ts';
import type { VfioDmaBufs } from './dma-bufs.ts';

// drivers/vfio/pci/vfio_pci_core.c vfio_pci_core_ioctl_feature(): the features that PCI functions have without a driver
// of their own. These functions are neither virtual nor have virtual ones, so there is no token; and bus mastering is
// theirs in configuration space: both are ENOTTY.

/** Linux whose vfio-pci first offers BARs as dma-bufs. */
const DMA_BUF_SINCE = 619;

/** What changes the power state. */
export interface PowerControl {
  /** vfio_pci_runtime_pm_entry(): `wakeup` is signalled when the device is used again. EINVAL where it sleeps already. */
  enterLowPower(wakeup: Eventfd | null): Result<void>;
  exitLowPower(): void;
}

/** What the features are of. */
export interface PciFeatures {
  readonly version: number;
  readonly power: PowerControl;
  readonly dmaBufs: VfioDmaBufs;
}

export function pciFeature({ version, power, dmaBufs }: PciFeatures, request: FeatureRequest): FeatureAnswer {
  switch (request.feature) {
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
    case VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
      return lowPower(power, request);
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
      return lowPowerWithWakeup(power, request);
    case VFIO_DEVICE_FEATURE_DMA_BUF:
      if (version >= DMA_BUF_SINCE) return dmaBufs.feature(request);
  }
  return fail(ENOTTY, `the device does not have feature ${request.feature}`);
}

// vfio_pci_core_pm_entry(), vfio_pci_core_pm_exit()
function lowPower(power: PowerControl, request: FeatureRequest): FeatureAnswer {
  const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_SET, 0);
  if (failed(carryOut) || !carryOut) return failed(carryOut) ? carryOut : undefined;
  if (request.feature === VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY) return power.enterLowPower(null);
  power.exitLowPower();
}

// vfio_pci_core_pm_entry_with_wakeup()
function lowPowerWithWakeup(power: PowerControl, request: FeatureRequest): FeatureAnswer {
  const layout = vfio_device_low_power_entry_with_wakeup;
  const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_SET, layout.size);
  if (failed(carryOut)) return carryOut;
  if (!carryOut) return;
  const bytes = readFeatureData(request, layout.size);
  if (failed(bytes)) return bytes;
  const { wakeup_eventfd } = layout.read(bytes);
  if (wakeup_eventfd < 0) return fail(EINVAL, 'wakeup_eventfd is negative');
  const eventfd = request.task.process.eventfd(wakeup_eventfd);
  if (failed(eventfd)) return eventfd;
  const entered = power.enterLowPower(eventfd);
  if (failed(entered)) eventfd.release();
  return entered;
}
