// Where fetch.mjs puts Linux's headers and sources.

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The release that the ABI descriptions and the expected results are those of. */
export const RELEASE = '7.3';
export const repository = fileURLToPath(new URL('../..', import.meta.url));
export const cache = `${repository}.cache`;
export const tree = `${cache}/linux-${RELEASE}`;
/** linux-libc-dev, unpacked. */
export const headers = `${tree}/headers/usr/include`;
/** What fetch.mjs takes of linux-source. */
export const source = `${tree}/source`;
const stamp = `${tree}/stamp.json`;

/** Counts up whenever what fetch.mjs takes, or where it puts that, changes. */
const RECIPE = 1;

/** What lies in the tree, or null where it is absent or made by another version of fetch.mjs. */
export function fetched() {
  if (!existsSync(stamp)) return null;
  const content = JSON.parse(readFileSync(stamp, 'utf8'));
  return content.recipe === RECIPE ? content : null;
}

/** Marks the tree in `directory` as finished. */
export function markFetched(directory, version) {
  writeFileSync(`${directory}/stamp.json`, `${JSON.stringify({ recipe: RECIPE, version })}\n`);
}

/** Runs fetch.mjs where the tree is absent; ends this process where that fails, fetch.mjs having said why. */
export function ensureLinux() {
  if (fetched() !== null) return;
  const fetch = fileURLToPath(new URL('fetch.mjs', import.meta.url));
  const { status } = spawnSync(process.execPath, [fetch], { stdio: ['ignore', 'ignore', 'inherit'] });
  if (status !== 0) process.exit(1);
}

/** Flags that let a C compiler find Linux's uAPI headers before the system's. */
export function headerFlags(compiler = 'cc') {
  const { stdout } = spawnSync(compiler, ['-print-multiarch'], { encoding: 'utf8' });
  const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const multiarch = stdout?.trim() || `${machine}-linux-gnu`;
  return ['-isystem', headers, '-isystem', `${headers}/${multiarch}`];
}
