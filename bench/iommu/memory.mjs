// The memory and the page tables of bench/iommu.mjs.

/** Memory starts at physical address 0. Page tables come from TABLES on; what is below is the vendor's. */
const BYTES = 64 << 20;
const TABLES = 0x10_0000;
/** Pages that both stages map. */
export const PAGES = 4096;

/** All of memory in one array. */
export class Flat {
  words = new Uint32Array(BYTES / 4);
  #free = TABLES;

  load64(pa, out) {
    if (pa >= BYTES) return false;
    const at = pa >>> 2;
    out[0] = this.words[at];
    out[1] = this.words[at + 1];
    return true;
  }

  store64(pa, lo, hi) {
    if (pa >= BYTES) return false;
    const at = pa >>> 2;
    this.words[at] = lo;
    this.words[at + 1] = hi;
    return true;
  }

  read = () => false;
  write = () => false;

  put(pa, words) {
    this.words.set(words, pa / 4);
  }

  /** A page for a table. */
  take() {
    this.#free += 4096;
    return this.#free - 4096;
  }

  /** Where the next table will be: all that there are lie below. */
  get tablesEnd() {
    return this.#free;
  }
}

/** 4K tables of four levels. `table` and `leaf` give the two words that an entry has besides its address. */
class Tables {
  constructor(memory, { table, leaf }) {
    this.memory = memory;
    this.table = table;
    this.leaf = leaf;
    this.root = memory.take();
  }

  /** Maps a page to itself. */
  map(address) {
    const { words } = this.memory;
    let base = this.root;
    for (let level = 4; level > 1; level--) {
      const at = base / 4 + 2 * (Math.floor(address / 2 ** (3 + 9 * level)) % 512);
      if (words[at] === 0) this.#set(at, this.memory.take(), this.table(level));
      base = words[at] & ~0xfff;
    }
    this.#set(base / 4 + 2 * (Math.floor(address / 4096) % 512), address, this.leaf);
  }

  #set(at, address, [lo, hi]) {
    this.memory.words[at] = (address | lo) >>> 0;
    this.memory.words[at + 1] = hi;
  }
}

/** Tables of both stages; stage 2 maps those of stage 1 as well. All map pages to themselves: one image serves all ways. */
export function bothStages(memory, first, second) {
  const one = new Tables(memory, first);
  const two = new Tables(memory, second);
  for (let page = 0; page < PAGES; page++) one.map(page * 4096);
  const end = memory.tablesEnd;
  for (let page = 0; page < PAGES; page++) two.map(page * 4096);
  for (let at = TABLES; at < end; at += 4096) two.map(at);
  return { stage1: one.root, stage2: two.root };
}
