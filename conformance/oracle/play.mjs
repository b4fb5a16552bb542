// Plays scripts of ioctls on a real kernel, in QEMU.

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { newc } from '../qemu/cpio.mjs';
import { BARE } from '../qemu/boot.mjs';
import { cache, qemuCommand } from '../qemu/tree.mjs';
import { splitTranscripts } from '../transcripts/compare.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const PROGRAMS = { init: here('init.c'), runner: here('../transcripts/runner.c') };
/** MiB: the scripts lie in memory, and each has an arena. */
const MEMORY = 1536;

/** Where build.mjs puts the kernel of a release. */
export const imageOf = (release) => `${cache}/oracle/${release}/bzImage`;

function program(name) {
  const file = `${cache}/oracle/${name}`;
  if (existsSync(file) && statSync(file).mtimeMs >= statSync(PROGRAMS[name]).mtimeMs) return file;
  mkdirSync(`${cache}/oracle`, { recursive: true });
  execFileSync('cc', ['-O1', '-static', '-o', file, PROGRAMS[name]], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return file;
}

/**
 * What a kernel answers to scripts.
 *
 * @param {string} image the kernel
 * @param {Map<string, string>} scripts by name
 * @param {number} timeout seconds
 * @returns {Promise<{ transcripts: Map<string, string[]>, trouble: string | null }>} the lines of each; those that
 *   begin with `!!` are of init.c. `trouble` says why they are not all there
 */
export async function playOnLinux(image, scripts, timeout) {
  const directory = mkdtempSync(`${tmpdir()}/viommu-oracle-`);
  try {
    const entries = [...scripts].map(([name, text]) => ({
      name: `scripts/${name}`,
      mode: 0o644,
      data: Buffer.from(text),
    }));
    const initramfs = `${directory}/initramfs`;
    writeFileSync(
      initramfs,
      newc([
        ...['init', 'runner'].map((name) => ({ name, data: readFileSync(program(name)) })),
        { name: 'scripts' },
        ...entries,
      ]),
    );
    mkdirSync(`${directory}/host`);
    const [qemu, ...args] = [
      ...qemuCommand('x86'),
      ...[
        '-machine',
        'q35',
        '-accel',
        'tcg',
        '-cpu',
        'max,la57=off',
        '-m',
        String(MEMORY),
        ...BARE,
        '-kernel',
        image,
        '-initrd',
        initramfs,
      ],
      ...['-append', 'console=ttyS0 panic=-1 quiet init=/init'],
      ...['-fsdev', `local,id=host,path=${directory}/host,security_model=none`],
      ...['-device', 'virtio-9p-pci,fsdev=host,mount_tag=host'],
    ];
    const said = await run(qemu, args, timeout);
    const out = `${directory}/host/out`;
    const transcripts = splitTranscripts(existsSync(out) ? readFileSync(out, 'latin1') : '');
    return { transcripts, trouble: said.includes('init: done') ? null : said };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function run(command, args, timeout) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    const timer = setTimeout(() => {
      said += `\ndid not end within ${timeout} s\n`;
      child.kill('SIGKILL');
    }, timeout * 1000);
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data));
    child.on('error', (error) => (said += error.message));
    child.on('close', () => {
      clearTimeout(timer);
      resolve(said);
    });
  });
}
