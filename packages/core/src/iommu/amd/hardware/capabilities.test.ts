// docs/amd-capabilities.md: every field that advertises, with what the model does behind it. The values are found by
// asking amdIommuConfig(). Written anew with `npx vitest run amd/hardware/capabilities -u`.

import { describe, expect, test } from 'vitest';
import { type Field, type LayoutInfo, readField } from '../../../base/bit-fields.ts';
import { CAP_HEADER, EFR, EFR2, MISC_INFO0 } from '../spec/features.ts';
import { type AmdIommuConfig, type ConfigOverrides, amdIommuConfig } from './config.ts';

type Register = 'EFR' | 'EFR2' | 'capHeader' | 'miscInfo0';
const REGISTERS: readonly Register[] = ['EFR', 'EFR2', 'capHeader', 'miscInfo0'];
const LAYOUTS: Record<Register, LayoutInfo> = {
  EFR: EFR.$,
  EFR2: EFR2.$,
  capHeader: CAP_HEADER.$,
  miscInfo0: MISC_INFO0.$,
};
const PLACES: Record<Register, string> = {
  EFR: '§3.4, MMIO 0030h',
  EFR2: '§3.4, MMIO 01A0h',
  capHeader: '§3.2.1',
  miscInfo0: '§3.2.5',
};

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

const words = (config: AmdIommuConfig, register: Register): readonly number[] => {
  switch (register) {
    case 'EFR':
      return config.efr;
    case 'EFR2':
      return config.efr2;
    case 'capHeader':
      return [config.capHeader];
    case 'miscInfo0':
      return [config.miscInfo0];
  }
};

interface Answer {
  /** What has to be clear for it. */
  readonly clears: readonly string[];
  readonly refusal?: string;
}

/** Asks for a value. What cannot stay beside it is cleared, as amdIommuConfig()'s refusals name it. */
function ask(register: Register, name: string, value: number): Answer {
  const overrides: Record<string, Record<string, number>> = {
    EFR: {},
    EFR2: {},
    capHeader: {},
    miscInfo0: {},
  };
  overrides[register]![name] = value;
  const clears: string[] = [];
  for (;;) {
    try {
      amdIommuConfig(overrides as ConfigOverrides);
      return { clears };
    } catch (error) {
      const { message } = error as Error;
      const needs = /EFR\.(\w+) needs EFR\.(\w+)/.exec(message);
      if (needs === null || needs[1] === name) return { clears, refusal: message };
      overrides['EFR']![needs[1]!] = 0;
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
const defaults = amdIommuConfig();
const FIELDS = REGISTERS.flatMap((register) =>
  LAYOUTS[register].fields.map((field) => {
    const values = taken(register, field);
    return {
      register,
      field,
      key: `${register}.${field.name}`,
      value: readField(field, words(defaults, register)),
      values,
      modelled: values !== '0',
    };
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
  for (const { key, field, value, values } of FIELDS.filter(
    (each) => each.modelled && each.register === register,
  )) {
    rows.push([field.name, bits(field), `${value}`, values, MEANING[key] ?? '']);
  }
  return table(rows);
}

function absent(): string {
  const rows = [['Field', 'Bits', 'For']];
  for (const { key, register, field } of FIELDS.filter((each) => !each.modelled)) {
    const refusal = ask(register, field.name, 1).refusal ?? '';
    rows.push([key, bits(field), /but (.*) is not modelled/.exec(refusal)?.[1] ?? refusal]);
  }
  return table(rows);
}

function preconditions(): string {
  const rows = [['Without', 'also clear']];
  for (const { field, value } of FIELDS.filter((each) => each.register === 'EFR' && each.value === 1)) {
    if (field.width > 1 || value === 0) continue;
    const { clears } = ask('EFR', field.name, 0);
    if (clears.length > 0) rows.push([field.name, clears.toSorted().join(', ')]);
  }
  return table(rows);
}

const hex = (of: readonly number[]): string =>
  of
    .toReversed()
    .map((word) => word.toString(16).padStart(8, '0'))
    .join('_');

function page(): string {
  const sections = REGISTERS.map((register) => {
    const value = hex(words(defaults, register));
    return `## ${LAYOUTS[register].name} (${PLACES[register]}), by default ${value}h\n\n${modelled(register)}`;
  });
  return `# What viommu's AMD IOMMU advertises

Generated from \`packages/core/src/iommu/amd\`: \`npx vitest run amd/hardware/capabilities -u\`. Sections are those of AMD
48882 rev 3.10. A field that is clear turns what it names off: registers read as zero, commands are illegal, fields of
DTEs are reserved. Values that the model cannot stand behind are refused by \`amdIommuConfig()\`.

${sections.join('\n\n')}

## Not in a register

| Option          | Default | What the model does                                                                      |
| --------------- | ------- | ---------------------------------------------------------------------------------------- |
| exclusionRange  | true    | The exclusion range registers at 0020h and 0028h; they read as zero otherwise.           |
| irtCacheDis     | true    | CONTROL.IRTCacheDis can be set: software finds out by writing it.                        |
| caches          | 4096    | Entries of each cache: translations, DTEs, GCR3 and interrupt remapping table entries.   |
| caches.tables   | true    | Page directory entries are cached, until an invalidation with PDE.                       |
| commandsPerStep | 1024    | Commands that one register write, step() or read of the head or status consumes at most. |

## What goes with what

${preconditions()}

## Never advertised

${absent()}
`;
}

describe('docs/amd-capabilities.md', () => {
  test('is what the model advertises', async () => {
    await expect(page()).toMatchFileSnapshot('../../../../../../docs/amd-capabilities.md');
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
