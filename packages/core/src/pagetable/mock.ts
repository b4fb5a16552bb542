import { EADDRINUSE, EINVAL, ENXIO, EOVERFLOW, ERANGE } from '../abi/errno.ts';
import { assert } from '../base/assert.ts';
import { fail, type Failure, type Result } from '../base/result.ts';
import { POW2 } from './page-sizes.ts';

// The page table of the kernel's mock IOMMU: the AMD v1 format with a granule of 2 KiB and every power of two as a page
// size (drivers/iommu/generic_pt/fmt/iommu_mock.c, fmt/amdv1.h AMDV1_IOMMUFD_SELFTEST), as the generic walkers of
// generic_pt/iommu_pt.h and iommu_map()/iommu_unmap() of drivers/iommu/iommu.c work it. It lives in JavaScript memory: the
// mock has no hardware that would read it.
//
// Addresses inside are numbers of granules: a u64 has 2^53 of them. What the kernel keeps in 64 bits of an entry stands
// in two arrays, `low` (bits 42:11 of the output address) and `high`:
//   [3:0]  0 nothing, 15 a table, else log2 of the items that form one entry, plus 1
//   [5:4]  IOMMU_READ, IOMMU_WRITE
//   [6]    dirty
//   [15:8] bits 50:43 of the output address
// The address and the dirty bit stand only in the first item of a contiguous entry. Tables that become empty go at once,
// so a table is always a conflict for a new entry over it; the kernel finds out by walking it (clear_contig()).

const GRANULE_LOG2 = 11;
const GRANULE = 2048;
const ITEMS_LOG2 = 9;
const ITEMS = 512;
const TOP_LEVEL_MAX = 4;
const VA_LOG2_MAX = 56;
const OA_LOG2_MAX = 51;
/** pt_possible_sizes() of AMD v1 leaves it out, for a bug of the hardware. */
const SZ_512G = 1n << 39n;

const CODE = 0xf;
const CODE_TABLE = 0xf;
const PROT_SHIFT = 4;
const PROT = 3;
const DIRTY = 0x40;
const ADDRESS_SHIFT = 8;

const U64_GRANULES = 2 ** 53;
const OUTPUT_GRANULES = 2 ** (OA_LOG2_MAX - GRANULE_LOG2);
const NO_SIZE = 0xff;
const SPARE_TABLES_MAX = 4;
const NO_CHILDREN: readonly null[] = Array.from({ length: ITEMS }, () => null);
/** Granules that one item of a table at each level spans. */
const SPAN = [0, 1, 2, 3, 4].map((level) => 2 ** (ITEMS_LOG2 * level));

const IOMMU_READ = 1;
const IOMMU_WRITE = 2;

const word = new BigUint64Array(1);
const halves = new Uint32Array(word.buffer);
const HI = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1 ? 1 : 0;
const LO = 1 - HI;

/** One entry of the table: what was mapped as one page. */
export interface MockEntry {
  readonly iova: bigint;
  /** Bytes: a power of two. */
  readonly length: bigint;
  readonly pa: number;
  /** IOMMU_READ (1) and IOMMU_WRITE (2). */
  readonly prot: number;
  readonly dirty: boolean;
}

/** Called for a dirty entry with the whole range of the entry, also where it passes the range that was asked for. */
export type RecordDirty = (iova: bigint, length: bigint) => void;

class Table {
  readonly level: number;
  /** Items that are not zero. */
  used = 0;
  /** Dirty entries here, and tables below that have any. */
  dirty = 0;
  readonly high = new Uint16Array(ITEMS);
  low: Uint32Array | null = null;
  children: (Table | null)[] | null = null;

  constructor(level: number) {
    this.level = level;
  }
}

/** The bitmap of page sizes that pt_iommu_init() gives the format (iommu_pt.h get_info()). */
function formatPageSizes(startingLevel: number, vaLog2: number): bigint {
  let sizes = 0n;
  for (let level = 0; level <= startingLevel && level < TOP_LEVEL_MAX; level++) {
    for (let contig = 0; contig < ITEMS_LOG2; contig++) {
      sizes |= 1n << BigInt(GRANULE_LOG2 + ITEMS_LOG2 * level + contig);
    }
  }
  return BigInt.asUintN(vaLog2 - 1, sizes & ~SZ_512G);
}

