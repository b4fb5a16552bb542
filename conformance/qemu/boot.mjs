// One run of QEMU: what its guest says on the serial port, and how it ended.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { createInterface } from 'node:readline';
import { writeInitramfs } from './initramfs.mjs';
import { connectQmp } from './qmp.mjs';
import { guestFiles, qemuCommand } from './tree.mjs';

/** KVM cannot go on with the guest. */
const INTERNAL_ERROR = /^KVM internal error/;
/** What guest.sh begins its lines with, behind the kernel's time. */
const SAID = /guest: (.*)$/;
const MACHINE = { x86: 'q35', arm64: 'virt,gic-version=3' };
const CPU = { x86: 'max', arm64: 'max,pauth-impdef=on' };
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

// On a busy machine an emulated timer may be so late that the kernel takes it for broken, and panics.
const FOR_EMULATION = { x86: 'no_timer_check', arm64: '' };

/** The command line of a guest's kernel. @param {string[]} uses what guest.sh is to try out */
export function kernelOptions(guest, append, uses) {
  return `console=${CONSOLE[guest]} panic=-1 ${FOR_EMULATION[guest]} ${append} viommu=${uses.join(',')}`;
}

/** QEMU's arguments for a guest of a kind. */
export function qemuArguments({
  guest,
  accel = 'tcg',
  kernel,
  memory = 512,
  initramfs,
  append = '',
  uses = [],
  args = [],
}) {
  return [
    ...['-machine', MACHINE[guest], '-accel', accel, '-cpu', accel === 'tcg' ? CPU[guest] : 'host'],
    ...['-m', String(memory), ...BARE],
    ...['-kernel', kernel, '-initrd', initramfs],
    ...['-append', kernelOptions(guest, append, uses)],
    ...args,
  ];
}

/**
 * Boots a guest, and waits until it powers off.
 *
 * @param {{ guest: 'x86' | 'arm64', prefix?: string[], append?: string, uses?: string[],
 *   args?: string[], accel?: 'tcg' | 'kvm', kernel?: string, distribution?: string, memory?: number, steps?: import('./monitor.mjs').Step[],
 *   timeout?: number, cwd?: string, onLine?: (line: string) => void }} options `prefix` is the command that runs QEMU; `append` goes
 *   to the kernel's command line, `uses` names what the guest tries out; `kernel` is another file than Debian's,
 *   `distribution` the part that has Debian's kernel (guestFiles()); `memory` is in MiB, `timeout` in seconds; `steps` are done by QEMU's monitor
 * @returns {Promise<Run>}
 */
export async function boot({ prefix = [], timeout = 120, cwd, onLine = () => {}, ...options }) {
  const directory = mkdtempSync(`${tmpdir()}/viommu-qemu-`);
  try {
    const initramfs = `${directory}/initramfs.gz`;
    const { guest, distribution = guest, steps = [] } = options;
    writeInitramfs(guest, initramfs, distribution);
    const socket = `${directory}/qmp`;
    const monitor = steps.length === 0 ? [] : ['-qmp', `unix:${socket},server=on,wait=off`];
    const { kernel = guestFiles(guest, distribution).kernel } = options;
    const command = [
      ...prefix,
      ...qemuCommand(guest),
      ...qemuArguments({ ...options, kernel, initramfs }),
      ...monitor,
    ];
    return await watch(command, timeout, onLine, { cwd, steps, socket });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Does each step once, when the guest says what begins it; `failed` hears of those that fail. */
function stepper(steps, socket, failed) {
  const left = [...steps];
  let qmp;
  const close = async () => (await qmp?.catch(() => null))?.close();
  const take = (words) => {
    const at = left.findIndex(({ said }) => said.test(words));
    if (at < 0) return;
    const [{ run }] = left.splice(at, 1);
    qmp ??= connectQmp(socket);
    qmp.then(run).catch((error) => failed(`failed in its monitor: ${error.message}`));
  };
  return { take, close };
}

/** Runs a command that boots a guest of ours, and reads what it prints. @returns {Promise<Run>} */
export function watch([program, ...args], timeout, onLine, { cwd = process.cwd(), steps = [], socket } = {}) {
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
    const monitor = stepper(steps, socket, (why) => (end ??= why));
    const take = (line) => {
      const clean = line.replace(/\r$/, '');
      lines.push(clean);
      const words = SAID.exec(clean)?.[1];
      if (words !== undefined) said.push(words);
      if (words !== undefined) monitor.take(words);
      // QEMU would leave the guest as it is.
      if (INTERNAL_ERROR.test(clean)) stop(`said "${clean}"`);
      onLine(clean);
    };
    for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', take);
    child.on('error', (error) => (end = `could not be started (${error.code})`));
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      monitor.close();
      for (const name of ['SIGINT', 'SIGTERM']) process.off(name, interrupted);
      if (status !== 0) end ??= signal === null ? `ended with status ${status}` : `was killed by ${signal}`;
      if (!said.some((words) => words.startsWith('done'))) end ??= 'did not boot to its end';
      resolve({ lines, said, seconds: (performance.now() - started) / 1000, trouble: end });
    });
  });
}
