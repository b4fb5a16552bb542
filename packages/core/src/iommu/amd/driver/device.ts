import { failed, type Result } from '../../../base/result.ts';
import { IOMMU_NO_PASID, type Device } from '../../driver.ts';
import type { IommuGroup } from '../../group.ts';
import { iopfAddDevice, iopfRemoveDevice, type FaultQueueDevice } from '../../iopf.ts';
import type { PciAts, PciPri } from '../../drivers/pci-services.ts';
import { ALL, invalidateDte, invalidateIotlb, invalidatePages, type PageRange } from './queues/commands.ts';
import type { ProtectionDomain } from './domains/domain-base.ts';
import type { AmdIommuDriver } from './driver.ts';
import { makeClearDte, setDteGcr3, setDtePassthrough, type Dte } from './configuration/dte.ts';
import { Gcr3Table } from './configuration/gcr3.ts';
import type { Ivhd } from './ivhd.ts';
import { PRI_OUTSTANDING } from './limits.ts';

/** What of a PCI function matters to its IOMMU. */
export interface AmdPciFunction {
  /** pci_max_pasids(): 0 where the function has no PASID capability. */
  readonly maxPasids: number;
  readonly pasidExec: boolean;
  readonly pasidPriv: boolean;
  /** With pci_ats_queue_depth(): 0 stands for 32. */
  readonly ats: (PciAts & { readonly queueDepth?: number }) | null;
  readonly pri: PciPri | null;
}

export interface AmdDeviceOptions {
  readonly name: string;
  /** Bus, device and function. */
  readonly deviceId: number;
  /** Other ids that its requests may have: PCI DMA aliases and those of IVRS. */
  readonly aliases?: readonly number[];
  readonly group: IommuGroup;
  /** Null for a device that ACPI names. */
  readonly pci?: AmdPciFunction | null;
}

/** What a guest says of its tables, in front of those of the host: drivers/iommu/amd/nested.c set_dte_nested(). */
export interface GuestDte {
  /** The guest's entry has PPR: the device may ask for pages. */
  readonly pageRequests: boolean;
  fillDte(dte: Dte, ats: boolean): void;
}

/** struct iommu_dev_data with the struct device it belongs to. */
export class AmdIommuDevice implements Device {
  readonly name: string;
  readonly ivhd: Ivhd;
  readonly group: IommuGroup;
  readonly deviceId: number;
  readonly aliases: readonly number[];
  readonly pciFunction: AmdPciFunction | null;
  readonly maxPasids: number;
  /** dev_data->max_pasids: 0 where the driver gives it none. */
  readonly pasidLimit: number;
  /** AMD_IOMMU_DEVICE_FLAG_*_SUP */
  readonly supports: { readonly ats: boolean; readonly pri: boolean; readonly pasid: boolean };
  faults: FaultQueueDevice | null = null;
  /** What it is attached to; null while it is blocked. */
  domain: ProtectionDomain | null = null;
  /** The guest's part of its DTE, while a nested domain is attached; `domain` is its parent then. */
  nested: GuestDte | null = null;
  gcr3: Gcr3Table | null = null;
  atsEnabled = false;
  priEnabled = false;
  pasidEnabled = false;
  /** Its page requests go to fault queues. */
  ppr = false;

  constructor(ivhd: Ivhd, options: AmdDeviceOptions) {
    const { features } = ivhd.driver;
    const pci = options.pci ?? null;
    this.ivhd = ivhd;
    this.name = options.name;
    this.group = options.group;
    this.deviceId = options.deviceId;
    this.aliases = options.aliases ?? [];
    this.pciFunction = pci;
    const flags = pci !== null && features.gtPpr;
    this.supports = {
      ats: flags && pci.ats !== null,
      pri: flags && pci.pri !== null,
      pasid: flags && pci.maxPasids > 0,
    };
    // iommu.c dev_iommu_get_max_pasids()
    this.maxPasids = Math.min(pci?.maxPasids ?? 0, ivhd.maxPasids);
    this.pasidLimit = features.pasids && this.supports.pasid ? this.maxPasids : 0;
  }

  get driver(): AmdIommuDriver {
    return this.ivhd.driver;
  }

  get iommu(): Ivhd {
    return this.ivhd;
  }

  get pci(): Device['pci'] {
    return this.pciFunction;
  }

  // ---- PCI capabilities ----

  /** pdev_enable_cap_ats() */
  enableAts(): void {
    if (this.atsEnabled || !this.driver.iotlbSup || !this.supports.ats) return;
    this.pciFunction!.ats!.enable(12);
    this.atsEnabled = true;
  }

  /** pdev_enable_caps() */
  enableCaps(): void {
    // "Only allow access to user-accessible pages": neither execution nor privilege.
    this.pasidEnabled = this.supports.pasid;
    this.enableAts();
    this.enablePri();
  }

  /** pdev_enable_cap_pri() */
  enablePri(): void {
    if (this.priEnabled || !this.atsEnabled || !this.supports.pri) return;
    this.pciFunction!.pri!.enable(PRI_OUTSTANDING);
    this.priEnabled = true;
  }

