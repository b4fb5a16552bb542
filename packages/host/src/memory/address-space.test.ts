import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pid } from 'node:process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type CurrentCall, HostAddressSpace } from './address-space.ts';
import { Mailbox, type Native } from '../native.ts';
import { parseMaps } from '../processes/proc-text.ts';
import { SharedFiles } from './shared-files.ts';
import { Harness } from '../testing/harness.ts';

let harness: Harness;
let memory: HostAddressSpace;
let native: Native;
const current: CurrentCall = { tid: 0, memory: null, prefetchHi: 0, prefetchLo: 0, prefetched: 0 };
/** A mapping of this process's program: its bytes do not change. */
let text: { start: bigint; bytes: Uint8Array };

beforeAll(async () => {
  // Builds the addon where nobody has.
  harness = await Harness.create();
  native = createRequire(import.meta.url)('../../native/build/viommu.node') as Native;
  const box = new Mailbox(native.create([]) as ArrayBuffer);
  const shared = new SharedFiles(native, box, () => []);
  const host = {
    native,
    box,
    current,
    shared,
    unlimitedPins: false,
    placeholdersMapped: false,
    isPlaceholder: () => false,
  };
  memory = new HostAddressSpace(host, pid);
  const lines = parseMaps(readFileSync('/proc/self/maps', 'utf8'));
  const line = lines.find(
    (each) => !each.writable && each.inode !== 0n && each.end - each.start > 1n << 20n,
  )!;
  const bytes = new Uint8Array(1 << 20);
  const fd = openSync(line.name, 'r');
  readSync(fd, bytes, 0, bytes.length, Number(line.offset));
  closeSync(fd);
  text = { start: line.start, bytes };
});
afterAll(() => {
  native.close();
  harness.remove();
});

/** Offsets and bytes in the mapping, as HostAddressSpace.gather() takes them. */
function placesOf(runs: readonly (readonly [offset: number, bytes: number])[]): Uint32Array {
  const word = (value: bigint): number => Number(BigInt.asUintN(32, value));
  return Uint32Array.from(
    runs.flatMap(([offset, bytes]) => {
      const va = text.start + BigInt(offset);
      return [word(va), word(va >> 32n), bytes];
    }),
  );
}

describe('memory in several places', () => {
  test('is read at once, in the order that was asked for', () => {
    const runs = Array.from({ length: 256 }, (_, i) => [((i * 97) % 256) * 4096 + 8, 4000] as const);
    const into = new Uint8Array(256 * 4000);
    expect(memory.gather(placesOf(runs), into)).toBe(true);
    const expected = runs.map(([offset, bytes]) => text.bytes.subarray(offset, offset + bytes));
    expect(Buffer.compare(into, Buffer.concat(expected))).toBe(0);
  });

  test('is refused as a whole where one of them is not there', () => {
    const hole = placesOf([
      [0, 16],
      [0, 16],
    ]);
    hole[3] = 4096;
    hole[4] = 0;
    expect(memory.gather(hole, new Uint8Array(32))).toBe(false);
  });

  test('is refused where the bytes do not add up, and where there are too many', () => {
    const some = placesOf([
      [0, 16],
      [64, 16],
    ]);
    expect(memory.gather(some, new Uint8Array(32))).toBe(true);
    expect(memory.gather(some, new Uint8Array(31))).toBe(false);
    expect(memory.gather(some, new Uint8Array(33))).toBe(false);
    const many = Array.from({ length: 257 }, (_, i) => [i * 8, 8] as const);
    expect(memory.gather(placesOf(many), new Uint8Array(257 * 8))).toBe(false);
  });

  test('is not read by the number of a process that may be another one', () => {
    const some = placesOf([
      [0, 16],
      [64, 16],
    ]);
    memory.idMayBeStale = true;
    expect(memory.gather(some, new Uint8Array(32))).toBe(false);
    const one = new Uint8Array(1 << 16);
    expect(memory.read(text.start, one)).toBe(true);
    expect(Buffer.compare(one, text.bytes.subarray(0, one.length))).toBe(0);
  });
});

test('pinned bytes are reached whatever the protection of their page, during a call as otherwise', () => {
  const lines = parseMaps(readFileSync('/proc/self/maps', 'utf8'));
  // Guard pages of threads are such.
  const guard = lines.find((each) => !each.readable && !each.shared && each.inode === 0n)!;
  const into = new Uint8Array(8).fill(1);
  Object.assign(current, { tid: pid, memory });
  expect([memory.read(guard.start, into), memory.readPinned(guard.start, into)]).toEqual([false, true]);
  Object.assign(current, { tid: 0, memory: null });
  expect(memory.readPinned(guard.start, into)).toBe(true);
  expect([...into]).toEqual(Array(8).fill(0));
  expect(memory.readPinned(4096n, into)).toBe(false);
});
