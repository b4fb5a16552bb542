import { describe, expect, test } from 'vitest';
import { failed, type Result } from '../base/result.ts';
import { EINVAL, ENOMEM } from '../abi/errno.ts';
import {
  IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE as LAST,
  IOMMU_FAULT_PAGE_REQUEST_PASID_VALID as PASID,
  IOMMU_PAGE_RESP_FAILURE,
  IOMMU_PAGE_RESP_INVALID,
  IOMMU_PAGE_RESP_SUCCESS,
  iopfAddDevice,
  iopfRemoveDevice,
  reportDeviceFault,
  type IopfGroup,
  type PageRequest,
} from './iopf.ts';
import { FakeDriver, fakeGroup, fakeKernel } from './testing/fake-devices.ts';

/** A device whose domain takes page requests; `taken` is what it took. */
function setUp() {
  const { kernel, failNth } = fakeKernel();
  const driver = new FakeDriver();
  const group = fakeGroup(kernel, driver, { a: 16 });
  const device = group.devices[0]!;
  const taken: IopfGroup[] = [];
  const domain = driver.domain('x', 'nested');
  domain.iopfHandler = (each) => taken.push(each) > 0;
  group.attach(domain, { domain });
  iopfAddDevice(kernel, device);
  const report = (request: Partial<PageRequest>): Result<void> =>
    reportDeviceFault(kernel, device, {
      flags: LAST,
      pasid: 0,
      grpid: 1,
      perm: 1,
      addr: 0x1000n,
      ...request,
    });
  return { kernel, failNth, driver, group, device, domain, taken, report };
}

const addrs = (group: IopfGroup | undefined): readonly bigint[] => group!.faults.map((each) => each.addr);
const errnoOf = (result: Result<unknown>): number | null => (failed(result) ? result.errno : null);

describe('a page request', () => {
  test('goes to the domain of the device, which answers it', () => {
    const { report, taken, device, driver } = setUp();
    expect(errnoOf(report({}))).toBe(null);
    expect(addrs(taken[0])).toEqual([0x1000n]);
    expect(device.faults!.pending.size).toBe(1);
    taken[0]!.respond(IOMMU_PAGE_RESP_SUCCESS);
    expect(driver.responses).toEqual([{ device: 'a', addrs: [0x1000n], code: IOMMU_PAGE_RESP_SUCCESS }]);
    expect(device.faults!.pending.size).toBe(0);
  });

  test('waits for the last of its group, and comes with the others in their order', () => {
    const { report, taken } = setUp();
    report({ flags: 0, addr: 0x1000n });
    report({ flags: 0, addr: 0x2000n, grpid: 2 });
    report({ flags: 0, addr: 0x3000n });
    expect(taken).toEqual([]);
    report({ addr: 0x4000n });
    expect(addrs(taken[0])).toEqual([0x1000n, 0x3000n, 0x4000n]);
    report({ addr: 0x5000n, grpid: 2 });
    expect(addrs(taken[1])).toEqual([0x2000n, 0x5000n]);
    expect(taken[1]!.last.addr).toBe(0x5000n);
    report({ addr: 0x6000n });
    expect(addrs(taken[2])).toEqual([0x6000n]);
  });

  test('that nobody takes is refused at the device', () => {
    const { report, driver, domain, group } = setUp();
    domain.iopfHandler = null;
    expect(errnoOf(report({}))).toBe(EINVAL);
    group.detach();
    expect(errnoOf(report({}))).toBe(EINVAL);
    const refusal = { device: 'a', addrs: [0x1000n], code: IOMMU_PAGE_RESP_INVALID };
    expect(driver.responses).toEqual([refusal, refusal]);
  });

  test('of a device without a fault queue is refused', () => {
    const { report, driver, device, taken } = setUp();
    iopfRemoveDevice(device);
    expect(errnoOf(report({}))).toBe(EINVAL);
    expect(driver.responses.map((each) => each.code)).toEqual([IOMMU_PAGE_RESP_INVALID]);
    expect(taken).toEqual([]);
  });

  test('that its domain does not want fails', () => {
    const { report, driver, device, domain } = setUp();
    domain.iopfHandler = () => false;
    report({});
    expect(driver.responses.map((each) => each.code)).toEqual([IOMMU_PAGE_RESP_FAILURE]);
    expect(device.faults!.pending.size).toBe(0);
  });

  test('fails where there is no memory for its group, and is lost where it is only a part of one', () => {
    const { report, failNth, driver, device, taken } = setUp();
    failNth(1);
    expect(errnoOf(report({}))).toBe(null);
    expect(driver.responses.map((each) => each.code)).toEqual([IOMMU_PAGE_RESP_FAILURE]);
    failNth(1);
    expect(errnoOf(report({ flags: 0 }))).toBe(ENOMEM);
    expect([device.faults!.partial, taken]).toEqual([[], []]);
  });
});

describe('a page request with a PASID', () => {
  test('goes to the domain of that PASID', () => {
    const { group, device, driver, report, taken } = setUp();
    const other = driver.domain('y');
    const there: IopfGroup[] = [];
    other.iopfHandler = (each) => there.push(each) > 0;
    group.attachPasid(other, device, 5, { domain: other });
    report({ flags: LAST | PASID, pasid: 5 });
    expect([taken.length, there.length]).toEqual([0, 1]);
    // Without the flag the number means nothing.
    report({ flags: LAST, pasid: 5 });
    expect([taken.length, there.length]).toEqual([1, 1]);
  });

  test('that has no domain goes to the nested one of the device where a guest keeps the PASID table', () => {
    const { driver, report, taken } = setUp();
    expect(errnoOf(report({ flags: LAST | PASID, pasid: 5 }))).toBe(EINVAL);
    driver.userPasidTable = true;
    expect(errnoOf(report({ flags: LAST | PASID, pasid: 5 }))).toBe(null);
    expect(taken.length).toBe(1);
  });

  test('does not go to a paging domain of the device', () => {
    const { group, driver, report } = setUp();
    driver.userPasidTable = true;
    const paging = driver.domain('p');
    paging.iopfHandler = () => true;
    group.replace(paging, { domain: paging });
    expect(errnoOf(report({ flags: LAST | PASID, pasid: 5 }))).toBe(EINVAL);
  });
});

describe('a device that leaves its fault queue', () => {
  test('has what is pending answered as invalid, once, and forgets what is incomplete', () => {
    const { report, device, driver, taken } = setUp();
    report({ addr: 0x1000n });
    report({ addr: 0x2000n, grpid: 2 });
    report({ flags: 0, addr: 0x3000n, grpid: 3 });
    iopfRemoveDevice(device);
    expect(driver.responses).toEqual([
      { device: 'a', addrs: [0x1000n], code: IOMMU_PAGE_RESP_INVALID },
      { device: 'a', addrs: [0x2000n], code: IOMMU_PAGE_RESP_INVALID },
    ]);
    expect([taken.length, device.faults]).toEqual([2, null]);
    iopfRemoveDevice(device);
    expect(driver.responses.length).toBe(2);
  });

  test('stays without one where memory runs out', () => {
    const { kernel, failNth, device } = setUp();
    iopfRemoveDevice(device);
    failNth(1);
    expect(errnoOf(iopfAddDevice(kernel, device))).toBe(ENOMEM);
    expect(device.faults).toBe(null);
  });
});
