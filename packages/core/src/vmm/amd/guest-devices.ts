import { fail, failed, type Result } from '../../base/result.ts';
import { big, hex } from '../../base/u64.ts';
import { EEXIST } from '../../abi/errno.ts';
import { IOMMU_HWPT_DATA_AMD_GUEST } from '../../abi/iommufd.ts';
import type { Trace } from '../../trace/trace.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { PASS_THROUGH, sameWanted, type Wanted } from './guest-device-table.ts';

interface Device {
  readonly device: AssignedDevice;
  readonly id: number;
  /** What it is attached for, and the nested HWPT where that is one; else 0. */
  wanted: Wanted;
  hwpt: number;
}

export interface GuestDevicesOptions {
  readonly vm: VirtualMachine;
  readonly viommu: number;
  /** The stage 2 of the guest's memory. */
  readonly parent: number;
  readonly trace: Trace | null;
  /** What the guest says of a device. */
  readonly wantedOf: (id: number) => Wanted;
}

/** The devices behind a guest's AMD IOMMU, each attached to what the guest's device table says. */
export class GuestDevices {
  readonly #options: GuestDevicesOptions;
  readonly #byId = new Map<number, Device>();

  constructor(options: GuestDevicesOptions) {
    this.#options = options;
  }

  /** EEXIST where the guest has such a device, EINVAL where it is behind another physical IOMMU. */
  add(device: AssignedDevice, id: number): Result<void> {
    const { vm, viommu, parent } = this.#options;
    if (this.#byId.has(id)) return fail(EEXIST, `the guest has a device ${hex(id)}`);
    const vdevice = vm.vdevice(viommu, device, big(id));
    if (failed(vdevice)) return vdevice;
    const attached = device.attach(parent);
    if (failed(attached)) return attached;
    this.#byId.set(id, { device, id, wanted: PASS_THROUGH, hwpt: 0 });
    this.settle(id);
  }

  settleAll(): void {
    for (const id of this.#byId.keys()) this.settle(id);
  }

  /** Attaches a device to what the guest's entry says; an entry that says the same again is left as it is. */
  settle(id: number): void {
    const device = this.#byId.get(id);
    if (device === undefined) return;
    const wanted = this.#options.wantedOf(id);
    if (sameWanted(wanted, device.wanted)) return;
    const before = device.hwpt;
    device.wanted = wanted;
    device.hwpt = 0;
    const refused = this.#attach(device, wanted);
    if (failed(refused)) {
      this.#note(device, `is blocked: ${refused.reason}`);
      device.device.detach();
    }
    if (before !== 0) this.#options.vm.destroy(before);
  }

  #attach(device: Device, wanted: Wanted): Result<void> {
    const { vm, viommu, parent } = this.#options;
    if (wanted.kind !== 'nested')
      return wanted.kind === 'pass-through' ? device.device.attach(parent) : device.device.detach();
    const hwpt = vm.nested(device.device, viommu, IOMMU_HWPT_DATA_AMD_GUEST, wanted.data);
    if (failed(hwpt)) return hwpt;
    const attached = device.device.attach(hwpt);
    if (failed(attached)) {
      vm.destroy(hwpt);
      return attached;
    }
    device.hwpt = hwpt;
  }

  #note({ device, id }: Device, what: string): void {
    const { trace } = this.#options;
    if (trace?.active === true) trace.emit({ kind: 'guest-amd', device: device.name, id: hex(id), what });
  }
}
