import { fail, failed, type Result } from '../../../../base/result.ts';
import type { Range } from '../../../../base/range.ts';
import { exact, hex } from '../../../../base/u64.ts';
import { EBUSY, EINVAL, ERANGE } from '../../../../abi/errno.ts';
import {
  IOMMU_NO_PASID,
  type Device,
  type DirtyOps,
  type DirtyRecorder,
  type IommuDomain,
  type PagingDomain,
} from '../../../driver.ts';
import { S1DSS } from '../../spec/ste.ts';
import { attachCommit, attachPrepare, attachState, type MasterDomain } from './attach.ts';
import { makeStage1Cd } from '../configuration/cd.ts';
import type { CommandBatch } from '../queues/command-queue.ts';
import { asSmmuDomain, SmmuDomainBase } from './domain-base.ts';
import type { Entry } from '../configuration/entry.ts';
import { batchSelector, commandsFor, endsBatch, INV_ALL, type InvRange } from './invalidate.ts';
import { InvalidationList } from './invalidation-list.ts';
import type { ArmSmmuMaster } from '../master.ts';
import { pageBitmap, pickPages, POW2 } from '../../../../pagetable/page-sizes.ts';
import { MAIR, type ArmPageTable, type PageGather } from './page-table.ts';
import type { ArmSmmu } from '../smmu.ts';
import { makeStage2Ste } from '../configuration/ste.ts';

/** Virtual addresses and IPAs are below 2^52. */
const ADDRESS_LIMIT = 1n << 52n;

/** Unmapped pages of one size in a row: struct iommu_iotlb_gather. */
class IotlbGather implements PageGather {
  start = 0;
  end = 0;
  pageBits = 0;
  readonly #sync: (range: InvRange) => void;

  constructor(sync: (range: InvRange) => void) {
    this.#sync = sync;
  }

  /** iommu_iotlb_gather_add_page() */
  addPages(iova: number, bits: number, count: number): void {
    const end = iova + count * POW2[bits]!;
    const disjoint = this.end > 0 && (end < this.start || iova > this.end);
    if (this.end > 0 && (this.pageBits !== bits || disjoint)) this.sync();
    this.start = this.end === 0 ? iova : Math.min(this.start, iova);
    this.end = Math.max(this.end, end);
    this.pageBits = bits;
  }

  /** iommu_iotlb_sync() */
  sync(): void {
    if (this.end === 0) return;
    const range = {
      iova: this.start,
      size: this.end - this.start,
      granule: POW2[this.pageBits]!,
      leaf: true,
    };
    this.end = 0;
    this.#sync(range);
  }
}

/** struct arm_smmu_domain: a page table of the kernel, with an ASID (stage 1) or a VMID (stage 2). */
export class ArmSmmuDomain extends SmmuDomainBase implements PagingDomain, DirtyOps {
  readonly type = 'paging';
  readonly smmu: ArmSmmu;
  readonly stage: 1 | 2;
  readonly table: ArmPageTable;
  /** ASID of stage 1, VMID of stage 2. */
  readonly tag: number;
  readonly nestParent: boolean;
  readonly pgsizeBitmap: bigint;
  readonly aperture: Range;
  readonly dirtyOps: DirtyOps | null;
  invs = new InvalidationList<ArmSmmu>();
  /** The newest first. */
  readonly devices: MasterDomain[] = [];
  enforcesCacheCoherency = false;
  /** The domain whose table this is, behind another SMMU: see shareStage2(). */
  readonly source: ArmSmmuDomain | null;
  /** The domains that have this one's table. */
  readonly sharers = new Set<ArmSmmuDomain>();
  /** Where dirty bits were cleared since the last iotlbSync(). */
  #cleared: { start: number; end: number } | null = null;

  constructor(
    smmu: ArmSmmu,
    table: ArmPageTable,
    tag: number,
    nestParent: boolean,
    source: ArmSmmuDomain | null = null,
  ) {
    super(smmu.driver);
    this.source = source;
    this.smmu = smmu;
    this.stage = table.stage;
    this.table = table;
    this.tag = tag;
    this.nestParent = nestParent;
    this.pgsizeBitmap = pageBitmap(table.pageSizes);
    this.aperture = { start: 0n, last: (1n << BigInt(table.ias)) - 1n };
    this.dirtyOps = table.dirty ? this : null;
    if (source === null) return;
    this.enforcesCacheCoherency = source.enforcesCacheCoherency;
    source.sharers.add(this);
  }

  override get tracked(): ArmSmmuDomain {
    return this;
  }

  get asid(): number {
    return this.tag;
  }

