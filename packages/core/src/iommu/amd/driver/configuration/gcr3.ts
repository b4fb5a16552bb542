import { fail, type Result } from '../../../../base/result.ts';
import { EINVAL, ENOMEM, ENOSPC } from '../../../../abi/errno.ts';
import type { Kernel } from '../../../driver.ts';
import type { IdAllocator } from '../../../drivers/ids.ts';
import { GCR3_LEVEL_BITS } from '../../spec/dte.ts';

const VALID = 1;
const ENTRIES = 1 << GCR3_LEVEL_BITS;

/** get_gcr3_levels(): levels for so many PASIDs, less one. */
export function gcr3Levels(pasids: number): number {
  const bits = Math.ceil(Math.log2(pasids));
  return bits === 0 ? 0 : Math.ceil(bits / GCR3_LEVEL_BITS) - 1;
}

/** The guest page tables of a device by PASID: struct gcr3_tbl_info. */
export class Gcr3Table {
  readonly root: number;
  /** Levels, less one. */
  readonly glx: number;
  /** The domain id that a device with such a table has of its own. */
  readonly domainId: number;
  readonly #kernel: Kernel;
  readonly #ids: IdAllocator;
  readonly #word = new Uint32Array(2);

  /** setup_gcr3_table(): EINVAL where the IOMMU has no table as large, ENOSPC without a domain id. */
  static make(kernel: Kernel, ids: IdAllocator, pasids: number, glxMax: number): Result<Gcr3Table> {
    const glx = gcr3Levels(pasids);
    if (glx > glxMax) return fail(EINVAL, `${pasids} PASIDs need ${glx + 1} levels of GCR3 tables`);
    const domainId = ids.take();
    if (domainId === null) return fail(ENOSPC, 'all domain ids are in use');
    if (kernel.failpoint()) {
      ids.free(domainId);
      return fail(ENOMEM, 'no memory for a GCR3 table');
    }
    return new Gcr3Table(kernel, ids, glx, domainId);
  }

  private constructor(kernel: Kernel, ids: IdAllocator, glx: number, domainId: number) {
    this.#kernel = kernel;
    this.#ids = ids;
    this.glx = glx;
    this.domainId = domainId;
    this.root = kernel.physical.allocate(1);
  }

  /** update_gcr3() without the flush: the table of a PASID, or null for none. ENOMEM where there is no table for it. */
  set(pasid: number, root: number | null): Result<void> {
    const entry = this.#entry(pasid);
    if (entry === 0) return fail(ENOMEM, 'no memory for a GCR3 table');
    this.#store(entry, root);
  }

  // __get_gcr3_pte()
  #entry(pasid: number): number {
    let table = this.root;
    for (let level = this.glx; ; level--) {
      const at = table + ((pasid >>> (GCR3_LEVEL_BITS * level)) & (ENTRIES - 1)) * 8;
      if (level === 0) return at;
      let below = this.#load(at);
      if (below === 0) {
        if (this.#kernel.failpoint()) return 0;
        below = this.#kernel.physical.allocate(1);
        this.#store(at, below);
      }
      table = below;
    }
  }

  /** The address that a valid entry holds, 0 where it is not valid. */
  #load(at: number): number {
    this.#kernel.physical.load64(at, this.#word);
    const lo = this.#word[0]!;
    return (lo & VALID) === 0 ? 0 : this.#word[1]! * 0x1_0000_0000 + ((lo & 0xffff_f000) >>> 0);
  }

  #store(at: number, root: number | null): void {
    const lo = root === null ? 0 : ((root & 0xffff_f000) | VALID) >>> 0;
    this.#kernel.physical.store64(at, lo, Math.floor((root ?? 0) / 0x1_0000_0000));
  }

  /** free_gcr3_table() */
  free(): void {
    this.#freeTable(this.root, this.glx);
    this.#ids.free(this.domainId);
  }

  #freeTable(table: number, level: number): void {
    if (level > 0) {
      for (let i = 0; i < ENTRIES; i++) {
        const below = this.#load(table + i * 8);
        if (below !== 0) this.#freeTable(below, level - 1);
      }
    }
    this.#kernel.physical.free(table, 1);
  }
}
