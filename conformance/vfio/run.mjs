#!/usr/bin/env node
// Builds Linux's own VFIO selftests, unmodified, and runs them under viommu, against its devices.
//
// run.mjs [--program NAME] [--iommu TYPE] [--timeout SECONDS] [--verbose] [--json FILE] [--build-only]
//
//   TYPE   the IOMMU that the devices are behind; without it each in turn, side by side, since most of it is waiting
//
// A test that is skipped or fails must be one that expected.mjs gives a reason for.

import { commandLine, expectKnown, atLeastOne } from '../command-line.mjs';
import { repository } from '../linux/tree.mjs';
import { writeReport } from '../report.mjs';
import { reserveHugePages } from '../selftest/hugepages.mjs';
import { pinOptions } from '../selftest/memlock.mjs';
import { play } from '../selftest/play.mjs';
import { TapReader } from '../selftest/tap.mjs';
import { binary, buildSelftests, PROGRAMS } from './build.mjs';
import { EXPECTED } from './expected.mjs';
import { DEVICES, IOMMUS, machineFile } from './machine.mjs';

const WORDS_MAX = 6;

function parse() {
  const { values } = commandLine({
    options: {
      program: { type: 'string' },
      iommu: { type: 'string' },
      timeout: { type: 'string', default: '600' },
      verbose: { type: 'boolean', default: false },
      json: { type: 'string' },
      'build-only': { type: 'boolean', default: false },
    },
  });
  const programs = values.program === undefined ? PROGRAMS : [values.program];
  const iommus = values.iommu === undefined ? IOMMUS : [values.iommu];
  expectKnown('program', programs, PROGRAMS);
  expectKnown('IOMMU', iommus, IOMMUS);
  return { ...values, programs, iommus, timeout: atLeastOne('--timeout', values.timeout) };
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

async function run(program, iommu, options) {
  const reader = new TapReader();
  const last = [];
  const viommu = [process.execPath, `${repository}packages/cli/bin/viommu.js`];
  const args = ['run', '--quiet', ...pinOptions(), '--machine', machineFile(iommu), '--', binary(program)];
  const command = [...viommu, ...args, ...DEVICES.slice(0, EXPECTED[program].devices)];
  const started = performance.now();
  const trouble = await play(command, options, reader, last);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const { counted, lines, reasons } = judge(program, reader, trouble);
  const { pass, fail, skip } = counted;
  const not = skip === 0 ? '' : `, ${skip} not passed for a reason`;
  console.log(`${iommu}: ${program}: ${pass} pass, ${fail} fail${not}, ${seconds} s`);
  for (const reason of reasons) console.log(`    ${reason}`);
  for (const line of lines) console.error(`REGRESSION: ${iommu}: ${line}`);
  if (reader.totals === null && reader.skipped === null) for (const line of last) console.log(`    ${line}`);
  return { ...counted, failures: counted.failures.map((name) => `${iommu}: ${name}`) };
}

async function runAll(iommu, options, total) {
  for (const program of options.programs) {
    const counted = await run(program, iommu, options);
    for (const key of ['pass', 'fail', 'skip']) total[key] += counted[key];
    total.failures.push(...counted.failures);
  }
}

const options = parse();
buildSelftests();
if (options['build-only']) process.exit(0);
const giveBack = reserveHugePages();
const total = { pass: 0, fail: 0, skip: 0, failures: [] };
try {
  await Promise.all(options.iommus.map((iommu) => runAll(iommu, options, total)));
} finally {
  giveBack();
}
console.log(`# Totals: pass:${total.pass} fail:${total.fail} skip:${total.skip}`);
writeReport(options.json, total);
if (total.fail > 0) process.exitCode = 1;
