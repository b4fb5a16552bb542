// What the supervisor costs, beside supervisors in C and beside no supervisor at all.
//
//   node bench/supervisor.mjs
//
// Ratios are taken in one run: the contenders take turns, and the best of their turns counts, since on a shared machine
// everything else is other people's work. Needs cc; and for umockdev pkg-config and libumockdev-dev.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const viommu = [process.execPath, join(here, '../packages/cli/bin/viommu.js'), 'run', '--quiet', '--'];
const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
const TURNS = 4;

function compile(name, more = []) {
  const program = join(scratch, name);
  execFileSync('cc', ['-O2', '-o', program, join(here, `peers/${name}.c`), ...more]);
  return program;
}

/** Nanoseconds per call in the best round that the program saw. */
function best(command) {
  const [program, ...args] = command;
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', timeout: 120_000 });
  if (status !== 0) throw new Error(`${command.join(' ')}: ${stderr}`);
  return Number(stdout.trim().split(' ')[1]);
}

/** Lets the commands take turns; the best of each. */
function race(commands) {
  const times = commands.map(() => Infinity);
  for (let turn = 0; turn < TURNS; turn++)
    commands.forEach((command, at) => {
      times[at] = Math.min(times[at], best(command));
    });
  return times;
}

const us = (ns) => `${(ns / 1000).toFixed(1)} us`;
const ratio = (one, other) => `${(one / other).toFixed(2)} times`;

/** umockdev's handler, or why it cannot be built. */
function umockdev() {
  const { status, stdout } = spawnSync('pkg-config', ['--cflags', '--libs', 'umockdev-1.0'], {
    encoding: 'utf8',
  });
  if (status !== 0) return { missing: 'libumockdev-dev, or pkg-config' };
  return { handler: compile('umockdev-handler', stdout.trim().split(/\s+/)) };
}

function benchIoctl() {
  const loop = compile('ioctl-loop');
  const supervisor = compile('null-supervisor');
  const run = (options) => [supervisor, ...options, loop, '/dev/null', '500', '40'];
  const [blocking, epoll, struct, copying, ours] = race([
    run([]),
    run(['--epoll']),
    run(['--struct']),
    run(['--copy']),
    [...viommu, loop, '/dev/iommu', '500', '100'],
  ]);
  console.log(`IOAS_ALLOC, DESTROY   viommu                                ${us(ours)} an ioctl`);
  for (const [what, time] of [
    ['answers 0, blocks in RECV', blocking],
    ['answers 0, waits with epoll', epoll],
    ['the first that copies the struct', struct],
    ['the second that also finds the file', copying],
  ])
    console.log(
      `    C, ${what.padEnd(42)} ${us(time)}, ${ratio(time, blocking)} the first; viommu ${ratio(ours, time)}`,
    );
  const { missing, handler } = umockdev();
  if (missing !== undefined) {
    console.log(`    umockdev: not measured, for want of ${missing}`);
    return;
  }
  const [mocked] = race([['umockdev-wrapper', handler, loop, '/dev/iommu', '100', '10']]);
  console.log(
    `    umockdev with a handler in C                  ${us(mocked)}, viommu ${ratio(ours, mocked)}`,
  );
}

function benchOthers() {
  const loop = compile('syscall-loop');
  for (const [name, calls] of [
    ['getppid', 20_000],
    ['read', 20_000],
    ['write', 20_000],
    ['ioctl', 20_000],
    ['fstat', 1000],
    ['stat', 1000],
    ['open', 1000],
  ]) {
    const command = [loop, name, String(calls), '50'];
    const [alone, supervised] = race([command, [...viommu, ...command]]);
    const more = `${Math.round(supervised - alone)} ns more`;
    console.log(
      `${name.padEnd(10)} alone ${Math.round(alone)} ns, under viommu ${Math.round(supervised)} ns: ${more}`,
    );
  }
}

/** Many calls that are not ours: what they cost together, the start of the program included. */
function benchMany() {
  const loop = compile('syscall-loop');
  const seconds = (command) => {
    const started = performance.now();
    best(command);
    return (performance.now() - started) / 1000;
  };
  for (const [name, rounds, many] of [
    ['getppid', '1000', 'a million'],
    ['read', '1000', 'a million'],
    ['write', '1000', 'a million'],
    ['open', '100', 'a hundred thousand'],
  ]) {
    const command = [loop, name, '1000', rounds];
    const [alone, supervised] = [seconds(command), seconds([...viommu, ...command])];
    console.log(`${name.padEnd(10)} ${many}: ${alone.toFixed(2)} s, under viommu ${supervised.toFixed(2)} s`);
  }
}

function benchStart() {
  const milliseconds = (command) => {
    const started = performance.now();
    execFileSync(command[0], command.slice(1), { stdio: 'ignore' });
    return performance.now() - started;
  };
  const commands = [
    [process.execPath, '-e', '0'],
    [...viommu, 'true'],
  ];
  const times = commands.map(() => []);
  for (let turn = 0; turn < 20; turn++)
    commands.forEach((command, at) => times[at].push(milliseconds(command)));
  const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
  const [node, ours] = times.map(median);
  console.log(
    `viommu run -- true    ${ours.toFixed(0)} ms, node -e 0 ${node.toFixed(0)} ms: ${ratio(ours, node)}`,
  );
}

try {
  benchStart();
  benchIoctl();
  benchOthers();
  benchMany();
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
