import { fail, failed, type Result } from '../../base/result.ts';
import { EINVAL, ENOMEM } from '../../abi/errno.ts';
import {
  IOMMU_TEST_DEV_CACHE_DEFAULT,
  IOMMU_TEST_PASID_RESERVED,
  MOCK_DEV_CACHE_NUM,
  MOCK_FLAGS_DEVICE_NO_DIRTY,
  MOCK_FLAGS_DEVICE_PASID,
  MOCK_PASID_WIDTH,
} from '../../abi/iommufd-test.ts';
import type { Device, IommuDomain, Kernel } from '../driver.ts';
import { IommuGroup } from '../group.ts';
import { iopfAddDevice, iopfRemoveDevice, type FaultQueueDevice } from '../iopf.ts';
import { MockNestedDomain, MockPagingDomain } from './domain.ts';
import type { MockIommu } from './driver.ts';
import type { MockViommu } from './viommu.ts';

// drivers/iommu/iommufd/selftest.c struct mock_dev: a device that does no DMA. Its cache, like a device TLB, is four
// numbers.

/** In drivers/iommu/iommufd/iommufd_test.h until Linux 6.18: its domains have pages of MOCK_HUGE_PAGE_SIZE too. */
export const MOCK_FLAGS_DEVICE_HUGE_IOVA = 1 << 1;

/** A nested domain on a viommu takes only devices that have a virtual id there, since this Linux. */
const VIRTUAL_ID_NEEDED_SINCE = 615;

/** Groups of these devices are numbered from here on, out of the way of the machine's own. */
const MOCK_GROUPS = 0x10000;

export class MockDevice implements Device {
  readonly name: string;
  readonly id: number;
  readonly driver: MockIommu;
  readonly iommu: MockIommu;
  readonly group: IommuGroup;
  readonly maxPasids: number;
  readonly pci = null;
  readonly flags: number;
  readonly cache = new Uint32Array(MOCK_DEV_CACHE_NUM).fill(IOMMU_TEST_DEV_CACHE_DEFAULT);
  faults: FaultQueueDevice | null = null;
  /** The viommu of the nested domain it has, and its id there. */
  viommu: MockViommu | null = null;
  virtualId = 0n;
  domain: IommuDomain | null = null;
  pasid1024FakeError = false;
  iopfUsers = 0;

  constructor(kernel: Kernel, iommu: MockIommu, id: number, flags: number) {
    this.name = `iommufd_mock${id}`;
    this.id = id;
    this.driver = iommu;
    this.iommu = iommu;
    this.flags = flags;
    // iommu.c dev_iommu_get_max_pasids(): a width of 0 still makes one.
    this.maxPasids = (flags & MOCK_FLAGS_DEVICE_PASID) !== 0 ? 2 ** MOCK_PASID_WIDTH : 1;
    this.group = new IommuGroup(kernel, MOCK_GROUPS + id);
    this.group.devices.push(this);
    this.domain = iommu.blockedDomain;
  }

  get hugeIova(): boolean {
    return (this.flags & MOCK_FLAGS_DEVICE_HUGE_IOVA) !== 0;
  }

  get noDirty(): boolean {
    return (this.flags & MOCK_FLAGS_DEVICE_NO_DIRTY) !== 0;
  }
}

/** mock_domain_nop_attach(). */
export function attachMockDevice(domain: IommuDomain, device: Device): Result<void> {
  const mock = device as MockDevice;
  if (domain instanceof MockPagingDomain && domain.dirtyOps !== null && mock.noDirty)
    return fail(EINVAL, `${mock.name} cannot track dirty pages`);
  const viommu = domain instanceof MockNestedDomain ? domain.viommu : null;
  let virtualId = 0n;
  if (viommu !== null && mock.driver.kernel.version >= VIRTUAL_ID_NEEDED_SINCE) {
    const id = viommu.core.virtualIdOf(device);
    if (failed(id)) return id;
    virtualId = id;
  }
  if (viommu !== mock.viommu) {
    mock.viommu = viommu;
    mock.virtualId = virtualId;
  }
  const enabled = enableIopf(mock, domain);
  if (failed(enabled)) return enabled;
  disableIopf(mock, mock.domain);
  mock.domain = domain;
}

/** mock_domain_set_dev_pasid_nop(): PASID 1024 fails every second time, to show that a replacement is rolled back. */
export function setMockDevicePasid(
  domain: IommuDomain,
  device: Device,
  pasid: number,
  old: IommuDomain | null,
): Result<void> {
  const mock = device as MockDevice;
  if (pasid === IOMMU_TEST_PASID_RESERVED) {
    if (domain.type === 'blocked') {
      mock.pasid1024FakeError = false;
    } else if (mock.pasid1024FakeError) {
      mock.pasid1024FakeError = false;
      return fail(ENOMEM, 'PASID 1024 fails when it is set again');
    } else {
      mock.pasid1024FakeError = true;
    }
  }
  const enabled = enableIopf(mock, domain);
  if (failed(enabled)) return enabled;
  disableIopf(mock, old);
}

function enableIopf(device: MockDevice, domain: IommuDomain): Result<void> {
  if (domain.iopfHandler === null) return;
  if (device.iopfUsers === 0) {
    const rc = iopfAddDevice(device.driver.kernel, device);
    if (failed(rc)) return rc;
  }
  device.iopfUsers++;
}

function disableIopf(device: MockDevice, domain: IommuDomain | null): void {
  if (domain === null || domain.iopfHandler === null) return;
  if (--device.iopfUsers === 0) iopfRemoveDevice(device);
}
