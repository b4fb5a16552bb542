import type { Ioas } from '../iommufd/context.ts';
import type { Dice } from './dice.ts';
import { StructWriter, type Reference, type Script } from './script.ts';
import { send, somePart, someRange, testCommand, type Step } from './step.ts';

// Steps on dirty tracking.

function dirtyHwpt(script: Script, dice: Dice, slot: number): { reference: Reference; ioas: Ioas | null } {
  const dirty = script.liveWhere(slot, 'hwpt-paging', ({ domain }) => domain.dirtyOps);
  const reference =
    dirty.length > 0 && !dice.once(8)
      ? { variable: dice.pick(dirty) }
      : script.reference(dice, slot, 'hwpt-paging');
  return { reference, ioas: script.resolve(slot, reference, 'hwpt-paging')?.ioas ?? null };
}

/** A domain that tracks what is written. */
function trackedHwpt(script: Script, dice: Dice, slot: number): { reference: Reference; ioas: Ioas | null } {
  const tracked = (): number[] => script.liveWhere(slot, 'hwpt-paging', ({ domain }) => domain.tracking);
  if (tracked().length === 0) {
    const { reference } = dirtyHwpt(script, dice, slot);
    script.ioctl(slot, 0x8b, new StructWriter(16).u32(4, 1).reference(8, reference));
  }
  const hwpts = tracked();
  if (hwpts.length === 0 || dice.once(8)) return dirtyHwpt(script, dice, slot);
  const reference = { variable: dice.pick(hwpts) };
  return { reference, ioas: script.resolve(slot, reference, 'hwpt-paging')?.ioas ?? null };
}

function setTracking(script: Script, dice: Dice, slot: number): void {
  const { reference } = dirtyHwpt(script, dice, slot);
  const struct = new StructWriter(16)
    .u32(
      4,
      dice.weighted([
        [8, 1],
        [2, 0],
        [1, 2],
      ]),
    )
    .reference(8, reference);
  send(script, dice, slot, 0x8b, struct);
}

function setDirty(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = trackedHwpt(script, dice, slot);
  const buffer = dice.below(8);
  script.add(
    `A ${buffer} ${Array.from({ length: 4 }, () => dice.u32().toString(16).padStart(8, '0')).join('')}`,
  );
  const pageSize = dice.weighted([
    [6, 4096n],
    [4, 2048n],
    [1, 1n],
    [1, 65536n],
    [1, 3000n],
    [1, dice.u64()],
  ]);
  const { iova, length } = someRange(dice, ioas);
  const struct = testCommand(13)
    .reference(8, reference)
    .u64(24, iova)
    .u64(32, dice.once(4) ? pageSize * BigInt(1 + dice.below(128)) : length)
    .u64(40, pageSize)
    .buffer(48, buffer);
  if (struct.line(0, 0).length > 0 && length / (pageSize === 0n ? 1n : pageSize) > 1n << 19n)
    struct.u64(32, pageSize);
  send(script, dice, slot, 0xa0, struct);
}

function getDirty(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = dirtyHwpt(script, dice, slot);
  const buffer = dice.below(7);
  script.add(`A ${buffer} 00`);
  const { iova, length } = dice.once(3) ? somePart(dice, ioas) : someRange(dice, ioas);
  const struct = new StructWriter(48)
    .reference(4, reference)
    .u32(
      8,
      dice.weighted([
        [3, 0],
        [3, 1],
        [1, 2],
      ]),
    )
    .u64(16, iova)
    .u64(24, length)
    .u64(
      32,
      dice.weighted([
        [6, 4096n],
        [4, 2048n],
        [1, 1n],
        [1, 512n],
        [1, 8192n],
        [1, 65536n],
        [1, 3000n],
        [1, dice.u64()],
      ]),
    )
    .buffer(40, buffer);
  if (dice.once(32)) struct.u64(40, dice.u64());
  send(script, dice, slot, 0x8c, struct);
  script.add(`O ${buffer} 128`);
}

export const DIRTY_STEPS: readonly (readonly [number, string, Step])[] = [
  [12, 'set-tracking', setTracking],
  [20, 'set-dirty', setDirty],
  [20, 'get-dirty', getDirty],
];
