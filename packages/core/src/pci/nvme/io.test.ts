import { describe, expect, test } from 'vitest';
import fc from 'fast-check';
import { MemoryDisk, type BlockBackend } from './block.ts';
import { ADMIN, DOORBELLS, IO, REG, SC, SGL } from './spec.ts';
import { MEMORY, NvmeDriver } from './testing/driver.ts';

const BLOCK = 512;

function ready(disk?: BlockBackend): NvmeDriver {
  const driver = new NvmeDriver(disk);
  driver.enable();
  driver.createQueue(1);
  return driver;
}

/** Pages of memory filled with what tells them apart, and the bytes. */
function filled(driver: NvmeDriver, bytes: number, seed = 1): number {
  const at = driver.allocate(bytes);
  for (let i = 0; i < bytes; i++) driver.port.bytes[at + i] = (i * 7 + (i >> 9) + seed) & 0xff;
  return at;
}

function bytesAt(driver: NvmeDriver, at: number, length: number): Uint8Array {
  return driver.port.bytes.slice(at, at + length);
}

describe('reads and writes', () => {
  test('of one page, from any offset in it', () => {
    const driver = ready();
    const from = filled(driver, 4096);
    const into = driver.allocate(4096);
    expect(driver.io(IO.WRITE, 5, 2, { prp1: from + 512 }).status).toBe(SC.SUCCESS);
    expect(driver.io(IO.READ, 5, 2, { prp1: into + 1024 }).status).toBe(SC.SUCCESS);
    expect(bytesAt(driver, into + 1024, 1024)).toEqual(bytesAt(driver, from + 512, 1024));
    expect(driver.io(IO.READ, 5, 1, { prp1: into + 2 }).status).toBe(SC.PRP_INVALID_OFFSET);
  });

  test('of two pages by PRP2, and of many by a list of lists', () => {
    const driver = ready();
    const bytes = 600 * BLOCK;
    const from = filled(driver, bytes);
    const pages = Array.from({ length: bytes / 4096 }, (_, i) => from + i * 4096);
    // The list starts so near the end of its page that it goes on twice.
    const lists = [
      driver.allocate(4096) + 4096 - 40,
      driver.allocate(4096) + 4096 - 24,
      driver.allocate(4096),
    ];
    const rest = pages.slice(1);
    for (const [index, list] of lists.entries()) {
      const room = index === 2 ? rest.length : (4096 - (list % 4096)) / 8 - 1;
      const own = rest.splice(0, room);
      for (const [i, page] of own.entries()) driver.view.setBigUint64(list + i * 8, BigInt(page), true);
      const next = lists[index + 1];
      if (next !== undefined) driver.view.setBigUint64(list + room * 8, BigInt(next), true);
    }
    expect(driver.io(IO.WRITE, 0, 600, { prp1: from, prp2: lists[0]! }).status).toBe(SC.SUCCESS);
    const into = driver.allocate(8192);
    expect(driver.io(IO.READ, 592, 8, { prp1: into, prp2: into + 4096 }).status).toBe(SC.SUCCESS);
    expect(bytesAt(driver, into, 4096)).toEqual(bytesAt(driver, from + 592 * BLOCK, 4096));
    const two = driver.io(IO.READ, 0, 12, { prp1: into + 2048, prp2: into + 4096 });
    expect([two.status, bytesAt(driver, into + 2048, 6144)]).toEqual([0, bytesAt(driver, from, 6144)]);
    expect(driver.io(IO.READ, 0, 16, { prp1: into, prp2: into + 4104 }).status).toBe(SC.PRP_INVALID_OFFSET);
  });

  test('by SGL: one block, and a segment with a last segment', () => {
    const driver = ready();
    const from = filled(driver, 4096);
    const inline = (type: number): bigint => BigInt(type) << 124n;
    const describe_ = (address: number, length: number, type: number): { prp1: number; prp2: bigint } => ({
      prp1: address,
      prp2: BigInt(length) | (inline(type) >> 64n),
    });
    const sgl = { flags: 0x40 };
    expect(driver.io(IO.WRITE, 0, 8, { ...sgl, ...describe_(from, 4096, SGL.DATA_BLOCK) }).status).toBe(0);
    const list = driver.allocate(4096);
    const put = (at: number, address: number, length: number, type: number): void => {
      driver.view.setBigUint64(at, BigInt(address), true);
      driver.view.setUint32(at + 8, length, true);
      driver.view.setUint32(at + 12, type << 28, true);
    };
    const into = driver.allocate(4096);
    put(list, into, 100, SGL.DATA_BLOCK);
    put(list + 16, list + 64, 32, SGL.LAST_SEGMENT);
    put(list + 64, into + 100, 0, SGL.DATA_BLOCK);
    put(list + 80, into + 100, 412, SGL.DATA_BLOCK);
    const read = { ...sgl, ...describe_(list, 32, SGL.SEGMENT) };
    expect(driver.io(IO.READ, 0, 1, read).status).toBe(SC.SUCCESS);
    expect(bytesAt(driver, into, 512)).toEqual(bytesAt(driver, from, 512));
    expect(driver.io(IO.READ, 0, 2, read).status).toBe(SC.SGL_INVALID_LENGTH);
    put(list + 80, into + 100, 412, 5);
    expect(driver.io(IO.READ, 0, 1, read).status).toBe(SC.SGL_INVALID_TYPE);
    put(list + 80, list, 32, SGL.SEGMENT);
    expect(driver.io(IO.READ, 0, 1, read).status).toBe(SC.SGL_INVALID_SEGMENT);
    put(list + 16, list, 32, SGL.SEGMENT);
    expect(driver.io(IO.READ, 0, 1, read).status).toBe(SC.SGL_INVALID_COUNT);
  });

  test('where they may not be are refused', () => {
    const driver = ready();
    const at = driver.allocate(4096);
    expect(driver.io(IO.READ, 2047, 2, { prp1: at }).status).toBe(SC.LBA_RANGE);
    expect(driver.io(IO.READ, 2n ** 64n - 1n, 2, { prp1: at }).status).toBe(SC.LBA_RANGE);
    expect(driver.io(IO.READ, 0, 1, { prp1: at, nsid: 2 })).toMatchObject({
      status: SC.INVALID_NAMESPACE,
      dnr: true,
    });
    expect(driver.io(0x7f, 0, 1).status).toBe(SC.INVALID_OPCODE);
    expect(driver.io(IO.READ, 0, 1, { prp1: at, flags: 1 }).status).toBe(SC.INVALID_FIELD);
    expect(driver.io(IO.READ, 0, 1025, { prp1: at }).status).toBe(SC.INVALID_FIELD);
    expect(driver.io(IO.READ, 0, 1, { prp1: MEMORY })).toMatchObject({
      status: SC.DATA_TRANSFER_ERROR,
      dnr: false,
    });
  });
});

