// §3.3.1, §5.1, §5.2: Stream tables and STEs.

import type { ConfigOverrides } from '../registers/config.ts';
import { TG0, STE_CONFIG } from '../../spec/ste.ts';
import { type CdFields, type SteFields, AT, Rig, SID, VA, command } from './rig.ts';
import type { TablesOptions } from './tables.ts';
import { has, same, topic } from '../../../testing/rules.ts';

const { ABORT, BYPASS, S1_TRANS, S2_TRANS, NESTED } = STE_CONFIG;
/** A 36-bit implementation. */
const SMALL = { IDR5: { OAS: 1, DS: 0, VAX: 0 } } as const;

/** A rig with its Stream table as the registers here say. */
function table(cfg: number, base: number | bigint = AT.strtab, config: ConfigOverrides = {}): Rig {
  const rig = new Rig({ config });
  rig.cr0({ SMMUEN: 0 });
  rig.write('STRTAB_BASE', base);
  rig.write('STRTAB_BASE_CFG', cfg);
  rig.cr0({ SMMUEN: 1 });
  return rig;
}
const twoLevel = (log2Size: number, split: number): number => log2Size | (split << 6) | (1 << 16);

/** What an access through a bypass STE with these fields ends in; null for success. */
function ste(fields: SteFields, config: ConfigOverrides = {}): string | null {
  const rig = new Rig({ config });
  rig.ste(SID, fields);
  return rig.type(VA);
}

/** The same for a stage 1 stream whose tables map VA. */
function stage1(fields: SteFields, config: ConfigOverrides = {}, cd: CdFields = {}): string | null {
  const rig = new Rig({ config });
  rig.stage1(fields, cd).map(VA, BigInt(AT.data));
  return rig.type(VA);
}

/** The same for stage 2. */
function stage2(fields: SteFields, config: ConfigOverrides = {}, options: TablesOptions = {}): string | null {
  const rig = new Rig({ config });
  rig.stage2(fields, options).map(VA, BigInt(AT.data));
  return rig.type(VA);
}

function nested(fields: SteFields, config: ConfigOverrides = {}): string | null {
  const rig = new Rig({ config });
  const { first, second } = rig.nested(fields);
  first.map(VA, VA);
  second.map(VA, BigInt(AT.data));
  return rig.type(VA);
}

const BAD = 'C_BAD_STE';

