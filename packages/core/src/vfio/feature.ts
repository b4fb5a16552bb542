import { fail, failed, type Result } from '../base/result.ts';
import { big } from '../base/u64.ts';
import { EFAULT, EINVAL } from '../abi/errno.ts';
import {
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  vfio_device_feature,
} from '../abi/vfio.ts';
import type { Task } from '../memory/process.ts';
import { readPart } from './user-struct.ts';

// What every VFIO_DEVICE_FEATURE has in common: drivers/vfio/vfio_main.c vfio_ioctl_device_feature() and
// include/linux/vfio.h vfio_check_feature().

const BOTH = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;

/** A request whose own flags are right. */
export interface FeatureRequest {
  readonly task: Task;
  /** VFIO_DEVICE_FEATURE_GET, _SET and _PROBE. */
  readonly flags: number;
  /** Which one: VFIO_DEVICE_FEATURE_MASK. */
  readonly feature: number;
  /** Where the feature's own struct is, and how much room the program says there is for it. */
  readonly at: bigint;
  readonly bytes: number;
}

/** Serves a feature: what the ioctl answers, 0 where nothing. */
export type FeatureAnswer = Result<number | void>;

/** The head of the request: EINVAL for flags that are unknown or contradict each other. */
export function readFeature(task: Task, arg: bigint): Result<FeatureRequest> {
  const { size } = vfio_device_feature;
  const head = readPart(task.process.memory, arg, size, size);
  if (failed(head)) return head;
  const { argsz, flags } = vfio_device_feature.read(head);
  if (argsz < size) return fail(EINVAL, 'argsz is too small');
  if ((flags & ~(VFIO_DEVICE_FEATURE_MASK | BOTH | VFIO_DEVICE_FEATURE_PROBE)) !== 0)
    return fail(EINVAL, 'flags are unknown');
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) === 0 && (flags & BOTH) === BOTH)
    return fail(EINVAL, 'get and set at once');
  const feature = flags & VFIO_DEVICE_FEATURE_MASK;
  return { task, flags, feature, at: arg + big(size), bytes: argsz - size };
}

/** vfio_check_feature(): true where the request is to be carried out, false where it was only asked about. */
export function checkFeature(
  { flags, bytes }: FeatureRequest,
  supported: number,
  minsz: number,
): Result<boolean> {
  if ((flags & BOTH & ~supported) !== 0) return fail(EINVAL, 'the feature cannot be got, or not be set');
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return false;
  if ((flags & BOTH) === 0) return fail(EINVAL, 'neither get nor set');
  return bytes < minsz ? fail(EINVAL, 'argsz has no room for the feature') : true;
}

/** Copies the feature's own struct in. */
export function readFeatureData({ task, at }: FeatureRequest, bytes: number): Result<Uint8Array> {
  return readPart(task.process.memory, at, bytes, bytes);
}

/** Copies it out. */
export function writeFeatureData({ task, at }: FeatureRequest, bytes: Uint8Array): Result<void> {
  if (!task.process.memory.write(at, bytes)) return fail(EFAULT, 'the feature cannot be written');
}
