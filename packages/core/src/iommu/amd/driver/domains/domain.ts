import { writeField } from '../../../../base/bit-fields.ts';
import { failed, type Result } from '../../../../base/result.ts';
import type { Range } from '../../../../base/range.ts';
import { big, pageNumber } from '../../../../base/u64.ts';
import { AMD_V1_FORMAT } from '../../../../pagetable/generic/amd-v1.ts';
import { TableGather } from '../../../../pagetable/generic/gather.ts';
import { GenericTable } from '../../../../pagetable/generic/table.ts';
import { x86TableFormat } from '../../../../pagetable/generic/x86-64.ts';
import { pageBitmap } from '../../../../pagetable/page-sizes.ts';
import type { DirtyOps, DirtyRecorder, IommuDomain, PagingDomain } from '../../../driver.ts';
import { iovaToPhys, mapRange, readAndClearDirty, unmapRange } from '../../../drivers/table-domain.ts';
import { kernelTableMemory } from '../../../drivers/table-memory.ts';
import { DTE, HAD } from '../../spec/dte.ts';
import { writeDomain } from './attach.ts';
import { ALL } from '../queues/commands.ts';
import type { AmdIommuDevice } from '../device.ts';
import { ProtectionDomain } from './domain-base.ts';
import type { AmdIommuDriver } from '../driver.ts';
import { readDte, setDteV1, type Dte } from '../configuration/dte.ts';
import { flushDomainPages } from './flush.ts';
import { attachPasid } from './pasid.ts';

const V1_START_LEVEL = 2;
const ADDRESS_BITS = 52;

export interface DomainOptions {
  readonly id: number;
  readonly mode: 'v1' | 'v2';
  readonly dirty: boolean;
}

/** struct protection_domain with tables of the kernel: host tables (v1) or guest tables (v2). */
export class AmdPagingDomain extends ProtectionDomain implements PagingDomain, DirtyOps {
  readonly type = 'paging';
  readonly mode: 'v1' | 'v2';
  readonly table: GenericTable;
  readonly pgsizeBitmap: bigint;
  readonly aperture: Range;
  readonly dirtyOps: DirtyOps | null;
  /** There where the driver takes such domains for PASIDs, which Linux 7.3 does not: its amdv2_ops has no set_dev_pasid. */
  readonly setDevicePasid?: NonNullable<IommuDomain['setDevicePasid']>;
  #dirtyTracking = false;
  /** What the table is about to have, while DTEs get it. */
  #newTop: { readonly root: number; readonly topLevel: number } | null = null;
  /** Where dirty bits were cleared since the last iotlbSync(). */
  readonly #cleared = new TableGather();

  /** amd_iommu_domain_alloc_paging_v1() and amd_iommu_domain_alloc_paging_v2(). Null where there is no memory. */
  static make(driver: AmdIommuDriver, options: DomainOptions): AmdPagingDomain | null {
    const { hostVaBits, guestLevels } = driver.features;
    let made: AmdPagingDomain | null = null;
    const common = {
      memory: kernelTableMemory(driver.kernel),
      outBits: ADDRESS_BITS,
      noGaps: driver.npCache,
      // A table that is made and never used yet has nothing to invalidate.
      sync: (gather: TableGather) => made?.sync(gather),
    };
    const table =
      options.mode === 'v1'
        ? GenericTable.make({
            ...common,
            format: AMD_V1_FORMAT,
            topLevel: V1_START_LEVEL,
            vaBits: hostVaBits,
            changeTop: (root, level) => made?.changeTop(root, level),
          })
        : GenericTable.make({
            ...common,
            format: x86TableFormat(),
            topLevel: guestLevels - 1,
            // PASID 0 has no sign extension and other PASIDs do: without the highest bit they agree.
            vaBits: guestLevels === 5 ? 56 : 47,
          });
    if (table === null) return null;
    made = new AmdPagingDomain(driver, options, table);
    return made;
  }

