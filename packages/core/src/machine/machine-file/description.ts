import { z } from 'zod';
import { DEFAULT_PROFILE, PROFILES } from '../../iommufd/profile.ts';
import { TRIAL_UAPIS } from '../../iommufd/trial-uapi.ts';
import { DEVICE_MODEL_NAMES, MIGRATABLE_MODELS } from '../devices/device-models.ts';
import { DEFAULT_PARTS, IOMMU_TYPES, STREAM_ID_TYPES } from './parts.ts';
import { checkRegisters } from './registers.ts';
import { requesterIdOf } from './pci-address.ts';

const profileNames = PROFILES.map((profile) => profile.name) as [string, ...string[]];

const name = z.string().min(1);

const cmdqvSchema = z
  .strictObject({
    vcmdqsLog2: z.int().min(0).max(7).default(7).describe('log2 of its queues.'),
    vintfsLog2: z
      .int()
      .min(0)
      .max(6)
      .default(6)
      .describe('log2 of its interfaces, of which the kernel has one.'),
    sidsLog2: z.int().min(0).max(4).default(4).describe('log2 of the StreamIDs that an interface replaces.'),
  })
  .refine(
    (sizes) => sizes.vcmdqsLog2 >= sizes.vintfsLog2,
    'every interface needs a queue: vcmdqsLog2 is too small',
  );

const iommuSchema = z.strictObject({
  name: name.describe('How devices refer to it.'),
  type: z.enum(IOMMU_TYPES).describe('What hardware it is.'),
  registers: z
    .record(z.string(), z.record(z.string(), z.int().min(0)))
    .optional()
    .describe(
      "Fields of its ID registers that differ from the model's: what is not advertised does not work.",
    ),
  cmdqv: cmdqvSchema.optional().describe("Beside an SMMUv3: NVIDIA's CMDQ-V, whose queues VMs can have."),
});

const diskSchema = z
  .strictObject({
    bytes: z
      .int()
      .min(4096)
      .max(2 ** 32)
      .optional()
      .describe('How large a disk in memory is.'),
    file: name.optional().describe('The file that is the disk, as large as it is.'),
    readOnly: z.boolean().optional().describe('Whether the disk refuses to be written.'),
    blockBytes: z.literal([512, 4096]).optional().describe('Bytes of a block.'),
  })
  .refine(({ bytes, file }) => bytes === undefined || file === undefined, 'bytes or file, not both');

const consoleSchema = z.strictObject({
  output: name.optional().describe('The file that gets what the driver writes.'),
  input: name.optional().describe('The file that the driver reads, once it has written something.'),
});

const migrationSchema = z.strictObject({
  p2p: z.boolean().default(true).describe('Whether it can stop its DMA alone (VFIO_MIGRATION_P2P).'),
  preCopy: z
    .boolean()
    .default(true)
    .describe('Whether it can be read while it runs (VFIO_MIGRATION_PRE_COPY).'),
  dmaLogging: z
    .boolean()
    .default(true)
    .describe('Whether it keeps a log of its DMA (VFIO_DEVICE_FEATURE_DMA_LOGGING_START).'),
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
  migration: migrationSchema
    .optional()
    .describe('That it can be migrated, as with a driver of its own; it cannot where this is left out.'),
  disk: diskSchema.optional().describe('Of an nvme: its disk; 64 MiB of memory where this is left out.'),
  console: consoleSchema.optional().describe('Of a virtio-console: its files.'),
});

type WithParts<Rest> = Rest & {
  readonly iommus: readonly z.output<typeof iommuSchema>[];
  readonly devices: readonly z.output<typeof deviceSchema>[];
};

/** What a machine file may say. Unknown keys are errors: a typing mistake must not be a default. */
export const machineSchema = z
  .strictObject({
    kernel: z.enum(profileNames).default(DEFAULT_PROFILE).describe('Which Linux answers.'),
    uapi: z
      .array(z.enum(TRIAL_UAPIS))
      .default([])
      .describe("What is served beside Linux's uAPI: proposals that Linux did not take as they were."),
    mock: z
      .boolean()
      .default(true)
      .describe(
        "Whether the kernel's mock IOMMU is there, which IOMMU_TEST_CMD drives (CONFIG_IOMMUFD_TEST).",
      ),
    iommus: z.array(iommuSchema).optional(),
    devices: z.array(deviceSchema).optional(),
  })
  // The devices that stand where nothing is said are behind the IOMMU that does.
  .transform(({ iommus, devices, ...machine }): WithParts<typeof machine> => ({
    ...machine,
    iommus: iommus ?? [...DEFAULT_PARTS.iommus],
    devices: devices ?? (iommus === undefined ? [...DEFAULT_PARTS.devices] : []),
  }))
  .superRefine((machine, context) => {
    for (const list of ['iommus', 'devices'] as const) {
      const names = machine[list].map((each) => each.name);
      for (const [index, name] of names.entries())
        if (names.indexOf(name) < index)
          context.addIssue({
            code: 'custom',
            path: [list, index, 'name'],
            message: `'${name}' stands here twice; each needs a name of its own`,
          });
    }
    for (const [index, { type, registers, cmdqv }] of machine.iommus.entries()) {
      const refuse = (path: readonly string[], message: string): void =>
        context.addIssue({ code: 'custom', path: ['iommus', index, ...path], message });
      checkRegisters(type, registers ?? {}, (path, message) => refuse(['registers', ...path], message));
      if (cmdqv !== undefined && type !== 'arm-smmu-v3')
        refuse(['cmdqv'], `a CMDQ-V stands beside an arm-smmu-v3, not beside ${type}`);
    }
    const types = new Map(machine.iommus.map((iommu) => [iommu.name, iommu.type]));
    for (const [index, device] of machine.devices.entries()) {
      const refuse = (key: string, message: string): void =>
        context.addIssue({ code: 'custom', path: ['devices', index, key], message });
      if (device.disk !== undefined && device.model !== 'nvme')
        refuse('disk', `a device with the model '${device.model}' has no disk; one with 'nvme' has`);
      if (device.console !== undefined && device.model !== 'virtio-console')
        refuse(
          'console',
          `a device with the model '${device.model}' has no console; one with 'virtio-console' has`,
        );
      if (device.migration !== undefined && !MIGRATABLE_MODELS.includes(device.model))
        refuse(
          'migration',
          `a device with the model '${device.model}' cannot be migrated; one with ${MIGRATABLE_MODELS.join(', ')} can`,
        );
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

/** As much of a JSON Schema as says which keys there are. */
interface KeyedSchema {
  readonly items?: unknown;
  readonly properties?: Readonly<Record<string, unknown>>;
  readonly additionalProperties?: unknown;
}

/** The keys that may stand at a path of a machine file. */
export function machineKeys(path: readonly PropertyKey[]): readonly string[] {
  let node: KeyedSchema = z.toJSONSchema(machineSchema, { io: 'input' });
  for (const part of path) {
    const inside: unknown =
      typeof part === 'number' ? node.items : (node.properties?.[String(part)] ?? node.additionalProperties);
    if (typeof inside !== 'object' || inside === null || Array.isArray(inside)) return [];
    node = inside;
  }
  return Object.keys(node.properties ?? {});
}

/** A machine, with every default filled in. */
export type MachineDescription = z.infer<typeof machineSchema>;
