import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EADDRINUSE, ENOSPC, EOPNOTSUPP, ERANGE } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
  IOMMU_HW_INFO_TYPE_DEFAULT,
} from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import { IOMMU_READ } from '../driver.ts';
import { MAPPED_IOVA, mapped, PAGE, PROT, Rig, type RigFunction, type RigOptions } from './testing/rig.ts';

const IOVA = MAPPED_IOVA;
const DIRTY = IOMMU_HWPT_ALLOC_DIRTY_TRACKING;

function rigOf(options: RigOptions = {}): Rig {
  return new Rig(new Kernel(), options);
}

describe('hw_info', () => {
  it('has the erratum of read-only pages, CAP_REG and ECAP_REG', () => {
    const rig = rigOf();
    const device = rig.device(0x100);
    const info = rig.driver.hwInfo(device.device, IOMMU_HW_INFO_TYPE_DEFAULT);
    if (failed(info)) throw new Error(info.reason);
    expect(info.type).toBe(1);
    const { cap, ecap } = rig.unit.hardware.config;
    const words = new BigUint64Array(info.data.buffer);
    expect([...words]).toEqual([1n, cap, ecap]);
    const other = rig.driver.hwInfo(device.device, IOMMU_HW_INFO_TYPE_ARM_SMMUV3);
    expect(failed(other) && other.errno).toBe(EOPNOTSUPP);
  });

  it('reserves the interrupt range, and what firmware says of the device', () => {
    const rig = rigOf();
    const msi = { type: 'msi', start: 0xfee0_0000n, length: 0x10_0000n } as const;
    expect(rig.driver.reservedRegions(rig.device(0x100).device)).toEqual([msi]);
    const rmrr = { type: 'direct', start: 0x8000_0000n, length: 0x1000n } as const;
    const device = rig.device(0x108, { reserved: [rmrr] });
    expect(rig.driver.reservedRegions(device.device)).toEqual([rmrr, msi]);
  });

  it('knows what the hardware can do', () => {
    const of = (rig: Rig): boolean[] => {
      const { device } = rig.device(0x100, { withAts: true });
      const asked = [
        'cache-coherency',
        'enforce-cache-coherency',
        'dirty-tracking',
        'pci-ats-supported',
      ] as const;
      return [...asked, 'noexec' as const].map((capability) => rig.driver.capable(device, capability));
    };
    const without = { SC: 0, SSADS: 0, DT: 0, PDS: 0, DIT: 0, NWFS: 0, PRS: 0, SMS: 0, PTRS: 0 };
    expect(of(rigOf())).toEqual([true, true, true, true, false]);
    expect(of(rigOf({ ECAP: without }))).toEqual([true, false, false, false, false]);
  });
});

