import { fail, failed, type Result } from '../../../base/result.ts';
import { EOPNOTSUPP } from '../../../abi/errno.ts';
import { IOMMU_NO_PASID, type Device, type ReservedRegion } from '../../driver.ts';
import type { IommuGroup } from '../../group.ts';
import { iopfAddDevice, iopfRemoveDevice, type FaultQueueDevice } from '../../iopf.ts';
import type { PciAts } from '../../drivers/pci-services.ts';
import { CD } from '../spec/cd.ts';
import { EATS, STE, STE_CONFIG } from '../spec/ste.ts';
import type { Vmaster } from './domains/attach.ts';
import { cdUsed } from './configuration/cd.ts';
import { atcInvAll, cfgiCd, cfgiSte, prefetchConfig } from './queues/commands.ts';
import type { ArmSmmuDriver } from './driver.ts';
import { emptyEntry, getField, writeEntry, type Entry } from './configuration/entry.ts';
import { CD_LINEAR_LOG2_MAX } from './limits.ts';
import type { ArmSmmu } from './smmu.ts';
import { makeCdTableSte, steConfig, steUpdateSafe, steUsed } from './configuration/ste.ts';
import { CdTable, loadEntry, storeEntryQword } from './configuration/tables.ts';

// A device behind an SMMU: struct arm_smmu_master, and what the driver writes for it.

/** The ATS capability of a PCI function. */
export interface SmmuAts extends PciAts {
  /** pci_ats_required(): the device does not work without. */
  readonly required: boolean;
}

/** What of a PCI function matters to its IOMMU. */
export interface PciFunction {
  /** pci_max_pasids(): 0 where the function has no PASID capability. */
  readonly maxPasids: number;
  readonly pasidExec: boolean;
  readonly pasidPriv: boolean;
  readonly ats: SmmuAts | null;
}

export interface MasterOptions {
  readonly name: string;
  /** At least one; one where the device is to be given to a VM. */
  readonly streamIds: readonly number[];
  readonly group: IommuGroup;
  /** Null for a platform device. */
  readonly pci?: PciFunction | null;
  /** pasid-num-bits of a platform device. */
  readonly pasidNumBits?: number;
  /** dma-can-stall. */
  readonly canStall?: boolean;
  /** IOMMU_FWSPEC_PCI_RC_ATS: the root complex passes ATS on. True where absent. */
  readonly rcAts?: boolean;
  /** IOMMU_FWSPEC_PCI_RC_CANWBS: all DMA is coherent, No Snoop included. True where absent. */
  readonly canWbs?: boolean;
  /** Reserved regions that firmware describes. */
  readonly reserved?: readonly ReservedRegion[];
}

/** struct arm_smmu_master with the struct device it belongs to. */
export class ArmSmmuMaster implements Device {
  readonly name: string;
  readonly smmu: ArmSmmu;
  readonly group: IommuGroup;
  readonly pciFunction: PciFunction | null;
  readonly maxPasids: number;
  readonly streamIds: readonly number[];
  readonly ssidBits: number;
  readonly stallEnabled: boolean;
  readonly canWbs: boolean;
  readonly firmwareReserved: readonly ReservedRegion[];
  /** ATS stays on with identity domains too. */
  readonly atsAlwaysOn: boolean;
  readonly #rcAts: boolean;
  faults: FaultQueueDevice | null = null;
  vmaster: Vmaster | null = null;
  cdTable: CdTable | null = null;
  /** The STE points to the CD table (cd_table.in_ste). */
  cdTableInSte = false;
  atsEnabled = false;
  steAtsEnabled = false;
  #iopfUsers = 0;

  constructor(smmu: ArmSmmu, options: MasterOptions) {
    const { features } = smmu;
    const pci = options.pci ?? null;
    this.smmu = smmu;
    this.name = options.name;
    this.group = options.group;
    this.pciFunction = pci;
    this.streamIds = options.streamIds.toSorted((a, b) => a - b);
    this.#rcAts = options.rcAts ?? true;
    this.canWbs = options.canWbs ?? true;
    this.firmwareReserved = options.reserved ?? [];
    let ssidBits = Math.min(features.ssidBits, options.pasidNumBits ?? 0);
    const pciPasids = pci?.maxPasids ?? 0;
    if (pciPasids > 0) ssidBits = Math.min(Math.floor(Math.log2(pciPasids)), features.ssidBits);
    if (!features.twoLevelCdtab) ssidBits = Math.min(ssidBits, CD_LINEAR_LOG2_MAX);
    this.ssidBits = ssidBits;
    // iommu.c dev_iommu_get_max_pasids()
    const own = pci !== null ? pciPasids : options.pasidNumBits === undefined ? 0 : 2 ** options.pasidNumBits;
    this.maxPasids = Math.min(own, 2 ** features.ssidBits);
    this.stallEnabled = (features.stalls && options.canStall === true) || features.stallForce;
    this.atsAlwaysOn = pci?.ats?.required === true && this.atsSupported;
  }

  get driver(): ArmSmmuDriver {
    return this.smmu.driver;
  }

  get iommu(): ArmSmmu {
    return this.smmu;
  }

  get pci(): Device['pci'] {
    return this.pciFunction;
  }

  /** arm_smmu_ats_supported() */
  get atsSupported(): boolean {
    const ats = this.pciFunction?.ats ?? null;
    return this.smmu.features.ats && this.#rcAts && ats !== null;
  }

  /** arm_smmu_ssids_in_use() */
  get ssidsInUse(): boolean {
    return this.cdTable !== null && this.cdTable.usedSsids > 0;
  }

