// One run of QEMU: what its guest says on the serial port, and how it ended.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { createInterface } from 'node:readline';
import { writeInitramfs } from './initramfs.mjs';
import { guestFiles, qemuCommand } from './tree.mjs';

/** What guest.sh begins its lines with, behind the kernel's time. */
const SAID = /guest: (.*)$/;
const MACHINE = {
  x86: ['-machine', 'q35', '-cpu', 'max'],
  arm64: ['-machine', 'virt,gic-version=3', '-cpu', 'max,pauth-impdef=on'],
};
const CONSOLE = { x86: 'ttyS0', arm64: 'ttyAMA0' };
/** No device, no configuration and no window but what is asked for. */
export const BARE = '-nodefaults -no-user-config -display none -serial stdio -monitor none -no-reboot'.split(
  ' ',
);

/**
 * @typedef {object} Run
 * @property {string[]} lines all that QEMU and the guest's kernel printed
 * @property {string[]} said what guest.sh said, without "guest:"
 * @property {number} seconds
 * @property {string | null} trouble why it is no proper end, or null
 */

/** The command line of a guest's kernel. @param {string[]} uses what guest.sh is to try out */
export function kernelOptions(guest, append, uses) {
  return `console=${CONSOLE[guest]} panic=-1 ${append} viommu=${uses.join(',')}`;
}

/** QEMU's arguments for a guest of a kind. */
export function qemuArguments({ guest, memory = 512, initramfs, append = '', uses = [], args = [] }) {
  const { kernel } = guestFiles(guest);
  return [
    ...MACHINE[guest],
    ...['-accel', 'tcg', '-m', String(memory)],
    ...BARE,
    ...['-kernel', kernel, '-initrd', initramfs],
    ...['-append', kernelOptions(guest, append, uses)],
    ...args,
  ];
}

/**
 * Boots a guest, and waits until it powers off.
 *
 * @param {{ guest: 'x86' | 'arm64', prefix?: string[], append?: string, uses?: string[],
 *   args?: string[], memory?: number,
 *   timeout?: number, cwd?: string, onLine?: (line: string) => void }} options `prefix` is the command that runs QEMU; `append` goes
 *   to the kernel's command line, `uses` names what the guest tries out; `memory` is in MiB, `timeout` in seconds
 * @returns {Promise<Run>}
 */
export async function boot({ prefix = [], timeout = 120, cwd, onLine = () => {}, ...options }) {
  const directory = mkdtempSync(`${tmpdir()}/viommu-qemu-`);
  try {
    const initramfs = `${directory}/initramfs.gz`;
    writeInitramfs(options.guest, initramfs);
    const command = [...prefix, ...qemuCommand(options.guest), ...qemuArguments({ ...options, initramfs })];
    return await watch(command, timeout, onLine, cwd);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Runs a command that boots a guest of ours, and reads what it prints. @returns {Promise<Run>} */
export function watch([program, ...args], timeout, onLine, cwd = process.cwd()) {
  return new Promise((resolve) => {
    const started = performance.now();
    const [lines, said] = [[], []];
    let end = null;
    // A group of its own: QEMU is a child of viommu, and both must go.
    const child = spawn(program, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    const stop = (why) => {
      end ??= why;
      process.kill(-child.pid, 'SIGKILL');
    };
    const timer = setTimeout(() => stop(`did not end within ${timeout} s`), timeout * 1000);
    const interrupted = () => stop('was interrupted');
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, interrupted);
    const take = (line) => {
      const clean = line.replace(/\r$/, '');
      lines.push(clean);
      const words = SAID.exec(clean)?.[1];
      if (words !== undefined) said.push(words);
      onLine(clean);
    };
    for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', take);
    child.on('error', (error) => (end = `could not be started (${error.code})`));
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      for (const name of ['SIGINT', 'SIGTERM']) process.off(name, interrupted);
      if (status !== 0) end ??= signal === null ? `ended with status ${status}` : `was killed by ${signal}`;
      if (!said.some((words) => words.startsWith('done'))) end ??= 'did not boot to its end';
      resolve({ lines, said, seconds: (performance.now() - started) / 1000, trouble: end });
    });
  });
}
