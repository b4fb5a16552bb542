import { assert } from '../../../../base/assert.ts';
import type { Kernel } from '../../../driver.ts';

// Root and context tables in scalable mode: drivers/iommu/intel/iommu.c iommu_context_addr(). A root entry leads to two
// context tables, for devices 0 to 15 of a bus and for 16 to 31.

const ROOT_ENTRY_BYTES = 16;
const CONTEXT_ENTRY_BYTES = 32;
const PRESENT = 1;
const TABLES = 512;

export class RootTable {
  readonly address: number;
  readonly #kernel: Kernel;
  readonly #word = new Uint32Array(2);

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.address = kernel.physical.allocate(1);
  }

  /** Where the context entry of a function is, or null where there is no table for it. */
  find(requesterId: number): number | null {
    const table = this.#table(requesterId >>> 7);
    return table === null ? null : table + (requesterId & 0x7f) * CONTEXT_ENTRY_BYTES;
  }

  /** The same, with a new table where there was none. Null where there is no memory for it. */
  make(requesterId: number): number | null {
    const found = this.find(requesterId);
    if (found !== null) return found;
    if (this.#kernel.failpoint()) return null;
    const { physical } = this.#kernel;
    const table = physical.allocate(1);
    const lo = (table | PRESENT) >>> 0;
    const stored = physical.store64(this.#entry(requesterId >>> 7), lo, Math.floor(table / 0x1_0000_0000));
    assert(stored, 'the root table is gone');
    return this.find(requesterId);
  }

  /** free_context_table() */
  free(): void {
    for (let half = 0; half < TABLES; half++) {
      const table = this.#table(half);
      if (table !== null) this.#kernel.physical.free(table, 1);
    }
    this.#kernel.physical.free(this.address, 1);
  }

  /** The upper and the lower half of each entry are alike. */
  #entry(half: number): number {
    return this.address + (half * ROOT_ENTRY_BYTES) / 2;
  }

  #table(half: number): number | null {
    assert(this.#kernel.physical.load64(this.#entry(half), this.#word), 'the root table is gone');
    if ((this.#word[0]! & PRESENT) === 0) return null;
    return this.#word[1]! * 0x1_0000_0000 + ((this.#word[0]! & 0xffff_f000) >>> 0);
  }
}
