import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { EINVAL, EOPNOTSUPP } from '../../abi/errno.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING as DIRTY,
  IOMMU_HWPT_ALLOC_NEST_PARENT as NEST,
  IOMMU_HWPT_ALLOC_PASID as PASID,
} from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import { SimulatedMemory } from '../../memory/simulated-process.ts';
import type { IommuDomain } from '../driver.ts';
import type { AmdFunction } from './platform.ts';
import { ATS, PLAIN, PROT, Rig, type RigOptions } from './testing/rig.ts';

const rigOf = (options: RigOptions = {}): Rig => new Rig(new Kernel(), options);

/** Attaches, and fails the test where that fails. */
function attach(device: AmdFunction, domain: IommuDomain): void {
  const rc = domain.attachDevice(device, null);
  if (failed(rc)) throw new Error(rc.reason);
}

const errno = (result: unknown): number => (failed(result) ? result.errno : 0);

describe('a device and a domain with host tables', () => {
  it('get a DTE with the root, the levels and the domain id, and ATS where the device has it', () => {
    const rig = rigOf();
    const device = rig.device(8);
    const domain = rig.domain(device);
    rig.take();
    attach(device, domain);
    // IW, IR, Mode 3, TV, V.
    const root = domain.table.root.toString(16).padStart(13, '0').slice(0, -3);
    expect(rig.dte(8)).toEqual([`600${root}603`, '0000000100000002', '0000000000000000', '0000000000000000']);
    expect(rig.take()).toEqual([
      'ATS on',
      'INVALIDATE_DEVTAB_ENTRY',
      'COMPLETION_WAIT',
      'INVALIDATE_DEVTAB_ENTRY',
      'INVALIDATE_IOTLB_PAGES',
      'COMPLETION_WAIT',
    ]);
  });

  it('read what is mapped, and nothing after it was unmapped', () => {
    const rig = rigOf();
    for (const device of [rig.device(8), rig.device(9, { pci: PLAIN })]) {
      const domain = rig.domain(device);
      attach(device, domain);
      expect(errno(domain.map(0x4000n, rig.ram('abc'), 0x1000n, PROT))).toBe(0);
      expect(rig.read(device, 0x4000n)).toBe('abc');
      expect(domain.unmap(0x4000n, 0x1000n)).toBe(0x1000n);
      expect(rig.read(device, 0x4000n)).toBe('fault');
    }
    // A translation request that is denied is no fault.
    const fault = 'Event logged [IO_PAGE_FAULT domain=0x0003 address=0x4000 flags=0x0000]';
    expect(rig.logs).toEqual([`dev9: ${fault}`]);
  });

  it('invalidate once for an unmap, with PDE only where a table goes', () => {
    const rig = rigOf();
    const device = rig.device(8);
    const domain = rig.domain(device);
    attach(device, domain);
    domain.map(0n, 0x9000, 0x30_0000n, PROT);
    rig.take();
    const words: number[][] = [];
    rig.kernel.trace.subscribe((event) => {
      if (event.kind === 'command') words.push([...(event['words'] as number[])]);
    });
    domain.unmap(0x20_0000n, 0x3000n);
    expect(rig.take()).toEqual(['INVALIDATE_IOMMU_PAGES', 'INVALIDATE_IOTLB_PAGES', 'COMPLETION_WAIT']);
    // Four pages from 200000h on: ones in 12, and S.
    expect(words[0]!.slice(2)).toEqual([0x20_1001, 0]);
    domain.unmap(0n, 0x20_0000n);
    expect(words[3]!.slice(2)).toEqual([0xf_f003, 0]);
  });

  it('follow the table upwards when it grows', () => {
    const rig = rigOf();
    const device = rig.device(8);
    const domain = rig.domain(device);
    attach(device, domain);
    domain.map(0n, rig.ram('low'), 0x1000n, PROT);
    expect(rig.read(device, 0n)).toBe('low');
    const high = 1n << 62n;
    expect(errno(domain.map(high, rig.ram('top'), 0x1000n, PROT))).toBe(0);
    expect(rig.dte(8)[0]!.slice(-3)).toBe('c03');
    expect(rig.read(device, high)).toBe('top');
    expect(rig.read(device, 0n)).toBe('low');
  });

  it('have no alias of a low address above their width', () => {
    const rig = rigOf({ config: { EFR: { HATS: 0 } } });
    const device = rig.device(8);
    const domain = rig.domain(device);
    attach(device, domain);
    expect(domain.aperture.last).toBe((1n << 48n) - 1n);
    domain.map(0x1000n, rig.ram('low'), 0x1000n, PROT);
    domain.map(1n << 47n, rig.ram('top'), 0x1000n, PROT);
    expect(rig.read(device, 1n << 47n)).toBe('top');
    for (const bit of [48n, 52n, 57n, 63n]) expect(rig.read(device, 0x1000n | (1n << bit))).toBe('fault');
    expect(rig.read(device, 0x1000n)).toBe('low');
  });

  it('leave nothing in any cache when the device goes to another domain', () => {
    const rig = rigOf();
    const device = rig.device(8);
    const [one, two] = [rig.domain(device), rig.domain(device)];
    one.map(0x1000n, rig.ram('one'), 0x1000n, PROT);
    two.map(0x1000n, rig.ram('two'), 0x1000n, PROT);
    attach(device, one);
    expect(rig.read(device, 0x1000n)).toBe('one');
    attach(device, two);
    expect(rig.read(device, 0x1000n)).toBe('two');
    attach(device, rig.driver.blockedDomain);
    expect(rig.read(device, 0x1000n)).toBe('fault');
    expect(rig.dte(8)).toEqual([
      '0000000000000001',
      '0000000000000000',
      '0000000000000000',
      '0000000000000000',
    ]);
  });

  it('are shared by devices behind two IOMMUs', () => {
    const rig = rigOf({ units: 2 });
    const [a, b] = [rig.device(8), rig.device(9, { unit: 1 })];
    const domain = rig.domain(a);
    attach(a, domain);
    attach(b, domain);
    domain.map(0x1000n, rig.ram('abc'), 0x1000n, PROT);
    expect([rig.read(a, 0x1000n), rig.read(b, 0x1000n)]).toEqual(['abc', 'abc']);
    domain.unmap(0x1000n, 0x1000n);
    expect([rig.read(a, 0x1000n), rig.read(b, 0x1000n)]).toEqual(['fault', 'fault']);
  });
});

