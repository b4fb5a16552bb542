import { assert } from '../../base/assert.ts';
import { fail, failed, type Result } from '../../base/result.ts';
import { hex, PAGE_SIZE } from '../../base/u64.ts';
import { EADDRINUSE, EINVAL, ENOMEM, ENXIO, ERANGE } from '../../abi/errno.ts';
import { POW2 } from '../page-sizes.ts';
import {
  ENTRY,
  GRANULE_BITS,
  itemBits,
  LEVEL_BITS,
  PROT,
  type EntryBits,
  type TableFormat,
} from './format.ts';
import { TableGather } from './gather.ts';
import { LeafSizes, leafSizesOf } from './sizes.ts';

// Tables in memory that a driver keeps for its IOMMU: drivers/iommu/generic_pt/iommu_pt.h, which is written once for all
// formats. Addresses are page numbers, below 2^52: an address of 64 bits stays exact.

const ENTRIES = 1 << LEVEL_BITS;
const INDEX_MASK = ENTRIES - 1;
const ENTRY_BYTES = 8;
/** Pages of 64 bits of addresses. */
const ALL_PAGES = 2 ** 52;

/** Where tables are. */
export interface TableMemory {
  /** A zeroed page; 0 where there is none. */
  allocateTable(): number;
  freeTable(pa: number): void;
  load64(pa: number, out: Uint32Array): boolean;
  store64(pa: number, lo: number, hi: number): boolean;
}

export interface GenericTableOptions {
  readonly format: TableFormat;
  readonly memory: TableMemory;
  /** The level that the table starts with. */
  readonly topLevel: number;
  /** Bits of input and of output addresses. */
  readonly vaBits: number;
  readonly outBits: number;
  /** PT_FEAT_DYNAMIC_TOP: the table grows upwards with what is mapped, and hardware has to be told of a new top. */
  readonly changeTop?: (root: number, topLevel: number) => void;
  /** PT_FEAT_FLUSH_RANGE_NO_GAPS: what lies between ranges that changed is not invalidated with them. */
  readonly noGaps?: boolean;
  /** iotlb_sync(): caches forget the range; the gathered tables are freed afterwards. */
  readonly sync: (gather: TableGather) => void;
}

/** struct pt_iommu */
export class GenericTable {
  readonly format: TableFormat;
  readonly vaBits: number;
  readonly outBits: number;
  readonly sizes: LeafSizes;
  readonly #options: GenericTableOptions;
  readonly #memory: TableMemory;
  readonly #word = new Uint32Array(2);
  #root: number;
  #topLevel: number;

  /** Null where there is no memory. */
  static make(options: GenericTableOptions): GenericTable | null {
    const root = options.memory.allocateTable();
    return root === 0 ? null : new GenericTable(options, root);
  }

  private constructor(options: GenericTableOptions, root: number) {
    const { format, topLevel, vaBits, outBits } = options;
    this.#options = options;
    this.#memory = options.memory;
    this.format = format;
    this.vaBits = vaBits;
    this.outBits = outBits;
    this.#root = root;
    this.#topLevel = topLevel;
    const top = options.changeTop === undefined ? topLevel : format.topLevelMax;
    this.sizes = new LeafSizes(leafSizesOf(format, top, vaBits, outBits));
  }

  /** Address of the top table. */
  get root(): number {
    return this.#root;
  }

  get topLevel(): number {
    return this.#topLevel;
  }

  // ---- map ----

  /**
   * map_range(): nothing stays mapped where it fails. EADDRINUSE where something is mapped already, ERANGE outside of
   * the address sizes, ENXIO where nothing of the size can be mapped there, EINVAL without a permission.
   */
  map(page: number, out: number, count: number, prot: number): Result<void> {
    if ((prot & (PROT.READ | PROT.WRITE)) === 0) return fail(EINVAL, 'a mapping needs a permission');
    if (out >= POW2[this.outBits - GRANULE_BITS]!)
      return fail(ERANGE, `page ${hex(out)} is beyond ${this.outBits} bits`);
    if (page + count > POW2[this.vaBits - GRANULE_BITS]!)
      return fail(ERANGE, `page ${hex(page + count - 1)} is beyond ${this.vaBits} bits`);
    const gather = new TableGather();
    const progress = { done: 0 };
    const mapped = this.#mapAll(page, out, count, this.format.leafBits(prot), gather, progress);
    // Tables that gave way to large pages may be in walk caches.
    if (gather.tables.length > 0) this.#sync(gather);
    if (failed(mapped) && progress.done > 0) this.unmap(page, progress.done);
    return mapped;
  }

