import { z } from 'zod';
import { DEFAULT_PROFILE, PROFILES } from '../iommufd/profile.ts';

const profileNames = PROFILES.map((profile) => profile.name) as [string, ...string[]];

/** What a machine file may say. Unknown keys are errors: a typing mistake must not be a default. */
export const machineSchema = z.strictObject({
  kernel: z.enum(profileNames).default(DEFAULT_PROFILE).describe('Which Linux answers.'),
  mock: z
    .boolean()
    .default(true)
    .describe("Whether the kernel's mock IOMMU is there, which IOMMU_TEST_CMD drives (CONFIG_IOMMUFD_TEST)."),
});

/** A machine, with every default filled in. */
export type MachineDescription = z.infer<typeof machineSchema>;
