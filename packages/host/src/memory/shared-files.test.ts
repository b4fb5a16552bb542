import { ftruncateSync, openSync, readdirSync, readlinkSync, unlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { Mailbox, type Native } from '../native.ts';
import { Harness } from '../testing/harness.ts';
import { SharedFiles } from './shared-files.ts';

const NAME = `/dev/shm/viommu-test-${process.pid}`;
let harness: Harness;
let native: Native;
let files: SharedFiles;

beforeAll(async () => {
  // Builds the addon where nobody has.
  harness = await Harness.create();
  native = createRequire(import.meta.url)('../../native/build/viommu.node') as Native;
});
beforeEach(() => {
  files = new SharedFiles(native, new Mailbox(native.create([]) as ArrayBuffer), () => []);
});
afterAll(() => {
  native.close();
  harness.remove();
});

/** A descriptor of a file on tmpfs that has no name. */
function memory(): number {
  const fd = openSync(NAME, 'wx+');
  unlinkSync(NAME);
  ftruncateSync(fd, 8192);
  return fd;
}

/** The descriptors of such files that are open. */
function open(): string[] {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(NAME);
    } catch {
      return false; // that of the directory
    }
  });
}

test('a file that nobody holds stays open to the end of the next call, and longer while it is looked for', () => {
  const file = files.adopt(memory())!;
  files.settle();
  expect(open().length).toBe(1);
  expect(files.adopt(openSync(`/proc/self/fd/${open()[0]}`, 'r+'))).toBe(file);
  expect(open().length).toBe(1);
  files.settle();
  expect(open().length).toBe(1);
  files.settle();
  expect(open().length).toBe(0);
});

test('a file that is held stays open until it is released', () => {
  const file = files.adopt(memory())!;
  file.retain();
  files.settle();
  files.settle();
  files.settleAll();
  expect(open().length).toBe(1);
  file.release();
  expect(open().length).toBe(0);
});

test('all that nobody holds is let go when a process has gone', () => {
  files.adopt(memory());
  files.settleAll();
  expect(open().length).toBe(0);
});

test.each([1, 4096, 4097])('%d bytes are written to a file and read from it', (length) => {
  const file = files.adopt(memory())!;
  const bytes = Uint8Array.from({ length }, (_, i) => i * 7);
  expect(file.write(3n, bytes)).toBe(true);
  const into = new Uint8Array(length);
  expect(file.read(3n, into)).toBe(true);
  expect(Buffer.compare(into, bytes)).toBe(0);
  expect(file.read(8193n - BigInt(length), into)).toBe(false);
  files.settleAll();
});
