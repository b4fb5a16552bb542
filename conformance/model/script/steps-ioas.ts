import type { Ioas } from '../iommufd/context.ts';
import type { Dice } from './dice.ts';
import { Script, StructWriter, type Reference } from './script.ts';
import { APERTURE, send, someIova, someLength, someOffset, somePart, someRange, type Step } from './step.ts';

// Steps that fill, copy, empty and look at IOAS.

const PAGE = 4096n;
const BUFFERS = 8;

function mapFlags(dice: Dice): number {
  return dice.weighted([
    [50, 6],
    [70, 7],
    [8, 5],
    [2, 4],
    [2, 3],
    [1, 2],
    [1, 1],
    [1, 0],
    [1, 8 + dice.below(248)],
  ]);
}

function target(script: Script, dice: Dice, slot: number): { reference: Reference; ioas: Ioas | null } {
  const reference = script.reference(dice, slot, 'ioas');
  return { reference, ioas: script.resolve(slot, reference, 'ioas') };
}

function ioasAlloc(script: Script, dice: Dice, slot: number): void {
  const struct = new StructWriter(12).u32(4, dice.once(32) ? 1 : 0);
  send(script, dice, slot, 0x81, struct, [[8, 'ioas']]);
}

function map(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = target(script, dice, slot);
  const struct = new StructWriter(40)
    .u32(4, mapFlags(dice))
    .reference(8, reference)
    .u64(24, someLength(dice))
    .u64(32, someIova(dice, ioas));
  if (dice.once(64)) struct.u64(16, dice.u64());
  else struct.arena(16, someOffset(dice));
  send(script, dice, slot, 0x85, struct);
}

function mapFile(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = target(script, dice, slot);
  const struct = new StructWriter(40)
    .u32(4, mapFlags(dice))
    .reference(8, reference)
    .u64(
      16,
      dice.weighted([
        [8, BigInt(dice.below(16)) * PAGE],
        [2, BigInt(dice.below(65536))],
        [1, dice.u64()],
      ]),
    )
    .u64(24, someLength(dice))
    .u64(32, someIova(dice, ioas));
  const dmabufs = [...script.model.machine.descriptors].filter(([, file]) => file.kind === 'dmabuf');
  if (dmabufs.length > 0 && dice.once(3))
    struct.u32(12, dice.pick(dmabufs)[0]).u64(16, BigInt(dice.below(4)) * PAGE);
  else if (dice.once(12)) struct.u32(12, dice.pick([0, 3, 4, 5, 6, 7, 999, 0xffff_ffff]));
  else struct.memfd(12, dice.below(3));
  // Large leaf entries: whole aligned blocks of a file.
  if (dice.once(3)) {
    const bytes = 1n << BigInt(13 + dice.below(9));
    struct
      .u64(16, 0n)
      .u64(24, bytes)
      .u64(32, APERTURE + bytes * BigInt(dice.below(8)));
  }
  send(script, dice, slot, 0x8f, struct);
}

function copy(script: Script, dice: Dice, slot: number): void {
  const source = target(script, dice, slot);
  const destination = target(script, dice, slot);
  const { iova, length } = somePart(dice, source.ioas);
  const struct = new StructWriter(40)
    .u32(4, mapFlags(dice) | (dice.once(16) ? 1 << 16 : 0))
    .reference(8, destination.reference)
    .reference(12, source.reference)
    .u64(16, length)
    .u64(24, someIova(dice, destination.ioas))
    .u64(32, iova);
  if (dice.once(16))
    struct.u32(4, (1 << 16) | 6).u64(32, BigInt(dice.below(4)) | (BigInt(dice.below(2)) << 44n));
  send(script, dice, slot, 0x83, struct);
}

function unmap(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = target(script, dice, slot);
  const { iova, length } = dice.once(24) ? { iova: 0n, length: (1n << 64n) - 1n } : someRange(dice, ioas);
  send(script, dice, slot, 0x86, new StructWriter(24).reference(4, reference).u64(8, iova).u64(16, length));
}

function iovaRanges(script: Script, dice: Dice, slot: number): void {
  const { reference } = target(script, dice, slot);
  const buffer = dice.below(BUFFERS);
  const struct = new StructWriter(32)
    .reference(4, reference)
    .u32(
      8,
      dice.weighted([
        [8, 8],
        [2, dice.below(4)],
        [1, 1000],
        [1, 0xffff_ffff],
      ]),
    )
    .buffer(16, buffer);
  if (dice.once(40)) struct.u64(16, dice.u64());
  send(script, dice, slot, 0x84, struct);
  script.add(`O ${buffer} 128`);
}

function allowIovas(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = target(script, dice, slot);
  const buffer = dice.below(BUFFERS);
  const count = dice.below(4);
  const ranges = new StructWriter(64);
  for (let i = 0; i < 4; i++) {
    const start = dice.once(16) ? dice.u64() : someIova(dice, ioas);
    const length = dice.weighted<() => bigint>([
      [8, () => BigInt(1 + dice.below(64)) * PAGE],
      [2, () => someLength(dice)],
      [1, () => 1n],
    ])();
    ranges.u64(i * 16, start).u64(i * 16 + 8, BigInt.asUintN(64, start + length - 1n));
  }
  script.add(`A ${buffer} ${ranges.line(0, 0).split(' ')[3]}`);
  const struct = new StructWriter(24).reference(4, reference).u32(8, count).buffer(16, buffer);
  if (dice.once(40)) struct.u32(8, dice.u32());
  send(script, dice, slot, 0x82, struct);
}

