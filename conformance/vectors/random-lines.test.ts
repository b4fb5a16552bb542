import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { dice } from '../dice.mjs';
import * as amdDifferences from './amd-differences.ts';
import type { AmdLine } from './amd-reference.ts';
import { amd } from './amd.ts';
import * as amdRecorder from './record/amd.mjs';
import * as vtdRecorder from './record/vtd.mjs';
import { Layout } from './record/words.mjs';
import * as vtdDifferences from './vtd-differences.ts';
import { vtd } from './vtd.ts';
import type { VtdLine } from './vtd-reference.ts';

// Lines that nobody recorded: the models against what amd-reference.ts and vtd-reference.ts read from them.

const LINES = 1000;

/** Lines of a file by the part that they are of: the first of each is its head. */
function parts(recording: string): Record<string, unknown>[][] {
  const text = readFileSync(new URL(`../data/vectors/${recording}.jsonl`, import.meta.url), 'utf8');
  const found: Record<string, unknown>[][] = [];
  for (const each of text.trim().split('\n')) {
    const line = JSON.parse(each) as Record<string, unknown>;
    if (line['model'] === undefined) found.at(-1)!.push(line);
    else found.push([line]);
  }
  return found;
}

const seed = Math.floor(Math.random() * 2 ** 31);

describe('random lines', () => {
  it(`come out as the specification has them on the AMD model (seed ${seed})`, () => {
    const [head] = parts('amd-qemu-11.1')[0]!;
    const run = amd.open(head!);
    for (let i = 0; i < LINES; i++) {
      const random = dice(seed + i);
      const line = amdRecorder.line(random, new Layout(random));
      const specified = amdDifferences.specified(line as unknown as AmdLine);
      const { got } = run({ ...line, qemu: specified });
      expect({ i, line, got }).toEqual({ i, line, got: specified });
    }
  });

  it.each([0, 1])(
    `come out as the specification has them on the VT-d model, mode %i (seed ${seed})`,
    (mode) => {
      const [head] = parts('vtd-qemu-11.1')[mode]!;
      const run = vtd.open(head!);
      const machine = vtdRecorder.machines[mode]!;
      for (let i = 0; i < LINES; i++) {
        const random = dice(seed + i);
        const line = vtdRecorder.line(random, new Layout(random), machine);
        const specified = vtdDifferences.specified(line as unknown as VtdLine);
        const { got } = run({ ...line, qemu: specified });
        expect({ i, line, got }).toEqual({ i, line, got: specified });
      }
    },
  );
});

describe.each([
  { name: 'amd', vendor: amd, classify: amdDifferences.classify },
  { name: 'vtd', vendor: vtd, classify: vtdDifferences.classify },
])('the differences of $name', ({ name, vendor, classify }) => {
  it('explain nothing where either answer is another than its rules give', () => {
    let seen = 0;
    for (const [head, ...lines] of parts(`${name}-more-qemu-11.1`)) {
      const run = vendor.open(head!);
      for (const line of lines) {
        const { expected, got } = run(line) as unknown as Record<'expected' | 'got', amdDifferences.Seen>;
        const changed = (answer: amdDifferences.Seen): amdDifferences.Seen[] => [
          { ...answer, landed: !answer.landed },
          { ...answer, events: [...answer.events, '0'.repeat(32)] },
          { ...answer, events: answer.events.map((event) => event.replace(/^./, 'f')) },
        ];
        const explain = (qemu: amdDifferences.Seen, ours: amdDifferences.Seen): readonly string[] =>
          classify(qemu, ours, line as unknown as AmdLine & VtdLine);
        expect(explain(expected, got)).not.toEqual([]);
        for (const other of changed(got)) {
          if (JSON.stringify(other) !== JSON.stringify(got)) expect(explain(expected, other)).toEqual([]);
        }
        for (const other of changed(expected)) {
          if (JSON.stringify(other) !== JSON.stringify(expected)) expect(explain(other, got)).toEqual([]);
        }
        seen++;
      }
    }
    expect(seen).toBeGreaterThan(0);
  });
});
