#!/usr/bin/env node
// Runs QEMU 11.1, unmodified, under viommu: guests use viommu's devices through viommu's IOMMUs. Fetches QEMU and the
// guests from Debian where they are missing.
//
// run.mjs [--all] [--verbose] [--keep DIRECTORY] [--timeout SECONDS] [--json FILE] [CASE ...]
//
//   CASE        one of those in cases.mjs and long-cases.mjs; without one, the former
//   --all       also the latter
//   --verbose   shows what the guest prints
//   --keep      leaves what the guest printed and viommu's trace in CASE.log and CASE.trace there

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { commandLine, expectKnown, atLeastOne } from '../command-line.mjs';
import { repository } from '../linux/tree.mjs';
import { writeReport } from '../report.mjs';
import { boot } from './boot.mjs';
import { CASES } from './cases.mjs';
import { judgeFiles, makeFiles } from './files.mjs';
import { judge, tell } from './judge.mjs';
import { compileBareGuest, kvmAbsent, linuxRefused } from './kvm.mjs';
import { LONG_CASES } from './long-cases.mjs';
import { ensureQemu } from './tree.mjs';

const viommu = `${repository}packages/cli/bin/viommu.js`;

function parse() {
  const { values, positionals } = commandLine({
    allowPositionals: true,
    options: {
      all: { type: 'boolean', default: false },
      verbose: { type: 'boolean', default: false },
      keep: { type: 'string' },
      timeout: { type: 'string', default: '300' },
      json: { type: 'string' },
    },
  });
  const every = [...CASES, ...LONG_CASES];
  expectKnown(
    'case',
    positionals,
    every.map(({ name }) => name),
  );
  const unnamed = values.all ? every : CASES;
  const cases = positionals.length === 0 ? unnamed : every.filter(({ name }) => positionals.includes(name));
  return { ...values, timeout: atLeastOne('--timeout', values.timeout), cases };
}

async function play(test, options, directory) {
  makeFiles(directory);
  const traceFile = `${directory}/${test.name}.trace`;
  const run = await boot({
    ...test,
    ...(test.bare === true ? { kernel: compileBareGuest(directory), memory: 128 } : {}),
    prefix: [
      ...[
        process.execPath,
        viommu,
        'run',
        '--unlimited-pins',
        '--machine',
        test.machine,
        '--trace',
        traceFile,
        '--',
      ],
      ...test.shell,
    ],
    cwd: directory,
    timeout: options.timeout,
    onLine: (line) => {
      if (options.verbose) console.log(line);
    },
  });
  writeFileSync(`${directory}/${test.name}.log`, `${run.lines.join('\n')}\n`);
  const traced = existsSync(traceFile) ? readFileSync(traceFile, 'utf8').split('\n') : [];
  return { run, wrong: [...judge(test, run, traced), ...judgeFiles(directory, test.uses)] };
}

/** Why a case cannot be run here, or null. */
async function obstacle({ accel, bare }) {
  if (accel !== 'kvm') return null;
  return kvmAbsent() ?? (bare === true ? null : await linuxRefused());
}

const options = parse();
ensureQemu(...new Set(options.cases.flatMap(({ guest, distribution = guest }) => [guest, distribution])));
if (options.keep !== undefined) mkdirSync(options.keep, { recursive: true });
const directory =
  options.keep === undefined ? mkdtempSync(`${tmpdir()}/viommu-qemu-`) : resolve(options.keep);
const failures = [];
let skip = 0;
try {
  for (const test of options.cases) {
    const why = await obstacle(test);
    if (why !== null) {
      console.log(`skip ${test.name}: ${why}`);
      skip++;
      continue;
    }
    const { run, wrong } = await play(test, options, directory);
    tell(test, run, wrong, options.verbose);
    if (wrong.length > 0) failures.push(test.name);
  }
} finally {
  if (options.keep === undefined) rmSync(directory, { recursive: true, force: true });
}
const pass = options.cases.length - failures.length - skip;
console.log(`${pass} passed, ${failures.length} failed, ${skip} skipped`);
writeReport(options.json, { pass, fail: failures.length, skip, failures });
if (failures.length > 0) process.exitCode = 1;