function log2Floor(n: number): number {
  const hi = Math.floor(n / 0x1_0000_0000);
  return hi !== 0 ? 63 - Math.clz32(hi) : 31 - Math.clz32(n >>> 0);
}

/** The number of zero bits below the lowest one that is set in `a` or `b`; 53 where neither has any. */
function trailingZeros(a: number, b: number): number {
  const lo = (a >>> 0) | (b >>> 0);
  if (lo !== 0) return 31 - Math.clz32(lo & -lo);
  const hi = Math.floor(a / 0x1_0000_0000) | Math.floor(b / 2 ** 32);
  return hi !== 0 ? 63 - Math.clz32(hi & -hi) : 53;
}

function indexAt(granule: number, level: number): number {
  return level < 3
    ? (granule >>> (ITEMS_LOG2 * level)) & (ITEMS - 1)
    : Math.floor(granule / SPAN[level]!) % ITEMS;
}

/** The granule that holds a u64 address, whose halves stay in `halves`. */
function granuleOf(address: bigint): number {
  word[0] = address;
  return halves[HI]! * 2 ** (32 - GRANULE_LOG2) + (halves[LO]! >>> GRANULE_LOG2);
}

/** The u64 address of a granule. */
function addressOf(granule: number): bigint {
  halves[LO] = granule * GRANULE;
  halves[HI] = Math.floor(granule / 2 ** (32 - GRANULE_LOG2));
  return word[0]!;
}

function leafGranules(table: Table, item: number): number {
  return SPAN[table.level]! * POW2[(item & CODE) - 1]!;
}

/** `granule` modulo a power of two. */
function modulo(granule: number, size: number): number {
  return size <= 0x8000_0000 ? (granule & (size - 1)) >>> 0 : granule % size;
}

function outputGranule(table: Table, index: number): number {
  return (table.high[index]! >>> ADDRESS_SHIFT) * 0x1_0000_0000 + table.low![index]!;
}

/** The mock's page table. */
export class MockPageTable {
  /** One bit for each page size: bit n for 2^n bytes. */
  readonly pgsizeBitmap: bigint;
  /** The last IOVA that the table can hold. The mock narrows the domain's aperture further, not the table. */
  readonly lastIova: bigint;

  private readonly root: Table;
  private readonly granules: number;
  /** For each log2 of granules, the largest page size at or below, in log2 of granules, or NO_SIZE. */
  private readonly sizeAtMost = new Uint8Array(54).fill(NO_SIZE);
  private readonly smallest: number;
  /** Empty tables of each level, kept for the next need: making one takes microseconds. */
  private readonly spare: Table[][] = [[], [], [], [], []];
  // The tables and items that the last descend() went through; path[depth] is the last table.
  private readonly path: Table[] = [];
  private readonly taken: number[] = [0, 0, 0, 0, 0];
  private depth = 0;
  // What split() made of its range: granules, inclusive, and whether an end lies inside one.
  private first = 0;
  private last = 0;
  private ragged = false;