  private constructor(driver: AmdIommuDriver, options: DomainOptions, table: GenericTable) {
    super(driver, options.id);
    this.mode = options.mode;
    this.table = table;
    this.pgsizeBitmap = pageBitmap(table.sizes.bits);
    this.aperture = { start: 0n, last: (1n << big(table.vaBits)) - 1n };
    this.dirtyOps = options.dirty ? this : null;
    if (options.mode === 'v2' && driver.options.pasidDomains === true)
      this.setDevicePasid = (device, pasid, old) => {
        const amd = device as AmdIommuDevice;
        return amd.ivhd.exclusively(() => attachPasid(amd, pasid, this, old));
      };
  }

  get needsDirtyTracking(): boolean {
    return this.dirtyOps !== null;
  }

  get guestRoot(): number {
    return this.table.root;
  }

  /** amd_iommu_domain_free() */
  override free(): void {
    this.table.free();
    this.driver.domainIds.free(this.id);
  }

  // ---- mapping ----

  map(iova: bigint, pa: number, length: bigint, prot: number): Result<void> {
    const mapped = mapRange(this.table, iova, pa, length, prot);
    if (failed(mapped) || !this.driver.npCache) return mapped;
    // amd_iommu_iotlb_sync_map(): absent translations may be cached.
    const first = pageNumber(iova);
    flushDomainPages(this, { first, last: first + pageNumber(length) - 1 }, { pde: true });
  }

  unmap(iova: bigint, length: bigint): bigint {
    return unmapRange(this.table, iova, length);
  }

  iovaToPhys(iova: bigint): number {
    return iova > this.aperture.last ? 0 : iovaToPhys(this.table, iova);
  }

  /** amd_iommu_iotlb_sync() */
  sync(gather: TableGather): void {
    flushDomainPages(this, { first: gather.start, last: gather.last }, { pde: gather.tables.length > 0 });
  }

  /** amd_iommu_flush_iotlb_all() */
  flushAll(): void {
    flushDomainPages(this, ALL, { pde: true });
  }

  /**
   * amd_iommu_change_top(): every DTE gets the new top before anything is mapped under it. The table's own fields follow
   * when this is done.
   */
  changeTop(root: number, topLevel: number): void {
    this.#newTop = { root, topLevel };
    for (const device of this.devices) writeDomain(device);
    for (const viommu of this.viommus) viommu.parentChanged();
    for (const device of this.devices) device.flushDte();
    this.flushComplete();
    this.#newTop = null;
  }

  setHostTables(dte: Dte, domainId: number, ats: boolean): void {
    const { root, topLevel } = this.#newTop ?? this.table;
    setDteV1(dte, { root, mode: topLevel + 1, dirtyTracking: this.#dirtyTracking }, domainId, ats);
  }

  /** amd_iommu_enforce_cache_coherency(): "IOMMU_PTE_FC is always set", and Linux says the same of v2 tables. */
  enforceCacheCoherency(): boolean {
    return true;
  }

  // ---- dirty tracking ----

  /** amd_iommu_set_dirty_tracking(): DTE.HAD of every device, and of the entries by which hardware vIOMMUs find memory. */
  setDirtyTracking(enable: boolean): Result<void> {
    if (this.#dirtyTracking === enable) return;
    for (const device of this.devices) {
      const { ivhd } = device;
      const at = ivhd.segment.dteAddress(device.deviceId);
      const dte = readDte(ivhd.kernel, at);
      writeField(DTE.HAD, dte, enable ? HAD.ACCESSED_DIRTY : HAD.NONE);
      ivhd.kernel.physical.store64(at, dte[0]!, dte[1]!);
      device.flushDte();
    }
    this.#dirtyTracking = enable;
    for (const viommu of this.viommus) viommu.parentChanged();
    // What is cached as writable would not mark its entry.
    if (this.ivhds.size > 0) this.flushAll();
  }

  readAndClearDirty(
    iova: bigint,
    length: bigint,
    clear: boolean,
    record: DirtyRecorder | null,
  ): Result<void> {
    const cleared = clear ? (page: number, count: number) => this.#cleared.addRange(page, count) : null;
    return readAndClearDirty(this.table, iova, length, record, cleared);
  }

  /** iommu_iotlb_sync() of what iommu_iotlb_gather_add_range() has collected. */
  iotlbSync(): void {
    if (this.#cleared.empty) return;
    this.sync(this.#cleared);
    this.#cleared.clear();
  }
}
