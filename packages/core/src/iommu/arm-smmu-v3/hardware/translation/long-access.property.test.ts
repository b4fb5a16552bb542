// A long access through both stages, to pages that lie anywhere, is what one access for each page would be.

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { privateBacking } from '../../../../memory/frames.ts';
import type { KeptMemory } from '../../../../memory/physical.ts';
import { PhysicalSpace } from '../../../../memory/physical-space.ts';
import { SimulatedMemory } from '../../../../memory/simulated-process.ts';
import { TestMemory } from '../../../testing/memory.ts';
import { AT, Rig, SID } from '../rules/rig.ts';
import type { AccessResult } from '../smmu.ts';

const PAGE = 4096;
/** Pages of addresses, behind one another over the end of 4 GiB, and of a program's memory. */
const WINDOW = 0x1_0000_0000n - 8n * 4096n;
const PAGES = 16;
const PROGRAM = 0x10_0000;
const IPA = 0x9000_0000n;
/** Where the machine's RAM ends and frames begin. */
const FRAMES = 64 * 2 ** 30;

/** Tables as tests have them, and above 64 GiB the pages of a program. */
class Memory extends TestMemory {
  readonly space = new PhysicalSpace();
  readonly program = new SimulatedMemory();

  get kept(): KeptMemory {
    return this.space.kept;
  }

  override read(pa: number, into: Uint8Array): boolean {
    return pa < FRAMES ? super.read(pa, into) : this.space.read(pa, into);
  }

  override write(pa: number, from: Uint8Array): boolean {
    return pa < FRAMES ? super.write(pa, from) : this.space.write(pa, from);
  }
}

const leaf = fc.record({
  /** Most pages are there, and most of them may be written. */
  af: fc.constantFrom<0 | 1>(0, 1, 1, 1),
  dbm: fc.constantFrom<0 | 1>(0, 1),
  ap: fc.constantFrom(1, 1, 1, 3),
});
const setting = fc.record({
  A: fc.nat(1),
  HA: fc.constantFrom(1, 1, 0),
  stage1: fc.array(fc.option(fc.record({ to: fc.nat(PAGES), leaf }), { freq: 12 }), {
    minLength: PAGES,
    maxLength: PAGES,
  }),
  /** 1 may be read, 3 also written. */
  stage2: fc.array(fc.constantFrom(3, 3, 3, 3, 1), { minLength: PAGES, maxLength: PAGES }),
});
type Setting = typeof setting extends fc.Arbitrary<infer T> ? T : never;
const accesses = fc.array(
  fc.record({
    at: fc.nat((PAGES - 1) * PAGE),
    bytes: fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: PAGE, max: PAGES * PAGE })),
    write: fc.boolean(),
    /** Afterwards a page leads elsewhere, and nobody invalidates what was cached of it. */
    moved: fc.option(fc.record({ page: fc.nat(PAGES - 1), to: fc.nat(PAGES) })),
  }),
  { minLength: 1, maxLength: 5 },
);

/** One stream through both stages; IPA page n is page n of the program, the one behind is RAM of the machine. */
class System {
  readonly memory = new Memory();
  readonly rig: Rig;
  readonly #first;
  readonly #leaves: number[] = [];

  constructor({ A, HA, stage1, stage2 }: Setting) {
    const { space, program } = this.memory;
    program.map(BigInt(PROGRAM), BigInt(PAGES * PAGE));
    for (let page = 0; page < PAGES; page++)
      program.write(BigInt(PROGRAM + page * PAGE), new Uint8Array(PAGE).fill(page + 1));
    const backing = privateBacking(program, false);
    space.frames.pin(backing, PROGRAM / PAGE, PAGES);
    this.rig = new Rig({ memory: this.memory });
    const { first, second } = this.rig.nested({ S2HA: 1, S2HD: 1 }, { A, HA, HD: HA });
    this.#first = first;
    for (let page = 0; page <= PAGES; page++) {
      const frame = page < PAGES ? space.frames.frameOf(backing, PROGRAM / PAGE + page) * PAGE : AT.data;
      const s2ap = stage2[page] ?? 3;
      this.#leaves.push(second.map(IPA + BigInt(page * PAGE), BigInt(frame), { s2ap, dbm: 1 }));
    }
    for (const [page, mapped] of stage1.entries()) {
      if (mapped !== null) this.#leaves.push(this.map(page, mapped.to, mapped.leaf));
    }
  }

  map(page: number, to: number, about: object = {}): number {
    return this.#first.map(WINDOW + BigInt(page * PAGE), IPA + BigInt(to * PAGE), about);
  }

  access(at: number, data: Uint8Array, write: boolean): AccessResult {
    const address = WINDOW + BigInt(at);
    const [hi, lo] = [Number(address >> 32n), Number(address & 0xffff_ffffn)];
    return this.rig.smmu.access({ streamId: SID, hi, lo, write }, data);
  }

  /** The same, a page at a time. */
  accessEach(at: number, data: Uint8Array, write: boolean): AccessResult {
    for (let done = 0; done < data.length;) {
      const bytes = Math.min(PAGE - ((at + done) % PAGE), data.length - done);
      const result = this.access(at + done, data.subarray(done, done + bytes), write);
      if (result.stopped !== null) return { done: done + result.done, stopped: result.stopped };
      done += bytes;
    }
    return { done: data.length, stopped: null };
  }

  /** What is left behind: bytes, flags in the tables, events. */
  left(): unknown {
    const bytes = new Uint8Array((PAGES + 1) * PAGE);
    this.memory.program.read(BigInt(PROGRAM), bytes.subarray(0, PAGES * PAGE));
    this.memory.read(AT.data, bytes.subarray(PAGES * PAGE));
    const sum = bytes.reduce((hash, byte) => Math.imul(hash ^ byte, 0x0100_0193), 0x811c_9dc5);
    return [sum, this.#leaves.map((place) => this.memory.get64(place)), this.rig.events()];
  }
}

/** How an access ended, without the objects that say so. */
function ended({ done, stopped }: AccessResult): unknown {
  if (stopped === null || stopped === 'bus') return [done, stopped];
  return [done, stopped.kind === 'terminated' ? [stopped.abort, stopped.event?.words] : stopped.kind];
}

it('a long access is what one for each page would be', () => {
  let [scattered, stopped] = [0, 0];
  fc.assert(
    fc.property(setting, accesses, (about, all) => {
      const [one, other] = [new System(about), new System(about)];
      for (const { at, bytes, write, moved } of all) {
        const length = Math.min(bytes, PAGES * PAGE - at);
        const [long, short] = [0, 1].map(() => Uint8Array.from({ length }, (_, i) => (i * 7 + at) & 255)) as [
          Uint8Array,
          Uint8Array,
        ];
        const result = one.access(at, long, write);
        expect(ended(result)).toEqual(ended(other.accessEach(at, short, write)));
        expect(long.every((byte, i) => byte === short[i])).toBe(true);
        expect(one.left()).toEqual(other.left());
        if (result.done > 2 * PAGE) scattered++;
        if (result.stopped !== null && result.done > 0) stopped++;
        if (moved !== null) for (const system of [one, other]) system.map(moved.page, moved.to);
      }
    }),
    { numRuns: 150 },
  );
  expect(scattered).toBeGreaterThan(30);
  expect(stopped).toBeGreaterThan(10);
}, 600_000);
