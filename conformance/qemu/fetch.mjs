#!/usr/bin/env node
// Fetches QEMU with all its libraries, and a kernel and a busybox for its guests, from Debian into .cache/qemu/, once.
// Nothing is installed, and nothing of the system changes. What is fetched is Debian's, unmodified. `emulated-arm64` is
// what runs in an emulated arm64 machine of its own, see emulated/run.mjs; `x86-generic` another kernel for x86.
//
// fetch.mjs [--mirror URL] [--force] [x86] [arm64] [x86-generic] [emulated-arm64]

import { copyFileSync, mkdirSync, readdirSync } from 'node:fs';
import { basename } from 'node:path';
import { commandLine, expectKnown } from '../command-line.mjs';
import {
  configureApt,
  download,
  findMirror,
  lastWords,
  needTools,
  progress,
  putInPlace,
  run,
  runScript,
  terminal,
  Trouble,
  unpack,
  updateLists,
  withWork,
} from '../debian/apt.mjs';
import { cache, EMULATED, fetched, GENERIC, GUESTS, markFetched, PARTS, tree } from './tree.mjs';

const STABLE = 'trixie';
const BACKPORTS = 'trixie-backports';
const SUITES = [STABLE, BACKPORTS];
/** The first QEMU that puts its VT-d and its SMMUv3 on top of iommufd's nested domains. */
const QEMU_MIN = 11;
const HOST = process.arch === 'arm64' ? 'arm64' : 'amd64';

/** The first field of that name in what apt-cache says of a package. */
async function fieldOf(apt, name, field) {
  const { stdout } = await run('apt-cache', [...apt, '--no-all-versions', 'show', name]);
  return new RegExp(`^${field}: (.*)$`, 'm').exec(stdout)?.[1];
}

async function candidateOf(apt, name) {
  const { stdout } = await run('apt-cache', [...apt, '--target-release', BACKPORTS, 'policy', name]);
  return /Candidate: (?:\d+:)?(\S+)/.exec(stdout)?.[1];
}

async function fetchQemu(apt, work, guest) {
  const { packages } = GUESTS[guest];
  const version = await candidateOf(apt, packages[0]);
  if (!(Number.parseInt(version, 10) >= QEMU_MIN)) {
    const what = version === undefined ? 'no QEMU' : `QEMU ${version}`;
    throw new Trouble(`${BACKPORTS} has ${what}; what is tested here came with QEMU ${QEMU_MIN}.0.`);
  }
  const title = `QEMU ${version}`;
  const options = { dependencies: true, suite: BACKPORTS };
  const files = await download(apt, work, title, packages, options);
  await unpack(title, files, `${work}/tree/host`);
  return version;
}

/** The package that is meant by a name without a version. */
async function imageOf(apt, { architecture, kernel }) {
  const depends = (await fieldOf(apt, `${kernel}:${architecture}`, 'Depends')) ?? '';
  const image = /linux-image-\S+/.exec(depends)?.[0];
  if (image === undefined) throw new Trouble(`${STABLE} has no ${kernel} for ${architecture}.`);
  return image;
}

function keepKernel(unpacked, into) {
  const vmlinuz = readdirSync(`${unpacked}/boot`).find((name) => name.startsWith('vmlinuz-'));
  mkdirSync(into, { recursive: true });
  copyFileSync(`${unpacked}/boot/${vmlinuz}`, `${into}/vmlinuz`);
}

/** The kernel, and a busybox: they run in the guest, whose architecture need not be this machine's. */
async function fetchGuest(apt, work, guest) {
  const { architecture } = GUESTS[guest];
  const image = await imageOf(apt, GUESTS[guest]);
  const files = await download(apt, work, image, [
    `${image}:${architecture}`,
    `busybox-static:${architecture}`,
  ]);
  const [kernelFile, busyboxFile] = [image, 'busybox-static'].map((name) =>
    files.find((file) => file.includes(`/${name}_`)),
  );
  const into = `${work}/guest`;
  await unpack(image, [kernelFile], into, ['./boot']);
  await unpack('busybox', [busyboxFile], into, ['./usr/bin/busybox']);
  keepKernel(into, `${work}/tree/guest`);
  copyFileSync(`${into}/usr/bin/busybox`, `${work}/tree/guest/busybox`);
  return image;
}