describe('the other commands', () => {
  test('compare, zero and deallocate blocks', () => {
    const driver = ready();
    const at = filled(driver, 4096);
    driver.io(IO.WRITE, 0, 8, { prp1: at });
    expect(driver.io(IO.COMPARE, 0, 8, { prp1: at }).status).toBe(SC.SUCCESS);
    driver.io(IO.WRITE_ZEROES, 2, 2);
    expect(driver.io(IO.COMPARE, 0, 8, { prp1: at }).status).toBe(SC.COMPARE_FAILED);
    const range = driver.allocate(4096);
    driver.view.setUint32(range + 4, 1, true);
    driver.view.setBigUint64(range + 8, 7n, true);
    expect(driver.submit(1, { opcode: IO.DSM, nsid: 1, prp1: range, words: [0, 4] }).status).toBe(0);
    const into = driver.allocate(4096);
    driver.io(IO.READ, 0, 8, { prp1: into });
    const zero = (block: number): boolean =>
      bytesAt(driver, into + block * BLOCK, BLOCK).every((byte) => byte === 0);
    expect(Array.from({ length: 8 }, (_, block) => zero(block))).toEqual([
      false,
      false,
      true,
      true,
      false,
      false,
      false,
      true,
    ]);
    driver.view.setBigUint64(range + 8, 2048n, true);
    expect(driver.submit(1, { opcode: IO.DSM, nsid: 1, prp1: range, words: [0, 4] })).toMatchObject({
      status: SC.LBA_RANGE,
    });
    expect(driver.submit(1, { opcode: IO.FLUSH, nsid: 0xffff_ffff }).status).toBe(SC.SUCCESS);
  });

  test('fail as the medium does', () => {
    const bad: BlockBackend = {
      blockBytes: 4096,
      blocks: 8n,
      readOnly: false,
      read: () => false,
      write: () => false,
      zero: () => false,
      flush: () => false,
    };
    const driver = ready(bad);
    const at = driver.allocate(4096);
    expect(driver.io(IO.READ, 0, 1, { prp1: at }).status).toBe(SC.READ_ERROR);
    expect(driver.io(IO.WRITE, 0, 1, { prp1: at }).status).toBe(SC.WRITE_FAULT);
    expect(driver.io(IO.WRITE_ZEROES, 0, 1).status).toBe(SC.WRITE_FAULT);
    expect(driver.submit(1, { opcode: IO.FLUSH, nsid: 1 }).status).toBe(SC.WRITE_FAULT);
    const locked = ready({ ...bad, readOnly: true });
    expect(locked.io(IO.WRITE, 0, 1, { prp1: at }).status).toBe(SC.READ_ONLY);
    expect(locked.io(IO.WRITE_ZEROES, 0, 1).status).toBe(SC.READ_ONLY);
  });
});

