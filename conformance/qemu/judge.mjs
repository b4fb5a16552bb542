// Whether a run of QEMU was what its case says.

/** Lines shown of a guest that failed. */
const LAST_MAX = 15;

/**
 * What is not as the case says it should be: a line each.
 *
 * @param {Pick<import('./cases.mjs').Case, 'said' | 'trace'>} test
 * @param {import('./boot.mjs').Run} run
 * @param {string[]} traced the lines of viommu's trace
 */
export function judge({ said, trace }, run, traced) {
  const missing = said
    .filter((pattern) => !run.said.some((words) => pattern.test(words)))
    .map((pattern) => `the guest did not say ${pattern.source}`);
  const wrong = run.said
    .filter((words) => words.startsWith('fail'))
    .map((words) => `the guest said: ${words}`);
  const counts = trace.map(({ name, pattern, min = 0, max = Infinity }) => ({
    name,
    count: traced.filter((line) => pattern.test(line)).length,
    min,
    max,
  }));
  const counted = counts
    .filter(({ count, min, max }) => count < min || count > max)
    .map(({ name, count, min, max }) => `${name}: ${count} in the trace, not ${range(min, max)}`);
  return [...(run.trouble === null ? [] : [`QEMU ${run.trouble}`]), ...wrong, ...missing, ...counted];
}

const range = (min, max) => (max === Infinity ? `${min} or more` : `${min} to ${max}`);

/** Prints how a case went. */
export function tell({ name, title }, run, wrong, verbose) {
  console.log(`${wrong.length === 0 ? 'ok' : 'not ok'} ${name}: ${title}, ${run.seconds.toFixed(1)} s`);
  if (wrong.length === 0) return;
  for (const line of wrong) console.log(`    ${line}`);
  if (!verbose) for (const line of run.lines.slice(-LAST_MAX)) console.log(`    | ${line}`);
}
