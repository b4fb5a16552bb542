import { PAGE_SIZE } from '../../base/u64.ts';
import { fail, type Result } from '../../base/result.ts';
import { EINVAL, ENODEV, ENOTTY, EOPNOTSUPP } from '../../abi/errno.ts';
import type { OpenFile } from '../../memory/file.ts';
import type { Task } from '../../memory/process.ts';

// A dma-buf whose exporter keeps the memory: the part of drivers/dma-buf that iommufd meets. Its importers lose the memory
// when the exporter revokes it.

/** Who imported the buffer: struct dma_buf_attachment with its invalidate_mappings. */
export interface DmaBufImporter {
  /** Runs while the buffer is being taken back: nothing may reach its memory afterwards. */
  revoke(): void;
}

/** Neighbouring pages of the physical address space: struct phys_vec. */
export interface PhysicalPages {
  /** The page number of the first. */
  readonly first: number;
  readonly pages: number;
}

/** An exported buffer. */
export class DmaBuf implements OpenFile {
  readonly type = 'dma-buf';
  /** In bytes, a multiple of the page size. */
  readonly size: number;
  readonly #memory: readonly PhysicalPages[];
  readonly #released: () => void;
  readonly #importers = new Map<unknown, { importer: DmaBufImporter; revoked: boolean }>();
  #revoked = false;
  #references = 1;

  /** `released` is called once, when neither a descriptor nor an importer is left. */
  constructor(memory: readonly PhysicalPages[], released: () => void) {
    this.size = memory.reduce((sum, { pages }) => sum + pages, 0) * PAGE_SIZE;
    this.#memory = memory;
    this.#released = released;
  }

  /** The frame of its first byte. */
  get firstFrame(): number {
    return this.#memory[0]!.first;
  }

  /** Nobody can import it now. */
  get revoked(): boolean {
    return this.#revoked;
  }

  /**
   * Imports it for `key`: ENODEV where it is revoked, EOPNOTSUPP where it is more than one range
   * (vfio_pci_dma_buf_iommufd_map()).
   */
  attach(key: unknown, importer: DmaBufImporter): Result<void> {
    if (this.#revoked) return fail(ENODEV, 'the dma-buf is revoked');
    if (this.#memory.length !== 1) return fail(EOPNOTSUPP, 'the dma-buf is of several ranges');
    this.#importers.set(key, { importer, revoked: false });
    this.#references++;
  }

  detach(key: unknown): void {
    if (this.#importers.delete(key)) this.#put();
  }

  /** True once the memory was taken from the importer `key`. It does not come back to one that lost it. */
  revokedFor(key: unknown): boolean {
    return this.#importers.get(key)?.revoked ?? false;
  }

  /** The exporter takes the memory back, or offers it again to new importers. */
  setRevoked(revoked: boolean): void {
    this.#revoked = revoked;
    for (const entry of this.#importers.values()) {
      if (entry.revoked) continue;
      entry.importer.revoke();
      entry.revoked = true;
    }
  }

  ioctl(_task: Task, _cmd: number, _arg: bigint): number {
    return -ENOTTY;
  }

  /** dma_buf_mmap_internal(): none of these exporters lets programs map the memory by the buffer. */
  mmap(): number {
    return -EINVAL;
  }

  release(): void {
    this.#put();
  }

  #put(): void {
    if (--this.#references === 0) this.#released();
  }
}