  /**
   * `pgsizeBitmap`: a subset of the format's sizes, as MOCK_IOMMUPT_HUGE sets it (MOCK_HUGE_PAGE_SIZE | PAGE_SIZE).
   * `startingLevel`: 2 (256 GiB of IOVA, what mock_domain_alloc_pgtable() takes) to 4 (2^56 bytes).
   */
  constructor(options: { readonly pgsizeBitmap?: bigint; readonly startingLevel?: number } = {}) {
    const { startingLevel = 2 } = options;
    assert(startingLevel >= 2 && startingLevel <= TOP_LEVEL_MAX, 'the mock table starts at level 2 to 4');
    const vaLog2 = Math.min(VA_LOG2_MAX, GRANULE_LOG2 + ITEMS_LOG2 * (startingLevel + 1));
    const sizes = formatPageSizes(startingLevel, vaLog2);
    this.pgsizeBitmap = options.pgsizeBitmap ?? sizes;
    assert(
      this.pgsizeBitmap !== 0n && (this.pgsizeBitmap & ~sizes) === 0n,
      'page sizes that the format lacks',
    );
    this.lastIova = (1n << BigInt(vaLog2)) - 1n;
    this.granules = 2 ** (vaLog2 - GRANULE_LOG2);
    let best = NO_SIZE;
    for (let log2 = 0; log2 < this.sizeAtMost.length; log2++) {
      if ((this.pgsizeBitmap >> BigInt(log2 + GRANULE_LOG2)) & 1n) best = log2;
      this.sizeAtMost[log2] = best;
    }
    this.smallest = 2 ** (this.sizeAtMost.find((log2) => log2 !== NO_SIZE) ?? 0);
    this.root = new Table(startingLevel);
  }

  /** True when nothing is mapped. */
  get empty(): boolean {
    return this.root.used === 0;
  }

  /**
   * Maps `length` bytes at `iova` to `pa`, as iommu_map() does: the largest pages that alignment, length and the bitmap
   * allow, one after the other; what was mapped is undone where one fails. EINVAL: no length, or neither read nor write
   * in `prot`. EOVERFLOW: it passes 2^64. ENXIO: no page size fits. ERANGE: outside the table, or a physical address of
   * more than 51 bits. EADDRINUSE: something is mapped there. (iommu_pt.h map_range(); of the physical addresses the
   * kernel checks the first only.)
   */
  map(iova: bigint, pa: number, length: bigint, prot: number): Result<void> {
    if ((prot & (IOMMU_READ | IOMMU_WRITE)) === 0) return fail(EINVAL, 'neither readable nor writable');
    if (pa >= 2 ** OA_LOG2_MAX) return fail(ERANGE, 'physical address of more than 51 bits');
    const refused = this.split(iova, length);
    if (refused !== null) return refused;
    const { first, last, smallest } = this;
    let left = last - first + 1;
    let output = Math.floor(pa / GRANULE);
    const misaligned = modulo(first, smallest) + modulo(left, smallest) + modulo(output, smallest) !== 0;
    if (misaligned || this.ragged || pa % GRANULE !== 0) return fail(ENXIO, 'no page size fits');
    if (last >= this.granules) return fail(ERANGE, 'iova outside the page table');
    if (output + left > OUTPUT_GRANULES) return fail(ERANGE, 'physical address of more than 51 bits');

    let granule = first;
    while (left > 0) {
      const sizeLog2 = this.sizeAtMost[Math.min(trailingZeros(granule, output), log2Floor(left))]!;
      if (!this.place(granule, output, sizeLog2, prot)) {
        if (granule > first) this.remove(first, granule - 1);
        return fail(EADDRINUSE, 'something is mapped there');
      }
      const size = POW2[sizeLog2]!;
      granule += size;
      output += size;
      left -= size;
    }
    return undefined;
  }

  /**
   * Unmaps from `iova` on, as iommu_unmap() does, and answers the bytes. It stops at the first address where nothing is
   * mapped. An entry goes as a whole or not at all: one that begins before `iova` stops it at once, one that reaches
   * past the end goes, and the answer is more than `length` (iommu_pt.h unmap_range()).
   */
  unmap(iova: bigint, length: bigint): bigint {
    if (this.split(iova, length) !== null || this.last >= this.granules) return 0n;
    if ((halves[LO]! & (GRANULE - 1)) !== 0) return 0n;
    return addressOf(this.remove(this.first, this.last));
  }

  /** The physical address behind one byte of IOVA, 0 where nothing is mapped (iommu_iova_to_phys()). */
  iovaToPhys(iova: bigint): number {
    const granule = granuleOf(iova);
    const table = this.descend(granule);
    if (table === null) return 0;
    const index = this.taken[this.depth]!;
    const inEntry = modulo(granule, leafGranules(table, table.high[index]!));
    return (outputGranule(table, index) + inEntry) * GRANULE + (halves[LO]! & (GRANULE - 1));
  }

