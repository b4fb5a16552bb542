// What a program of Linux's kselftest harness prints (tools/testing/selftests/kselftest.h).

/**
 * @typedef {{ name: string, outcome: 'pass' | 'fail' | 'xfail' | 'xpass' | 'skip', words: string[] }} Test
 * @typedef {{ pass: number, fail: number, xfail: number, xpass: number, skip: number, error: number }} Totals
 */

const RESULT = /^(ok|not ok) \d+ (\S+)(?: # (SKIP|XFAIL|XPASS) ?(.*)| # {2}(.*))?$/;
const TOTALS = /^# Totals: pass:(\d+) fail:(\d+) xfail:(\d+) xpass:(\d+) skip:(\d+) error:(\d+)$/;

/** Reads the output line by line. */
export class TapReader {
  /** How many tests the program announced, null before it did. @type {number | null} */
  planned = null;
  /** @type {Test[]} */
  tests = [];
  /** What the program counted itself, null where it did not come to its end. @type {Totals | null} */
  totals = null;
  /** The test that runs. @type {string | null} */
  running = null;
  /** Why the whole program was skipped. @type {string | null} */
  skipped = null;
  #words = [];

  /** @param {string} line */
  line(line) {
    const plan = /^1\.\.(\d+)$/.exec(line);
    if (plan !== null) this.planned = Number(plan[1]);
    const skip = /^1\.\.0 # SKIP (.*)$/.exec(line);
    if (skip !== null) this.skipped = skip[1];
    const run = /^# {2}RUN +(\S+) \.\.\.$/.exec(line);
    if (run !== null) {
      this.running = run[1];
      this.#words = [];
      return;
    }
    const totals = TOTALS.exec(line);
    if (totals !== null) {
      const [pass, fail, xfail, xpass, skip, error] = totals.slice(1).map(Number);
      this.totals = { pass, fail, xfail, xpass, skip, error };
    }
    const result = RESULT.exec(line);
    if (result !== null) this.#result(result);
    else if (this.running !== null && !/^# +(?:OK|FAIL) {2}\S+$/.test(line))
      this.#words.push(line.replace(/^# /, ''));
  }

  #result([, verdict, name, directive, reason, diagnostic]) {
    const words = this.#words;
    const more = reason ?? diagnostic ?? '';
    if (more !== '' && more !== 'unknown') words.push(more);
    const outcome = verdict === 'not ok' ? 'fail' : (directive?.toLowerCase() ?? 'pass');
    this.tests.push({ name, outcome, words });
    this.running = null;
    this.#words = [];
  }
}

/** The totals on a line, as the kernel prints them. */
export function formatTotals(totals) {
  const parts = ['pass', 'fail', 'xfail', 'xpass', 'skip', 'error'].map((key) => `${key}:${totals[key]}`);
  return `# Totals: ${parts.join(' ')}`;
}

/**
 * `pass=241,skip=5` as an object. Throws where it says anything else.
 *
 * @param {string} text
 * @returns {Partial<Totals>}
 */
export function parseExpectation(text) {
  const expected = {};
  for (const part of text.split(',')) {
    const match = /^(pass|fail|xfail|xpass|skip|error)=(\d+)$/.exec(part.trim());
    if (match === null) {
      throw new Error(`--expect takes pass=N,skip=N,… (also fail, xfail, xpass, error), not '${part}'`);
    }
    expected[match[1]] = Number(match[2]);
  }
  return expected;
}

/**
 * Why a run is worse than expected, a line each; none where it is as good or better. At least `pass` tests pass; at
 * most the others end otherwise, where nothing is said 0 fail, and 0 are errors, and any number is skipped.
 *
 * @param {TapReader} reader
 * @param {Partial<Totals>} expected
 * @returns {string[]}
 */
export function regressions(reader, expected) {
  const { totals, planned, tests, running } = reader;
  if (totals === null) {
    const where =
      running === null ? `after ${tests.length} of ${planned ?? 'unknown'} tests` : `in ${running}`;
    return [`the program ended ${where}, before its totals`];
  }
  const lines = [];
  if (planned !== tests.length) lines.push(`${planned} tests were planned, ${tests.length} gave a result`);
  if (totals.pass < (expected.pass ?? 1))
    lines.push(`${totals.pass} pass, expected are ${expected.pass ?? 'some'}`);
  const limits = { fail: 0, xpass: 0, error: 0, ...expected };
  for (const key of ['fail', 'xfail', 'xpass', 'skip', 'error']) {
    if (totals[key] > (limits[key] ?? Infinity))
      lines.push(`${key}:${totals[key]}, expected are at most ${limits[key]}`);
  }
  return lines;
}

/**
 * The tests of a run counted, also of one that died: what it planned and did not come to has failed.
 *
 * @param {TapReader} reader
 * @returns {import('../report.mjs').Report}
 */
export function countTests({ tests, planned }) {
  const named = (...outcomes) =>
    tests.filter(({ outcome }) => outcomes.includes(outcome)).map(({ name }) => name);
  const failures = named('fail', 'xpass');
  const missing = Math.max(0, (planned ?? 0) - tests.length);
  return {
    pass: named('pass', 'xfail').length,
    fail: failures.length + missing,
    skip: named('skip').length,
    failures,
  };
}
