import { describe, expect, test } from 'vitest';
import { ByteStorage } from '../testing/byte-storage.ts';
import {
  ADMIN,
  CC_EN,
  CC_SHN_SHIFT,
  CNS,
  CSTS_CFS,
  CSTS_RDY,
  CSTS_SHST_COMPLETE,
  DOORBELLS,
  FEATURE,
  IO,
  LOG,
  REG,
  SC,
} from './spec.ts';
import { MEMORY, NvmeDriver } from './testing/driver.ts';
import { textOf } from '../../base/testing/ascii.ts';

function enabled(): NvmeDriver {
  const driver = new NvmeDriver();
  driver.enable();
  return driver;
}

function text(driver: NvmeDriver, at: number, length: number): string {
  return textOf(driver.port.bytes.subarray(at, at + length)).trim();
}

function identify(driver: NvmeDriver, cns: number, nsid = 0): number {
  const at = driver.allocate(4096);
  expect(driver.admin({ opcode: ADMIN.IDENTIFY, nsid, prp1: at, words: [cns] }).status).toBe(SC.SUCCESS);
  return at;
}

describe('registers of the controller', () => {
  test('after reset say what it can do', () => {
    const { slot } = new NvmeDriver();
    const cap = slot.pci.readBar(0, REG.CAP, 8);
    expect([cap & 0xffffn, (cap >> 16n) & 1n, (cap >> 32n) & 0xfn, (cap >> 37n) & 0xffn]).toEqual([
      1023n,
      1n,
      0n,
      1n,
    ]);
    expect([slot.read(0, REG.VS), slot.read(0, REG.CC), slot.read(0, REG.CSTS)]).toEqual([0x10400, 0, 0]);
  });

  test('that are read-only stay as they are', () => {
    const driver = new NvmeDriver();
    for (const register of [REG.CAP, REG.CAP + 4, REG.VS, REG.CSTS, REG.NSSR]) {
      const before = driver.get(register);
      driver.set(register, 0xffff_ffff);
      expect(driver.get(register)).toBe(before);
    }
  });

  test('of the admin queues are set while it is disabled alone', () => {
    const driver = enabled();
    const before = driver.get(REG.AQA);
    driver.set(REG.AQA, 0x3_0003);
    expect(driver.get(REG.AQA)).toBe(before);
    driver.set(REG.CC, 0);
    driver.set(REG.AQA, 0x3_0003);
    expect(driver.get(REG.AQA)).toBe(0x3_0003);
  });

  test('mask the pin, which is high while completions wait', () => {
    const driver = new NvmeDriver();
    driver.enable();
    const { pci, intx } = driver.slot;
    pci.writeConfig(pci.config.capability(0x11) + 2, 2, 0);
    driver.put(0, { opcode: ADMIN.GET_FEATURES, words: [FEATURE.ARBITRATION] });
    driver.ring(0);
    driver.set(REG.INTMS, 1);
    expect([intx, driver.get(REG.INTMS)]).toEqual([[true, false], 1]);
    driver.set(REG.INTMC, 1);
    expect([intx, driver.get(REG.INTMS)]).toEqual([[true, false, true], 0]);
    driver.take(0);
    driver.acknowledge(0);
    expect(intx.at(-1)).toBe(false);
  });
});