describe('paging domains', () => {
  it('are of the first stage where that will do, else of the second', () => {
    const rig = rigOf();
    const device = rig.device(0x100);
    const stage = (flags: number): number => rig.domain(device, flags).stage;
    expect([0, IOMMU_HWPT_ALLOC_PASID].map(stage)).toEqual([1, 1]);
    expect([DIRTY, IOMMU_HWPT_ALLOC_NEST_PARENT, DIRTY | IOMMU_HWPT_ALLOC_NEST_PARENT].map(stage)).toEqual([
      2, 2, 2,
    ]);
    const only = rigOf({ ECAP: { FSTS: 0, NEST: 0, EAFS: 0 } });
    expect(only.domain(only.device(0x100)).stage).toBe(2);
  });

  it('are refused with EOPNOTSUPP where the hardware has not what is asked', () => {
    const refusal = (rig: Rig, flags: number): number => {
      const made = rig.driver.domainAllocPagingFlags(rig.device(0x100).device, flags, rig.memory, null);
      return failed(made) ? made.errno : 0;
    };
    expect(refusal(rigOf(), 1 << 10)).toBe(EOPNOTSUPP);
    expect(refusal(rigOf({ ECAP: { NEST: 0 } }), IOMMU_HWPT_ALLOC_NEST_PARENT)).toBe(EOPNOTSUPP);
    expect(refusal(rigOf({ ECAP: { SSADS: 0 } }), DIRTY)).toBe(EOPNOTSUPP);
    expect(
      refusal(rigOf({ CAP: { SAGAW: 0, SSLPS: 0 }, ECAP: { SSTS: 0, NEST: 0, SSIRWS: 0 } }), DIRTY),
    ).toBe(EOPNOTSUPP);
  });

  it.each([
    // MGAW and FS5LP say how wide; a first stage has no upper half.
    { name: 'all', options: {}, first: 56n, second: 57n },
    { name: 'four levels', options: { CAP: { FS5LP: 0, SAGAW: 4, MGAW: 47 } }, first: 47n, second: 48n },
    {
      name: 'three levels of a second stage',
      options: { CAP: { FS5LP: 0, SAGAW: 6, MGAW: 38 } },
      first: 38n,
      second: 39n,
    },
    {
      name: 'five levels, with narrow addresses',
      options: { CAP: { SAGAW: 12, MGAW: 44 } },
      first: 44n,
      second: 45n,
    },
  ])('are as wide as the hardware: $name', ({ options, first, second }) => {
    const rig = rigOf(options);
    const device = rig.device(0x100);
    expect(rig.domain(device).aperture).toEqual({ start: 0n, last: (1n << first) - 1n });
    expect(rig.parent(device).aperture).toEqual({ start: 0n, last: (1n << second) - 1n });
  });

  it('translate at the last page of their aperture, at every width', () => {
    for (const CAP of [
      {},
      { FS5LP: 0, SAGAW: 4, MGAW: 47 },
      { FS5LP: 0, SAGAW: 6, MGAW: 38 },
      { SAGAW: 12, MGAW: 44 },
    ]) {
      const rig = rigOf({ CAP });
      for (const [requesterId, flags] of [
        [0x100, 0],
        [0x108, DIRTY],
      ] as const) {
        const device = rig.device(requesterId);
        const domain = rig.domain(device, flags);
        const last = domain.aperture.last + 1n - PAGE;
        expect(domain.map(last, rig.ram('end'), PAGE, PROT)).toBeUndefined();
        expect(rig.attach(device, domain)).toBe(0);
        expect(device.read(last)).toBe('end');
        const beyond = domain.map(last + PAGE, rig.ram('no!'), PAGE, PROT);
        expect(failed(beyond) && beyond.errno).toBe(ERANGE);
      }
    }
  });

  it('have the page sizes that the hardware has', () => {
    const sizes = (rig: Rig): bigint[] => {
      const device = rig.device(0x100);
      return [rig.domain(device).pgsizeBitmap, rig.parent(device).pgsizeBitmap];
    };
    expect(sizes(rigOf())).toEqual([0x4020_1000n, 0x4020_1000n]);
    expect(sizes(rigOf({ CAP: { FS1GP: 0, SSLPS: 1 } }))).toEqual([0x20_1000n, 0x20_1000n]);
    expect(sizes(rigOf({ CAP: { SSLPS: 0 } }))).toEqual([0x4020_1000n, 0x1000n]);
  });

  it('refuse what is mapped already, and undo what of it they mapped', () => {
    const rig = rigOf();
    const domain = rig.domain(rig.device(0x100));
    const pa = rig.ram('abc', 4);
    domain.map(IOVA + 2n * PAGE, pa, PAGE, PROT);
    const again = domain.map(IOVA, pa, 4n * PAGE, PROT);
    expect(failed(again) && again.errno).toBe(EADDRINUSE);
    expect(domain.iovaToPhys(IOVA)).toBe(0);
    expect(domain.iovaToPhys(IOVA + 2n * PAGE + 5n)).toBe(pa + 5);
  });

  it('do not let a device write to a read-only page', () => {
    const rig = rigOf();
    for (const [requesterId, flags] of [
      [0x100, 0],
      [0x108, DIRTY],
    ] as const) {
      const device = rig.device(requesterId);
      const domain = rig.domain(device, flags);
      domain.map(IOVA, rig.ram('abc'), PAGE, IOMMU_READ);
      rig.attach(device, domain);
      expect(device.read(IOVA)).toBe('abc');
      expect(device.write(IOVA, 'xyz')).toBe('fault');
      expect(device.read(IOVA)).toBe('abc');
    }
  });

  it('run out of domain ids with ENOSPC', () => {
    const rig = rigOf({ CAP: { ND: 0 } });
    // 16 ids: 0 is nobody's, 1 is pass-through.
    const errnos = Array.from({ length: 15 }, (_, i) => {
      const device = rig.device(0x100 + i * 8);
      return rig.attach(device, rig.domain(device));
    });
    expect(errnos).toEqual([...Array.from({ length: 14 }, () => 0), ENOSPC]);
  });
});

