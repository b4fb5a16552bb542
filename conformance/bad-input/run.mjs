// Compiles calls.c and has it make random ioctls under viommu, as a program does.
//
//   run.mjs [--calls N] [--seed N] [--json FILE]

import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { commandLine } from '../command-line.mjs';
import { writeReport } from '../report.mjs';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const viommu = [`${repository}packages/cli/bin/viommu.js`, 'run', '--quiet', '--'];
/** Far more than a million calls take on a slow machine. */
const LIMIT_MS = 10 * 60 * 1000;

const { values } = commandLine({
  options: {
    calls: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 32)) },
    json: { type: 'string' },
  },
});

const program = `${repository}.cache/bad-input/calls`;
mkdirSync(`${repository}.cache/bad-input`, { recursive: true });
const compiled = spawnSync(
  process.env['CC'] ?? 'cc',
  ['-Wall', '-O1', '-o', program, `${repository}conformance/bad-input/calls.c`],
  { stdio: 'inherit' },
);
if (compiled.status !== 0) {
  console.error('bad-input: calls.c did not compile; the compiler says why above');
  process.exit(1);
}
console.log(`bad-input: ${values.calls} calls, seed ${values.seed}`);
const { status, signal } = spawnSync(process.execPath, [...viommu, program, values.calls, values.seed], {
  stdio: ['ignore', 'inherit', 'inherit'],
  timeout: LIMIT_MS,
});
const failures = status === 0 ? [] : [`seed ${values.seed} ended with ${signal ?? status}`];
writeReport(values.json, { pass: status === 0 ? 1 : 0, fail: failures.length, skip: 0, failures });
for (const failure of failures) console.error(`bad-input: ${failure}`);
process.exit(status === 0 ? 0 : 1);