describe('a device and a domain with guest tables', () => {
  it('get a DTE with a GCR3 table, whose entry 0 is the domain', () => {
    const rig = rigOf({ driver: { pageTable: 'v2' } });
    const device = rig.device(8);
    const domain = rig.domain(device);
    attach(device, domain);
    const [first, second, third] = rig.dte(8);
    // GIOV, GV and PPR; TV, V.
    expect(Number.parseInt(first!.slice(2, 4), 16) & 0xf0).toBe(0xf0 & 0xd0);
    expect(first!.slice(-1)).toBe('3');
    expect(Number.parseInt(second!.slice(-4), 16)).toBe(device.gcr3!.domainId);
    expect(device.gcr3!.domainId).not.toBe(domain.id);
    // Five levels.
    expect(third).toBe('0040000000000000');
    domain.map(0x4000n, rig.ram('abc'), 0x1000n, PROT);
    expect(rig.read(device, 0x4000n)).toBe('abc');
    domain.unmap(0x4000n, 0x1000n);
    expect(rig.read(device, 0x4000n)).toBe('fault');
  });

  it('leave the translations of a device that sends no PASID in its cache, as Linux 7.3 flushes it', () => {
    const rig = rigOf({ driver: { pageTable: 'v2', linuxIotlbFlush: true } });
    const device = rig.device(8);
    const domain = rig.domain(device);
    attach(device, domain);
    domain.map(0x4000n, rig.ram('abc'), 0x1000n, PROT);
    expect(rig.read(device, 0x4000n)).toBe('abc');
    domain.unmap(0x4000n, 0x1000n);
    expect(rig.read(device, 0x4000n)).toBe('abc');
  });

  it('have one level less where the CPUs have', () => {
    const rig = rigOf({ driver: { pageTable: 'v2', la57: false } });
    const device = rig.device(8);
    const domain = rig.domain(device);
    attach(device, domain);
    expect(domain.aperture.last).toBe((1n << 47n) - 1n);
    expect(rig.dte(8)[2]).toBe('0000000000000000');
    domain.map(0x4000n, rig.ram('abc'), 0x1000n, PROT);
    expect(rig.read(device, 0x4000n)).toBe('abc');
  });

  it('give back every page and domain id that they took', () => {
    const rig = rigOf();
    const device = rig.device(8);
    const before = rig.driver.domainIds.take()!;
    rig.driver.domainIds.free(before);
    const domain = rig.domain(device, PASID);
    attach(device, domain);
    attach(device, rig.driver.blockedDomain);
    domain.free();
    expect(rig.driver.domainIds.take()).toBe(before);
  });

  it('serve PASIDs where the driver is told to, and leave their neighbours alone', () => {
    const rig = rigOf({ driver: { pasidDomains: true } });
    const device = rig.device(8);
    const [rid, one, two] = [rig.domain(device, PASID), rig.domain(device, PASID), rig.domain(device, PASID)];
    rid.map(0x1000n, rig.ram('rid'), 0x1000n, PROT);
    one.map(0x1000n, rig.ram('one'), 0x1000n, PROT);
    two.map(0x1000n, rig.ram('two'), 0x1000n, PROT);
    expect(errno(one.setDevicePasid!(device, 5, null))).toBe(EINVAL);
    attach(device, rid);
    expect(errno(one.setDevicePasid!(device, 5, null))).toBe(0);
    expect(errno(two.setDevicePasid!(device, 200, null))).toBe(0);
    expect(errno(two.setDevicePasid!(device, 256, null))).toBe(EINVAL);
    expect(errno(two.setDevicePasid!(device, 5, one))).toBe(EOPNOTSUPP);
    const all = (): string[] => [null, 5, 200].map((pasid) => rig.read(device, 0x1000n, pasid));
    expect(all()).toEqual(['rid', 'one', 'two']);
    one.unmap(0x1000n, 0x1000n);
    expect(all()).toEqual(['rid', 'fault', 'two']);
    rig.driver.blockedDomain.setDevicePasid(device, 200, two);
    expect(all()).toEqual(['rid', 'fault', 'fault']);
  });

  it('cannot be attached to a PASID otherwise, as in Linux 7.3', () => {
    const rig = rigOf();
    const device = rig.device(8);
    expect(rig.domain(device, PASID).setDevicePasid).toBeUndefined();
  });
});

