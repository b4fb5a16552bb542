import { describe, expect, it } from 'vitest';
import { failed } from '../../base/result.ts';
import { CR0 } from '../../iommu/arm-smmu-v3/spec/registers.ts';
import { machineSchema } from './description.ts';
import { Kernel } from '../kernel.ts';
import { DEFAULT_PARTS, loadParts } from './parts.ts';
import { requesterIdOf } from './pci-address.ts';

const refusals = (machine: unknown): string[] => {
  const parsed = machineSchema.safeParse(machine);
  return parsed.success
    ? []
    : parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
};

describe('requesterIdOf', () => {
  it('is bus, device and function of a PCI address', () => {
    expect(requesterIdOf('0000:0a:00.0')).toBe(0x0a00);
    expect(requesterIdOf('0000:ff:1f.7')).toBe(0xffff);
    expect(requesterIdOf('0001:0B:02.3')).toBe(0x0b13);
  });

  it('is nothing where the name is no PCI address', () => {
    for (const name of ['nic', '0a:00.0', '0000:0a:20.0', '0000:0a:00.8', '0000:0a:00.0x'])
      expect(requesterIdOf(name)).toBeNull();
  });
});

describe('loadParts', () => {
  it('loads each kind of IOMMU once, and knows devices by stream id or requester id', async () => {
    const [device] = DEFAULT_PARTS.devices;
    const { stream, ...without } = device!;
    const parts = await loadParts({
      iommus: [...DEFAULT_PARTS.iommus, { name: 'smmu1', type: 'arm-smmu-v3' }],
      devices: [device!, { ...without, iommu: 'smmu1' }],
    });
    expect(new Set(parts.iommus.map(({ vendor }) => vendor)).size).toBe(1);
    expect(parts.devices.map(({ requesterId }) => requesterId)).toEqual([stream, 0x0a00]);
  });
});

describe('the schema of machine files', () => {
  const smmu = { name: 'smmu0', type: 'arm-smmu-v3' };

  it('takes a device without a stream id where its name is a PCI address', () => {
    const device = { name: '0000:0a:00.0', iommu: 'smmu0' };
    expect(refusals({ iommus: [smmu], devices: [device] })).toEqual([]);
    expect(refusals({ iommus: [smmu], devices: [{ ...device, name: 'nic' }] })).toEqual([
      "devices.0.name: 'nic' is no PCI address, such as 0000:0a:00.0",
    ]);
    expect(refusals({ iommus: [smmu], devices: [{ ...device, name: 'nic', stream: 3 }] })).toEqual([]);
  });

  it('names the IOMMUs that there are', () => {
    expect(refusals({ iommus: [smmu], devices: [{ name: '0000:0a:00.0', iommu: 'smmu1' }] })).toEqual([
      "devices.0.iommu: there is no IOMMU 'smmu1'; there are smmu0",
    ]);
  });

  it('names the registers and fields that there are, and how wide they are', () => {
    const of = (registers: object): string[] => refusals({ iommus: [{ ...smmu, registers }], devices: [] });
    expect(of({ IDR0: { ATS: 0 }, IDR5: { OAS: 5 } })).toEqual([]);
    expect(of({ IDR9: {} })[0]).toMatch(/^iommus\.0\.registers\.IDR9: arm-smmu-v3 has no register 'IDR9'/);
    expect(of({ IDR0: { ATSS: 0 } })[0]).toMatch(
      /^iommus\.0\.registers\.IDR0\.ATSS: IDR0 has no field 'ATSS'; .*\bATS\b/,
    );
    expect(of({ IDR0: { TTF: 4 } })).toEqual([
      'iommus.0.registers.IDR0.TTF: 4 does not fit: IDR0.TTF has 2 bits',
    ]);
  });

  it('wants a queue for every interface of a CMDQ-V', () => {
    const cmdqv = { vcmdqsLog2: 1, vintfsLog2: 2 };
    expect(refusals({ iommus: [{ ...smmu, cmdqv }], devices: [] })).toEqual([
      'iommus.0.cmdqv: every interface needs a queue: vcmdqsLog2 is too small',
    ]);
    expect(refusals({ iommus: [{ ...smmu, cmdqv: {} }], devices: [] })).toEqual([]);
  });
});

describe('a machine', () => {
  const description = (iommu: object): Parameters<typeof loadParts>[0] =>
    machineSchema.parse({
      iommus: [{ name: 'smmu0', type: 'arm-smmu-v3', ...iommu }],
      devices: [{ name: '0000:0a:00.0', iommu: 'smmu0', ats: true }],
    });

  it('is refused before anything runs where its registers contradict each other', async () => {
    await expect(loadParts(description({ registers: { IDR0: { S1P: 0, S2P: 0 } } }))).rejects.toThrow(
      /SMMUv3/,
    );
  });

  it('says why a driver cannot run an IOMMU', async () => {
    const bigEndian = { registers: { IDR0: { TTENDIAN: 3 } } };
    const kernel = new Kernel({ parts: await loadParts(description(bigEndian)) });
    const up = kernel.bringUp();
    expect(failed(up) && up.reason).toMatch(/^the driver cannot run smmu0: /);
  });

  it('has what its registers say, and no more', async () => {
    // CR0.ATSCHK, which the driver sets where IDR0.ATS is.
    const checksAts = async (registers: object): Promise<boolean> => {
      const kernel = new Kernel({ parts: await loadParts(description({ registers })) });
      let last = 0;
      kernel.trace.subscribe((event) => {
        if (event['name'] === 'SMMU_CR0' && event['write'] === true) last = Number(event['value']);
      });
      expect(kernel.bringUp()).toBeUndefined();
      return (last & CR0.ATSCHK.inPlace) !== 0;
    };
    expect(await checksAts({})).toBe(true);
    expect(await checksAts({ IDR0: { ATS: 0, PRI: 0 } })).toBe(false);
  });
});
