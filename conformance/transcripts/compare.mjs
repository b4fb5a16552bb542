// A transcript is what runner.c prints of one script: a line for each step that answers something.

/** The steps that print nothing: they store a variable, fill a buffer, fill the arena. */
const SILENT = /^\s*(?:[SAW]\b|$)/;

/**
 * The transcripts of a run of several scripts, by the name of the script's file.
 *
 * @param {string} output
 * @returns {Map<string, string[]>}
 */
export function splitTranscripts(output) {
  const transcripts = new Map();
  let lines = null;
  for (const line of output.split('\n')) {
    const name = /^== (.*)$/.exec(line)?.[1];
    if (name !== undefined) transcripts.set(name, (lines = []));
    else if (line !== '') lines?.push(line);
  }
  return transcripts;
}

/**
 * The lines of a recorded transcript, with or without the `==` line.
 *
 * @param {string} text
 * @returns {string[]}
 */
export function transcriptLines(text) {
  return text.split('\n').filter((line) => line !== '' && !line.startsWith('== '));
}

/**
 * @typedef {{ line: number, step: string, expected: string | null, got: string | null }} Difference
 *   the script's line from 1 on, and what came of it: null where there is no such line
 */

/**
 * The first difference between two transcripts of `script`, or null.
 *
 * @param {string} script
 * @param {string[]} expected
 * @param {string[]} got
 * @returns {Difference | null}
 */
export function firstDifference(script, expected, got) {
  const steps = script.split('\n').flatMap((step, i) => (SILENT.test(step) ? [] : [{ line: i + 1, step }]));
  const length = Math.max(expected.length, got.length);
  for (let i = 0; i < length; i++) {
    if (expected[i] === got[i]) continue;
    const { line, step } = steps[i] ?? { line: script.trimEnd().split('\n').length, step: '(the end)' };
    return { line, step, expected: expected[i] ?? null, got: got[i] ?? null };
  }
  return null;
}
