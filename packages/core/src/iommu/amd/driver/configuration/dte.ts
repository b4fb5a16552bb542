import { readField, writeAddress, writeField } from '../../../../base/bit-fields.ts';
import type { Kernel } from '../../../driver.ts';
import { DTE, DTE_BYTES, DTE_WORDS, GUEST_PAGING, HAD } from '../../spec/dte.ts';

// Device table entries as the driver makes them: drivers/iommu/amd/iommu.c set_dte_*().

/** Eight words. */
export type Dte = Uint32Array;

export function emptyDte(): Dte {
  return new Uint32Array(DTE_WORDS);
}

/** amd_iommu_make_clear_dte(): V alone, with what firmware says of the device. It blocks. */
export function makeClearDte(initial: Dte | null): Dte {
  const dte = initial === null ? emptyDte() : initial.slice();
  writeField(DTE.V, dte, 1);
  return dte;
}

/** What a DTE says of host tables: struct pt_iommu_amdv1_hw_info. */
export interface HostTables {
  readonly root: number;
  /** Levels. */
  readonly mode: number;
  readonly dirtyTracking: boolean;
}

function setCommon(dte: Dte, domainId: number, ats: boolean): void {
  writeField(DTE.TV, dte, 1);
  writeField(DTE.IR, dte, 1);
  writeField(DTE.IW, dte, 1);
  writeField(DTE.DomainID, dte, domainId);
  writeField(DTE.I, dte, ats ? 1 : 0);
}

/** amd_iommu_set_dte_v1() */
export function setDteV1(dte: Dte, tables: HostTables, domainId: number, ats: boolean): void {
  setCommon(dte, domainId, ats);
  writeField(DTE.Mode, dte, tables.mode);
  writeField(DTE.HAD, dte, tables.dirtyTracking ? HAD.ACCESSED_DIRTY : HAD.NONE);
  writeAddress(DTE.HostPTRoot, dte, tables.root);
}

/** set_dte_passthrough() */
export function setDtePassthrough(dte: Dte, domainId: number, ats: boolean): void {
  setCommon(dte, domainId, ats);
}

/** What a DTE says of a GCR3 table. */
export interface GuestTables {
  readonly gcr3: number;
  readonly glx: number;
  readonly levels: 4 | 5;
  readonly ppr: boolean;
  /** Requests without a PASID are those of PASID 0. */
  readonly giov: boolean;
}

/** set_dte_gcr3_table() */
export function setDteGcr3(dte: Dte, tables: GuestTables, domainId: number, ats: boolean): void {
  setCommon(dte, domainId, ats);
  writeField(DTE.PPR, dte, tables.ppr ? 1 : 0);
  writeField(DTE.GIOV, dte, tables.giov ? 1 : 0);
  writeField(DTE.GV, dte, 1);
  writeField(DTE.GLX, dte, tables.glx);
  const page = tables.gcr3 / 4096;
  writeField(DTE.GCR3_14_12, dte, page % 8);
  writeField(DTE.GCR3_30_15, dte, Math.floor(page / 2 ** 3) % 2 ** 16);
  writeField(DTE.GCR3_51_31, dte, Math.floor(page / 2 ** 19));
  const paging = tables.levels === 5 ? GUEST_PAGING.FIVE_LEVELS : GUEST_PAGING.FOUR_LEVELS;
  writeField(DTE.GuestPagingMode, dte, paging);
}

/** DTE_DATA2_INTR_MASK: in the third 64-bit word, all that concerns interrupts. */
const INTERRUPT_MASK = [0xffff_ffff, 0xff0f_ffff] as const;

/**
 * Whether the upper halves differ in more than interrupts. update_dte256() compares GuestPagingMode, and has nothing else
 * there: a guest's names are there too.
 */
function upperDiffers(a: Dte, b: Dte): boolean {
  const other = (word: number, mask: number): boolean => ((a[word]! ^ b[word]!) & ~mask) !== 0;
  return other(4, INTERRUPT_MASK[0]) || other(5, INTERRUPT_MASK[1]) || other(6, 0) || other(7, 0);
}

/** Device table entries in memory, written as hardware may read them meanwhile: update_dte256(). */
export class DteWriter {
  readonly #kernel: Kernel;
  readonly #flush: () => void;
  readonly #at: number;

  /** `flush` invalidates the entry in the IOMMU and waits: iommu_flush_dte_sync(). */
  constructor(kernel: Kernel, at: number, flush: () => void) {
    this.#kernel = kernel;
    this.#at = at;
    this.#flush = flush;
  }

  /** get_dte256() */
  read(): Dte {
    return readDte(this.#kernel, this.#at);
  }

  /**
   * Hardware reads 256 bits at once, and the CPU writes 128: V and GV come last where they become set, and first where
   * they are cleared.
   */
  write(next: Dte): void {
    const old = this.read();
    const flag = (dte: Dte, field: typeof DTE.V): boolean => readField(field, dte) !== 0;
    if (!flag(old, DTE.V) || (flag(next, DTE.V) && !flag(old, DTE.GV))) {
      this.#upper(next);
      this.#lower(next);
      this.#flush();
    } else if (!flag(next, DTE.V) || !flag(next, DTE.GV)) {
      this.#lower(next);
      this.#upper(next);
      this.#flush();
    } else if (upperDiffers(old, next)) {
      this.#lower(emptyDte());
      this.#flush();
      this.#upper(next);
      this.#lower(next);
      this.#flush();
    } else {
      // What is in the upper half does not change.
      this.#lower(next);
    }
  }

  // write_dte_lower128()
  #lower(dte: Dte): void {
    const { physical } = this.#kernel;
    physical.store64(this.#at, dte[0]!, dte[1]!);
    physical.store64(this.#at + 8, dte[2]!, dte[3]!);
  }

  // write_dte_upper128(): interrupts are another's.
  #upper(dte: Dte): void {
    const old = this.read();
    const keep = (word: number, mask: number): number => ((dte[word]! & ~mask) | (old[word]! & mask)) >>> 0;
    const { physical } = this.#kernel;
    physical.store64(this.#at + 16, keep(4, INTERRUPT_MASK[0]), keep(5, INTERRUPT_MASK[1]));
    physical.store64(this.#at + 24, dte[6]!, dte[7]!);
  }
}

export function readDte(kernel: Kernel, at: number): Dte {
  const dte = emptyDte();
  const word = new Uint32Array(2);
  for (let offset = 0; offset < DTE_BYTES; offset += 8) {
    kernel.physical.load64(at + offset, word);
    dte.set(word, offset / 4);
  }
  return dte;
}
