// Where fetch.mjs puts QEMU, and the kernels and programs of its guests.

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cache } from '../linux/tree.mjs';

export { cache };
export const tree = `${cache}/qemu`;

/** Debian's names of the machines that guests are. @typedef {'x86' | 'arm64'} Guest */
/** @type {Record<Guest, { program: string, packages: string[], architecture: string, kernel: string }>} */
export const GUESTS = {
  x86: {
    program: 'qemu-system-x86_64',
    packages: ['qemu-system-x86'],
    architecture: 'amd64',
    kernel: 'linux-image-cloud-amd64',
  },
  arm64: {
    program: 'qemu-system-aarch64',
    packages: ['qemu-system-arm'],
    architecture: 'arm64',
    kernel: 'linux-image-cloud-arm64',
  },
};

/**
 * Debian's kernel for any PC: unlike the one for virtual machines it has a driver for AMD's IOMMU, and the one for
 * virtio's. What the guest needs of it is in modules, in the order in which they are loaded.
 */
export const GENERIC = {
  name: 'x86-generic',
  architecture: 'amd64',
  kernel: 'linux-image-amd64',
  modules: [
    'drivers/iommu/virtio-iommu',
    ...['common/nvme-keyring', 'common/nvme-auth', 'host/nvme-core', 'host/nvme'].map(
      (name) => `drivers/nvme/${name}`,
    ),
    ...['lib/crc16', 'crypto/crc32c_generic', 'fs/mbcache', 'fs/jbd2/jbd2', 'fs/ext4/ext4'],
  ],
};

/** Counts up whenever what fetch.mjs takes, or where it puts that, changes. */
const RECIPE = 2;
const stamp = (part) => `${tree}/${part}/stamp.json`;

/**
 * An arm64 Linux with QEMU, Node and UEFI for QEMU's guests, to be run in an emulated machine that has virtualization;
 * and a C compiler for it.
 */
export const EMULATED = {
  name: 'emulated-arm64',
  root: `${tree}/emulated-arm64/root`,
  compiler: `${tree}/emulated-arm64/compiler`,
  packages: ['nodejs:arm64', 'qemu-system-arm:arm64', 'qemu-efi-aarch64'],
  compilerPackages: ['gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross'],
};

/** What fetch.mjs can be asked for. */
export const PARTS = [...Object.keys(GUESTS), GENERIC.name, EMULATED.name];

/** What lies there of a part, or null where it is absent or made by another version of fetch.mjs. */
export function fetched(part) {
  if (!existsSync(stamp(part))) return null;
  const content = JSON.parse(readFileSync(stamp(part), 'utf8'));
  return content.recipe === RECIPE ? content : null;
}

/** Marks the tree in `directory` as finished. */
export function markFetched(directory, content) {
  writeFileSync(`${directory}/stamp.json`, `${JSON.stringify({ recipe: RECIPE, ...content })}\n`);
}

/** Runs fetch.mjs where something is absent; ends this process where that fails, fetch.mjs having said why. */
export function ensureQemu(...parts) {
  const absent = parts.filter((part) => fetched(part) === null);
  if (absent.length === 0) return;
  const fetch = fileURLToPath(new URL('fetch.mjs', import.meta.url));
  const { status } = spawnSync(process.execPath, [fetch, ...absent], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status !== 0) process.exit(1);
}

function hostLibraries(guest) {
  return `${tree}/${guest}/host/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
}

/** Where QEMU has its modules: for QEMU_MODULE_DIR. */
export const qemuModules = (guest) => `${hostLibraries(guest)}/qemu`;

/** The command that starts QEMU for guests of a kind: with its own libraries, since this system's may be older. */
export function qemuCommand(guest) {
  const root = `${tree}/${guest}/host`;
  const arm = process.arch === 'arm64';
  const loader = arm ? 'lib/ld-linux-aarch64.so.1' : 'lib64/ld-linux-x86-64.so.2';
  const data = ['qemu', 'seabios'].map((name) => `${root}/usr/share/${name}`);
  return [
    `${root}/usr/${loader}`,
    '--library-path',
    hostLibraries(guest),
    `${root}/usr/bin/${GUESTS[guest].program}`,
    ...data.filter((directory) => existsSync(directory)).flatMap((directory) => ['-L', directory]),
  ];
}

/**
 * The kernel of guests of a kind, with the modules that they load, and a statically linked busybox for them.
 *
 * @param {Guest} guest
 * @param {string} kernel the part that has the kernel: of the guest itself, or {@link GENERIC}'s name
 */
export function guestFiles(guest, kernel = guest) {
  const [root, from] = [guest, kernel].map((part) => `${tree}/${part}/guest`);
  const modules =
    kernel === GENERIC.name ? GENERIC.modules.map((name) => `${from}/${basename(name)}.ko`) : [];
  return { kernel: `${from}/vmlinuz`, modules, busybox: `${root}/busybox` };
}
