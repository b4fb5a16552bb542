import { assert } from '../../../../base/assert.ts';
import { fail, failed, type Result } from '../../../../base/result.ts';
import { hex, PAGE_SIZE } from '../../../../base/u64.ts';
import { EEXIST, EINVAL, ENOMEM, ERANGE } from '../../../../abi/errno.ts';
import {
  IOMMU_CACHE,
  IOMMU_MMIO,
  IOMMU_NOEXEC,
  IOMMU_READ,
  IOMMU_WRITE,
  type DirtyRecorder,
  type Kernel,
} from '../../../driver.ts';
import { TG0 } from '../../spec/ste.ts';
import { POW2 } from '../../../../pagetable/page-sizes.ts';

// The tables of ARM_64_LPAE_S1 and ARM_64_LPAE_S2, which is what the driver of Linux 7.3 maps with:
// drivers/iommu/io-pgtable-arm.c. An address is a number below 2^52, a descriptor two u32.

const MAX_LEVELS = 4;
const LAST_LEVEL = 3;
/** arm_lpae_concat_mandatory(): tables at the start level of stage 2. */
const CONCATENATED_MAX = 16;

const TYPE_BLOCK = 1;
const TYPE_TABLE = 3;
const TYPE_PAGE = 3;
const ATTRINDX_SHIFT = 2;
const S1_UNPRIVILEGED = 1 << 6;
const S1_RDONLY = 1 << 7;
const S2_READ = 1 << 6;
const S2_WRITE = 2 << 6;
const SH_OUTER = 2 << 8;
const SH_INNER = 3 << 8;
const ACCESSED = 1 << 10;
const NOT_GLOBAL = 1 << 11;
// In bits 63:32.
const DBM_HI = 1 << (51 - 32);
const XN_HI = 3 << (53 - 32);
/** Software's mark on a table that a non-coherent walker has been told of (ARM_LPAE_PTE_SW_SYNC). */
const SYNCED_HI = 1 << (55 - 32);

/** Indexes of {@link MAIR}. */
const ATTR = { NC: 0, CACHE: 1, DEVICE: 2 } as const;
/** CD.MAIR: Non-cacheable, Write-Back, Device-nGnRE, and outer-only Write-Back, which nothing here uses. */
export const MAIR = 0xf404ff44n;
/** Stage 2 MemAttr. */
const MEMATTR = { DEVICE: 1 << 2, NC: 5 << 2, FWB_WB: 6 << 2, OIWB: 0xf << 2 } as const;

const RGN = { NC: 0, WBWA: 1 } as const;
const SH = { OUTER: 2, INNER: 3 } as const;

/** CD.T0SZ and its neighbours: struct arm_lpae_s1_cfg. */
export interface Tcr {
  readonly tsz: number;
  readonly tg: number;
  readonly irgn: number;
  readonly orgn: number;
  readonly sh: number;
  readonly ips: number;
}

/** STE.S2T0SZ and its neighbours: struct arm_lpae_s2_cfg. */
export interface Vtcr {
  readonly tsz: number;
  readonly sl: number;
  readonly tg: number;
  readonly irgn: number;
  readonly orgn: number;
  readonly sh: number;
  readonly ps: number;
}

export interface PageTableOptions {
  readonly stage: 1 | 2;
  /** log2 of the page sizes that the SMMU has, ascending. */
  readonly pageSizes: readonly number[];
  /** Bits of input and output addresses, before the granule limits them. */
  readonly ias: number;
  readonly oas: number;
  readonly coherentWalk: boolean;
  /** IO_PGTABLE_QUIRK_ARM_HD: writable pages are marked so that hardware keeps their dirty state. Stage 1. */
  readonly dirty?: boolean;
  /** IO_PGTABLE_QUIRK_ARM_S2FWB. Stage 2. */
  readonly fwb?: boolean;
  /** tlb_flush_walk(): a table that translated `length` bytes is about to be freed. */
  readonly flushWalk: (iova: number, length: number, granule: number) => void;
}

/** Collects pages that were unmapped: struct iommu_iotlb_gather with tlb_add_page(). */
export interface PageGather {
  /** `count` pages of 2^bits bytes. */
  addPages(iova: number, bits: number, count: number): void;
}

