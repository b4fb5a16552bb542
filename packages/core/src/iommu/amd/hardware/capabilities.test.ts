// docs/amd-capabilities.md. Written anew with `npx vitest run amd/hardware/capabilities -u`.

import { describe, expect, test } from 'vitest';
import { Capabilities, table } from '../../testing/capabilities.ts';
import { CAP_HEADER, EFR, EFR2, MISC_INFO0 } from '../spec/features.ts';
import { type ConfigOverrides, amdIommuConfig } from './registers/config.ts';

/** What the model does for a field that may be set. A test wants one for each. */
const MEANING: Record<string, string> = {
  'EFR.PreFSup': 'PREFETCH_IOMMU_PAGES, which is illegal otherwise (§2.4.6).',
  'EFR.PPRSup':
    'Page requests, the PPR log and its registers, COMPLETE_PPR_REQUEST; DTE.PPR and DTE.GRPR are reserved otherwise.',
  'EFR.XTSup': 'XTEn and IntCapXTEn: interrupts with 32 bits of destination, and the registers at 0170h.',
  'EFR.NXSup': 'NX of guest tables denies execution; it is ignored otherwise.',
  'EFR.GTSup': 'GTEn: guest tables and PASIDs. GV, GLX and GCR3 of the DTE are reserved otherwise.',
  'EFR.IASup': 'INVALIDATE_IOMMU_ALL, which is illegal otherwise (§2.4.8).',
  'EFR.GASup': 'GAEn: interrupt remapping table entries of 128 bits.',
  'EFR.HESup': 'The hardware event registers at 0040h.',
  'EFR.HATS': 'DTE.Mode up to 4 + HATS; above it is IO_PAGE_FAULT.',
  'EFR.GATS': 'Guest tables of 4, and from 1 on of 5 levels.',
  'EFR.GLXSup': 'GCR3 tables of 1 + GLXSup levels; DTE.GLX above it is ILLEGAL_DEV_TABLE_ENTRY.',
  'EFR.PASMax': 'PASIDs of PASMax + 1 bits; above them is IO_PAGE_FAULT.',
  'EFR.USSup': "U/S of guest tables denies user requests; without it every request is a supervisor's.",
  'EFR.DevTblSegSup': 'DevTblSegEn up to it: 2^n segments of the device table, at 0100h.',
  'EFR.PprOvrflwEarlySup': 'The early overflow indicator at 2088h.',
  'EFR.PPRAutoRspSup': 'PprAutoRspEn and PprAutoRspAon: automatic responses, at 2080h.',
  'EFR.MsiCapMmioSup': 'The MSI capabilities and MiscInfo registers at 0150h to 0168h.',
  'EFR.GIoSup': 'DTE.GIOV: guest tables for requests without a PASID; it is reserved otherwise.',
  'EFR.HASup': 'DTE.HAD 1: Accessed in host tables. HAD is reserved otherwise.',
  'EFR.EPHSup': 'EPHEn: page requests need DTE.PPR.',
  'EFR.HDSup': 'DTE.HAD 3: Dirty in host tables.',
  'EFR.V2_HDDisSup': 'GDUpdateDis: no Dirty in guest tables.',
  'EFR.vIommuSup':
    'vIommuEn and vCmdEn: guests with queues of their own; vImuEn, GDeviceID and GuestID of the DTE are reserved otherwise.',
  'EFR.V2_HADDisSup': 'GAUpdateDis: no Accessed in guest tables.',
  'EFR2.GCR3TRPMode': 'GCR3TRPMode: the GCR3 pointer in the DTE is a GPA.',
  'EFR2.NumIntRemapSup':
    'NumIntRemapMode: 1 says 2048 interrupts per function. IntTabLen is at most 11 either way.',
  'EFR2.HTRangeIgnore':
    "FD_0000_0000h to FF_FFFF_FFFFh are memory; HyperTransport's special addresses otherwise.",
  'capHeader.CapId': 'Always 15.',
  'capHeader.CapPtr': 'How it reads.',
  'capHeader.CapType': 'Always 3.',
  'capHeader.CapRev': 'How it reads.',
  'capHeader.IotlbSup': 'Translation and translated requests (ATS), and INVALIDATE_IOTLB_PAGES.',
  'capHeader.HtTunnel': 'How it reads.',
  'capHeader.NpCache': 'That nothing is mapped is cached, until it is invalidated.',
  'capHeader.EFRSup': 'The feature registers; 0 goes with none set.',
  'capHeader.CapExt': 'How it reads.',
  'miscInfo0.MsiNum': 'The message of event log and COMPLETION_WAIT interrupts.',
  'miscInfo0.GVAsize': 'How it reads.',
  'miscInfo0.PAsize': 'Address bits above it are reserved in guest tables.',
  'miscInfo0.VAsize': 'How it reads.',
  'miscInfo0.HtAtsResv': 'How it reads.',
  'miscInfo0.MsiNumPPR': 'The message of PPR log interrupts.',
};

