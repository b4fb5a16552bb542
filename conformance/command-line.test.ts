import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const here = fileURLToPath(new URL('.', import.meta.url));

test.each([
  [['bad-input/run.mjs', '--no-such'], "run.mjs: Unknown option '--no-such'\n"],
  [['transcripts/run.mjs', '--batch', '0'], "run.mjs: --batch takes a number from 1 on, not '0'\n"],
  [['qemu/fetch.mjs', 'x87'], /^fetch\.mjs: there is no part x87; there are x86, /],
  [['selftest/run.mjs', '--expect', 'pass'], /^run\.mjs: --expect takes pass=N,.*, not 'pass'\n$/],
])('a wrong command line is told in one line, and ends with 2: %j', ([script, ...args], message) => {
  const { status, stderr } = spawnSync(process.execPath, [here + script, ...args], { encoding: 'utf8' });
  expect(status).toBe(2);
  if (typeof message === 'string') expect(stderr).toBe(message);
  else expect(stderr).toMatch(message);
});