const SIZES_4K = [12, 21, 30];
const SIZES_16K = [14, 25];
const SIZES_64K = [16, 29];
const TERABYTES_4 = 42;
/** SMMU_IDR5.OAS, CD.IPS, STE.S2PS */
const PS: Readonly<Record<number, number>> = { 32: 0, 36: 1, 40: 2, 42: 3, 44: 4, 48: 5, 52: 6 };
const KERNEL_PAGE_BITS = 12;

/** arm_lpae_restrict_pgsizes(): the kernel's page size where there is it, else the next smaller, else the next larger. */
function chooseGranule(sizes: readonly number[]): number {
  if (sizes.includes(KERNEL_PAGE_BITS)) return KERNEL_PAGE_BITS;
  const smaller = sizes.filter((bits) => bits < KERNEL_PAGE_BITS);
  return smaller.at(-1) ?? sizes.find((bits) => bits > KERNEL_PAGE_BITS) ?? 0;
}

export class ArmPageTable {
  readonly stage: 1 | 2;
  readonly pageSizes: readonly number[];
  readonly ias: number;
  readonly oas: number;
  readonly granuleBits: number;
  readonly startLevel: number;
  /** Address of the start-level table. */
  readonly root: number;
  readonly dirty: boolean;
  readonly fwb: boolean;
  readonly #kernel: Kernel;
  readonly #bitsPerLevel: number;
  /** By level: log2 of the bytes that an entry translates, the bytes, and the mask of its index. */
  readonly #shifts: readonly number[];
  readonly #spans: readonly number[];
  readonly #masks: readonly number[];
  /** log2 of the entries of the start-level table. */
  readonly #rootBits: number;
  readonly #coherent: boolean;
  readonly #flushWalk: PageTableOptions['flushWalk'];
  readonly #word = new Uint32Array(2);

  /** Null where the sizes make no granule (alloc_io_pgtable_ops() gives NULL). */
  static make(kernel: Kernel, options: PageTableOptions): ArmPageTable | null {
    const granule = chooseGranule(options.pageSizes);
    if (granule !== 12 && granule !== 14 && granule !== 16) return null;
    if (kernel.failpoint()) return null;
    const table = new ArmPageTable(kernel, options, granule);
    return table.root === 0 ? null : table;
  }

