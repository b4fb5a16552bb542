import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { vtd } from './vtd.ts';

const text = readFileSync(new URL('../data/vectors/vtd-qemu-11.1.jsonl', import.meta.url), 'utf8');
const lines = text
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => JSON.parse(line) as Record<string, unknown>);
const listed = readFileSync(new URL(`../../${vtd.differences}`, import.meta.url), 'utf8');
const names = new Set([...listed.matchAll(/^#+ `([^`]+)`$/gm)].map((match) => match[1]));

describe('recorded DMA writes', () => {
  it('land where QEMU 11.1 has them land, and differ from it in listed ways alone', () => {
    let run: ReturnType<typeof vtd.open> | null = null;
    let count = 0;
    const unexplained: unknown[] = [];
    const classes = new Map<string, number>();
    for (const line of lines) {
      if (vtd.accepts(line)) {
        run = vtd.open(line);
        continue;
      }
      count++;
      const { expected, got, classes: found } = run!(line);
      if (JSON.stringify(expected) === JSON.stringify(got)) continue;
      if (found.length === 0 || !found.every((name) => names.has(name)))
        unexplained.push([line['seed'], expected, got]);
      for (const name of found) classes.set(name, (classes.get(name) ?? 0) + 1);
    }
    expect(unexplained).toEqual([]);
    expect(count).toBe(200);
    expect(Object.fromEntries(classes)).toEqual({
      'root-fault-of-the-wrong-mode': 3,
      'context-fault-of-the-wrong-mode': 7,
    });
  });
});
