import { z } from 'zod';
import { DEFAULT_PARTS } from './build.ts';
import { DEFAULT_PROFILE, PROFILES } from '../iommufd/profile.ts';

const profileNames = PROFILES.map((profile) => profile.name) as [string, ...string[]];

const name = z.string().min(1);

const iommuSchema = z.strictObject({
  name: name.describe('How devices refer to it.'),
  type: z.enum(['arm-smmu-v3']).describe('What hardware it is.'),
});

const deviceSchema = z.strictObject({
  name: name.describe('How traces call it; a PCI address (0000:0a:00.0) for a PCI function.'),
  iommu: name.describe('The IOMMU that it is behind.'),
  stream: z.int().min(0).max(0xffff).describe('Its stream id there.'),
  pasids: z.int().min(0).max(0x100000).default(0).describe('How many PASIDs it may use.'),
  ats: z.boolean().default(false).describe('Whether it has a translation cache of its own (PCI ATS).'),
});

/** What a machine file may say. Unknown keys are errors: a typing mistake must not be a default. */
export const machineSchema = z
  .strictObject({
    kernel: z.enum(profileNames).default(DEFAULT_PROFILE).describe('Which Linux answers.'),
    mock: z
      .boolean()
      .default(true)
      .describe(
        "Whether the kernel's mock IOMMU is there, which IOMMU_TEST_CMD drives (CONFIG_IOMMUFD_TEST).",
      ),
    iommus: z.array(iommuSchema).default([...DEFAULT_PARTS.iommus]),
    devices: z.array(deviceSchema).default([...DEFAULT_PARTS.devices]),
  })
  .superRefine((machine, context) => {
    const names = new Set(machine.iommus.map((iommu) => iommu.name));
    for (const [index, device] of machine.devices.entries()) {
      if (names.has(device.iommu)) continue;
      const known = [...names].join(', ') || 'none';
      const message = `there is no IOMMU '${device.iommu}'; there are ${known}`;
      context.addIssue({ code: 'custom', path: ['devices', index, 'iommu'], message });
    }
  });

/** A machine, with every default filled in. */
export type MachineDescription = z.infer<typeof machineSchema>;