const defaults = amdIommuConfig();
const capabilities = new Capabilities({
  registers: [
    { name: 'EFR', layout: EFR.$, section: '§3.4, MMIO 0030h', words: defaults.efr },
    { name: 'EFR2', layout: EFR2.$, section: '§3.4, MMIO 01A0h', words: defaults.efr2 },
    { name: 'capHeader', layout: CAP_HEADER.$, section: '§3.2.1', words: [defaults.capHeader] },
    { name: 'miscInfo0', layout: MISC_INFO0.$, section: '§3.2.5', words: [defaults.miscInfo0] },
  ],
  meaning: MEANING,
  configure: (values) => amdIommuConfig(values as ConfigOverrides),
});

const OPTIONS = [
  ['Option', 'Default', 'What the model does'],
  [
    'exclusionRange',
    'true',
    'The exclusion range registers at 0020h and 0028h; they read as zero otherwise.',
  ],
  ['irtCacheDis', 'true', 'CONTROL.IRTCacheDis can be set: software finds out by writing it.'],
  [
    'caches',
    '4096',
    'Entries of each cache: translations, DTEs, GCR3 and interrupt remapping table entries.',
  ],
  ['caches.tables', 'true', 'Page directory entries are cached, until an invalidation with PDE.'],
  [
    'commandsPerStep',
    '1024',
    'Commands that one register write, step() or read of the head or status consumes at most.',
  ],
];

capabilities.check(
  'amd-capabilities.md',
  `# What viommu's AMD IOMMU advertises

Generated from \`packages/core/src/iommu/amd\`: \`npx vitest run amd/hardware/capabilities -u\`. Sections are those of AMD
48882 rev 3.10. A field that is clear turns what it names off: registers read as zero, commands are illegal, fields of
DTEs are reserved. Values that the model cannot stand behind are refused by \`amdIommuConfig()\`.

${capabilities.sections()}

## Not in a register

${table(OPTIONS)}

## What goes with what

${capabilities.preconditions()}

## Never advertised

${capabilities.absent()}
`,
);

describe('amdIommuConfig()', () => {
  test('has the defaults of what is in no register', () => {
    const { exclusionRange, irtCacheDis, caches, commandsPerStep } = defaults;
    expect({ exclusionRange, irtCacheDis, caches, commandsPerStep }).toEqual({
      exclusionRange: true,
      irtCacheDis: true,
      caches: { tlb: 4096, devices: 4096, gcr3: 4096, interrupts: 4096, tables: true },
      commandsPerStep: 1024,
    });
  });

  test.each<[ConfigOverrides, string]>([
    [{ EFR: { HATS: 3 } }, 'EFR.HATS is reserved at 3'],
    [{ EFR: { PASMax: 20 } }, 'EFR.PASMax is at most 19: PASIDs have 20 bits'],
    [{ EFR: { HASup: 0 } }, 'EFR.HDSup needs EFR.HASup'],
    [{ EFR: { PPRSup: 0 } }, 'EFR.EPHSup needs EFR.PPRSup'],
    [{ EFR: { PCSup: 1 } }, 'EFR.PCSup is set, but performance counters is not modelled'],
    [{ EFR2: { SNPIOSup: 1 } }, 'EFR2.SNPIOSup is set, but SEV-SNP I/O is not modelled'],
    [{ capHeader: { EFRSup: 0 } }, 'capHeader.EFRSup is 0, but the feature registers are not'],
    [{ miscInfo0: { PAsize: 53 } }, 'miscInfo0.PAsize is 32 to 52'],
  ])('%o is refused', (overrides, why) => {
    expect(() => amdIommuConfig(overrides)).toThrow(`AMD IOMMU configuration: ${why}`);
  });
});
