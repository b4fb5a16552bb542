import { fail } from '../base/result.ts';
import { ENOTTY } from '../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
  VFIO_DEVICE_FEATURE_MIGRATION,
} from '../abi/vfio.ts';
import type { FeatureAnswer, FeatureRequest } from './feature.ts';
import type { DmaLog } from './migration/dma-log.ts';
import { deviceState, migrationDataSize, migrationFlags, precopyInfoV2 } from './migration/features.ts';
import type { VfioMigration } from './migration/migration.ts';

// drivers/vfio/vfio_main.c vfio_ioctl_device_feature(): the features that are of VFIO, and not of a kind of device.

/** Linux that first knows of VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2. */
const PRECOPY_INFO_V2_SINCE = 701;

/** What a device has of them. */
export interface FeaturedDevice {
  readonly version: number;
  /** mig_ops; null where it cannot be migrated. */
  readonly migration: VfioMigration | null;
  /** log_ops; null where it keeps no log. */
  readonly dmaLog: DmaLog | null;
}

const MIGRATION: Readonly<
  Record<number, (migration: VfioMigration, request: FeatureRequest) => FeatureAnswer>
> = {
  [VFIO_DEVICE_FEATURE_MIGRATION]: migrationFlags,
  [VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE]: deviceState,
  [VFIO_DEVICE_FEATURE_MIG_DATA_SIZE]: migrationDataSize,
};

const LOGGING: Readonly<Record<number, (log: DmaLog, request: FeatureRequest) => FeatureAnswer>> = {
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_START]: (log, request) => log.start(request),
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP]: (log, request) => log.stop(request),
  [VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT]: (log, request) => log.report(request),
};

/** `other` serves what is not of VFIO itself. */
export function deviceFeature(
  { version, migration, dmaLog }: FeaturedDevice,
  request: FeatureRequest,
  other: (request: FeatureRequest) => FeatureAnswer,
): FeatureAnswer {
  const { feature } = request;
  if (feature === VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 && version >= PRECOPY_INFO_V2_SINCE)
    return precopyInfoV2(migration, request);
  const migrate = MIGRATION[feature];
  if (migrate !== undefined)
    return migration === null ? fail(ENOTTY, 'the device cannot be migrated') : migrate(migration, request);
  const log = LOGGING[feature];
  if (log === undefined) return other(request);
  return dmaLog === null ? fail(ENOTTY, 'the device keeps no log of its DMA') : log(dmaLog, request);
}
