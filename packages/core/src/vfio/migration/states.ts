import { fail, type Result } from '../../base/result.ts';
import { EINVAL } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_NR,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
} from '../../abi/vfio.ts';

// The states of a device that migrates, and the way from one to another: include/uapi/linux/vfio.h enum
// vfio_device_mig_state, and drivers/vfio/vfio_main.c vfio_mig_get_next_state().

const ERROR = VFIO_DEVICE_STATE_ERROR;
const STOP = VFIO_DEVICE_STATE_STOP;
const RUNNING = VFIO_DEVICE_STATE_RUNNING;
const STOP_COPY = VFIO_DEVICE_STATE_STOP_COPY;
const RESUMING = VFIO_DEVICE_STATE_RESUMING;
const P2P = VFIO_DEVICE_STATE_RUNNING_P2P;
const PRE_COPY = VFIO_DEVICE_STATE_PRE_COPY;
const PRE_COPY_P2P = VFIO_DEVICE_STATE_PRE_COPY_P2P;

/** What a device does in a state, beside the transfer of what it holds inside. */
export type Activity = 'running' | 'p2p' | 'stopped';

/** By state, the first step towards each other one where a device has them all; what is not named is ERROR. */
const STEPS: Readonly<Record<number, Readonly<Record<number, number>>>> = {
  [STOP]: {
    [STOP]: STOP,
    [RUNNING]: P2P,
    [STOP_COPY]: STOP_COPY,
    [RESUMING]: RESUMING,
    [P2P]: P2P,
    [PRE_COPY]: P2P,
    [PRE_COPY_P2P]: P2P,
  },
  [RUNNING]: {
    [STOP]: P2P,
    [RUNNING]: RUNNING,
    [STOP_COPY]: P2P,
    [RESUMING]: P2P,
    [P2P]: P2P,
    [PRE_COPY]: PRE_COPY,
    [PRE_COPY_P2P]: P2P,
  },
  [STOP_COPY]: { [STOP]: STOP, [RUNNING]: STOP, [STOP_COPY]: STOP_COPY, [RESUMING]: STOP, [P2P]: STOP },
  [RESUMING]: {
    [STOP]: STOP,
    [RUNNING]: STOP,
    [STOP_COPY]: STOP,
    [RESUMING]: RESUMING,
    [P2P]: STOP,
    [PRE_COPY]: STOP,
    [PRE_COPY_P2P]: STOP,
  },
  [P2P]: {
    [STOP]: STOP,
    [RUNNING]: RUNNING,
    [STOP_COPY]: STOP,
    [RESUMING]: STOP,
    [P2P]: P2P,
    [PRE_COPY]: RUNNING,
    [PRE_COPY_P2P]: PRE_COPY_P2P,
  },
  [PRE_COPY]: {
    [STOP]: RUNNING,
    [RUNNING]: RUNNING,
    [STOP_COPY]: PRE_COPY_P2P,
    [RESUMING]: RUNNING,
    [P2P]: RUNNING,
    [PRE_COPY]: PRE_COPY,
    [PRE_COPY_P2P]: PRE_COPY_P2P,
  },
  [PRE_COPY_P2P]: {
    [STOP]: P2P,
    [RUNNING]: P2P,
    [STOP_COPY]: STOP_COPY,
    [RESUMING]: P2P,
    [P2P]: P2P,
    [PRE_COPY]: PRE_COPY,
    [PRE_COPY_P2P]: PRE_COPY_P2P,
  },
};

/** Whether a device with these flags (VFIO_MIGRATION_*) has a state. */
export function hasState(flags: number, state: number): boolean {
  if (state < 0 || state >= VFIO_DEVICE_STATE_NR || state === ERROR) return false;
  if ((state === P2P || state === PRE_COPY_P2P) && (flags & VFIO_MIGRATION_P2P) === 0) return false;
  return (state !== PRE_COPY && state !== PRE_COPY_P2P) || (flags & VFIO_MIGRATION_PRE_COPY) !== 0;
}

/** The next step from a state towards another: EINVAL where there is no way, or no such state. */
export function nextState(flags: number, state: number, target: number): Result<number> {
  if (!hasState(flags, target)) return fail(EINVAL, `the device has no state ${target}`);
  let next = STEPS[state]?.[target] ?? ERROR;
  while (next !== ERROR && !hasState(flags, next)) next = STEPS[next]?.[target] ?? ERROR;
  return next === ERROR ? fail(EINVAL, `there is no way from state ${state} to ${target}`) : next;
}

export function activityOf(state: number): Activity {
  if (state === RUNNING || state === PRE_COPY) return 'running';
  return state === P2P || state === PRE_COPY_P2P ? 'p2p' : 'stopped';
}

/** The states that share a descriptor from which the device's inside is read. */
export function isSaving(state: number): boolean {
  return state === PRE_COPY || state === PRE_COPY_P2P || state === STOP_COPY;
}