  #mapAll(
    page: number,
    out: number,
    count: number,
    bits: EntryBits,
    gather: TableGather,
    progress: { done: number },
  ): Result<void> {
    while (progress.done < count) {
      const at = page + progress.done;
      const to = out + progress.done;
      const left = count - progress.done;
      const log2 = this.sizes.best(at, to, left);
      if (log2 < 0) return fail(ENXIO, 'the table has no page as small');
      const level = this.#leafLevel(log2);
      const grown = this.#growTo(page + count - 1, level);
      if (failed(grown)) return grown;
      const run = this.sizes.run(at, to, left, log2);
      const table = this.#descend(at, level);
      if (failed(table)) return table;
      const mapped = this.#mapLeaves(table, level, at, to, run, log2, bits, gather, progress);
      if (failed(mapped)) return mapped;
    }
  }

  /** pt_pgsz_lg2_to_level() */
  #leafLevel(log2: number): number {
    return Math.floor(log2 / LEVEL_BITS);
  }

  // increase_top()
  #growTo(lastPage: number, leafLevel: number): Result<void> {
    const { changeTop } = this.#options;
    let level = this.#topLevel;
    let root = this.#root;
    const made: number[] = [];
    const fits = (): boolean => leafLevel <= level && lastPage < POW2[itemBits(level + 1) - GRANULE_BITS]!;
    while (!fits()) {
      level++;
      const beyond = level > this.format.topLevelMax || itemBits(level) >= this.vaBits;
      const table = beyond || changeTop === undefined ? 0 : this.#memory.allocateTable();
      if (table === 0) {
        for (const pa of made) this.#memory.freeTable(pa);
        return beyond ? fail(ERANGE, 'no table is as large') : fail(ENOMEM, 'no memory for a page table');
      }
      made.push(table);
      this.#storeTable(table, level, root);
      root = table;
    }
    if (made.length === 0) return;
    // Hardware first: what it has cached stays right under one more level.
    changeTop!(root, level);
    this.#root = root;
    this.#topLevel = level;
  }

  /** The table at `level` on the way to a page, made where it is missing. */
  #descend(page: number, level: number): Result<number> {
    let table = this.#root;
    for (let at = this.#topLevel; at > level; at--) {
      const entry = table + indexOf(page, at) * ENTRY_BYTES;
      const kind = this.#load(entry, at);
      if (kind === ENTRY.LEAF) return fail(EADDRINUSE, `page ${hex(page)} is mapped by a larger one`);
      if (kind === ENTRY.TABLE) {
        table = this.#address();
        continue;
      }
      const made = this.#memory.allocateTable();
      if (made === 0) return fail(ENOMEM, 'no memory for a page table');
      this.#storeTable(entry, at, made);
      table = made;
    }
    return table;
  }

  // __map_range_leaf(): as many of `run` leaves as the table has room for.
  #mapLeaves(
    table: number,
    level: number,
    page: number,
    out: number,
    run: number,
    log2: number,
    bits: EntryBits,
    gather: TableGather,
    progress: { done: number },
  ): Result<void> {
    const step = 1 << (log2 - LEVEL_BITS * level);
    const size = this.format.sizeBits(level, log2 + GRANULE_BITS);
    const pages = POW2[log2]!;
    let index = indexOf(page, level);
    let at = page;
    let to = out;
    for (let left = run; left > 0 && index < ENTRIES; left--, index += step) {
      const entry = table + index * ENTRY_BYTES;
      if (step > 1 || this.#load(entry, level) !== ENTRY.EMPTY) {
        const cleared = this.#clearForLeaf(entry, level, step, at, gather);
        if (failed(cleared)) return cleared;
      }
      const lo = bits.lo | size.lo | ((to % 0x10_0000) * PAGE_SIZE);
      const hi = bits.hi | size.hi | (Math.floor(to / 0x10_0000) & 0xf_ffff);
      for (let i = 0; i < step; i++) this.#store(entry + i * ENTRY_BYTES, lo, hi);
      at += pages;
      to += pages;
      progress.done += pages;
    }
  }

  // clear_contig(): empty tables give way to a leaf.
  #clearForLeaf(entry: number, level: number, step: number, page: number, gather: TableGather): Result<void> {
    const pages = POW2[itemBits(level) - GRANULE_BITS]!;
    for (let i = 0; i < step; i++) {
      const at = entry + i * ENTRY_BYTES;
      const kind = this.#load(at, level);
      if (kind === ENTRY.EMPTY) continue;
      const start = page + i * pages;
      if (kind === ENTRY.LEAF) return fail(EADDRINUSE, `page ${hex(start)} is mapped`);
      const table = this.#address();
      const below: number[] = [];
      if (!this.#collectEmpty(table, level - 1, below))
        return fail(EADDRINUSE, `something is mapped within page ${hex(start)}`);
      this.#store(at, 0, 0);
      if (this.#options.noGaps === true && gather.isApart(start, pages)) this.#sync(gather);
      for (const pa of [table, ...below]) gather.addTable(pa);
      gather.addRange(start, pages);
    }
  }

  // __collect_tables() with check_mapped: false where something is mapped.
  #collectEmpty(table: number, level: number, tables: number[]): boolean {
    for (let index = 0; index < ENTRIES; index++) {
      const kind = this.#load(table + index * ENTRY_BYTES, level);
      if (kind === ENTRY.LEAF) return false;
      if (kind === ENTRY.EMPTY) continue;
      const below = this.#address();
      tables.push(below);
      if (!this.#collectEmpty(below, level - 1, tables)) return false;
    }
    return true;
  }

  // ---- unmap ----

  /**
   * unmap_range() and the sync behind it: stops at the first page that is not mapped, and takes a large page whole.
   * Answers the pages, which may be more than were asked.
   */
  unmap(page: number, count: number): number {
    if (count === 0 || page + count > this.#span()) return 0;
    const gather = new TableGather();
    const state = { unmapped: 0, stopped: false };
    this.#unmapLevel(this.#root, this.#topLevel, page, page + count - 1, gather, state);
    // The last byte of nothing at 0 is the highest of all: iommu_iotlb_gather_add_range().
    gather.addRange(page, state.unmapped === 0 && page === 0 ? ALL_PAGES : state.unmapped);
    if (!gather.empty) this.#sync(gather);
    return state.unmapped;
  }

  /** Pages that the levels of now translate. */
  #span(): number {
    return POW2[Math.min(this.vaBits, itemBits(this.#topLevel + 1)) - GRANULE_BITS]!;
  }

  // __unmap_range()
  #unmapLevel(
    table: number,
    level: number,
    page: number,
    last: number,
    gather: TableGather,
    state: { unmapped: number; stopped: boolean },
  ): void {
    const pages = POW2[itemBits(level) - GRANULE_BITS]!;
    const tableStart = Math.floor(page / (pages * ENTRIES)) * pages * ENTRIES;
    let at = page;
    while (at <= last && at < tableStart + pages * ENTRIES && !state.stopped) {
      const index = indexOf(at, level);
      const entry = table + index * ENTRY_BYTES;
      const entryStart = tableStart + index * pages;
      switch (this.#load(entry, level)) {
        case ENTRY.EMPTY:
          state.stopped = true;
          return;
        case ENTRY.TABLE: {
          const below = this.#address();
          const end = Math.min(last, entryStart + pages - 1);
          this.#unmapLevel(below, level - 1, at, end, gather, state);
          if (state.stopped) return;
          if (at === entryStart && end === entryStart + pages - 1) {
            gather.addTable(below);
            this.#store(entry, 0, 0);
          }
          at = entryStart + pages;
          break;
        }
        case ENTRY.LEAF: {
          const entries = 1 << this.format.contiguous(this.#word[0]!, this.#word[1]!, level);
          // Part of a large page, other than its start, cannot be unmapped.
          if (index % entries !== 0 || at !== entryStart) {
            state.stopped = true;
            return;
          }
          for (let i = 0; i < entries; i++) this.#store(entry + i * ENTRY_BYTES, 0, 0);
          state.unmapped += entries * pages;
          at += entries * pages;
        }
      }
    }
  }

  /** iommu_iotlb_sync(): the gather is as new afterwards. */
  #sync(gather: TableGather): void {
    this.#options.sync(gather);
    for (const pa of gather.tables) this.#memory.freeTable(pa);
    gather.clear();
  }

  // ---- look-ups ----

  /** iova_to_phys(): the page that an input page leads to, or -1. */
  lookup(page: number): number {
    if (page >= this.#span()) return -1;
    let table = this.#root;
    for (let level = this.#topLevel; level >= 0; level--) {
      const kind = this.#load(table + indexOf(page, level) * ENTRY_BYTES, level);
      if (kind === ENTRY.EMPTY) return -1;
      if (kind === ENTRY.LEAF) {
        const log2 =
          itemBits(level) - GRANULE_BITS + this.format.contiguous(this.#word[0]!, this.#word[1]!, level);
        const size = POW2[log2]!;
        return Math.floor(this.#address() / PAGE_SIZE / size) * size + (page % size);
      }
      table = this.#address();
    }
    return -1;
  }

  /**
   * read_and_clear_dirty(): calls `record` for each leaf in the range that was written to, with its first page and its
   * pages. Clears as it reads where `clear` is set. ERANGE where the table does not reach as far.
   */
  readAndClearDirty(
    page: number,
    count: number,
    clear: boolean,
    record: (page: number, pages: number) => void,
  ): Result<void> {
    if (page + count > this.#span()) return fail(ERANGE, 'the range is beyond the table');
    this.#dirtyLevel(this.#root, this.#topLevel, page, page + count - 1, clear, record);
  }

  #dirtyLevel(
    table: number,
    level: number,
    page: number,
    last: number,
    clear: boolean,
    record: (page: number, pages: number) => void,
  ): void {
    const pages = POW2[itemBits(level) - GRANULE_BITS]!;
    const tableStart = Math.floor(page / (pages * ENTRIES)) * pages * ENTRIES;
    let at = page;
    while (at <= last && at < tableStart + pages * ENTRIES) {
      const index = indexOf(at, level);
      const entryStart = tableStart + index * pages;
      const kind = this.#load(table + index * ENTRY_BYTES, level);
      let next = entryStart + pages;
      if (kind === ENTRY.TABLE) {
        this.#dirtyLevel(this.#address(), level - 1, at, Math.min(last, next - 1), clear, record);
      } else if (kind === ENTRY.LEAF) {
        const entries = 1 << this.format.contiguous(this.#word[0]!, this.#word[1]!, level);
        const first = index - (index % entries);
        const start = tableStart + first * pages;
        if (this.#takeDirty(table + first * ENTRY_BYTES, entries, clear)) record(start, entries * pages);
        next = start + entries * pages;
      }
      at = next;
    }
  }

  /** Hardware may mark any of the entries of a large page. */
  #takeDirty(at: number, entries: number, clear: boolean): boolean {
    const { dirtyLo } = this.format;
    let dirty = false;
    for (let i = 0; i < entries; i++) {
      this.#loadWord(at + i * ENTRY_BYTES);
      if ((this.#word[0]! & dirtyLo) === 0) continue;
      dirty = true;
      if (!clear) break;
      this.#store(at + i * ENTRY_BYTES, this.#word[0]! & ~dirtyLo, this.#word[1]!);
    }
    return dirty;
  }

  // ---- entries ----

  #loadWord(pa: number): void {
    assert(this.#memory.load64(pa, this.#word), 'a page table is gone');
  }

  #load(pa: number, level: number): number {
    this.#loadWord(pa);
    return this.format.kind(this.#word[0]!, this.#word[1]!, level);
  }

  #store(pa: number, lo: number, hi: number): void {
    assert(this.#memory.store64(pa, lo >>> 0, hi >>> 0), 'a page table is gone');
  }

  #storeTable(entry: number, level: number, table: number): void {
    const bits = this.format.tableBits(level);
    this.#store(entry, bits.lo | table, bits.hi | Math.floor(table / 0x1_0000_0000));
  }

  /** The address in the loaded entry: bits 51:12. */
  #address(): number {
    return (this.#word[1]! & 0xf_ffff) * 0x1_0000_0000 + ((this.#word[0]! & 0xffff_f000) >>> 0);
  }

  /** deinit(): hardware must not reach the tables any more. */
  free(): void {
    this.#freeBelow(this.#root, this.#topLevel);
  }

  #freeBelow(table: number, level: number): void {
    if (level > 0) {
      for (let index = 0; index < ENTRIES; index++) {
        if (this.#load(table + index * ENTRY_BYTES, level) === ENTRY.TABLE)
          this.#freeBelow(this.#address(), level - 1);
      }
    }
    this.#memory.freeTable(table);
  }
}

function indexOf(page: number, level: number): number {
  return level < 3
    ? (page >>> (LEVEL_BITS * level)) & INDEX_MASK
    : Math.floor(page / POW2[LEVEL_BITS * level]!) & INDEX_MASK;
}
