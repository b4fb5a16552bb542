import { assert } from '../../../../base/assert.ts';
import { fail, failed, type Result } from '../../../../base/result.ts';
import { hi32, lo32, PAGE_SIZE, u64 } from '../../../../base/u64.ts';
import { ENOMEM, ERANGE } from '../../../../abi/errno.ts';
import type { Kernel } from '../../../driver.ts';
import { CD_BYTES, L1CD_BYTES } from '../../spec/cd.ts';
import { L1STD_BYTES, S1FMT, STE_BYTES } from '../../spec/ste.ts';
import { emptyEntry, ENTRY_QWORDS, genmask, type Entry } from './entry.ts';
import { CD_L2_ENTRIES, CD_LINEAR_LOG2_MAX, STRTAB_L1_ENTRIES_MAX, STRTAB_SPLIT } from '../limits.ts';
import { makeAbortSte } from './ste.ts';

// The stream table of an SMMU and the CD tables of its devices, in memory: arm-smmu-v3.c arm_smmu_init_strtab(),
// arm_smmu_alloc_cd_tables() and what reaches their entries.

const STES_PER_TABLE = 1 << STRTAB_SPLIT;
/** STRTAB_L1_DESC_L2PTR_MASK, CTXDESC_L1_DESC_L2PTR_MASK */
const STRTAB_L2PTR_MASK = genmask(51, 6);
const CD_L2PTR_MASK = genmask(51, 12);

function pages(bytes: number): number {
  return Math.ceil(bytes / PAGE_SIZE);
}

/** dmam_alloc_coherent(): 0 where there is no memory. */
function allocate(kernel: Kernel, bytes: number): number {
  return kernel.failpoint() ? 0 : kernel.physical.allocate(pages(bytes));
}

function storeQword(kernel: Kernel, pa: number, value: bigint): void {
  assert(kernel.physical.store64(pa, lo32(value), hi32(value)), 'a table of the SMMU is gone');
}

/** An STE or CD as it stands in memory. */
export function loadEntry(kernel: Kernel, pa: number): Entry {
  const entry = emptyEntry();
  const word = new Uint32Array(2);
  for (let i = 0; i < ENTRY_QWORDS; i++) {
    assert(kernel.physical.load64(pa + i * 8, word), 'a table of the SMMU is gone');
    entry[i] = u64(word[1]!, word[0]!);
  }
  return entry;
}

export function storeEntryQword(kernel: Kernel, pa: number, qword: number, value: bigint): void {
  storeQword(kernel, pa + qword * 8, value);
}

/** struct arm_smmu_strtab_cfg. */
export class StreamTable {
  readonly twoLevel: boolean;
  readonly base: number;
  /** Entries of the table that the SMMU is told of. */
  readonly entries: number;
  readonly #kernel: Kernel;
  readonly #level2 = new Map<number, number>();

  /** Null where there is no memory. */
  static make(
    kernel: Kernel,
    twoLevel: boolean,
    sidBits: number,
    warn: (text: string) => void,
  ): StreamTable | null {
    let entries = 2 ** sidBits;
    if (twoLevel) {
      entries = Math.min(2 ** (sidBits - STRTAB_SPLIT), STRTAB_L1_ENTRIES_MAX);
      if (entries < 2 ** (sidBits - STRTAB_SPLIT))
        warn(`2-level strtab only covers ${Math.log2(entries) + STRTAB_SPLIT}/${sidBits} bits of SID`);
    }
    const base = allocate(kernel, entries * (twoLevel ? L1STD_BYTES : STE_BYTES));
    return base === 0 ? null : new StreamTable(kernel, twoLevel, base, entries);
  }

  private constructor(kernel: Kernel, twoLevel: boolean, base: number, entries: number) {
    this.#kernel = kernel;
    this.twoLevel = twoLevel;
    this.base = base;
    this.entries = entries;
    if (!twoLevel) this.#initialise(base, entries);
  }

  #initialise(base: number, entries: number): void {
    const abort = makeAbortSte()[0]!;
    for (let i = 0; i < entries; i++) storeQword(this.#kernel, base + i * STE_BYTES, abort);
  }

