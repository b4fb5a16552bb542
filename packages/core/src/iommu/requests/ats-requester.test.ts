import { describe, expect, test } from 'vitest';
import { AtsRequester } from './ats-requester.ts';
import { Atc } from '../caches/cache-atc.ts';
import type { DmaResult, MemoryRequest, TranslationCompletion, TranslationEntry } from './dma-port.ts';

/** Answers with the entries that it was given, by page, and notes what it was asked. */
class Port {
  readonly entries = new Map<bigint, TranslationEntry>();
  readonly requests: MemoryRequest[] = [];
  readonly lengths: number[] = [];
  translations = 0;
  refuse: bigint | null = null;

  access(request: MemoryRequest, data: Uint8Array): DmaResult {
    this.requests.push(request);
    this.lengths.push(data.length);
    return request.address === this.refuse ? { kind: 'aborted', done: 3, reason: 'refused' } : null;
  }

  requestTranslation({ address }: { address: bigint }): TranslationCompletion {
    this.translations++;
    const entry = this.entries.get(address >> 12n);
    return { status: 'success', entries: entry === undefined ? [] : [entry] };
  }
}

const page = { sizeBits: 12, read: true, write: true, execute: false };

function rig(): { port: Port; requester: AtsRequester } {
  const port = new Port();
  const atc = new Atc();
  atc.enable(true);
  port.entries.set(1n, { ...page, translated: 0x9000 });
  port.entries.set(2n, { ...page, translated: 0x4000, write: false });
  return { port, requester: new AtsRequester(port, atc) };
}

const read = (address: bigint): MemoryRequest => ({ write: false, address, pasid: 5 });

describe('a function that uses ATS', () => {
  test('sends translated requests without a PASID, a part for each translation', () => {
    const { port, requester } = rig();
    expect(requester.access(read(0x1ff0n), new Uint8Array(0x20))).toBe(null);
    expect(port.requests).toEqual([
      { write: false, address: 0x9ff0n, pasid: null, translated: true },
      { write: false, address: 0x4000n, pasid: null, translated: true },
    ]);
    expect(port.lengths).toEqual([0x10, 0x10]);
    requester.access(read(0x1000n), new Uint8Array(1));
    expect(port.translations).toBe(2);
  });

  test('asks again for what a translation does not allow, and stops where it is refused', () => {
    const { port, requester } = rig();
    requester.access(read(0x2000n), new Uint8Array(1));
    const write = { ...read(0x1ff0n), write: true };
    expect(requester.access(write, new Uint8Array(0x20))).toMatchObject({ kind: 'aborted', done: 0x10 });
    expect(port.translations).toBe(3);
    port.entries.set(2n, { ...page, translated: 0x4000 });
    expect(requester.access(write, new Uint8Array(0x20))).toBe(null);
  });

  test('executes by translations that allow it, where there is a PASID', () => {
    const { port, requester } = rig();
    const execute = { ...read(0x1000n), execute: true };
    expect(requester.access(execute, new Uint8Array(1))).not.toBe(null);
    port.entries.set(1n, { ...page, translated: 0x9000, execute: true });
    expect(requester.access(execute, new Uint8Array(1))).toBe(null);
    expect(requester.access({ ...execute, pasid: null }, new Uint8Array(1))).toBe(null);
  });

  test('uses an address untranslated where it is told to, and tells how far it came', () => {
    const { port, requester } = rig();
    port.entries.set(2n, { ...page, translated: 0, untranslatedOnly: true });
    expect(requester.access(read(0x2010n), new Uint8Array(0x2000))).toBe(null);
    expect(port.requests).toEqual([read(0x2010n)]);
    port.refuse = 0x9000n;
    const stopped = requester.access(read(0x1000n), new Uint8Array(16));
    expect(stopped).toEqual({ kind: 'aborted', done: 3, reason: 'refused' });
  });

  test('sends everything untranslated while ATS is off, also across the end of the address space', () => {
    const { port, requester } = rig();
    requester.atc.enable(false);
    expect(requester.access(read(0x1000n), new Uint8Array(0x3000))).toBe(null);
    expect([port.requests, port.translations]).toEqual([[read(0x1000n)], 0]);
    requester.atc.enable(true);
    port.entries.set((1n << 52n) - 1n, { ...page, translated: 0x7000 });
    port.entries.set(0n, { ...page, translated: 0x8000 });
    expect(requester.access(read(2n ** 64n - 8n), new Uint8Array(16))).toBe(null);
    expect(port.requests.slice(1).map(({ address }) => address)).toEqual([0x7ff8n, 0x8000n]);
  });
});