describe('enabling', () => {
  test('with what it cannot do is fatal, and a reset mends it', () => {
    const driver = new NvmeDriver();
    driver.set(REG.AQA, 0);
    driver.set(REG.CC, CC_EN);
    expect(driver.get(REG.CSTS)).toBe(CSTS_CFS);
    driver.enable();
    expect(driver.get(REG.CSTS)).toBe(CSTS_RDY);
  });

  test('again forgets queues and features', () => {
    const driver = enabled();
    driver.set(REG.INTMS, 5);
    driver.createQueue(1);
    driver.admin({ opcode: ADMIN.SET_FEATURES, words: [FEATURE.WRITE_CACHE, 0] });
    driver.enable();
    const { result } = driver.admin({ opcode: ADMIN.GET_FEATURES, words: [FEATURE.WRITE_CACHE] });
    expect(result).toBe(1);
    expect(driver.admin({ opcode: ADMIN.DELETE_SQ, words: [1] }).status).toBe(SC.QID_INVALID);
    expect(driver.get(REG.INTMS)).toBe(0);
  });

  test('and a shutdown says when it is over', () => {
    const driver = enabled();
    driver.set(REG.CC, driver.get(REG.CC) | (1 << CC_SHN_SHIFT));
    expect(driver.get(REG.CSTS) & CSTS_SHST_COMPLETE).not.toBe(0);
  });

  test('where memory refuses ends in a fatal status', () => {
    const driver = enabled();
    driver.port.allowed = new Set();
    driver.put(0, { opcode: ADMIN.IDENTIFY });
    driver.ring(0);
    expect(driver.get(REG.CSTS)).toBe(CSTS_RDY | CSTS_CFS);
  });
});

describe('Identify', () => {
  test('describes the controller', () => {
    const driver = enabled();
    const at = identify(driver, CNS.CONTROLLER);
    expect([text(driver, at + 4, 20), text(driver, at + 24, 40)]).toEqual([
      'TEST1',
      'viommu NVMe controller',
    ]);
    expect(driver.view.getUint32(at + 80, true)).toBe(0x10400);
    expect([driver.port.bytes[at + 77], driver.port.bytes[at + 512], driver.port.bytes[at + 513]]).toEqual([
      7, 0x66, 0x44,
    ]);
    expect(driver.view.getUint32(at + 516, true)).toBe(1);
  });

  test('describes the namespace, by size, by list and by identifiers', () => {
    const driver = enabled();
    const at = identify(driver, CNS.NAMESPACE, 1);
    expect(driver.view.getBigUint64(at, true)).toBe(2048n);
    expect(driver.port.bytes[at + 130]).toBe(9);
    const list = identify(driver, CNS.ACTIVE_NAMESPACES);
    expect([0, 4].map((offset) => driver.view.getUint32(list + offset, true))).toEqual([1, 0]);
    const ids = identify(driver, CNS.NAMESPACE_DESCRIPTORS, 1);
    expect([...driver.port.bytes.subarray(ids, ids + 6)]).toEqual([3, 16, 0, 0, 0, 1]);
  });

  test('refuses what there is not', () => {
    const driver = enabled();
    const ask = (cns: number, nsid = 0): number =>
      driver.admin({ opcode: ADMIN.IDENTIFY, nsid, prp1: 0x1000, words: [cns] }).status;
    expect([ask(CNS.NAMESPACE, 2), ask(CNS.NAMESPACE_DESCRIPTORS, 0), ask(0x40)]).toEqual([
      SC.INVALID_NAMESPACE,
      SC.INVALID_NAMESPACE,
      SC.INVALID_FIELD,
    ]);
  });
});

