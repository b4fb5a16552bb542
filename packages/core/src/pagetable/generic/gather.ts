/**
 * What an unmap, or a map over empty tables, leaves to be invalidated: struct iommu_iotlb_gather with struct
 * iommupt_pending_gather. Pages are numbers of 4 KiB.
 */
export class TableGather {
  start = Infinity;
  last = -1;
  /** Levels that lost leaves, and levels whose entries led to tables that are about to be freed; a bit for each. */
  leafLevels = 0;
  tableLevels = 0;
  /** Addresses of those tables. */
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

  /** gather_add_table() */
  addTable(pa: number, level: number): void {
    this.tables.push(pa);
    this.tableLevels |= 1 << level;
  }
}
