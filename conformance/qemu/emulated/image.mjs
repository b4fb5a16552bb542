// The file system of the emulated arm64 machine: Debian's Node and QEMU, viommu, and a guest for QEMU.

import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { repository } from '../../linux/tree.mjs';
import { newc } from '../cpio.mjs';
import { EMULATED, guestFiles } from '../tree.mjs';
import { compileAddon } from './compiler.mjs';

/** What of Debian's packages is needed to run; the rest would only take memory. */
const TAKEN = [
  'usr/bin/node',
  'usr/bin/nodejs',
  'usr/bin/qemu-system-aarch64',
  'usr/lib/ld-linux-aarch64.so.1',
  'usr/lib/aarch64-linux-gnu',
  'usr/share/nodejs',
  'usr/share/node_modules',
  'usr/share/qemu',
  'usr/share/qemu-efi-aarch64/QEMU_EFI.fd',
];
const VIOMMU = ['bin', 'dist', 'package.json'];
const INIT = fileURLToPath(new URL('init.sh', import.meta.url));

/** The entries of a file or a directory, and of the directories that it is in. */
function* take(from, to) {
  const parts = to.split('/');
  for (let depth = 1; depth < parts.length; depth++) yield { name: parts.slice(0, depth).join('/') };
  yield* walk(from, to);
}

function* walk(from, name) {
  const stat = lstatSync(from);
  if (stat.isDirectory()) {
    yield { name };
    for (const entry of readdirSync(from)) yield* walk(`${from}/${entry}`, `${name}/${entry}`);
  } else if (stat.isSymbolicLink()) {
    yield { name, link: readlinkSync(from) };
  } else {
    yield { name, mode: stat.mode & 0o777, data: readFileSync(from) };
  }
}

function* entries({ work, command, initramfs, machine }) {
  for (const name of ['dev', 'proc', 'sys', 'tmp', 'run', 'busybox']) yield { name };
  for (const name of TAKEN)
    if (existsSync(`${EMULATED.root}/${name}`)) yield* take(`${EMULATED.root}/${name}`, name);
  yield { name: 'lib', link: 'usr/lib' };
  yield { name: 'bin', link: 'busybox' };
  const { kernel, busybox } = guestFiles('arm64');
  yield { name: 'busybox/busybox', data: readFileSync(busybox) };
  yield { name: 'busybox/sh', link: 'busybox' };
  for (const name of VIOMMU) yield* take(`${repository}packages/cli/${name}`, `viommu/${name}`);
  compileAddon(`${work}/viommu.node`);
  yield { name: 'viommu/dist/viommu.node', data: readFileSync(`${work}/viommu.node`) };
  yield { name: 'guest', mode: 0o755 };
  yield { name: 'guest/vmlinuz', data: readFileSync(kernel) };
  yield { name: 'guest/initramfs.gz', data: readFileSync(initramfs) };
  yield { name: 'machine.yaml', data: readFileSync(machine) };
  yield { name: 'command', data: Buffer.from(command) };
  yield { name: 'init', data: readFileSync(INIT) };
}

/**
 * Writes the file system to `file`.
 *
 * @param {string} file
 * @param {{ work: string, command: string, initramfs: string, machine: string }} content `command` is a shell script that
 *   the machine runs when it is up, `initramfs` that of the guest, `machine` viommu's machine file, `work` a directory for what is made on the way
 */
export function writeImage(file, content) {
  const seen = new Map();
  for (const entry of entries(content)) seen.set(entry.name, entry);
  writeFileSync(file, newc([...seen.values()]));
}