describe('mapping and unmapping', () => {
  it('invalidates what was unmapped, tables and all where some went', () => {
    const rig = rigOf();
    const { device, domain, pa } = mapped(rig);
    expect(device.read(IOVA)).toBe('abc');
    domain.map(IOVA + PAGE, pa, PAGE, PROT);
    expect(rig.take()).toEqual([]);
    expect(domain.unmap(IOVA, 2n * PAGE)).toBe(0x2000n);
    expect(rig.take()).toEqual(['piotlb did=2 pasid=0 0x40000000+1 ih']);
    expect(device.read(IOVA)).toBe('fault');
    // All of a table's range: it is freed, so no hint.
    domain.map(IOVA, rig.ram('big', 512), 0x20_0000n, PROT);
    domain.unmap(IOVA, 0x20_0000n);
    expect(rig.take().at(-1)).toBe('piotlb did=2 pasid=0 0x40000000+9 ih');
    domain.map(IOVA, pa, PAGE, PROT);
    for (let i = 1n; i < 512n; i++) domain.map(IOVA + i * PAGE, pa, PAGE, PROT);
    rig.take();
    domain.unmap(IOVA, 0x20_0000n);
    expect(rig.take()).toEqual(['piotlb did=2 pasid=0 0x40000000+9']);
  });

  it('invalidates a second stage by pages, or by domain where AM does not reach', () => {
    const rig = rigOf({ CAP: { MAMV: 9 } });
    const { domain, pa } = mapped(rig, DIRTY, { withAts: true });
    domain.unmap(IOVA, PAGE);
    expect(rig.take()).toEqual([
      'iotlb device/page did=2 0x40000000+0 ih dr dw',
      'devtlb sid=0x100 pfsid=0x100 0x40000000',
    ]);
    domain.map(0n, pa, PAGE, PROT);
    for (let at = 0n; at < 0x80_0000n; at += 0x20_0000n) domain.map(0x100_0000n + at, pa, PAGE, PROT);
    rig.take();
    const big = rig.ram('big', 2048);
    domain.map(0x4_0000_0000n, big, 0x80_0000n, PROT);
    domain.unmap(0x4_0000_0000n, 0x80_0000n);
    expect(rig.take()).toEqual(['iotlb domain did=2 dr dw', 'devtlb sid=0x100 pfsid=0x100 0x4003ff000 s']);
  });

  it('takes stale translations out of the device, too', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, 0, { withAts: true });
    expect(device.read(IOVA)).toBe('abc');
    domain.unmap(IOVA, PAGE);
    domain.map(IOVA, rig.ram('xyz'), PAGE, PROT);
    expect(device.read(IOVA)).toBe('xyz');
  });

  it('tells caches of new second-stage pages in caching mode, and not of first-stage ones', () => {
    const rig = rigOf({ CAP: { CM: 1 } });
    const device = rig.device(0x100);
    const [first, second] = [rig.domain(device), rig.domain(device, DIRTY)];
    rig.attach(device, second);
    expect(device.read(IOVA)).toBe('fault');
    rig.take();
    second.map(IOVA, rig.ram('abc'), PAGE, PROT);
    expect(rig.take()).toEqual(['iotlb device/page did=2 0x40000000+0 dr dw']);
    expect(device.read(IOVA)).toBe('abc');
    rig.attach(device, first);
    rig.take();
    first.map(IOVA, rig.ram('abc'), PAGE, PROT);
    expect(rig.take()).toEqual([]);
  });

  it('sends many invalidations sixteen at a time', () => {
    const rig = rigOf();
    const devices: RigFunction[] = Array.from({ length: 20 }, (_, i) =>
      rig.device(0x100 + i * 8, { withAts: true }),
    );
    const domain = rig.domain(devices[0]!);
    domain.map(IOVA, rig.ram('abc'), PAGE, PROT);
    for (const device of devices) rig.attach(device, domain);
    let submissions = 0;
    rig.kernel.trace.subscribe((event) => {
      if (event.kind === 'register' && event['write'] === true && event['name'] === 'IQT_REG') submissions++;
    });
    rig.take();
    domain.unmap(IOVA, PAGE);
    expect(rig.take()).toHaveLength(21);
    expect(submissions).toBe(2);
  });

  it('goes on where a device is gone that should answer', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, 0, { withAts: true });
    device.answersInvalidations = false;
    domain.unmap(IOVA, PAGE);
    expect(rig.logs).toContain('Invalidation Time-out Error (ITE) cleared');
    device.answersInvalidations = true;
    expect(domain.map(IOVA, rig.ram('new'), PAGE, PROT)).toBeUndefined();
    domain.unmap(IOVA, PAGE);
    domain.map(IOVA, rig.ram('new'), PAGE, PROT);
    expect(device.read(IOVA)).toBe('new');
  });
});