export const STREAMS = topic('STE', (rule) => {
  // --- linear tables ---
  rule('§3.3.1', 'a linear table: the STE is at base + StreamID * 64', () => {
    const rig = table(8);
    rig.ste(200, { Config: BYPASS, SHCFG: 1 });
    same([rig.pa(VA, { streamId: 200 }), rig.pa(VA, { streamId: 199 })], [Number(VA), null]);
  });
  rule('§6.3.24', 'a linear table is aligned to its size: lower address bits are ignored', () => {
    const rig = table(8, AT.strtab + 0x3fc0);
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 });
    same(rig.pa(VA), Number(VA));
  });
  rule('§6.3.25', 'a StreamID of 2^LOG2SIZE or more is C_BAD_STREAMID', () => {
    has(table(4).fault(VA, { streamId: 16 }), { type: 'C_BAD_STREAMID', StreamID: 16 });
  });
  rule('§6.3.25', 'LOG2SIZE counts as IDR1.SIDSIZE at most', () => {
    const rig = table(20, AT.strtab, { IDR1: { SIDSIZE: 4 } });
    same(rig.type(VA, { streamId: 16 }), 'C_BAD_STREAMID');
    same(rig.type(VA, { streamId: 15 }), BAD);
  });
  rule('§6.3.12.2', 'CR2.RECINVSID == 0: an unknown StreamID is aborted without a record', () => {
    const rig = table(4);
    rig.cr0({ SMMUEN: 0 });
    rig.write('CR2', 0);
    rig.cr0({ SMMUEN: 1 });
    has(rig.dma(VA, { streamId: 16 }), { kind: 'terminated', abort: true });
    same(rig.events(), []);
  });
  rule('§7.3.4', 'an abort of the STE fetch is F_STE_FETCH with the address of the STE', () => {
    const rig = table(8);
    rig.memory.refuse(AT.strtab + SID * 64, 8);
    has(rig.fault(VA), { type: 'F_STE_FETCH', StreamID: SID, FetchAddr: AT.strtab + SID * 64 });
  });
  rule('§3.4.3', 'an STE beyond the OAS is F_STE_FETCH, as one permitted behaviour', () => {
    const rig = table(twoLevel(8, 6), AT.strtab, SMALL);
    rig.l1std(0, 7, 2 ** 40);
    same(rig.type(VA), 'F_STE_FETCH');
  });
  rule('§16.2', 'a fetch that failed is not cached: the next access fetches again', () => {
    const rig = table(8);
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 });
    rig.memory.refuse(AT.strtab, 0x4000);
    rig.type(VA);
    rig.memory.mend();
    same(rig.pa(VA), Number(VA));
  });

  // --- two-level tables ---
  rule(
    '§3.3.1.2',
    'two levels: StreamID[LOG2SIZE-1:SPLIT] finds the L1STD, StreamID[SPLIT-1:0] the STE',
    () => {
      for (const split of [6, 8, 10]) {
        const rig = table(twoLevel(14, split));
        rig.l1std(3, split + 1, AT.strtab2);
        rig.ste(9, { Config: BYPASS, SHCFG: 1 }, AT.strtab2);
        same(rig.pa(VA, { streamId: 3 * 2 ** split + 9 }), Number(VA));
      }
    },
  );
  rule('§6.3.25', 'reserved SPLIT behaves as 6', () => {
    const rig = table(twoLevel(12, 7));
    rig.l1std(1, 7, AT.strtab2);
    rig.ste(2, { Config: BYPASS, SHCFG: 1 }, AT.strtab2);
    same(rig.pa(VA, { streamId: 66 }), Number(VA));
  });
  rule('§6.3.25', 'reserved FMT behaves as linear', () => {
    const rig = table(8 | (2 << 16));
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 });
    same(rig.pa(VA), Number(VA));
  });
  rule('§6.3.24', 'a level 1 table is aligned to its size, and to 64 bytes at least', () => {
    const rig = table(twoLevel(14, 8), AT.strtab + 0x1c0);
    rig.l1std(0, 9, AT.strtab2);
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 }, AT.strtab2);
    same(rig.pa(VA), Number(VA));
  });
  rule('§5.1', 'Span == 0: the StreamID is invalid', () => {
    const rig = table(twoLevel(12, 6));
    rig.l1std(0, 0, AT.strtab2);
    same(rig.type(VA), 'C_BAD_STREAMID');
  });
  rule('§5.1', 'a StreamID outside of 2^(Span-1) entries is invalid', () => {
    const rig = table(twoLevel(12, 6));
    rig.l1std(0, 3, AT.strtab2);
    same([rig.type(VA, { streamId: 3 }), rig.type(VA, { streamId: 4 })], [BAD, 'C_BAD_STREAMID']);
  });
  rule('§5.1', 'a reserved Span is invalid', () => {
    const rig = table(twoLevel(16, 10));
    rig.l1std(0, 12, AT.strtab2);
    same(rig.type(VA), 'C_BAD_STREAMID');
  });
  rule('§5.1', 'a Span beyond the split point is invalid', () => {
    const rig = table(twoLevel(12, 6));
    rig.l1std(0, 8, AT.strtab2);
    same(rig.type(VA), 'C_BAD_STREAMID');
  });
  rule('§5.1', 'L2Ptr[5+(Span-1):0] count as 0', () => {
    const rig = table(twoLevel(12, 6));
    rig.l1std(0, 5, AT.strtab2 + 0x3c0);
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 }, AT.strtab2);
    same(rig.pa(VA), Number(VA));
  });
  rule('§7.3.4', 'an abort of the L1STD fetch is F_STE_FETCH with the address of the L1STD', () => {
    const rig = table(twoLevel(12, 6));
    rig.memory.refuse(AT.strtab, 64);
    has(rig.fault(VA, { streamId: 0x42 }), { type: 'F_STE_FETCH', FetchAddr: AT.strtab + 8 });
  });
  rule('§4.3.1', 'a cached L1STD stays until CMD_CFGI_STE with Leaf == 0', () => {
    const rig = table(twoLevel(12, 6));
    rig.l1std(0, 0, AT.strtab2);
    rig.type(VA);
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 }, AT.strtab2);
    rig.l1std(0, 7, AT.strtab2);
    rig.run(command.cfgi('CFGI_STE', { Range: 1 }));
    same(rig.type(VA), 'C_BAD_STREAMID');
    rig.run(command.cfgi('CFGI_STE'));
    same(rig.pa(VA), Number(VA));
  });
  rule('§6.3.1', 'IDR0.ST_LEVEL == 0: the table is linear', () => {
    const rig = table(twoLevel(8, 6), AT.strtab, { IDR0: { ST_LEVEL: 0 } });
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 });
    same(rig.pa(VA), Number(VA));
  });

  // --- V and Config ---
  rule('§5.2', 'V == 0: C_BAD_STE', () => same(ste({ V: 0, Config: BYPASS }), BAD));
  rule('§7.3.5', 'C_BAD_STE holds the StreamID and, where one came, the SubstreamID', () => {
    const rig = new Rig();
    rig.ste(SID, { V: 0 });
    has(rig.fault(VA), { StreamID: SID, SSV: 0, SubstreamID: 0 });
    has(rig.fault(VA, { substreamId: 9 }), { StreamID: SID, SSV: 1, SubstreamID: 9 });
  });
  rule('§5.2', 'Config == 0b000: aborted without a record', () => {
    const rig = new Rig();
    rig.ste(SID, { Config: ABORT });
    has(rig.dma(VA), { kind: 'terminated', abort: true, event: null });
    same(rig.events(), []);
  });
  rule('§5.2', 'Config == 0b0xx behaves as 0b000', () => {
    for (const Config of [1, 2, 3]) same(ste({ Config }), null);
  });
  rule('§5.2.2', 'an aborting STE is not checked any further', () => {
    same(ste({ Config: ABORT, S2T0SZ: 63, S1CDMax: 31, STRW: 1 }), null);
  });
  rule('§5.2', 'Config == 0b100: the address is the physical address', () => {
    const rig = new Rig();
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 });
    same(rig.pa(0xf_ffff_ffff_ffffn), 0xf_ffff_ffff_ffff);
  });
  rule('§3.4', 'bypass beyond the OAS: F_ADDR_SIZE of stage 1, recorded, aborted', () => {
    const rig = new Rig({ config: SMALL });
    rig.ste(SID, { Config: BYPASS });
    has(rig.fault(1n << 36n, { write: true }), {
      type: 'F_ADDR_SIZE',
      S2: 0,
      CLASS: 2,
      RnW: 0,
      InputAddr: 1n << 36n,
    });
  });
  rule('§5.2.2', 'a bypass STE is not checked for what translation needs', () => {
    same(ste({ Config: BYPASS, S2T0SZ: 63, S2TG: 3, S1CDMax: 31, STRW: 3, EATS: 2 }), null);
  });
  rule('§5.2.2', 'stage 1 where IDR0.S1P == 0: C_BAD_STE', () => {
    same([stage1({}, { IDR0: { S1P: 0, Hyp: 0 } }), nested({}, { IDR0: { S1P: 0, Hyp: 0 } })], [BAD, BAD]);
  });
  rule('§5.2.2', 'stage 2 where IDR0.S2P == 0: C_BAD_STE', () => {
    same([stage2({}, { IDR0: { S2P: 0, Hyp: 0 } }), nested({}, { IDR0: { S2P: 0, Hyp: 0 } })], [BAD, BAD]);
  });
  rule('§5.2', 'all of stage 1, stage 2 and both translate', () => {
    same([stage1({}), stage2({}), nested({})], [null, null, null]);
  });
  rule('§5.2', 'stage 2 fields do not count where Config[1] == 0', () => {
    same(stage1({ S2T0SZ: 63, S2TG: 3, S2AA64: 0, S2TTB: 2 ** 51, S2S: 1 }), null);
  });
  rule('§5.2', 'stage 1 fields do not count where Config[0] == 0', () => {
    same(stage2({ S1ContextPtr: 2 ** 51, S1CDMax: 31, S1STALLD: 1 }, { IDR5: { OAS: 5, DS: 0 } }), null);
  });
  rule('§5.2', 'bits for software and IMPLEMENTATION DEFINED bits do not count', () => {
    same(
      ste({ Config: BYPASS, SW_RESERVED: 15, IMPDEF_127: 0xfff, IMPDEF_159: 0xffff, IMPDEF_271: 0xffff }),
      null,
    );
  });

  // --- STRW ---
  rule('§5.2.2', 'STRW == 0bx1 of a Non-secure stage 1 stream: C_BAD_STE', () => {
    same([stage1({ STRW: 1 }), stage1({ STRW: 3 })], [BAD, BAD]);
  });
  rule('§5.2.2', 'STRW does not count where stage 2 translates', () => same(nested({ STRW: 3 }), null));
  rule('§5.2.2', 'STRW does not count where IDR0.Hyp == 0', () => {
    same(stage1({ STRW: 3 }, { IDR0: { Hyp: 0 } }), null);
  });
  rule('§3.3.3', 'STRW == 0b10 with CR2.E2H == 0 is EL2: TTB0 alone translates', () => {
    const rig = new Rig();
    const tables = rig.stage1({ STRW: 2 }, { EPD0: 1 });
    tables.map(VA, BigInt(AT.data));
    same(rig.pa(VA), AT.data);
    same(rig.type(0xffff_0000_0000_0000n), 'F_TRANSLATION');
  });

  // --- stage 1 fields ---
  rule('§5.2.2', 'S1CDMax above IDR1.SSIDSIZE: C_BAD_STE', () => {
    same(
      [
        stage1({ S1CDMax: 9 }, { IDR1: { SSIDSIZE: 8 } }),
        stage1({ S1CDMax: 8, S1DSS: 2 }, { IDR1: { SSIDSIZE: 8 } }),
      ],
      [BAD, null],
    );
  });
  rule('§5.2', 'S1CDMax does not count where SSIDSIZE == 0', () => {
    same(stage1({ S1CDMax: 9, S1Fmt: 1 }, { IDR1: { SSIDSIZE: 0 } }), null);
  });
  rule('§5.2.2', 'a two-level CD table where IDR0.CD2L == 0: C_BAD_STE', () => {
    same(
      [1, 2].map((S1Fmt) => stage1({ S1CDMax: 4, S1Fmt }, { IDR0: { CD2L: 0 } })),
      [BAD, BAD],
    );
    same(stage1({ S1CDMax: 0, S1Fmt: 1 }, { IDR0: { CD2L: 0 } }), null);
  });
  rule('§3.4.3', 'S1ContextPtr beyond the OAS: C_BAD_STE since SMMUv3.1', () => {
    same(stage1({ S1ContextPtr: 2 ** 36 }, SMALL), BAD);
  });
  rule('§3.4.3', 'S1ContextPtr beyond the IAS with stage 2: C_BAD_STE, as one permitted behaviour', () => {
    same(nested({ S1ContextPtr: 2 ** 36, S2T0SZ: 28, S2PS: 1 }, SMALL), BAD);
  });
  rule('§5.5', 'S1STALLD where STALL_MODEL is not 0b00: C_BAD_STE', () => {
    same(
      [0, 1, 2].map((STALL_MODEL) => stage1({ S1STALLD: 1 }, { IDR0: { STALL_MODEL } })),
      [null, BAD, BAD],
    );
  });

  // --- ATS fields ---
  rule('§5.2.2', 'EATS == 0b10 without both stages: C_BAD_STE', () => {
    same([stage1({ EATS: 2 }), stage2({ EATS: 2 }), nested({ EATS: 2 })], [BAD, BAD, null]);
  });
  rule('§5.2.2', 'EATS == 0b10 where IDR0.NS1ATS == 1: C_BAD_STE', () => {
    same(nested({ EATS: 2 }, { IDR0: { NS1ATS: 1 } }), BAD);
  });
  rule('§5.2.2', 'EATS == 0b01 or 0b10 with S2S where stage 2 translates: C_BAD_STE', () => {
    same(
      [stage2({ EATS: 1, S2S: 1 }), nested({ EATS: 2, S2S: 1 }), stage1({ EATS: 1, S2S: 1 })],
      [BAD, BAD, null],
    );
  });
  rule('§5.2', 'EATS does not count where IDR0.ATS == 0', () => {
    same(stage1({ EATS: 2 }, { IDR0: { ATS: 0, PRI: 0 } }), null);
  });

  // --- stage 2 fields ---
  rule('§5.2.2', 'S2VMID[15:8] where IDR0.VMID16 == 0: C_BAD_STE', () => {
    same([stage2({ S2VMID: 0x100 }, { IDR0: { VMID16: 0 } }), stage2({ S2VMID: 0x100 })], [BAD, null]);
  });
  rule('§5.2', 'S2VMID tags stage 1 translations too, and is checked there', () => {
    same(stage1({ S2VMID: 0x100 }, { IDR0: { VMID16: 0 } }), BAD);
  });
  rule('§5.2.2', 'S2AA64 == 0 where IDR0.TTF has no AArch32 tables: C_BAD_STE', () =>
    same(stage2({ S2AA64: 0 }), BAD),
  );
  rule('§5.2.2', 'a reserved S2TG, or a granule that is not implemented: C_BAD_STE', () => {
    same([stage2({ S2TG: 3 }), stage2({}, { IDR5: { GRAN4K: 0 } })], [BAD, BAD]);
  });
  rule('§5.2', 'S2TG: 0b00 is 4K, 0b01 64K, 0b10 16K', () => {
    const run = (S2TG: number, granule: 12 | 14 | 16, level: number): string | null =>
      stage2(
        { S2TG, S2SL0: 3 - level - (granule === 12 ? 1 : 0), S2T0SZ: 28 },
        {},
        { granule, inputBits: 36, startLevel: level },
      );
    same([run(TG0.GRAN4K, 12, 1), run(TG0.GRAN64K, 16, 2), run(TG0.GRAN16K, 14, 2)], [null, null, null]);
  });
  rule('§5.2', 'S2T0SZ below 16 with 4K and without S2DS: C_BAD_STE', () => {
    same(stage2({ S2T0SZ: 15, S2SL0: 2 }), BAD);
  });
  rule('§5.2', 'S2T0SZ above 39 where IDR3.STT == 0: C_BAD_STE', () => {
    same(stage2({ S2T0SZ: 40, S2SL0: 0 }, { IDR3: { STT: 0 } }), BAD);
  });
  rule('§5.2', 'an input size above the IAS: C_BAD_STE', () => {
    same(stage2({ S2T0SZ: 27, S2PS: 1 }, SMALL), BAD);
    same(stage2({ S2T0SZ: 28, S2PS: 1 }, SMALL, { inputBits: 36, startLevel: 1 }), null);
  });
  rule('§5.2', 'an S2SL0 that does not fit S2T0SZ: C_BAD_STE', () => {
    same(
      [0, 1, 2].map((S2SL0) => stage2({ S2SL0, S2T0SZ: 16 })),
      [BAD, BAD, 'F_TRANSLATION'],
    );
  });
  rule('§5.2', 'S2TTB beyond S2PS: C_BAD_STE', () => same(stage2({ S2TTB: 2 ** 40, S2PS: 2 }), BAD));
  rule('§5.2', 'S2PS counts as the OAS at most', () => {
    same(stage2({ S2TTB: 2 ** 36, S2PS: 5, S2T0SZ: 28 }, SMALL), BAD);
  });
  rule('§5.2.2', 'S2HA or S2HD where IDR0.HTTU == 0: C_BAD_STE', () => {
    same(
      [{ S2HA: 1 }, { S2HD: 1 }].map((fields) => stage2(fields, { IDR0: { HTTU: 0 } })),
      [BAD, BAD],
    );
  });
  rule('§5.2.2', 'S2HD where IDR0.HTTU == 1: C_BAD_STE; S2HA is fine', () => {
    same(
      [{ S2HD: 1, S2HA: 1 }, { S2HA: 1 }].map((fields) => stage2(fields, { IDR0: { HTTU: 1 } })),
      [BAD, null],
    );
  });
  rule('§5.2.2', 'an S2ENDI that IDR0.TTENDIAN does not have: C_BAD_STE', () => {
    same(
      [stage2({ S2ENDI: 1 }, { IDR0: { TTENDIAN: 2 } }), stage2({}, { IDR0: { TTENDIAN: 3 } })],
      [BAD, BAD],
    );
  });
  rule('§5.2', 'S2ENDI == 1: stage 2 tables are big-endian', () => {
    same(stage2({ S2ENDI: 1 }, {}, { bigEndian: true }), null);
  });
  rule('§5.5', 'S2S == 1 where STALL_MODEL == 0b01: C_BAD_STE', () => {
    same(stage2({ S2S: 1 }, { IDR0: { STALL_MODEL: 1 } }), BAD);
  });
  rule('§5.5', 'S2S == 0 where STALL_MODEL == 0b10: C_BAD_STE', () => {
    same(stage2({ S2S: 0 }, { IDR0: { STALL_MODEL: 2 } }), BAD);
  });

  // --- where the fields are ---
  rule(
    '§5.2',
    'the second doubleword: S1DSS [1:0], S1STALLD [27], EATS [29:28], STRW [31:30], SHCFG [45:44]',
    () => {
      const bit = (at: number): string | null => {
        const rig = new Rig();
        rig.stage1({ SHCFG: 0 }).map(VA, BigInt(AT.data));
        const place = AT.strtab + SID * 64 + 8;
        rig.memory.put64(place, rig.memory.get64(place) | (1n << BigInt(at)));
        return rig.type(VA);
      };
      // S1STALLD is fine, EATS 0b10 wants both stages, STRW 0b01 is reserved.
      same([bit(27), bit(28), bit(29), bit(30)], [null, null, BAD, BAD]);
      const rig = new Rig();
      rig.memory.put(AT.strtab + SID * 64, [0b1001, 0, 0, 0x3000]);
      has(rig.dma(VA), { attributes: 0x3ff });
    },
  );
  rule(
    '§5.2',
    'the third doubleword: S2VMID [15:0], S2T0SZ [37:32], S2SL0 [39:38], S2TG [47:46], S2PS [50:48], S2AA64 [51]',
    () => {
      const rig = new Rig();
      const tables = rig.tables({ stage: 2 });
      tables.map(VA, BigInt(AT.data));
      const place = AT.strtab + SID * 64;
      rig.memory.put64(place, 0b1101n);
      rig.memory.put64(place + 16, (25n << 32n) | (1n << 38n) | (5n << 48n) | (1n << 51n) | 7n);
      rig.memory.put64(place + 24, BigInt(tables.root));
      same(rig.pa(VA), AT.data);
    },
  );

  // --- the cache of STEs ---
  rule('§3.21.3', 'a changed STE is seen after CMD_CFGI_STE, not before', () => {
    const rig = new Rig();
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 });
    rig.pa(VA);
    rig.ste(SID, { Config: ABORT });
    same(rig.pa(VA), Number(VA));
    rig.run(command.cfgi('CFGI_STE'));
    same(rig.pa(VA), null);
  });
  rule('§5.2.1', 'an STE with V == 0 may be cached: making it valid needs CMD_CFGI_STE', () => {
    const rig = new Rig();
    rig.ste(SID, { V: 0 });
    rig.type(VA);
    rig.ste(SID, { Config: BYPASS, SHCFG: 1 });
    same(rig.type(VA), BAD);
    rig.run(command.cfgi('CFGI_STE'));
    same(rig.pa(VA), Number(VA));
  });
  rule('§4.3.1', 'CMD_CFGI_STE takes one StreamID alone', () => {
    const rig = new Rig();
    for (const sid of [SID, SID + 1]) {
      rig.ste(sid, { Config: BYPASS, SHCFG: 1 });
      rig.pa(VA, { streamId: sid });
      rig.ste(sid, { Config: ABORT });
    }
    rig.run(command.cfgi('CFGI_STE'));
    same([rig.pa(VA), rig.pa(VA, { streamId: SID + 1 })], [null, Number(VA)]);
  });
  rule('§5.2', 'an STE of each configuration translates the same through the cache as at first', () => {
    for (const Config of [S1_TRANS, S2_TRANS, NESTED]) {
      const rig = new Rig();
      if (Config === S1_TRANS) rig.stage1().map(VA, BigInt(AT.data));
      else if (Config === S2_TRANS) rig.stage2().map(VA, BigInt(AT.data));
      else {
        const { first, second } = rig.nested();
        first.map(VA, VA);
        second.map(VA, BigInt(AT.data));
      }
      same([rig.pa(VA + 8n), rig.pa(VA + 16n)], [AT.data + 8, AT.data + 16]);
    }
  });
});
