import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { programWarnings } from './program-file.ts';

const directory = mkdtempSync(join(tmpdir(), 'viommu-program-'));
afterAll(() => rmSync(directory, { recursive: true }));

function program(name: string, bytes: readonly number[], mode = 0o755): string {
  const path = join(directory, name);
  writeFileSync(path, Buffer.from(bytes));
  chmodSync(path, mode);
  return path;
}

const elf = (bits: 1 | 2): number[] => [0x7f, 0x45, 0x4c, 0x46, bits, 1, 1];

test('a program of 32 bits is told of, where PATH leads to it', () => {
  const [narrow, wide] = [program('narrow', elf(1)), program('wide', elf(2))];
  expect(programWarnings('narrow', [join(directory, 'absent'), directory, narrow, wide])).toEqual([
    'narrow is a program of 32 bits: it finds no /dev/iommu; programs of 64 bits do',
  ]);
  expect(programWarnings('wide', [wide, narrow])).toEqual([]);
});

test('nothing is said of scripts, short files and what is not there', () => {
  expect(programWarnings('script', [program('script', [0x23, 0x21])])).toEqual([]);
  expect(programWarnings('absent', [join(directory, 'absent')])).toEqual([]);
});

test('a pipe without a writer keeps nobody waiting', () => {
  const path = join(directory, 'pipe');
  execFileSync('mkfifo', ['-m', '777', path]);
  expect(programWarnings('pipe', [path])).toEqual([]);
});

test('a set-user-ID program is told of where it belongs to somebody else', () => {
  const path = program('suid', elf(2), 0o4755);
  expect(programWarnings('suid', [path])).toEqual([]);
  const root = '/usr/bin/su';
  const [file, name] = process.geteuid!() === 0 ? [path, 'suid'] : [root, 'su'];
  if (file === path) chownSync(path, 1, 1);
  if (file === path) chmodSync(path, 0o4755);
  expect(programWarnings(name, [file])).toEqual([
    `${name} is set-user-ID, and runs as who started it: a seccomp filter allows no more`,
  ]);
});
