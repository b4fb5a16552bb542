import { PAGE_SIZE } from '../base/u64.ts';
import { fail, type Result } from '../base/result.ts';
import { ENODEV, ENOTTY } from '../abi/errno.ts';
import type { Kernel } from '../iommu/driver.ts';
import type { OpenFile } from '../memory/file.ts';
import type { Task } from '../memory/process.ts';

// A dma-buf whose exporter keeps the memory: drivers/iommu/iommufd/selftest.c iommufd_test_dmabuf_get() and the part of
// drivers/dma-buf that iommufd meets. Its importers lose the memory when the exporter revokes it.

/** Who imported the buffer: struct dma_buf_attachment with its invalidate_mappings. */
export interface DmaBufImporter {
  /** Runs while the buffer is being taken back: nothing may reach its memory afterwards. */
  revoke(): void;
}

/** An exported buffer. */
export class DmaBuf implements OpenFile {
  readonly type = 'dma-buf';
  /** In bytes, a multiple of the page size. */
  readonly size: number;
  readonly #kernel: Kernel;
  readonly #pa: number;
  readonly #importers = new Map<unknown, { importer: DmaBufImporter; revoked: boolean }>();
  #revoked = false;
  #references = 1;

  constructor(kernel: Kernel, size: number) {
    this.#kernel = kernel;
    this.size = size;
    this.#pa = kernel.physical.allocate(size / PAGE_SIZE);
  }

  /** The frame of its first byte. */
  get firstFrame(): number {
    return this.#pa / PAGE_SIZE;
  }

  /** Imports it for `key`: ENODEV where it is revoked. */
  attach(key: unknown, importer: DmaBufImporter): Result<void> {
    if (this.#revoked) return fail(ENODEV, 'the dma-buf is revoked');
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

  /** The exporter takes the memory back, or offers it again to new importers: iommufd_test_dmabuf_revoke(). */
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

  release(): void {
    this.#put();
  }

  #put(): void {
    if (--this.#references === 0) this.#kernel.physical.free(this.#pa, this.size / PAGE_SIZE);
  }
}
