import { describe, expect, test } from 'vitest';
import { countTests, formatTotals, parseExpectation, regressions, TapReader } from './tap.mjs';

const OUTPUT = `TAP version 13
1..5
# Starting 5 tests from 2 test cases.
#  RUN           global.simple_close ...
#            OK  global.simple_close
ok 1 global.simple_close
#  RUN           iommufd_ioas.mock_domain.ioas_area_auto_destroy ...
# iommufd.c:520:ioas_area_auto_destroy:Expected 0 (0) == ioctl() (18446744073709551615)
# ioas_area_auto_destroy: Test terminated by assertion
#          FAIL  iommufd_ioas.mock_domain.ioas_area_auto_destroy
not ok 2 iommufd_ioas.mock_domain.ioas_area_auto_destroy
#  RUN           iommufd_dirty_tracking.hugepage.get_dirty ...
#      SKIP      no huge pages
#            OK  iommufd_dirty_tracking.hugepage.get_dirty
ok 3 iommufd_dirty_tracking.hugepage.get_dirty # SKIP no huge pages
#  RUN           a.b ...
#          FAIL  a.b
ok 4 a.b # XFAIL unknown
#  RUN           a.c ...
#            OK  a.c
ok 5 a.c #  with words
# FAILED: 4 / 5 tests passed.
# 1 skipped test(s) detected. Consider enabling relevant config options to improve coverage.
# Totals: pass:2 fail:1 xfail:1 xpass:0 skip:1 error:0
`;

function read(output: string): TapReader {
  const reader = new TapReader();
  for (const line of output.split('\n')) reader.line(line);
  return reader;
}

describe("the output of Linux's test harness", () => {
  test('gives each test with its outcome and what it said', () => {
    const { tests, planned } = read(OUTPUT);
    expect(planned).toBe(5);
    expect(tests.map(({ name, outcome }) => `${outcome} ${name}`)).toEqual([
      'pass global.simple_close',
      'fail iommufd_ioas.mock_domain.ioas_area_auto_destroy',
      'skip iommufd_dirty_tracking.hugepage.get_dirty',
      'xfail a.b',
      'pass a.c',
    ]);
    expect(tests[1]!.words).toEqual([
      'iommufd.c:520:ioas_area_auto_destroy:Expected 0 (0) == ioctl() (18446744073709551615)',
      'ioas_area_auto_destroy: Test terminated by assertion',
    ]);
    expect(tests[3]!.words).toEqual([]);
    expect(tests[4]!.words).toEqual(['with words']);
  });

  test('gives the totals, which print as they came', () => {
    const { totals } = read(OUTPUT);
    expect(totals).toEqual({ pass: 2, fail: 1, xfail: 1, xpass: 0, skip: 1, error: 0 });
    expect(OUTPUT).toContain(formatTotals(totals!));
  });

  test('has no totals where the program died, and says in which test', () => {
    const reader = read(OUTPUT.slice(0, OUTPUT.indexOf('#          FAIL  iommufd_ioas')));
    expect(reader.totals).toBeNull();
    expect(regressions(reader, {})).toEqual([
      'the program ended in iommufd_ioas.mock_domain.ioas_area_auto_destroy, before its totals',
    ]);
    expect(regressions(read(''), {})).toEqual([
      'the program ended after 0 of unknown tests, before its totals',
    ]);
  });
});

describe('the tests of a run', () => {
  const failing = 'iommufd_ioas.mock_domain.ioas_area_auto_destroy';

  test('are counted by their outcome', () => {
    expect(countTests(read(OUTPUT))).toEqual({ pass: 3, fail: 1, skip: 1, failures: [failing] });
  });

  test('have failed where the program did not come to them', () => {
    const died = read(OUTPUT.slice(0, OUTPUT.indexOf('#  RUN           a.b')));
    expect(countTests(died)).toEqual({ pass: 1, fail: 3, skip: 1, failures: [failing] });
    expect(countTests(read(''))).toEqual({ pass: 0, fail: 0, skip: 0, failures: [] });
  });
});

describe('an expectation', () => {
  test('is met by as many passes and no more of the rest', () => {
    expect(regressions(read(OUTPUT), { pass: 2, fail: 1, skip: 1 })).toEqual([]);
    expect(regressions(read(OUTPUT), { pass: 1, fail: 3, xfail: 1 })).toEqual([]);
  });

  test('is missed by fewer passes, more failures, more skips', () => {
    expect(regressions(read(OUTPUT), { pass: 3, skip: 0 })).toEqual([
      '2 pass, expected are 3',
      'fail:1, expected are at most 0',
      'skip:1, expected are at most 0',
    ]);
  });

  test('is missed by a run that leaves tests out', () => {
    expect(regressions(read(OUTPUT.replace('1..5', '1..6')), { pass: 2, fail: 1 })).toEqual([
      '6 tests were planned, 5 gave a result',
    ]);
  });

  test('is missed by a run without any pass even where it names no number', () => {
    const empty = '1..0\n# Totals: pass:0 fail:0 xfail:0 xpass:0 skip:0 error:0\n';
    expect(regressions(read(empty), {})).toEqual(['0 pass, expected are some']);
  });

  test('is written as the command line has it', () => {
    expect(parseExpectation('pass=241,skip=5')).toEqual({ pass: 241, skip: 5 });
    expect(() => parseExpectation('passed=3')).toThrow(/--expect takes pass=N/);
    expect(() => parseExpectation('pass=')).toThrow(/not 'pass='/);
  });
});
