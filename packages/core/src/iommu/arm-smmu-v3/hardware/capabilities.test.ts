// docs/smmuv3-capabilities.md. Written anew with `npx vitest run arm-smmu-v3/hardware/capabilities -u`.

import { describe, expect, test } from 'vitest';
import { Capabilities, table } from '../../testing/capabilities.ts';
import { AIDR, IDR0, IDR1, IDR3, IDR5, IIDR } from '../spec/registers.ts';
import { type ConfigOverrides, smmuV3Config } from './registers/config.ts';

/** What the model does for a field that may be set. A test wants one for each. */
const MEANING: Record<string, string> = {
  'IDR0.S2P':
    'Stage 2. Without it Config 0b11x is C_BAD_STE, VMIDs do not count, stage 2 invalidations are illegal.',
  'IDR0.S1P':
    'Stage 1. Without it Config 0b1x1 is C_BAD_STE, stage 1 invalidations and CMD_CFGI_CD* are illegal.',
  'IDR0.TTF': 'AArch64 tables; AA64 == 0 and S2AA64 == 0 are ILLEGAL.',
  'IDR0.COHACC': 'How it reads: all accesses see memory as it is.',
  'IDR0.HTTU':
    '1: hardware sets the Access flag (HA, S2HA). 2: and the dirty state (HD, S2HD). ILLEGAL otherwise.',
  'IDR0.Hyp': 'STRW 0b10: EL2, and EL2-E2H with CR2.E2H. CMD_TLBI_EL2_*, which are illegal otherwise.',
  'IDR0.ATS':
    'Translation Requests, Translated transactions, ATSCHK, CMD_ATC_INV, which is illegal otherwise.',
  'IDR0.NS1ATS': 'Set: EATS 0b10 (split-stage ATS) is C_BAD_STE.',
  'IDR0.ASID16': 'ASIDs of 16 bits; above 8 bits is C_BAD_CD otherwise.',
  'IDR0.MSI': 'MSIs of the queues, GERROR and CMD_SYNC; *_IRQ_CFG are RES0 otherwise.',
  'IDR0.SEV': 'WFE wake-up events: CMD_SYNC with CS 0b10, and a command queue that is full no longer.',
  'IDR0.PRI': 'The PRI queue and CMD_PRI_RESP; its registers are RES0 otherwise.',
  'IDR0.VMW': 'CR0.VMW: invalidations of groups of VMIDs.',
  'IDR0.VMID16': 'VMIDs of 16 bits; above 8 bits is C_BAD_STE otherwise.',
  'IDR0.CD2L': 'CD tables of two levels; S1Fmt 0b01 and 0b10 are C_BAD_STE otherwise.',
  'IDR0.TTENDIAN': '0: either endianness. 2: little-endian tables, 3: big-endian ones, the other is ILLEGAL.',
  'IDR0.ATSRECERR': 'CR2.REC_CFG_ATS: configuration errors of ATS and PRI are recorded.',
  'IDR0.STALL_MODEL': '0: S and S2S choose. 1: faults terminate. 2: faults stall. The others are ILLEGAL.',
  'IDR0.TERM_MODEL': 'Set: termination is always by abort, CD.A == 0 is C_BAD_CD.',
  'IDR0.ST_LEVEL': '1: Stream tables of two levels. 0: STRTAB_BASE_CFG.FMT and SPLIT are RES0.',
  'IDR1.SIDSIZE': 'Bits of StreamIDs; what is above is C_BAD_STREAMID.',
  'IDR1.SSIDSIZE': 'Bits of SubstreamIDs; S1CDMax above it is C_BAD_STE. 0: no SubstreamIDs.',
  'IDR1.PRIQS': 'log2 of the most entries of the PRI queue.',
  'IDR1.EVENTQS': 'log2 of the most entries of the Event queue.',
  'IDR1.CMDQS': 'log2 of the most entries of the Command queue.',
  'IDR1.ATTR_PERMS_OVR': 'PRIVCFG and INSTCFG; ignored otherwise.',
  'IDR1.ATTR_TYPES_OVR': 'MTCFG, MemAttr, ALLOCCFG and SHCFG of STEs and GBPA; ignored otherwise.',
  'IDR3.HAD': 'CD.HAD0 and HAD1: hierarchical permissions are ignored.',
  'IDR3.XNX': 'XN[0] of stage 2: execution by privilege.',
  'IDR3.PPS': 'Automatic PRG Responses always have the PASID; STE.PPAR says so otherwise.',
  'IDR3.FWB': 'STE.S2FWB; ignored otherwise.',
  'IDR3.STT': 'TxSZ of up to 48 (47 with 64K); up to 39 otherwise. S2SL0 0b11 with 4K.',
  'IDR3.RIL': 'TG, TTL, NUM and SCALE of CMD_TLBI_*; ignored otherwise.',
  'IDR3.BBML':
    'How it reads: where entries of two sizes cover an address the smaller one counts, and F_TLB_CONFLICT never comes.',
  'IDR3.E0PD': 'CD.E0PD0 and E0PD1; ignored otherwise.',
  'IDR3.PTWNNC': 'How it reads.',
  'IDR3.EPAN': 'CD.EPAN; ignored otherwise.',
  'IDR5.OAS': '32, 36, 40, 42, 44, 48 and 52 bits of physical addresses, and of IPAs.',
  'IDR5.GRAN4K': '4K tables; TG0, TG1 and S2TG of the others are ILLEGAL.',
  'IDR5.GRAN16K': '16K tables.',
  'IDR5.GRAN64K': '64K tables.',
  'IDR5.DS': 'CD.DS and STE.S2DS: 52-bit addresses with 4K and 16K; ignored otherwise.',
  'IDR5.VAX': '1: virtual addresses of 52 bits, T0SZ and T1SZ from 12 on.',
  'IDR5.STALL_MAX': 'How many stalled transactions have an event at a time; 1 at least.',
  'IIDR.Implementer': 'How it reads.',
  'IIDR.Revision': 'How it reads.',
  'IIDR.Variant': 'How it reads.',
  'IIDR.ProductID': 'How it reads.',
  'AIDR.ArchMinorRev': 'How it reads. The model is of SMMUv3.3.',
};

