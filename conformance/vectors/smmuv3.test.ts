import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { classify } from './smmuv3-differences.ts';
import { smmuv3 } from './smmuv3.ts';

const text = readFileSync(new URL('../data/vectors/smmuv3-qemu-11.1.jsonl', import.meta.url), 'utf8');
const [first, ...lines] = text
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => JSON.parse(line) as Record<string, unknown>);
const listed = readFileSync(new URL(`../../${smmuv3.differences}`, import.meta.url), 'utf8');
const names = new Set([...listed.matchAll(/^#+ `([^`]+)`$/gm)].map((match) => match[1]));

describe('recorded DMA writes', () => {
  it('land where QEMU 11.1 has them land, and their events differ in listed ways alone', () => {
    expect(smmuv3.accepts(first!)).toBe(true);
    const run = smmuv3.open(first!);
    const unexplained: unknown[] = [];
    let agreed = 0;
    for (const line of lines) {
      const { expected, got, classes } = run(line);
      expect((got as { landed: boolean }).landed).toBe((expected as { landed: boolean }).landed);
      if (JSON.stringify(expected) === JSON.stringify(got)) {
        agreed++;
        continue;
      }
      const known = classes.length > 0 && classes.every((name) => names.has(name));
      if (!known) unexplained.push([line['seed'], expected, got]);
    }
    expect(unexplained).toEqual([]);
    expect([agreed, lines.length]).toEqual([235, 300]);
  });
});

describe('differences', () => {
  const record = (words: readonly number[]): string =>
    words.map((word) => word.toString(16).padStart(8, '0').match(/../g)!.toReversed().join('')).join('');
  // F_TRANSLATION at stage 2, CLASS == IN, of a write to 4000_0123h.
  const got = { landed: false, events: [record([0x10, 8, 0, 0x280, 0x4000_0123, 0, 0x4000_0000, 0])] };

  const tables = { mem: [] };

  it('explain what they are about and nothing else', () => {
    const whole = record([0x10, 8, 0, 0x280, 0x4000_0123, 0, 0x4000_0123, 0]);
    expect(classify({ landed: false, events: [whole] }, got, tables)).toEqual(['ipa-with-offset-in-page']);
    const elsewhere = record([0x10, 8, 0, 0x280, 0x4000_0123, 0, 0x4000_1123, 0]);
    expect(classify({ landed: false, events: [elsewhere] }, got, tables)).toEqual([]);
    const otherStream = record([0x10, 9, 0, 0x280, 0x4000_0123, 0, 0x4000_0123, 0]);
    expect(classify({ landed: false, events: [otherStream] }, got, tables)).toEqual([]);
    expect(classify({ landed: true, events: [] }, got, tables)).toEqual([]);
    expect(classify({ landed: false, events: [] }, got, tables)).toEqual([]);
  });
});
