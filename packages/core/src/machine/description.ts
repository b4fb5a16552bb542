import { z } from 'zod';
import { DEFAULT_PROFILE, PROFILES } from '../iommufd/profile.ts';
import { DEVICE_MODEL_NAMES } from './device-models.ts';
import { DEFAULT_PARTS, IOMMU_TYPES, STREAM_ID_TYPES } from './parts.ts';
import { requesterIdOf } from './pci-address.ts';

const profileNames = PROFILES.map((profile) => profile.name) as [string, ...string[]];

const name = z.string().min(1);

const iommuSchema = z.strictObject({
  name: name.describe('How devices refer to it.'),
  type: z.enum(IOMMU_TYPES).describe('What hardware it is.'),
});

const deviceSchema = z.strictObject({
  name: name.describe('Its PCI address (0000:0a:00.0), which is also its requester id.'),
  iommu: name.describe('The IOMMU that it is behind.'),
  stream: z
    .int()
    .min(0)
    .max(0xffff)
    .optional()
    .describe('Behind an SMMUv3: its stream id; its requester id where that is left out.'),
  pasids: z.int().min(0).max(0x100000).default(0).describe('How many PASIDs it may use.'),
  ats: z.boolean().default(false).describe('Whether it has a translation cache of its own (PCI ATS).'),
  model: z.enum(DEVICE_MODEL_NAMES).default('none').describe('What it does on its own.'),
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
    const types = new Map(machine.iommus.map((iommu) => [iommu.name, iommu.type]));
    for (const [index, device] of machine.devices.entries()) {
      const refuse = (key: string, message: string): void =>
        context.addIssue({ code: 'custom', path: ['devices', index, key], message });
      const type = types.get(device.iommu);
      if (type === undefined) {
        const known = [...types.keys()].join(', ') || 'none';
        refuse('iommu', `there is no IOMMU '${device.iommu}'; there are ${known}`);
      } else if (device.stream !== undefined && !STREAM_ID_TYPES.includes(type)) {
        refuse('stream', `${type} has no stream ids: it knows a device by its PCI address`);
      } else if (device.stream === undefined && requesterIdOf(device.name) === null) {
        refuse('name', `'${device.name}' is no PCI address, such as 0000:0a:00.0`);
      }
    }
  });

/** A machine, with every default filled in. */
export type MachineDescription = z.infer<typeof machineSchema>;
