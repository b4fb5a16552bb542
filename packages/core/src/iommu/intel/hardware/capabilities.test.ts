// docs/vtd-capabilities.md: every field of the registers that advertise, with what the model does behind it. The values
// are found by asking intelConfig(). Written anew with `npx vitest run intel/hardware/capabilities -u`.

import { describe, expect, test } from 'vitest';
import { type Field, type LayoutInfo, encode, readField } from '../../../base/bit-fields.ts';
import { hi32, lo32 } from '../../../base/u64.ts';
import { CAP, ECAP, VER } from '../spec/registers.ts';
import { type ConfigOverrides, intelConfig } from './config.ts';

type Register = 'VER' | 'CAP' | 'ECAP';
type Values = Partial<Record<Register, Record<string, number>>>;
const LAYOUTS: Record<Register, LayoutInfo> = { VER: VER.$, CAP: CAP.$, ECAP: ECAP.$ };
const SECTIONS: Record<Register, string> = { VER: '§11.4.1', CAP: '§11.4.2', ECAP: '§11.4.3' };

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

const registersOf = (overrides: Values): Record<Register, Uint32Array> => {
  const { version, cap, ecap } = intelConfig(overrides as ConfigOverrides);
  return {
    VER: new Uint32Array([version]),
    CAP: new Uint32Array([lo32(cap), hi32(cap)]),
    ECAP: new Uint32Array([lo32(ecap), hi32(ecap)]),
  };
};

interface Answer {
  /** What has to be clear for it. */
  readonly clears: readonly string[];
  readonly refusal?: string;
}

/** Asks for a value. What cannot stay beside it is cleared, as intelConfig()'s refusals name it. */
function ask(register: Register, name: string, value: number): Answer {
  const overrides: Values = { VER: {}, CAP: {}, ECAP: {} };
  overrides[register]![name] = value;
  const clears: string[] = [];
  for (;;) {
    try {
      registersOf(overrides);
      return { clears };
    } catch (error) {
      const { message } = error as Error;
      const needs = /ECAP\.(\w+) needs ECAP\.(\w+)/.exec(message);
      if (needs === null || needs[1] === name) return { clears, refusal: message };
      overrides.ECAP![needs[1]!] = 0;
      clears.push(needs[1]!);
    }
  }
}

/** Values of a field that are taken, as ranges. */
function taken(register: Register, field: Field): string {
  const ranges: [number, number][] = [];
  for (let value = 0; value < 2 ** field.width; value++) {
    if (ask(register, field.name, value).refusal !== undefined) continue;
    const last = ranges.at(-1);
    if (last?.[1] === value - 1) last[1] = value;
    else ranges.push([value, value]);
  }
  return ranges.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(', ');
}

const bits = ({ msb, lsb }: Field): string => (msb === lsb ? `${msb}` : `${msb}:${lsb}`);
const defaults = registersOf({});
const FIELDS = (Object.keys(LAYOUTS) as Register[]).flatMap((register) =>
  LAYOUTS[register].fields.map((field) => ({
    register,
    field,
    key: `${register}.${field.name}`,
    value: readField(field, defaults[register]),
    modelled: taken(register, field) !== '0',
  })),
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
  for (const { key, field, value } of FIELDS.filter((each) => each.modelled && each.register === register)) {
    rows.push([field.name, bits(field), `${value}`, taken(register, field), MEANING[key] ?? '']);
  }
  return table(rows);
}

function absent(): string {
  const rows = [['Field', 'Bits', 'For']];
  for (const { key, register, field } of FIELDS.filter((each) => !each.modelled)) {
    const refusal = ask(register, field.name, 1).refusal ?? '';
    rows.push([key, bits(field), /but (.*): not modelled/.exec(refusal)?.[1] ?? refusal]);
  }
  return table(rows);
}

function preconditions(): string {
  const rows = [['Without', 'also clear']];
  for (const { field, value } of FIELDS.filter((each) => each.register === 'ECAP' && each.value === 1)) {
    if (field.width > 1 || value === 0) continue;
    const { clears } = ask('ECAP', field.name, 0);
    if (clears.length > 0) rows.push([field.name, clears.toSorted().join(', ')]);
  }
  return table(rows);
}

const hex = (words: Uint32Array): string =>
  [...words]
    .toReversed()
    .map((word) => word.toString(16).padStart(8, '0'))
    .join('_');

function page(): string {
  const sections = (['VER', 'CAP', 'ECAP'] as const).map((register) => {
    const title = `## ${LAYOUTS[register].name} (${SECTIONS[register]}), by default ${hex(defaults[register])}h`;
    return `${title}\n\n${modelled(register)}`;
  });
  return `# What viommu's VT-d advertises

Generated from \`packages/core/src/iommu/intel\`: \`npx vitest run intel/hardware/capabilities -u\`. Sections are D51397-018's. A field
that is clear turns what it names off: fields of entries become reserved, descriptors invalid, registers read zero.
Values that the model cannot stand behind are refused by \`intelConfig()\`.

${sections.join('\n\n')}

## What goes with what

Clearing a capability takes those with it that need it (§11.4.3).

${preconditions()}

## Never advertised

${absent()}
`;
}

describe('docs/vtd-capabilities.md', () => {
  test('is what the model advertises', async () => {
    await expect(page()).toMatchFileSnapshot('../../../../../../docs/vtd-capabilities.md');
  });

  test('says of each field that may be set what it is for', () => {
    const named = FIELDS.filter((each) => each.modelled).map((each) => each.key);
    expect(Object.keys(MEANING).toSorted()).toEqual(named.toSorted());
  });

  test('has a default that is taken as it stands', () => {
    for (const { register, field, value } of FIELDS)
      expect([field.name, ask(register, field.name, value)]).toEqual([field.name, { clears: [] }]);
    expect(encode(VER, { MAX: 5 })[0]).toBe(defaults.VER[0]);
  });
});
