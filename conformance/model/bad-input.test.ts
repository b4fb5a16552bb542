import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { OpenFile } from '@viommu/core/memory/file';
import { Dice } from './script/dice.ts';
import { staysDone } from './faults.ts';
import { populate } from './populated.ts';
import type { Run } from './run.ts';
import { viommuResources } from './state.ts';

const LONG = process.env['VIOMMU_LONG'] !== undefined;
const CALLS_MIN = LONG ? 1_000_000 : 15_000;
const CALLS_MAX = 200;
const RUNS = CALLS_MIN / 50;

const ARENA = 0x2000_0000_0000n;
const AUX = 0x3000_0000_0000n;
const STRUCT = 0x4000_0000_0000n;
const STRUCT_END = 0x4000_0002_0000n;
const READ_ONLY = 0x5000_0000_0000n;
const STRUCT_BYTES = 512;
const ERRNO_MAX = 4095;

const EFAULT = 14;
/** Requests that may be done in part behind an errno, as in Linux. */
const PARTLY_DONE = new Set([0x86, 0x8d, 0x72]);

const POINTERS: readonly bigint[] = [
  STRUCT,
  STRUCT + 1n,
  STRUCT_END - 4n,
  STRUCT_END - 40n,
  READ_ONLY,
  READ_ONLY + 4096n - 24n,
  AUX,
  ARENA,
  0n,
  1n,
  0x7fff_ffff_f000n,
  0xffff_8000_0000_0000n,
  (1n << 64n) - 1n,
  (1n << 64n) - 8n,
];

const MAGIC = [0xdead, 0xdeadbeef, 0xbeefbeef, 0xfeedbeef, 0xdadbeef, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/** Eight bytes as programs put them there by mistake. */
function someBytes(dice: Dice, view: DataView, at: number): void {
  const word = (): number =>
    dice.weighted<() => number>([
      [8, () => 0],
      [10, () => dice.below(18)],
      [2, () => dice.pick(MAGIC)],
      [2, () => 1 << dice.below(32)],
      [2, () => dice.u32()],
    ])();
  const long = dice.weighted<() => bigint | null>([
    [12, () => null],
    [2, () => ARENA + BigInt(dice.below(64)) * 4096n],
    [2, () => AUX + BigInt(dice.below(4096))],
    [2, () => (1n << 24n) + BigInt(dice.below(512)) * 4096n],
    [2, () => BigInt(1 + dice.below(16)) * 4096n],
    [2, () => dice.u64()],
    [1, () => dice.pick(POINTERS)],
  ])();
  if (long !== null) view.setBigUint64(at, long, true);
  else {
    view.setUint32(at, word(), true);
    view.setUint32(at + 4, word(), true);
  }
}

interface BadCall {
  readonly text: string;
  /** The ioctl's number and its operation, 0 where it is none. */
  readonly command: number;
  readonly op: number;
  readonly rc: number;
}

/** Calls something with whatever comes. */
class Fuzzer {
  readonly run: Run = populate();
  readonly files: OpenFile[] = [];

  constructor() {
    const { process } = this.run.player;
    process.memory.map(READ_ONLY, 4096n, { writable: false });
    for (let fd = 0; fd < 64; fd++) {
      const file = process.file(fd);
      if (file !== null && 'ioctl' in file) this.files.push(file);
    }
  }

  resources(): string {
    return viommuResources(this.run.player.kernel, this.run.player.process);
  }

  call(dice: Dice): BadCall {
    const file = dice.once(8) ? dice.pick(this.files) : this.files[0]!;
    switch (dice.below(24)) {
      case 0:
        return this.#readOrWrite(dice, dice.pick(this.files));
      case 1:
        return this.#mmap(dice);
      default:
        return this.#ioctl(dice, file);
    }
  }

  #ioctl(dice: Dice, file: OpenFile): BadCall {
    const { task, process } = this.run.player;
    const bytes = new Uint8Array(STRUCT_BYTES);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at < 80; at += 8) someBytes(dice, view, at);
    const number = dice.once(6) ? dice.below(256) : dice.once(2) ? 0xa0 : 0x80 + dice.below(0x16);
    const sizes = [8, 12, 16, 24, 32, 40, 48, 72, 80, 0, 4, 512, 4096, 0xffff_ffff];
    view.setUint32(0, dice.once(8) ? dice.u32() : dice.pick(sizes), true);
    if (number === 0xa0) view.setUint32(4, dice.below(26), true);
    const arg = dice.once(4) ? dice.pick(POINTERS) : dice.once(64) ? dice.u64() : STRUCT;
    const command = (dice.once(32) ? dice.u32() << 8 : 0x3b00) | number;
    process.memory.write(arg, bytes);
    // Memory that cannot be written has what was meant for it too.
    process.memory.map(READ_ONLY, 4096n);
    process.memory.write(READ_ONLY, bytes);
    process.memory.write(READ_ONLY + 4096n - 24n, bytes.subarray(0, 24));
    process.memory.map(READ_ONLY, 4096n, { writable: false });
    const rc = file.ioctl(task, command, arg);
    const hex = Buffer.from(bytes.subarray(0, 80)).toString('hex');
    return {
      text: `ioctl ${command.toString(16)} ${arg.toString(16)} ${hex}`,
      command: number,
      op: view.getUint32(4, true),
      rc,
    };
  }

  #readOrWrite(dice: Dice, file: OpenFile): BadCall {
    const { task } = this.run.player;
    const count = dice.pick([0, 1, 8, 12, 40, 80, 400, 4096]);
    const va = dice.pick(POINTERS);
    const write = dice.once(2);
    const rc = (write ? file.write?.(task, va, count) : file.read?.(task, va, count)) ?? 0;
    return { text: `${write ? 'write' : 'read'} ${va.toString(16)} ${count}`, command: 0, op: 0, rc };
  }

  #mmap(dice: Dice): BadCall {
    const offset = dice.pick([0x1000n, 0x3000n, 0n, dice.u64()]);
    const length = dice.pick([0x2000n, 0x1000n, 0n, 1n, dice.u64()]);
    const rc = this.files[0]!.mmap!(this.run.player.task, offset, length, dice.below(8));
    return { text: `mmap ${offset.toString(16)} ${length.toString(16)}`, command: 0, op: 0, rc };
  }
}