describe('an identity domain', () => {
  it('passes addresses as they are, with a GCR3 table beside where the device has PASIDs', () => {
    const rig = rigOf();
    const device = rig.device(8);
    const plain = rig.device(9, { pci: PLAIN });
    const pa = BigInt(rig.ram('abc'));
    for (const each of [device, plain]) {
      attach(each, rig.driver.identityDomain);
      expect(rig.read(each, pa)).toBe('abc');
    }
    expect(device.gcr3).not.toBeNull();
    expect(plain.gcr3).toBeNull();
    expect(rig.dte(9)).toEqual([
      '6000000000000003',
      '0000000000000001',
      '0000000000000000',
      '0000000000000000',
    ]);
  });
});

describe('dirty tracking', () => {
  it('sets DTE.HAD, finds what was written, and finds it again after it was cleared', () => {
    const rig = rigOf();
    const device = rig.device(8);
    const domain = rig.domain(device, DIRTY);
    attach(device, domain);
    domain.map(0n, rig.ram('', 16), 0x1_0000n, PROT);
    const dirty = (clear = true): bigint[] => {
      const seen: bigint[] = [];
      const rc = domain.readAndClearDirty(0n, 0x1_0000n, clear, (iova) => seen.push(iova));
      expect(errno(rc)).toBe(0);
      domain.iotlbSync();
      return seen;
    };
    rig.write(device, 0x2000n, 'x');
    expect(dirty()).toEqual([]);
    expect(rig.dte(8)[0]!.slice(-3)).toBe('603');
    domain.setDirtyTracking(true);
    // HAD is 3: bits 8 and 7.
    expect(rig.dte(8)[0]!.slice(-3)).toBe('783');
    expect(dirty()).toEqual([]);
    rig.write(device, 0x2000n, 'x');
    expect(dirty(false)).toEqual([0n]);
    expect(dirty()).toEqual([0n]);
    expect(dirty()).toEqual([]);
    rig.write(device, 0x2000n, 'y');
    expect(dirty()).toEqual([0n]);
    domain.setDirtyTracking(false);
    rig.write(device, 0x2000n, 'z');
    expect(dirty()).toEqual([]);
  });

  it('needs hardware that has it', () => {
    const rig = rigOf({ config: { EFR: { HDSup: 0 } } });
    const device = rig.device(8);
    expect(rig.driver.capable(device, 'dirty-tracking')).toBe(false);
    const made = rig.driver.domainAllocPagingFlags(device, DIRTY, new SimulatedMemory(), null);
    expect(errno(made)).toBe(EOPNOTSUPP);
  });
});

