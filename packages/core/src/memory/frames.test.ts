import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InvariantError } from '../base/assert.ts';
import { pageNumber } from '../base/u64.ts';
import { FrameTable, fileBacking, privateBacking, type Backing } from './frames.ts';
import { KEPT, type Kept } from './physical.ts';
import { SimulatedMemfd, SimulatedMemory } from './simulated-process.ts';

const PAGE = 4096;
const CHUNK = 512;
const FIRST = 512;

/** Memory that any number of pages may be pinned of, and how often it was retained. */
class Source implements Backing {
  readonly key: string;
  readonly contiguous: boolean;
  holders = 0;

  constructor(key: string, contiguous: boolean) {
    this.key = key;
    this.contiguous = contiguous;
  }

  read(offset: bigint, into: Uint8Array): boolean {
    for (let i = 0; i < into.length; i++) into[i] = pageNumber(offset + BigInt(i));
    return true;
  }

  write(): boolean {
    return true;
  }

  gather(): boolean {
    return false;
  }

  retain(): void {
    this.holders++;
  }

  release(): void {
    this.holders--;
  }
}

function runs(frames: FrameTable, backing: Backing, first: number, pages: number): [number, number][] {
  const found: [number, number][] = [];
  frames.eachRun(backing, first, pages, (frame, count) => found.push([frame, count]));
  return found;
}

describe('frames', () => {
  test('are the same for the same page, and other ones for another page', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', true);
    frames.pin(source, 3, 1);
    const frame = frames.frameOf(source, 3);
    frames.pin(source, 2, 3);
    expect(frames.frameOf(source, 3)).toBe(frame);
    expect(frames.frameOf(source, 4)).not.toBe(frame);
    expect(frames.frameOf(new Source('b', true), 3)).toBe(-1);
  });

  test('of pages that are not pinned do not exist', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', true);
    frames.pin(source, 3, 1);
    expect(frames.frameOf(source, 2)).toBe(-1);
    expect(frames.frameOf(source, CHUNK + 3)).toBe(-1);
    frames.unpin(source, 3, 1);
    expect(frames.frameOf(source, 3)).toBe(-1);
  });

  test('follow one another where the backing is contiguous, across chunks too', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', true);
    frames.pin(source, 0, 3 * CHUNK);
    expect(runs(frames, source, 1, 2 * CHUNK)).toEqual([[FIRST + 1, 2 * CHUNK]]);
  });

  test('are never neighbours where the backing is not contiguous', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', false);
    frames.pin(source, CHUNK - 2, 4);
    const found = runs(frames, source, CHUNK - 2, 4);
    expect(found.map(([, count]) => count)).toEqual([1, 1, 1, 1]);
    expect(new Set(found.map(([frame]) => frame)).size).toBe(4);
  });

  test('of a huge page are aligned as it is', () => {
    const frames = new FrameTable(FIRST);
    frames.pin(new Source('small', false), 0, 1);
    const huge = new Source('huge', true);
    frames.pin(huge, 5 * CHUNK, CHUNK);
    expect(frames.frameOf(huge, 5 * CHUNK) % CHUNK).toBe(0);
  });

  test('stay until the last pin of their page is gone', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', true);
    frames.pin(source, 0, CHUNK);
    frames.pin(source, 7, 1);
    frames.unpin(source, 0, CHUNK);
    expect(frames.pinCount(source, 7)).toBe(1);
    expect(frames.pinCount(source, 6)).toBe(0);
    frames.unpin(source, 7, 1);
    expect([frames.pinned, frames.chunks]).toEqual([0, 0]);
  });

  test('may be unpinned in other pieces than they were pinned in', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', true);
    frames.pin(source, 0, 2 * CHUNK);
    frames.pin(source, 10, 20);
    frames.unpin(source, 0, 15);
    frames.unpin(source, 10, 20);
    frames.unpin(source, 15, 2 * CHUNK - 15);
    expect([frames.pinned, frames.chunks]).toEqual([0, 0]);
  });

  test('cannot be unpinned where they are not pinned', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', true);
    expect(() => frames.unpin(source, 0, 1)).toThrow(InvariantError);
    frames.pin(source, 0, 1);
    expect(() => frames.unpin(source, 1, 1)).toThrow(InvariantError);
  });

  test('retain their backing once for a chunk', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', true);
    frames.pin(source, 0, CHUNK + 1);
    frames.pin(source, 5, 1);
    expect(source.holders).toBe(2);
    frames.unpin(source, 0, CHUNK + 1);
    expect(source.holders).toBe(1);
    frames.unpin(source, 5, 1);
    expect(source.holders).toBe(0);
  });

  test('are handed out again after they were freed', () => {
    const frames = new FrameTable(FIRST);
    for (let i = 0; i < 100; i++) {
      const source = new Source(`a${i}`, i % 2 === 0);
      frames.pin(source, 0, 1);
      expect(frames.frameOf(source, 0)).toBeLessThan(FIRST + 4 * CHUNK);
      frames.unpin(source, 0, 1);
    }
  });

  test('of a file are the same whoever maps it, and those of private memory are not', () => {
    const file = new SimulatedMemfd(0x10000n);
    expect(fileBacking(file).key).toBe(fileBacking(file).key);
    expect(fileBacking(file).key).not.toBe(fileBacking(new SimulatedMemfd(0x10000n)).key);
    const [one, other] = [new SimulatedMemory(), new SimulatedMemory()];
    expect(privateBacking(one, false).key).not.toBe(privateBacking(other, false).key);
  });
});

