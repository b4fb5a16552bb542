import { assert } from '../../../../base/assert.ts';
import { fail, failed, type Result } from '../../../../base/result.ts';
import { EINVAL, ENOMEM, ENOSPC, EOPNOTSUPP } from '../../../../abi/errno.ts';
import type { Device, IommuDomain, IommuDriver } from '../../../driver.ts';
import type { IopfGroup } from '../../../iopf.ts';
import { CacheTags } from './cache-tags.ts';
import type { IntelDevice } from '../device.ts';
import type { DmarUnit } from '../dmar-unit.ts';
import { replaceEntry, setDirtyTracking } from '../configuration/pasid.ts';
import { iopfReplace, removeDevicePasid } from './attach.ts';

/** A PASID of a device that has the domain: struct dev_pasid_info. */
export interface DevicePasid {
  readonly device: IntelDevice;
  readonly pasid: number;
}

/** What domains with translations have in common: struct dmar_domain. */
export abstract class DmarDomain implements IommuDomain {
  abstract readonly type: 'paging' | 'nested';
  readonly owner: IommuDriver;
  iopfHandler: ((group: IopfGroup) => boolean) | null = null;
  /** The nest parent, of a nested domain. */
  readonly parent: DmarDomain | null = null;
  readonly tags: CacheTags;
  /** Whose transactions without a PASID meet it; the newest first. */
  readonly devices: IntelDevice[] = [];
  /** The newest first. */
  readonly devicePasids: DevicePasid[] = [];
  /** iommu_array: the domain id that each unit knows it by. */
  readonly #ids = new Map<DmarUnit, { readonly did: number; users: number }>();

  constructor(owner: IommuDriver, byPasid: boolean) {
    this.owner = owner;
    this.tags = new CacheTags(byPasid);
  }

  // ---- domain ids ----

  /** domain_id_iommu() */
  didOn(unit: DmarUnit): number {
    const id = this.#ids.get(unit);
    assert(id !== undefined, `the domain is not on ${unit.name}`);
    return id.did;
  }

  /** domain_attach_iommu(): ENOSPC where the unit has no domain id left. */
  attachUnit(unit: DmarUnit): Result<void> {
    if (unit.kernel.failpoint()) return fail(ENOMEM, 'no memory for the domain id');
    const known = this.#ids.get(unit);
    if (known !== undefined) {
      known.users++;
      return;
    }
    const did = unit.domainIds.take();
    if (did === null) return fail(ENOSPC, `${unit.name}: No free domain ids`);
    this.#ids.set(unit, { did, users: 1 });
  }

  /** domain_detach_iommu() */
  detachUnit(unit: DmarUnit): void {
    const id = this.#ids.get(unit);
    if (id === undefined || --id.users > 0) return;
    unit.domainIds.free(id.did);
    this.#ids.delete(unit);
  }

  // ---- cache tags ----

  /** cache_tag_assign_domain() */
  assignTags(device: IntelDevice, pasid: number): Result<void> {
    const did = this.didOn(device.unit);
    const assigned = this.tags.assignDomain(device, did, pasid, false);
    if (failed(assigned) || this.parent === null) return assigned;
    const above = this.parent.tags.assignDomain(device, did, pasid, true);
    if (failed(above)) this.tags.unassignDomain(device, did, pasid, false);
    return above;
  }

  /** cache_tag_unassign_domain() */
  unassignTags(device: IntelDevice, pasid: number): void {
    const did = this.didOn(device.unit);
    this.tags.unassignDomain(device, did, pasid, false);
    this.parent?.tags.unassignDomain(device, did, pasid, true);
  }

  // ---- attaching ----

  /** paging_domain_compatible(), of the tables that the kernel keeps. */
  abstract compatibleWith(unit: DmarUnit): Result<void>;

  /** What a PASID table entry has to say; EINVAL where the unit cannot do it. */
  abstract setUpEntry(device: IntelDevice, pasid: number): Result<void>;

  abstract attachDevice(device: Device, old: IommuDomain | null): Result<void>;

  /** intel_iommu_set_dev_pasid() and intel_nested_set_dev_pasid() */
  setDevicePasid(target: Device, pasid: number, old: IommuDomain | null): Result<void> {
    const device = target as IntelDevice;
    if (!device.unit.features.pasid) return fail(EOPNOTSUPP, `${device.unit.name} has no PASIDs`);
    const compatible = this.compatibleWith(device.unit);
    if (failed(compatible)) return compatible;
    return device.unit.interrupts.exclusively(() => this.#setPasid(device, pasid, old));
  }

  #setPasid(device: IntelDevice, pasid: number, old: IommuDomain | null): Result<void> {
    const added = this.#addPasid(device, pasid);
    if (failed(added)) return added;
    const faults = iopfReplace(this, old, device);
    if (failed(faults)) {
      removeDevicePasid(this, device, pasid);
      return faults;
    }
    const done = replaceEntry(device, pasid, old !== null, () => this.setUpEntry(device, pasid));
    if (failed(done)) {
      iopfReplace(old, this, device);
      removeDevicePasid(this, device, pasid);
      return done;
    }
    removeDevicePasid(old, device, pasid);
  }

  // domain_add_dev_pasid()
  #addPasid(device: IntelDevice, pasid: number): Result<void> {
    if (device.unit.kernel.failpoint()) return fail(ENOMEM, 'no memory for the PASID');
    const attached = this.attachUnit(device.unit);
    if (failed(attached)) return attached;
    const tagged = this.assignTags(device, pasid);
    if (failed(tagged)) {
      this.detachUnit(device.unit);
      return tagged;
    }
    this.devicePasids.unshift({ device, pasid });
  }

  // ---- dirty tracking ----

  /** domain_set_dirty_tracking() */
  trackDirty(enable: boolean): Result<void> {
    for (const device of this.devices) {
      const done = setDirtyTracking(device, 0, enable);
      if (failed(done)) return done;
    }
    for (const { device, pasid } of this.devicePasids) {
      const done = setDirtyTracking(device, pasid, enable);
      if (failed(done)) return done;
    }
  }

  abstract free(): void;
}

/** EINVAL with its reason, for what a unit cannot do. */
export function incompatible(unit: DmarUnit, why: string): Result<never> {
  return fail(EINVAL, `${unit.name} ${why}`);
}
