import { assert } from '../../../../base/assert.ts';
import { readField } from '../../../../base/bit-fields.ts';
import type { Kernel } from '../../../driver.ts';
import {
  PASID_DIR_ENTRY_BYTES,
  PASID_ENTRY,
  PASID_ENTRY_BYTES,
  PASID_ENTRY_WORDS,
} from '../../spec/pasid.ts';
import { PASID_MAX } from '../limits.ts';

// The PASID directory and the PASID tables of a function, in memory: drivers/iommu/intel/pasid.c
// intel_pasid_alloc_table() and intel_pasid_get_entry().

/** PASID_PDE_SHIFT: PASIDs of a table, as log2. */
const TABLE_BITS = 6;
const TABLE_MASK = (1 << TABLE_BITS) - 1;
const PRESENT = 1;

/** A PASID table entry: struct pasid_entry. */
export type PasidEntry = Uint32Array;

export class PasidTable {
  readonly directory: number;
  /** PASIDs are below it. */
  readonly maxPasid: number;
  readonly #kernel: Kernel;
  readonly #pages: number;
  readonly #word = new Uint32Array(2);

  /** For a function with so many PASIDs; 0 where it has none. Null where there is no memory. */
  static make(kernel: Kernel, pasids: number): PasidTable | null {
    return kernel.failpoint() || kernel.failpoint() ? null : new PasidTable(kernel, pasids);
  }

  private constructor(kernel: Kernel, pasids: number) {
    this.#kernel = kernel;
    const bytes = Math.min(pasids, PASID_MAX) / 2 ** (TABLE_BITS - 3);
    // get_order()
    this.#pages = 2 ** Math.max(0, Math.ceil(Math.log2(Math.max(1, bytes / 4096))));
    this.maxPasid = (this.#pages * 4096 * 2 ** TABLE_BITS) / PASID_DIR_ENTRY_BYTES;
    this.directory = kernel.physical.allocate(this.#pages);
  }

  /** context_get_sm_pds(): PDTS of the context entry. */
  get directorySize(): number {
    return Math.max(0, Math.log2(this.maxPasid >>> TABLE_BITS) - 7);
  }

  /** Where the entry of a PASID is; makes its table. Null beyond the directory, and where there is no memory. */
  entryAddress(pasid: number): number | null {
    if (pasid >= this.maxPasid) return null;
    const { physical } = this.#kernel;
    const at = this.directory + (pasid >>> TABLE_BITS) * PASID_DIR_ENTRY_BYTES;
    let table = this.#tableAt(at);
    if (table === 0) {
      if (this.#kernel.failpoint()) return null;
      table = physical.allocate(1);
      physical.store64(at, (table | PRESENT) >>> 0, Math.floor(table / 0x1_0000_0000));
    }
    return table + (pasid & TABLE_MASK) * PASID_ENTRY_BYTES;
  }

  #tableAt(at: number): number {
    assert(this.#kernel.physical.load64(at, this.#word), 'the PASID directory is gone');
    if ((this.#word[0]! & PRESENT) === 0) return 0;
    return this.#word[1]! * 0x1_0000_0000 + ((this.#word[0]! & 0xffff_f000) >>> 0);
  }

  load(address: number): PasidEntry {
    const entry = new Uint32Array(PASID_ENTRY_WORDS);
    for (let word = 0; word < PASID_ENTRY_WORDS; word += 2) {
      assert(this.#kernel.physical.load64(address + word * 4, this.#word), 'the PASID table is gone');
      entry.set(this.#word, word);
    }
    return entry;
  }

  /** The first 64 bits, which have P, alone and last where they are to be seen at once. */
  storeFirst(address: number, entry: PasidEntry): void {
    this.#store(address, entry, 0);
  }

  /** All of an entry that is not present, and then P. */
  store(address: number, entry: PasidEntry): void {
    for (let word = PASID_ENTRY_WORDS - 2; word >= 0; word -= 2) this.#store(address, entry, word);
  }

  #store(address: number, entry: PasidEntry, word: number): void {
    const stored = this.#kernel.physical.store64(address + word * 4, entry[word]!, entry[word + 1]!);
    assert(stored, 'the PASID table is gone');
  }

  /** intel_pasid_free_table() */
  free(): void {
    const { physical } = this.#kernel;
    const end = this.directory + this.#pages * 4096;
    for (let at = this.directory; at < end; at += PASID_DIR_ENTRY_BYTES) {
      const table = this.#tableAt(at);
      if (table !== 0) physical.free(table, 1);
    }
    physical.free(this.directory, this.#pages);
  }
}

export function isPresent(entry: PasidEntry): boolean {
  return readField(PASID_ENTRY.P, entry) !== 0;
}
