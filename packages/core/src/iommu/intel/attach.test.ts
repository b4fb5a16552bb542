import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EINVAL, ENODEV, EOPNOTSUPP } from '../../abi/errno.ts';
import { IOMMU_HWPT_ALLOC_DIRTY_TRACKING, IOMMU_HWPT_ALLOC_PASID } from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import { MAPPED_IOVA, mapped, PAGE, PROT, Rig, type RigOptions } from './testing/rig.ts';

const IOVA = MAPPED_IOVA;
const DIRTY = IOMMU_HWPT_ALLOC_DIRTY_TRACKING;

function rigOf(options: RigOptions = {}): Rig {
  return new Rig(new Kernel(), options);
}

describe('attaching', () => {
  it('needs no invalidation where nothing was there before, and no cache keeps what is absent', () => {
    const rig = rigOf();
    const device = rig.device(0x100);
    const domain = rig.domain(device);
    domain.map(IOVA, rig.ram('abc'), PAGE, PROT);
    expect(device.read(IOVA)).toBe('fault');
    rig.take();
    expect(rig.attach(device, domain)).toBe(0);
    expect(rig.take()).toEqual([]);
    expect(device.read(IOVA)).toBe('abc');
  });

  it('empties the caches of what is not present in caching mode', () => {
    const rig = rigOf({ CAP: { CM: 1 } });
    const device = rig.device(0x100);
    expect(rig.take()).toEqual(['context device/page did=0 sid=0x100', 'iotlb domain did=0 dr dw']);
    rig.attach(device, rig.domain(device));
    expect(rig.take()).toEqual([
      'pasid-cache pasid did=2 pasid=0',
      'piotlb did=2 pasid=0 all',
      'pasid-cache pasid did=0 pasid=0',
    ]);
  });

  it('lets a device through that was blocked before in caching mode, unless it is done as in Linux 7.3', () => {
    const reads = (linuxPasidFlush: boolean): string => {
      const rig = rigOf({ CAP: { CM: 1 }, driver: { linuxPasidFlush } });
      const device = rig.device(0x100);
      const domain = rig.domain(device);
      domain.map(IOVA, rig.ram('abc'), PAGE, PROT);
      expect(device.read(IOVA)).toBe('fault');
      rig.attach(device, domain);
      return device.read(IOVA);
    };
    expect([reads(false), reads(true)]).toEqual(['abc', 'fault']);
  });

  it('takes down what was there in the order of intel_pasid_tear_down_entry()', () => {
    const rig = rigOf();
    const { device } = mapped(rig, 0, { withAts: true });
    const other = rig.domain(device, DIRTY);
    expect(rig.attach(device, other)).toBe(0);
    expect(rig.take()).toEqual([
      'pasid-cache pasid did=2 pasid=0',
      'piotlb did=2 pasid=0 all',
      'devtlb sid=0x100 pfsid=0x100 0x7ffffffffffff000 s',
    ]);
    // A second stage is cached by domain.
    rig.detach(device);
    expect(rig.take()).toEqual([
      'pasid-cache pasid did=2 pasid=0',
      'iotlb domain did=2 dr dw',
      'devtlb sid=0x100 pfsid=0x100 0x7ffffffffffff000 s',
    ]);
    expect(device.read(IOVA)).toBe('fault');
  });

  it('lets everything through with the identity domain, and nothing with the blocked one', () => {
    const rig = rigOf();
    const device = rig.device(0x100);
    const pa = rig.ram('abc');
    expect(rig.attach(device, rig.driver.identityDomain)).toBe(0);
    expect(device.read(BigInt(pa))).toBe('abc');
    rig.detach(device);
    expect(rig.take().slice(-2)).toEqual(['pasid-cache pasid did=1 pasid=0', 'piotlb did=1 pasid=0 all']);
    expect(device.read(BigInt(pa))).toBe('fault');
  });

  it('shares a domain between units, each with its own domain id', () => {
    const rig = rigOf({ units: 2 });
    const [one, two, three] = [
      rig.device(0x100),
      rig.device(0x100, { unit: 1 }),
      rig.device(0x108, { unit: 1 }),
    ];
    rig.attach(three, rig.domain(three));
    const domain = rig.domain(one);
    domain.map(IOVA, rig.ram('abc'), PAGE, PROT);
    expect([rig.attach(one, domain), rig.attach(two, domain)]).toEqual([0, 0]);
    expect([one.read(IOVA), two.read(IOVA)]).toEqual(['abc', 'abc']);
    expect([0, 1].map((i) => domain.didOn(rig.units[i]!.dmar))).toEqual([2, 3]);
    rig.take();
    domain.unmap(IOVA, PAGE);
    // The unit that came last is told first: cache_tag_assign() puts it in front.
    expect(rig.take()).toEqual([
      'piotlb did=3 pasid=0 0x40000000+0 ih',
      'piotlb did=2 pasid=0 0x40000000+0 ih',
    ]);
    expect([one.read(IOVA), two.read(IOVA)]).toEqual(['fault', 'fault']);
  });

  it('refuses a domain that the unit cannot have with EINVAL, and leaves the device without one', () => {
    const wide = rigOf();
    const narrow = rigOf({ CAP: { FS5LP: 0, SAGAW: 4, MGAW: 47, SSLPS: 1 } });
    const domain = wide.domain(wide.device(0x100), DIRTY);
    const device = narrow.device(0x100);
    const refused = domain.attachDevice(device.device, null);
    expect(failed(refused) && refused.errno).toBe(EINVAL);
    expect(device.device.attached).toBe(false);
  });

  it('gives the domain id and the tags back', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, 0, { withAts: true });
    expect(domain.tags.all.map((tag) => tag.type)).toEqual(['iotlb', 'devtlb']);
    rig.detach(device);
    expect(domain.tags.all).toEqual([]);
    const next = rig.domain(device);
    rig.attach(device, next);
    expect(next.didOn(rig.unit.dmar)).toBe(2);
  });
});

