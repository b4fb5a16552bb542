import { encode } from '../../../base/bit-fields.ts';
import { fail, failed, type Result } from '../../../base/result.ts';
import { ENODEV, ENOMEM } from '../../../abi/errno.ts';
import { IOMMU_NO_PASID, type Device, type ReservedRegion } from '../../driver.ts';
import type { IommuGroup } from '../../group.ts';
import { iopfAddDevice, iopfRemoveDevice, type FaultQueueDevice } from '../../iopf.ts';
import type { PciAts, PciPri } from '../../drivers/pci-services.ts';
import { SM_CONTEXT_ENTRY } from '../spec/context.ts';
import { CONTEXT_GRANULARITY } from '../spec/registers.ts';
import { contextCache, iotlbDomain, type DeviceTlb } from './queues/descriptors.ts';
import type { DmarUnit } from './dmar-unit.ts';
import type { DmarDomain } from './domains/domain-base.ts';
import type { IntelIommuDriver } from './driver.ts';
import { PRQ_DEPTH } from './queues/page-requests.ts';
import { PasidTable } from './configuration/pasid-table.ts';

// A function behind a unit: struct device_domain_info, and how it comes and goes.

/** What of a PCI function matters to its IOMMU. */
export interface IntelFunctionOptions {
  readonly name: string;
  /** Bus, device and function: the source-id. */
  readonly requesterId: number;
  readonly group: IommuGroup;
  /** pci_max_pasids(): 0 where the function has no PASID capability. */
  readonly maxPasids: number;
  readonly pasidExec: boolean;
  readonly pasidPriv: boolean;
  /** Null where it has none, or is outside of what the DMAR table says of ATS (dmar_ats_supported()). */
  readonly ats: (PciAts & { readonly queueDepth?: number }) | null;
  readonly pri?: PciPri | null;
  /** The physical function, of a virtual one; the function itself where absent. */
  readonly physicalFunction?: number;
  /** Reserved memory regions that firmware describes for it (RMRR). */
  readonly reserved?: readonly ReservedRegion[];
  /** dev_needs_extra_dtlb_flush(): a device that needs invalidations of its translation cache twice. */
  readonly extraDeviceTlbFlush?: boolean;
}

const PAGE_BITS = 12;

export class IntelDevice implements Device, DeviceTlb {
  readonly name: string;
  readonly unit: DmarUnit;
  readonly group: IommuGroup;
  readonly requesterId: number;
  readonly maxPasids: number;
  readonly pci: Device['pci'];
  readonly atsSupported: boolean;
  readonly pasidSupported: boolean;
  readonly priSupported: boolean;
  readonly extraFlush: boolean;
  readonly pfsid: number;
  readonly queueDepth: number;
  readonly reserved: readonly ReservedRegion[];
  readonly #options: IntelFunctionOptions;
  faults: FaultQueueDevice | null = null;
  /** What transactions without a PASID meet, if that has tables: info->domain. */
  domain: DmarDomain | null = null;
  /** info->domain_attached: false where they are blocked. */
  attached = false;
  atsEnabled = false;
  priEnabled = false;
  table: PasidTable | null = null;
  #iopfUsers = 0;

  constructor(unit: DmarUnit, options: IntelFunctionOptions) {
    const { features } = unit;
    const { ats, maxPasids } = options;
    this.#options = options;
    this.unit = unit;
    this.name = options.name;
    this.group = options.group;
    this.requesterId = options.requesterId;
    this.atsSupported = features.deviceTlb && ats !== null;
    this.pasidSupported = features.pasid && maxPasids > 0;
    this.priSupported =
      this.atsSupported &&
      features.pageRequests &&
      features.pageRequestDrain &&
      (options.pri ?? null) !== null;
    this.extraFlush = this.atsSupported && options.extraDeviceTlbFlush === true;
    this.pfsid =
      this.atsSupported && features.throttling ? (options.physicalFunction ?? options.requesterId) : 0;
    this.queueDepth = this.atsSupported ? (ats?.queueDepth ?? 0) : 0;
    // iommu.c dev_iommu_get_max_pasids()
    this.maxPasids = Math.min(maxPasids, features.maxPasids);
    this.pci = { pasidExec: options.pasidExec, pasidPriv: options.pasidPriv };
    this.reserved = options.reserved ?? [];
  }

