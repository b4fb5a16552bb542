import { describe, expect, it } from 'vitest';
import { assert } from '../../base/assert.ts';
import { failed } from '../../base/result.ts';
import { EINVAL, EOPNOTSUPP, ERANGE } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
} from '../../abi/iommufd.ts';
import { SimulatedMemory } from '../../memory/simulated-process.ts';
import { Kernel } from '../../machine/kernel.ts';
import { IommuGroup } from '../group.ts';
import { ArmSmmuDriver } from './driver/driver.ts';
import { smmuV3Config, type ConfigOverrides } from './hardware/registers/config.ts';
import { SmmuFunction, SmmuUnit } from './platform.ts';
import { ATS, PROT, readText, Rig } from './testing/rig.ts';
import { bytesOf } from '../../base/testing/ascii.ts';

const read = readText;
const STE = ['CFGI_STE', 'SYNC'];
const CD = ['CFGI_CD', 'SYNC'];

describe('attaching', () => {
  it('writes CD, then STE, and turns ATS on when the STE allows it', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    const domain = rig.domain(device);
    rig.take();
    expect(domain.attachDevice(device, null)).toBeUndefined();
    expect(rig.take()).toEqual([
      ...CD,
      ...CD,
      ...STE,
      ...STE,
      'PREFETCH_CONFIG',
      'ATC_INV',
      'SYNC',
      'ATS on',
    ]);
  });

  it('turns ATS off before the STE forbids it, and leaves no translation and no ASID behind', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    const domain = rig.domain(device);
    domain.attachDevice(device, null);
    rig.take();
    rig.driver.blockedDomain.attachDevice(device, domain);
    expect(rig.take()).toEqual([
      'ATS off',
      ...STE,
      ...STE,
      'PREFETCH_CONFIG',
      'ATC_INV',
      'SYNC',
      'TLBI_EL2_ASID',
      'SYNC',
      ...CD,
      ...CD,
    ]);
  });

  it('of another stage 1 is one change of the CD, and an empty ATC', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    const [first, second] = [rig.domain(device), rig.domain(device)];
    first.map(0x1000n, rig.ram('one'), 0x1000n, PROT);
    second.map(0x1000n, rig.ram('two'), 0x1000n, PROT);
    first.attachDevice(device, null);
    expect(read(device, 0x1000n)).toBe('one');
    rig.take();
    second.attachDevice(device, first);
    expect(rig.take()).toEqual([
      ...CD,
      ...CD,
      ...CD,
      'PREFETCH_CONFIG',
      'ATC_INV',
      'SYNC',
      'TLBI_EL2_ASID',
      'SYNC',
    ]);
    expect(read(device, 0x1000n)).toBe('two');
  });

  it('of a nest parent invalidates by VMID, then what guests had in stage 1, then ATCs', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    const domain = rig.domain(device, IOMMU_HWPT_ALLOC_NEST_PARENT);
    domain.map(0x1000n, rig.ram('one'), 0x1000n, PROT);
    domain.attachDevice(device, null);
    rig.take();
    domain.unmap(0x1000n, 0x1000n);
    expect(rig.take()).toEqual(['TLBI_S2_IPA', 'SYNC', 'TLBI_NH_ALL', 'SYNC', 'ATC_INV', 'SYNC']);
  });

  it('stays as it was where the domain is for another SMMU', () => {
    const rig = new Rig(new Kernel());
    const config = smmuV3Config({ IDR1: { CMDQS: 8, EVENTQS: 8, PRIQS: 8 } });
    const other = SmmuUnit.create(rig.driver, { name: 'smmu1', config });
    assert(!failed(other), 'the other SMMU comes up');
    const group = new IommuGroup(rig.kernel, 100);
    const device = SmmuFunction.create(other, { name: 'dev', streamIds: [8], group });
    assert(!failed(device), 'the device is probed');
    const rc = rig.domain(rig.device(8)).attachDevice(device, null);
    expect(failed(rc) && rc.errno).toBe(EINVAL);
  });

  it('keeps the STE that has the CD table while PASIDs use it, with S1DSS for the rest', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8, { pci: { ...ATS, ats: 'none' } });
    const { identityDomain, blockedDomain } = rig.driver;
    const domain = rig.domain(device, IOMMU_HWPT_ALLOC_PASID);
    const pa = rig.ram('tab');
    domain.map(0x1000n, pa, 0x1000n, PROT);
    device.group.attach(identityDomain, { domain: identityDomain });
    expect(read(device, BigInt(pa))).toBe('tab');
    expect(domain.setDevicePasid!(device, 5, null)).toBeUndefined();
    expect([read(device, BigInt(pa)), read(device, 0x1000n, 5)]).toEqual(['tab', 'tab']);
    blockedDomain.attachDevice(device, identityDomain);
    expect([read(device, BigInt(pa)), read(device, 0x1000n, 5)]).toEqual(['fault', 'tab']);
    blockedDomain.setDevicePasid(device, 5, domain);
    expect([read(device, 0x1000n, 5), device.ssidsInUse]).toEqual(['fault', false]);
  });

  it('keeps ATS on with the identity domain where a device cannot do without', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8, { pci: { ...ATS, maxPasids: 0, ats: 'required' } });
    rig.driver.identityDomain.attachDevice(device, null);
    expect([device.cdTableInSte, device.atc!.enabled]).toEqual([true, true]);
    expect(read(device, BigInt(rig.ram('ats')))).toBe('ats');
  });
});

