// The first file system of a guest: Debian's busybox, and guest.sh as its first program.

import { readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { newc } from './cpio.mjs';
import { guestFiles } from './tree.mjs';

const SCRIPT = fileURLToPath(new URL('guest.sh', import.meta.url));
/** What guest.sh calls. */
const PROGRAMS =
  'sh mount umount mkdir cat cut sed tr basename readlink dd md5sum mke2fs stty poweroff ls grep sleep insmod'.split(
    ' ',
  );

/** Writes it for guests of a kind to `file`. `kernel`: the part that has their kernel, see guestFiles(). */
export function writeInitramfs(guest, file, kernel = guest) {
  const { busybox, modules } = guestFiles(guest, kernel);
  const archive = newc([
    ...['bin', 'proc', 'sys', 'dev', 'modules'].map((name) => ({ name })),
    { name: 'bin/busybox', data: readFileSync(busybox) },
    ...PROGRAMS.map((name) => ({ name: `bin/${name}`, link: 'busybox' })),
    // The names sort in the order in which the guest loads them.
    ...modules.map((path, index) => ({
      name: `modules/${String(index).padStart(2, '0')}-${basename(path)}`,
      data: readFileSync(path),
    })),
    { name: 'init', data: readFileSync(SCRIPT) },
  ]);
  writeFileSync(file, gzipSync(archive, { level: 1 }));
}