describe('queues', () => {
  test('are made and deleted by the rules', () => {
    const driver = enabled();
    const create = (opcode: number, id: number, size: number, word: number, prp1 = 0x10_0000): number =>
      driver.admin({ opcode, prp1, words: [((size - 1) << 16) | id, word] }).status;
    expect(create(ADMIN.CREATE_CQ, 0, 16, 1)).toBe(SC.QID_INVALID);
    expect(create(ADMIN.CREATE_CQ, 17, 16, 1)).toBe(SC.QID_INVALID);
    expect(create(ADMIN.CREATE_CQ, 1, 1, 1)).toBe(SC.QUEUE_SIZE);
    expect(create(ADMIN.CREATE_CQ, 1, 1025, 1)).toBe(SC.QUEUE_SIZE);
    expect(create(ADMIN.CREATE_CQ, 1, 16, 0)).toBe(SC.INVALID_FIELD);
    expect(create(ADMIN.CREATE_CQ, 1, 16, 1, 0x10_0010)).toBe(SC.PRP_INVALID_OFFSET);
    expect(create(ADMIN.CREATE_CQ, 1, 16, (17 << 16) | 3)).toBe(SC.INVALID_VECTOR);
    expect(create(ADMIN.CREATE_SQ, 1, 16, (1 << 16) | 1)).toBe(SC.CQ_INVALID);
    expect(create(ADMIN.CREATE_SQ, 1, 16, 1)).toBe(SC.CQ_INVALID);
    expect(create(ADMIN.CREATE_CQ, 1, 16, 3)).toBe(SC.SUCCESS);
    expect(create(ADMIN.CREATE_CQ, 1, 16, 3)).toBe(SC.QID_INVALID);
    expect(create(ADMIN.CREATE_SQ, 1, 16, (1 << 16) | 1)).toBe(SC.SUCCESS);
    const remove = (opcode: number, id: number): number => driver.admin({ opcode, words: [id] }).status;
    expect(remove(ADMIN.DELETE_CQ, 1)).toBe(SC.INVALID_QUEUE);
    expect([remove(ADMIN.DELETE_SQ, 1), remove(ADMIN.DELETE_CQ, 1)]).toEqual([SC.SUCCESS, SC.SUCCESS]);
    expect([remove(ADMIN.DELETE_CQ, 0), remove(ADMIN.DELETE_SQ, 0)]).toEqual([
      SC.QID_INVALID,
      SC.QID_INVALID,
    ]);
  });

  test('signal their vectors, several of them, and turn their phase as they wrap', () => {
    const driver = enabled();
    driver.createQueue(1);
    driver.createQueue(2, 4);
    driver.slot.messages.length = 0;
    for (let i = 0; i < 40; i++)
      expect(driver.submit(1 + (i % 2), { opcode: IO.FLUSH, nsid: 1 }).status).toBe(SC.SUCCESS);
    expect(driver.slot.messages).toEqual(Array.from({ length: 40 }, (_, i) => 1 + (i % 2)));
  });

  test('that are full of completions hold commands back', () => {
    const driver = enabled();
    driver.createQueue(1, 4);
    for (let i = 0; i < 3; i++) driver.put(1, { opcode: IO.FLUSH, nsid: 1 });
    driver.ring(1);
    driver.put(1, { opcode: IO.FLUSH, nsid: 1 });
    driver.ring(1);
    for (let i = 0; i < 3; i++) expect(driver.take(1)).not.toBe(null);
    expect(driver.take(1)).toBe(null);
    driver.acknowledge(1);
    expect(driver.take(1)).not.toBe(null);
  });

  test('many commands of many queues are served by turns, some at each poll', () => {
    const driver = enabled();
    for (const queue of [1, 2]) driver.createQueue(queue, 256);
    for (let i = 0; i < 200; i++)
      for (const queue of [1, 2]) driver.put(queue, { opcode: IO.FLUSH, nsid: 1 });
    driver.ring(1);
    expect(driver.slot.wakes).toBe(1);
    driver.ring(2);
    driver.slot.settle();
    for (const queue of [1, 2])
      for (let i = 0; i < 200; i++) expect(driver.take(queue)).toMatchObject({ status: 0, queue });
  });

  test('commands that lie together are fetched at once, and what they end in is shown at once', () => {
    const driver = enabled();
    driver.createQueue(1, 256);
    const seen: string[] = [];
    const access = driver.port.access.bind(driver.port);
    driver.port.access = (request, data) => {
      seen.push(`${request.write ? 'shows' : 'fetches'} ${data.length / (request.write ? 16 : 64)}`);
      return access(request, data);
    };
    const flushes = (count: number): string[] => {
      for (let i = 0; i < count; i++) driver.put(1, { opcode: IO.FLUSH, nsid: 1 });
      driver.ring(1);
      driver.slot.settle();
      for (let i = 0; i < count; i++) expect(driver.take(1)).toMatchObject({ status: 0, queue: 1 });
      driver.acknowledge(1);
      return seen.splice(0);
    };
    driver.slot.messages.length = 0;
    expect(flushes(40)).toEqual(['fetches 32', 'shows 16', 'shows 16', 'fetches 8', 'shows 8']);
    expect(driver.slot.messages).toEqual([1, 1, 1]);
    // To the end of a page, and of the queue.
    expect(flushes(30)).toEqual(['fetches 24', 'shows 16', 'fetches 6', 'shows 14']);
    for (let i = 0; i < 6; i++) flushes(30);
    expect(flushes(10)).toEqual(['fetches 6', 'fetches 4', 'shows 6', 'shows 4']);
  });

  test('commands that the host takes back are not executed', () => {
    const driver = enabled();
    for (const queue of [1, 2, 3]) driver.createQueue(queue, 64);
    for (let i = 0; i < 30; i++)
      for (const queue of [1, 2, 3]) driver.put(queue, { opcode: IO.FLUSH, nsid: 1 });
    const bar = driver.slot.pci.bars[0]!;
    const pages = new ByteStorage(bar.size);
    bar.memory!.share(pages, 0n);
    for (const queue of [1, 2, 3]) pages.view.setUint32(DOORBELLS + queue * 8, 30, true);
    driver.slot.pci.look();
    for (const queue of [1, 2, 3]) pages.view.setUint32(DOORBELLS + queue * 8, 23, true);
    driver.slot.settle();
    for (const queue of [1, 2, 3]) {
      for (let i = 0; i < 23; i++) expect(driver.take(queue)).toMatchObject({ status: 0, queue });
      expect(driver.take(queue)).toBe(null);
    }
  });

  test('what was completed is shown before the queue is deleted', () => {
    const driver = enabled();
    driver.createQueue(1);
    const bar = driver.slot.pci.bars[0]!;
    const pages = new ByteStorage(bar.size);
    bar.memory!.share(pages, 0n);
    driver.put(1, { opcode: IO.FLUSH, nsid: 1 });
    driver.put(0, { opcode: ADMIN.DELETE_SQ, words: [1] });
    driver.put(0, { opcode: ADMIN.DELETE_CQ, words: [1] });
    const tail = pages.view.getUint32(DOORBELLS, true);
    pages.view.setUint32(DOORBELLS, (tail + 2) % 16, true);
    pages.view.setUint32(DOORBELLS + 8, 1, true);
    driver.slot.settle();
    expect([driver.take(1), driver.take(0), driver.take(0)]).toMatchObject([
      { status: 0, queue: 1 },
      { status: 0, queue: 0 },
      { status: 0, queue: 0 },
    ]);
  });

  test('the doorbells of programs that map them are seen when the controller is polled', () => {
    const driver = enabled();
    const bar = driver.slot.pci.bars[0]!;
    const pages = new ByteStorage(bar.size);
    bar.memory!.share(pages, 0n);
    driver.put(0, { opcode: ADMIN.GET_FEATURES, words: [FEATURE.QUEUES] });
    pages.view.setUint32(DOORBELLS, 1, true);
    expect([driver.slot.pci.watched, driver.take(0)]).toEqual([true, null]);
    // It is worth looking again after one that was rung, and not after that.
    expect([driver.slot.pci.look(), driver.slot.pci.look()]).toEqual([true, false]);
    expect(driver.take(0)).toMatchObject({ status: 0, result: 0xf_000f });
  });
});