describe('a change of a domain', () => {
  it('reaches IOTLB and ATC of every device that has it', () => {
    const rig = new Rig(new Kernel());
    const devices = [rig.device(8), rig.device(9)];
    const domain = rig.domain(devices[0]!);
    domain.map(0x1000n, rig.ram('old'), 0x1000n, PROT);
    for (const device of devices) domain.attachDevice(device, null);
    expect(devices.map((device) => read(device, 0x1000n))).toEqual(['old', 'old']);
    rig.take();
    expect(domain.unmap(0x1000n, 0x1000n)).toBe(0x1000n);
    expect(rig.take()).toEqual(['TLBI_EL2_VA', 'SYNC', 'ATC_INV', 'ATC_INV', 'SYNC']);
    domain.map(0x1000n, rig.ram('new'), 0x1000n, PROT);
    expect(devices.map((device) => read(device, 0x1000n))).toEqual(['new', 'new']);
  });

  it('that puts a block over what was a table forgets the table', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8, { pci: null });
    const domain = rig.domain(device);
    const pa = rig.ram('old', 512);
    rig.kernel.physical.write(pa + 0x3000, bytesOf('new'));
    domain.map(0x20_0000n, pa, 0x1000n, PROT);
    domain.attachDevice(device, null);
    expect(read(device, 0x20_0000n)).toBe('old');
    domain.unmap(0x20_0000n, 0x1000n);
    domain.map(0x20_0000n, pa, 0x20_0000n, PROT);
    expect(read(device, 0x20_3000n)).toBe('new');
  });

  it('without range invalidation goes page by page, or drops everything', () => {
    const rig = new Rig(new Kernel(), { IDR3: { RIL: 0 } });
    const device = rig.device(8, { pci: null });
    const domain = rig.domain(device);
    domain.attachDevice(device, null);
    const pa = rig.ram('x', 1024);
    domain.map(0x1000n, pa + 0x1000, 0x3000n, PROT);
    domain.map(0x10_0000n, pa, 0x10_0000n, PROT);
    domain.map(0x30_0000n, pa, 0x20_0000n, PROT);
    rig.take();
    domain.unmap(0x1000n, 0x3000n);
    expect(rig.take()).toEqual(['TLBI_EL2_VA', 'TLBI_EL2_VA', 'TLBI_EL2_VA', 'SYNC']);
    domain.unmap(0x30_0000n, 0x20_0000n);
    expect(rig.take()).toEqual(['TLBI_EL2_ASID', 'SYNC']);
  });

  it('is repeated on machines that need every CFGI and TLBI twice', () => {
    const kernel = new Kernel();
    const driver = new ArmSmmuDriver(kernel, { repeatTlbiCfgi: true });
    const seen: string[] = [];
    kernel.trace.subscribe((event) => {
      if (event.kind === 'command') seen.push(String(event['name']));
    });
    const unit = SmmuUnit.create(driver, { name: 'smmu0', config: smmuV3Config({ IDR1: { CMDQS: 8 } }) });
    expect(failed(unit)).toBe(false);
    expect(seen.slice(0, 4)).toEqual(['CMD_CFGI_STE_RANGE', 'CMD_SYNC', 'CMD_CFGI_STE_RANGE', 'CMD_SYNC']);
  });
});