describe('PASIDs', () => {
  it('have domains of their own, which replace each other', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, 0, { withAts: true });
    const other = rig.domain(device, IOMMU_HWPT_ALLOC_PASID);
    other.map(IOVA, rig.ram('pas'), PAGE, PROT);
    expect(device.read(IOVA, 5)).toBe('fault');
    expect(rig.attach(device, other, 5)).toBe(0);
    expect([device.read(IOVA), device.read(IOVA, 5)]).toEqual(['abc', 'pas']);
    rig.take();
    expect(rig.attach(device, domain, 5)).toBe(0);
    expect(rig.take()).toEqual([
      'pasid-cache pasid did=3 pasid=5',
      'piotlb did=3 pasid=5 all',
      'pdevtlb sid=0x100 pasid=5 0x7ffffffffffff000 s',
    ]);
    expect(device.read(IOVA, 5)).toBe('abc');
    domain.unmap(IOVA, PAGE);
    expect(rig.take()).toEqual([
      'piotlb did=2 pasid=0 0x40000000+0 ih',
      'devtlb sid=0x100 pfsid=0x100 0x40000000',
      'piotlb did=2 pasid=5 0x40000000+0 ih',
      'pdevtlb sid=0x100 pasid=5 0x40000000',
    ]);
    rig.detach(device, 5);
    expect(device.read(IOVA, 5)).toBe('fault');
  });

  it('take a second stage and the identity domain, too', () => {
    const rig = rigOf();
    const { device } = mapped(rig);
    const second = rig.domain(device, DIRTY | IOMMU_HWPT_ALLOC_PASID);
    second.map(IOVA, rig.ram('sec'), PAGE, PROT);
    expect(rig.attach(device, second, 9)).toBe(0);
    expect(device.read(IOVA, 9)).toBe('sec');
    const pa = rig.ram('idt');
    expect(rig.attach(device, rig.driver.identityDomain, 9)).toBe(0);
    expect(device.read(BigInt(pa), 9)).toBe('idt');
    expect(device.read(IOVA)).toBe('abc');
    rig.detach(device, 9);
    expect(device.read(BigInt(pa), 9)).toBe('fault');
  });

  it('are refused where the unit has none', () => {
    const rig = rigOf({ ECAP: { PASID: 0, PTRS: 0 } });
    const { device, domain } = mapped(rig);
    const refused = domain.setDevicePasid(device.device, 5, null);
    expect(failed(refused) && refused.errno).toBe(EOPNOTSUPP);
  });

  it('have no place beyond the directory of the device', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, 0, { maxPasids: 256 });
    const refused = domain.setDevicePasid(device.device, 1 << 15, null);
    expect(failed(refused) && refused.errno).toBe(ENODEV);
    expect(domain.tags.all.map((tag) => tag.pasid)).toEqual([0]);
  });
});

describe('devices', () => {
  it('come and go without leaving memory behind', () => {
    const rig = rigOf();
    rig.device(0x108);
    const before = rig.kernel.physical.ram.size;
    const { device, domain } = mapped(rig, IOMMU_HWPT_ALLOC_PASID, {
      withAts: true,
      requesterId: 0x110,
      maxPasids: 1 << 16,
    });
    rig.attach(device, domain, 0x8000);
    rig.detach(device, 0x8000);
    rig.detach(device);
    rig.unit.dmar.releaseDevice(device.device);
    domain.free();
    // The page of the text that mapped() has made stays.
    expect(rig.kernel.physical.ram.size).toBe(before + 1);
    expect(device.read(IOVA)).toBe('fault');
  });

  it('have a requester id of their own', () => {
    const rig = rigOf();
    rig.device(0x100);
    expect(() => rig.device(0x100)).toThrow('the device is probed');
  });
});
