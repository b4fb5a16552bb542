// Packages of Debian, fetched and unpacked without being installed: the system's apt is asked with a configuration of
// its own, so that nothing of the system changes, neither its packages nor its lists.

import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { debianMirror, parseDeb822, parseList } from './sources.mjs';

const KEYRINGS = [
  '/usr/share/keyrings/debian-archive-keyring.gpg',
  '/usr/share/keyrings/debian-archive-keyring.pgp',
];
const TOOLS = { 'apt-get': 'apt', 'dpkg-deb': 'dpkg', tar: 'tar', xz: 'xz-utils', bash: 'bash' };

/** What a person can do something about: printed without a stack. */
export class Trouble extends Error {}

export const terminal = process.stderr.isTTY === true;

/** Shows what is being done, on a terminal only; nothing where `text` is empty. */
export function progress(text) {
  if (terminal) process.stderr.write(`\r\x1b[K${text}`);
}

/** Throws where the tools for Debian's packages are missing. @param {string} what that comes as such packages */
export function needTools(what) {
  for (const [tool, name] of Object.entries(TOOLS)) {
    if (spawnSync(tool, ['--version'], { stdio: 'ignore' }).error === undefined) continue;
    throw new Trouble(
      `There is no ${tool} here (package ${name}). ${what} comes as Debian packages, which need it; on another ` +
        `system, run this in a Debian container that has the repository mounted, and .cache/ serves here too.`,
    );
  }
}

function systemSources() {
  const shell = spawnSync(
    'apt-config',
    ['shell', 'LIST', 'Dir::Etc::sourcelist/f', 'PARTS', 'Dir::Etc::sourceparts/d'],
    { encoding: 'utf8' },
  );
  const path = (name, fallback) =>
    new RegExp(`^${name}='(.*)'$`, 'm').exec(shell.stdout ?? '')?.[1] ?? fallback;
  const list = path('LIST', '/etc/apt/sources.list');
  const parts = path('PARTS', '/etc/apt/sources.list.d/').replace(/\/$/, '');
  const files = existsSync(list) ? [list] : [];
  if (existsSync(parts))
    files.push(
      ...readdirSync(parts)
        .sort()
        .map((name) => `${parts}/${name}`),
    );
  return files.flatMap((file) => {
    if (file.endsWith('.list')) return parseList(readFileSync(file, 'utf8'));
    return file.endsWith('.sources') ? parseDeb822(readFileSync(file, 'utf8')) : [];
  });
}

/** The mirror of the Debian archive that this system uses. */
export function findMirror() {
  const mirror = debianMirror(systemSources());
  if (mirror !== null) return mirror;
  throw new Trouble(
    'The configuration of apt names no mirror of the Debian archive. Name one: fetch.mjs --mirror URL, where URL is ' +
      'what a line of sources.list has between "deb" and the suite.',
  );
}

/**
 * Writes a configuration that keeps apt inside `work`, and answers the arguments that make apt use it. For that apt
 * nothing is installed.
 *
 * @param {string} work
 * @param {string} mirror
 * @param {{ suites: string[], architectures?: string[] }} options the machine's own architecture where none is named
 */
export function configureApt(work, mirror, { suites, architectures = [] }) {
  const keyring = KEYRINGS.find((file) => existsSync(file));
  if (keyring === undefined) {
    throw new Trouble(
      `The keys of the Debian archive are not here (${KEYRINGS[0]}): install debian-archive-keyring.`,
    );
  }
  for (const directory of ['lists/partial', 'cache']) mkdirSync(`${work}/${directory}`, { recursive: true });
  // Nothing is installed. apt puts its lock beside this file.
  writeFileSync(`${work}/status`, '');
  const archs = architectures.length === 0 ? '' : ` arch=${architectures.join(',')}`;
  const lines = suites.map((suite) => `deb [signed-by=${keyring}${archs}] ${mirror} ${suite} main\n`);
  writeFileSync(`${work}/sources.list`, lines.join(''));
  // -c is read after the system's configuration, so that proxies and credentials hold; hooks and pins must not.
  writeFileSync(
    `${work}/apt.conf`,
    [
      '#clear APT::Update::Pre-Invoke;',
      '#clear APT::Update::Post-Invoke;',
      '#clear APT::Update::Post-Invoke-Success;',
      ...(architectures.length === 0 ? [] : ['#clear APT::Architectures;']),
      ...architectures.map((architecture) => `APT::Architectures:: "${architecture}";`),
      `Dir::Etc::sourcelist "${work}/sources.list";`,
      'Dir::Etc::sourceparts "-";',
      'Dir::Etc::preferences "/dev/null";',
      'Dir::Etc::preferencesparts "-";',
      `Dir::State::lists "${work}/lists";`,
      `Dir::State::status "${work}/status";`,
      `Dir::Cache "${work}/cache";`,
      'Acquire::Languages "none";',
      'Acquire::Retries "3";',
      'APT::Status-Fd "3";',
      '',
    ].join('\n'),
  );
  return ['-c', `${work}/apt.conf`];
}