  private constructor(kernel: Kernel, options: PageTableOptions, granule: number) {
    this.#kernel = kernel;
    this.stage = options.stage;
    this.dirty = options.dirty ?? false;
    this.fwb = options.fwb ?? false;
    this.#coherent = options.coherentWalk;
    this.#flushWalk = options.flushWalk;
    this.granuleBits = granule;
    const sizes = granule === 12 ? SIZES_4K : granule === 14 ? SIZES_16K : SIZES_64K;
    const large = granule === 16 && options.oas > 48 ? [TERABYTES_4] : [];
    this.pageSizes = options.pageSizes.filter((bits) => sizes.includes(bits) || large.includes(bits));
    const most = granule === 16 ? 52 : 48;
    this.ias = Math.min(options.ias, most);
    this.oas = Math.min(options.oas, most);
    this.#bitsPerLevel = granule - 3;
    const bits = this.ias - granule;
    const levels = Math.ceil(bits / this.#bitsPerLevel);
    let start = MAX_LEVELS - levels;
    let rootBits = bits - this.#bitsPerLevel * (levels - 1);
    if (this.stage === 2 && concatenates(granule, start, this.ias, this.oas)) {
      start++;
      rootBits += this.#bitsPerLevel;
      assert(2 ** (rootBits - this.#bitsPerLevel) <= CONCATENATED_MAX, 'too many tables at the start level');
    }
    this.startLevel = start;
    this.#rootBits = rootBits;
    const byLevel = [0, 1, 2, 3];
    this.#shifts = byLevel.map((level) => granule + this.#bitsPerLevel * (LAST_LEVEL - level));
    this.#spans = this.#shifts.map((shift) => 2 ** shift);
    this.#masks = byLevel.map((level) => 2 ** (level === start ? rootBits : this.#bitsPerLevel) - 1);
    this.root = this.#allocate(this.#tableBytes(start));
  }

  get tcr(): Tcr {
    const { granuleBits, ias, oas } = this;
    return { tsz: 64 - ias, tg: granuleCode(granuleBits), ips: PS[oas]!, ...this.#walkAttributes() };
  }

  get vtcr(): Vtcr {
    const { granuleBits, ias, oas } = this;
    // SL0 counts from the other end, and one level further with 4K (DDI 0487 VTCR_EL2.SL0).
    const sl = ~(granuleBits === 12 ? this.startLevel + 1 : this.startLevel) & 3;
    return { tsz: 64 - ias, sl, tg: granuleCode(granuleBits), ps: PS[oas]!, ...this.#walkAttributes() };
  }

  #walkAttributes(): { sh: number; irgn: number; orgn: number } {
    return this.#coherent
      ? { sh: SH.INNER, irgn: RGN.WBWA, orgn: RGN.WBWA }
      : { sh: SH.OUTER, irgn: RGN.NC, orgn: RGN.NC };
  }

  // ---- tables ----

  #allocate(bytes: number): number {
    if (this.#kernel.failpoint()) return 0;
    return this.#kernel.physical.allocate(Math.ceil(bytes / PAGE_SIZE));
  }

  #free(pa: number, level: number): void {
    this.#kernel.physical.free(pa, Math.ceil(this.#tableBytes(level) / PAGE_SIZE));
  }

  #tableBytes(level: number): number {
    return level === this.startLevel ? 2 ** (this.#rootBits + 3) : 2 ** this.granuleBits;
  }

  /** Which entry of a table at `level` translates the address in `hi` and `lo`. */
  #index(hi: number, lo: number, level: number): number {
    const shift = this.#shifts[level]!;
    const bits = shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32);
    return bits & this.#masks[level]!;
  }

  /** Entries from `index` to the end of its table; a concatenated table ends where one of its parts does. */
  #room(index: number, level: number): number {
    const entries = Math.min(2 ** this.#bitsPerLevel, this.#masks[level]! + 1);
    return entries - (index % entries);
  }

  #load(pa: number): void {
    assert(this.#kernel.physical.load64(pa, this.#word), 'a page table is gone');
  }

  #store(pa: number, lo: number, hi: number): void {
    assert(this.#kernel.physical.store64(pa, lo >>> 0, hi >>> 0), 'a page table is gone');
  }

  /** paddr_to_iopte(): bits 51:48 of an address lie in bits 15:12, which only 64K tables leave free. */
  #addressLo(pa: number): number {
    return (pa & 0xffff_f000) | (Math.floor(pa / 0x1_0000_0000_0000) << 12);
  }

