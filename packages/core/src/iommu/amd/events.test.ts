import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { IOMMU_HWPT_ALLOC_PASID as PASID } from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import { IOMMU_PAGE_RESP_SUCCESS, type IopfGroup } from '../iopf.ts';
import { OFFSET, STATUS } from './spec/registers.ts';
import { ATS, PLAIN, PROT, Rig } from './testing/rig.ts';

/** A device with PASID 5, whose page requests go to `groups`. */
function withFaults(): { rig: Rig; device: ReturnType<Rig['device']>; groups: IopfGroup[] } {
  const rig = new Rig(new Kernel(), { driver: { pasidDomains: true } });
  const device = rig.device(8);
  const [rid, domain] = [rig.domain(device, PASID), rig.domain(device, PASID)];
  const groups: IopfGroup[] = [];
  domain.iopfHandler = (group) => groups.push(group) > 0;
  const { group } = device;
  if (failed(group.claim(rig)) || failed(group.attach(rid, { domain: rid }))) throw new Error('attach');
  const attached = group.attachPasid(domain, device, 5, { domain });
  if (failed(attached)) throw new Error(attached.reason);
  return { rig, device, groups };
}

const REQUEST = { address: 0x7000n, pasid: 5, prgIndex: 3, read: true, write: true, last: true } as const;

describe('the event log', () => {
  it('is empty again after each fault, and goes on after it overflowed', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8, { pci: PLAIN });
    const domain = rig.domain(device);
    domain.attachDevice(device, null);
    const { hardware, ivhd } = rig.unit;
    const status = (): number => Number.parseInt(hardware.readRegister(OFFSET.STATUS, 4).toString(), 10);
    // Interrupts are not served while the log fills: 511 of 512 entries.
    ivhd.exclusively(() => {
      for (let i = 0; i < 600; i++) rig.read(device, 0x1000n * BigInt(i));
      expect(status() & STATUS.EventOverflow.inPlace).not.toBe(0);
      expect(status() & STATUS.EventLogRun.inPlace).toBe(0);
    });
    expect(rig.logs.filter((text) => text.includes('IO_PAGE_FAULT'))).toHaveLength(511);
    expect(rig.logs.at(-1)).toBe('IOMMU Event log restarting');
    expect(status() & (STATUS.EventOverflow.inPlace | STATUS.EventLogInt.inPlace)).toBe(0);
    expect(status() & STATUS.EventLogRun.inPlace).not.toBe(0);
    rig.read(device, 0x5000n);
    expect(rig.logs.at(-1)).toBe(
      'dev8: Event logged [IO_PAGE_FAULT domain=0x0002 address=0x5000 flags=0x0000]',
    );
  });

  it('names what the driver does not know', () => {
    const rig = new Rig(new Kernel());
    rig.unit.hardware.access({ deviceId: 0x1a, hi: 0, lo: 0x1000, write: true }, new Uint8Array(4));
    rig.unit.ivhd.serveInterrupts();
    expect(rig.logs).toEqual([
      'Event logged [IO_PAGE_FAULT device=0000:00:03.2 domain=0x0000 address=0x1000 flags=0x0070]',
    ]);
    const blocked = rig.device(9, { pci: PLAIN });
    rig.write(blocked, 0x1000n, 'x');
    expect(rig.logs.at(-1)).toBe('  device=0000:00:01.1 domain=0x0000');
  });

  it('tells of invalidations that a device does not answer', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    const domain = rig.domain(device);
    domain.attachDevice(device, null);
    domain.map(0n, 0x1000, 0x1000n, PROT);
    device.answersInvalidations = false;
    domain.unmap(0n, 0x1000n);
    rig.unit.ivhd.serveInterrupts();
    expect(rig.logs.at(-1)).toMatch(/^Event logged \[IOTLB_INV_TIMEOUT device=0000:00:01\.0 /);
  });
});

describe('page requests', () => {
  it('go to the domain of their PASID, and the answer goes to the device', () => {
    const { device, groups } = withFaults();
    device.port.requestPage(REQUEST);
    expect(groups).toHaveLength(1);
    expect(groups[0]!.last).toEqual({ flags: 7, pasid: 5, grpid: 3, perm: 3, addr: 0x7000n });
    expect(device.pageResponses).toEqual([]);
    groups[0]!.respond(IOMMU_PAGE_RESP_SUCCESS);
    expect(device.pageResponses).toEqual([{ pasid: 5, prgIndex: 3, code: 0 }]);
  });

  it('wait for the last of their group', () => {
    const { device, groups } = withFaults();
    device.port.requestPage({ ...REQUEST, last: false });
    expect(groups).toEqual([]);
    device.port.requestPage({ ...REQUEST, address: 0x8000n });
    expect(groups[0]!.faults.map(({ addr }) => addr)).toEqual([0x7000n, 0x8000n]);
  });

  it('are refused without a PASID, or with one that nobody serves', () => {
    const { rig, device } = withFaults();
    device.port.requestPage({ ...REQUEST, pasid: null });
    expect(device.pageResponses.at(-1)).toMatchObject({ prgIndex: 3, code: 2 });
    device.port.requestPage({ ...REQUEST, pasid: 6 });
    expect(device.pageResponses.at(-1)).toEqual({ pasid: 6, prgIndex: 3, code: 1 });
    device.port.requestPage({ ...REQUEST, pasid: 300 });
    expect(device.pageResponses.at(-1)).toEqual({ pasid: 300, prgIndex: 3, code: 2 });
    expect(rig.logs.at(-1)).toBe('Invalid PASID : 0x12c, device : 8');
  });

  it('of a device whose DTE does not allow them are refused by way of the event log', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8, { pci: ATS });
    rig.domain(device).attachDevice(device, null);
    device.port.requestPage({ ...REQUEST, pasid: null });
    expect(rig.logs.at(-1)).toMatch(
      /^Event logged \[INVALID_PPR_REQUEST device=0000:00:01\.0 pasid=0x00000 /,
    );
    expect(device.pageResponses).toEqual([{ pasid: null, prgIndex: 3, code: 2 }]);
  });

  it('are all answered as invalid when the device leaves its domain', () => {
    const { rig, device, groups } = withFaults();
    device.port.requestPage(REQUEST);
    expect(groups).toHaveLength(1);
    rig.driver.blockedDomain.attachDevice(device, null);
    expect(device.pageResponses).toEqual([{ pasid: 5, prgIndex: 3, code: 1 }]);
  });
});