  /** pdev_disable_cap_pri() */
  disablePri(): void {
    if (this.priEnabled) this.pciFunction!.pri!.disable();
    this.priEnabled = false;
  }

  /** pdev_disable_caps() */
  disableCaps(): void {
    if (this.atsEnabled) this.pciFunction!.ats!.disable();
    this.atsEnabled = false;
    this.pasidEnabled = false;
    this.disablePri();
  }

  // ---- the DTE ----

  /** amd_iommu_make_clear_dte() */
  clearDte(): Dte {
    return makeClearDte(this.ivhd.segment.initialDte(this.deviceId));
  }

  /** amd_iommu_update_dte(): the device's entry and those of its aliases; nothing old is cached afterwards. */
  updateDte(dte: Dte): void {
    const { ivhd } = this;
    ivhd.segment.writer(ivhd, this.deviceId).write(dte);
    this.cloneAliases();
    this.flushDte();
    ivhd.completionWait();
  }

  /** clone_aliases() */
  cloneAliases(): void {
    const { ivhd } = this;
    const dte = ivhd.segment.writer(ivhd, this.deviceId).read();
    for (const alias of this.aliases) ivhd.segment.writer(ivhd, alias).write(dte);
  }

  /** device_flush_dte(): with the device's IOTLB. */
  flushDte(): void {
    for (const id of [this.deviceId, ...this.aliases]) this.ivhd.queue(invalidateDte(id));
    if (this.atsEnabled) this.flushIotlb(ALL, IOMMU_NO_PASID, false);
  }

  /** pci_ats_queue_depth() */
  get queueDepth(): number {
    const depth = this.pciFunction?.ats?.queueDepth ?? 0;
    return depth === 0 ? 32 : depth;
  }

  /** device_flush_iotlb() */
  flushIotlb(range: PageRange, pasid: number, gn: boolean): void {
    this.ivhd.queue(invalidateIotlb(this.deviceId, this.queueDepth, range, pasid, gn));
  }

  /** What its DTE says for its domain: set_dte_entry(). */
  makeDte(): Dte {
    const dte = this.clearDte();
    const domain = this.domain!;
    const { gcr3 } = this;
    if (this.nested !== null) {
      this.nested.fillDte(dte, this.atsEnabled);
    } else if (gcr3 !== null) {
      const tables = {
        gcr3: gcr3.root,
        glx: gcr3.glx,
        levels: this.driver.features.guestLevels,
        ppr: this.ppr,
        giov: domain.mode === 'v2',
      };
      setDteGcr3(dte, tables, gcr3.domainId, this.atsEnabled);
    } else if (domain.mode === 'identity') {
      setDtePassthrough(dte, domain.id, this.atsEnabled);
    } else {
      domain.setHostTables(dte, domain.id, this.atsEnabled);
    }
    return dte;
  }

  // ---- PASIDs ----

  /** init_gcr3_table() */
  initGcr3(domain: ProtectionDomain): Result<void> {
    if (domain.mode === 'identity' && !this.supports.pasid) return;
    const { driver } = this;
    const table = Gcr3Table.make(
      driver.kernel,
      driver.domainIds,
      this.pasidLimit > 0 ? this.pasidLimit : 1,
      driver.glxMax,
    );
    if (failed(table)) return table;
    this.gcr3 = table;
    if (domain.mode !== 'v2') return;
    const set = this.setGcr3(0, domain.guestRoot);
    if (!failed(set)) return;
    table.free();
    this.gcr3 = null;
    return set;
  }

  /** destroy_gcr3_table() */
  destroyGcr3(domain: ProtectionDomain): void {
    if (this.gcr3 === null) return;
    if (domain.mode === 'v2') this.setGcr3(0, null);
    this.gcr3.free();
    this.gcr3 = null;
  }

  /** update_gcr3(): with dev_flush_pasid_all(). */
  setGcr3(pasid: number, root: number | null): Result<void> {
    const set = this.gcr3!.set(pasid, root);
    if (failed(set)) return set;
    this.flushPasidPages(pasid, ALL);
  }

  /** amd_iommu_dev_flush_pasid_pages() */
  flushPasidPages(pasid: number, range: PageRange): void {
    this.ivhd.queue(invalidatePages(range, this.gcr3!.domainId, pasid, { gn: true, pde: true }));
    if (this.atsEnabled) this.flushIotlb(range, pasid, true);
    this.ivhd.completionWait();
  }

  // ---- page faults ----

  /** amd_iommu_iopf_add_device(): what fails costs the device its page requests only. */
  addIopf(): void {
    if (!this.priEnabled) return;
    if (failed(iopfAddDevice(this.driver.kernel, this))) this.disablePri();
    else this.ppr = true;
  }

  /** amd_iommu_iopf_remove_device() */
  removeIopf(): void {
    if (!this.ppr) return;
    iopfRemoveDevice(this);
    this.ppr = false;
  }
}