  get vmid(): number {
    return this.tag;
  }

  /** arm_smmu_domain_free_paging() */
  override free(): void {
    if (this.source === null) this.table.free();
    else this.source.sharers.delete(this);
    if (this.stage === 1) this.smmu.driver.asids.free(this.tag);
    else this.smmu.vmids.free(this.tag);
  }

  // ---- mapping ----

  /** iommu_map(): drivers/iommu/iommu.c __iommu_map_domain_pgtbl(). */
  map(iova: bigint, pa: number, length: bigint, prot: number): Result<void> {
    const smallest = POW2[this.table.pageSizes[0]!]!;
    if (iova + length > ADDRESS_LIMIT) return fail(ERANGE, `the mapping at ${hex(iova)} is beyond 52 bits`);
    const start = exact(iova);
    const total = exact(length);
    if (start % smallest !== 0 || pa % smallest !== 0 || total % smallest !== 0)
      return fail(
        EINVAL,
        `iova ${hex(iova)}, pa ${hex(pa)} or the length is not aligned to ${hex(smallest)}`,
      );
    for (let done = 0; done < total;) {
      const run = pickPages(this.table.pageSizes, start + done, pa + done, total - done);
      const mapped = this.table.map(start + done, pa + done, run.bits, run.count, prot);
      if (failed(mapped)) {
        if (done > 0) this.#unmap(start, done);
        return mapped;
      }
      done += mapped * POW2[run.bits]!;
    }
  }

  /** iommu_unmap(): it stops at the first address that is not mapped. */
  unmap(iova: bigint, length: bigint): bigint {
    const smallest = POW2[this.table.pageSizes[0]!]!;
    if (iova + length > ADDRESS_LIMIT) return 0n;
    const start = exact(iova);
    const total = exact(length);
    if (start % smallest !== 0 || total % smallest !== 0) return 0n;
    return BigInt(this.#unmap(start, total));
  }

  #unmap(start: number, total: number): number {
    const gather = new IotlbGather((range) => this.invalidate(range));
    let done = 0;
    while (done < total) {
      const run = pickPages(this.table.pageSizes, start + done, start + done, total - done);
      const unmapped = this.table.unmap(start + done, run.bits, run.count, gather);
      if (unmapped === 0) break;
      done += unmapped;
    }
    gather.sync();
    return done;
  }

  iovaToPhys(iova: bigint): number {
    return iova > this.aperture.last ? 0 : this.table.iovaToPhys(exact(iova));
  }

  /** arm_smmu_enforce_cache_coherency() */
  enforceCacheCoherency(): boolean {
    const all = [this, ...this.sharers];
    this.enforcesCacheCoherency = all.every(({ devices }) => devices.every((each) => each.master.canWbs));
    for (const sharer of this.sharers) sharer.enforcesCacheCoherency = this.enforcesCacheCoherency;
    return this.enforcesCacheCoherency;
  }

  // ---- dirty tracking ----

  /** arm_smmu_set_dirty_tracking(): hardware tracks all the time; whoever starts has cleared the state before. */
  setDirtyTracking(_enable: boolean): Result<void> {}

  readAndClearDirty(
    iova: bigint,
    length: bigint,
    clear: boolean,
    record: DirtyRecorder | null,
  ): Result<void> {
    if (length === 0n || iova + length > ADDRESS_LIMIT) return fail(EINVAL, 'the range is beyond the table');
    return this.table.readAndClearDirty(exact(iova), exact(length), clear, (at, bytes) => {
      if (clear) this.#noteCleared(exact(at), exact(at + bytes));
      record?.(at, bytes);
    });
  }