const defaults = smmuV3Config();
const capabilities = new Capabilities({
  registers: [
    { name: 'IDR0', layout: IDR0.$, section: '§6.3.1', words: [defaults.idr[0]] },
    { name: 'IDR1', layout: IDR1.$, section: '§6.3.2', words: [defaults.idr[1]] },
    { name: 'IDR3', layout: IDR3.$, section: '§6.3.4', words: [defaults.idr[3]] },
    { name: 'IDR5', layout: IDR5.$, section: '§6.3.6', words: [defaults.idr[5]] },
    { name: 'IIDR', layout: IIDR.$, section: '§6.3.7', words: [defaults.iidr] },
    { name: 'AIDR', layout: AIDR.$, section: '§6.3.8', words: [defaults.aidr] },
  ],
  meaning: MEANING,
  configure: (values) => smmuV3Config(values as ConfigOverrides),
});

const OPTIONS = [
  ['Option', 'Default', 'What the model does'],
  ['GBPA', '1000h', 'SMMU_GBPA after reset: transactions bypass with their own attributes.'],
  [
    'updates',
    'at once',
    'When CR0, IRQ_CTRL and GBPA updates complete; `later` shows software what it waits for.',
  ],
  ['mergeEvents', 'true', 'Identical events of streams with STE.MEV make one record.'],
  ['caches.tlb', '4096', 'IOTLB entries of each kind: VA, parts of nested blocks, IPA, tables.'],
  ['caches.streams', '4096', 'STEs.'],
  ['caches.contexts', '16384', 'CDs.'],
  ['caches.tables', 'true', 'Table descriptors are cached, until an invalidation with Leaf == 0.'],
  [
    'commandsPerStep',
    '1024',
    'Commands that one register write, step() or read of CMDQ_CONS consumes at most.',
  ],
];

capabilities.check(
  'smmuv3-capabilities.md',
  `# What viommu's SMMUv3 advertises

Generated from \`packages/core/src/iommu/arm-smmu-v3\`: \`npx vitest run arm-smmu-v3/hardware/capabilities -u\`. Sections
are those of Arm IHI 0070G.b. A field that is clear turns what it names off: registers read as zero, commands are illegal,
fields of STEs and CDs are ILLEGAL or ignored as the specification says. Values that the model cannot stand behind are
refused by \`smmuV3Config()\`.

${capabilities.sections()}

SMMU_IDR2 and SMMU_IDR4 read as zero, and so do the Secure registers: there is no Secure state.

## Not in a register

${table(OPTIONS)}

## What goes with what

${capabilities.preconditions()}

## Never advertised

${capabilities.absent()}
`,
);

describe('smmuV3Config()', () => {
  test('has the defaults of what is in no register', () => {
    const { gbpa, updates, mergeEvents, caches, commandsPerStep } = defaults;
    expect({ gbpa, updates, mergeEvents, caches, commandsPerStep }).toEqual({
      gbpa: 0x1000,
      updates: 'at once',
      mergeEvents: true,
      caches: { tlb: 4096, streams: 4096, contexts: 16384, tables: true },
      commandsPerStep: 1024,
    });
  });

  test.each<[ConfigOverrides, string]>([
    [{ IDR0: { BTM: 1 } }, 'IDR0.BTM is set, but broadcast TLB maintenance is not modelled'],
    [{ IDR0: { TTF: 3 } }, 'IDR0.TTF must be 2: AArch32 tables are not modelled'],
    [{ IDR0: { HTTU: 3 } }, 'IDR0.HTTU must be 0, 1 or 2'],
    [{ IDR0: { S1P: 0, S2P: 0, Hyp: 0 } }, 'IDR0.S1P or IDR0.S2P must be set'],
    [{ IDR0: { ATS: 0 } }, 'IDR0.PRI needs IDR0.ATS'],
    [{ IDR1: { SSIDSIZE: 21 } }, 'IDR1.SSIDSIZE is at most 20'],
    [{ IDR5: { GRAN4K: 0, GRAN16K: 0, GRAN64K: 0 } }, 'IDR5 has no granule'],
    [{ IDR5: { VAX: 0 } }, 'IDR5.DS needs IDR5.VAX'],
    [{ AIDR: { ArchMinorRev: 4 } }, 'AIDR.ArchMinorRev is at most 3: SMMUv3.3'],
  ])('%o is refused', (overrides, why) => {
    expect(() => smmuV3Config(overrides)).toThrow(`SMMUv3 configuration: ${why}`);
  });
});
