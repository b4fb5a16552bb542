// Whether KVM can run guests here, and the guest of it that needs no operating system.

import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { boot } from './boot.mjs';

const SOURCE = fileURLToPath(new URL('bare/guest.c', import.meta.url));
const PROBE_SECONDS = 60;
const COMPILE =
  '-m32 -march=i686 -mgeneral-regs-only -O1 -ffreestanding -fno-pic -fno-stack-protector -Wall -Wextra -Werror ' +
  '-nostdlib -static -no-pie -Wl,-Ttext=0x100000,--build-id=none';

/** Why there is no KVM for x86 guests here, or null. */
export function kvmAbsent() {
  if (process.arch !== 'x64') return 'KVM runs guests of the same architecture only';
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch (error) {
    return `/dev/kvm cannot be opened (${error.code})`;
  }
  return null;
}

let tried;

/** Why Debian's kernel does not run with KVM here, though /dev/kvm is there, or null: it is tried once. */
export async function linuxRefused() {
  tried ??= boot({ guest: 'x86', accel: 'kvm', timeout: PROBE_SECONDS });
  const { trouble } = await tried;
  return trouble === null
    ? null
    : `KVM does not run Debian's kernel here, without viommu either: QEMU ${trouble}`;
}

/** Compiles bare/guest.c; its file. Throws with the compiler's words. */
export function compileBareGuest(directory) {
  const file = `${directory}/bare-guest`;
  const { status, stderr, error } = spawnSync('cc', [...COMPILE.split(' '), '-o', file, SOURCE], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${SOURCE} does not compile: ${error?.message ?? stderr}`);
  return file;
}
