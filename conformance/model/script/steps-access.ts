import type { Ioas } from '../iommufd/context.ts';
import type { Dice } from './dice.ts';
import { StructWriter, type Reference, type Script } from './script.ts';
import { send, someLength, someOffset, somePart, testCommand, type Step } from './step.ts';

// Steps on accesses.

function createAccess(script: Script, dice: Dice, slot: number): void {
  if (script.live(slot, 'access-fd').length > 8) return;
  const struct = testCommand(5)
    .reference(8, script.reference(dice, slot, 'ioas'))
    .u32(
      20,
      dice.weighted([
        [8, 1],
        [4, 0],
        [1, 2],
      ]),
    );
  send(script, dice, slot, 0xa0, struct, [[16, 'access-fd']]);
}

/** A descriptor of an access and the IOAS behind it. */
function someAccess(script: Script, dice: Dice, slot: number): { reference: Reference; ioas: Ioas | null } {
  const reference = script.reference(dice, slot, 'access-fd');
  const fd = 'value' in reference ? reference.value : script.value(reference.variable);
  const file = script.model.machine.descriptors.get(fd);
  return { reference, ioas: file?.kind === 'access' ? file.access.ioas : null };
}

function syz(dice: Dice, struct: StructWriter, flagsAt: number, iovaAt: number, flags: number): void {
  if (!dice.once(16)) return;
  struct.u32(flagsAt, flags | (1 << 16));
  struct.u64(iovaAt, BigInt(dice.below(4)) | (BigInt(dice.below(2) * 4096) << 32n));
}

function accessPages(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = someAccess(script, dice, slot);
  const { iova, length } = somePart(dice, ioas);
  const flags = dice.weighted([
    [4, 0],
    [4, 1],
    [1, 2],
  ]);
  const struct = testCommand(7).reference(8, reference).u32(16, flags).u64(24, iova).u64(32, length);
  const area = ioas?.iopt.touching(iova, iova)[0];
  if (area?.pages.kind === 'user' && dice.once(3))
    struct.arena(
      40,
      BigInt.asUintN(64, area.pages.start + area.startByte + iova - area.iova - 0x2000_0000_0000n),
    );
  else if (dice.once(8)) struct.arena(40, someOffset(dice));
  syz(dice, struct, 16, 24, flags & 1);
  send(script, dice, slot, 0xa0, struct);
}

function destroyPages(script: Script, dice: Dice, slot: number): void {
  const { reference } = someAccess(script, dice, slot);
  send(script, dice, slot, 0xa0, testCommand(6).reference(8, reference).u32(16, dice.below(6)));
}

function accessRw(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = someAccess(script, dice, slot);
  const part = somePart(dice, ioas);
  const length = dice.once(24) ? someLength(dice) : part.length > 40000n ? 40000n : part.length;
  // What was unmapped is gone here, and in Linux it is not while it is pinned.
  const slow = script.lines.some((line) => line.startsWith('U')) ? 0 : 4;
  const flags = dice.weighted([
    [4, 0],
    [4, 1],
    [4, slow],
    [4, slow | 1],
    [1, 2],
  ]);
  const struct = testCommand(8)
    .reference(8, reference)
    .u64(16, BigInt.asUintN(64, part.iova + (dice.once(3) ? BigInt(dice.below(5000)) : 0n)))
    .u64(24, length)
    .u32(40, flags)
    .arena(32, BigInt(dice.below(64)) * 1024n + 0x240_0000n);
  if (dice.once(8)) struct.arena(32, someOffset(dice));
  syz(dice, struct, 40, 16, flags & 5);
  send(script, dice, slot, 0xa0, struct);
  script.add('D 2400000 4000');
  script.add('D 0 20000');
}

function replaceIoas(script: Script, dice: Dice, slot: number): void {
  const { reference } = someAccess(script, dice, slot);
  const struct = testCommand(11)
    .reference(8, reference)
    .reference(16, script.reference(dice, slot, 'ioas'));
  send(script, dice, slot, 0xa0, struct);
}

export const ACCESS_STEPS: readonly (readonly [number, string, Step])[] = [
  [18, 'create-access', createAccess],
  [36, 'access-pages', accessPages],
  [10, 'destroy-pages', destroyPages],
  [36, 'access-rw', accessRw],
  [12, 'replace-ioas', replaceIoas],
];
