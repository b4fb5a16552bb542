import type { PhysicalMemory } from '../../../memory/physical.ts';

// For tests: first-stage tables of four levels as a guest writes them (D51397 §9.7), by the specification alone.

const LEVEL_BITS = 9n;
const PAGE_BITS = 12n;
const PRESENT = 1n;
const WRITABLE = 1n << 1n;
const USER = 1n << 2n;
const ACCESSED = 1n << 5n;
const DIRTY = 1n << 6n;

export class GuestTables {
  /** Address of the top table, for the guest. */
  readonly root: bigint;
  readonly #memory: PhysicalMemory;
  readonly #pa: number;
  readonly #gpa: bigint;
  #next: bigint;

  /** Guest memory that starts at `gpa` and lies at `pa`; pages are taken from its start on. */
  constructor(memory: PhysicalMemory, pa: number, gpa: bigint) {
    this.#memory = memory;
    this.#pa = pa;
    this.#gpa = gpa;
    this.#next = gpa;
    this.root = this.page();
  }

  /** A page of the guest that nobody has. */
  page(): bigint {
    const page = this.#next;
    this.#next += 1n << PAGE_BITS;
    return page;
  }

  hostAddress(gpa: bigint): number {
    return this.#pa + Number.parseInt((gpa - this.#gpa).toString(), 10);
  }

  #entryAt(table: bigint, gva: bigint, level: bigint): number {
    const index = (gva >> (PAGE_BITS + LEVEL_BITS * level)) & 511n;
    return this.hostAddress(table + index * 8n);
  }

  #load(pa: number): bigint {
    const out = new Uint32Array(2);
    this.#memory.load64(pa, out);
    return (BigInt(out[1]!) << 32n) | BigInt(out[0]!);
  }

  #store(pa: number, value: bigint): void {
    const words = new Uint32Array(new BigUint64Array([value]).buffer);
    this.#memory.store64(pa, words[0]!, words[1]!);
  }

  /** Where the entry of a page is; tables on the way are made. */
  leaf(gva: bigint): number {
    let table = this.root;
    for (let level = 3n; level > 0n; level--) {
      const at = this.#entryAt(table, gva, level);
      const entry = this.#load(at);
      if ((entry & PRESENT) !== 0n) {
        table = entry & 0xf_ffff_ffff_f000n;
        continue;
      }
      table = this.page();
      this.#store(at, table | PRESENT | WRITABLE | USER | ACCESSED);
    }
    return this.#entryAt(table, gva, 0n);
  }

  /** Maps one page, for reading alone where `writable` is false. */
  map(gva: bigint, gpa: bigint, writable = true): void {
    const rights = writable ? WRITABLE | DIRTY : 0n;
    this.#store(this.leaf(gva), gpa | PRESENT | USER | ACCESSED | rights);
  }

  unmap(gva: bigint): void {
    this.#store(this.leaf(gva), 0n);
  }
}