  get driver(): IntelIommuDriver {
    return this.unit.driver;
  }

  get iommu(): DmarUnit {
    return this.unit;
  }

  // ---- coming and going ----

  /** intel_iommu_probe_device(): the PASID table, and the context entry that leads to it. */
  probe(): Result<void> {
    const { kernel } = this.unit;
    this.table = PasidTable.make(kernel, this.pasidSupported ? this.#options.maxPasids : 0);
    if (this.table === null) return fail(ENOMEM, 'no memory for the PASID table');
    const set = this.#setContext(this.table);
    if (!failed(set)) return;
    this.table.free();
    this.table = null;
    return set;
  }

  // device_pasid_table_setup()
  #setContext(table: PasidTable): Result<void> {
    const { unit } = this;
    const at = unit.rootTable.make(this.requesterId);
    if (at === null) return fail(ENOMEM, 'no memory for the context table');
    const entry = encode(SM_CONTEXT_ENTRY, {
      P: 1,
      PDTS: table.directorySize,
      RID_PASID: IOMMU_NO_PASID,
      DTE: this.atsSupported,
      PASIDE: this.pasidSupported,
      PRE: this.priSupported,
    });
    entry[0]! |= table.directory & 0xffff_f000;
    entry[1]! |= Math.floor(table.directory / 0x1_0000_0000);
    this.#storeContext(at, entry);
    if (!unit.features.cachingMode) return;
    // What is not present is cached under domain id 0.
    unit.invalidate([contextCache(CONTEXT_GRANULARITY.DEVICE, 0, this.requesterId)]);
    unit.invalidate([iotlbDomain(unit.features, 0)]);
  }

  /** P, which is in the first word, last. */
  #storeContext(at: number, entry: Uint32Array): void {
    const { physical } = this.unit.kernel;
    for (let word = entry.length - 2; word >= 0; word -= 2)
      physical.store64(at + word * 4, entry[word]! >>> 0, entry[word + 1]! >>> 0);
  }

  /** intel_iommu_probe_finalize(): PASIDs, which are on, then ATS, then PRI. */
  finalize(): void {
    const { ats, pri } = this.#options;
    if (this.atsSupported) {
      ats!.enable(PAGE_BITS);
      this.atsEnabled = true;
    }
    if (!this.atsEnabled || !this.priSupported) return;
    pri!.enable(PRQ_DEPTH);
    this.priEnabled = true;
  }

  /** intel_iommu_release_device() */
  release(): void {
    if (this.priEnabled) {
      if (this.#iopfUsers > 0) iopfRemoveDevice(this);
      this.#options.pri!.disable();
    }
    if (this.atsEnabled) this.#options.ats!.disable();
    this.priEnabled = false;
    this.atsEnabled = false;
    this.#teardownContext();
    this.table?.free();
    this.table = null;
  }

  // device_pasid_table_teardown() and intel_context_flush_no_pasid(), with ATS off already.
  #teardownContext(): void {
    const { unit } = this;
    const at = unit.rootTable.find(this.requesterId);
    if (at === null) return;
    const entry = new Uint32Array(SM_CONTEXT_ENTRY.$.width / 32);
    const word = new Uint32Array(2);
    unit.kernel.physical.load64(at, word);
    unit.kernel.physical.store64(at, (word[0]! & ~1) >>> 0, word[1]!);
    unit.invalidate([contextCache(CONTEXT_GRANULARITY.DEVICE, 0, this.requesterId)]);
    this.#storeContext(at, entry);
  }

  // ---- page faults ----

  /** intel_iommu_enable_iopf(): ENODEV where the function has no page requests. */
  enableIopf(): Result<void> {
    if (!this.priEnabled) return fail(ENODEV, `${this.name} has no page requests`);
    if (this.#iopfUsers === 0) {
      const added = iopfAddDevice(this.unit.kernel, this);
      if (failed(added)) return added;
    }
    this.#iopfUsers++;
  }

  /** intel_iommu_disable_iopf() */
  disableIopf(): void {
    if (this.#iopfUsers === 0) return;
    this.#iopfUsers--;
    if (this.#iopfUsers === 0) iopfRemoveDevice(this);
  }

  get servesFaults(): boolean {
    return this.#iopfUsers > 0;
  }
}