/** Runs a command; its own words are kept for the message of a failure. */
export function run(command, args, cwd, onPercent) {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C.UTF-8' },
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (data) => (stdout += data));
    child.stderr.on('data', (data) => (stderr += data));
    child.stdio[3].on('data', (data) => {
      const percent = /^dlstatus:[^:]*:([\d.]+):/m.exec(String(data))?.[1];
      if (percent !== undefined) onPercent?.(Math.floor(Number(percent)));
    });
    child.on('error', (error) => resolve({ status: 127, stdout, stderr: String(error) }));
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}

/** The last lines of what a tool said, for a message. */
export function lastWords(text) {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  return lines
    .slice(-8)
    .map((line) => `    ${line}`)
    .join('\n');
}

/** Asks the mirror what is in the suites that `apt` is configured for. */
export async function updateLists(apt, suites) {
  const names = suites.join(' and ');
  progress(`Asking Debian what is in ${names} …`);
  const { status, stdout, stderr } = await run('apt-get', [...apt, 'update', '--error-on=any']);
  if (status === 0) return;
  const words = `${stdout}\n${stderr}`;
  const cause = /NO_PUBKEY|Missing key|not signed/.test(words)
    ? `The keys here do not know who signed ${names}: update the package debian-archive-keyring.`
    : /404|does not have a Release file/.test(words)
      ? `The mirror that apt is configured with does not carry ${names}; another one: fetch.mjs --mirror URL.`
      : 'The mirror that apt is configured with could not be reached; is there a network?';
  throw new Trouble(`${cause} apt says:\n${lastWords(stderr)}`);
}

/** The versions of a package in those suites. */
export async function versionsOf(apt, name) {
  const { stdout } = await run('apt-cache', [...apt, 'show', name]);
  return [...stdout.matchAll(/^Version: (.*)$/gm)].map((match) => match[1]);
}

/**
 * Downloads packages, named as for apt-get. @param {{ dependencies?: boolean, suite?: string }} options with their
 * dependencies: these, too, from `suite` where it has them
 * @returns {Promise<string[]>} their files
 */
export async function download(apt, work, title, packages, { dependencies = false, suite } = {}) {
  const show = (percent) => progress(`Fetching ${title} … ${percent} %`);
  show(0);
  const into = mkdtempSync(`${work}/packages-`);
  mkdirSync(`${into}/partial`);
  chmodSync(into, 0o755);
  const place = ['-o', `Dir::Cache::archives=${into}`];
  const verb = dependencies
    ? ['install', '--download-only', '--yes', '--no-install-recommends']
    : ['download'];
  const target = suite === undefined ? [] : ['--target-release', suite];
  const { status, stderr } = await run(
    'apt-get',
    [...apt, ...place, ...verb, ...target, ...packages],
    into,
    show,
  );
  if (status !== 0) throw new Trouble(`${title} could not be downloaded. apt says:\n${lastWords(stderr)}`);
  return readdirSync(into)
    .filter((name) => name.endsWith('.deb'))
    .map((name) => `${into}/${name}`);
}

/** Unpacks packages into one directory, without what only people read. */
export async function unpack(title, files, into, members = []) {
  progress(`Unpacking ${title} …`);
  mkdirSync(into, { recursive: true });
  const pipe =
    'set -o pipefail; file=$1 into=$2; shift 2; dpkg-deb --fsys-tarfile "$file" | ' +
    'tar -x -C "$into" --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale -f - "$@"';
  for (const file of files) {
    const { status, stderr } = await run('bash', ['-c', pipe, 'bash', file, into, ...members]);
    if (status === 0) continue;
    throw new Trouble(
      `${title} could not be unpacked; is the disk full? What the tools say:\n${lastWords(stderr)}`,
    );
  }
}

/** Calls `use` with a directory in `cache` that is gone afterwards, whatever happens. */
export async function withWork(cache, use) {
  const work = makeWork(cache);
  // As root apt downloads under a user of its own, who must get at the directory.
  chmodSync(work, 0o755);
  const clean = () => rmSync(work, { recursive: true, force: true });
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => {
      clean();
      process.exit(1);
    });
  }
  try {
    return await use(work);
  } finally {
    clean();
  }
}

function makeWork(cache) {
  try {
    mkdirSync(cache, { recursive: true });
    return mkdtempSync(`${cache}/fetch-`);
  } catch (error) {
    throw new Trouble(`Nothing can be written to ${cache} (${error.code}): does it belong to another user?`);
  }
}

/**
 * Puts a finished tree in its place. Where another process was faster, its tree is as good.
 *
 * @param {string} from
 * @param {string} to
 * @param {{ force: boolean, whole: () => boolean }} options `whole` says whether there is a finished tree; `force`
 *   replaces such a one
 */
export function putInPlace(from, to, { force, whole }) {
  mkdirSync(dirname(to), { recursive: true });
  if (force || !whole()) rmSync(to, { recursive: true, force: true });
  try {
    renameSync(from, to);
  } catch (error) {
    if (!whole()) throw error;
  }
}

/** Ends as `main` does; what a person can do something about is printed without a stack. */
export async function runScript(name, main) {
  try {
    await main();
  } catch (error) {
    progress('');
    console.error(error instanceof Trouble ? `${name}: ${error.message}` : error);
    process.exitCode = 1;
  }
}
