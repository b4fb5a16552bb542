#!/usr/bin/env node
// Checks what the compiler and the linter do not: who may import whom, and the house's rules.
//
// check-imports.mjs [DIRECTORY]
//
// Prints FILE:LINE: what is wrong; what would be right. Ends with 1 where it found something.

import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { checkTree } from './rules/tree.mjs';

const root = resolve(process.argv[2] ?? fileURLToPath(new URL('..', import.meta.url)));
const { files, problems } = checkTree(root);
for (const { file, line, message } of problems) console.log(`${file}:${line}: ${message}`);
console.log(`${files} files, ${problems.length === 0 ? 'nothing wrong' : `problems: ${problems.length}`}`);
if (problems.length > 0) process.exitCode = 1;
