import { describe, expect, it } from 'vitest';
import { EATS, S1DSS, S1FMT, STE, STE_CONFIG } from '../../spec/ste.ts';
import { cdUsed, makeStage1Cd } from './cd.ts';
import { emptyEntry, setField, writeEntry, type Entry, type EntryWriter } from './entry.ts';
import { makeAbortSte, makeBypassSte, makeCdTableSte, makeStage2Ste, steUpdateSafe, steUsed } from './ste.ts';

// The transitions, and how many syncs each takes, are those of Linux's own unit test
// (drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-test.c).

interface Features {
  readonly ats?: boolean;
  readonly stall?: boolean;
  readonly nested?: boolean;
}

const TABLE = { pa: 0xf0f0_f0f0_f0f0, s1Fmt: S1FMT.TWO_LEVEL_64K, s1CdMax: 0xff };
const abort = makeAbortSte();
const bypass = makeBypassSte(true);

function stage2({ ats = false, stall = false }: Features = {}): Entry {
  const vtcr = { ps: 1, tg: 2, sh: 3, orgn: 1, irgn: 2, sl: 3, tsz: 4 };
  const vttbr = 0xdaed_beef_dead_beefn;
  return makeStage2Ste({ vmid: 0, vtcr, vttbr, ats, stall, fwb: false, typesOverride: true });
}

function cdTable(s1Dss: number, features: Features = {}, pa: number = TABLE.pa): Entry {
  const { ats = false, stall = false, nested = false } = features;
  const common = { ats, stall, stallModel: true, typesOverride: true, e2h: false };
  const ste = makeCdTableSte({ ...common, table: { ...TABLE, pa }, s1Dss });
  if (nested) {
    const parent = stage2({ ...features, nested: false });
    setField(ste, STE.Config, STE_CONFIG.NESTED);
    setField(ste, STE.MEV, 1);
    for (let i = 2; i < 8; i++) ste[i] = parent[i]!;
  }
  return ste;
}

function cd(asid: number): Entry {
  const tcr = { ips: 1, tg: 2, sh: 3, orgn: 1, irgn: 2, tsz: 4 };
  const ttbr = 0xdaed_beef_dead_beefn;
  return makeStage1Cd({ asid, tcr, ttbr, mair: 0xab_cdef_0123_4567_8n, stall: false, dirty: false });
}

/** What was written, in order: words by their index, and syncs. */
type Step = readonly [qword: number, value: bigint] | 'sync';

interface Transition {
  readonly steps: readonly Step[];
  readonly syncs: number;
  /** No sync showed hardware an entry that was neither the one nor the other. */
  readonly hitless: boolean;
}

function transition(from: Entry, to: Entry, kind: 'ste' | 'cd' = 'ste'): Transition {
  const current = from.slice();
  const memory = from.slice();
  const steps: Step[] = [];
  let hitless = true;
  const used = kind === 'ste' ? steUsed : cdUsed;
  const looksLike = (other: Entry): boolean => {
    const safe = kind === 'ste' ? steUpdateSafe(memory, other) : emptyEntry();
    return used(memory).every((mask, i) => ((memory[i]! ^ other[i]!) & mask & ~safe[i]!) === 0n);
  };
  const writer: EntryWriter = {
    used,
    ...(kind === 'ste' ? { updateSafe: steUpdateSafe } : {}),
    store: (qword, value) => {
      memory[qword] = value;
      steps.push([qword, value]);
    },
    sync: () => {
      steps.push('sync');
      if (!looksLike(from) && !looksLike(to)) hitless = false;
      if (memory[0] === 0n) hitless = false;
    },
  };
  writeEntry(writer, current, to);
  expect(memory).toEqual(to);
  expect(current).toEqual(to);
  return { steps, syncs: steps.filter((step) => step === 'sync').length, hitless };
}

const SSID0 = S1DSS.SSID0;
const ATS = { ats: true };

