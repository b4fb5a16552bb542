import { encode } from '../../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../../base/result.ts';
import type { Range } from '../../../../base/range.ts';
import { big, pageNumber } from '../../../../base/u64.ts';
import { EINVAL } from '../../../../abi/errno.ts';
import { TableGather } from '../../../../pagetable/generic/gather.ts';
import { GenericTable } from '../../../../pagetable/generic/table.ts';
import { SecondStageFormat, SS_SW_SYNCED } from '../../../../pagetable/generic/vtd-second-stage.ts';
import { x86TableFormat, X86_SW_SYNCED } from '../../../../pagetable/generic/x86-64.ts';
import { pageBitmap } from '../../../../pagetable/page-sizes.ts';
import {
  IOMMU_NO_PASID,
  IOMMU_WRITE,
  type Device,
  type DirtyOps,
  type DirtyRecorder,
  type IommuDomain,
  type PagingDomain,
} from '../../../driver.ts';
import { iovaToPhys, mapRange, readAndClearDirty, unmapRange } from '../../../drivers/table-domain.ts';
import { kernelTableMemory } from '../../../drivers/table-memory.ts';
import { FSPM, PASID_ENTRY, PGTT } from '../../spec/pasid.ts';
import { blockTranslation, iopfReplace, noteAttached } from './attach.ts';
import type { IntelDevice } from '../device.ts';
import type { DmarUnit } from '../dmar-unit.ts';
import { DmarDomain, incompatible } from './domain-base.ts';
import type { DmarFeatures } from '../features.ts';
import { setPageSnoop, setUpEntry } from '../configuration/pasid.ts';

/** Bits of physical addresses in entries, whatever the unit has of them. */
const OUT_BITS = 52;
const SZ_2M = 1n << 21n;
const SZ_1G = 1n << 30n;

/** What a domain is asked for. */
export interface PagingOptions {
  readonly stage: 1 | 2;
  readonly nestParent: boolean;
  readonly dirty: boolean;
}

/** Levels of tables less one, and bits of addresses. */
interface Shape {
  readonly topLevel: number;
  readonly bits: number;
}

/** compute_vasz_lg2_fs() */
function firstStageShape({ mgaw, firstStage5Level }: DmarFeatures): Shape {
  if (mgaw > 48 && firstStage5Level) return { topLevel: 4, bits: Math.min(57, mgaw) };
  return { topLevel: 3, bits: Math.min(48, mgaw) };
}

/** compute_vasz_lg2_ss(): null where there is no width that both MGAW and SAGAW have. */
function secondStageShape({ mgaw, sagaw }: DmarFeatures): Shape | null {
  // ffs() of one bit.
  const next = (bits: number): number => ((bits & 1) !== 0 ? 1 : bits === 0 ? 0 : 2);
  if (mgaw > 48 && sagaw >= 1 << 3) return { topLevel: 4, bits: Math.min(57, mgaw) };
  if (mgaw > 39 && sagaw >= 1 << 2) return { topLevel: 3 + next(sagaw >> 3), bits: Math.min(48, mgaw) };
  if (mgaw > 30 && sagaw >= 1 << 1) return { topLevel: 2 + next(sagaw >> 2), bits: Math.min(39, mgaw) };
  return null;
}

/** struct dmar_domain with tables of the kernel. */
export class IntelPagingDomain extends DmarDomain implements PagingDomain, DirtyOps {
  readonly type = 'paging';
  readonly stage: 1 | 2;
  readonly nestParent: boolean;
  readonly table: GenericTable;
  readonly pgsizeBitmap: bigint;
  readonly aperture: Range;
  readonly dirtyOps: DirtyOps | null;
  /** Bits of input addresses: max_vasz_lg2. */
  readonly bits: number;
  /** Nested domains over it. */
  readonly nested = new Set<DmarDomain>();
  forceSnooping = false;
  dirtyTracking = false;
  readonly #coherent: boolean;
  readonly #syncsMaps: boolean;
  readonly #secondStage: SecondStageFormat | null;
  readonly #cleared = new TableGather();

