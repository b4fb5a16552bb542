import { describe, expect, test } from 'vitest';
import { eventText } from './text.ts';
import { Trace, type TraceEvent } from './trace.ts';

describe('the stream of events', () => {
  test('is inactive until somebody subscribes, and after the last one left', () => {
    const trace = new Trace();
    expect(trace.active).toBe(false);
    const ends = [trace.subscribe(() => {}), trace.subscribe(() => {})];
    expect(trace.active).toBe(true);
    ends[0]!();
    expect(trace.active).toBe(true);
    ends[1]!();
    expect(trace.active).toBe(false);
  });

  test('reaches every subscriber in order, until it ends its subscription', () => {
    const trace = new Trace();
    const seen: string[] = [];
    const end = trace.subscribe((event) => seen.push(`a ${event.kind}`));
    trace.subscribe((event) => seen.push(`b ${event.kind}`));
    trace.emit({ kind: 'one' });
    end();
    trace.emit({ kind: 'two' });
    expect(seen).toEqual(['a one', 'b one', 'b two']);
  });

  test('may be left twice', () => {
    const trace = new Trace();
    const end = trace.subscribe(() => {});
    trace.subscribe(() => {});
    end();
    end();
    expect(trace.active).toBe(true);
  });
});

describe('an event as text', () => {
  const ioctl: TraceEvent = {
    kind: 'ioctl',
    pid: 7,
    tid: 7,
    name: 'IOMMU_IOAS_UNMAP',
    fields: { ioas_id: 1, iova: 0x100_0000n, length: 0n },
    changed: { length: 4096n },
    result: 0,
  };

  test('tells its fields, large numbers in hexadecimal', () => {
    expect(eventText({ kind: 'map', iova: 0x1000n, count: 3, length: 4096, pinned: true })).toBe(
      'map iova=0x1000 count=3 length=0x1000 pinned=true',
    );
  });

  test('tells bytes, lists and structs', () => {
    expect(
      eventText({
        kind: 'command',
        bytes: new Uint8Array([1, 0xab]),
        list: [1n, 16n],
        entry: { a: 1, b: 2n },
      }),
    ).toBe('command bytes=01ab list=[1 0x10] entry={a=1 b=2}');
  });

  test('of a request tells who asked, what came back, and what changed', () => {
    expect(eventText(ioctl)).toBe('7 IOMMU_IOAS_UNMAP ioas_id=1 iova=0x1000000 length=0 = 0 length=0x1000');
    expect(eventText({ ...ioctl, changed: {} })).toBe(
      '7 IOMMU_IOAS_UNMAP ioas_id=1 iova=0x1000000 length=0 = 0',
    );
    expect(eventText({ ...ioctl, tid: 9 })).toContain('7/9 IOMMU_IOAS_UNMAP');
  });

  test('of a refused request tells the errno by name and why', () => {
    expect(eventText({ ...ioctl, errno: 2, reason: 'there is no object 1' })).toBe(
      '7 IOMMU_IOAS_UNMAP ioas_id=1 iova=0x1000000 length=0 = -1 ENOENT (there is no object 1)',
    );
  });
});
