import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { privateBacking } from './frames.ts';
import { PhysicalSpace } from './physical-space.ts';
import { Scatter } from './scatter.ts';
import { SimulatedMemory } from './simulated-process.ts';

const PAGE = 4096;
const PAGES = 16;
/** Needs both words of an address. */
const VA = 0x7f00_0010_0000n;

/** Memory that tells how it was asked for several places at once, and may be without that. */
class Gathering extends SimulatedMemory {
  /** How many places each time. */
  readonly gathered: number[] = [];
  gathers = true;

  override gather(places: Uint32Array, into: Uint8Array): boolean {
    if (!this.gathers) return false;
    this.gathered.push(places.length / 3);
    return super.gather(places, into);
  }
}

interface SetUp {
  readonly space: PhysicalSpace;
  readonly memory: Gathering;
  /** Where the pages are; the last two are RAM. */
  readonly places: number[];
  readonly reads: number[];
  /** Where nothing is. */
  readonly holes: number;
}

/** A program's pages, pinned, and RAM, in one address space; `reads` are how its memory was asked. */
function setUp(): SetUp {
  const space = new PhysicalSpace();
  const memory = new Gathering();
  memory.map(VA, BigInt(PAGES * PAGE));
  for (let page = 0; page < PAGES; page++)
    memory.write(VA + BigInt(page * PAGE), new Uint8Array(PAGE).fill(page + 1));
  const reads: number[] = [];
  const read = memory.readPinned.bind(memory);
  memory.readPinned = (va, into) => {
    reads.push(into.length);
    return read(va, into);
  };
  const backing = privateBacking(memory, false);
  const first = Number(VA) / PAGE;
  space.frames.pin(backing, first, PAGES);
  const places = Array.from(
    { length: PAGES },
    (_, page) => space.frames.frameOf(backing, first + page) * PAGE,
  );
  const ram = space.allocate(2);
  for (let page = 0; page < 2; page++) space.write(ram + page * PAGE, new Uint8Array(PAGE).fill(101 + page));
  return { space, memory, places: [...places, ram, ram + PAGE], reads, holes: ram + 2 * PAGE };
}

