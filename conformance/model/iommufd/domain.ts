import { EINVAL, must } from './errno.ts';
import { PAGE, U64_MAX } from './memory.ts';

// The paging domains of the mock IOMMU: drivers/iommu/iommufd/selftest.c over the page table of
// drivers/iommu/generic_pt/fmt/amdv1.h with a granule of 2 KiB. A domain is a set of leaf entries.

const GRANULE = 2048n;

interface Entry {
  readonly iova: bigint;
  readonly size: bigint;
  readonly pa: number;
  dirty: boolean;
}

/** A span of physically consecutive bytes. */
export interface Run {
  readonly pa: number;
  readonly length: bigint;
}

export class Domain {
  readonly huge: boolean;
  /** domain->dirty_ops is set. */
  readonly dirtyOps: boolean;
  /** MOCK_DIRTY_TRACK. */
  tracking = false;
  /** Inclusive. */
  readonly aperture: { readonly start: bigint; readonly last: bigint };
  readonly #entries = new Map<bigint, Entry>();

  constructor(huge: boolean, dirtyOps: boolean) {
    this.huge = huge;
    this.dirtyOps = dirtyOps;
    this.aperture = huge
      ? { start: 0n, last: (1n << 38n) - 1n }
      : { start: 1n << 24n, last: (1n << 31n) - 1n };
  }

  /** domain->pgsize_bitmap. */
  get pageSizes(): bigint {
    return this.huge ? (1n << 20n) | BigInt(PAGE) : (1n << 37n) - GRANULE;
  }

  /** 1 << __ffs(domain->pgsize_bitmap). */
  get pageSize(): bigint {
    return this.huge ? BigInt(PAGE) : GRANULE;
  }

  /** iommu_map() of each run; they follow one another from `iova` on. */
  map(iova: bigint, runs: readonly Run[], prot: { read: boolean; write: boolean }): void {
    must(prot.read || prot.write, EINVAL);
    for (const run of runs) {
      for (let done = 0n; done < run.length;) {
        const size = this.#leafSize(iova, BigInt(run.pa) + done, run.length - done);
        this.#entries.set(iova, { iova, size, pa: run.pa + Number(done), dirty: false });
        iova += size;
        done += size;
      }
    }
  }

  /** pt_compute_best_pgsize(). */
  #leafSize(iova: bigint, pa: bigint, length: bigint): bigint {
    let best = 0n;
    for (let size = GRANULE; size <= length && size < 1n << 37n; size <<= 1n)
      if ((this.pageSizes & size) !== 0n && ((iova | pa) & (size - 1n)) === 0n) best = size;
    if (best === 0n) throw new Error('a mapping that no page size fits');
    return best;
  }

  unmap(iova: bigint, last: bigint): void {
    for (let at = iova; at <= last;) {
      const size = this.#entries.get(at)?.size ?? GRANULE;
      this.#entries.delete(at);
      at += size;
    }
  }

  find(iova: bigint): Entry | null {
    for (let size = GRANULE; size < 1n << 37n; size <<= 1n) {
      const entry = this.#entries.get(iova & ~(size - 1n));
      if (entry !== undefined && entry.size === size) return entry;
    }
    return null;
  }

  /** iommu_iova_to_phys(): 0 where nothing is mapped. */
  physOf(iova: bigint): number {
    const entry = this.find(iova);
    return entry === null ? 0 : entry.pa + Number(iova - entry.iova);
  }

  /** The entries that lie in or reach into the range, ascending. All of it is mapped. */
  *entries(iova: bigint, last: bigint): Generator<Entry> {
    for (let at = iova; at <= last && at <= U64_MAX;) {
      const entry = this.find(at);
      if (entry !== null) yield entry;
      at = entry === null ? at + GRANULE - (at % GRANULE) : entry.iova + entry.size;
    }
  }

  /** How many entries there are, for the checks behind a test. */
  get size(): number {
    return this.#entries.size;
  }
}
