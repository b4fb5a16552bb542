import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { VENDORS } from './vendors.ts';

/** What each run of a recording says differs: the classes, or null where none account for it. */
function differences(vendor: (typeof VENDORS)[number], recording: string): (readonly string[] | null)[] {
  const text = readFileSync(new URL(`../data/vectors/${recording}.jsonl`, import.meta.url), 'utf8');
  let run: ReturnType<typeof vendor.open> | null = null;
  const found: (readonly string[] | null)[] = [];
  for (const each of text.trim().split('\n')) {
    const line = JSON.parse(each) as Record<string, unknown>;
    if (vendor.accepts(line)) {
      run = vendor.open(line);
      continue;
    }
    const { expected, got, classes } = run!(line);
    if (JSON.stringify(expected) !== JSON.stringify(got)) found.push(classes.length === 0 ? null : classes);
  }
  return found;
}

describe.each(VENDORS)('the list of differences of $name', (vendor) => {
  const listed = readFileSync(new URL(`../../${vendor.differences}`, import.meta.url), 'utf8');
  const names = [...listed.matchAll(/^#+ `([^`]+)`$/gm)].map((match) => match[1]!);

  it('has what the recordings have, and nothing that none of them shows', () => {
    const found = [`${vendor.name}-qemu-11.1`, `${vendor.name}-more-qemu-11.1`].flatMap((recording) =>
      differences(vendor, recording),
    );
    expect(found).not.toContain(null);
    expect([...new Set(found.flat())].sort()).toEqual([...names].sort());
  });
});
