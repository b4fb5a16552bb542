// Builds Linux's tools/testing/selftests/iommu as they are, with the flags of their Makefile and of selftests/lib.mk.

import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { compile, newer } from '../linux/compile.mjs';
import { cache, ensureLinux, headerFlags, source, tree } from '../linux/tree.mjs';

export const PROGRAMS = ['iommufd', 'iommufd_fail_nth'];
const out = `${cache}/selftest`;
const selftests = `${source}/tools/testing/selftests`;
const libcap = fileURLToPath(new URL('libcap', import.meta.url));
const WARNINGS = ['-Wall', '-Wno-unused-function', '-Wno-address-of-packed-member'];

/** Where the binary of `program` is: linked dynamically, or statically. */
export function binary(program, isStatic = false) {
  return `${out}/${program}${isStatic ? '-static' : ''}`;
}

/** Builds whatever is missing or old. Fetches Linux's sources where they are missing. */
export function buildSelftests() {
  ensureLinux();
  mkdirSync(out, { recursive: true });
  const flags = ['-O2', '-D_GNU_SOURCE=', ...WARNINGS, ...headerFlags(), `-I${libcap}`, `-I${selftests}`];
  const sources = [`${libcap}/capability.c`, `${libcap}/sys/capability.h`];
  for (const program of PROGRAMS) {
    for (const isStatic of [false, true]) {
      const file = binary(program, isStatic);
      if (newer(file, [`${tree}/stamp.json`, ...sources])) continue;
      const link = isStatic ? ['-static'] : [];
      compile('selftest', [
        ...flags,
        ...link,
        '-o',
        file,
        `${selftests}/iommu/${program}.c`,
        `${libcap}/capability.c`,
      ]);
    }
  }
}
