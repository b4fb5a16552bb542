import { describe, expect, it } from 'vitest';
import { ENODEV } from '../../abi/errno.ts';
import { Kernel } from '../../machine/kernel.ts';
import { PRG_RESPONSE_CODE } from '../requests/dma-port.ts';
import { IOMMU_PAGE_RESP_SUCCESS, type IopfGroup } from '../iopf.ts';
import { PRQ_DEPTH } from './driver/queues/page-requests.ts';
import { PAGE, PROT, Rig, type RigFunction, type RigOptions } from './testing/rig.ts';

const IOVA = 0x4000_0000n;
const { SUCCESS, INVALID_REQUEST } = PRG_RESPONSE_CODE;
const ALL_TLB = 'devtlb sid=0x100 pfsid=0x100 0x7ffffffffffff000 s';

/** A device with page requests, and a domain whose fault queue takes them. */
function setUp(options: RigOptions = {}) {
  const rig = new Rig(new Kernel(), options);
  const device = rig.device(0x100, { withAts: true, withPri: true });
  const domain = rig.domain(device);
  const groups: IopfGroup[] = [];
  domain.iopfHandler = (group) => groups.push(group) > 0;
  expect(rig.attach(device, domain)).toBe(0);
  rig.take();
  return { rig, device, domain, groups };
}

const codes = (device: RigFunction): number[] => device.responses.map((each) => each.code);

describe('page requests', () => {
  it('are turned on where the function has them, with as many as the queue takes', () => {
    const rig = new Rig(new Kernel());
    expect(rig.device(0x100, { withAts: true, withPri: true }).outstanding).toBe(PRQ_DEPTH);
    expect(rig.device(0x108, { withPri: true }).outstanding).toBe(0);
    const without = new Rig(new Kernel(), { ECAP: { PDS: 0 } });
    expect(without.device(0x100, { withAts: true, withPri: true }).outstanding).toBe(0);
  });

  it('reach the fault queue of the domain, a group at a time, and are answered at the device', () => {
    const { rig, device, domain, groups } = setUp();
    device.request(IOVA, 5, { last: false });
    expect(groups).toEqual([]);
    device.request(IOVA + PAGE, 5, { write: true });
    expect(groups).toHaveLength(1);
    expect(groups[0]!.faults.map((fault) => [fault.flags, fault.addr, fault.perm, fault.grpid])).toEqual([
      [0, IOVA, 1, 5],
      [2, IOVA + PAGE, 3, 5],
    ]);
    domain.map(IOVA, rig.ram('abc'), PAGE, PROT);
    rig.take();
    groups[0]!.respond(IOMMU_PAGE_RESP_SUCCESS);
    expect(rig.take()).toEqual(['response rid=0x100 prgi=5 code=0']);
    expect(device.responses).toEqual([{ pasid: null, prgIndex: 5, code: SUCCESS }]);
    expect(device.read(IOVA)).toBe('abc');
  });

  it('carry their PASID there and back', () => {
    const { rig, device, groups } = setUp();
    const other = rig.domain(device);
    other.iopfHandler = (group) => groups.push(group) > 0;
    expect(rig.attach(device, other, 7)).toBe(0);
    device.request(IOVA, 1, { pasid: 7 });
    expect(groups[0]!.handle.domain).toBe(other);
    // PASID_VALID, LAST_PAGE, and the kernel's own NEEDS_PASID.
    expect(groups[0]!.last.flags).toBe(7);
    groups[0]!.respond(IOMMU_PAGE_RESP_SUCCESS);
    expect(device.responses).toEqual([{ pasid: 7, prgIndex: 1, code: SUCCESS }]);
  });

  it('are refused where no domain wants them', () => {
    const { rig, device } = setUp();
    rig.attach(device, rig.domain(device));
    device.request(IOVA, 2);
    expect(codes(device)).toEqual([INVALID_REQUEST]);
    expect(device.device.faults).toBeNull();
  });

  it('are refused where they ask for what the driver does not serve', () => {
    const { rig, device, groups } = setUp();
    rig.attach(device, rig.domain(device), 7);
    device.request(IOVA, 1, { pasid: 7, privileged: true });
    device.request(IOVA, 2, { pasid: 7, execute: true });
    device.request(1n << 60n, 3);
    expect(codes(device)).toEqual([INVALID_REQUEST, INVALID_REQUEST, INVALID_REQUEST]);
    // The end of a PASID's requests is no request.
    device.request(0n, 0, { pasid: 7, read: false });
    expect(device.responses).toHaveLength(3);
    expect(groups).toEqual([]);
  });

  it('keep a domain with a fault queue from a device without them, with ENODEV', () => {
    const { rig, domain } = setUp();
    const plain = rig.device(0x108, { withAts: true });
    expect(rig.attach(plain, domain)).toBe(ENODEV);
    expect(plain.device.attached).toBe(false);
  });

  it('are waited for when the domain goes: what is unanswered is invalid', () => {
    const { rig, device, groups } = setUp();
    device.request(IOVA, 9);
    expect(groups).toHaveLength(1);
    rig.take();
    rig.detach(device);
    // iopf_queue_remove_device() comes first, so nothing is left to be drained.
    expect(rig.take()).toEqual([
      'response rid=0x100 prgi=9 code=1',
      'pasid-cache pasid did=2 pasid=0',
      'piotlb did=2 pasid=0 all',
      ALL_TLB,
    ]);
    expect(codes(device)).toEqual([INVALID_REQUEST]);
  });

  it('are drained through the queues where another domain takes them over', () => {
    const { rig, device } = setUp();
    const next = rig.domain(device);
    next.iopfHandler = () => true;
    expect(rig.attach(device, next)).toBe(0);
    expect(rig.take()).toEqual([
      'pasid-cache pasid did=2 pasid=0',
      'piotlb did=2 pasid=0 all',
      ALL_TLB,
      // intel_iommu_drain_pasid_prq(): VT-d §7.10
      'wait fence',
      'iotlb domain did=2 dr dw',
      ALL_TLB,
      'wait drain',
    ]);
    expect(device.device.servesFaults).toBe(true);
    rig.detach(device);
    expect(device.device.servesFaults).toBe(false);
  });

  it('are no longer served where the identity domain comes', () => {
    const { rig, device } = setUp();
    expect(device.device.servesFaults).toBe(true);
    expect(rig.attach(device, rig.driver.identityDomain)).toBe(0);
    expect(device.device.servesFaults).toBe(false);
  });

  it('that overflow the queue are asked again, and the overflow ends', () => {
    const { rig, device, groups } = setUp();
    const dmar = rig.unit.dmar;
    dmar.interrupts.exclusively(() => {
      for (let i = 0; i < PRQ_DEPTH + 2; i++) device.request(IOVA + BigInt(i) * PAGE, i & 511);
      expect(dmar.pageRequests!.overflowed).toBe(true);
    });
    expect(groups).toHaveLength(PRQ_DEPTH - 1);
    expect(dmar.pageRequests!.overflowed).toBe(false);
    expect(rig.logs).toContain('PRQ overflow cleared');
    // Hardware has answered those that found no room as served.
    expect(codes(device)).toEqual([SUCCESS, SUCCESS, SUCCESS]);
  });

  it('end with the device', () => {
    const { rig, device, groups } = setUp();
    device.request(IOVA, 3);
    expect(groups).toHaveLength(1);
    rig.unit.dmar.releaseDevice(device.device);
    expect([device.outstanding, device.atc.enabled]).toEqual([0, false]);
    expect(device.device.faults).toBeNull();
  });
});
