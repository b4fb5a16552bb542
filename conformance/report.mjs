// What a run amounts to, for a program that reads it: the file that --json names.

import { writeFileSync } from 'node:fs';

/**
 * @typedef {{ pass: number, fail: number, skip: number, failures: string[] }} Report
 * @param {string | undefined} file none is written where it is undefined
 * @param {Report} report `failures` names what failed, and may be shorter than `fail` says
 */
export function writeReport(file, report) {
  if (file !== undefined) writeFileSync(file, `${JSON.stringify(report)}\n`);
}
