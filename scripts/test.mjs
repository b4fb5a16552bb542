#!/usr/bin/env node
// Runs everything that decides whether viommu is right: the unit tests, then Linux's own tests and recorded answers
// through the built command line. The last line is the truth over all of it.
//
// test.mjs [LANE ...]
//
//   LANE   one of unit, abi, selftest, selftest-static, fail-nth, vfio, examples, bad-input, qemu, linux-7.3, linux-7.1,
//          linux-6.12; without one, all

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { addUp, formatCounts, judge, LANES } from './lanes.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
/** Longer than a lane ever takes on a slow machine; each has a shorter limit of its own. */
const LANE_MS = 20 * 60 * 1000;

/** vitest colours what it writes into a pipe, too. */
const environment = process.stdout.isTTY === true ? process.env : { ...process.env, NO_COLOR: '1' };

const NEEDS = {
  cc: {
    met: () => spawnSync('cc', ['--version'], { stdio: 'ignore' }).error === undefined,
    missing:
      "There is no C compiler (cc), which this compiles Linux's tests with. Debian: apt install gcc libc6-dev",
  },
  cli: {
    met: () => built,
    missing: 'viommu could not be built, as it says above. Try by hand: npm run build',
  },
};

function choose(names) {
  for (const name of names) {
    if (LANES.some((lane) => lane.name === name)) continue;
    console.error(
      `test.mjs: there is no lane ${name}; there are ${LANES.map((lane) => lane.name).join(', ')}`,
    );
    process.exit(2);
  }
  return names.length === 0 ? LANES : LANES.filter((lane) => names.includes(lane.name));
}

/** Brings what is built up to date with the sources, which the tests are to judge. */
function build() {
  return ['packages/host/native/build.mjs', 'packages/cli/build.mjs'].every((script) => {
    const { status } = spawnSync(process.execPath, [script], {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    return status === 0;
  });
}

function run(lane, directory) {
  const missing = lane.needs.map((need) => NEEDS[need]).find(({ met }) => !met())?.missing;
  if (missing !== undefined) {
    console.log(missing);
    return { pass: 0, fail: 1, skip: 0, failures: [missing] };
  }
  const file = `${directory}/${lane.name}.json`;
  const { status, signal, error } = spawnSync(process.execPath, lane.args(file), {
    cwd: root,
    env: environment,
    stdio: ['ignore', 'inherit', 'inherit'],
    timeout: LANE_MS,
  });
  const report = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : null;
  return judge(
    report === null ? null : (lane.count ?? ((same) => same))(report),
    error?.code ?? signal ?? status,
  );
}

const lanes = choose(process.argv.slice(2));
const built = lanes.some(({ needs }) => needs.includes('cli')) && build();
const directory = mkdtempSync(`${tmpdir()}/viommu-test-`);
const results = [];
try {
  for (const lane of lanes) {
    console.log(`\n== ${lane.title} (npm test ${lane.name})`);
    const started = performance.now();
    const report = run(lane, directory);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(`${formatCounts(report)} in ${seconds} s`);
    results.push({ lane, report });
  }
} finally {
  rmSync(directory, { recursive: true, force: true });
}

const total = addUp(results.map(({ report }) => report));
console.log('');
for (const { lane, report } of results.filter(({ report: { fail } }) => fail > 0)) {
  console.log(`failed: npm test ${lane.name}`);
  for (const failure of report.failures.slice(0, 10)) console.log(`    ${failure}`);
}
console.log(formatCounts(total));
if (total.fail > 0) process.exitCode = 1;