describe('dirty tracking', () => {
  it('is turned on in the PASID table entry, with the flush that goes with it', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, DIRTY, { withAts: true });
    const dirty = (): bigint[] => {
      const pages: bigint[] = [];
      domain.readAndClearDirty(IOVA, PAGE, true, (iova) => void pages.push(iova));
      domain.iotlbSync();
      return pages;
    };
    expect(device.write(IOVA, 'one')).toBe('done');
    expect(dirty()).toEqual([]);
    rig.take();
    expect(domain.setDirtyTracking(true)).toBeUndefined();
    expect(rig.take()).toEqual([
      'pasid-cache pasid did=2 pasid=0',
      'iotlb domain did=2 dr dw',
      'devtlb sid=0x100 pfsid=0x100 0x7ffffffffffff000 s',
    ]);
    expect(device.read(IOVA)).toBe('one');
    expect(dirty()).toEqual([]);
    expect(device.write(IOVA, 'two')).toBe('done');
    expect(dirty()).toEqual([IOVA]);
    expect(dirty()).toEqual([]);
    expect(device.write(IOVA, 'six')).toBe('done');
    expect(dirty()).toEqual([IOVA]);
    domain.setDirtyTracking(false);
    expect(device.write(IOVA, 'ten')).toBe('done');
    expect(dirty()).toEqual([]);
  });

  it('empties what has cached the dirty state, where something was dirty', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, DIRTY);
    domain.setDirtyTracking(true);
    device.write(IOVA, 'one');
    domain.readAndClearDirty(IOVA, PAGE, true, null);
    rig.take();
    domain.iotlbSync();
    expect(rig.take()).toEqual(['iotlb device/page did=2 0x40000000+0 ih dr dw']);
    domain.readAndClearDirty(IOVA, PAGE, true, null);
    domain.iotlbSync();
    expect(rig.take()).toEqual([]);
  });

  it('leaves the bits where it is not to clear', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, DIRTY);
    domain.setDirtyTracking(true);
    device.write(IOVA, 'one');
    const seen: bigint[] = [];
    for (let i = 0; i < 2; i++) domain.readAndClearDirty(IOVA, PAGE, false, (iova) => void seen.push(iova));
    expect(seen).toEqual([IOVA, IOVA]);
  });

  it('goes on with devices that are attached later, and with PASIDs', () => {
    const rig = rigOf();
    const { domain } = mapped(rig, DIRTY | IOMMU_HWPT_ALLOC_PASID);
    domain.setDirtyTracking(true);
    const later = rig.device(0x108);
    rig.attach(later, domain, 7);
    expect(later.write(IOVA, 'two', 7)).toBe('done');
    const seen: bigint[] = [];
    domain.readAndClearDirty(IOVA, PAGE, true, (iova) => void seen.push(iova));
    expect(seen).toEqual([IOVA]);
  });
});

describe('cache coherency', () => {
  it('is enforced by SNP of second-stage pages that are mapped afterwards', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, DIRTY);
    const snoops = (iova: bigint): boolean => {
      const outcome = rig.unit.hardware.translate({
        requesterId: 0x100,
        hi: 0,
        lo: Number.parseInt(iova.toString(), 10),
      });
      return outcome.kind === 'translated' && outcome.snoop;
    };
    expect(snoops(IOVA)).toBe(false);
    expect(domain.enforceCacheCoherency()).toBe(true);
    domain.map(IOVA + PAGE, rig.ram('abc'), PAGE, PROT);
    expect([snoops(IOVA), snoops(IOVA + PAGE)]).toEqual([false, true]);
    expect(device.read(IOVA + PAGE)).toBe('abc');
  });

  it('is enforced by PGSNP of the entries of a first stage, which are flushed', () => {
    const rig = rigOf();
    const { device, domain } = mapped(rig, 0, { withAts: true });
    expect(device.read(IOVA)).toBe('abc');
    expect(domain.enforceCacheCoherency()).toBe(true);
    expect(rig.take()).toEqual([
      'pasid-cache pasid did=2 pasid=0',
      'piotlb did=2 pasid=0 all',
      'devtlb sid=0x100 pfsid=0x100 0x7ffffffffffff000 s',
    ]);
    expect(domain.enforceCacheCoherency()).toBe(true);
    expect(rig.take()).toEqual([]);
  });

  it('cannot be had without Snoop Control', () => {
    const rig = rigOf({ ECAP: { SC: 0 } });
    const { domain } = mapped(rig);
    expect(domain.enforceCacheCoherency()).toBe(false);
  });
});

describe('faults', () => {
  it('are logged with the device, the address and the reason', () => {
    const rig = rigOf();
    const { device } = mapped(rig);
    device.write(0x1234_5000n, 'bad');
    expect(rig.logs.at(-1)).toBe(
      '[DMA Write NO_PASID] Request device [01:00.0] fault addr 0x12345000 [fault reason 0x71: SFS.2]',
    );
    device.read(0x6000n, 5);
    expect(rig.logs.at(-1)).toContain('[DMA Read PASID 0x5] Request device [01:00.0] fault addr 0x6000');
  });

  it('are all taken, and more can come', () => {
    const rig = rigOf();
    const { device } = mapped(rig);
    for (let i = 0; i < 20; i++) device.read(BigInt(0x10_0000 + i * 0x1000));
    expect(rig.logs.filter((text) => text.startsWith('[DMA Read'))).toHaveLength(20);
  });
});