function mayHaveChanged({ command, op, rc }: BadCall): boolean {
  return PARTLY_DONE.has(command) || (rc === -EFAULT && staysDone({ command, op, pasid: 0 }));
}

describe('whatever a program asks for', () => {
  test(
    'is answered with a number, and changes nothing where that is an errno',
    { timeout: LONG ? 3_600_000 : 300_000 },
    () => {
      let calls = 0;
      let refused = 0;
      const script = fc.property(
        fc.array(fc.noShrink(fc.nat({ max: 0xffff_ffff })), {
          minLength: 1,
          maxLength: CALLS_MAX,
          size: 'max',
        }),
        (seeds) => {
          const fuzzer = new Fuzzer();
          let before = fuzzer.resources();
          for (const seed of seeds) {
            const call = fuzzer.call(new Dice(seed));
            const after = fuzzer.resources();
            expect([call.text, Number.isInteger(call.rc) && call.rc >= -ERRNO_MAX]).toEqual([
              call.text,
              true,
            ]);
            if (call.rc < 0 && !mayHaveChanged(call)) expect([call.text, after]).toEqual([call.text, before]);
            if (call.rc < 0) refused++;
            before = after;
          }
          fuzzer.run.player.process.exit();
          expect(fuzzer.run.player.kernel.physical.frames.pinned).toBe(0);
          calls += seeds.length;
        },
      );
      fc.assert(script, { numRuns: RUNS });
      expect(calls).toBeGreaterThanOrEqual(CALLS_MIN);
      expect(refused).toBeGreaterThan(calls / 4);
      expect(refused).toBeLessThan(calls);
    },
  );
});