/** Vitest takes milliseconds to compare a page. */
function alike(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

describe('a transfer', () => {
  it('reaches pages that are neighbours where they are kept at once, though their addresses are not', () => {
    const { space, places, reads } = setUp();
    const data = new Uint8Array(PAGES * PAGE);
    const scatter = new Scatter(space, data, false);
    for (let page = 0; page < PAGES; page++) expect(scatter.add(places[page]!, PAGE)).toBe(true);
    expect(scatter.flush()).toBe(true);
    expect(scatter.done).toBe(data.length);
    expect(reads).toEqual([PAGES * PAGE]);
    expect(Array.from({ length: PAGES }, (_, page) => data[page * PAGE])).toEqual(
      [...Array(PAGES).keys()].map((n) => n + 1),
    );
  });

  it('reads pages of one program at once, in whatever order, and RAM between them by itself', () => {
    const { space, memory, places, reads } = setUp();
    const order = [5, 2, 3, 9, 0, PAGES, 7, 6, 1];
    const data = new Uint8Array(order.length * PAGE);
    const scatter = new Scatter(space, data, false);
    for (const page of order) expect(scatter.add(places[page]!, PAGE)).toBe(true);
    expect(scatter.flush()).toBe(true);
    expect([memory.gathered, reads, scatter.done]).toEqual([[4, 3], [], data.length]);
    expect(order.map((_, at) => data[at * PAGE])).toEqual(
      order.map((page) => (page === PAGES ? 101 : page + 1)),
    );
  });

  it('reads them one after the other where that cannot be, as far as memory goes', () => {
    const { space, memory, places, reads } = setUp();
    memory.gathers = false;
    memory.unmap(VA + BigInt(7 * PAGE), BigInt(PAGE));
    const order = [5, 2, 3, 7, 9];
    const data = new Uint8Array(order.length * PAGE);
    const scatter = new Scatter(space, data, false);
    for (const page of order) expect(scatter.add(places[page]!, PAGE)).toBe(true);
    expect(scatter.flush()).toBe(false);
    expect([scatter.done, reads]).toEqual([3 * PAGE, [PAGE, 2 * PAGE, PAGE]]);
    expect([0, 1, 2].map((at) => data[at * PAGE])).toEqual([6, 3, 4]);
  });

  it('does not let pages of two programs be taken for one', () => {
    const [one, other] = [setUp(), new Gathering()];
    other.map(VA, BigInt(PAGES * PAGE));
    const backing = privateBacking(other, false);
    const first = Number(VA) / PAGE;
    one.space.frames.pin(backing, first, PAGES);
    const data = new Uint8Array(3 * PAGE).fill(9);
    const scatter = new Scatter(one.space, data, false);
    scatter.add(one.places[4]!, PAGE);
    scatter.add(one.space.frames.frameOf(backing, first + 5) * PAGE, PAGE);
    scatter.add(one.places[6]!, PAGE);
    expect(scatter.flush()).toBe(true);
    expect([0, 1, 2].map((at) => data[at * PAGE])).toEqual([5, 0, 7]);
  });

  it('lets no more than a mebibyte of pages wait', () => {
    const { space, memory, places } = setUp();
    const data = new Uint8Array(600 * PAGE);
    const scatter = new Scatter(space, data, false);
    for (let at = 0; at < 600; at++) scatter.add(places[(at * 3) % PAGES]!, PAGE);
    expect(scatter.flush()).toBe(true);
    expect(memory.gathered).toEqual([256, 256, 88]);
    expect(Array.from({ length: 600 }, (_, at) => data[at * PAGE])).toEqual(
      Array.from({ length: 600 }, (_, at) => ((at * 3) % PAGES) + 1),
    );
  });

  it('says how far it came where memory refuses', () => {
    const { space, places, holes } = setUp();
    const scatter = new Scatter(space, new Uint8Array(3 * PAGE), true);
    scatter.add(places[0]!, PAGE);
    scatter.add(holes, PAGE);
    expect(scatter.add(places[1]!, PAGE)).toBe(false);
    expect(scatter.done).toBe(PAGE);
  });

  it('reads zeroes where nothing is, and goes on behind', () => {
    const { space, places } = setUp();
    const data = new Uint8Array(3).fill(9);
    const scatter = new Scatter(space, data, false);
    scatter.add(places[2]!, 1);
    scatter.skip(1);
    scatter.add(places[4]!, 1);
    expect(scatter.flush()).toBe(true);
    expect([...data]).toEqual([3, 0, 5]);
  });

  it('is what as many single ones would be, whatever the places', () => {
    const part = fc.record({
      place: fc.nat({ max: PAGES + 1 }),
      from: fc.nat({ max: 3 }),
      whole: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(part, { maxLength: 20 }), fc.boolean(), fc.boolean(), (parts, write, gathers) => {
        const [one, other] = [setUp(), setUp()];
        one.memory.gathers = gathers;
        const sizes = parts.map(({ from, whole }) => (whole ? PAGE : PAGE - from * 64));
        const length = sizes.reduce((sum, size) => sum + size, 0);
        const [first, second] = [0, 1].map(() => Uint8Array.from({ length }, (_, i) => i % 251)) as [
          Uint8Array,
          Uint8Array,
        ];
        const scatter = new Scatter(one.space, first, write);
        let at = 0;
        for (const [index, { place, from, whole }] of parts.entries()) {
          const offset = whole ? 0 : from * 64;
          scatter.add(one.places[place]! + offset, sizes[index]!);
          const piece = second.subarray(at, at + sizes[index]!);
          if (write) other.space.write(other.places[place]! + offset, piece);
          else other.space.read(other.places[place]! + offset, piece);
          at += sizes[index]!;
        }
        expect(scatter.flush()).toBe(true);
        expect(alike(first, second)).toBe(true);
        for (const [index, place] of one.places.entries()) {
          const pages = [new Uint8Array(PAGE), new Uint8Array(PAGE)] as const;
          one.space.read(place, pages[0]);
          other.space.read(other.places[index]!, pages[1]);
          expect(alike(pages[0], pages[1])).toBe(true);
        }
      }),
      { numRuns: 100 },
    );
  });
});
