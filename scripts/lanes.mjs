// What the test command runs, and how it counts.

/**
 * @typedef {import('../conformance/report.mjs').Report} Report
 * @typedef {{ name: string, title: string, needs: ('cli' | 'cc')[], args: (report: string) => string[], count?: (report: any) => Report }} Lane
 */

const VITEST = 'node_modules/vitest/vitest.mjs';
const SELFTEST = 'conformance/selftest/run.mjs';
const TRANSCRIPTS = 'conformance/transcripts/run.mjs';

/** @type {Lane[]} */
export const LANES = [
  {
    name: 'unit',
    title: 'unit tests',
    needs: [],
    args: (report) => [VITEST, 'run', '--reporter=dot', '--reporter=json', `--outputFile.json=${report}`],
    count: countVitest,
  },
  {
    name: 'abi',
    title: "uAPI against Linux's headers",
    needs: ['cc'],
    args: (report) => ['conformance/abi/run.mjs', '--json', report],
  },
  {
    name: 'selftest',
    title: "Linux's iommufd selftest",
    needs: ['cc', 'cli'],
    args: (report) => [SELFTEST, '--json', report],
  },
  {
    name: 'selftest-static',
    title: 'the same, linked statically',
    needs: ['cc', 'cli'],
    args: (report) => [SELFTEST, '--static', '--json', report],
  },
  {
    name: 'fail-nth',
    title: "Linux's iommufd_fail_nth",
    needs: ['cc', 'cli'],
    args: (report) => [SELFTEST, '--program', 'iommufd_fail_nth', '--json', report],
  },
  {
    name: 'vfio',
    title: "Linux's VFIO selftests",
    needs: ['cc', 'cli'],
    args: (report) => ['conformance/vfio/run.mjs', '--json', report],
  },
  {
    name: 'examples',
    title: 'examples',
    needs: ['cc', 'cli'],
    args: (report) => ['examples/start.mjs', '--quiet', '--json', report],
  },
  {
    name: 'bad-input',
    title: 'a million random ioctls',
    needs: ['cc', 'cli'],
    args: (report) => ['conformance/bad-input/run.mjs', '--json', report],
  },
  {
    name: 'qemu',
    title: 'guests of QEMU',
    needs: ['cc', 'cli'],
    args: (report) => ['conformance/qemu/run.mjs', '--json', report],
  },
  ...['linux-7.3', 'linux-7.1', 'linux-6.12'].map((kernel) => ({
    name: kernel,
    title: `transcripts of ${kernel}`,
    needs: ['cc', 'cli'],
    args: (report) => [TRANSCRIPTS, '--kernel', kernel, '--json', report],
  })),
];

/**
 * vitest's JSON as a report. A file that did not load has no tests, and has failed as one.
 *
 * @returns {Report}
 */
export function countVitest({ numPassedTests, numPendingTests, numTodoTests, testResults }) {
  const failures = testResults.flatMap(({ name, status, assertionResults }) => {
    const failed = assertionResults.filter((test) => test.status === 'failed');
    return status === 'failed' && failed.length === 0 ? [name] : failed.map(({ fullName }) => fullName);
  });
  return { pass: numPassedTests, fail: failures.length, skip: numPendingTests + numTodoTests, failures };
}

/**
 * What a lane amounts to: its report, which a bad end contradicts where it names no failure.
 *
 * @param {Report | null} report null where the lane wrote none
 * @param {number | string | null} end its exit status, or the signal that ended it
 * @returns {Report}
 */
export function judge(report, end) {
  const counted = report ?? { pass: 0, fail: 0, skip: 0, failures: [] };
  const nothing = counted.pass + counted.fail + counted.skip === 0;
  if (counted.fail > 0 || (end === 0 && !nothing)) return counted;
  const why = end === 0 ? 'it ran no test' : `it ended with ${end}`;
  return { ...counted, fail: 1, failures: [why] };
}

/** The reports of all lanes together. @param {Report[]} reports */
export function addUp(reports) {
  const sum = (key) => reports.reduce((total, report) => total + report[key], 0);
  return { pass: sum('pass'), fail: sum('fail'), skip: sum('skip') };
}

/** `12 passed, 0 failed`, and what was skipped where something was. */
export function formatCounts({ pass, fail, skip }) {
  return `${pass} passed, ${fail} failed${skip > 0 ? `, ${skip} skipped` : ''}`;
}