describe('a program that maps the registers', () => {
  test('loses none of its stores, though it stores while the controller looks', () => {
    const driver = new NvmeDriver();
    const bar = driver.slot.pci.bars[0]!;
    const pages = new ByteStorage(bar.size);
    bar.memory!.share(pages, 0n);
    const read = pages.read.bind(pages);
    // As soon as the controller has read its registers, the program goes on.
    const stores = [REG.ASQ, REG.ACQ, REG.AQA].map(
      (register, index) => [register, (index + 1) * 0x1000] as const,
    );
    pages.read = (offset, into) => {
      const done = read(offset, into);
      const next = offset === 0n ? stores.shift() : undefined;
      if (next !== undefined) pages.view.setUint32(next[0], next[1], true);
      return done;
    };
    for (let i = 0; i < 6; i++) driver.slot.settle();
    expect([REG.ASQ, REG.ACQ, REG.AQA].map((register) => driver.get(register))).toEqual([
      0x1000, 0x2000, 0x3000,
    ]);
    pages.view.setUint32(REG.VS, 7, true);
    pages.view.setUint32(REG.INTMS, 3, true);
    driver.slot.settle();
    expect([driver.get(REG.VS), driver.get(REG.INTMS), driver.get(REG.INTMC)]).toEqual([0x10400, 3, 0]);
    pages.view.setUint32(REG.INTMC, 3, true);
    driver.slot.settle();
    expect(driver.get(REG.INTMS)).toBe(0);
  });
});

