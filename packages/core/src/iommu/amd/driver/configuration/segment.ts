import { writeField } from '../../../../base/bit-fields.ts';
import type { Kernel } from '../../../driver.ts';
import { pagesOf } from '../../../drivers/table-memory.ts';
import { DTE, DTE_BYTES } from '../../spec/dte.ts';
import { DteWriter, emptyDte, type Dte } from './dte.ts';
import type { Ivhd } from '../ivhd.ts';

/** A range of addresses that firmware wants mapped one to one: struct unity_map_entry, from IVMD blocks. */
export interface UnityMap {
  readonly firstDevice: number;
  readonly lastDevice: number;
  readonly start: bigint;
  /** Bytes. */
  readonly length: bigint;
}

/** What firmware wants in the DTEs of some devices: struct ivhd_dte_flags, from IVHD device entries. */
export interface DeviceFlags {
  readonly firstDevice: number;
  readonly lastDevice: number;
  readonly initPass?: boolean;
  readonly eintPass?: boolean;
  readonly nmiPass?: boolean;
  readonly lint0Pass?: boolean;
  readonly lint1Pass?: boolean;
  /** DTE.SysMgt */
  readonly sysMgt?: number;
}

export interface SegmentOptions {
  /** The largest device id; 0xffff where absent. */
  readonly lastDevice?: number;
  readonly unityMaps?: readonly UnityMap[];
  readonly deviceFlags?: readonly DeviceFlags[];
}

/** A PCI segment and its device table, which all its IOMMUs share: struct amd_iommu_pci_seg. */
export class PciSegment {
  readonly id: number;
  readonly lastDevice: number;
  readonly unityMaps: readonly UnityMap[];
  /** Where the device table is, and its bytes. */
  readonly table: number;
  readonly tableBytes: number;
  /** Device ids of no device, by whose entries guests' addresses are found: drivers/iommu/amd/trans_devid.c. */
  readonly transDevices = new Set<number>();
  readonly #kernel: Kernel;
  readonly #flags: readonly DeviceFlags[];

  constructor(kernel: Kernel, id: number, options: SegmentOptions) {
    this.id = id;
    this.#kernel = kernel;
    this.lastDevice = options.lastDevice ?? 0xffff;
    this.unityMaps = options.unityMaps ?? [];
    this.#flags = options.deviceFlags ?? [];
    const pages = 2 ** Math.ceil(Math.log2(pagesOf((this.lastDevice + 1) * DTE_BYTES)));
    this.tableBytes = pages * 4096;
    this.table = kernel.physical.allocate(pages);
    for (const range of this.#flags) this.#storeInitial(range);
  }

  dteAddress(deviceId: number): number {
    return this.table + deviceId * DTE_BYTES;
  }

  writer(ivhd: Ivhd, deviceId: number): DteWriter {
    return new DteWriter(this.#kernel, this.dteAddress(deviceId), () => ivhd.flushDteSync(deviceId));
  }

  /** init_device_table_dma(): whatever nobody has set up blocks. */
  blockAll(): void {
    const { physical } = this.#kernel;
    const word = new Uint32Array(2);
    for (let id = 0; id <= this.lastDevice; id++) {
      const at = this.dteAddress(id);
      physical.load64(at, word);
      physical.store64(at, word[0]! | DTE.V.inPlace | DTE.TV.inPlace, word[1]!);
    }
  }

  /** amd_iommu_get_ivhd_dte_flags(): of the smallest range that holds the device. */
  initialDte(deviceId: number): Dte | null {
    let best: DeviceFlags | null = null;
    for (const range of this.#flags) {
      if (deviceId < range.firstDevice || deviceId > range.lastDevice) continue;
      const length = range.lastDevice - range.firstDevice;
      if (best === null || length < best.lastDevice - best.firstDevice) best = range;
    }
    return best === null ? null : initialDte(best);
  }

  // set_dev_entry_from_acpi_range()
  #storeInitial(range: DeviceFlags): void {
    const dte = initialDte(range);
    for (let id = range.firstDevice; id <= range.lastDevice; id++) {
      for (let word = 0; word < dte.length; word += 2)
        this.#kernel.physical.store64(this.dteAddress(id) + word * 4, dte[word]!, dte[word + 1]!);
    }
  }
}

function initialDte(flags: DeviceFlags): Dte {
  const dte = emptyDte();
  const sysMgt = flags.sysMgt ?? 0;
  writeField(DTE.InitPass, dte, +(flags.initPass ?? false));
  writeField(DTE.EIntPass, dte, +(flags.eintPass ?? false));
  writeField(DTE.NMIPass, dte, +(flags.nmiPass ?? false));
  writeField(DTE.Lint0Pass, dte, +(flags.lint0Pass ?? false));
  writeField(DTE.Lint1Pass, dte, +(flags.lint1Pass ?? false));
  writeField(DTE.SysMgt, dte, sysMgt);
  // Erratum 63: system management needs the write permission.
  if (sysMgt === 1) writeField(DTE.IW, dte, 1);
  return dte;
}
