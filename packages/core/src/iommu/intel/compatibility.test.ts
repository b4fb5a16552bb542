import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EINVAL } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
} from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import { MAPPED_IOVA, mapped, Rig, type RigOptions } from './testing/rig.ts';

const DIRTY = IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
const NEST = IOMMU_HWPT_ALLOC_NEST_PARENT;
const rigOf = (options: RigOptions = {}): Rig => new Rig(new Kernel(), options);

/** The errno of attaching a domain that one unit made to a device behind another one that lacks something. */
function crossAttach(lacking: RigOptions, flags: number, forced = false): number {
  const full = rigOf();
  const domain = full.domain(full.device(0x100), flags);
  if (forced) expect(domain.enforceCacheCoherency()).toBe(true);
  const { device } = rigOf(lacking).device(0x100);
  const done = domain.attachDevice(device, null);
  expect(device.attached).toBe(!failed(done));
  return failed(done) ? done.errno : 0;
}

describe('a domain of one unit, on another', () => {
  it('can be had where both are alike', () => {
    for (const flags of [0, DIRTY, NEST]) expect(crossAttach({}, flags)).toBe(0);
    expect(crossAttach({}, DIRTY, true)).toBe(0);
  });

  it.each([
    { what: 'a first stage without one', flags: 0, options: { ECAP: { FSTS: 0, NEST: 0, EAFS: 0 } } },
    { what: 'a first stage of 5 levels', flags: 0, options: { CAP: { FS5LP: 0 } } },
    { what: 'first-stage pages of 1 GiB', flags: 0, options: { CAP: { FS1GP: 0 } } },
    { what: 'a first stage that is snooped', flags: 0, options: { ECAP: { SMPWCS: 0, SSADS: 0, EAFS: 0 } } },
    {
      what: 'a second stage that is snooped',
      flags: NEST,
      options: { ECAP: { SMPWCS: 0, SSADS: 0, EAFS: 0 } },
    },
    { what: 'addresses of 57 bits', flags: NEST, options: { CAP: { MGAW: 47 } } },
    { what: 'a second stage of 5 levels', flags: NEST, options: { CAP: { SAGAW: 6 } } },
    { what: 'second-stage pages of 1 GiB', flags: NEST, options: { CAP: { SSLPS: 1 } } },
    { what: 'maps that tell nobody', flags: NEST, options: { CAP: { CM: 1 } } },
    { what: 'nesting', flags: NEST, options: { ECAP: { NEST: 0 } } },
    { what: 'dirty bits', flags: DIRTY, options: { ECAP: { SSADS: 0 } } },
  ])('is refused where it needs what that has not: $what', ({ flags, options }) => {
    expect(crossAttach(options, flags)).toBe(EINVAL);
  });

  it('is refused where snoops that it forces cannot be', () => {
    expect(crossAttach({ ECAP: { SC: 0 } }, DIRTY)).toBe(0);
    expect(crossAttach({ ECAP: { SC: 0 } }, DIRTY, true)).toBe(EINVAL);
  });
});

describe('what the driver writes for a device', () => {
  it('lets it ask for translations only where it has ATS', () => {
    const rig = rigOf();
    const request = { address: MAPPED_IOVA, pasid: null, write: false };
    const { device } = mapped(rig);
    expect(device.port.requestTranslation(request).status).toBe('UR');
    const other = rig.device(0x108, { withAts: true });
    expect(other.port.requestTranslation(request).status).toBe('success');
  });

  it('has room for every PASID that it may use', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, IOMMU_HWPT_ALLOC_PASID, { maxPasids: 1 << 20 });
    for (const pasid of [63, 64, 0x8000, 0xf_ffff]) {
      expect(rig.attach(device, domain, pasid)).toBe(0);
      expect(device.read(MAPPED_IOVA, pasid)).toBe('abc');
    }
  });

  it('forces snoops of devices that come later, too', () => {
    const rig = rigOf();
    const { domain } = mapped(rig);
    expect(domain.enforceCacheCoherency()).toBe(true);
    const later = rig.device(0x108);
    rig.attach(later, domain);
    const outcome = rig.unit.hardware.translate({ requesterId: 0x108, hi: 0, lo: 0x4000_0000 });
    expect(outcome).toMatchObject({ kind: 'translated', snoop: true });
  });

  it('leaves nothing of a domain that another one replaced at a PASID', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig);
    const [one, two] = [rig.domain(device), rig.domain(device)];
    rig.attach(device, one, 5);
    rig.attach(device, two, 5);
    expect([one.tags.all.length, one.devicePasids.length]).toEqual([0, 0]);
    expect(() => one.didOn(rig.unit.dmar)).toThrow('the domain is not on dmar0');
    expect(domain.tags.all).toHaveLength(1);
  });

  it('goes with it, and the context-cache is told', () => {
    const rig = rigOf();
    const { device } = mapped(rig, 0, { withAts: true });
    rig.unit.dmar.releaseDevice(device.device);
    expect(rig.take().at(-1)).toBe('context device/page did=0 sid=0x100');
    expect(device.fault(MAPPED_IOVA)).toContain('fault SCT.2');
  });

  it('is invalidated twice at a device that needs it', () => {
    const rig = rigOf();
    const { domain } = mapped(rig, 0, { withAts: true, extraDeviceTlbFlush: true });
    domain.unmap(MAPPED_IOVA, 0x1000n);
    const devtlb = 'devtlb sid=0x100 pfsid=0x100 0x40000000';
    expect(rig.take()).toEqual(['piotlb did=2 pasid=0 0x40000000+0 ih', devtlb, devtlb]);
  });
});