async function fetchForGuest(apt, work, guest) {
  const qemu = await fetchQemu(apt, work, guest);
  const kernel = await fetchGuest(apt, work, guest);
  return { what: `QEMU ${qemu} and ${kernel}` };
}

async function fetchGeneric(apt, work) {
  const image = await imageOf(apt, GENERIC);
  const files = await download(apt, work, image, [`${image}:${GENERIC.architecture}`]);
  const [from, into] = [`${work}/generic`, `${work}/tree/guest`];
  await unpack(image, files, from, ['./boot', './usr/lib/modules']);
  keepKernel(from, into);
  const release = image.replace('linux-image-', '');
  for (const name of GENERIC.modules) {
    const module = `${from}/usr/lib/modules/${release}/kernel/${name}.ko.xz`;
    const { status, stderr } = await run('bash', [
      '-c',
      'xz -dc "$1" >"$2"',
      'bash',
      module,
      `${into}/${basename(name)}.ko`,
    ]);
    if (status !== 0) throw new Trouble(`${image} does not have the module ${name}:\n${lastWords(stderr)}`);
  }
  return { what: image };
}

async function fetchEmulated(apt, work) {
  const { packages, compilerPackages } = EMULATED;
  const qemu = await candidateOf(apt, 'qemu-system-arm:arm64');
  const title = `QEMU ${qemu} and Node for arm64`;
  const files = await download(apt, work, title, packages, { dependencies: true, suite: BACKPORTS });
  const isEfi = (file) => file.includes('/qemu-efi-aarch64_');
  await unpack(
    title,
    files.filter((file) => !isEfi(file)),
    `${work}/tree/root`,
  );
  await unpack(title, files.filter(isEfi), `${work}/tree/root`, ['./usr/share/qemu-efi-aarch64']);
  const compiler = 'a C compiler for arm64';
  const tools = await download(apt, work, compiler, compilerPackages, { dependencies: true });
  // Debian's own links need the other package's directories: all in one tree.
  await unpack(compiler, tools, `${work}/tree/compiler`);
  return { what: title };
}

function contentOf(part, apt, work) {
  if (part === EMULATED.name) return fetchEmulated(apt, work);
  return part === GENERIC.name ? fetchGeneric(apt, work) : fetchForGuest(apt, work, part);
}

async function fetchPart(part, mirror, force) {
  await withWork(cache, async (work) => {
    const guest = part === GENERIC.name ? GENERIC : GUESTS[part];
    const architectures = [...new Set([HOST, guest?.architecture ?? 'arm64'])];
    const apt = configureApt(work, mirror, { suites: SUITES, architectures });
    await updateLists(apt, SUITES);
    const content = await contentOf(part, apt, work);
    markFetched(`${work}/tree`, content);
    putInPlace(`${work}/tree`, `${tree}/${part}`, { force, whole: () => fetched(part) !== null });
    progress('');
    console.log(there(part, content));
  });
}

const there = (part, { what }) => `${what} are in .cache/qemu/${part}/.`;

async function main() {
  const { values, positionals } = commandLine({
    allowPositionals: true,
    options: { mirror: { type: 'string' }, force: { type: 'boolean', default: false } },
  });
  expectKnown('part', positionals, PARTS);
  for (const part of positionals.length === 0 ? ['x86'] : positionals) {
    const content = values.force ? null : fetched(part);
    if (content === null) {
      needTools('QEMU');
      await fetchPart(part, values.mirror ?? findMirror(), values.force);
    } else if (terminal) {
      console.log(there(part, content));
    }
  }
}

await runScript('fetch.mjs', main);
