import { fail, type Result } from '../base/result.ts';
import { EINVAL, ENOMEM } from '../abi/errno.ts';
import { IOMMU_NO_PASID, type AttachHandle, type Device, type Kernel } from './driver.ts';

// drivers/iommu/io-pgfault.c: page requests of a device, gathered into groups and handed to the domain that they meet.

export const IOMMU_FAULT_PAGE_REQUEST_PASID_VALID = 1;
export const IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE = 2;
/**
 * The response carries the PASID. It is the kernel's own, of VT-d's and AMD's drivers, and no flag of the uAPI, but read(2)
 * of a fault queue tells it all the same (drivers/iommu/iommufd/eventq.c iommufd_compose_fault_message()).
 */
export const IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID = 4;

export const IOMMU_PAGE_RESP_SUCCESS = 0;
export const IOMMU_PAGE_RESP_INVALID = 1;
export const IOMMU_PAGE_RESP_FAILURE = 2;

/** struct iommu_fault_page_request. */
export interface PageRequest {
  readonly flags: number;
  readonly pasid: number;
  readonly grpid: number;
  readonly perm: number;
  readonly addr: bigint;
}

/** struct iommu_fault_param: a device whose page requests are served. */
export class FaultQueueDevice {
  users = 1;
  readonly partial: PageRequest[] = [];
  readonly pending = new Set<IopfGroup>();
}

/** struct iopf_group: page requests that are answered together. */
export class IopfGroup {
  readonly device: Device;
  readonly handle: AttachHandle;
  readonly faults: readonly PageRequest[];
  /** What read(2) of the fault queue named it. */
  cookie = 0;

  constructor(device: Device, handle: AttachHandle, faults: readonly PageRequest[]) {
    this.device = device;
    this.handle = handle;
    this.faults = faults;
  }

  get last(): PageRequest {
    return this.faults.at(-1)!;
  }

  /** iopf_group_response(): once for every group. */
  respond(code: number): void {
    this.device.driver.pageResponse(this.device, this, code);
    this.device.faults?.pending.delete(this);
  }
}

/** iopf_queue_add_device(). */
export function iopfAddDevice(kernel: Kernel, device: Device): Result<void> {
  if (kernel.failpoint()) return fail(ENOMEM, 'no memory for the fault parameters');
  device.faults = new FaultQueueDevice();
}

/** iopf_queue_remove_device(): whatever is unanswered is answered as invalid. */
export function iopfRemoveDevice(device: Device): void {
  const faults = device.faults;
  if (faults === null) return;
  faults.partial.length = 0;
  for (const group of faults.pending) device.driver.pageResponse(device, group, IOMMU_PAGE_RESP_INVALID);
  faults.pending.clear();
  device.faults = null;
}

/** iommu_report_device_fault(): hands a page request on, or refuses it at the device. */
export function reportDeviceFault(kernel: Kernel, device: Device, request: PageRequest): Result<void> {
  const refuse = (reason: string): Result<void> => {
    const group = new IopfGroup(device, { domain: device.driver.blockedDomain }, [request]);
    device.driver.pageResponse(device, group, IOMMU_PAGE_RESP_INVALID);
    return fail(EINVAL, reason);
  };
  const handle = findFaultHandler(device, request);
  if (handle === null) return refuse('no domain with a fault queue is attached');
  const param = device.faults;
  if (param === null) return refuse('the device has no fault queue');
  if ((request.flags & IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE) === 0) {
    if (kernel.failpoint()) return fail(ENOMEM, 'no memory for a partial fault');
    param.partial.push(request);
    return;
  }
  const earlier = param.partial.filter((fault) => fault.grpid === request.grpid);
  for (const fault of earlier) param.partial.splice(param.partial.indexOf(fault), 1);
  const group = new IopfGroup(device, handle, [...earlier, request]);
  if (kernel.failpoint()) {
    group.respond(IOMMU_PAGE_RESP_FAILURE);
    return;
  }
  param.pending.add(group);
  if (!handle.domain.iopfHandler!(group)) group.respond(IOMMU_PAGE_RESP_FAILURE);
}

function findFaultHandler(device: Device, request: PageRequest): AttachHandle | null {
  let handle: AttachHandle | null;
  if ((request.flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID) !== 0) {
    handle = device.group.handle(request.pasid);
    if (handle === null && device.driver.userPasidTable)
      handle = device.group.handle(IOMMU_NO_PASID, 'nested');
  } else {
    handle = device.group.handle(IOMMU_NO_PASID);
  }
  return handle === null || handle.domain.iopfHandler === null ? null : handle;
}