describe('an access to frames', () => {
  test('reaches the bytes of the backing, from page to page', () => {
    const frames = new FrameTable(FIRST);
    for (const contiguous of [true, false]) {
      const source = new Source(`a${String(contiguous)}`, contiguous);
      frames.pin(source, 40, 2);
      const into = new Uint8Array(2);
      expect(frames.read(frames.frameOf(source, 41) * PAGE - 1, into)).toBe(contiguous);
      if (contiguous) expect([...into]).toEqual([40, 41]);
      expect(frames.read(frames.frameOf(source, 41) * PAGE + PAGE - 1, into.subarray(0, 1))).toBe(true);
      expect(into[0]).toBe(41);
    }
  });

  test('meets nothing where no page is pinned', () => {
    const frames = new FrameTable(FIRST);
    const source = new Source('a', false);
    frames.pin(source, 0, 1);
    const pa = frames.frameOf(source, 0) * PAGE;
    const byte = new Uint8Array(1);
    expect(frames.read(pa, byte)).toBe(true);
    expect(frames.read(pa + PAGE, byte)).toBe(false);
    expect(frames.read(pa + 2 * PAGE, byte)).toBe(false);
    expect(frames.read((FIRST + 100 * CHUNK) * PAGE, byte)).toBe(false);
    expect(frames.write(pa - 1, byte)).toBe(false);
  });
});

interface Pin {
  readonly source: number;
  readonly first: number;
  readonly pages: number;
}

/** Compares the table with the pins that are held, at the pages where anything can change. */
function differences(
  frames: FrameTable,
  sources: readonly Source[],
  held: readonly Pin[],
  pages: Iterable<number>,
): string[] {
  const seen = new Set<number>();
  const wrong: string[] = [];
  for (const page of pages) {
    for (const [index, source] of sources.entries()) {
      const covers = (pin: Pin): boolean =>
        pin.source === index && pin.first <= page && page < pin.first + pin.pages;
      const expected = held.filter(covers).length;
      const frame = frames.frameOf(source, page);
      if (frames.pinCount(source, page) !== expected || frame >= 0 !== expected > 0)
        wrong.push(`${source.key}/${page}`);
      if (frame >= 0 && seen.has(frame)) wrong.push(`${source.key}/${page} shares its frame`);
      seen.add(frame);
    }
  }
  const pinned = held.reduce((sum, pin) => sum + pin.pages, 0);
  return frames.pinned === pinned ? wrong : [...wrong, `${frames.pinned} pins, not ${pinned}`];
}

