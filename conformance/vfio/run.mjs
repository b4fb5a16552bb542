#!/usr/bin/env node
// Builds Linux's own VFIO selftests, unmodified, and runs them under viommu, against its devices.
//
// run.mjs [--program NAME] [--machine FILE] [--timeout SECONDS] [--verbose] [--json FILE] [--build-only]
//
// A test that is skipped or fails must be one that expected.mjs gives a reason for.

import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { repository } from '../linux/tree.mjs';
import { writeReport } from '../report.mjs';
import { reserveHugePages } from '../selftest/hugepages.mjs';
import { play } from '../selftest/play.mjs';
import { TapReader } from '../selftest/tap.mjs';
import { binary, buildSelftests, PROGRAMS } from './build.mjs';
import { EXPECTED } from './expected.mjs';

const MACHINE = fileURLToPath(new URL('machine.yaml', import.meta.url));
const DEVICES = ['0000:0a:00.0', '0000:0b:00.0'];
const WORDS_MAX = 6;

function usage(message) {
  console.error(`run.mjs: ${message}`);
  process.exit(2);
}

function parse() {
  try {
    const { values } = parseArgs({
      options: {
        program: { type: 'string' },
        machine: { type: 'string', default: MACHINE },
        timeout: { type: 'string', default: '600' },
        verbose: { type: 'boolean', default: false },
        json: { type: 'string' },
        'build-only': { type: 'boolean', default: false },
      },
    });
    if (values.program !== undefined && !PROGRAMS.includes(values.program))
      usage(`--program is one of ${PROGRAMS.join(', ')}`);
    if (!(Number(values.timeout) > 0)) usage('--timeout takes a number of seconds');
    return { ...values, timeout: Number(values.timeout) };
  } catch (error) {
    return usage(error.message);
  }
}

/** The reason that expected.mjs has for a test. */
function reasonOf(list, name) {
  return list.find(([pattern]) => pattern !== 'all' && pattern.test(name))?.[1];
}

/** What the tests of a program come to: counts, and a line for each that is not as expected. */
function judge(program, reader, trouble) {
  const { pass: least, skips, fails } = EXPECTED[program];
  const lines = trouble === null ? [] : [trouble];
  const counted = { pass: 0, fail: 0, skip: 0, failures: [] };
  const refuse = (name, why) => {
    counted.fail++;
    counted.failures.push(name);
    lines.push(`${name}: ${why}`);
  };
  if (reader.skipped !== null) {
    const reason = skips.find(([pattern]) => pattern === 'all')?.[1];
    if (reason === undefined) refuse(program, reader.skipped);
    else counted.skip++;
    return { counted, lines, reasons: new Set([reason]) };
  }
  const reasons = new Set();
  for (const { name, outcome, words } of reader.tests) {
    const reason = outcome === 'skip' ? reasonOf(skips, name) : reasonOf(fails, name);
    if (outcome === 'pass' || outcome === 'xfail') counted.pass++;
    else if (reason === undefined) refuse(name, words.slice(0, WORDS_MAX).join('\n    '));
    else {
      counted.skip++;
      reasons.add(reason);
    }
  }
  if (counted.pass < least) lines.push(`${counted.pass} pass, expected are ${least}`);
  if (reader.totals === null) refuse(program, `it ended in ${reader.running ?? 'the middle'}`);
  if (lines.length > 0 && counted.fail === 0) counted.fail = 1;
  return { counted, lines, reasons };
}

async function run(program, options) {
  const reader = new TapReader();
  const last = [];
  const viommu = [process.execPath, `${repository}packages/cli/bin/viommu.js`];
  const args = ['run', '--quiet', '--machine', options.machine, '--', binary(program)];
  const command = [...viommu, ...args, ...DEVICES.slice(0, EXPECTED[program].devices)];
  const started = performance.now();
  const trouble = await play(command, options, reader, last);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const { counted, lines, reasons } = judge(program, reader, trouble);
  const { pass, fail, skip } = counted;
  console.log(
    `${program}: ${pass} pass, ${fail} fail, ${skip} not run or not passed with reason, ${seconds} s`,
  );
  for (const reason of reasons) console.log(`    ${reason}`);
  for (const line of lines) console.error(`REGRESSION: ${line}`);
  if (reader.totals === null && reader.skipped === null) for (const line of last) console.log(`    ${line}`);
  return counted;
}

const options = parse();
buildSelftests();
if (options['build-only']) process.exit(0);
const giveBack = reserveHugePages();
const total = { pass: 0, fail: 0, skip: 0, failures: [] };
try {
  for (const program of options.program === undefined ? PROGRAMS : [options.program]) {
    const counted = await run(program, options);
    for (const key of ['pass', 'fail', 'skip']) total[key] += counted[key];
    total.failures.push(...counted.failures);
  }
} finally {
  giveBack();
}
console.log(`# Totals: pass:${total.pass} fail:${total.fail} skip:${total.skip}`);
writeReport(options.json, total);
if (total.fail > 0) process.exitCode = 1;
