import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
} from '../../abi/iommufd.ts';
import { Kernel } from '../../machine/kernel.ts';
import { IOMMU_READ } from '../driver.ts';
import type { Platform } from './driver/features.ts';
import type { ConfigOverrides } from './hardware/registers/config.ts';
import { PRG_RESPONSE } from './spec/queues.ts';
import { ATS, PROT, readText, Rig } from './testing/rig.ts';

describe('an SMMU that has not everything', () => {
  const cases: readonly [string, ConfigOverrides, Platform][] = [
    ['a linear stream table', { IDR0: { ST_LEVEL: 0 }, IDR1: { SIDSIZE: 10 } }, {}],
    ['stage 1 alone', { IDR0: { S2P: 0, Hyp: 0 } }, {}],
    ['stage 2 alone', { IDR0: { S1P: 0, Hyp: 0 } }, {}],
    ['16 KiB pages', { IDR5: { GRAN4K: 0, GRAN64K: 0 } }, {}],
    ['64 KiB pages and 52-bit addresses', { IDR5: { GRAN4K: 0, GRAN16K: 0 } }, {}],
    ['40-bit addresses', { IDR5: { OAS: 2 } }, {}],
    ['no MSIs', { IDR0: { MSI: 0 } }, {}],
    ['no MSIs and no wake-up', { IDR0: { MSI: 0, SEV: 0 } }, {}],
    ['no range invalidation', { IDR3: { RIL: 0 } }, {}],
    ['8-bit ASIDs and VMIDs', { IDR0: { ASID16: 0, VMID16: 0 } }, {}],
    ['CPUs without VHE', {}, { vhe: false }],
    ['a table walker that is not coherent', { IDR0: { COHACC: 0 } }, {}],
    ['updates and commands that take their time', { updates: 'later', commandsPerStep: 1 }, {}],
  ];
  it.each(cases)('works with %s', (_, overrides, platform) => {
    const rig = new Rig(new Kernel(), overrides, platform);
    const device = rig.device(8, { pci: null });
    const domain = rig.domain(device);
    const [first, second] = [rig.ram('one', 32), rig.ram('two', 32)];
    domain.map(0x10_0000n, first, 0x2_0000n, PROT);
    expect(domain.attachDevice(device, null)).toBeUndefined();
    expect(readText(device, 0x10_0000n)).toBe('one');
    expect(domain.iovaToPhys(0x10_0123n)).toBe(first + 0x123);
    domain.unmap(0x10_0000n, 0x2_0000n);
    expect(readText(device, 0x10_0000n)).toBe('fault');
    domain.map(0x10_0000n, second, 0x2_0000n, IOMMU_READ);
    expect(readText(device, 0x10_0000n)).toBe('two');
    const write = device.dma({ write: true, iova: 0x10_0000n, pasid: null, data: new Uint8Array(1) });
    expect(failed(write)).toBe(true);
  });

  it('says what it can do', () => {
    const capabilities = (overrides: ConfigOverrides): boolean[] => {
      const rig = new Rig(new Kernel(), overrides);
      const device = rig.device(8);
      const asked = [
        'cache-coherency',
        'enforce-cache-coherency',
        'dirty-tracking',
        'pci-ats-supported',
        'noexec',
      ] as const;
      return asked.map((each) => rig.driver.capable(device, each));
    };
    expect(capabilities({})).toEqual([true, true, true, true, true]);
    expect(capabilities({ IDR0: { COHACC: 0 } })).toEqual([false, true, false, true, true]);
    expect(capabilities({ IDR0: { HTTU: 1, ATS: 0, PRI: 0 } })).toEqual([true, true, false, false, true]);
  });

  it('offers viommus only where a guest cannot do DMA that is not coherent', () => {
    const offered = (overrides: ConfigOverrides, canWbs: boolean): boolean => {
      const rig = new Rig(new Kernel(), overrides);
      return rig.driver.viommuSupported(rig.device(8, { canWbs }), 1);
    };
    expect([offered({}, false), offered({ IDR3: { FWB: 0 } }, true)]).toEqual([true, true]);
    expect([offered({ IDR3: { FWB: 0 } }, false), offered({ IDR0: { S2P: 0, Hyp: 0 } }, true)]).toEqual([
      false,
      false,
    ]);
  });

  it('of an implementation with errata offers none', () => {
    const offered = (ProductID: number, Variant: number, Revision: number): boolean => {
      const rig = new Rig(new Kernel(), { IIDR: { Implementer: 0x43b, ProductID, Variant, Revision } });
      return rig.driver.viommuSupported(rig.device(8), 1);
    };
    expect([offered(0x483, 1, 0), offered(0x483, 2, 0)]).toEqual([false, true]);
    expect([offered(0x487, 1, 0), offered(0x487, 1, 1)]).toEqual([false, true]);
  });
});