  /** arm_smmu_master_prepare_ats(): EOPNOTSUPP where a device that needs ATS cannot have it. */
  prepareAts(): Result<void> {
    const { features, kernel } = this.smmu;
    if (this.pciFunction?.ats?.required !== true) return;
    if (!this.atsSupported) return fail(EOPNOTSUPP, "SMMU doesn't support ATS");
    if (!features.transS1 || features.ssidBits === 0)
      return fail(EOPNOTSUPP, "SMMU doesn't support ATS to be always on");
    // S1DSS counts only where there are substreams, even if no CD but the first is ever used.
    this.cdTable = CdTable.make(kernel, this.#cdMax, features.twoLevelCdtab);
    if (this.cdTable === null) return this.smmu.noMemory('the CD table');
  }

  get #cdMax(): number {
    return this.atsAlwaysOn ? Math.max(this.ssidBits, 1) : this.ssidBits;
  }

  // ---- the STE ----

  /** arm_smmu_install_ste_for_dev() */
  installSte(target: Entry): void {
    const { smmu } = this;
    this.cdTableInSte = steConfig(target) === STE_CONFIG.S1_TRANS;
    this.steAtsEnabled = getField(target, STE.EATS) === BigInt(EATS.TRANS);
    // Bridged PCI devices may have an id twice.
    for (const sid of new Set(this.streamIds)) {
      const pa = smmu.streamTable.steAddress(sid);
      const writer = {
        used: steUsed,
        updateSafe: steUpdateSafe,
        store: (qword: number, value: bigint) => storeEntryQword(smmu.kernel, pa, qword, value),
        sync: () => void smmu.issueWithSync(cfgiSte(sid, true)),
      };
      writeEntry(writer, loadEntry(smmu.kernel, pa), target);
      smmu.issueOne(prefetchConfig(sid));
    }
  }

  /** An STE with the device's CD table. */
  makeCdTableSte(ats: boolean, s1Dss: number): Entry {
    const { features } = this.smmu;
    return makeCdTableSte({
      table: this.cdTable!,
      ats,
      s1Dss,
      stallModel: features.stalls,
      stall: this.stallEnabled,
      typesOverride: features.attrTypesOvr,
      e2h: features.e2h,
    });
  }

  // ---- the CDs ----

  // arm_smmu_sync_cd()
  #syncCd(ssid: number, leaf: boolean): void {
    const batch = this.smmu.batch(cfgiCd(0, ssid, leaf));
    for (const sid of this.streamIds) batch.add(cfgiCd(sid, ssid, leaf));
    batch.submit();
  }

  /** arm_smmu_alloc_cd_ptr(): where the CD of a PASID is; makes the tables on the way. */
  cdAddress(ssid: number): Result<number> {
    const { features, kernel } = this.smmu;
    this.cdTable ??= CdTable.make(kernel, this.#cdMax, features.twoLevelCdtab);
    if (this.cdTable === null) return this.smmu.noMemory('the CD table');
    return this.cdTable.makeCdAddress(ssid, () => this.#syncCd(ssid, false));
  }

  /** arm_smmu_write_cd_entry() */
  writeCd(ssid: number, pa: number, target: Entry): void {
    const { kernel } = this.smmu;
    const current = loadEntry(kernel, pa);
    const wasValid = getField(current, CD.V) !== 0n;
    const isValid = getField(target, CD.V) !== 0n;
    if (ssid !== IOMMU_NO_PASID && wasValid !== isValid) this.cdTable!.usedSsids += isValid ? 1 : -1;
    const writer = {
      used: cdUsed,
      store: (qword: number, value: bigint) => storeEntryQword(kernel, pa, qword, value),
      sync: () => this.#syncCd(ssid, true),
    };
    writeEntry(writer, current, target);
  }

  /** arm_smmu_clear_cd() */
  clearCd(ssid: number): void {
    const pa = this.cdTable?.cdAddress(ssid) ?? null;
    if (pa !== null) this.writeCd(ssid, pa, emptyEntry());
  }

  // ---- ATS ----

  /** arm_smmu_enable_ats() */
  enableAts(): void {
    // An invalidation without a PASID takes all of the ATC.
    this.invalidateAtc(IOMMU_NO_PASID);
    this.pciFunction!.ats!.enable(this.smmu.features.pageSizes[0]!);
  }

  disableAts(): void {
    this.pciFunction!.ats!.disable();
  }

  /** arm_smmu_atc_inv_master() */
  invalidateAtc(ssid: number): void {
    const batch = this.smmu.batch(atcInvAll(0, IOMMU_NO_PASID));
    for (const sid of this.streamIds) batch.add(atcInvAll(sid, ssid));
    batch.submit();
  }

  // ---- page faults ----

  /** arm_smmu_enable_iopf(), with CONFIG_ARM_SMMU_V3_SVA: true where the device's stalls go to a fault queue now. */
  enableIopf(): Result<boolean> {
    if (!this.stallEnabled) return false;
    if (this.streamIds.length !== 1) return fail(EOPNOTSUPP, 'events do not tell streams of a device apart');
    if (this.#iopfUsers === 0) {
      const added = iopfAddDevice(this.smmu.kernel, this);
      if (failed(added)) return added;
    }
    this.#iopfUsers++;
    return true;
  }

  /** arm_smmu_disable_iopf() */
  disableIopf(): void {
    this.#iopfUsers--;
    if (this.#iopfUsers === 0) iopfRemoveDevice(this);
  }
}
