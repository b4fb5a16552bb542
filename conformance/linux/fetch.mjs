#!/usr/bin/env node
// Fetches Linux's uAPI headers (linux-libc-dev) and the few sources that the conformance tests compile (linux-source)
// from Debian into .cache/, once. The system's apt is asked with a configuration of its own: nothing is installed and
// no list of the system changes.
//
// fetch.mjs [--mirror URL] [--force]

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
import { parseArgs } from 'node:util';
import { debianMirror, parseDeb822, parseList } from './sources.mjs';
import { cache, fetched, markFetched, RELEASE, tree } from './tree.mjs';

const SUITE = 'trixie-backports';
const SOURCE = `linux-source-${RELEASE}`;
const KEYRINGS = [
  '/usr/share/keyrings/debian-archive-keyring.gpg',
  '/usr/share/keyrings/debian-archive-keyring.pgp',
];
const MEMBERS = [
  'include/uapi',
  'drivers/iommu/iommufd/iommufd_test.h',
  'tools/include',
  'tools/arch/x86/include',
  'tools/arch/arm64/include',
  'tools/testing/selftests/iommu',
  'tools/testing/selftests/kselftest.h',
  'tools/testing/selftests/kselftest_harness.h',
  'tools/testing/selftests/lib.mk',
  'tools/testing/selftests/vfio',
  // The VFIO selftests have drivers that share these with the kernel's, by symbolic links.
  'drivers/dma/idxd/registers.h',
  'drivers/dma/ioat/hw.h',
  'drivers/dma/ioat/registers.h',
  'drivers/net/ethernet/intel/igb/e1000_82575.h',
  'drivers/net/ethernet/intel/igb/e1000_defines.h',
  'drivers/net/ethernet/intel/igb/e1000_regs.h',
  'include/linux/mii.h',
  'include/linux/pci_ids.h',
  'scripts/subarch.include',
];

/** What a person can do something about: printed without a stack. */
class Trouble extends Error {}

const terminal = process.stderr.isTTY === true;

function progress(text) {
  if (terminal) process.stderr.write(`\r\x1b[K${text}`);
}

