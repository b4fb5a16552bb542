#!/usr/bin/env node
// Compiles the examples and runs them under viommu.
//
// start.mjs [NAME ...] [--quiet] [--json FILE]
//
//   NAME      dma, ioas, viommu, nested, nested-vtd, nested-amd, cmdqv, thread or nvme, with what viommu saw of it; without
//             one all, the first with that
//   --quiet   without that
//   --json    writes how many ran as they should

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { writeReport } from '../conformance/report.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const built = `${root}.cache/examples`;
const viommu = `${root}packages/cli/bin/viommu.js`;
const NAMES = ['dma', 'ioas', 'viommu', 'nested', 'nested-vtd', 'nested-amd', 'cmdqv', 'thread', 'nvme'];
/** The machines of those that need another than `viommu run` has by itself. */
const MACHINES = { 'nested-vtd': 'intel', 'nested-amd': 'amd', cmdqv: 'cmdqv', nvme: 'devices' };
/** What those need beside Linux's uAPI. */
const UAPIS = { thread: 'rfc-2023-12', 'nested-amd': 'amd-viommu' };

/** What a person can do something about: printed without a stack. */
class Trouble extends Error {}

function checkMachine() {
  if (process.platform !== 'linux') {
    throw new Trouble(
      `viommu runs programs on Linux, and this is ${process.platform}. A container or a VM will do.`,
    );
  }
  if (!existsSync(`${root}packages/cli/dist`)) throw new Trouble('viommu is not built yet. Build it: npm ci');
}

function compile(name) {
  mkdirSync(built, { recursive: true });
  const program = `${built}/${name}`;
  const cc = process.env['CC'] ?? 'cc';
  const { status, error } = spawnSync(
    cc,
    ['-Wall', '-Wextra', '-O1', '-o', program, `${root}examples/${name}.c`],
    {
      stdio: 'inherit',
    },
  );
  if (error?.code === 'ENOENT') {
    throw new Trouble(
      `There is no C compiler (${cc}), and the examples are in C. Debian, Ubuntu: apt install gcc libc6-dev. ` +
        'Fedora: dnf install gcc. Another compiler: CC=NAME npm start',
    );
  }
  if (status !== 0) throw new Trouble(`examples/${name}.c did not compile; the compiler says why above.`);
  return program;
}

/** The first sentence of the comment at the head of the example's source. */
function headline(name) {
  const comment = /^\/\*(.*?)\*\//s.exec(readFileSync(`${root}examples/${name}.c`, 'utf8'))?.[1] ?? '';
  return comment
    .replace(/\s*\n \*\s*/g, ' ')
    .trim()
    .replace(/\. .*$/, '.');
}

/** Runs the program; its lines begin with an arrow, those of the trace are set in. */
function run(name, program, traced) {
  const trace = traced ? ['--trace', '-'] : [];
  const machine = name in MACHINES ? ['--machine', `${root}machines/${MACHINES[name]}.yaml`] : [];
  const uapi = name in UAPIS ? ['--uapi', UAPIS[name]] : [];
  const command = [process.execPath, viommu, 'run', '--quiet', ...trace, ...machine, ...uapi, '--', program];
  // One pipe for both streams, so that they stay in order.
  const child = spawn('sh', ['-c', 'exec "$@" 2>&1', 'sh', ...command], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  createInterface({ input: child.stdout }).on('line', (line) => {
    console.log(line.startsWith('==> ') ? line : `    ${line}`);
  });
  return new Promise((resolve) => child.on('close', (status, signal) => resolve(signal ?? status)));
}

function parse() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { quiet: { type: 'boolean', default: false }, json: { type: 'string' } },
  });
  for (const name of positionals) {
    if (!NAMES.includes(name))
      throw new Trouble(`There is no example ${name}; there are ${NAMES.join(', ')}.`);
  }
  const names = positionals.length > 0 ? positionals : NAMES;
  const traced = values.quiet ? [] : positionals.length > 0 ? positionals : NAMES.slice(0, 1);
  return { names, traced, json: values.json };
}

try {
  const { names, traced, json } = parse();
  checkMachine();
  const failures = [];
  for (const name of names) {
    console.log(`examples/${name}.c: ${headline(name)}`);
    const end = await run(name, compile(name), traced.includes(name));
    if (end !== 0) {
      console.log(`    ended with ${end}`);
      failures.push(name);
    }
    console.log('');
  }
  if (traced.length === 1 && names.length > 1) {
    console.log('What is set in is what viommu saw. It shows that of the others too: npm start nested');
  }
  writeReport(json, { pass: names.length - failures.length, fail: failures.length, skip: 0, failures });
  if (failures.length > 0) process.exitCode = 1;
} catch (error) {
  if (!(error instanceof Trouble)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
