import { describe, expect, test } from 'vitest';
import { EINVAL } from '../../abi/errno.ts';
import {
  VFIO_DEVICE_STATE_ERROR as ERROR,
  VFIO_DEVICE_STATE_NR,
  VFIO_DEVICE_STATE_PRE_COPY as PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P as PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING as RESUMING,
  VFIO_DEVICE_STATE_RUNNING as RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P as P2P,
  VFIO_DEVICE_STATE_STOP as STOP,
  VFIO_DEVICE_STATE_STOP_COPY as STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../abi/vfio.ts';
import { failed } from '../../base/result.ts';
import { hasState, isSaving, nextState } from './states.ts';

/** The arcs that include/uapi/linux/vfio.h describes for a device with all states. */
const ARCS: readonly (readonly [number, number])[] = [
  [RESUMING, STOP],
  [STOP, RESUMING],
  [STOP, STOP_COPY],
  [STOP_COPY, STOP],
  [RUNNING, P2P],
  [P2P, RUNNING],
  [P2P, STOP],
  [STOP, P2P],
  [RUNNING, PRE_COPY],
  [PRE_COPY, RUNNING],
  [PRE_COPY, PRE_COPY_P2P],
  [PRE_COPY_P2P, PRE_COPY],
  [PRE_COPY_P2P, P2P],
  [PRE_COPY_P2P, STOP_COPY],
  [P2P, PRE_COPY_P2P],
];
const STATES = [STOP, RUNNING, STOP_COPY, RESUMING, P2P, PRE_COPY, PRE_COPY_P2P];
const ALL = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;

/** The states that are passed on the way; null where there is no way. */
function walk(flags: number, from: number, to: number): number[] | null {
  const path: number[] = [];
  for (let state = from; state !== to;) {
    const next = nextState(flags, state, to);
    if (failed(next)) return null;
    path.push(next);
    state = next;
    expect(path.length).toBeLessThan(6);
  }
  return path;
}

/** How many arcs the shortest way has that passes no saving state. */
function shortest(from: number, to: number): number {
  const reached = new Map([[from, 0]]);
  for (let round = 0; round < STATES.length; round++)
    for (const [a, b] of ARCS) {
      const steps = reached.get(a);
      if (steps === undefined || (a !== from && isSaving(a))) continue;
      if (!reached.has(b) || reached.get(b)! > steps + 1) reached.set(b, steps + 1);
    }
  return reached.get(to) ?? Infinity;
}

describe('the way from a state to another', () => {
  test('is made of the arcs there are, and is the shortest that passes no saving state', () => {
    for (const from of STATES)
      for (const to of STATES) {
        const path = walk(ALL, from, to);
        const blocked = from === STOP_COPY && (to === PRE_COPY || to === PRE_COPY_P2P);
        if (blocked) {
          expect(path).toBeNull();
          continue;
        }
        expect(path).not.toBeNull();
        for (const [index, state] of path!.entries())
          expect(ARCS).toContainEqual([index === 0 ? from : path![index - 1], state]);
        // From a saving state to another one the way is within the transfer.
        if (isSaving(from) && isSaving(to)) continue;
        expect(path!.length).toBe(from === to ? 0 : shortest(from, to));
        expect(path!.slice(0, -1).some(isSaving)).toBe(false);
      }
  });

  test('leaves out what a device does not have', () => {
    const least = VFIO_MIGRATION_STOP_COPY;
    expect(walk(least, RUNNING, STOP_COPY)).toEqual([STOP, STOP_COPY]);
    expect(walk(least, STOP_COPY, RUNNING)).toEqual([STOP, RUNNING]);
    expect(walk(least, RESUMING, RUNNING)).toEqual([STOP, RUNNING]);
    const preCopy = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY;
    expect(walk(preCopy, PRE_COPY, STOP_COPY)).toEqual([STOP_COPY]);
    expect(walk(preCopy, RUNNING, PRE_COPY)).toEqual([PRE_COPY]);
    expect(walk(preCopy, PRE_COPY, STOP)).toEqual([RUNNING, STOP]);
    const p2p = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P;
    expect(walk(p2p, RUNNING, STOP_COPY)).toEqual([P2P, STOP, STOP_COPY]);
  });

  test('does not lead to a state that is not there, nor to or from ERROR', () => {
    const einval = expect.objectContaining({ errno: EINVAL });
    for (const flags of [VFIO_MIGRATION_STOP_COPY, VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY])
      for (const state of [P2P, PRE_COPY_P2P]) expect(nextState(flags, RUNNING, state)).toEqual(einval);
    for (const state of [ERROR, VFIO_DEVICE_STATE_NR, 0xffff_ffff])
      expect(nextState(ALL, RUNNING, state)).toEqual(einval);
    for (const state of STATES) expect(nextState(ALL, ERROR, state)).toEqual(einval);
    expect(hasState(ALL, ERROR)).toBe(false);
  });
});