function isAll(words: Uint32Array, value: number): boolean {
  for (let i = 0; i < words.length; i++) if (words[i] !== value) return false;
  return true;
}

/** A driver whose controller may reach its queues and eight pages; the rest of memory has a known content. */
function fenced(): { driver: NvmeDriver; pages: readonly number[]; untouched: () => boolean } {
  const driver = ready();
  const first = driver.allocate(8 * 4096) / 4096;
  const pages = Array.from({ length: 8 }, (_, i) => first + i);
  const allowed = new Set(Array.from({ length: first + 8 }, (_, i) => i));
  driver.port.allowed = allowed;
  const beyond = (first + 8) * 4096;
  driver.port.bytes.fill(0xa5, beyond);
  const words = new Uint32Array(driver.port.bytes.buffer, beyond);
  return { driver, pages, untouched: () => isAll(words, 0xa5a5_a5a5) };
}

const addresses = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.nat(MEMORY + 8192).map(BigInt),
  fc.nat(1100).map((page) => BigInt(page) * 4096n),
);
const word = fc.oneof(fc.nat(0xffff_ffff), fc.nat(40), fc.constantFrom(0, 0xffff, 0x1_0000, 2 ** 31));
const command = fc.record({
  opcode: fc.oneof(fc.constantFrom<number>(...Object.values(IO), ...Object.values(ADMIN)), fc.nat(255)),
  flags: fc.constantFrom(0, 0, 0, 0x40, 0x80, 1),
  nsid: fc.constantFrom(1, 1, 1, 0, 2, 0xffff_ffff),
  prp1: addresses,
  prp2: addresses,
  words: fc.array(word, { minLength: 6, maxLength: 6 }),
});

describe('whatever a guest does', () => {
  test('commands end in a status, or the controller in a fatal one; memory beyond what is allowed stays', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ queue: fc.nat(1), command }), { minLength: 1, maxLength: 40 }),
        fc.array(fc.tuple(fc.nat(4095), addresses), { maxLength: 64 }),
        (commands, lists) => {
          const { driver, pages, untouched } = fenced();
          for (const [at, address] of lists)
            driver.view.setBigUint64(pages[0]! * 4096 + at * 8, address, true);
          for (const { queue, command: fields } of commands) {
            driver.put(queue, fields);
            driver.ring(queue);
            driver.slot.settle();
            while (driver.take(queue) !== null);
            driver.acknowledge(queue);
          }
          expect(untouched()).toBe(true);
        },
      ),
      { numRuns: 120 },
    );
  });

  test('doorbells and registers at random do no harm, and a reset mends all of it', () => {
    const store = fc.record({
      at: fc.oneof(
        fc.nat(16).map((index) => DOORBELLS + index * 4),
        fc.nat(0x3fff),
        fc.constantFrom<number>(...Object.values(REG)),
      ),
      value: word,
    });
    fc.assert(
      fc.property(fc.array(store, { maxLength: 80 }), (stores) => {
        const { driver, untouched } = fenced();
        for (const { at, value } of stores) driver.set(at & ~3, value);
        driver.slot.settle();
        expect(untouched()).toBe(true);
        driver.port.allowed = null;
        driver.enable();
        driver.createQueue(1);
        expect(driver.io(IO.FLUSH, 0, 1).status).toBe(SC.SUCCESS);
      }),
      { numRuns: 120 },
    );
  });

  test('queues and entries in memory that goes away end in a fatal status', () => {
    const driver = ready();
    driver.put(1, { opcode: IO.FLUSH, nsid: 1 });
    driver.port.allowed = new Set();
    driver.ring(1);
    expect(driver.get(REG.CSTS)).toBe(3);
    driver.port.allowed = null;
    driver.put(1, { opcode: IO.FLUSH, nsid: 1 });
    driver.ring(1);
    expect(driver.take(1)).toBe(null);
  });
});

describe('a disk in memory', () => {
  test('holds what was written, across pieces, and zeros', () => {
    const disk = new MemoryDisk(1 << 20, 4096);
    const data = Uint8Array.from({ length: 5 * 4096 }, (_, i) => (i % 250) + 1);
    disk.write(14n, data);
    const back = new Uint8Array(data.length);
    disk.read(14n, back);
    expect(back).toEqual(data);
    disk.zero(0n, 17);
    disk.read(14n, back);
    expect(back.subarray(0, 3 * 4096).every((byte) => byte === 0)).toBe(true);
    expect(back.subarray(3 * 4096)).toEqual(data.subarray(3 * 4096));
  });
});