  /** Marks the entry that holds `iova` as written by a device (iommu_pt.h set_dirty()). False where there is none. */
  setDirty(iova: bigint): boolean {
    const table = this.descend(granuleOf(iova));
    if (table === null) return false;
    const index = this.taken[this.depth]!;
    if (table.high[index]! & DIRTY) return true;
    table.high[index]! |= DIRTY;
    for (let depth = this.depth; depth >= 0; depth--) {
      if (this.path[depth]!.dirty++ > 0) break;
    }
    return true;
  }

  /**
   * Records every dirty entry that touches the range, ascending, and makes it clean where `clear` says so
   * (without IOMMU_DIRTY_NO_CLEAR). An entry is recorded whole, also what of it lies outside the range. Time goes with
   * the dirty entries, not with the range. EINVAL: no length. EOVERFLOW: it passes 2^64. ERANGE: outside the table.
   */
  readAndClearDirty(iova: bigint, length: bigint, clear: boolean, record: RecordDirty | null): Result<void> {
    const refused = this.split(iova, length);
    if (refused !== null) return refused;
    if (this.last >= this.granules) return fail(ERANGE, 'iova outside the page table');
    collectDirty(this.root, 0, this.first, this.last, clear, record);
    return undefined;
  }

  /** The entry that holds `iova`, or null. For those who look at the table from outside. */
  entryAt(iova: bigint): MockEntry | null {
    const granule = granuleOf(iova);
    const table = this.descend(granule);
    if (table === null) return null;
    const index = this.taken[this.depth]!;
    const size = leafGranules(table, table.high[index]!);
    return {
      iova: addressOf(granule - modulo(granule, size)),
      length: addressOf(size),
      pa: outputGranule(table, index) * GRANULE,
      prot: (table.high[index]! >>> PROT_SHIFT) & PROT,
      dirty: (table.high[index]! & DIRTY) !== 0,
    };
  }

  /** Sets `first`, `last` and `ragged`, and leaves the halves of `iova` in `halves`. */
  private split(iova: bigint, length: bigint): Failure | null {
    const count = granuleOf(length);
    const lengthTail = halves[LO]! & (GRANULE - 1);
    this.first = granuleOf(iova);
    const tail = (halves[LO]! & (GRANULE - 1)) + lengthTail;
    this.ragged = tail !== 0;
    this.last = this.first + (count + (tail === 0 ? -1 : tail > GRANULE ? 1 : 0));
    if (length === 0n) return fail(EINVAL, 'no length');
    if (this.last >= U64_GRANULES) return fail(EOVERFLOW, 'the range passes 2^64');
    return null;
  }

  /**
   * Goes down to the entry that holds `granule` and answers its table, or null where nothing is mapped or the granule
   * lies outside. `taken` then names the item that the walk ended at; for an entry its first item.
   */
  private descend(granule: number): Table | null {
    if (granule >= this.granules) return null;
    let table = this.root;
    for (let depth = 0; ; depth++) {
      const index = indexAt(granule, table.level);
      const code = table.high[index]! & CODE;
      this.path[depth] = table;
      this.taken[depth] = index;
      this.depth = depth;
      if (code === CODE_TABLE) {
        table = table.children![index]!;
        continue;
      }
      if (code === 0) return null;
      this.taken[depth] = index & -(1 << (code - 1));
      return table;
    }
  }

  /** Writes one entry. False where something is mapped there; then nothing has changed. */
  private place(granule: number, output: number, sizeLog2: number, prot: number): boolean {
    const level = Math.floor(sizeLog2 / ITEMS_LOG2);
    let table = this.root;
    while (table.level > level) {
      const index = indexAt(granule, table.level);
      const code = table.high[index]! & CODE;
      if (code === 0) table = this.addTable(table, index);
      else if (code === CODE_TABLE) table = table.children![index]!;
      else return false;
    }
    const contigLog2 = sizeLog2 - ITEMS_LOG2 * level;
    const start = indexAt(granule, level);
    const end = start + (1 << contigLog2);
    const { high } = table;
    for (let i = start; i < end; i++) if (high[i] !== 0) return false;
    const item = (contigLog2 + 1) | ((prot & PROT) << PROT_SHIFT);
    if (contigLog2 > 0) high.fill(item, start, end);
    high[start] = item | (Math.floor(output / 0x1_0000_0000) << ADDRESS_SHIFT);
    table.low ??= new Uint32Array(ITEMS);
    table.low[start] = output;
    table.used += end - start;
    return true;
  }