describe('features', () => {
  test('are set, and read in each of their ways', () => {
    const driver = enabled();
    const get = (id: number, select = 0): number =>
      driver.admin({ opcode: ADMIN.GET_FEATURES, words: [id | (select << 8)] }).result;
    driver.admin({ opcode: ADMIN.SET_FEATURES, words: [FEATURE.WRITE_CACHE, 0] });
    expect([0, 1, 2, 3].map((select) => get(FEATURE.WRITE_CACHE, select))).toEqual([0, 1, 1, 4]);
    driver.admin({ opcode: ADMIN.SET_FEATURES, words: [FEATURE.VECTOR, 0x1_0003] });
    const vector = driver.admin({ opcode: ADMIN.GET_FEATURES, words: [FEATURE.VECTOR, 3] });
    expect(vector.result).toBe(0x1_0003);
  });

  test('that there are not, or that cannot be saved, are refused', () => {
    const driver = enabled();
    const set = (first: number, second = 0): number =>
      driver.admin({ opcode: ADMIN.SET_FEATURES, words: [first, second] }).status;
    expect(set(0x7f)).toBe(SC.INVALID_FIELD);
    expect(set(FEATURE.WRITE_CACHE + 2 ** 31)).toBe(SC.FEATURE_NOT_SAVEABLE);
    expect(set(FEATURE.QUEUES, 0xffff)).toBe(SC.INVALID_FIELD);
    expect(set(FEATURE.VECTOR, 17)).toBe(SC.INVALID_FIELD);
    expect(set(FEATURE.POWER, 3)).toBe(SC.INVALID_FIELD);
  });
});

describe('asynchronous events', () => {
  test('report a doorbell that there is not, once until the log is read', () => {
    const driver = enabled();
    const request = { opcode: ADMIN.ASYNC_EVENT };
    const cids = [driver.put(0, request), driver.put(0, request)];
    driver.ring(0);
    expect(driver.take(0)).toBe(null);
    driver.set(DOORBELLS + 8 * 5, 3);
    expect(driver.take(0)).toMatchObject({ cid: cids[0], status: 0, result: 0x1_0000 });
    driver.set(DOORBELLS + 4, 9);
    expect(driver.take(0)).toBe(null);
    const log = driver.allocate(4096);
    driver.put(0, { opcode: ADMIN.GET_LOG_PAGE, prp1: log, words: [LOG.ERROR | (15 << 16)] });
    driver.ring(0);
    expect(driver.take(0)).toMatchObject({ status: 0 });
    expect(driver.take(0)).toMatchObject({ cid: cids[1], result: 0x1_0100 });
  });

  test('report a temperature that the host finds too warm or too cold, once until the log is read', () => {
    const driver = enabled();
    const set = (feature: number, value: number): number =>
      driver.admin({ opcode: ADMIN.SET_FEATURES, words: [feature, value] }).status;
    const threshold = (word: number): { status: number; result: number } =>
      driver.admin({ opcode: ADMIN.GET_FEATURES, words: [FEATURE.TEMPERATURE, word] });
    const under = 1 << 20;
    expect([threshold(0).result, threshold(under).result]).toEqual([343, 0]);
    expect([threshold(1 << 16).status, set(FEATURE.TEMPERATURE, 1 << 16)]).toEqual([
      SC.INVALID_FIELD,
      SC.INVALID_FIELD,
    ]);
    expect(set(FEATURE.TEMPERATURE, 200)).toBe(0);
    const cids = [0, 1].map(() => driver.put(0, { opcode: ADMIN.ASYNC_EVENT }));
    driver.ring(0);
    expect(driver.take(0)).toBe(null);
    driver.put(0, { opcode: ADMIN.SET_FEATURES, words: [FEATURE.ASYNC_EVENTS, 2] });
    driver.ring(0);
    expect(driver.take(0)).toMatchObject({ status: 0 });
    expect(driver.take(0)).toMatchObject({ cid: cids[0], status: 0, result: 0x2_0101 });
    expect(set(FEATURE.TEMPERATURE, 400)).toBe(0);
    expect(set(FEATURE.TEMPERATURE, under | 310)).toBe(0);
    expect(driver.take(0)).toBe(null);
    const log = driver.allocate(4096);
    driver.put(0, { opcode: ADMIN.GET_LOG_PAGE, prp1: log, words: [LOG.SMART | (127 << 16)] });
    driver.ring(0);
    expect(driver.take(0)).toMatchObject({ status: 0 });
    expect(driver.take(0)).toMatchObject({ cid: cids[1], result: 0x2_0101 });
    expect([driver.view.getUint8(log), driver.view.getUint16(log + 1, true)]).toEqual([2, 310]);
  });

  test('are waited for by four requests at most, which can be aborted', () => {
    const driver = enabled();
    const cids = Array.from({ length: 5 }, () => driver.put(0, { opcode: ADMIN.ASYNC_EVENT }));
    driver.ring(0);
    expect(driver.take(0)).toMatchObject({ cid: cids[4], status: SC.ASYNC_LIMIT });
    const abort = driver.put(0, { opcode: ADMIN.ABORT, words: [cids[2]! << 16] });
    driver.ring(0);
    expect(driver.take(0)).toMatchObject({ cid: cids[2], status: SC.ABORT_REQUESTED });
    expect(driver.take(0)).toMatchObject({ cid: abort, status: 0, result: 0 });
    driver.acknowledge(0);
    expect(driver.admin({ opcode: ADMIN.ABORT, words: [99 << 16] }).result).toBe(1);
  });
});

