import { Fifo } from '../base/fifo.ts';
import { failed, type Result } from '../base/result.ts';
import * as abi from '../abi/iommufd.ts';
import type { VirtualMachine } from './virtual-machine.ts';

/** A page that a device asks for: struct iommu_hwpt_pgfault. */
export interface PageFault {
  /** Null for a request without PASID. */
  readonly pasid: number | null;
  /** The device's own number for the group: a stall tag, or a PRG index. */
  readonly group: number;
  readonly address: bigint;
  /** IOMMU_PGFAULT_PERM_*. */
  readonly permissions: number;
}

/** Pages that are answered together. */
export interface PageFaultGroup {
  /** The device's id in the iommufd. */
  readonly device: number;
  readonly pasid: number | null;
  /** What the answer has to name. */
  readonly cookie: number;
  readonly faults: readonly PageFault[];
}

const FAULT_BYTES = abi.iommu_hwpt_pgfault.size;
/** The kernel takes counts of whole records alone. A group of PCIe has at most as many pages as PRI lets wait. */
const READ_BYTES = 128 * FAULT_BYTES;

/**
 * IOMMU_FAULT_QUEUE_ALLOC: page faults of nested domains, which wait for the guest's answer. What waits when its domain is
 * detached the kernel answers by itself, and gives its cookie to another: {@link forget} it then.
 */
export class PageFaultQueue {
  readonly id: number;
  readonly #vm: VirtualMachine;
  readonly #fd: number;
  /** Groups that were read and not yet taken, and those that were taken and not yet answered. */
  readonly #read = new Fifo<PageFaultGroup>();
  readonly #taken = new Set<PageFaultGroup>();

  static create(vm: VirtualMachine): Result<PageFaultQueue> {
    const layout = abi.iommu_fault_alloc;
    const made = vm.program.request(vm.iommufd, abi.IOMMU_FAULT_QUEUE_ALLOC, layout, {});
    return failed(made) ? made : new PageFaultQueue(vm, made.out_fault_id, made.out_fault_fd);
  }

  private constructor(vm: VirtualMachine, id: number, fd: number) {
    this.#vm = vm;
    this.id = id;
    this.#fd = fd;
  }

  /** True while there is a group to take. */
  get pending(): boolean {
    return this.#read.length > 0 || this.#vm.program.readable(this.#fd);
  }

  /** The oldest group that nobody has taken; null where there is none. */
  take(): PageFaultGroup | null {
    if (this.#read.length === 0) this.#readMore();
    const group = this.#read.shift() ?? null;
    if (group !== null) this.#taken.add(group);
    return group;
  }

  #readMore(): void {
    if (!this.#vm.program.readable(this.#fd)) return;
    const bytes = this.#vm.program.read(this.#fd, READ_BYTES);
    if (failed(bytes)) return;
    let faults: PageFault[] = [];
    for (let at = 0; at < bytes.length; at += FAULT_BYTES) {
      const {
        flags,
        dev_id,
        pasid: number,
        grpid,
        addr,
        perm,
        cookie,
      } = abi.iommu_hwpt_pgfault.read(bytes, at);
      const pasid = (flags & abi.IOMMU_PGFAULT_FLAGS_PASID_VALID) === 0 ? null : number;
      faults.push({ pasid, group: grpid, address: addr, permissions: perm });
      if ((flags & abi.IOMMU_PGFAULT_FLAGS_LAST_PAGE) === 0) continue;
      this.#read.push({ device: dev_id, pasid, cookie, faults });
      faults = [];
    }
  }

  /** Answers a group that was taken: its pages are there, or will not be. False where nobody waits for it any more. */
  answer(group: PageFaultGroup, success: boolean): boolean {
    return this.#taken.delete(group) && this.#respond(group, success);
  }

  #respond({ cookie }: PageFaultGroup, success: boolean): boolean {
    const code = success ? abi.IOMMUFD_PAGE_RESP_SUCCESS : abi.IOMMUFD_PAGE_RESP_INVALID;
    const bytes = new Uint8Array(abi.iommu_hwpt_page_response.size);
    abi.iommu_hwpt_page_response.write(bytes, 0, { cookie, code });
    return !failed(this.#vm.program.write(this.#fd, bytes));
  }

  /** Refuses whatever of it waits. */
  refuse(which: (group: PageFaultGroup) => boolean): void {
    while (this.#vm.program.readable(this.#fd)) this.#readMore();
    for (const group of this.#forget(which)) this.#respond(group, false);
  }

  /** The kernel has answered these by itself, since their domain is gone. */
  forget(which: (group: PageFaultGroup) => boolean): void {
    this.#forget(which);
  }

  #forget(which: (group: PageFaultGroup) => boolean): PageFaultGroup[] {
    const gone = [...this.#taken].filter(which);
    for (const group of gone) this.#taken.delete(group);
    return [...gone, ...this.#read.take(which)];
  }
}
