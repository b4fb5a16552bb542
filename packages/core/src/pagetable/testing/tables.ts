import { type PhysicalMemory, Ram } from '../../memory/physical.ts';

const ROOT = 0x1000;
const PAGES = 16;

/** Tables at 0x1000 (root), 0x2000, … downwards in level, in front of a walker; each entry at index 0 unless `put` says otherwise. */
export class Tables<Walker> {
  readonly ram = new Ram();
  readonly walker: Walker;
  readonly #present: number;

  /** Entries that lead to tables have the bits `present`. */
  constructor(present: number, walker: new (memory: PhysicalMemory) => Walker) {
    this.#present = present;
    for (let page = 0; page < PAGES; page++) this.ram.add(page);
    this.walker = new walker(this.ram);
  }

  put(address: number, lo: number, hi = 0): this {
    this.ram.store64(address, lo >>> 0, hi >>> 0);
    return this;
  }

  /** The lower word of an entry. */
  get(address: number): number {
    const out = new Uint32Array(2);
    this.ram.load64(address, out);
    return out[0]!;
  }

  /** Tables down to a leaf of `level`; entries above it have `tableHi` in their upper word. */
  chain(levels: number, leafLevel: number, leaf: number, hi = 0, tableHi = 0): this {
    for (let level = levels; level > leafLevel; level--) {
      const at = ROOT + (levels - level) * 0x1000;
      this.put(at, (at + 0x1000) | this.#present, tableHi);
    }
    return this.put(ROOT + (levels - leafLevel) * 0x1000, leaf, hi);
  }
}