describe('log pages', () => {
  test('hold errors, the newest first, and what was read and written', () => {
    const driver = enabled();
    driver.createQueue(1);
    const data = driver.allocate(4096);
    driver.io(IO.READ, 0, 8, { prp1: data });
    const failed = driver.io(IO.READ, 2048, 1, { prp1: data });
    const log = driver.allocate(4096);
    const read = (id: number, offset = 0, dwords = 128): number =>
      driver.admin({
        opcode: ADMIN.GET_LOG_PAGE,
        prp1: log,
        words: [id | ((dwords - 1) << 16), 0, offset],
      }).status;
    expect(read(LOG.ERROR)).toBe(SC.SUCCESS);
    expect(driver.view.getBigUint64(log, true)).toBe(1n);
    expect([8, 10, 12].map((at) => driver.view.getUint16(log + at, true))).toEqual([
      1,
      failed.cid,
      SC.LBA_RANGE << 1,
    ]);
    expect(driver.view.getBigUint64(log + 16, true)).toBe(2048n);
    expect(read(LOG.SMART)).toBe(SC.SUCCESS);
    expect(driver.view.getBigUint64(log + 64, true)).toBe(1n);
    expect(read(LOG.EFFECTS, 1024, 16)).toBe(SC.SUCCESS);
    expect(driver.view.getUint32(log + IO.WRITE * 4, true)).toBe(3);
    expect([read(LOG.FIRMWARE), read(LOG.CHANGED_NAMESPACES)]).toEqual([0, 0]);
    expect([read(0x7f), read(LOG.SMART, 2), read(LOG.SMART, 516)]).toEqual([
      SC.INVALID_LOG_PAGE,
      SC.INVALID_FIELD,
      SC.INVALID_FIELD,
    ]);
  });

  test('are not for SGLs, and other commands are not there', () => {
    const driver = enabled();
    expect(driver.admin({ opcode: ADMIN.IDENTIFY, flags: 0x40, words: [1] }).status).toBe(SC.INVALID_FIELD);
    expect(driver.admin({ opcode: 0x7f }).status).toBe(SC.INVALID_OPCODE);
    expect(driver.admin({ opcode: ADMIN.IDENTIFY, prp1: MEMORY, words: [1] })).toMatchObject({
      status: SC.DATA_TRANSFER_ERROR,
    });
  });
});
