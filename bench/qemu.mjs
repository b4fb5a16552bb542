// What a guest of QEMU has to wait where its disk is viommu's, beside QEMU's own NVMe behind QEMU's own VT-d.
//
//   node bench/qemu.mjs
//
// Both boot the same kernel with the same QEMU in software emulation, translate the disk's DMA by the guest's own
// first-stage tables, make a file system, and write and read a file. They take turns, and the best of each counts.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { boot } from '../conformance/qemu/boot.mjs';
import { byDescriptor, machineFile, NESTED } from '../conformance/qemu/cases.mjs';
import { makeFiles } from '../conformance/qemu/files.mjs';
import { ensureQemu } from '../conformance/qemu/tree.mjs';

const TURNS = 3;
const viommu = fileURLToPath(new URL('../packages/cli/bin/viommu.js', import.meta.url));

/** The seconds of a boot from the start of QEMU to its end, and those that the guest spent on its disk. */
async function measure(options, cwd) {
  makeFiles(cwd);
  const run = await boot({ guest: 'x86', append: 'intel_iommu=on,sm_on', cwd, ...options });
  const spent = run.said.map((words) => /^time nvme (\S+) (\S+)/.exec(words)).find((match) => match !== null);
  const worked = run.said.some((words) => words.startsWith('ok nvme'));
  if (run.trouble !== null || !worked || spent === undefined)
    throw new Error(`QEMU ${run.trouble ?? 'booted, but its guest could not use the disk'}`);
  return { boot: run.seconds, disk: Number(spent[2]) - Number(spent[1]) };
}

async function race(contenders, cwd) {
  const times = contenders.map(() => ({ boot: Infinity, disk: Infinity }));
  for (let turn = 0; turn < TURNS; turn++) {
    for (const [at, options] of contenders.entries()) {
      const { boot: seconds, disk } = await measure(options, cwd);
      times[at] = { boot: Math.min(times[at].boot, seconds), disk: Math.min(times[at].disk, disk) };
    }
  }
  return times;
}

/** QEMU's own disk. */
function emulated() {
  const drive = 'if=none,id=disk0,file=disk.img,format=raw,cache=unsafe';
  return {
    args: [...NESTED, '-drive', drive, '-device', 'nvme,drive=disk0,serial=1,addr=4.0'],
    uses: ['nvme'],
  };
}

/** viommu's. */
function ours() {
  const { shell, args, uses } = byDescriptor(['nvme']);
  const run = [
    process.execPath,
    viommu,
    'run',
    '--unlimited-pins',
    '--machine',
    machineFile('intel'),
    '--quiet',
    '--',
  ];
  return { prefix: [...run, ...shell], args: [...NESTED, ...args], uses };
}

ensureQemu('x86');
const directory = mkdtempSync(`${tmpdir()}/viommu-bench-`);
try {
  const [theirs, mine] = await race([emulated(), ours()], directory);
  const line = (title, key) =>
    console.log(
      `${title}: ${mine[key].toFixed(2)} s, ${theirs[key].toFixed(2)} s with QEMU's own, ` +
        `${(mine[key] / theirs[key]).toFixed(2)} times`,
    );
  line('guest from start to power off', 'boot');
  line('in it: file system, 1 MiB written, read back', 'disk');
} finally {
  rmSync(directory, { recursive: true, force: true });
}
