import { describe, expect, test } from 'vitest';
import type { PageResponseMessage } from './dma-port.ts';
import { HardwarePort, type HardwareWay } from './hardware-port.ts';

/** Hardware that notes what it gets, and stops accesses where it is told to. */
function rig(): {
  port: HardwarePort<string>;
  log: unknown[];
  stop: (what: string | null, done: number) => void;
} {
  const log: unknown[] = [];
  let answer: ReturnType<HardwareWay<string>['access']> = { done: 0, stopped: null };
  const port = new HardwarePort<string>('0000:01:00.0', 0x100, {
    attach: () => void log.push('attach'),
    access: (packet) => {
      log.push(packet);
      return answer;
    },
    requestTranslation: (packet) => {
      log.push(packet);
      return { status: 'UR', entries: [] };
    },
    requestPage: (packet) => void log.push(packet),
    describe: (stopped) => ({ kind: 'stalled', reason: stopped }),
    serveInterrupts: () => void log.push('serve'),
  });
  return { port, log, stop: (what, done) => void (answer = { done, stopped: what }) };
}

const plain = { pasid: null, hi: 1, lo: 0x2345_6789, execute: false, privileged: false };
const address = 0x1_2345_6789n;

describe('a way through an IOMMU', () => {
  test('takes addresses apart, and has interrupts served before it answers', () => {
    const { port, log } = rig();
    expect(port.access({ address, pasid: null, write: true }, new Uint8Array(1))).toBe(null);
    expect(port.requestTranslation({ address, pasid: null, write: false })).toEqual({
      status: 'UR',
      entries: [],
    });
    port.requestPage({ address, pasid: null, prgIndex: 3, read: true, write: false, last: true });
    expect(log).toEqual([
      { ...plain, write: true, translated: false },
      'serve',
      { ...plain, write: false },
      'serve',
      { ...plain, prgIndex: 3, read: true, write: false, last: true },
      'serve',
    ]);
  });

  test('lets execution and privilege count with a PASID alone', () => {
    const { port, log } = rig();
    const flags = { execute: true, privileged: true };
    for (const pasid of [null, 5]) port.access({ address, pasid, write: false, ...flags }, new Uint8Array(1));
    expect([log[0], log[2]]).toEqual([
      { ...plain, write: false, translated: false },
      { ...plain, ...flags, pasid: 5, write: false, translated: false },
    ]);
  });

  test('says which function was stopped, where, and by what', () => {
    const { port, stop } = rig();
    stop('bus', 0x10);
    expect(port.access({ address, pasid: null, write: false }, new Uint8Array(0x20))).toEqual({
      kind: 'aborted',
      done: 0x10,
      reason: '0000:01:00.0 at 0x123456799: nothing answers at the translated address',
    });
    stop('page is away', 0);
    expect(port.access({ address, pasid: null, write: false }, new Uint8Array(1))).toEqual({
      kind: 'stalled',
      done: 0,
      reason: '0000:01:00.0 at 0x123456789: page is away',
    });
  });

  test('hands messages on to whoever is connected, and completes no invalidation before', () => {
    const { port, log } = rig();
    const request = { hi: 0, lo: 0, sizeBits: 12, pasid: null, global: false };
    expect(port.invalidate(request)).toBe(false);
    const responses: PageResponseMessage[] = [];
    port.connect({ invalidate: () => true, pageResponse: (response) => void responses.push(response) });
    expect([port.invalidate(request), log]).toEqual([true, ['attach']]);
    port.pageResponse({ pasid: 1, prgIndex: 2, code: 0 });
    expect(responses).toEqual([{ pasid: 1, prgIndex: 2, code: 0 }]);
  });
});
