// What builds Linux's own tests have in common: a C compiler, and when to call it.

import { execFileSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';

/** Whether the file is there, and no older than the others. */
export function newer(file, than) {
  return existsSync(file) && than.every((other) => statSync(other).mtimeMs <= statSync(file).mtimeMs);
}

/** Compiles for `suite`; where that fails, says why and ends the process. */
export function compile(suite, args) {
  try {
    execFileSync('cc', args, { stdio: ['ignore', 'inherit', 'inherit'] });
  } catch (error) {
    const why =
      error.code === 'ENOENT' ? 'there is no C compiler (cc) here' : "Linux's selftests did not compile";
    console.error(`${suite}: ${why}.`);
    process.exit(1);
  }
}
