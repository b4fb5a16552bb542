// The first file system of a guest: Debian's busybox, and guest.sh as its first program.

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { newc } from './cpio.mjs';
import { guestFiles } from './tree.mjs';

const SCRIPT = fileURLToPath(new URL('guest.sh', import.meta.url));
/** What guest.sh calls. */
const PROGRAMS =
  'sh mount umount mkdir cat cut sed tr basename readlink dd md5sum mke2fs stty poweroff'.split(' ');

/** Writes it for guests of a kind to `file`. */
export function writeInitramfs(guest, file) {
  const archive = newc([
    ...['bin', 'proc', 'sys', 'dev'].map((name) => ({ name })),
    { name: 'bin/busybox', data: readFileSync(guestFiles(guest).busybox) },
    ...PROGRAMS.map((name) => ({ name: `bin/${name}`, link: 'busybox' })),
    { name: 'init', data: readFileSync(SCRIPT) },
  ]);
  writeFileSync(file, gzipSync(archive, { level: 1 }));
}
