import { assert } from '../base/assert.ts';
import { fail, failed, type Result } from '../base/result.ts';
import { EBUSY, EINVAL, ENODEV } from '../abi/errno.ts';
import { IOMMU_NO_PASID, type Device, type Kernel } from '../iommu/driver.ts';
import type { IommuGroup } from '../iommu/group.ts';
import { attachDevice, detachDevice, replaceDevice } from '../iommufd/device/attach.ts';
import type { IommufdContext } from '../iommufd/context.ts';
import { bindDevice, unbindDevice, type IommufdDevice } from '../iommufd/device/device.ts';
import { prepareMsi } from '../iommufd/device/sw-msi.ts';
import type { PciFunction } from '../pci/function.ts';
import type { MigrationSettings } from './migration/migration.ts';
import { VfioPciCore } from './pci/core.ts';

// struct vfio_device: what all open files of a device share. drivers/vfio/vfio_main.c and iommufd.c.

/** A device that VFIO offers to programs. */
export interface VfioDevice {
  readonly name: string;
  /** As its IOMMU's driver knows it. */
  readonly device: Device;
  readonly pci: PciFunction;
  /** Null where it cannot be migrated. */
  readonly migration: MigrationSettings | null;
}

/** What VFIO has of a group beside the devices: struct vfio_group. */
export interface VfioGroup {
  readonly id: number;
  readonly iommuGroup: IommuGroup;
  /** A program has the group's own file open. */
  opened: boolean;
  /** Open devices of it by way of their own files. */
  cdevOpenCount: number;
  /** The container: SET_CONTAINER gave it to the group. */
  context: IommufdContext | null;
}

interface Binding {
  readonly context: IommufdContext;
  readonly idev: IommufdDevice;
  readonly core: VfioPciCore;
}

export class VfioDeviceState {
  readonly kernel: Kernel;
  readonly group: VfioGroup;
  readonly #device: VfioDevice;
  #siblings: readonly VfioDeviceState[] = [];
  #binding: Binding | null = null;
  #openCount = 0;
  #attached = false;
  readonly #pasids = new Set<number>();
  /** It is being removed: nobody gets it any more. */
  #leaving = false;
  /** It was opened by its own file, and not by its group. */
  cdevOpened = false;

  constructor(kernel: Kernel, device: VfioDevice, group: VfioGroup) {
    this.kernel = kernel;
    this.group = group;
    this.#device = device;
  }

  get name(): string {
    return this.#device.name;
  }

  get device(): Device {
    return this.#device.device;
  }

  get pci(): PciFunction {
    return this.#device.pci;
  }

  /** Every device of the machine, this one among them. */
  get siblings(): readonly VfioDeviceState[] {
    return this.#siblings;
  }

  set siblings(all: readonly VfioDeviceState[]) {
    this.#siblings = all;
  }

  /** The iommufd that has the device; null where nobody has. */
  get context(): IommufdContext | null {
    return this.#binding?.context ?? null;
  }

  /** Its id there. */
  get deviceId(): number {
    return this.#binding?.idev.id ?? 0;
  }

  /** The function, while the device is open. */
  get core(): VfioPciCore {
    assert(this.#binding !== null, `${this.name} is open`);
    return this.#binding.core;
  }

  /** vfio_device_block_group(): EBUSY while the group's file is open. */
  blockGroup(): Result<void> {
    if (this.group.opened) return fail(EBUSY, `group ${this.group.id} is open`);
    this.group.cdevOpenCount++;
  }

  unblockGroup(): void {
    this.group.cdevOpenCount--;
  }

  get leaving(): boolean {
    return this.#leaving;
  }

  /**
   * Takes it out of the machine: vfio_unregister_group_dev(). Who has it is asked to give it back (the interrupt
   * VFIO_PCI_REQ_IRQ_INDEX), again each time this is called, and it is gone when that is done.
   */
  remove(): void {
    this.#leaving = true;
    if (this.#openCount > 0) this.pci.requestRemoval();
    else this.pci.remove();
  }

  /** vfio_df_open(): `byGroup` may open it several times. */
  open(context: IommufdContext, byGroup: boolean): Result<void> {
    if (this.#openCount > 0) {
      if (!byGroup) return fail(EINVAL, `${this.name} has another user`);
      this.#openCount++;
      return;
    }
    if (this.#leaving) return fail(ENODEV, `${this.name} is being removed`);
    const idev = bindDevice(context, this.device, true);
    if (failed(idev)) return idev;
    const { doorbell } = this.pci;
    const core = new VfioPciCore(this.pci, {
      version: this.kernel.version,
      migration: this.#device.migration,
      prepareMessages: doorbell === null ? null : () => prepareMsi(context, idev, doorbell.address),
    });
    this.#binding = { context, idev, core };
    this.#openCount = 1;
  }

  /** vfio_df_close() */
  close(): void {
    assert(this.#openCount > 0, `${this.name} is open`);
    if (--this.#openCount > 0) return;
    const { core, idev } = this.#binding!;
    core.disable();
    for (const pasid of this.#pasids) this.detach(pasid);
    this.detach(null);
    this.#binding = null;
    this.cdevOpened = false;
    unbindDevice(idev);
    if (this.#leaving) this.pci.remove();
  }

  /** vfio_iommufd_physical_attach_ioas() and _pasid_attach_ioas(): what is attached is replaced. Answers the HWPT. */
  attach(pasid: number | null, ptId: number): Result<number> {
    const { context, idev } = this.#binding!;
    const has = pasid === null ? this.#attached : this.#pasids.has(pasid);
    const change = has ? replaceDevice : attachDevice;
    const hwpt = change(context, idev, pasid ?? IOMMU_NO_PASID, ptId);
    if (failed(hwpt)) return hwpt;
    if (pasid === null) this.#attached = true;
    else this.#pasids.add(pasid);
    return hwpt;
  }

  /** Nothing happens where nothing is attached. */
  detach(pasid: number | null): void {
    const { context, idev } = this.#binding!;
    if (pasid === null) {
      if (this.#attached) detachDevice(context, idev, IOMMU_NO_PASID);
      this.#attached = false;
    } else if (this.#pasids.delete(pasid)) {
      detachDevice(context, idev, pasid);
    }
  }

  /** Its bus is reset, whoever has it open. */
  resetByBus(): void {
    if (this.#binding === null) this.pci.reset();
    else this.#binding.core.resetByBus();
  }
}
