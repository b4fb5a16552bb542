import type { Ioas } from '../iommufd/context.ts';
import type { Dice } from './dice.ts';
import { StructWriter, type Script } from './script.ts';

// What steps are made of: requests, and numbers that are mostly right.

export type Step = (script: Script, dice: Dice, slot: number) => void;

const PAGE = 4096n;
export const APERTURE = 1n << 24n;
const APERTURE_LAST = (1n << 31n) - 1n;
const ARENA_BYTES = 64n << 20n;
/** Most of what happens, happens here, so that mappings meet. */
const WINDOW_PAGES = 64;

/** IOMMU_TEST_CMD. */
export function testCommand(op: number): StructWriter {
  return new StructWriter(72).u32(4, op);
}

/** Writes the struct, once in a while spoilt. */
export function send(
  script: Script,
  dice: Dice,
  slot: number,
  command: number,
  struct: StructWriter,
  results: Parameters<Script['ioctl']>[3] = [],
): void {
  if (dice.once(40)) struct.spoil(dice);
  script.ioctl(slot, command, struct, results);
}

/** Bytes: mostly a few pages, at times parts of one, many or far too many. */
export function someLength(dice: Dice): bigint {
  if (!dice.once(6)) return BigInt(1 + dice.below(8)) * PAGE;
  if (dice.once(8)) return (1n << 21n) + BigInt(dice.below(1024)) * PAGE;
  return dice.weighted<() => bigint>([
    [12, () => BigInt(1 + dice.below(40)) * 2048n],
    [6, () => BigInt(1 + dice.below(3 * 4096))],
    [4, () => BigInt(1 + dice.below(64)) * PAGE],
    [2, () => 1n << BigInt(12 + dice.below(10))],
    [2, () => dice.u64()],
    [1, () => 0n],
  ])();
}

/** An offset in the arena, or beyond it. */
export function someOffset(dice: Dice): bigint {
  if (!dice.once(6)) return BigInt(dice.below(WINDOW_PAGES)) * PAGE;
  return dice.weighted<() => bigint>([
    [8, () => BigInt(dice.below(WINDOW_PAGES)) * PAGE + 2048n],
    [8, () => BigInt(dice.below(WINDOW_PAGES * 4096))],
    [8, () => BigInt(dice.below(16384)) * PAGE],
    [2, () => ARENA_BYTES - BigInt(dice.below(8)) * PAGE],
    [1, () => ARENA_BYTES + BigInt(dice.below(8)) * PAGE],
  ])();
}

/** An IOVA with respect to what an IOAS has. */
export function someIova(dice: Dice, ioas: Ioas | null): bigint {
  if (!dice.once(4)) return APERTURE + BigInt(dice.below(512)) * PAGE;
  const areas = ioas?.iopt.areas ?? [];
  const area = areas.length === 0 ? null : dice.pick(areas);
  const near = [
    () => area!.iova,
    () => area!.last + 1n,
    () => area!.iova + (((area!.last - area!.iova) / 2n) & ~(PAGE - 1n)),
    () => area!.iova + BigInt(dice.below(3)) * PAGE,
    () => area!.iova - BigInt(1 + dice.below(4)) * PAGE,
    () => area!.last,
  ];
  const value = dice.weighted<() => bigint>([
    [area === null ? 0 : 40, () => dice.pick(near)()],
    [6, () => APERTURE + BigInt(dice.below(256)) * 2048n],
    [3, () => APERTURE + BigInt(dice.below(1 << 20))],
    [3, () => APERTURE_LAST + 1n - BigInt(dice.below(8)) * PAGE],
    [3, () => APERTURE - BigInt(dice.below(8)) * PAGE],
    [2, () => BigInt(dice.below(16)) * PAGE],
    [2, () => dice.u64()],
  ])();
  return BigInt.asUintN(64, value);
}

/** The whole of an area, or something else. */
export function someRange(dice: Dice, ioas: Ioas | null): { iova: bigint; length: bigint } {
  const areas = ioas?.iopt.areas ?? [];
  if (areas.length > 0 && !dice.once(4)) {
    const index = dice.below(areas.length);
    const last = areas[Math.min(areas.length - 1, index + (dice.once(4) ? dice.below(3) : 0))]!;
    const iova = areas[index]!.iova;
    return { iova, length: last.last - iova + 1n };
  }
  return { iova: someIova(dice, ioas), length: someLength(dice) };
}

/** What an access would ask for: inside of areas, at times over their ends. */
export function somePart(dice: Dice, ioas: Ioas | null): { iova: bigint; length: bigint } {
  const { iova, length } = someRange(dice, ioas);
  if (dice.once(2) || length <= PAGE) return { iova, length };
  const skip = (length / BigInt(2 + dice.below(4))) & ~(dice.once(4) ? 0n : PAGE - 1n);
  const rest = length - skip;
  return { iova: BigInt.asUintN(64, iova + skip), length: dice.once(3) ? rest : rest < PAGE ? rest : PAGE };
}
