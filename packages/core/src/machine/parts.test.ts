import { describe, expect, it } from 'vitest';
import { machineSchema } from './description.ts';
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
});