describe('random pins', () => {
  const pin = fc.record({
    source: fc.nat({ max: 2 }),
    first: fc.oneof(fc.nat({ max: 1600 }), fc.constantFrom(0, 511, 512, 1023, 1024)),
    pages: fc.oneof(fc.integer({ min: 1, max: 1600 }), fc.constantFrom(1, 511, 512, 513, 1024)),
  });
  const pins = fc.array(pin, { maxLength: 12 });

  test('are counted page by page, and are gone when all of them are undone', () => {
    fc.assert(
      fc.property(pins, fc.array(fc.nat(), { maxLength: 12 }), (all, order) => {
        const frames = new FrameTable(FIRST);
        const sources = [new Source('a', true), new Source('b', false), new Source('c', true)];
        const edges = all.flatMap(({ first, pages }) => [first - 1, first, first + pages - 1, first + pages]);
        const pages = new Set([...edges, 0, 511, 512, 1023, 1024].filter((page) => page >= 0));
        const held = [...all];
        for (const each of all) frames.pin(sources[each.source]!, each.first, each.pages);
        expect(differences(frames, sources, held, pages)).toEqual([]);
        for (let i = 0; held.length > 0; i++) {
          const [each] = held.splice((order[i] ?? 0) % held.length, 1);
          frames.unpin(sources[each!.source]!, each!.first, each!.pages);
          expect(differences(frames, sources, held, pages)).toEqual([]);
        }
        expect(frames.chunks).toBe(0);
        expect(sources.map((source) => source.holders)).toEqual([0, 0, 0]);
      }),
    );
  });
});

describe('how frames are kept', () => {
  /** What {@link FrameTable.relation} says, page by page, from the backings and page numbers of all frames. */
  function plain(
    at: ReadonlyMap<number, readonly [Backing, number]>,
    frames: FrameTable,
    end: number,
    next: number,
  ): Kept {
    const pinned = (pa: number): readonly [Backing, number] | null => {
      const found = at.get(Math.floor(pa / PAGE));
      return found !== undefined && frames.pinCount(...found) > 0 ? found : null;
    };
    const [before, after] = [pinned(end - 1), pinned(next)];
    if (before === null || after === null || before[0].key !== after[0].key) return KEPT.APART;
    const whole = end % PAGE === 0 && next % PAGE === 0;
    return whole && after[1] === before[1] + 1 ? KEPT.BEHIND : KEPT.TOGETHER;
  }

  test('is what their pages say, whatever was asked and undone before', () => {
    const backings = [new Source('a', true), new Source('b', false), new Source('c', false)];
    const somewhere = fc.record({
      which: fc.nat(2),
      page: fc.constantFrom(
        0,
        1,
        2,
        3,
        200,
        CHUNK - 2,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        2 * CHUNK - 2,
        2 * CHUNK - 1,
      ),
    });
    const asked = fc.record({
      from: somewhere,
      /** Another page; null for the frame where the page behind would be. */
      to: fc.option(somewhere, { freq: 2 }),
      /** Bytes that one place ends, and the other begins, beside where a page does. */
      short: fc.constantFrom(0, 0, 0, 64),
      behind: fc.constantFrom(0, 0, 0, 64),
      /** The frame between those of two pages. */
      gap: fc.constantFrom(0, 0, 0, 1),
    });
    const step = fc.oneof(
      { weight: 5, arbitrary: asked },
      { weight: 1, arbitrary: fc.record({ undo: somewhere, pages: fc.constantFrom(1, 1, CHUNK) }) },
    );
    fc.assert(
      fc.property(fc.array(step, { minLength: 40, maxLength: 80 }), (steps) => {
        const frames = new FrameTable(FIRST);
        const at = new Map<number, readonly [Backing, number]>();
        for (const backing of backings) {
          frames.pin(backing, 0, 2 * CHUNK);
          for (let page = 0; page < 2 * CHUNK; page++) at.set(frames.frameOf(backing, page), [backing, page]);
        }
        const first = backings.map((backing) => frames.frameOf(backing, 0));
        /** Also of a page that is pinned no more. */
        const place = ({ which, page }: { which: number; page: number }): number =>
          (first[which]! + page * (which === 0 ? 1 : 2)) * PAGE;
        for (const step of steps) {
          if ('undo' in step) {
            const { which, page } = step.undo;
            const from = step.pages === CHUNK ? 0 : page;
            const pinned = Array.from({ length: step.pages }, (_, i) =>
              frames.pinCount(backings[which]!, from + i),
            );
            if (pinned.every((count) => count > 0)) frames.unpin(backings[which]!, from, step.pages);
            continue;
          }
          const from = place(step.from);
          const to = step.to === null ? from + PAGE * (step.from.which === 0 ? 1 : 2) : place(step.to);
          const end = from + PAGE * (1 + step.gap) - step.short;
          const next = to + PAGE * step.gap + step.behind;
          expect(frames.relation(end, next)).toBe(plain(at, frames, end, next));
        }
      }),
      { numRuns: 500 },
    );
  });
});
