// docs/vtd-capabilities.md. Written anew with `npx vitest run intel/hardware/capabilities -u`.

import { hi32, lo32 } from '../../../base/u64.ts';
import { Capabilities } from '../../testing/capabilities.ts';
import { CAP, ECAP, VER } from '../spec/registers.ts';
import { type ConfigOverrides, intelConfig } from './registers/config.ts';

/** What the model does, or does otherwise, for a field that may be set. A test wants one for each. */
const MEANING: Record<string, string> = {
  'VER.MIN': 'Nothing but how VER_REG reads.',
  'VER.MAX':
    'Up to 5: CCMD_REG and IOTLB_REG invalidate (§6.5). From 6 on: AW is reserved without SSTS (§9.6). From 8 on: execute requests end at RTA.5 (§7.1.3).',
  'CAP.ND':
    'Domain-ids of 4 + 2 × ND bits; the others are reserved in entries and ignored in descriptors (§9.3, §6.5.2).',
  'CAP.CM':
    'Entries that are not present are cached under domain-id 0, absent second-stage pages too (§6.1, §6.2).',
  'CAP.SAGAW':
    'Second-stage tables of 3 (bit 1), 4 (bit 2) and 5 (bit 3) levels; another AW is LCT.4.1 or SPT.4.1.',
  'CAP.MGAW': 'Second-stage input addresses have at most MGAW + 1 bits (LGN.1.1, SGN.5).',
  'CAP.ZLR': 'Zero-length reads are served by write-only second-stage pages (§3.14).',
  'CAP.FRO': 'The fault recording registers lie at 16 × FRO.',
  'CAP.SSLPS': 'Second-stage pages of 2 MiB (1), and of 1 GiB as well (3); PS is reserved otherwise.',
  'CAP.PSI': 'Page-selective IOTLB invalidation; an IQEI 4, or the whole domain through IOTLB_REG, without.',
  'CAP.NFR': 'NFR + 1 fault recording registers.',
  'CAP.MAMV': 'The largest address mask of page-selective IOTLB invalidation.',
  'CAP.DWD': 'How it reads: register-based invalidation always drains (a walk is never under way).',
  'CAP.DRD': 'How it reads, for the same reason.',
  'CAP.FS1GP': 'First-stage pages of 1 GiB; PS of a PDPE is reserved otherwise (§9.7).',
  'CAP.FS5LP': 'First-stage tables of 5 levels; FSPM 01b is SPT.4.3 otherwise.',
  'CAP.ESRTPS': 'SRTP empties every translation cache (§6.6).',
  'ECAP.C': 'How it reads: memory has no processor caches in front of it that could be stale.',
  'ECAP.QI': 'The invalidation queue and its registers.',
  'ECAP.DT':
    'Device-TLBs: translation and translated requests, TT 01b, DTE, Device-TLB descriptors, ITE and ICE. Unsupported Requests and reserved fields without.',
  'ECAP.PT': 'Pass-through (TT 10b, PGTT 100b).',
  'ECAP.SC': 'Snoop Control: SNP of second-stage pages, PGSNP.',
  'ECAP.IRO': 'IVA_REG and IOTLB_REG lie at 16 × IRO.',
  'ECAP.NEST': 'Nested translation (PGTT 011b).',
  'ECAP.PRS': 'Page requests, their queue and registers, page group responses, PRE.',
  'ECAP.SRS': 'Supervisor requests, SRE.',
  'ECAP.NWFS': 'The No Write flag of translation requests (§4.2.3.1).',
  'ECAP.EAFS': 'Extended Accessed flags, EAFE (§3.6.2).',
  'ECAP.PSS': 'PASIDs of PSS + 1 bits, at most 20 (SGN.10).',
  'ECAP.PASID': 'Requests-with-PASID, PASIDE.',
  'ECAP.DIT': 'PFSID of Device-TLB descriptors, which is reserved without.',
  'ECAP.PDS': 'PD of wait descriptors, which is reserved without.',
  'ECAP.SMTS': 'Scalable mode: TTM 01b, 256-bit descriptors, PASID-based invalidation.',
  'ECAP.SSADS': 'Accessed and dirty flags of the second stage, SSADE (§3.7.2).',
  'ECAP.SSTS': 'Second-stage translation in scalable mode (PGTT 010b).',
  'ECAP.FSTS': 'First-stage translation (PGTT 001b).',
  'ECAP.SMPWCS':
    'PWSNP: walks snoop, and set flags; without it a flag that has to be set is SFS.9 or SSS.5 (§3.6.2, §3.7.2).',
  'ECAP.RPS': 'RID_PASID; requests-without-PASID use PASID 0 without.',
  'ECAP.ADMS': 'Abort-dma mode (TTM 11b).',
  'ECAP.RPRIVS': 'RID_PRIV: requests-without-PASID as supervisor requests.',
  'ECAP.PTRS': 'Translated requests with a PASID, EPTR (SCT.10).',
  'ECAP.SSIRWS': 'IR and IW of second-stage entries, SSIRWE (§3.7).',
  'ECAP.SMS': 'Stop markers that the page request queue has no room for are dropped without an answer.',
};

const defaults = intelConfig();
const words = (register: bigint): readonly number[] => [lo32(register), hi32(register)];
const capabilities = new Capabilities({
  registers: [
    { name: 'VER', layout: VER.$, section: '§11.4.1', words: [defaults.version] },
    { name: 'CAP', layout: CAP.$, section: '§11.4.2', words: words(defaults.cap) },
    { name: 'ECAP', layout: ECAP.$, section: '§11.4.3', words: words(defaults.ecap) },
  ],
  meaning: MEANING,
  configure: (values) => intelConfig(values as ConfigOverrides),
});

capabilities.check(
  'vtd-capabilities.md',
  `# What viommu's VT-d advertises

Generated from \`packages/core/src/iommu/intel\`: \`npx vitest run intel/hardware/capabilities -u\`. Sections are D51397-018's. A field
that is clear turns what it names off: fields of entries become reserved, descriptors invalid, registers read zero.
Values that the model cannot stand behind are refused by \`intelConfig()\`.

${capabilities.sections()}

## What goes with what

Clearing a capability takes those with it that need it (§11.4.3).

${capabilities.preconditions()}

## Never advertised

${capabilities.absent()}
`,
);