describe('PASIDs', () => {
  it('far apart have tables of CDs of their own', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8, { pci: { ...ATS, ats: 'none', maxPasids: 1 << 20 } });
    rig.driver.blockedDomain.attachDevice(device, null);
    rig.driver.blockedDomain.attachDevice(device, rig.driver.blockedDomain);
    device.group.attach(rig.driver.identityDomain, { domain: rig.driver.identityDomain });
    const pasids = [3, 5000, 0xf_ffff];
    for (const [index, pasid] of pasids.entries()) {
      const domain = rig.domain(device, IOMMU_HWPT_ALLOC_PASID);
      domain.map(0x1000n, rig.ram(`p${index}x`), 0x1000n, PROT);
      expect(domain.setDevicePasid!(device, pasid, null)).toBeUndefined();
    }
    expect(pasids.map((pasid) => readText(device, 0x1000n, pasid))).toEqual(['p0x', 'p1x', 'p2x']);
    expect([4, 5001].map((pasid) => readText(device, 0x1000n, pasid))).toEqual(['fault', 'fault']);
  });

  it('end with the last page of their tables given back', () => {
    const rig = new Rig(new Kernel());
    const before = rig.kernel.physical.ram.size;
    const device = rig.device(0x3f8, { pci: { ...ATS, maxPasids: 1 << 20 } });
    const domain = rig.domain(device);
    domain.attachDevice(device, null);
    rig.unit.smmu.releaseDevice(device);
    domain.free();
    // The table of STEs that its StreamID needed stays, as in Linux.
    expect(rig.kernel.physical.ram.size - before).toBe(4);
  });
});

describe('the stages of a domain', () => {
  it('say in memory what the specification has for them', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8, { pci: null });
    const word = new Uint32Array(2);
    const qword = (index: number): bigint => {
      rig.kernel.physical.load64(rig.unit.smmu.streamTable.steAddress(8) + index * 8, word);
      return (BigInt(word[1]!) << 32n) | BigInt(word[0]!);
    };
    expect(qword(0)).toBe(1n);
    rig.driver.identityDomain.attachDevice(device, null);
    expect([qword(0), qword(1)]).toEqual([9n, 1n << 44n]);
    const parent = rig.domain(device, IOMMU_HWPT_ALLOC_NEST_PARENT);
    parent.attachDevice(device, rig.driver.identityDomain);
    // Stage 2 with FWB, VMID 1, 48 bits from level 0, 4 KiB pages, AArch64, PTW and R.
    expect([qword(0), qword(1), qword(2)]).toEqual([
      0xdn,
      (1n << 44n) | (1n << 25n),
      0x0448_3590_0000_0001n | (5n << 48n),
    ]);
    const dirty = rig.domain(device, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    dirty.attachDevice(device, parent);
    // Stage 1 at EL2-E2H with a linear CD table, SSID0, no stalls.
    expect([qword(0) & 0xfn, qword(1)]).toEqual([0xbn, 0x8800_00d6n]);
  });
});

describe('what goes wrong in hardware', () => {
  it('does not stop the driver: an ATC that answers no invalidation', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    const domain = rig.domain(device);
    domain.map(0x1000n, rig.ram('one'), 0x1000n, PROT);
    domain.attachDevice(device, null);
    device.answersInvalidations = false;
    expect(domain.unmap(0x1000n, 0x1000n)).toBe(0x1000n);
    expect(rig.logs.some((text) => text.includes('ATC invalidate timeout'))).toBe(true);
    device.answersInvalidations = true;
    domain.map(0x1000n, rig.ram('two'), 0x1000n, PROT);
    expect(domain.unmap(0x1000n, 0x1000n)).toBe(0x1000n);
  });

  it('tells of events that were lost, and takes those that come after', () => {
    const rig = new Rig(new Kernel(), { IDR1: { EVENTQS: 2 } });
    const device = rig.device(8, { pci: null });
    rig.domain(device).attachDevice(device, null);
    const fault = (iova: bigint): unknown =>
      device.access({ write: false, iova, pasid: null, data: new Uint8Array(1) });
    for (let i = 1n; i < 8n; i++) fault(i * 0x1000n);
    device.smmu.serveInterrupts();
    expect(rig.logs.filter((text) => text.startsWith('event: F_TRANSLATION'))).toHaveLength(4);
    expect(rig.logs).toContain('EVTQ overflow detected -- events lost');
    rig.logs.length = 0;
    fault(0x9000n);
    device.smmu.serveInterrupts();
    expect(rig.logs).toHaveLength(1);
  });

  it('refuses page requests of PCIe, which Linux does not serve', () => {
    const rig = new Rig(new Kernel());
    const device = rig.device(8);
    rig.domain(device).attachDevice(device, null);
    const request = { streamId: 8, substreamId: null, hi: 0, lo: 0x5000, prgIndex: 9, last: true };
    rig.unit.hardware.requestPage({
      ...request,
      read: true,
      write: false,
      execute: false,
      privileged: false,
    });
    device.smmu.serveInterrupts();
    expect(device.pageResponses).toMatchObject([{ prgIndex: 9, code: PRG_RESPONSE.FAILURE }]);
    expect(rig.logs.some((text) => text.startsWith('unexpected PRI request received'))).toBe(true);
  });

  it('is an error where a CMD_SYNC never completes', () => {
    const rig = new Rig(new Kernel());
    const { smmu, hardware } = rig.unit;
    // The SMMU's command queue is disabled behind the driver's back.
    hardware.writeRegister(0x20, 4, 0x17n);
    const rc = smmu.issueWithSync(new Uint32Array([0x30, 0, 0, 0]));
    expect(failed(rc) && rc.errno).toBe(110);
    expect(rig.logs.some((text) => text.startsWith('CMD_SYNC timeout'))).toBe(true);
  });
});
