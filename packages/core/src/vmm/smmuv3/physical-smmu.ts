import { fail, failed, type Result } from '../../base/result.ts';
import { ENODEV } from '../../abi/errno.ts';
import * as abi from '../../abi/iommufd.ts';
import { iommu_hw_info_arm_smmuv3, iommu_hwpt_arm_smmuv3 } from '../../abi/iommufd-data.ts';
import { CERROR } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import type { AssignedDevice } from '../assigned-device.ts';
import type { PageFaultQueue } from '../page-fault-queue.ts';
import type { InvalidationResult, VirtualMachine } from '../virtual-machine.ts';
import { STE_ABORT, STE_BYPASS, type SteWords } from './guest-stream-table.ts';

const EVENTS_DEPTH = 128;
const COMMAND_BYTES = 16;

/** SMMU_IDR0 to SMMU_IDR5 of the SMMU that a device is behind. ENODEV where it is behind none. */
export function idrOf(device: AssignedDevice): Result<readonly number[]> {
  const info = device.hardwareInfo();
  if (failed(info)) return info;
  if (info.type === abi.IOMMU_HW_INFO_TYPE_ARM_SMMUV3) return iommu_hw_info_arm_smmuv3.read(info.data).idr;
  return fail(ENODEV, `${device.name} is behind an IOMMU of type ${info.type}, which is no SMMUv3`);
}

/** What the guest has of one physical SMMU: a stage 2, a viommu on it, a queue of its events. */
export class PhysicalSmmu {
  readonly viommu: number;
  /** Descriptor of the queue of events. */
  readonly eventFd: number;
  readonly #vm: VirtualMachine;
  readonly #faults: PageFaultQueue | null;
  /** Nested domains that every stream shares. */
  readonly #abort: number;
  readonly #bypass: number;

  /** The one that `device` is behind. Where there are `faults`, its nested domains have their page faults go there. */
  static create(
    vm: VirtualMachine,
    device: AssignedDevice,
    faults: PageFaultQueue | null,
  ): Result<PhysicalSmmu> {
    const parent = vm.nestParent(device);
    if (failed(parent)) return parent;
    const viommu = vm.viommu(device, abi.IOMMU_VIOMMU_TYPE_ARM_SMMUV3, parent);
    if (failed(viommu)) return viommu;
    const events = vm.eventQueue(viommu.id, abi.IOMMU_VEVENTQ_TYPE_ARM_SMMUV3, EVENTS_DEPTH);
    if (failed(events)) return events;
    const abort = nestedOf(vm, device, viommu.id, STE_ABORT, null);
    if (failed(abort)) return abort;
    const bypass = nestedOf(vm, device, viommu.id, STE_BYPASS, null);
    if (failed(bypass)) return bypass;
    return new PhysicalSmmu(vm, viommu.id, events, faults, abort, bypass);
  }

  private constructor(
    vm: VirtualMachine,
    viommu: number,
    eventFd: number,
    faults: PageFaultQueue | null,
    abort: number,
    bypass: number,
  ) {
    this.#vm = vm;
    this.viommu = viommu;
    this.eventFd = eventFd;
    this.#faults = faults;
    this.#abort = abort;
    this.#bypass = bypass;
  }

  /** A nested domain of an STE: one that is shared, or a new one. */
  nested(device: AssignedDevice, ste: SteWords): Result<number> {
    if (ste === STE_ABORT) return this.#abort;
    if (ste === STE_BYPASS) return this.#bypass;
    return nestedOf(this.#vm, device, this.viommu, ste, this.#faults);
  }

  /** Destroys a nested domain that is not shared. */
  release(hwpt: number): void {
    if (hwpt !== this.#abort && hwpt !== this.#bypass) this.#vm.destroy(hwpt);
  }

  /** Sends commands of the guest's in one request: how many were handled, and what the next came to. */
  send(commands: readonly Uint32Array[]): { readonly handled: number; readonly error: number } {
    if (commands.length === 0) return { handled: 0, error: CERROR.NONE };
    const bytes = new Uint8Array(commands.length * COMMAND_BYTES);
    const view = new DataView(bytes.buffer);
    for (const [index, command] of commands.entries())
      for (const [word, value] of command.entries())
        view.setUint32(index * COMMAND_BYTES + word * 4, value, true);
    const { handled, refused } = this.#invalidate(bytes);
    // Linux counts what it has accepted in front of a refused command, and has not sent the last of it.
    if (refused !== null && handled > 0) this.#invalidate(bytes.subarray(0, handled * COMMAND_BYTES));
    // EIO is for commands that cannot be; a device that did not answer is an ATC invalidation that timed out.
    return { handled, error: refused === null ? CERROR.NONE : CERROR.ILL };
  }

  #invalidate(bytes: Uint8Array): InvalidationResult {
    const type = abi.IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3;
    return this.#vm.invalidate(this.viommu, type, COMMAND_BYTES, bytes);
  }
}

function nestedOf(
  vm: VirtualMachine,
  device: AssignedDevice,
  viommu: number,
  ste: SteWords,
  faults: PageFaultQueue | null,
): Result<number> {
  const data = new Uint8Array(iommu_hwpt_arm_smmuv3.size);
  iommu_hwpt_arm_smmuv3.write(data, 0, { ste: [...ste] });
  return vm.nested(device, viommu, abi.IOMMU_HWPT_DATA_ARM_SMMUV3, data, { faults: faults ?? undefined });
}
