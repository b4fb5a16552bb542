import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { firstDifference, splitTranscripts, transcriptLines } from './compare.mjs';

const SCRIPT = 'C 0\nW 0 1000 7\nI 0 81 0c00\nS 8 1\nA 0 00\nO 0 2\nX 0\n';
const LINES = ['C 1', 'I 81 rc=0 errno=0 0c00', 'O 0 0000', 'X 0'];

describe('the output of the runner', () => {
  test('is taken apart by script', () => {
    const output = '== 1.s\nC 1\nX 0\n== 2.s\n== 3.s\nC 0\n';
    expect([...splitTranscripts(output)]).toEqual([
      ['1.s', ['C 1', 'X 0']],
      ['2.s', []],
      ['3.s', ['C 0']],
    ]);
  });
});

describe('the comparison', () => {
  test('finds nothing between equal transcripts', () => {
    expect(firstDifference(SCRIPT, LINES, [...LINES])).toBeNull();
  });

  test('names the line of the script, past the steps that print nothing', () => {
    const got = LINES.with(2, 'O 0 0001');
    expect(firstDifference(SCRIPT, LINES, got)).toEqual({
      line: 6,
      step: 'O 0 2',
      expected: 'O 0 0000',
      got: 'O 0 0001',
    });
  });

  test('sees a transcript that ends early and one that goes on', () => {
    expect(firstDifference(SCRIPT, LINES, LINES.slice(0, 1))).toMatchObject({ line: 3, got: null });
    expect(firstDifference(SCRIPT, LINES, [...LINES, 'X 0'])).toEqual({
      line: 7,
      step: '(the end)',
      expected: null,
      got: 'X 0',
    });
  });
});

describe('the recorded transcripts', () => {
  const data = new URL('../data/transcripts/', import.meta.url);

  test.each(['linux-7.3', 'linux-7.1', 'linux-6.12'])(
    'of %s have a line for each step that prints',
    (kernel) => {
      for (const file of readdirSync(new URL(kernel, data))) {
        const lines = transcriptLines(readFileSync(new URL(`${kernel}/${file}`, data), 'utf8'));
        const script = readFileSync(new URL(`scripts/${file.replace(/\.out$/, '.s')}`, data), 'utf8');
        const printing = script.split('\n').filter((step) => /^[^SAW\s]/.test(step));
        expect([file, lines.map((line) => line[0])]).toEqual([file, printing.map((step) => step[0])]);
      }
    },
  );
});
