import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { privateBacking } from './frames.ts';
import { PhysicalSpace } from './physical-space.ts';
import { Scatter } from './scatter.ts';
import { SimulatedMemory } from './simulated-process.ts';

const PAGE = 4096;
const PAGES = 16;
const VA = 0x10_0000n;

/** A program's pages, pinned, and RAM, in one address space; `reads` are how its memory was asked. */
function setUp(): { space: PhysicalSpace; places: number[]; reads: number[]; holes: number } {
  const space = new PhysicalSpace();
  const memory = new SimulatedMemory();
  memory.map(VA, BigInt(PAGES * PAGE));
  for (let page = 0; page < PAGES; page++)
    memory.write(VA + BigInt(page * PAGE), new Uint8Array(PAGE).fill(page + 1));
  const reads: number[] = [];
  const read = memory.read.bind(memory);
  memory.read = (va, into) => {
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
  return { space, places: [...places, ram, ram + PAGE], reads, holes: ram + 2 * PAGE };
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
      fc.property(fc.array(part, { maxLength: 20 }), fc.boolean(), (parts, write) => {
        const [one, other] = [setUp(), setUp()];
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
        expect(first).toEqual(second);
        for (const [index, place] of one.places.entries()) {
          const pages = [new Uint8Array(PAGE), new Uint8Array(PAGE)] as const;
          one.space.read(place, pages[0]);
          other.space.read(other.places[index]!, pages[1]);
          expect(pages[0]).toEqual(pages[1]);
        }
      }),
      { numRuns: 100 },
    );
  });
});