  /**
   * intel_iommu_domain_alloc_first_stage() and intel_iommu_domain_alloc_second_stage(), once the unit is known to have
   * what is asked. Null where there is no memory for the table, EINVAL where no width of tables fits.
   */
  static make(unit: DmarUnit, options: PagingOptions): Result<IntelPagingDomain | null> {
    const { features } = unit;
    const first = options.stage === 1;
    const shape = first ? firstStageShape(features) : secondStageShape(features);
    if (shape === null) return fail(EINVAL, `${unit.name} has no width of second-stage tables`);
    const second = first
      ? null
      : new SecondStageFormat({
          pages2M: features.pages2M,
          pages1G: features.pages1G,
          tableLo: features.coherentWalk ? 0 : SS_SW_SYNCED,
        });
    // A table that is made and never used yet has nothing to invalidate.
    let made: IntelPagingDomain | null = null;
    const table = GenericTable.make({
      format:
        second ?? x86TableFormat(features.coherentWalk ? 0 : X86_SW_SYNCED, features.firstStage1G ? 2 : 1),
      memory: kernelTableMemory(unit.kernel),
      topLevel: shape.topLevel,
      // PT_FEAT_SIGN_EXTEND: the upper half of the first stage is at the other end of 64 bits, where nothing is mapped.
      vaBits: first ? shape.bits - 1 : shape.bits,
      outBits: OUT_BITS,
      sync: (gather) => made?.sync(gather),
    });
    if (table === null) return null;
    made = new IntelPagingDomain(unit, options, shape, table, second);
    return made;
  }

  private constructor(
    unit: DmarUnit,
    options: PagingOptions,
    shape: Shape,
    table: GenericTable,
    second: SecondStageFormat | null,
  ) {
    super(unit.driver, options.stage === 1);
    const { features } = unit;
    this.stage = options.stage;
    this.nestParent = options.nestParent;
    this.table = table;
    this.bits = shape.bits;
    this.pgsizeBitmap = pageBitmap(table.sizes.bits);
    this.aperture = { start: 0n, last: (1n << big(table.vaBits)) - 1n };
    this.dirtyOps = options.dirty ? this : null;
    this.#coherent = features.coherentWalk;
    this.#syncsMaps = second !== null && features.cachingMode;
    this.#secondStage = second;
  }

  /** intel_iommu_domain_free() */
  free(): void {
    this.table.free();
  }

  // ---- mapping ----

