// Compiles the addon with the system's C compiler against the headers of the npm package node-api-headers.
//
// build.mjs [--output FILE]
//
//   CC names another compiler; FILE is where the addon goes, where that is not for this machine.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import process, { arch, platform } from 'node:process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const here = fileURLToPath(new URL('.', import.meta.url));
const compiler = process.env['CC'] ?? 'cc';

function giveUp(message) {
  process.stderr.write(`native addon: ${message}\n`);
  process.exit(1);
}

if (platform !== 'linux') {
  process.stderr.write('native addon: not built, it is for Linux only\n');
  process.exit(0);
}
if (arch !== 'x64' && arch !== 'arm64') giveUp(`x86-64 and arm64 only, this is ${arch}`);

const { include_dir: include } = createRequire(import.meta.url)('node-api-headers');
const sources = readdirSync(here).filter((name) => name.endsWith('.c'));
const { output } = parseArgs({
  options: { output: { type: 'string', default: `${here}build/viommu.node` } },
}).values;
/** Of this process: another may be building too. */
const fresh = `${output}.${process.pid}`;
mkdirSync(dirname(output), { recursive: true });

const result = spawnSync(
  compiler,
  [
    '-shared',
    '-fPIC',
    '-O2',
    '-std=gnu11',
    '-Wall',
    '-Wextra',
    '-Werror=implicit-function-declaration',
    '-fvisibility=hidden',
  ]
    .concat(['-I', include, '-o', fresh, '-DNAPI_VERSION=8'])
    .concat(sources.map((name) => here + name)),
  { stdio: 'inherit' },
);
if (result.error)
  giveUp(`cannot run ${compiler} (${result.error.code}): install a C compiler, or name one in CC`);
if (result.status !== 0) giveUp(`${compiler} failed`);
// In one step, so that a process that is loading the old one keeps it whole.
renameSync(fresh, output);
