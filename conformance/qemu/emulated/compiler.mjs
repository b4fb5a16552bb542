// Compiles viommu's addon for arm64, on whatever this machine is, with Debian's compiler.

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, realpathSync, writeFileSync } from 'node:fs';
import { repository } from '../../linux/tree.mjs';
import { EMULATED } from '../tree.mjs';

const TRIPLET = 'aarch64-linux-gnu';

/** A shell script that runs one of the compiler's programs with the libraries that came with it. */
function script(root, program, before = '') {
  const [loader, libraries] =
    process.arch === 'arm64'
      ? ['usr/lib/ld-linux-aarch64.so.1', TRIPLET]
      : ['usr/lib64/ld-linux-x86-64.so.2', 'x86_64-linux-gnu'];
  const command = `${root}/${loader} --library-path ${root}/usr/lib/${libraries} ${root}/${program}`;
  return `#!/bin/sh\nexec ${command} ${before}"$@"\n`;
}

/** Compiles the addon to `output`. Throws where that fails. */
export function compileAddon(output) {
  const root = realpathSync(EMULATED.compiler);
  const programs = `${root}/programs`;
  mkdirSync(programs, { recursive: true });
  const write = (name, text) => {
    writeFileSync(`${programs}/${name}`, text);
    chmodSync(`${programs}/${name}`, 0o755);
  };
  // What the compiler starts comes by the same way, since it finds them here first (-B).
  for (const name of ['cc1', 'collect2'])
    write(name, script(root, `usr/libexec/gcc-cross/${TRIPLET}/14/${name}`));
  for (const name of ['as', 'ld']) write(name, script(root, `usr/bin/${TRIPLET}-${name}`));
  const library = `${root}/usr/${TRIPLET}/lib`;
  const where = `--sysroot=${root} -B ${programs} -B ${library} -L ${library} -isystem ${root}/usr/${TRIPLET}/include `;
  write('cc', script(root, `usr/bin/${TRIPLET}-gcc-14`, where));
  const { status } = spawnSync(
    process.execPath,
    [`${repository}packages/host/native/build.mjs`, '--output', output],
    { env: { ...process.env, CC: `${programs}/cc` }, stdio: ['ignore', 'inherit', 'inherit'] },
  );
  if (status !== 0) throw new Error("viommu's addon did not compile for arm64");
}
