import { describe, expect, test } from 'vitest';
import { addUp, countVitest, formatCounts, judge } from './lanes.mjs';

const good = { pass: 3, fail: 0, skip: 1, failures: [] };
const bad = { pass: 3, fail: 2, skip: 0, failures: ['a', 'b'] };

describe('a lane', () => {
  test('amounts to its report', () => {
    expect(judge(good, 0)).toEqual(good);
    expect(judge(bad, 1)).toEqual(bad);
  });

  test('has failed where it ended badly, whatever it counted', () => {
    expect(judge(good, 1)).toEqual({ ...good, fail: 1, failures: ['it ended with 1'] });
    expect(judge(null, 'SIGKILL')).toMatchObject({ pass: 0, fail: 1, failures: ['it ended with SIGKILL'] });
  });

  test('has failed where it ran nothing', () => {
    expect(judge(null, 0)).toMatchObject({ fail: 1, failures: ['it ran no test'] });
    expect(judge({ pass: 0, fail: 0, skip: 0, failures: [] }, 0)).toMatchObject({ fail: 1 });
  });
});

test("vitest's report is counted by test, and a file that did not load as one failure", () => {
  const test = (status: string, fullName: string) => ({ status, fullName });
  const report = {
    numPassedTests: 2,
    numPendingTests: 1,
    numTodoTests: 1,
    testResults: [
      {
        name: '/a.test.ts',
        status: 'passed',
        assertionResults: [test('passed', 'a 1'), test('passed', 'a 2')],
      },
      {
        name: '/b.test.ts',
        status: 'failed',
        assertionResults: [test('failed', 'b 1'), test('pending', 'b 2')],
      },
      { name: '/c.test.ts', status: 'failed', assertionResults: [] },
    ],
  };
  expect(countVitest(report)).toEqual({ pass: 2, fail: 2, skip: 2, failures: ['b 1', '/c.test.ts'] });
});

test('the last line is the sum, and speaks of skipped tests only where there are some', () => {
  expect(formatCounts(addUp([good, bad]))).toBe('6 passed, 2 failed, 1 skipped');
  expect(formatCounts(addUp([bad, bad]))).toBe('6 passed, 4 failed');
});
