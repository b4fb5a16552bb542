import { readdirSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { firstDifference, transcriptLines } from '../transcripts/compare.mjs';
import { ModelPlayer } from './player.ts';
import { Run, THEMES_COUNT } from './run.ts';

const LONG = process.env['VIOMMU_LONG'] !== undefined;
const SCRIPT_STEPS_MAX = 240;
const STEPS_MIN = LONG ? 1_000_000 : 15_000;
const RUNS = STEPS_MIN / 50;

const DATA = new URL('../data/transcripts/', import.meta.url);

describe('the model', () => {
  test('answers the recorded scripts as Linux 7.3 did', () => {
    for (const file of readdirSync(new URL('scripts', DATA))) {
      const script = readFileSync(new URL(`scripts/${file}`, DATA), 'utf8');
      const player = new ModelPlayer();
      const lines = script.split('\n').filter((line) => line.trim() !== '');
      const got = lines.map((line) => player.step(line)).filter((line) => line !== null);
      const want = transcriptLines(
        readFileSync(new URL(`linux-7.3/${file.replace(/\.s$/, '.out')}`, DATA), 'utf8'),
      );
      expect([file, firstDifference(script, want, got)]).toEqual([file, null]);
    }
  });
});

const u32 = fc.noShrink(fc.nat({ max: 0xffff_ffff }));
/** Shrinks by leaving steps out: what a step does stays the same. */
const randomSteps = fc.array(fc.record({ choice: u32, seed: u32 }), {
  minLength: 1,
  maxLength: SCRIPT_STEPS_MAX,
  size: 'max',
});

describe('viommu', () => {
  test('answers random scripts as the model does', { timeout: LONG ? 3_600_000 : 300_000 }, () => {
    let taken = 0;
    const script = fc.property(
      fc.noShrink(fc.nat({ max: THEMES_COUNT - 1 })),
      randomSteps,
      (theme, steps) => {
        const run = new Run(theme);
        for (const step of steps) run.step(step);
        run.end();
        taken += steps.length;
      },
    );
    fc.assert(script, { numRuns: RUNS });
    expect(taken).toBeGreaterThanOrEqual(STEPS_MIN);
  });
});