  /** arm_smmu_init_sid_strtab(): ERANGE where the table has no entry for the StreamID. */
  reach(sid: number): Result<void> {
    if (!this.twoLevel)
      return sid < this.entries ? undefined : fail(ERANGE, `StreamID ${sid} is beyond the table`);
    const index = Math.floor(sid / STES_PER_TABLE);
    if (index >= this.entries) return fail(ERANGE, `StreamID ${sid} is beyond the table`);
    if (this.#level2.has(index)) return;
    const table = allocate(this.#kernel, STES_PER_TABLE * STE_BYTES);
    if (table === 0) return fail(ENOMEM, 'no memory for a table of STEs');
    this.#initialise(table, STES_PER_TABLE);
    this.#level2.set(index, table);
    const descriptor = BigInt(STRTAB_SPLIT + 1) | (BigInt(table) & STRTAB_L2PTR_MASK);
    storeQword(this.#kernel, this.base + index * L1STD_BYTES, descriptor);
  }

  /** arm_smmu_get_step_for_sid(): where the STE of a reached StreamID is. */
  steAddress(sid: number): number {
    if (!this.twoLevel) return this.base + sid * STE_BYTES;
    const table = this.#level2.get(Math.floor(sid / STES_PER_TABLE));
    assert(table !== undefined, `StreamID ${sid} was never reached`);
    return table + (sid % STES_PER_TABLE) * STE_BYTES;
  }

  free(): void {
    for (const table of this.#level2.values())
      this.#kernel.physical.free(table, pages(STES_PER_TABLE * STE_BYTES));
    this.#kernel.physical.free(this.base, pages(this.entries * (this.twoLevel ? L1STD_BYTES : STE_BYTES)));
  }
}

/** struct arm_smmu_ctx_desc_cfg. */
export class CdTable {
  readonly pa: number;
  readonly s1Fmt: number;
  /** log2 of the CDs. */
  readonly s1CdMax: number;
  /** Valid CDs but that of transactions without a PASID. */
  usedSsids = 0;
  readonly #kernel: Kernel;
  readonly #entries: number;
  readonly #level2 = new Map<number, number>();

  /** arm_smmu_alloc_cd_tables(): null where there is no memory. */
  static make(kernel: Kernel, s1CdMax: number, twoLevel: boolean): CdTable | null {
    const contexts = 2 ** s1CdMax;
    const linear = !twoLevel || contexts <= CD_L2_ENTRIES;
    if (!linear && kernel.failpoint()) return null;
    const entries = linear ? contexts : Math.ceil(contexts / CD_L2_ENTRIES);
    const pa = allocate(kernel, entries * (linear ? CD_BYTES : L1CD_BYTES));
    return pa === 0
      ? null
      : new CdTable(kernel, pa, s1CdMax, linear ? S1FMT.LINEAR : S1FMT.TWO_LEVEL_64K, entries);
  }

  private constructor(kernel: Kernel, pa: number, s1CdMax: number, s1Fmt: number, entries: number) {
    assert(s1Fmt !== S1FMT.LINEAR || s1CdMax <= CD_LINEAR_LOG2_MAX, 'a linear CD table of that size');
    this.#kernel = kernel;
    this.pa = pa;
    this.s1CdMax = s1CdMax;
    this.s1Fmt = s1Fmt;
    this.#entries = entries;
  }

  /** arm_smmu_get_cd_ptr(): where the CD is, or null where its table does not exist yet. */
  cdAddress(ssid: number): number | null {
    if (this.s1Fmt === S1FMT.LINEAR) return this.pa + ssid * CD_BYTES;
    const table = this.#level2.get(Math.floor(ssid / CD_L2_ENTRIES));
    return table === undefined ? null : table + (ssid % CD_L2_ENTRIES) * CD_BYTES;
  }

  /**
   * arm_smmu_alloc_cd_ptr(): the same, with a new table where there is none. `syncL1` makes the SMMU forget the
   * descriptor of the table, which it may have cached as not valid.
   */
  makeCdAddress(ssid: number, syncL1: () => void): Result<number> {
    const existing = this.cdAddress(ssid);
    if (existing !== null) return existing;
    const table = allocate(this.#kernel, CD_L2_ENTRIES * CD_BYTES);
    if (table === 0) return fail(ENOMEM, 'no memory for a table of CDs');
    const index = Math.floor(ssid / CD_L2_ENTRIES);
    this.#level2.set(index, table);
    storeQword(this.#kernel, this.pa + index * L1CD_BYTES, (BigInt(table) & CD_L2PTR_MASK) | 1n);
    syncL1();
    const made = this.cdAddress(ssid);
    assert(made !== null && !failed(made), 'the table was just made');
    return made;
  }

  free(): void {
    const { physical } = this.#kernel;
    for (const table of this.#level2.values()) physical.free(table, pages(CD_L2_ENTRIES * CD_BYTES));
    const each = this.s1Fmt === S1FMT.LINEAR ? CD_BYTES : L1CD_BYTES;
    physical.free(this.pa, pages(this.#entries * each));
  }
}
