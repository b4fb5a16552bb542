import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { amd } from './amd.ts';

const text = readFileSync(new URL('../data/vectors/amd-qemu-11.1.jsonl', import.meta.url), 'utf8');
const [first, ...lines] = text
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => JSON.parse(line) as Record<string, unknown>);
const listed = readFileSync(new URL(`../../${amd.differences}`, import.meta.url), 'utf8');
const names = new Set([...listed.matchAll(/^#+ `([^`]+)`$/gm)].map((match) => match[1]));

describe('recorded DMA writes', () => {
  it('land where QEMU 11.1 has them land, and differ from it in listed ways alone', () => {
    expect(amd.accepts(first!)).toBe(true);
    const run = amd.open(first!);
    const unexplained: unknown[] = [];
    const classes = new Map<string, number>();
    for (const line of lines) {
      const { expected, got, classes: found } = run(line);
      if (JSON.stringify(expected) === JSON.stringify(got)) continue;
      if (found.length === 0 || !found.every((name) => names.has(name)))
        unexplained.push([line['seed'], expected, got]);
      for (const name of found) classes.set(name, (classes.get(name) ?? 0) + 1);
    }
    expect(unexplained).toEqual([]);
    expect(lines.length).toBeGreaterThan(100);
    expect([...classes.keys()].sort()).toEqual([
      'directory-permissions-are-ignored',
      'page-fault-follows-a-table-error',
      'page-fault-without-its-fields',
      'table-error-without-its-fields',
      'untranslatable-device-faults-silently',
    ]);
  });
});