describe('what kinds of domains there are', () => {
  const mode = (rig: Rig, flags: number): string => {
    const made = rig.driver.domainAllocPagingFlags(rig.device(8), flags, new SimulatedMemory(), null);
    return failed(made) ? 'EOPNOTSUPP' : (made as unknown as { mode: string }).mode;
  };

  it('follows the flags as amd_iommu_domain_alloc_paging_flags() does', () => {
    const kinds = [0, DIRTY, NEST, DIRTY | NEST, PASID, PASID | DIRTY, PASID | NEST, 0x80];
    expect(kinds.map((flags) => mode(rigOf(), flags))).toEqual([
      'v1',
      'v1',
      'v1',
      'v1',
      'v2',
      'EOPNOTSUPP',
      'EOPNOTSUPP',
      'EOPNOTSUPP',
    ]);
  });

  it('follows what the hardware has', () => {
    expect(mode(rigOf({ config: { EFR2: { GCR3TRPMode: 0 } } }), NEST)).toBe('EOPNOTSUPP');
    expect(mode(rigOf({ config: { EFR: { EPHSup: 0 } } }), PASID)).toBe('EOPNOTSUPP');
    // The CPUs' tables have five levels, and the IOMMU's four.
    expect(mode(rigOf({ config: { EFR: { GATS: 0 } } }), PASID)).toBe('EOPNOTSUPP');
    expect(mode(rigOf({ config: { EFR: { GATS: 0 } }, driver: { la57: false } }), PASID)).toBe('v2');
  });
});

describe('what the driver says of a device', () => {
  it('is hw_info byte for byte', () => {
    const rig = rigOf();
    const info = rig.driver.hwInfo(rig.device(8), 0);
    if (failed(info)) throw new Error(info.reason);
    const expected = new DataView(new ArrayBuffer(16));
    expected.setBigUint64(0, rig.unit.hardware.readRegister(0x30, 8), true);
    expected.setBigUint64(8, rig.unit.hardware.readRegister(0x1a0, 8), true);
    expect(info.type).toBe(4);
    expect([...info.data]).toEqual([...new Uint8Array(expected.buffer)]);
    expect(errno(rig.driver.hwInfo(rig.device(9), 2))).toBe(EOPNOTSUPP);
  });

  it('is the ranges of MSIs and of HyperTransport, and what firmware reserves', () => {
    const msi = { type: 'msi', start: 0xfee0_0000n, length: 0x10_0000n };
    const ht = { type: 'reserved', start: 0xfd_0000_0000n, length: 0x3_0000_0000n };
    const unityMaps = [{ firstDevice: 8, lastDevice: 8, start: 0x10_0000n, length: 0x1000n }];
    const segmentOptions = { lastDevice: 0xff, unityMaps };
    const rig = rigOf({ segmentOptions });
    const direct = { type: 'direct', start: 0x10_0000n, length: 0x1000n };
    expect(rig.driver.reservedRegions(rig.device(8))).toEqual([direct, msi]);
    expect(rig.driver.reservedRegions(rig.device(9))).toEqual([msi]);
    const old = rigOf({ config: { EFR2: { HTRangeIgnore: 0 } } });
    expect(old.driver.reservedRegions(old.device(8))).toEqual([msi, ht]);
  });

  it('is PASIDs and ATS only where the IOMMU can do page requests', () => {
    const rig = rigOf({ config: { EFR: { EPHSup: 0 } } });
    const device = rig.device(8, { pci: ATS });
    expect(device.supports).toEqual({ ats: false, pri: false, pasid: false });
    expect(rig.driver.capable(device, 'pci-ats-supported')).toBe(false);
    expect(rig.driver.capable(rigOf().device(8), 'pci-ats-supported')).toBe(true);
  });
});

describe('aliases of a device', () => {
  it('have its DTE', () => {
    const rig = rigOf();
    const device = rig.device(8, { aliases: [0x10, 0x11] });
    const domain = rig.domain(device);
    attach(device, domain);
    expect(rig.dte(0x10)).toEqual(rig.dte(8));
    expect(rig.dte(0x11)).toEqual(rig.dte(8));
    attach(device, rig.driver.blockedDomain);
    expect(rig.dte(0x11)).toEqual(rig.dte(8));
  });
});
