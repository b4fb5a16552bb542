import { Dice } from '../model/script/dice.ts';
import { Player } from '../transcripts/play.ts';
import { fieldScripts } from './fields.ts';
import { mutate } from './mutate.ts';
import { randomScript } from './random.ts';

// Scripts for a comparison with a real kernel.

export type Kind = 'random' | 'mutants' | 'fields';
export const KINDS: readonly Kind[] = ['random', 'mutants', 'fields'];

/** The runner's standard streams and the script that it reads. */
const FOREIGN_DESCRIPTORS = 4;

/** Throws where a step is about the runner's own files: what it gets is not iommufd's answer. */
class Checked extends Player {
  override step(line: string): void {
    const [kind, variable] = line.split(/\s+/);
    if (/^[RTZ]$/.test(kind!) && this.vars[Number(variable)]! < FOREIGN_DESCRIPTORS)
      throw new RangeError(`${line}: the descriptor is the runner's own`);
    super.step(line);
  }
}

function isFit(script: string): boolean {
  // IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT holds for the scripts behind it.
  if (/^I \d+ a0 .{8}09000000/m.test(script)) return false;
  const player = new Checked({});
  try {
    for (const line of script.split('\n')) if (line.trim() !== '') player.step(line.trimEnd());
    return true;
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}

function make(kind: Kind, seed: number, given: readonly string[]): string {
  if (kind === 'random') return randomScript(seed);
  const dice = new Dice(seed);
  return mutate(dice, dice.pick(given), dice.pick(given));
}

/**
 * At most `count` scripts: `random` ones of the model; `mutants` of `given`; or those of all `fields`, of which a seed
 * gives the order of the steps. Those that no kernel can answer are left out.
 */
export function scriptsOf(kind: Kind, seed: number, count: number, given: readonly string[]): string[] {
  const scripts =
    kind === 'fields'
      ? fieldScripts(seed).slice(0, count)
      : Array.from({ length: count }, (_, index) => make(kind, seed + index, given));
  return scripts.filter(isFit);
}
