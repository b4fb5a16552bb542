// Compiles a file of Linux, unmodified, with what stands for the rest of the kernel, and asks the program.

import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));

/**
 * `sources` are taken from the tree `linux`, `stubs` are headers that they include and the shim stands for. `shim` is
 * compiled, after kernel.h and a header of its own name.
 */
export function compile({ linux, directory, sources, stubs, shim, name = shim, flags = [] }) {
  for (const [from, to] of Object.entries(sources)) {
    mkdirSync(dirname(join(directory, to)), { recursive: true });
    cpSync(join(linux, from), join(directory, to), { recursive: true });
  }
  for (const stub of stubs) {
    mkdirSync(dirname(join(directory, stub)), { recursive: true });
    writeFileSync(join(directory, stub), '');
  }
  const program = join(directory, name);
  const includes = ['-I', join(directory, 'include'), '-I', directory];
  const headers = ['kernel.h', `${shim}.h`].flatMap((each) => ['-include', join(here, each)]);
  const strict = ['-O1', '-std=gnu11', '-w', '-Werror=implicit-function-declaration'];
  const command = [...strict, ...includes, ...headers, ...flags, '-o', program, join(here, `${shim}.c`)];
  const done = spawnSync('cc', command, { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`cc: ${done.stderr}`);
  return program;
}

/** The program's answers, a line each. */
export function ask(program, lines) {
  const done = spawnSync(program, [], {
    input: `${lines.join('\n')}\n`,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (done.status !== 0) throw new Error(`the program ended with ${done.status ?? done.signal}`);
  return done.stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => line.trim());
}