  private addTable(parent: Table, index: number): Table {
    const level = parent.level - 1;
    const child = this.spare[level]!.pop() ?? new Table(level);
    parent.children ??= NO_CHILDREN.slice();
    parent.children[index] = child;
    parent.high[index] = CODE_TABLE;
    parent.used++;
    return child;
  }

  /** Removes entries from `first` on, up to the first hole or past `last`; answers the granules they held. */
  private remove(first: number, last: number): number {
    let granule = first;
    while (granule <= last) {
      const table = this.descend(granule);
      if (table === null) break;
      const start = this.taken[this.depth]!;
      if (modulo(granule, leafGranules(table, table.high[start]!)) !== 0) break;
      const dirtyBefore = table.dirty;
      granule += this.removeRun(table, start, last - granule);
      this.settle(dirtyBefore);
    }
    return granule - first;
  }

  /** Removes the entries of one table from item `start` on, while they begin at most `reach` granules behind it. */
  private removeRun(table: Table, start: number, reach: number): number {
    const { high } = table;
    const span = SPAN[table.level]!;
    let index = start;
    while (index < ITEMS && (index - start) * span <= reach) {
      const item = high[index]!;
      const code = item & CODE;
      if (code === 0 || code === CODE_TABLE) break;
      const end = index + (1 << (code - 1));
      if (item & DIRTY) table.dirty--;
      high.fill(0, index, end);
      index = end;
    }
    table.used -= index - start;
    return (index - start) * span;
  }

  /** Frees tables on the path of the last descent that became empty, and keeps the counts of dirty ones above. */
  private settle(dirtyBefore: number): void {
    let before = dirtyBefore;
    for (let depth = this.depth; depth > 0; depth--) {
      const table = this.path[depth]!;
      const parent = this.path[depth - 1]!;
      const cleaned = before > 0 && table.dirty === 0;
      before = parent.dirty;
      if (cleaned) parent.dirty--;
      if (table.used === 0) this.dropTable(table, parent, this.taken[depth - 1]!);
      else if (!cleaned) return;
    }
  }

  private dropTable(table: Table, parent: Table, index: number): void {
    const spare = this.spare[table.level]!;
    if (spare.length < SPARE_TABLES_MAX) spare.push(table);
    parent.children![index] = null;
    parent.high[index] = 0;
    parent.used--;
  }
}

/** Works on the items of `table`, which begins at granule `base`, that touch granules `first` to `last`. */
function collectDirty(
  table: Table,
  base: number,
  first: number,
  last: number,
  clear: boolean,
  record: RecordDirty | null,
): void {
  const { high } = table;
  const span = SPAN[table.level]!;
  let index = first <= base ? 0 : Math.floor((first - base) / span);
  const code = high[index]! & CODE;
  if (code !== 0 && code !== CODE_TABLE) index &= -(1 << (code - 1));
  const end = Math.min(ITEMS - 1, Math.floor((last - base) / span));
  for (let left = table.dirty; left > 0 && index <= end; index++) {
    const item = high[index]!;
    if (item & DIRTY) {
      left--;
      if (record !== null) record(addressOf(base + index * span), addressOf(leafGranules(table, item)));
      if (!clear) continue;
      high[index] = item & ~DIRTY;
      table.dirty--;
    } else if ((item & CODE) === CODE_TABLE) {
      const child = table.children![index]!;
      if (child.dirty === 0) continue;
      left--;
      collectDirty(child, base + index * span, first, last, clear, record);
      if (child.dirty === 0) table.dirty--;
    }
  }
}
