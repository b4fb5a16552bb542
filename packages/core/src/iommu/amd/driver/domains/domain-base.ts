import { fail, failed, type Result } from '../../../../base/result.ts';
import { EINVAL, ENOMEM } from '../../../../abi/errno.ts';
import type { Device, IommuDomain, IommuDriver } from '../../../driver.ts';
import type { IopfGroup } from '../../../iopf.ts';
import type { AmdViommu } from '../../viommu/viommu.ts';
import { attachDevice, detachDevice } from './attach.ts';
import type { AmdIommuDevice } from '../device.ts';
import type { AmdIommuDriver } from '../driver.ts';
import type { Dte } from '../configuration/dte.ts';
import type { Ivhd } from '../ivhd.ts';

/** A PASID of a device that has the domain: struct pdom_dev_data. */
export interface PasidUser {
  readonly device: AmdIommuDevice;
  readonly pasid: number;
}

/** struct protection_domain: what has a domain id and a list of devices. */
export abstract class ProtectionDomain implements IommuDomain {
  abstract readonly type: IommuDomain['type'];
  /** PD_MODE_V1, PD_MODE_V2, or no tables. */
  abstract readonly mode: 'v1' | 'v2' | 'identity';
  readonly owner: IommuDriver;
  readonly driver: AmdIommuDriver;
  /** What host tables are cached by. */
  readonly id: number;
  /** The newest first. */
  readonly devices: AmdIommuDevice[] = [];
  readonly pasidUsers: PasidUser[] = [];
  /** iommu_array: IOMMUs that have devices of the domain, and how many. */
  readonly ivhds = new Map<Ivhd, number>();
  /** Guests whose nest parent this is. */
  readonly viommus: AmdViommu[] = [];
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;

  constructor(driver: AmdIommuDriver, id: number) {
    this.driver = driver;
    this.owner = driver;
    this.id = id;
  }

  /** The table that GCR3[PASID] leads to; v2 alone. */
  abstract get guestRoot(): number;
  /** Writes host tables into a DTE, under a domain id; v1 alone. */
  abstract setHostTables(dte: Dte, domainId: number, ats: boolean): void;
  /** amd_iommu_domain_flush_all() */
  abstract flushAll(): void;
  /** amd_iommu_hd_support() is asked of the device's IOMMU. */
  abstract readonly needsDirtyTracking: boolean;

  /** pdom_is_sva_capable() */
  get pasidCapable(): boolean {
    return this.mode !== 'v1';
  }

  /** pdom_attach_iommu() */
  enterIvhd(ivhd: Ivhd): Result<void> {
    if (!this.ivhds.has(ivhd) && this.driver.kernel.failpoint())
      return fail(ENOMEM, 'no memory for the IOMMU in the domain');
    this.ivhds.set(ivhd, (this.ivhds.get(ivhd) ?? 0) + 1);
  }

  /** pdom_detach_iommu() */
  leaveIvhd(ivhd: Ivhd): void {
    const count = this.ivhds.get(ivhd) ?? 0;
    if (count > 1) this.ivhds.set(ivhd, count - 1);
    else this.ivhds.delete(ivhd);
  }

  /** domain_flush_complete() */
  flushComplete(): void {
    for (const ivhd of this.ivhds.keys()) ivhd.completionWait();
  }

  /** amd_iommu_attach_device(). As in Linux a device is left blocked where it fails late. */
  attachDevice(device: Device, _old: IommuDomain | null): Result<void> {
    const amd = device as AmdIommuDevice;
    if (amd.domain === this && amd.nested === null) return;
    if (this.needsDirtyTracking && !this.driver.dirtySupported(amd.ivhd))
      return fail(EINVAL, `${amd.ivhd.name} keeps no dirty bits`);
    return amd.ivhd.exclusively(() => {
      if (amd.domain !== null) detachDevice(amd);
      const attached = attachDevice(amd, this);
      return failed(attached) ? attached : undefined;
    });
  }

  free(): void {}
}