describe('STEs change without a moment in which hardware could see something else', () => {
  const cases: readonly [string, Entry, Entry, number][] = [
    ['bypass to abort', bypass, abort, 2],
    ['abort to bypass', abort, bypass, 2],
    ['a CD table to abort', cdTable(SSID0, ATS), abort, 2],
    ['abort to a CD table', abort, cdTable(SSID0, ATS), 2],
    ['a CD table to bypass', cdTable(SSID0, ATS), bypass, 3],
    ['bypass to a CD table', bypass, cdTable(SSID0, ATS), 3],
    ['S1DSS from SSID0 to bypass', cdTable(SSID0, ATS), cdTable(S1DSS.BYPASS, ATS), 1],
    ['S1DSS from bypass to SSID0', cdTable(S1DSS.BYPASS, ATS), cdTable(SSID0, ATS), 1],
    ['S1DSS bypass to bypass', cdTable(S1DSS.BYPASS, ATS), bypass, 2],
    ['bypass to S1DSS bypass', bypass, cdTable(S1DSS.BYPASS, ATS), 2],
    ['stage 2 to abort', stage2(ATS), abort, 2],
    ['abort to stage 2', abort, stage2(ATS), 2],
    ['stage 2 to bypass', stage2(ATS), bypass, 2],
    ['bypass to stage 2', bypass, stage2(ATS), 2],
    ['stage 1 to stage 2', cdTable(SSID0, ATS), stage2(ATS), 3],
    ['stage 2 to stage 1', stage2(ATS), cdTable(SSID0, ATS), 3],
    ['stage 1 to stage 2 that stalls', cdTable(SSID0, { stall: true }), stage2({ stall: true }), 3],
    ['stage 2 to stage 1 that stalls', stage2({ stall: true }), cdTable(SSID0, { stall: true }), 3],
    ['nested with S1DSS bypass to stage 2', cdTable(S1DSS.BYPASS, { ats: true, nested: true }), stage2(), 3],
    ['stage 2 to nested with S1DSS bypass', stage2(), cdTable(S1DSS.BYPASS, { ats: true, nested: true }), 2],
  ];
  it.each(cases)('%s', (_, from, to, syncs) => {
    const done = transition(from, to);
    expect(done.hitless).toBe(true);
    expect(done.syncs).toBe(syncs);
  });
});

describe('an STE', () => {
  it('goes by way of V == 0 where two words decide', () => {
    const done = transition(cdTable(SSID0, ATS), cdTable(S1DSS.BYPASS, ATS, 0x4b_4b4b_4b4b));
    expect(done.hitless).toBe(false);
    expect(done.syncs).toBe(3);
    expect(done.steps[0]).toEqual([0, 0n]);
  });

  it('from abort to stage 2 gets its other words first, then the one that decides', () => {
    const to = stage2(ATS);
    expect(transition(abort, to).steps).toEqual([
      [1, to[1]],
      [2, to[2]],
      [3, to[3]],
      'sync',
      [0, to[0]],
      'sync',
    ]);
  });

  it('from stage 2 to abort stops translating first, then is cleaned', () => {
    const from = stage2(ATS);
    expect(transition(from, abort).steps).toEqual([[0, abort[0]], 'sync', [1, 0n], [2, 0n], [3, 0n], 'sync']);
  });

  it('that stays the same is not written and not synced', () => {
    expect(transition(stage2(), stage2()).steps).toEqual([]);
  });

  it('whose EATS alone changes is written once, also between S2S and none', () => {
    const off = stage2();
    const on = stage2(ATS);
    expect(transition(off, on).steps).toEqual([[1, on[1]], 'sync']);
    expect(steUpdateSafe(off, stage2({ ats: true, stall: true }))[1]! & (1n << 28n)).toBe(0n);
    expect(steUpdateSafe(off, on)[1]! & (BigInt(EATS.TRANS) << 28n)).not.toBe(0n);
  });
});

describe('a CD', () => {
  it('comes and goes in two syncs, as its V bit lies in the first word', () => {
    for (const [from, to] of [
      [emptyEntry(), cd(1997)],
      [cd(1997), emptyEntry()],
    ] as const) {
      const done = transition(from, to, 'cd');
      expect(done.syncs).toBe(2);
      expect(done.hitless).toBe(false);
    }
  });

  it('changes its ASID in one write', () => {
    const done = transition(cd(778), cd(1997), 'cd');
    expect(done).toEqual({ steps: [[0, cd(1997)[0]], 'sync'], syncs: 1, hitless: true });
  });
});