  #addressHi(pa: number): number {
    return Math.floor(pa / 0x1_0000_0000) & 0xffff;
  }

  /** iopte_to_paddr() of the loaded descriptor. */
  #address(): number {
    const lo = this.#word[0]!;
    const hi = this.#word[1]! & 0xffff;
    if (this.granuleBits < 16) return hi * 0x1_0000_0000 + ((lo & 0xffff_f000) >>> 0);
    return ((lo >>> 12) & 0xf) * 0x1_0000_0000_0000 + hi * 0x1_0000_0000 + ((lo & 0xffff_0000) >>> 0);
  }

  #valid(): boolean {
    return (this.#word[0]! | this.#word[1]!) !== 0;
  }

  #isLeaf(level: number): boolean {
    return (this.#word[0]! & 3) === (level === LAST_LEVEL ? TYPE_PAGE : TYPE_BLOCK);
  }

  #isTable(level: number): boolean {
    return level !== LAST_LEVEL && (this.#word[0]! & 3) === TYPE_TABLE;
  }

  // ---- map ----

  /**
   * arm_lpae_map_pages(): maps pages of 2^bits bytes up to the end of one table, and answers how many. EEXIST where one
   * is mapped already, ERANGE outside of the address sizes.
   */
  map(iova: number, pa: number, bits: number, count: number, prot: number): Result<number> {
    assert(this.pageSizes.includes(bits), 'a page of a size that the table does not have');
    if (iova >= POW2[this.ias]! || pa >= POW2[this.oas]!)
      return fail(ERANGE, `${hex(iova)} to ${hex(pa)} is beyond ${this.ias} or ${this.oas} bits`);
    if ((prot & (IOMMU_READ | IOMMU_WRITE)) === 0) return fail(EINVAL, 'a mapping needs a permission');
    const hi = highWord(iova);
    const lo = iova >>> 0;
    let table = this.root;
    let level = this.startLevel;
    while (this.#shifts[level] !== bits) {
      // Small input sizes leave out the levels of the largest pages.
      if (level === LAST_LEVEL) return fail(EINVAL, `the table has no level for pages of 2^${bits} bytes`);
      const next = this.#descend(table + this.#index(hi, lo, level) * 8, level);
      if (failed(next)) return next;
      table = next;
      level++;
    }
    const index = this.#index(hi, lo, level);
    const here = Math.min(count, this.#room(index, level));
    return this.#mapLeaves(iova, table + index * 8, pa, level, here, prot);
  }

  /** The table below an entry; a new one where there is none. */
  #descend(at: number, level: number): Result<number> {
    this.#load(at);
    if (this.#valid()) return this.#isLeaf(level) ? fail(EEXIST, 'a larger page is mapped') : this.#address();
    const table = this.#allocate(this.#tableBytes(level + 1));
    if (table === 0) return fail(ENOMEM, 'no memory for a page table');
    const mark = this.#coherent ? 0 : SYNCED_HI;
    this.#store(at, this.#addressLo(table) | TYPE_TABLE, this.#addressHi(table) | mark);
    return table;
  }

  // arm_lpae_init_pte()
  #mapLeaves(
    iova: number,
    at: number,
    pa: number,
    level: number,
    count: number,
    prot: number,
  ): Result<number> {
    const size = this.#spans[level]!;
    for (let i = 0; i < count; i++) {
      this.#load(at + i * 8);
      if (this.#isLeaf(level)) return fail(EEXIST, `${hex(iova + i * size)} is mapped`);
      // An empty table, left over from smaller pages, gives way.
      if (this.#isTable(level)) this.#removeTable(iova + i * size, at + i * 8, level);
    }
    const lo = this.#leafLo(prot) | (level === LAST_LEVEL ? TYPE_PAGE : TYPE_BLOCK);
    const hi = this.#leafHi(prot);
    for (let i = 0; i < count; i++) {
      const page = pa + i * size;
      this.#store(at + i * 8, lo | this.#addressLo(page), hi | this.#addressHi(page));
    }
    return count;
  }

  // arm_lpae_prot_to_pte()
  #leafLo(prot: number): number {
    const shareability = (prot & IOMMU_CACHE) !== 0 ? SH_INNER : SH_OUTER;
    if (this.stage === 1) {
      const readOnly = (prot & (IOMMU_READ | IOMMU_WRITE)) === IOMMU_READ ? S1_RDONLY : 0;
      const index =
        (prot & IOMMU_MMIO) !== 0 ? ATTR.DEVICE : (prot & IOMMU_CACHE) !== 0 ? ATTR.CACHE : ATTR.NC;
      return NOT_GLOBAL | readOnly | S1_UNPRIVILEGED | (index << ATTRINDX_SHIFT) | shareability | ACCESSED;
    }
    const read = (prot & IOMMU_READ) !== 0 ? S2_READ : 0;
    const write = (prot & IOMMU_WRITE) !== 0 ? S2_WRITE : 0;
    return read | write | this.#memAttr(prot) | shareability | ACCESSED;
  }

  #memAttr(prot: number): number {
    if ((prot & IOMMU_MMIO) !== 0) return MEMATTR.DEVICE;
    if ((prot & IOMMU_CACHE) === 0) return MEMATTR.NC;
    return this.fwb ? MEMATTR.FWB_WB : MEMATTR.OIWB;
  }

  #leafHi(prot: number): number {
    const noExecute = (prot & IOMMU_NOEXEC) !== 0 ? XN_HI : 0;
    const readOnly = (prot & (IOMMU_READ | IOMMU_WRITE)) === IOMMU_READ;
    return this.stage === 1 && this.dirty && !readOnly ? noExecute | DBM_HI : noExecute;
  }

  // ---- unmap ----

  /**
   * arm_lpae_unmap_pages(): removes pages of 2^bits bytes up to the end of one table, or up to one that is not there.
   * Answers the bytes.
   */
  unmap(iova: number, bits: number, count: number, gather: PageGather): number {
    assert(this.pageSizes.includes(bits), 'a page of a size that the table does not have');
    if (iova >= POW2[this.ias]!) return 0;
    const hi = highWord(iova);
    const lo = iova >>> 0;
    let table = this.root;
    let level = this.startLevel;
    while (this.#shifts[level] !== bits) {
      this.#load(table + this.#index(hi, lo, level) * 8);
      // Part of a larger page cannot be unmapped.
      if (level === LAST_LEVEL || !this.#valid() || this.#isLeaf(level)) return 0;
      table = this.#address();
      level++;
    }
    const index = this.#index(hi, lo, level);
    const most = Math.min(count, this.#room(index, level));
    const size = this.#spans[level]!;
    let done = 0;
    for (; done < most; done++) {
      const at = table + (index + done) * 8;
      this.#load(at);
      if (!this.#valid()) break;
      if (this.#isLeaf(level)) this.#store(at, 0, 0);
      else this.#removeTable(iova + done * size, at, level);
    }
    if (done > 0) gather.addPages(iova, bits, done);
    return done * size;
  }

  #removeTable(iova: number, at: number, level: number): void {
    this.#load(at);
    const table = this.#address();
    this.#store(at, 0, 0);
    this.#flushWalk(iova, this.#spans[level]!, 2 ** this.granuleBits);
    this.#freeTable(table, level + 1);
  }

  #freeTable(table: number, level: number): void {
    if (level < LAST_LEVEL) {
      for (let i = 0; i <= this.#masks[level]!; i++) {
        this.#load(table + i * 8);
        if (this.#isTable(level)) this.#freeTable(this.#address(), level + 1);
      }
    }
    this.#free(table, level);
  }

  /** free_io_pgtable_ops(): hardware must not reach the tables any more. */
  free(): void {
    this.#freeTable(this.root, this.startLevel);
  }

  // ---- look-ups ----

  /** arm_lpae_iova_to_phys(): 0 where nothing is mapped. */
  iovaToPhys(iova: number): number {
    let table = this.root;
    for (let level = this.startLevel; level <= LAST_LEVEL; level++) {
      this.#load(table + this.#index(highWord(iova), iova >>> 0, level) * 8);
      if (this.#isLeaf(level)) return this.#address() + (iova % this.#spans[level]!);
      if (!this.#isTable(level)) return 0;
      table = this.#address();
    }
    return 0;
  }

  /**
   * arm_lpae_read_and_clear_dirty(): EINVAL where it comes to an address that is not mapped; what lies before it has
   * been looked at.
   */
  readAndClearDirty(iova: number, length: number, clear: boolean, record: DirtyRecorder): Result<void> {
    if (this.stage !== 1) return fail(EINVAL, 'stage 2 keeps no dirty state');
    if (iova + length > 2 ** this.ias) return fail(EINVAL, `the range is beyond ${this.ias} bits`);
    for (let at = iova; at < iova + length;) {
      const size = this.#readDirty(at, clear, record);
      if (size === 0) return fail(EINVAL, `${hex(at)} is not mapped`);
      at += size;
    }
  }

  // One leaf; answers its bytes, 0 where there is none. As in Linux a range that starts within a page counts from there.
  #readDirty(iova: number, clear: boolean, record: DirtyRecorder): number {
    let table = this.root;
    for (let level = this.startLevel; level <= LAST_LEVEL; level++) {
      const at = table + this.#index(highWord(iova), iova >>> 0, level) * 8;
      this.#load(at);
      const lo = this.#word[0]!;
      const hi = this.#word[1]!;
      if (this.#isLeaf(level)) {
        const size = this.#spans[level]!;
        if ((hi & DBM_HI) !== 0 && (lo & S1_RDONLY) === 0) {
          record(BigInt(iova), BigInt(size));
          if (clear) this.#store(at, lo | S1_RDONLY, hi);
        }
        return size;
      }
      if (!this.#isTable(level)) return 0;
      table = this.#address();
    }
    return 0;
  }
}

function highWord(address: number): number {
  return Math.floor(address / 0x1_0000_0000);
}

function granuleCode(bits: number): number {
  return bits === 12 ? TG0.GRAN4K : bits === 14 ? TG0.GRAN16K : TG0.GRAN64K;
}

// arm_lpae_concat_mandatory(): DDI 0487 R_DXBSH and R_SRKBC.
function concatenates(granule: number, startLevel: number, ias: number, oas: number): boolean {
  if (granule === 14 && startLevel === 0) return oas === 48 || ias === 48;
  if (granule === 12 && startLevel === 0) return oas === 40 || oas === 42;
  return granule === 14 && startLevel === 1 && oas === 40;
}
