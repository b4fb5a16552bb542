#!/usr/bin/env node
// Builds a Linux with iommufd's selftest for x86-64, small enough to boot in seconds, into .cache/oracle/RELEASE/.
//
// build.mjs [RELEASE] [--source TAR] [--mirror URL] [--jobs N]
//
//   RELEASE    7.3
//   --source   Linux's source in a tar file; without it Debian's package linux-source-RELEASE is fetched
//   --jobs     of make (2)
//
// Wants what Linux is built with: make, a C compiler, flex, bison, bc and libelf's headers.

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { commandLine } from '../command-line.mjs';
import {
  configureApt,
  download,
  findMirror,
  needTools,
  runScript,
  Trouble,
  updateLists,
  withWork,
} from '../debian/apt.mjs';
import { imageOf } from './play.mjs';
import { cache } from '../qemu/tree.mjs';

const CONFIG = fileURLToPath(new URL('kernel.config', import.meta.url));
/** Where Debian has sources: the newer ones are backports. */
const SUITES = ['trixie', 'trixie-backports'];
const TOOLS = { make: 'make', gcc: 'gcc', flex: 'flex', bison: 'bison', bc: 'bc' };

function command(program, args, cwd) {
  const { status, error } = spawnSync(program, args, { cwd, stdio: ['ignore', 'ignore', 'inherit'] });
  if (error !== undefined || status !== 0) throw new Trouble(`${program} ${args.join(' ')} failed`);
}

async function fetchSource(work, release, mirror) {
  needTools(`Linux ${release}`);
  const name = `linux-source-${release}`;
  const apt = configureApt(work, mirror ?? findMirror(), { suites: SUITES });
  await updateLists(apt, SUITES);
  const [file] = await download(apt, work, `Linux ${release}`, [name]);
  command('dpkg-deb', ['-x', file, `${work}/package`]);
  return `${work}/package/usr/src/${name}.tar.xz`;
}

/** The options that the kernel's own rules have thrown out again. */
function missing(tree) {
  const lines = (file) => readFileSync(file, 'utf8').split('\n');
  const have = new Set(lines(`${tree}/.config`));
  return lines(CONFIG).filter((line) => line.startsWith('CONFIG_') && !have.has(line));
}

function build(work, tar, release, jobs) {
  mkdirSync(`${work}/source`);
  command('tar', ['-xf', tar, '-C', `${work}/source`]);
  const tree = `${work}/source/${readdirSync(`${work}/source`)[0]}`;
  const make = (...args) => command('make', ['-s', `-j${jobs}`, ...args], tree);
  make('tinyconfig');
  command('scripts/kconfig/merge_config.sh', ['-m', '.config', CONFIG], tree);
  make('olddefconfig');
  const left = missing(tree);
  if (left.length > 0) throw new Trouble(`Linux ${release} does not take ${left.join(', ')}`);
  make('bzImage');
  mkdirSync(`${cache}/oracle/${release}`, { recursive: true });
  copyFileSync(`${tree}/arch/x86/boot/bzImage`, imageOf(release));
}

async function main() {
  const { values, positionals } = commandLine({
    allowPositionals: true,
    options: {
      source: { type: 'string' },
      mirror: { type: 'string' },
      jobs: { type: 'string', default: '2' },
    },
  });
  const [release = '7.3'] = positionals;
  if (process.arch !== 'x64') throw new Trouble('the kernel is for x86-64, and is built on such a machine.');
  for (const [tool, name] of Object.entries(TOOLS))
    if (spawnSync(tool, ['--version'], { stdio: 'ignore' }).error !== undefined)
      throw new Trouble(`There is no ${tool} here (package ${name}), which Linux is built with.`);
  if (values.source !== undefined && !existsSync(values.source))
    throw new Trouble(`there is no ${values.source}`);
  await withWork(cache, async (work) => {
    const tar = values.source ?? (await fetchSource(work, release, values.mirror));
    build(work, tar, release, values.jobs);
    console.log(`Linux ${release} is in ${imageOf(release)}.`);
  });
}

await runScript('build.mjs', main);