  map(iova: bigint, pa: number, length: bigint, prot: number): Result<void> {
    if (this.nestParent && (prot & IOMMU_WRITE) === 0)
      return fail(EINVAL, 'a nest parent has no read-only pages (ERRATA_772415_SPR17)');
    const mapped = mapRange(this.table, iova, pa, length, prot);
    if (failed(mapped) || !this.#syncsMaps) return mapped;
    // intel_iommu_iotlb_sync_map()
    const first = pageNumber(iova);
    this.tags.flushRangeNotPresent(first, first + pageNumber(length) - 1, this.stage === 1);
  }

  unmap(iova: bigint, length: bigint): bigint {
    return unmapRange(this.table, iova, length);
  }

  iovaToPhys(iova: bigint): number {
    return iova > this.aperture.last ? 0 : iovaToPhys(this.table, iova);
  }

  /** intel_iommu_tlb_sync(): tables that led to the pages stay as they were, unless some are about to be freed. */
  sync(gather: TableGather): void {
    this.tags.flushRange(gather.start, gather.last, gather.tables.length === 0);
  }

  // ---- coherency ----

  /** intel_iommu_enforce_cache_coherency_fs() and intel_iommu_enforce_cache_coherency_ss() */
  enforceCacheCoherency(): boolean {
    if (this.stage === 1 && this.forceSnooping) return true;
    if (!this.devices.every((device) => device.unit.features.snoopControl)) return false;
    this.forceSnooping = true;
    if (this.#secondStage !== null) this.#secondStage.forceCoherence = true;
    else for (const device of this.devices) setPageSnoop(device, IOMMU_NO_PASID);
    return true;
  }

  // ---- dirty tracking ----

  /** intel_iommu_set_dirty_tracking(): for nested domains over it too. */
  setDirtyTracking(enable: boolean): Result<void> {
    if (this.dirtyTracking === enable) return;
    const users: DmarDomain[] = [this, ...this.nested];
    for (const domain of users) {
      const done = domain.trackDirty(enable);
      if (!failed(done)) continue;
      for (const each of users) each.trackDirty(this.dirtyTracking);
      return done;
    }
    this.dirtyTracking = enable;
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

  // ---- attaching ----

  /** paging_domain_compatible() */
  compatibleWith(unit: DmarUnit): Result<void> {
    const { features } = unit;
    if (this.#coherent && !features.coherentWalk) return incompatible(unit, 'does not snoop page tables');
    return this.stage === 1 ? this.#firstStageOn(unit) : this.#secondStageOn(unit);
  }

  #firstStageOn(unit: DmarUnit): Result<void> {
    const { features } = unit;
    if (!features.firstStage) return incompatible(unit, 'has no first stage');
    if (!features.firstStage5Level && this.bits > 48) return incompatible(unit, 'has no tables of 5 levels');
    if (!features.firstStage1G && (this.pgsizeBitmap & SZ_1G) !== 0n)
      return incompatible(unit, 'has no pages of 1 GiB');
  }

  #secondStageOn(unit: DmarUnit): Result<void> {
    const { features } = unit;
    const sizes = this.pgsizeBitmap;
    if (this.dirtyOps !== null && !features.ssads) return incompatible(unit, 'keeps no dirty bits');
    if (this.nestParent && !features.nested) return incompatible(unit, 'cannot nest stages');
    if (!features.secondStage) return incompatible(unit, 'has no second stage');
    if (features.mgaw < this.bits) return incompatible(unit, `has no addresses of ${this.bits} bits`);
    if ((features.sagaw & (1 << this.addressWidth)) === 0)
      return incompatible(unit, `has no tables of ${this.addressWidth + 2} levels`);
    if (!features.pages2M && (sizes & SZ_2M) !== 0n) return incompatible(unit, 'has no pages of 2 MiB');
    if (!features.pages1G && (sizes & SZ_1G) !== 0n) return incompatible(unit, 'has no pages of 1 GiB');
    if (features.cachingMode && !this.#syncsMaps)
      return incompatible(unit, 'caches what is not present, and maps of the domain invalidate nothing');
    if (this.forceSnooping && !features.snoopControl) return incompatible(unit, 'cannot force snoops');
  }

  /** AW of entries: levels less 2. */
  get addressWidth(): number {
    return this.table.topLevel - 1;
  }

  get coherent(): boolean {
    return this.#coherent;
  }

  /** intel_iommu_attach_device(): where it fails, the device is left without a domain. */
  attachDevice(target: Device, old: IommuDomain | null): Result<void> {
    const device = target as IntelDevice;
    return device.unit.interrupts.exclusively(() => {
      blockTranslation(device);
      const compatible = this.compatibleWith(device.unit);
      if (failed(compatible)) return compatible;
      const faults = iopfReplace(this, old, device);
      if (failed(faults)) return faults;
      const done = this.#attach(device);
      if (failed(done)) iopfReplace(old, this, device);
      return done;
    });
  }

  // dmar_domain_attach_device()
  #attach(device: IntelDevice): Result<void> {
    const attached = this.attachUnit(device.unit);
    if (failed(attached)) return attached;
    noteAttached(device, this);
    const set = this.setUpEntry(device, IOMMU_NO_PASID);
    const tagged = failed(set) ? set : this.assignTags(device, IOMMU_NO_PASID);
    if (failed(tagged)) blockTranslation(device);
    return tagged;
  }

  setUpEntry(device: IntelDevice, pasid: number): Result<void> {
    const did = this.didOn(device.unit);
    return setUpEntry(
      device,
      pasid,
      this.stage === 1 ? this.#firstEntry(device, did) : this.#secondEntry(did),
    );
  }

  // pasid_pte_config_first_level()
  #firstEntry(device: IntelDevice, did: number): Uint32Array {
    return encode(PASID_ENTRY, {
      P: 1,
      PGTT: PGTT.FIRST_STAGE,
      AW: device.unit.features.agaw,
      DID: did,
      PWSNP: this.#coherent,
      PGSNP: this.forceSnooping,
      FSPM: this.table.topLevel === 4 ? FSPM.LEVELS_5 : FSPM.LEVELS_4,
      FSPTPTR: this.table.root / 4096,
    });
  }

  // pasid_pte_config_second_level()
  #secondEntry(did: number): Uint32Array {
    return encode(PASID_ENTRY, {
      P: 1,
      PGTT: PGTT.SECOND_STAGE,
      AW: this.addressWidth,
      DID: did,
      PWSNP: this.#coherent,
      SSADE: this.dirtyTracking,
      SSPTPTR: this.table.root / 4096,
    });
  }
}
