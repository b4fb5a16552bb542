import { IdAllocator } from '../../drivers/ids.ts';
import type { Ivhd } from '../driver/ivhd.ts';
import { GUESTS_MAX, VFCTRL, VFCTRL_BYTES } from '../spec/viommu.ts';

/** The two BARs by which a driver reaches the hardware vIOMMU. */
export interface ViommuBars {
  /** Writes 8 bytes of the VF control BAR. */
  writeControl(offset: number, value: bigint): void;
  /** The physical address of a guest's page in the VF BAR. */
  page(guestId: number): number;
}

/** What an IOMMU has to give to guests. */
export class ViommuResources {
  readonly guestIds = new IdAllocator(0, GUESTS_MAX - 1);
  readonly #ivhd: Ivhd;
  readonly #bars: ViommuBars;
  /** Device ids that guests of this IOMMU have. */
  readonly #transDevices = new Set<number>();

  constructor(ivhd: Ivhd, bars: ViommuBars) {
    this.#ivhd = ivhd;
    this.#bars = bars;
  }

  writeControl(guestId: number, offset: number, value: bigint): void {
    this.#bars.writeControl(guestId * VFCTRL_BYTES + offset, value);
  }

  page(guestId: number): number {
    return this.#bars.page(guestId);
  }

  /** iommu_reset_vmmio(): a guest id without queues and without a translation. */
  reset(guestId: number): void {
    const { COMMAND_CONTROL, EVENT_CONTROL, PPR_CONTROL, MISC_CONTROL } = VFCTRL;
    for (const offset of [COMMAND_CONTROL, EVENT_CONTROL, PPR_CONTROL, MISC_CONTROL])
      this.writeControl(guestId, offset, 0n);
  }

  /**
   * amd_iommu_trans_devid_alloc(): the highest id that no device of the segment has, nor another guest, as all IOMMUs of
   * the segment have one device table; null where there is none.
   */
  takeTransDevice(): number | null {
    const { driver, segment } = this.#ivhd;
    const sharers = driver.ivhds.filter((each) => each.segment === segment);
    for (let id = segment.lastDevice; id > 0; id--) {
      if (segment.transDevices.has(id) || sharers.some((each) => each.answersTo(id))) continue;
      segment.transDevices.add(id);
      this.#transDevices.add(id);
      return id;
    }
    return null;
  }

  freeTransDevice(id: number): void {
    this.#ivhd.segment.transDevices.delete(id);
    this.#transDevices.delete(id);
  }

  get used(): boolean {
    return this.#transDevices.size > 0;
  }
}