function needTools() {
  const packages = { 'apt-get': 'apt', 'dpkg-deb': 'dpkg', tar: 'tar', xz: 'xz-utils', bash: 'bash' };
  for (const [tool, name] of Object.entries(packages)) {
    if (spawnSync(tool, ['--version'], { stdio: 'ignore' }).error === undefined) continue;
    throw new Trouble(
      `There is no ${tool} here (package ${name}). Linux's headers come as Debian packages, which need it; on another ` +
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

function findMirror() {
  const mirror = debianMirror(systemSources());
  if (mirror !== null) return mirror;
  throw new Trouble(
    'The configuration of apt names no mirror of the Debian archive. Name one: fetch.mjs --mirror URL, where URL is ' +
      'what a line of sources.list has between "deb" and the suite.',
  );
}

/** Writes a configuration that keeps apt inside `work`, and answers the arguments that make apt use it. */
function configureApt(work, mirror) {
  const keyring = KEYRINGS.find((file) => existsSync(file));
  if (keyring === undefined) {
    throw new Trouble(
      `The keys of the Debian archive are not here (${KEYRINGS[0]}): install debian-archive-keyring.`,
    );
  }
  for (const directory of ['lists/partial', 'cache/archives/partial']) {
    mkdirSync(`${work}/${directory}`, { recursive: true });
  }
  writeFileSync(`${work}/sources.list`, `deb [signed-by=${keyring}] ${mirror} ${SUITE} main\n`);
  // -c is read after the system's configuration, so that proxies and credentials hold; hooks and pins must not.
  writeFileSync(
    `${work}/apt.conf`,
    [
      '#clear APT::Update::Pre-Invoke;',
      '#clear APT::Update::Post-Invoke;',
      '#clear APT::Update::Post-Invoke-Success;',
      `Dir::Etc::sourcelist "${work}/sources.list";`,
      'Dir::Etc::sourceparts "-";',
      'Dir::Etc::preferences "/dev/null";',
      'Dir::Etc::preferencesparts "-";',
      `Dir::State::lists "${work}/lists";`,
      'Dir::State::status "/dev/null";',
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
function run(command, args, cwd, onPercent) {
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

function lastWords(text) {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  return lines
    .slice(-8)
    .map((line) => `    ${line}`)
    .join('\n');
}

async function updateLists(apt) {
  progress(`Asking Debian what is in ${SUITE} …`);
  const { status, stdout, stderr } = await run('apt-get', [...apt, 'update', '--error-on=any']);
  if (status === 0) return;
  const words = `${stdout}\n${stderr}`;
  const cause = /NO_PUBKEY|Missing key|not signed/.test(words)
    ? `The keys here do not know who signed ${SUITE}: update the package debian-archive-keyring.`
    : /404|does not have a Release file/.test(words)
      ? `The mirror that apt is configured with does not carry ${SUITE}; another one: fetch.mjs --mirror URL.`
      : 'The mirror that apt is configured with could not be reached; is there a network?';
  throw new Trouble(`${cause} apt says:\n${lastWords(stderr)}`);
}

async function versionsOf(apt, name) {
  const { stdout } = await run('apt-cache', [...apt, 'show', name]);
  return [...stdout.matchAll(/^Version: (.*)$/gm)].map((match) => match[1]);
}

async function chooseVersion(apt) {
  const [version] = await versionsOf(apt, SOURCE);
  const libc = await versionsOf(apt, 'linux-libc-dev');
  if (version !== undefined && libc.includes(version)) return version;
  const { stdout } = await run('apt-cache', [...apt, 'pkgnames', 'linux-source-']);
  const there = stdout.split('\n').filter((name) => /^linux-source-\d/.test(name));
  throw new Trouble(
    `${SUITE} no longer has Linux ${RELEASE}: ${SOURCE} is ${version ?? 'gone'}, linux-libc-dev is ` +
      `${libc.join(', ') || 'gone'}${there.length > 0 ? `, and there is ${there.join(', ')}` : ''}. ` +
      `A .cache/linux-${RELEASE}/ of another machine will do; else the descriptions in packages/core/src/abi want ` +
      'moving on to the newer release.',
  );
}

async function download(apt, work, version) {
  const show = (percent) => progress(`Fetching Linux ${version} … ${percent} %`);
  show(0);
  const packages = [`linux-libc-dev=${version}`, `${SOURCE}=${version}`];
  const { status, stderr } = await run('apt-get', [...apt, 'download', ...packages], work, show);
  if (status !== 0)
    throw new Trouble(`Linux ${version} could not be downloaded. apt says:\n${lastWords(stderr)}`);
  const file = (name) => `${work}/${readdirSync(work).find((entry) => entry.startsWith(`${name}_`))}`;
  return { libc: file('linux-libc-dev'), source: file(SOURCE) };
}

async function unpack(files, work, version) {
  progress(`Unpacking Linux ${version} …`);
  mkdirSync(`${work}/tree/headers`, { recursive: true });
  mkdirSync(`${work}/tree/source`);
  const libc = await run('dpkg-deb', ['-x', files.libc, `${work}/tree/headers`]);
  // All in one pipe: the source package holds 160 MB in an archive in an archive.
  const pipe =
    'set -o pipefail; file=$1 name=$2 into=$3; shift 3; dpkg-deb --fsys-tarfile "$file" | ' +
    'tar -xO -f - "./usr/src/$name.tar.xz" | xz -dcT0 | tar -x --strip-components=1 -C "$into" -f - "$@"';
  const members = MEMBERS.map((member) => `${SOURCE}/${member}`);
  const source = await run('bash', [
    '-c',
    pipe,
    'bash',
    files.source,
    SOURCE,
    `${work}/tree/source`,
    ...members,
  ]);
  if (libc.status === 0 && source.status === 0) return;
  throw new Trouble(
    `Linux ${version} could not be unpacked; is the disk full? What the tools say:\n` +
      lastWords(libc.stderr + source.stderr),
  );
}

/** Puts the finished tree in place; where another process was faster, its tree is as good. */
function install(work, force) {
  if (force || fetched() === null) rmSync(tree, { recursive: true, force: true });
  try {
    renameSync(`${work}/tree`, tree);
  } catch (error) {
    if (fetched() === null) throw error;
  }
}

function makeWork() {
  try {
    mkdirSync(cache, { recursive: true });
    return mkdtempSync(`${cache}/fetch-`);
  } catch (error) {
    throw new Trouble(`Nothing can be written to ${cache} (${error.code}): does it belong to another user?`);
  }
}

async function main() {
  const { values } = parseArgs({
    options: { mirror: { type: 'string' }, force: { type: 'boolean', default: false } },
  });
  const there = values.force ? null : fetched();
  if (there !== null) {
    if (terminal) console.log(`Linux ${there.version} is in .cache/linux-${RELEASE}/.`);
    return;
  }
  needTools();
  const work = makeWork();
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
    const apt = configureApt(work, values.mirror ?? findMirror());
    await updateLists(apt);
    const version = await chooseVersion(apt);
    const files = await download(apt, work, version);
    await unpack(files, work, version);
    markFetched(`${work}/tree`, version);
    install(work, values.force);
    progress('');
    console.log(`Linux ${version} is in .cache/linux-${RELEASE}/.`);
  } finally {
    clean();
  }
}

try {
  await main();
} catch (error) {
  progress('');
  console.error(error instanceof Trouble ? `fetch.mjs: ${error.message}` : error);
  process.exitCode = 1;
}