  #noteCleared(start: number, end: number): void {
    const cleared = this.#cleared;
    if (cleared === null) this.#cleared = { start, end };
    else {
      cleared.start = Math.min(cleared.start, start);
      cleared.end = Math.max(cleared.end, end);
    }
  }

  /**
   * Takes the cached dirty state of pages that were cleared.
   * DEVIATION: Linux 7.3 sends nothing here. arm_smmu_iotlb_sync() returns where the gather has no page size, which
   * iommu_dirty_bitmap_record() never sets; a translation that is cached as dirty then hides later writes from the
   * bitmap. With `linuxDirtySync` of the driver that is what happens here too.
   */
  iotlbSync(): void {
    const cleared = this.#cleared;
    this.#cleared = null;
    if (cleared === null || this.smmu.driver.options.linuxDirtySync === true) return;
    const granule = POW2[this.table.pageSizes[0]!]!;
    const start = Math.floor(cleared.start / granule) * granule;
    this.invalidate({ iova: start, size: cleared.end - start, granule, leaf: false });
  }

  // ---- invalidation ----

  /** arm_smmu_domain_inv_range(): in every cache of every device that has the domain. */
  invalidate(range: InvRange): void {
    const list = this.invs.live();
    let batch: CommandBatch | null = null;
    for (const [index, inv] of list.entries()) {
      batch ??= inv.smmu.batch(batchSelector(inv));
      const sending = batch;
      commandsFor(inv, range, inv.smmu.features.rangeInv, (command) => sending.add(command));
      const next = list[index + 1];
      if (next !== undefined && !endsBatch(inv, next)) continue;
      if (!batch.empty) batch.submit();
      batch = null;
    }
    for (const sharer of this.sharers) sharer.invalidate(range);
  }

  /** arm_smmu_domain_inv() */
  invalidateAll(): void {
    this.invalidate(INV_ALL);
  }

  // ---- attaching ----

  /** What an STE has that leads to this stage 2. */
  makeSte(master: ArmSmmuMaster, ats: boolean): Entry {
    return makeStage2Ste({
      vmid: this.vmid,
      vtcr: this.table.vtcr,
      vttbr: BigInt(this.table.root),
      ats,
      stall: master.stallEnabled,
      fwb: this.table.fwb,
      typesOverride: master.smmu.features.attrTypesOvr,
    });
  }

  #makeCd(master: ArmSmmuMaster): Entry {
    return makeStage1Cd({
      asid: this.asid,
      tcr: this.table.tcr,
      ttbr: BigInt(this.table.root),
      mair: MAIR,
      stall: master.stallEnabled,
      dirty: this.table.dirty,
    });
  }

  /** arm_smmu_attach_dev() */
  attachDevice(device: Device, old: IommuDomain | null): Result<void> {
    const master = device as ArmSmmuMaster;
    if (this.smmu !== master.smmu) return fail(EINVAL, `${master.name} is behind another SMMU`);
    let cd = 0;
    if (this.stage === 1) {
      const address = master.cdAddress(IOMMU_NO_PASID);
      if (failed(address)) return address;
      cd = address;
    } else if (master.ssidsInUse) {
      return fail(EBUSY, `${master.name} has PASIDs, which stage 2 cannot go with`);
    }
    return this.smmu.exclusively(() => {
      const state = attachState(master, asSmmuDomain(old), IOMMU_NO_PASID);
      const prepared = attachPrepare(state, this);
      if (failed(prepared)) return prepared;
      if (this.stage === 1) {
        master.writeCd(IOMMU_NO_PASID, cd, this.#makeCd(master));
        master.installSte(master.makeCdTableSte(state.atsEnabled, S1DSS.SSID0));
      } else {
        master.installSte(this.makeSte(master, state.atsEnabled));
        master.clearCd(IOMMU_NO_PASID);
      }
      attachCommit(state);
    });
  }

  /** arm_smmu_s1_set_dev_pasid() and arm_smmu_set_pasid() */
  setDevicePasid(device: Device, pasid: number, old: IommuDomain | null): Result<void> {
    const master = device as ArmSmmuMaster;
    if (this.smmu !== master.smmu) return fail(EINVAL, `${master.name} is behind another SMMU`);
    if (this.stage !== 1) return fail(EINVAL, 'a PASID takes a stage 1 domain only');
    const sidDomain = master.group.domain;
    const passive = sidDomain?.type === 'identity' || sidDomain?.type === 'blocked';
    if (!master.cdTableInSte && !passive)
      return fail(EINVAL, `${master.name} has a domain that leaves no room for PASIDs`);
    const cd = master.cdAddress(pasid);
    if (failed(cd)) return cd;
    return this.smmu.exclusively(() => {
      const state = attachState(master, asSmmuDomain(old), pasid);
      const prepared = attachPrepare(state, this);
      if (failed(prepared)) return prepared;
      master.writeCd(pasid, cd, this.#makeCd(master));
      this.#updateSte(master, sidDomain, state.atsEnabled);
      attachCommit(state);
    });
  }

  // arm_smmu_update_ste(): the CD table comes into the STE, which does what the RID's domain did by S1DSS.
  #updateSte(master: ArmSmmuMaster, sidDomain: IommuDomain | null, ats: boolean): void {
    if (master.cdTableInSte && master.steAtsEnabled === ats) return;
    const s1Dss = sidDomain?.type === 'identity' ? S1DSS.BYPASS : S1DSS.TERMINATE;
    master.installSte(master.makeCdTableSte(ats, s1Dss));
  }
}
