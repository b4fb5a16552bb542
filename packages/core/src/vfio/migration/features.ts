import { fail, failed, type Result } from '../../base/result.ts';
import { EFAULT, EINVAL } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_MIGRATION_PRE_COPY,
  vfio_device_feature_mig_data_size,
  vfio_device_feature_mig_state,
  vfio_device_feature_migration,
} from '../../abi/vfio.ts';
import { big } from '../../base/u64.ts';
import type { OpenFile } from '../../memory/file.ts';
import {
  checkFeature,
  readFeatureData,
  writeFeatureData,
  type FeatureAnswer,
  type FeatureRequest,
} from '../feature.ts';
import type { VfioMigration } from './migration.ts';

// drivers/vfio/vfio_main.c: the features of a device that can be migrated.

/** vfio_ioctl_device_feature_migration() */
export function migrationFlags({ flags }: VfioMigration, request: FeatureRequest): FeatureAnswer {
  const layout = vfio_device_feature_migration;
  const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_GET, layout.size);
  if (failed(carryOut)) return carryOut;
  if (!carryOut) return;
  const bytes = new Uint8Array(layout.size);
  layout.write(bytes, 0, { flags: big(flags) });
  return writeFeatureData(request, bytes);
}

/** vfio_ioctl_device_feature_migration_data_size() */
export function migrationDataSize(migration: VfioMigration, request: FeatureRequest): FeatureAnswer {
  const layout = vfio_device_feature_mig_data_size;
  const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_GET, layout.size);
  if (failed(carryOut)) return carryOut;
  if (!carryOut) return;
  const bytes = new Uint8Array(layout.size);
  layout.write(bytes, 0, { stop_copy_length: migration.stopCopyLength });
  return writeFeatureData(request, bytes);
}

/** vfio_ioctl_device_feature_migration_precopy_info_v2() */
export function precopyInfoV2(migration: VfioMigration | null, request: FeatureRequest): FeatureAnswer {
  if (migration === null || (migration.flags & VFIO_MIGRATION_PRE_COPY) === 0)
    return fail(EINVAL, 'the device has no pre-copy');
  const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_SET, 0);
  if (failed(carryOut)) return carryOut;
  if (carryOut) migration.infoV2 = true;
}

/** vfio_ioctl_device_feature_mig_device_state() */
export function deviceState(migration: VfioMigration, request: FeatureRequest): FeatureAnswer {
  const layout = vfio_device_feature_mig_state;
  const carryOut = checkFeature(request, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET, layout.size);
  if (failed(carryOut)) return carryOut;
  if (!carryOut) return;
  const bytes = readFeatureData(request, layout.size);
  if (failed(bytes)) return bytes;
  const asked = layout.read(bytes);
  if ((request.flags & VFIO_DEVICE_FEATURE_GET) !== 0) return answer(request, migration.state, -1);
  const opened = migration.setState(asked.device_state);
  if (!failed(opened) && opened !== null) return returnFd(request, asked.device_state, opened);
  const told = answer(request, asked.device_state, -1);
  return failed(told) || !failed(opened) ? told : opened;
}

function answer(request: FeatureRequest, device_state: number, data_fd: number): Result<void> {
  const layout = vfio_device_feature_mig_state;
  const bytes = new Uint8Array(layout.size);
  layout.write(bytes, 0, { device_state, data_fd });
  return writeFeatureData(request, bytes);
}

// vfio_ioct_mig_return_fd(): where the descriptor cannot be told, the file is closed and the state stays.
function returnFd(request: FeatureRequest, state: number, file: OpenFile): Result<void> {
  const { process } = request.task;
  // A descriptor that was installed cannot be taken back, so it is asked first whether it can be told.
  if (failed(answer(request, state, -1))) {
    file.release();
    return fail(EFAULT, 'data_fd cannot be written');
  }
  const fd = process.install(file, { closeOnExec: true });
  if (failed(fd)) {
    file.release();
    return fd;
  }
  return answer(request, state, fd);
}
