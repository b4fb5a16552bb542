#!/usr/bin/env node
// Builds Linux's own iommufd selftests, unmodified, and runs one under viommu.
//
// run.mjs [--program iommufd|iommufd_fail_nth] [--static] [--fixtures A,B] [--variants A,B] [--tests A,B]
//         [--expect pass=N,skip=N] [--timeout SECONDS] [--verbose] [--json FILE] [--build-only] [--bare | -- COMMAND ...]
//
//   COMMAND runs the program that follows it; without one: node packages/cli/bin/viommu.js run --quiet --
//   --bare runs the program on this machine's kernel.

import { commandLine, expectKnown, orUsage, atLeastOne } from '../command-line.mjs';
import { repository, source } from '../linux/tree.mjs';
import { writeReport } from '../report.mjs';
import { binary, buildSelftests, PROGRAMS } from './build.mjs';
import { reserveHugePages } from './hugepages.mjs';
import { MEMLOCK_KIB, pinOptions, tooSmallMemlock } from './memlock.mjs';
import { play } from './play.mjs';
import { countTests, formatTotals, parseExpectation, regressions, TapReader } from './tap.mjs';

/** Lines that a failing test may say. */
const WORDS_MAX = 6;

function parse() {
  const { values, positionals } = commandLine({
    allowPositionals: true,
    options: {
      program: { type: 'string', default: 'iommufd' },
      static: { type: 'boolean', default: false },
      fixtures: { type: 'string' },
      variants: { type: 'string' },
      tests: { type: 'string' },
      expect: { type: 'string', default: 'pass=1' },
      timeout: { type: 'string', default: '600' },
      verbose: { type: 'boolean', default: false },
      json: { type: 'string' },
      'build-only': { type: 'boolean', default: false },
      bare: { type: 'boolean', default: false },
    },
  });
  expectKnown('program', [values.program], PROGRAMS);
  return {
    ...values,
    timeout: atLeastOne('--timeout', values.timeout),
    expected: orUsage(() => parseExpectation(values.expect)),
    prefix: positionals,
  };
}

function commandOf(options) {
  const filter = (flag, names) =>
    (names ?? '').split(',').flatMap((name) => (name === '' ? [] : [flag, name]));
  const cli = `${repository}packages/cli/bin/viommu.js`;
  const viommu = [process.execPath, cli, 'run', '--quiet', ...pinOptions(), '--'];
  const prefix = options.bare ? [] : options.prefix.length > 0 ? options.prefix : viommu;
  return [
    ...prefix,
    binary(options.program, options.static),
    ...filter('-f', options.fixtures),
    ...filter('-v', options.variants),
    ...filter('-t', options.tests),
  ];
}

const options = parse();
buildSelftests();
if (options['build-only']) process.exit(0);
const reader = new TapReader();
const last = [];
const command = commandOf(options);
const giveBack = reserveHugePages();
const started = performance.now();
const trouble = await play(command, options, reader, last).finally(giveBack);
const seconds = ((performance.now() - started) / 1000).toFixed(1);

const short = (line) => line.replaceAll(`${source}/tools/testing/selftests/`, '');
for (const { name, words } of reader.tests.filter(({ outcome }) => outcome === 'fail')) {
  console.log(`not ok ${name}`);
  for (const line of words.slice(0, WORDS_MAX)) console.log(`    ${short(line)}`);
}
console.log(`${options.program}: ${reader.tests.length} tests in ${seconds} s`);
if (reader.totals !== null) console.log(formatTotals(reader.totals));
else for (const line of last) console.log(`    ${short(line)}`);
const lines = regressions(reader, options.expected);
if (trouble !== null) lines.unshift(`${command.join(' ')}\n  ${trouble}`);
for (const line of lines) console.error(`REGRESSION: ${line}`);
const limit = tooSmallMemlock();
if (limit !== null)
  console.log(
    options.bare || options.prefix.length > 0
      ? `RLIMIT_MEMLOCK is ${limit} KiB here, and the tests pin 128 MiB: run this as root, or allow ${MEMLOCK_KIB} KiB ` +
          '(memlock in /etc/security/limits.conf, or prlimit --memlock)'
      : `RLIMIT_MEMLOCK is ${limit} KiB here, and the tests pin 128 MiB: viommu run --unlimited-pins let them`,
  );
writeReport(options.json, countTests(reader));
if (lines.length > 0) process.exitCode = 1;
