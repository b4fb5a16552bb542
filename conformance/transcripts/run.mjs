#!/usr/bin/env node
// Plays ioctl scripts under viommu and compares what every step answered with what a real Linux kernel answered.
//
// run.mjs [DIR] [--kernel linux-7.3] [--expected DIR] [--all] [--batch N] [--timeout SECONDS]
//         [--json FILE] [--viommu FILE | --bare]
//
//   DIR          has the scripts, in scripts/*.s or *.s; without it conformance/data/transcripts
//   --expected   has the transcripts, in KERNEL/*.out or *.out; without it DIR. Where a kernel has no transcript of a
//                script, it answered what linux-7.3 did
//   --all        shows every script that differs, not the first 20 of them
//   --batch      scripts in one run of viommu (1000)
//   --viommu     another viommu than packages/cli/bin/viommu.js
//   --bare       plays on this machine's kernel
//
// Ends with 0 where all are identical, 1 where one is not, 2 where that could not be found out.

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { commandLine, atLeastOne, usage } from '../command-line.mjs';
import { writeReport } from '../report.mjs';
import { firstDifference, splitTranscripts, transcriptLines } from './compare.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const RUNNER = here('../../.cache/transcripts/runner');
const BASE = 'linux-7.3';
const SHOWN_MAX = 20;
/** Characters of a script's line. */
const STEP_MAX = 200;

function parse() {
  const { values, positionals } = commandLine({
    allowPositionals: true,
    options: {
      kernel: { type: 'string', default: BASE },
      expected: { type: 'string' },
      all: { type: 'boolean', default: false },
      batch: { type: 'string', default: '1000' },
      timeout: { type: 'string', default: '600' },
      viommu: { type: 'string', default: here('../../packages/cli/bin/viommu.js') },
      json: { type: 'string' },
      bare: { type: 'boolean', default: false },
    },
  });
  if (positionals.length > 1) usage('takes one directory');
  const directory = positionals[0] ?? here('../data/transcripts');
  return {
    ...values,
    directory,
    expected: values.expected ?? directory,
    batch: atLeastOne('--batch', values.batch),
    timeout: atLeastOne('--timeout', values.timeout),
  };
}

function findScripts(directory) {
  const from = existsSync(`${directory}/scripts`) ? `${directory}/scripts` : directory;
  if (!existsSync(from)) usage(`there is no ${directory}`);
  const names = readdirSync(from).filter((name) => name.endsWith('.s'));
  if (names.length === 0) usage(`there is no script (*.s) in ${from}`);
  return names.sort().map((name) => `${from}/${name}`);
}

function expectedOf(script, { expected, kernel }) {
  const name = basename(script).replace(/\.s$/, '.out');
  const files = [`${expected}/${kernel}/${name}`, `${expected}/${BASE}/${name}`, `${expected}/${name}`];
  const file = files.find((each) => existsSync(each));
  if (file === undefined) usage(`${script} has no transcript: none of ${files.join(', ')} exists`);
  return transcriptLines(readFileSync(file, 'utf8'));
}

function buildRunner() {
  const code = here('runner.c');
  if (existsSync(RUNNER) && statSync(RUNNER).mtimeMs >= statSync(code).mtimeMs) return;
  mkdirSync(here('../../.cache/transcripts'), { recursive: true });
  try {
    execFileSync('cc', ['-O1', '-static', '-o', RUNNER, code], { stdio: ['ignore', 'inherit', 'inherit'] });
  } catch (error) {
    usage(error.code === 'ENOENT' ? 'there is no C compiler (cc) here' : 'the runner did not compile');
  }
}

// One process a script, as they were recorded: a script leaves its event queues open, and the next would get other
// descriptors.
const EACH = ['sh', '-c', 'runner=$1; shift; for script; do "$runner" "$script" || exit; done', 'sh', RUNNER];

function commandOf({ viommu, kernel, bare }) {
  if (bare) return EACH;
  const node = /\.[cm]?js$/.test(viommu) ? [process.execPath] : [];
  return [...node, viommu, 'run', '--quiet', '--kernel', kernel, '--stop-reads', '--', ...EACH];
}

/** What the runner printed of the scripts, and how it ended where that was not well. */
function play(command, scripts, timeout) {
  return new Promise((resolve) => {
    const child = spawn(command[0], [...command.slice(1), ...scripts], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    });
    const chunks = [];
    let end = null;
    const stop = (why) => {
      end = why;
      process.kill(-child.pid, 'SIGKILL');
    };
    const timer = setTimeout(() => stop(`did not end within ${timeout} s`), timeout * 1000);
    const interrupt = (signal) => stop(`was stopped by ${signal}`);
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, interrupt);
    child.stdout.on('data', (data) => chunks.push(data));
    child.on('error', (error) => (end = error.message));
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      for (const each of ['SIGINT', 'SIGTERM']) process.off(each, interrupt);
      if (end === null && signal !== null) end = `was killed by ${signal}`;
      if (end === null && status !== 0) end = `ended with status ${status}`;
      resolve({ output: Buffer.concat(chunks).toString('latin1'), trouble: end });
    });
  });
}

function show(script, { line, step, expected, got }) {
  const shortStep = step.length > STEP_MAX ? `${step.slice(0, STEP_MAX)} …` : step;
  console.log(`${basename(script)}:${line}: ${shortStep}`);
  console.log(`    expected ${expected ?? '(nothing)'}`);
  console.log(`    got      ${got ?? '(nothing)'}`);
}

const options = parse();
const scripts = findScripts(options.directory);
const expectations = scripts.map((script) => expectedOf(script, options));
buildRunner();
const command = commandOf(options);
const transcripts = new Map();
const troubles = [];
for (let at = 0; at < scripts.length; at += options.batch) {
  const { output, trouble } = await play(command, scripts.slice(at, at + options.batch), options.timeout);
  for (const [name, lines] of splitTranscripts(output)) transcripts.set(name, lines);
  if (trouble !== null) troubles.push(trouble);
  if (trouble?.startsWith('was stopped')) break;
}

const differing = [];
scripts.forEach((script, i) => {
  const got = transcripts.get(basename(script)) ?? [];
  const difference = firstDifference(readFileSync(script, 'utf8'), expectations[i], got);
  if (difference === null) return;
  differing.push(basename(script));
  if (options.all || differing.length <= SHOWN_MAX) show(script, difference);
});
const different = differing.length;
if (!options.all && different > SHOWN_MAX) console.log(`… and ${different - SHOWN_MAX} more (--all)`);
for (const trouble of troubles) console.log(`${command.join(' ')} ${trouble}`);
const pass = scripts.length - different;
console.log(`${pass} of ${scripts.length} identical`);
writeReport(options.json, { pass, fail: different, skip: 0, failures: differing });
if (different > 0 || troubles.length > 0) process.exitCode = 1;
