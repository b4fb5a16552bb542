#!/usr/bin/env node
// QEMU's SMMUv3 on top of iommufd (arm-smmuv3,accel=on), which wants KVM on arm64: an emulated arm64 machine that has
// virtualization runs viommu, under it QEMU, and in that a guest whose own stage-1 tables are nested on viommu's.
// Three machines, one in the other, on any machine: it takes minutes where Node's and QEMU's start takes seconds.
//
// run.mjs [--verbose] [--keep DIRECTORY] [--timeout SECONDS] [--json FILE]
//
//   --verbose   shows what the guest prints
//   --keep      leaves what was printed in smmu-nested.log there

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { commandLine, atLeastOne } from '../../command-line.mjs';
import { writeReport } from '../../report.mjs';
import { BARE, kernelOptions, watch } from '../boot.mjs';
import { SMMU_NESTED } from '../cases.mjs';
import { MAKE_FILES, SHOW_FILES } from '../files.mjs';
import { writeInitramfs } from '../initramfs.mjs';
import { judge, tell } from '../judge.mjs';
import { EMULATED, ensureQemu, guestFiles, qemuCommand } from '../tree.mjs';
import { writeImage } from './image.mjs';

const QEMU = [
  ...['qemu-system-aarch64', '-machine', 'virt,gic-version=3', '-accel', 'kvm', '-cpu', 'host', '-m', '512'],
  // accel=on wants ACPI, and so UEFI.
  ...['-bios', '/usr/share/qemu-efi-aarch64/QEMU_EFI.fd'],
  ...BARE,
  ...['-kernel', '/guest/vmlinuz', '-initrd', '/guest/initramfs.gz'],
];
/** The lines of the trace that leave the machine, which has only a serial port to say things. */
const TRACED = 'IOMMU_(HWPT|VIOMMU|VDEVICE|VEVENTQ|IOAS)_';

const quote = (word) => `'${word.replaceAll("'", "'\\''")}'`;

/** What the machine does: a shell script. */
function commandOf({ shell, args, append, uses }) {
  const qemu = [...shell, ...QEMU, '-append', kernelOptions('arm64', append, uses), ...args];
  const viommu = 'node /viommu/bin/viommu.js run --machine /machine.yaml --trace trace --';
  return [
    `cd /tmp; ${MAKE_FILES}`,
    `${viommu} ${qemu.map(quote).join(' ')}`,
    `grep -E '${TRACED}' trace | sed 's/^/trace: /'`,
    `${SHOW_FILES}\n`,
  ].join('\n');
}

/** The emulated machine. Its memory holds its file system twice while it starts. */
function outerCommand(image) {
  return [
    ...qemuCommand('arm64'),
    ...['-machine', 'virt,virtualization=on,gic-version=3', '-accel', 'tcg,thread=multi'],
    ...['-cpu', 'neoverse-n1', '-smp', '2', '-m', '3G', ...BARE],
    ...['-kernel', guestFiles('arm64').kernel, '-initrd', image],
    ...['-append', 'console=ttyAMA0 panic=-1 quiet'],
  ];
}

const { values: options } = commandLine({
  options: {
    verbose: { type: 'boolean', default: false },
    keep: { type: 'string' },
    timeout: { type: 'string', default: '900' },
    json: { type: 'string' },
  },
});
const timeout = atLeastOne('--timeout', options.timeout);
ensureQemu('arm64', EMULATED.name);
const work = mkdtempSync(`${tmpdir()}/viommu-qemu-`);
try {
  const test = SMMU_NESTED;
  const [image, initramfs] = [`${work}/image.cpio`, `${work}/initramfs.gz`];
  writeInitramfs('arm64', initramfs);
  writeImage(image, { work, command: commandOf(test), initramfs, machine: test.machine });
  const onLine = (line) => {
    if (options.verbose) console.log(line);
  };
  const run = await watch(outerCommand(image), timeout, onLine);
  if (options.keep !== undefined) {
    mkdirSync(options.keep, { recursive: true });
    writeFileSync(`${options.keep}/${test.name}.log`, `${run.lines.join('\n')}\n`);
  }
  const traced = run.lines.filter((line) => line.startsWith('trace: '));
  const left = run.lines.filter((line) => line.startsWith('left: ')).length;
  const wrong = judge(test, run, traced);
  if (left !== test.uses.length) wrong.push(`the devices' files have ${left} of ${test.uses.length} things`);
  tell(test, run, wrong, options.verbose);
  const fail = wrong.length === 0 ? 0 : 1;
  writeReport(options.json, { pass: 1 - fail, fail, skip: 0, failures: fail === 0 ? [] : [test.name] });
  process.exitCode = fail;
} finally {
  rmSync(work, { recursive: true, force: true });
}
