// A C program that prints what the kernel's headers say about everything that a description has.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { cStruct, normalise } from './describe.mjs';

/** C source text. `includes` as they stand between #include and the end of the line. */
export function probeSource(description, includes) {
  const lines = [
    '#define _GNU_SOURCE',
    '#include <errno.h>',
    '#include <stddef.h>',
    '#include <stdio.h>',
    ...includes.map((file) => `#include ${file}`),
    '#define S(name, type) printf("S %s %zu\\n", #name, sizeof(type))',
    '#define F(name, type, field) printf("F %s %s %zu %zu %d\\n", #name, #field, offsetof(type, field), \\',
    '  sizeof(((type *)0)->field), SIGNED(((type *)0)->field))',
    // An integer by its own sign; arrays, structs and pointers are printed as 0 and not looked at.
    '#define SIGNED(x) _Generic((x), int: 1, short: 1, signed char: 1, long: 1, long long: 1, default: 0)',
    '#define C(name) printf("C %s %zu %llx\\n", #name, sizeof(name), (unsigned long long)(name))',
    'int main(void)',
    '{',
  ];
  for (const [name, { fields }] of Object.entries(description.structs)) {
    const type = `struct ${cStruct(name)}`;
    lines.push(`\tS(${name}, ${type});`);
    for (const field of Object.keys(fields)) lines.push(`\tF(${name}, ${type}, ${field});`);
  }
  for (const name of Object.keys(description.constants)) lines.push(`\tC(${name});`);
  lines.push('\treturn 0;', '}', '');
  return lines.join('\n');
}

/** The description that the output of the probe amounts to. */
export function parseProbe(output) {
  const structs = {};
  const constants = {};
  for (const line of output.split('\n')) {
    const words = line.split(' ');
    if (words[0] === 'S') structs[words[1]] = { size: Number(words[2]), fields: {} };
    if (words[0] === 'F') {
      const [, name, field, offset, size, signed] = words;
      structs[name].fields[field] = { offset: Number(offset), size: Number(size), signed: signed === '1' };
    }
    if (words[0] === 'C') {
      const value = BigInt(`0x${words[3]}`);
      constants[words[1]] = normalise(
        BigInt.asIntN(64, value) === BigInt.asIntN(32, value) ? BigInt.asUintN(32, value) : value,
      );
    }
  }
  return { structs, constants };
}

/** Compiles and runs the probe. Throws with the compiler's words where a name is not in the headers. */
export function askHeaders(description, includes, flags, compiler = 'cc') {
  const directory = mkdtempSync(`${tmpdir()}/viommu-abi-`);
  try {
    writeFileSync(`${directory}/probe.c`, probeSource(description, includes));
    execFileSync(compiler, ['-std=gnu11', ...flags, '-o', `${directory}/probe`, `${directory}/probe.c`], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    return parseProbe(execFileSync(`${directory}/probe`, { encoding: 'utf8' }));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
