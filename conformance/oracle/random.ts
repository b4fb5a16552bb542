import { Dice } from '../model/script/dice.ts';
import { Run, THEMES_COUNT } from '../model/run.ts';

// Random scripts of the model, written without asking viommu.

class Writer extends Run {
  protected override take(line: string): void {
    this.script.model.step(line);
  }

  protected override stateDifference(): null {
    return null;
  }

  protected override checkLeaks(): void {}
}

/** A script that the seed stands for. */
export function randomScript(seed: number): string {
  const dice = new Dice(seed);
  const writer = new Writer(dice.below(THEMES_COUNT));
  const steps = 40 + dice.below(120);
  for (let i = 0; i < steps; i++) writer.step({ choice: dice.u32(), seed: dice.u32() });
  writer.end();
  return `${writer.script.lines.join('\n')}\n`;
}
