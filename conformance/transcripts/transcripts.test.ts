import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { findProfile } from '@viommu/core/iommufd/profile';
import { firstDifference, transcriptLines } from './compare.mjs';
import { play } from './play.ts';

// The recorded transcripts against the kernel side in process: run.mjs does the same through the command line.

const DATA = new URL('../data/transcripts/', import.meta.url);
const BASE = 'linux-7.3';
const SCRIPTS = readdirSync(new URL('scripts', DATA)).map((file) => file.replace(/\.s$/, ''));

function read(path: string): string {
  return readFileSync(new URL(path, DATA), 'utf8');
}

/** Where a kernel has no transcript of a script, it answered what Linux 7.3 did. */
function expected(kernel: string, name: string): string[] {
  const own = `${kernel}/${name}.out`;
  return transcriptLines(read(existsSync(new URL(own, DATA)) ? own : `${BASE}/${name}.out`));
}

describe.each([BASE, 'linux-7.1', 'linux-6.12'])('as %s', (kernel) => {
  const profile = findProfile(kernel)!;

  test.each(SCRIPTS)('every step of script %s answers what Linux answered', (name) => {
    const script = read(`scripts/${name}.s`);
    expect(firstDifference(script, expected(kernel, name), play(script, { profile }))).toBeNull();
  });
});
