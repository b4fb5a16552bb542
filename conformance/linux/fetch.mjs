#!/usr/bin/env node
// Fetches Linux's uAPI headers (linux-libc-dev) and the few sources that the conformance tests compile (linux-source)
// from Debian into .cache/, once. The system's apt is asked with a configuration of its own: nothing is installed and
// no list of the system changes.
//
// fetch.mjs [--mirror URL] [--force]

import { mkdirSync } from 'node:fs';
import { commandLine } from '../command-line.mjs';
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
  updateLists,
  versionsOf,
  withWork,
} from '../debian/apt.mjs';
import { cache, fetched, markFetched, RELEASE, tree } from './tree.mjs';

const SUITE = 'trixie-backports';
const SOURCE = `linux-source-${RELEASE}`;
const MEMBERS = [
  'include/uapi',
  'drivers/iommu/iommufd/iommufd_test.h',
  'tools/include',
  'tools/arch/x86/include',
  'tools/arch/arm64/include',
  'tools/testing/selftests/iommu',
  'tools/testing/selftests/kselftest.h',
  'tools/testing/selftests/kselftest_harness.h',
  'tools/testing/selftests/lib.mk',
  'tools/testing/selftests/vfio',
  // The VFIO selftests have drivers that share these with the kernel's, by symbolic links.
  'drivers/dma/idxd/registers.h',
  'drivers/dma/ioat/hw.h',
  'drivers/dma/ioat/registers.h',
  'drivers/net/ethernet/intel/igb/e1000_82575.h',
  'drivers/net/ethernet/intel/igb/e1000_defines.h',
  'drivers/net/ethernet/intel/igb/e1000_regs.h',
  'include/linux/mii.h',
  'include/linux/pci_ids.h',
  'scripts/subarch.include',
];

async function chooseVersion(apt) {
  const [version] = await versionsOf(apt, SOURCE);
  const libc = await versionsOf(apt, 'linux-libc-dev');
  if (version !== undefined && libc.includes(version)) return version;
  const { stdout } = await run('apt-cache', [...apt, 'pkgnames', 'linux-source-']);
  const there = stdout.split('\n').filter((name) => /^linux-source-\d/.test(name));
  throw new Trouble(
    `${SUITE} no longer has Linux ${RELEASE}: ${SOURCE} is ${version ?? 'gone'}, linux-libc-dev is ` +
      `${libc.join(', ') || 'gone'}${there.length > 0 ? `, and there is ${there.join(', ')}` : ''}. ` +
      `A .cache/linux-${RELEASE}/ of another machine will do; else the descriptions in packages/core/src/abi want ` +
      'moving on to the newer release.',
  );
}

async function fetchPackages(apt, work, version) {
  const names = ['linux-libc-dev', SOURCE];
  const packages = names.map((name) => `${name}=${version}`);
  const files = await download(apt, work, `Linux ${version}`, packages);
  const [libc, source] = names.map((name) => files.find((file) => file.includes(`/${name}_`)));
  return { libc, source };
}

async function unpackTree(files, work, version) {
  progress(`Unpacking Linux ${version} …`);
  mkdirSync(`${work}/tree/headers`, { recursive: true });
  mkdirSync(`${work}/tree/source`);
  const libc = await run('dpkg-deb', ['-x', files.libc, `${work}/tree/headers`]);
  // All in one pipe: the source package holds 160 MB in an archive in an archive.
  const pipe =
    'set -o pipefail; file=$1 name=$2 into=$3; shift 3; dpkg-deb --fsys-tarfile "$file" | ' +
    'tar -xO -f - "./usr/src/$name.tar.xz" | xz -dcT0 | tar -x --strip-components=1 -C "$into" -f - "$@"';
  const members = MEMBERS.map((member) => `${SOURCE}/${member}`);
  const source = await run('bash', [
    '-c',
    pipe,
    'bash',
    files.source,
    SOURCE,
    `${work}/tree/source`,
    ...members,
  ]);
  if (libc.status === 0 && source.status === 0) return;
  throw new Trouble(
    `Linux ${version} could not be unpacked; is the disk full? What the tools say:\n` +
      lastWords(libc.stderr + source.stderr),
  );
}

async function main() {
  const { values } = commandLine({
    options: { mirror: { type: 'string' }, force: { type: 'boolean', default: false } },
  });
  const there = values.force ? null : fetched();
  if (there !== null) {
    if (terminal) console.log(`Linux ${there.version} is in .cache/linux-${RELEASE}/.`);
    return;
  }
  needTools('What Linux has for programs');
  await withWork(cache, async (work) => {
    const apt = configureApt(work, values.mirror ?? findMirror(), { suites: [SUITE] });
    await updateLists(apt, [SUITE]);
    const version = await chooseVersion(apt);
    const files = await fetchPackages(apt, work, version);
    await unpackTree(files, work, version);
    markFetched(`${work}/tree`, version);
    putInPlace(`${work}/tree`, tree, { force: values.force, whole: () => fetched() !== null });
    progress('');
    console.log(`Linux ${version} is in .cache/linux-${RELEASE}/.`);
  });
}

await runScript('fetch.mjs', main);
