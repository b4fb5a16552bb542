// docs/smmuv3-capabilities.md: every field that advertises, with what the model does behind it. The values are found by
// asking smmuV3Config(). Written anew with `npx vitest run arm-smmu-v3/hardware/capabilities -u`.

import { describe, expect, test } from 'vitest';
import { type Field, type LayoutInfo, readField } from '../../../base/bit-fields.ts';
import { AIDR, IDR0, IDR1, IDR3, IDR5, IIDR } from '../spec/registers.ts';
import { type ConfigOverrides, type SmmuV3Config, smmuV3Config } from './config.ts';

type Register = 'IDR0' | 'IDR1' | 'IDR3' | 'IDR5' | 'IIDR' | 'AIDR';
const REGISTERS: readonly Register[] = ['IDR0', 'IDR1', 'IDR3', 'IDR5', 'IIDR', 'AIDR'];
const LAYOUTS: Record<Register, LayoutInfo> = {
  IDR0: IDR0.$,
  IDR1: IDR1.$,
  IDR3: IDR3.$,
  IDR5: IDR5.$,
  IIDR: IIDR.$,
  AIDR: AIDR.$,
};
const SECTIONS: Record<Register, string> = {
  IDR0: '§6.3.1',
  IDR1: '§6.3.2',
  IDR3: '§6.3.4',
  IDR5: '§6.3.6',
  IIDR: '§6.3.7',
  AIDR: '§6.3.8',
};

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

const word = (config: SmmuV3Config, register: Register): number => {
  if (register === 'IIDR') return config.iidr;
  if (register === 'AIDR') return config.aidr;
  const index = { IDR0: 0, IDR1: 1, IDR3: 3, IDR5: 5 } as const;
  return config.idr[index[register]];
};

interface Answer {
  /** What has to be clear for it. */
  readonly clears: readonly string[];
  readonly refusal?: string;
}

/** Asks for a value. What cannot stay beside it is cleared, as smmuV3Config()'s refusals name it. */
function ask(register: Register, name: string, value: number): Answer {
  const overrides: Record<string, Record<string, number>> = {};
  for (const each of REGISTERS) overrides[each] = {};
  overrides[register]![name] = value;
  const clears: string[] = [];
  for (;;) {
    try {
      smmuV3Config(overrides as ConfigOverrides);
      return { clears };
    } catch (error) {
      const { message } = error as Error;
      const needs = /(IDR\d)\.(\w+) needs /.exec(message);
      if (needs === null || needs[2] === name) return { clears, refusal: message };
      overrides[needs[1]!]![needs[2]!] = 0;
      clears.push(needs[2]!);
    }
  }
}

/** Values of a field that are taken, as ranges; of wide ones the ends. */
function taken(register: Register, field: Field): string {
  const most = 2 ** field.width - 1;
  if (field.width > 8) {
    const ends = [0, most].every((value) => ask(register, field.name, value).refusal === undefined);
    return ends ? `0–${most}` : '0';
  }
  const ranges: [number, number][] = [];
  for (let value = 0; value <= most; value++) {
    if (ask(register, field.name, value).refusal !== undefined) continue;
    const last = ranges.at(-1);
    if (last?.[1] === value - 1) last[1] = value;
    else ranges.push([value, value]);
  }
  return ranges.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(', ');
}

const bits = ({ msb, lsb }: Field): string => (msb === lsb ? `${msb}` : `${msb}:${lsb}`);
const defaults = smmuV3Config();
const FIELDS = REGISTERS.flatMap((register) =>
  LAYOUTS[register].fields.map((field) => {
    const values = taken(register, field);
    const value = readField(field, [word(defaults, register)]);
    return { register, field, key: `${register}.${field.name}`, value, values, modelled: values !== '0' };
  }),
);

/** Cells padded as prettier pads them. */
function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(3, ...rows.map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column]!)).join(' | ')} |`;
  const rule = widths.map((width) => '-'.repeat(width));
  return [line(rows[0]!), line(rule), ...rows.slice(1).map(line)].join('\n');
}

function modelled(register: Register): string {
  const rows = [['Field', 'Bits', 'Default', 'Values', 'What the model does']];
  for (const each of FIELDS) {
    if (!each.modelled || each.register !== register) continue;
    rows.push([each.field.name, bits(each.field), `${each.value}`, each.values, MEANING[each.key] ?? '']);
  }
  return table(rows);
}

function absent(): string {
  const rows = [['Field', 'Bits', 'For']];
  for (const { key, register, field } of FIELDS.filter((each) => !each.modelled)) {
    const refusal = (ask(register, field.name, 1).refusal ?? '').replace('SMMUv3 configuration: ', '');
    rows.push([key, bits(field), /but (.*) is not modelled/.exec(refusal)?.[1] ?? refusal]);
  }
  return table(rows);
}

function preconditions(): string {
  const rows = [['Without', 'also clear']];
  for (const { register, key, field, value } of FIELDS) {
    if (field.width > 2 || value !== 1) continue;
    const { clears } = ask(register, field.name, 0);
    if (clears.length > 0) rows.push([key, clears.toSorted().join(', ')]);
  }
  return table(rows);
}

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

function page(): string {
  const sections = REGISTERS.map((register) => {
    const value = word(defaults, register).toString(16).padStart(8, '0');
    return `## SMMU_${register} (${SECTIONS[register]}), by default ${value}h\n\n${modelled(register)}`;
  });
  return `# What viommu's SMMUv3 advertises

Generated from \`packages/core/src/iommu/arm-smmu-v3\`: \`npx vitest run arm-smmu-v3/hardware/capabilities -u\`. Sections
are those of Arm IHI 0070G.b. A field that is clear turns what it names off: registers read as zero, commands are illegal,
fields of STEs and CDs are ILLEGAL or ignored as the specification says. Values that the model cannot stand behind are
refused by \`smmuV3Config()\`.

${sections.join('\n\n')}

SMMU_IDR2 and SMMU_IDR4 read as zero, and so do the Secure registers: there is no Secure state.

## Not in a register

${table(OPTIONS)}

## What goes with what

${preconditions()}

## Never advertised

${absent()}
`;
}

describe('docs/smmuv3-capabilities.md', () => {
  test('is what the model advertises', async () => {
    await expect(page()).toMatchFileSnapshot('../../../../../../docs/smmuv3-capabilities.md');
  });

  test('says of each field that may be set what it is for', () => {
    const named = FIELDS.filter((each) => each.modelled).map((each) => each.key);
    expect(Object.keys(MEANING).toSorted()).toEqual(named.toSorted());
  });

  test('has a default that is taken as it stands', () => {
    for (const { register, field, value } of FIELDS)
      expect([field.name, ask(register, field.name, value)]).toEqual([field.name, { clears: [] }]);
  });

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
