import { PAGE_SIZE } from '../../base/u64.ts';
import type { TableMemory } from '../../pagetable/generic/table.ts';
import type { Kernel } from '../driver.ts';

/** Tables in the machine's RAM: drivers/iommu/iommu-pages.c. */
export function kernelTableMemory(kernel: Kernel): TableMemory {
  const { physical } = kernel;
  return {
    allocateTable: () => (kernel.failpoint() ? 0 : physical.allocate(1)),
    freeTable: (pa) => physical.free(pa, 1),
    load64: (pa, out) => physical.load64(pa, out),
    store64: (pa, lo, hi) => physical.store64(pa, lo, hi),
  };
}

/** Pages of a table or ring of so many bytes. */
export function pagesOf(bytes: number): number {
  return Math.ceil(bytes / PAGE_SIZE);
}
