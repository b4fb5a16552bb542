/**
 * What an unmap, or a map over empty tables, leaves to be invalidated: struct iommu_iotlb_gather with struct
 * iommupt_pending_gather. Pages are numbers of 4 KiB.
 */
export class TableGather {
  start = Infinity;
  last = -1;
  /** Addresses of tables that are about to be freed. */
  readonly tables: number[] = [];

  get empty(): boolean {
    return this.last < 0 && this.tables.length === 0;
  }

  /** iommu_iotlb_gather_add_range() */
  addRange(page: number, count: number): void {
    if (count === 0) return;
    this.start = Math.min(this.start, page);
    this.last = Math.max(this.last, page + count - 1);
  }

  /** iommu_iotlb_gather_is_disjoint() */
  isApart(page: number, count: number): boolean {
    return this.last >= 0 && (page + count < this.start || page > this.last + 1);
  }

  /** gather_add_table() */
  addTable(pa: number): void {
    this.tables.push(pa);
  }

  /** iommu_iotlb_gather_init() */
  clear(): void {
    this.start = Infinity;
    this.last = -1;
    this.tables.length = 0;
  }
}