function addReserved(script: Script, dice: Dice, slot: number): void {
  const { reference, ioas } = target(script, dice, slot);
  const struct = new StructWriter(72).u32(4, 1).reference(8, reference);
  const length = dice.once(4) ? someLength(dice) : PAGE * BigInt(1 + dice.below(4));
  send(script, dice, slot, 0xa0, struct.u64(16, someIova(dice, ioas)).u64(24, length));
}

function option(script: Script, dice: Dice, slot: number): void {
  const struct = new StructWriter(24)
    .u32(
      4,
      dice.weighted([
        [2, 0],
        [8, 1],
        [1, 2],
      ]),
    )
    .u16(
      8,
      dice.weighted([
        [8, 0],
        [4, 1],
        [1, 2],
      ]),
    )
    .u64(
      16,
      dice.weighted([
        [4, 0n],
        [4, 1n],
        [1, 2n],
      ]),
    );
  if (dice.once(3)) struct.u32(12, 0);
  else struct.reference(12, target(script, dice, slot).reference);
  if (dice.once(40)) struct.u16(10, 1);
  send(script, dice, slot, 0x87, struct);
}

function changeProcess(script: Script, dice: Dice, slot: number): void {
  send(script, dice, slot, 0x92, new StructWriter(8));
}

// VFIO's container

function vfioIoas(script: Script, dice: Dice, slot: number): void {
  const struct = new StructWriter(12).reference(4, target(script, dice, slot).reference).u16(
    8,
    dice.weighted([
      [8, 1],
      [3, 0],
      [1, 2],
      [1, 3],
    ]),
  );
  send(script, dice, slot, 0x88, struct);
}

/** The IOAS of the container, most often one that allows unmapping in the middle. */
function container(script: Script, dice: Dice, slot: number): Ioas | null {
  const context = script.context(slot);
  if (context === null) return null;
  if (context.vfioIoas === null && !dice.once(8)) {
    const { reference } = target(script, dice, slot);
    script.ioctl(slot, 0x88, new StructWriter(12).reference(4, reference).u16(8, 1));
    if (!dice.once(3)) script.add(`V ${slot} 66 1`);
  }
  return context.vfioIoas;
}

function vfioMap(script: Script, dice: Dice, slot: number): void {
  const ioas = container(script, dice, slot);
  const struct = new StructWriter(32)
    .u32(
      4,
      dice.weighted([
        [8, 3],
        [2, 1],
        [1, 2],
        [1, 0],
        [1, 4],
      ]),
    )
    .arena(8, someOffset(dice))
    .u64(16, someIova(dice, ioas))
    .u64(24, someLength(dice));
  send(script, dice, slot, 0x71, struct);
}

function vfioUnmap(script: Script, dice: Dice, slot: number): void {
  const ioas = container(script, dice, slot);
  const { iova, length } = dice.once(3) ? somePart(dice, ioas) : someRange(dice, ioas);
  const struct = new StructWriter(24).u64(8, iova).u64(16, length);
  if (dice.once(8)) struct.u32(4, 2).u64(8, 0n).u64(16, 0n);
  else if (dice.once(16)) struct.u32(4, dice.below(8));
  send(script, dice, slot, 0x72, struct);
}

function vfioInfo(script: Script, dice: Dice, slot: number): void {
  container(script, dice, slot);
  const sizes = [16, 20, 24, 35, 36, 39, 40, 41, 44, 55, 56, 64, 71, 72, 88, 104, 120, 160];
  const struct = new StructWriter(192).u32(0, dice.pick(sizes));
  if (dice.once(16)) struct.u32(0, dice.pick([0, 4, 15, 0xffff_ffff]));
  script.ioctl(slot, 0x70, struct);
}

function vfioOther(script: Script, dice: Dice, slot: number): void {
  switch (dice.below(4)) {
    case 0:
      return script.add(`V ${slot} 64 0`);
    case 1:
      return script.add(`V ${slot} 65 ${dice.below(12)}`);
    case 2:
      return script.add(`V ${slot} 66 ${dice.pick([1, 1, 3, 0, 8])}`);
    default:
      return script.add(`V ${slot} ${(0x60 + dice.below(0x20)).toString(16)} ${dice.pick([0, 1, 4096])}`);
  }
}

export const IOAS_STEPS: readonly (readonly [number, string, Step])[] = [
  [30, 'ioas-alloc', ioasAlloc],
  [140, 'map', map],
  [40, 'map-file', mapFile],
  [60, 'copy', copy],
  [50, 'unmap', unmap],
  [16, 'iova-ranges', iovaRanges],
  [12, 'allow-iovas', allowIovas],
  [12, 'add-reserved', addReserved],
  [24, 'option', option],
  [4, 'change-process', changeProcess],
  [10, 'vfio-ioas', vfioIoas],
  [14, 'vfio-map', vfioMap],
  [14, 'vfio-unmap', vfioUnmap],
  [8, 'vfio-info', vfioInfo],
  [8, 'vfio-other', vfioOther],
];
