import { fail, failed, type Result } from '../base/result.ts';
import { EBUSY, EINVAL, ENOMEM, EOPNOTSUPP, EPERM } from '../abi/errno.ts';
import { IOMMU_NO_PASID, type AttachHandle, type Device, type IommuDomain, type Kernel } from './driver.ts';

// drivers/iommu/iommu.c: devices that cannot be told apart share a group, and a group has one domain per PASID.

/** struct iommu_group. */
export class IommuGroup {
  readonly id: number;
  readonly devices: Device[] = [];
  /** Who owns its DMA: the iommufd context that bound a device of it (iommu_device_claim_dma_owner()). */
  owner: unknown = null;
  ownerCount = 0;
  readonly #kernel: Kernel;
  #domain: IommuDomain | null = null;
  readonly #handles = new Map<number, AttachHandle>();

  constructor(kernel: Kernel, id: number) {
    this.#kernel = kernel;
    this.id = id;
  }

  /** The domain that transactions without a PASID meet. */
  get domain(): IommuDomain | null {
    return this.#domain;
  }

  /** iommu_attach_handle_get(): what is attached at `pasid`, if it is of `type` where one is asked. */
  handle(pasid: number, type?: IommuDomain['type']): AttachHandle | null {
    const handle = this.#handles.get(pasid);
    if (handle === undefined || (type !== undefined && handle.domain.type !== type)) return null;
    return handle;
  }

  /** iommu_device_claim_dma_owner(): EPERM where somebody else owns the group. */
  claim(owner: unknown): Result<void> {
    if (this.ownerCount > 0 && this.owner !== owner) return fail(EPERM, `group ${this.id} has another owner`);
    if (this.ownerCount === 0) {
      if (this.#handles.size > 0) return fail(EBUSY, `group ${this.id} is in use by a driver`);
      if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory for the blocking domain');
      const blocked = this.#blocked();
      const set = this.#setDomain(blocked);
      if (failed(set)) return set;
      this.owner = owner;
    }
    this.ownerCount++;
  }

  /** iommu_device_release_dma_owner(). */
  release(): void {
    if (--this.ownerCount > 0) return;
    this.owner = null;
    this.#setDomain(this.#blocked());
  }

  /** iommu_attach_group_handle(). */
  attach(domain: IommuDomain, handle: AttachHandle): Result<void> {
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory to attach');
    if (this.#handles.has(IOMMU_NO_PASID)) return fail(EBUSY, `group ${this.id} is attached already`);
    if (!this.#compatible(domain)) return fail(EINVAL, 'the domain belongs to another IOMMU driver');
    const set = this.#setDomain(domain);
    if (failed(set)) return set;
    handle.domain = domain;
    this.#handles.set(IOMMU_NO_PASID, handle);
  }

  /** iommu_detach_group_handle(): back to the blocking domain, since an owned group has no other. */
  detach(): void {
    this.#setDomain(this.#blocked());
    this.#handles.delete(IOMMU_NO_PASID);
  }

  /**
   * iommu_replace_group_handle(): nothing changes where it fails. DEVIATION: Linux hands a domain of another driver's to
   * that driver, which takes the device for one of its own; here it is refused, as iommu_attach_group_handle() does.
   */
  replace(domain: IommuDomain, handle: AttachHandle): Result<void> {
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory to replace the domain');
    if (!this.#compatible(domain)) return fail(EINVAL, 'the domain belongs to another IOMMU driver');
    const set = this.#setDomain(domain);
    if (failed(set)) return set;
    handle.domain = domain;
    this.#handles.set(IOMMU_NO_PASID, handle);
  }

  /** iommu_attach_device_pasid(). */
  attachPasid(domain: IommuDomain, device: Device, pasid: number, handle: AttachHandle): Result<void> {
    const checked = this.#checkPasidDomain(domain, device, pasid);
    if (failed(checked)) return checked;
    if (device.driver.blockedDomain.setDevicePasid === undefined)
      return fail(EOPNOTSUPP, 'the driver cannot detach a PASID');
    for (const each of this.devices) {
      if (each.maxPasids > 0 && pasid >= each.maxPasids)
        return fail(EINVAL, `PASID ${pasid} is beyond the ${each.maxPasids} of ${each.name}`);
    }
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory to attach a PASID');
    if (this.#handles.has(pasid)) return fail(EBUSY, `PASID ${pasid} is attached already`);
    const set = this.#setPasid(domain, pasid, null);
    if (failed(set)) return set;
    handle.domain = domain;
    this.#handles.set(pasid, handle);
  }

  /** iommu_replace_device_pasid(): the old domain stays where it fails. */
  replacePasid(domain: IommuDomain, device: Device, pasid: number, handle: AttachHandle): Result<void> {
    const checked = this.#checkPasidDomain(domain, device, pasid);
    if (failed(checked)) return checked;
    if (this.#kernel.failpoint()) return fail(ENOMEM, 'no memory to replace a PASID');
    const current = this.#handles.get(pasid);
    if (current === undefined) return fail(EINVAL, `PASID ${pasid} is not attached`);
    if (current.domain !== domain) {
      const set = this.#setPasid(domain, pasid, current.domain);
      if (failed(set)) return set;
    }
    handle.domain = domain;
    this.#handles.set(pasid, handle);
  }

  /** iommu_detach_device_pasid(). */
  detachPasid(domain: IommuDomain, pasid: number): void {
    for (const each of this.devices) {
      if (each.maxPasids > 0) each.driver.blockedDomain.setDevicePasid?.(each, pasid, domain);
    }
    this.#handles.delete(pasid);
  }

  #checkPasidDomain(domain: IommuDomain, device: Device, pasid: number): Result<void> {
    if (domain.setDevicePasid === undefined)
      return fail(EOPNOTSUPP, 'the domain cannot be attached to a PASID');
    if ((domain.owner !== null && domain.owner !== device.driver) || pasid === IOMMU_NO_PASID)
      return fail(EINVAL, 'the domain belongs to another IOMMU driver');
  }

  // domain_iommu_ops_compatible()
  #compatible(domain: IommuDomain): boolean {
    const first = this.devices[0];
    return first !== undefined && (domain.owner === null || domain.owner === first.driver);
  }

  #blocked(): IommuDomain {
    return this.devices[0]!.driver.blockedDomain;
  }

  // __iommu_group_set_domain_internal(): all devices or none.
  #setDomain(domain: IommuDomain): Result<void> {
    if (this.#domain === domain) return;
    for (const [index, device] of this.devices.entries()) {
      const attached = domain.attachDevice(device, this.#domain);
      if (!failed(attached)) continue;
      if (this.#domain !== null)
        for (const done of this.devices.slice(0, index)) this.#domain.attachDevice(done, domain);
      return attached;
    }
    this.#domain = domain;
  }

  // __iommu_set_group_pasid(): all devices or none.
  #setPasid(domain: IommuDomain, pasid: number, old: IommuDomain | null): Result<void> {
    const able = this.devices.filter((device) => device.maxPasids > 0);
    for (const [index, device] of able.entries()) {
      const set = domain.setDevicePasid!(device, pasid, old);
      if (!failed(set)) continue;
      for (const done of able.slice(0, index)) {
        if (old !== null) old.setDevicePasid!(done, pasid, domain);
        else done.driver.blockedDomain.setDevicePasid?.(done, pasid, domain);
      }
      return set;
    }
  }
}