describe('domains', () => {
  const flagsErrno = (overrides: ConfigOverrides, flags: number): number => {
    const rig = new Rig(new Kernel(), overrides);
    const made = rig.driver.domainAllocPagingFlags(rig.device(8), flags, new SimulatedMemory(), null);
    return failed(made) ? made.errno : 0;
  };

  it('exist for the combinations of flags that Linux knows', () => {
    const both = IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_PASID;
    expect(
      [0, IOMMU_HWPT_ALLOC_NEST_PARENT, IOMMU_HWPT_ALLOC_PASID, both].map((f) => flagsErrno({}, f)),
    ).toEqual([0, 0, 0, 0]);
    const parents = [IOMMU_HWPT_ALLOC_DIRTY_TRACKING, IOMMU_HWPT_ALLOC_PASID].map(
      (f) => f | IOMMU_HWPT_ALLOC_NEST_PARENT,
    );
    expect([...parents, 1 << 7].map((f) => flagsErrno({}, f))).toEqual([EOPNOTSUPP, EOPNOTSUPP, EOPNOTSUPP]);
  });

  it('nest only where both stages are there, and have PASIDs only in stage 1', () => {
    const s2Only = { IDR0: { S1P: 0, Hyp: 0 } };
    expect(flagsErrno(s2Only, IOMMU_HWPT_ALLOC_NEST_PARENT)).toBe(EOPNOTSUPP);
    expect(flagsErrno(s2Only, IOMMU_HWPT_ALLOC_PASID)).toBe(EOPNOTSUPP);
    expect(flagsErrno(s2Only, 0)).toBe(0);
  });

  it('have the page sizes of their granule', () => {
    const sizes = (overrides: ConfigOverrides): bigint => {
      const rig = new Rig(new Kernel(), overrides);
      return rig.domain(rig.device(8)).pgsizeBitmap;
    };
    expect(sizes({})).toBe((1n << 12n) | (1n << 21n) | (1n << 30n));
    expect(sizes({ IDR5: { GRAN4K: 0 } })).toBe((1n << 14n) | (1n << 25n));
    expect(sizes({ IDR5: { GRAN4K: 0, GRAN16K: 0 } })).toBe((1n << 16n) | (1n << 29n) | (1n << 42n));
  });

  it('give their ASIDs and VMIDs back, the lowest first', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    const tags = (flags: number): number[] => {
      const domains = [rig.domain(device, flags), rig.domain(device, flags)];
      const found = domains.map((domain) => (domain as unknown as { tag: number }).tag);
      for (const domain of domains) domain.free();
      return found;
    };
    expect([tags(0), tags(0), tags(IOMMU_HWPT_ALLOC_NEST_PARENT)]).toEqual([
      [1, 2],
      [1, 2],
      [1, 2],
    ]);
  });

  it('leave no page behind', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    const pa = rig.ram('x', 512);
    const before = rig.kernel.physical.ram.size;
    for (const flags of [0, IOMMU_HWPT_ALLOC_NEST_PARENT]) {
      const domain = rig.domain(device, flags);
      domain.map(0x1000n, pa, 0x3000n, PROT);
      domain.map(0x7f_ffe0_0000n, pa, 0x20_0000n, PROT);
      domain.free();
    }
    expect(rig.kernel.physical.ram.size).toBe(before);
  });

  it('refuse what is beyond their address sizes', () => {
    const rig = new Rig(new Kernel());
    const domain = rig.domain(rig.device(8));
    expect(domain.aperture).toEqual({ start: 0n, last: (1n << 48n) - 1n });
    const rc = domain.map(1n << 48n, rig.ram('x'), 0x1000n, PROT);
    expect(failed(rc) && rc.errno).toBe(ERANGE);
  });
});

describe('probing a device', () => {
  it('refuses a StreamID beyond the table, and one that another device has', () => {
    const rig = new Rig(new Kernel());
    const probe = (sid: number): unknown => {
      const group = new IommuGroup(rig.kernel, 50);
      const made = SmmuFunction.create(rig.unit, { name: 'dev', streamIds: [sid], group });
      return failed(made) ? made.reason : 'probed';
    };
    expect([probe(0x1_0000), probe(7), probe(7)]).toEqual([
      'StreamID 65536 is beyond the table',
      'probed',
      'dev has StreamID 7 already',
    ]);
  });

  it('gives PASIDs as both sides have them', () => {
    const rig = new Rig(new Kernel(), { IDR1: { SSIDSIZE: 5 } });
    const device = rig.device(8);
    expect([device.ssidBits, device.maxPasids]).toEqual([5, 32]);
    const platform = rig.device(9, { pci: null, pasidNumBits: 3 });
    expect([platform.ssidBits, platform.maxPasids]).toEqual([3, 8]);
  });
});
