// A QEMU without a guest, driven over its qtest protocol, with an iommu-testdev that makes one DMA write of four bytes.

import { spawn, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { ensureQemu, qemuCommand, qemuModules } from '../../qemu/tree.mjs';

const MEMORY = '1G';
export const RAM_END = 0x4000_0000n;
/** No line's tables are from here on: what the recorder needs for itself. */
export const OWN_MEMORY = 0x3c00_0000n;

/** The device: PCI 00:04.0. */
export const DEVICE_ID = 0x20;
const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
const BAR0 = { register: 0x10, address: 0xe000_0000n };
const COMMAND = { register: 0x04, memoryAndMaster: 0x6 };

/** Registers of iommu-testdev (QEMU's docs/specs/iommu-testdev.rst). */
const REGISTER = {
  TRIGGER: 0x00n,
  ADDRESS_LO: 0x04n,
  ADDRESS_HI: 0x08n,
  LENGTH: 0x0cn,
  RESULT: 0x10n,
  DOORBELL: 0x14n,
  EXPECTED_LO: 0x1cn,
  EXPECTED_HI: 0x20n,
};
const BYTES = 4n;
const RESULT_DONE = 0n;
/** The write was not refused, but what it wrote is not where it was to be. */
const RESULT_ELSEWHERE = 0xdead_0004n;

const hex = (value) => `0x${value.toString(16)}`;
const low = (value) => value & 0xffff_ffffn;

/** `11.1.3` */
export function qemuVersion() {
  ensureQemu('x86');
  const [program, ...args] = qemuCommand('x86');
  const { stdout } = spawnSync(program, [...args, '-version'], { encoding: 'utf8' });
  return /version (\S+)/.exec(stdout)?.[1] ?? 'unknown';
}

export class Qtest {
  #child;
  #waiting = [];

  /** Starts QEMU; `iommu` is the -device option. */
  static async start(iommu) {
    ensureQemu('x86');
    const [program, ...args] = qemuCommand('x86');
    const machine = ['-machine', 'q35', '-m', MEMORY, '-accel', 'qtest', '-display', 'none', '-nodefaults'];
    const qtest = ['-qtest', 'stdio', '-qtest-log', '/dev/null'];
    const devices = ['-device', iommu, '-device', `iommu-testdev,addr=${hex(DEVICE_ID >> 3)}`];
    const child = spawn(program, [...args, ...machine, ...qtest, ...devices], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, QEMU_MODULE_DIR: qemuModules('x86') },
    });
    const made = new Qtest(child);
    await made.#findDevice();
    return made;
  }

  constructor(child) {
    this.#child = child;
    createInterface({ input: child.stdout }).on('line', (line) => this.#waiting.shift()?.resolve(line));
    child.on('exit', (code, signal) => {
      const error = new Error(`QEMU ended with ${code ?? signal}`);
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    });
    child.stdin.on('error', () => {});
  }

  async #ask(command) {
    const answer = await new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#child.stdin.write(`${command}\n`);
    });
    if (!answer.startsWith('OK')) throw new Error(`QEMU answers ${answer} to ${command}`);
    return answer.slice(3);
  }

  async #findDevice() {
    const config = async (register, value) => {
      await this.#ask(`outl ${CONFIG_ADDRESS} ${hex(0x8000_0000 + DEVICE_ID * 0x100 + register)}`);
      await this.#ask(`outl ${CONFIG_DATA} ${hex(value)}`);
    };
    await config(BAR0.register, BAR0.address);
    await config(COMMAND.register, COMMAND.memoryAndMaster);
  }

  read = async (bytes, address) => BigInt(await this.#ask(`read${bytes === 8 ? 'q' : 'l'} ${hex(address)}`));
  write = (bytes, address, value) =>
    this.#ask(`write${bytes === 8 ? 'q' : 'l'} ${hex(address)} ${hex(value)}`);
  /** Bytes in hexadecimal, as they lie in memory. */
  load = async (address, bytes) => (await this.#ask(`read ${hex(address)} ${bytes}`)).slice(2);
  store = (address, bytes) => this.#ask(`write ${hex(address)} ${bytes.length / 2} 0x${bytes}`);
  clear = (address, bytes) => this.#ask(`memset ${hex(address)} ${hex(bytes)} 0`);

  /** The device writes to `iova`: whether that arrives at `pa`, and how QEMU puts it. */
  async dma(iova, pa) {
    const set = (register, value) => this.write(4, BAR0.address + register, value);
    await Promise.all([
      set(REGISTER.ADDRESS_LO, low(iova)),
      set(REGISTER.ADDRESS_HI, iova >> 32n),
      set(REGISTER.EXPECTED_LO, low(pa)),
      set(REGISTER.EXPECTED_HI, pa >> 32n),
      set(REGISTER.LENGTH, BYTES),
      set(REGISTER.DOORBELL, 1n),
    ]);
    await this.read(4, BAR0.address + REGISTER.TRIGGER);
    const result = await this.read(4, BAR0.address + REGISTER.RESULT);
    // Nobody knows where it went: later lines must not find it.
    if (result === RESULT_ELSEWHERE) await this.clear(0x10_0000n, OWN_MEMORY - 0x10_0000n);
    else await this.clear(pa, BYTES);
    return { result: hex(result), landed: result === RESULT_DONE };
  }

  stop() {
    this.#child.stdin.end();
    this.#child.kill();
  }
}

/** Puts `mem` in memory, makes the DMA write by `run`, and takes everything away again. */
export async function withMemory(qtest, mem, run) {
  await Promise.all(mem.map(([address, word]) => qtest.store(BigInt(address), word)));
  try {
    return await run();
  } finally {
    await Promise.all(mem.map(([address]) => qtest.clear(BigInt(address), 8n)));
  }
}
