// §5.3, §5.4: context descriptors, SubstreamIDs and S1DSS.

import type { ConfigOverrides } from '../registers/config.ts';
import { S1FMT, STE_CONFIG } from '../../spec/ste.ts';
import { type CdFields, type SteFields, AT, Rig, SID, VA, command } from './rig.ts';
import type { Tables, TablesOptions } from './tables.ts';
import { has, same, topic } from '../../../testing/rules.ts';

const BAD = 'C_BAD_CD';
const HIGH = 0xffff_8000_0000_0000n;

/** What an access through a CD with these fields ends in; null for success. */
function cd(
  fields: CdFields,
  config: ConfigOverrides = {},
  ste: SteFields = {},
  options: TablesOptions = {},
): string | null {
  const rig = new Rig({ config });
  rig.stage1(ste, fields, options).map(VA, BigInt(AT.data));
  return rig.type(VA);
}

/** A stream with SubstreamIDs: the CD of `index` is at `at`, and its tables map VA. */
function substreams(ste: SteFields, at: number, config: ConfigOverrides = {}): { rig: Rig; tables: Tables } {
  const rig = new Rig({ config });
  const tables = rig.tables();
  tables.map(VA, BigInt(AT.data));
  rig.ste(SID, { Config: STE_CONFIG.S1_TRANS, S1ContextPtr: AT.cds, SHCFG: 1, ...ste });
  rig.cd(rig.cdFor(tables), 0, at);
  return { rig, tables };
}

export const CONTEXTS = topic('CD', (rule) => {
  // --- finding it ---
  rule('§5.2', 'S1CDMax == 0: one CD at S1ContextPtr, with 64 bytes of alignment', () => {
    const { rig } = substreams({ S1ContextPtr: AT.cds + 0x1c0 }, AT.cds + 0x1c0);
    same(rig.pa(VA), AT.data);
  });
  rule('§5.2', 'S1Fmt == 0b00: the CD is at S1ContextPtr + SubstreamID * 64', () => {
    const { rig } = substreams({ S1CDMax: 6 }, AT.cds + 37 * 64);
    same(rig.pa(VA, { substreamId: 37 }), AT.data);
  });
  rule('§5.2', 'a linear CD table is aligned to its size: lower bits of S1ContextPtr are ignored', () => {
    const { rig } = substreams({ S1CDMax: 4, S1ContextPtr: AT.cds + 0x3c0 }, AT.cds + 5 * 64);
    same(rig.pa(VA, { substreamId: 5 }), AT.data);
  });
  rule('§5.2', 'S1Fmt == 0b01: SubstreamID[S1CDMax-1:6] finds the L1CD, SubstreamID[5:0] the CD', () => {
    const { rig } = substreams({ S1CDMax: 10, S1Fmt: S1FMT.TWO_LEVEL_4K }, AT.cds2 + 9 * 64);
    rig.l1cd(5, 1, AT.cds2);
    same(rig.pa(VA, { substreamId: 5 * 64 + 9 }), AT.data);
  });
  rule('§5.2', 'S1Fmt == 0b10: SubstreamID[S1CDMax-1:10] finds the L1CD, SubstreamID[9:0] the CD', () => {
    const { rig } = substreams({ S1CDMax: 14, S1Fmt: S1FMT.TWO_LEVEL_64K }, AT.cds2 + 700 * 64);
    rig.l1cd(5, 1, AT.cds2);
    same(rig.pa(VA, { substreamId: 5 * 1024 + 700 }), AT.data);
  });
  rule('§5.2', 'S1Fmt == 0b11 is reserved and behaves as 0b00', () => {
    const { rig } = substreams({ S1CDMax: 4, S1Fmt: 3 }, AT.cds + 64);
    same(rig.pa(VA, { substreamId: 1 }), AT.data);
  });
  rule('§5.2', 'S1CDMax of at most the leaf size: the first L1CD serves all SubstreamIDs', () => {
    const { rig } = substreams({ S1CDMax: 3, S1Fmt: S1FMT.TWO_LEVEL_4K }, AT.cds2 + 7 * 64);
    rig.l1cd(0, 1, AT.cds2);
    same(rig.pa(VA, { substreamId: 7 }), AT.data);
  });
  rule('§5.3', 'L1CD.V == 0: C_BAD_SUBSTREAMID', () => {
    const { rig } = substreams({ S1CDMax: 10, S1Fmt: 1 }, AT.cds2);
    rig.l1cd(1, 0, AT.cds2);
    has(rig.fault(VA, { substreamId: 70 }), { type: 'C_BAD_SUBSTREAMID', SubstreamID: 70 });
  });
  rule('§5.3', 'an L1CD points to 64K leaves with L2Ptr[55:16]: lower bits are ignored', () => {
    const { rig } = substreams({ S1CDMax: 12, S1Fmt: S1FMT.TWO_LEVEL_64K }, AT.cds2 + 64);
    rig.l1cd(0, 1, AT.cds2 + 0x3000);
    same(rig.pa(VA, { substreamId: 1 }), AT.data);
  });
  rule('§3.4.3', 'L1CD.L2Ptr beyond the OAS: C_BAD_SUBSTREAMID since SMMUv3.1', () => {
    const { rig } = substreams({ S1CDMax: 10, S1Fmt: 1 }, AT.cds2, { IDR5: { OAS: 1, DS: 0, VAX: 0 } });
    rig.l1cd(0, 1, 2 ** 40);
    same(rig.type(VA, { substreamId: 1 }), 'C_BAD_SUBSTREAMID');
  });
  rule('§7.3.10', 'an abort of the CD fetch is F_CD_FETCH with the address of the CD', () => {
    const { rig } = substreams({ S1CDMax: 4 }, AT.cds);
    rig.memory.refuse(AT.cds + 192, 8);
    has(rig.fault(VA, { substreamId: 3 }), {
      type: 'F_CD_FETCH',
      SSV: 1,
      SubstreamID: 3,
      FetchAddr: AT.cds + 192,
    });
  });
  rule('§7.3.10', 'an abort of the L1CD fetch is F_CD_FETCH with the address of the L1CD', () => {
    const { rig } = substreams({ S1CDMax: 10, S1Fmt: 1 }, AT.cds2);
    rig.memory.refuse(AT.cds, 64);
    has(rig.fault(VA, { substreamId: 64 }), { type: 'F_CD_FETCH', FetchAddr: AT.cds + 8 });
  });

  // --- SubstreamIDs ---
  rule('§7.3.9', 'a SubstreamID of 2^S1CDMax or more: C_BAD_SUBSTREAMID', () => {
    const { rig } = substreams({ S1CDMax: 4 }, AT.cds);
    has(rig.fault(VA, { substreamId: 16 }), { type: 'C_BAD_SUBSTREAMID', SubstreamID: 16, StreamID: SID });
  });
  rule('§7.3.9', 'a SubstreamID where S1CDMax == 0: C_BAD_SUBSTREAMID', () => {
    same(substreams({}, AT.cds).rig.type(VA, { substreamId: 0 }), 'C_BAD_SUBSTREAMID');
  });
  rule(
    '§7.3.9',
    'a SubstreamID where the STE bypasses, or stage 2 alone translates: C_BAD_SUBSTREAMID',
    () => {
      const rig = new Rig();
      rig.ste(SID, { Config: STE_CONFIG.BYPASS });
      same(rig.type(VA, { substreamId: 1 }), 'C_BAD_SUBSTREAMID');
      const second = new Rig();
      second.stage2();
      same(second.type(VA, { substreamId: 1 }), 'C_BAD_SUBSTREAMID');
    },
  );
  rule('§5.2', 'a SubstreamID where the STE aborts: aborted without a record', () => {
    const rig = new Rig();
    rig.ste(SID, { Config: STE_CONFIG.ABORT });
    same(rig.type(VA, { substreamId: 1 }), null);
  });
  rule('§5.2', 'S1DSS == 0b00: a transaction without a SubstreamID is F_STREAM_DISABLED', () => {
    const { rig } = substreams({ S1CDMax: 4, S1DSS: 0 }, AT.cds);
    has(rig.fault(VA), { type: 'F_STREAM_DISABLED', SSV: 0 });
    same(rig.pa(VA, { substreamId: 0 }), AT.data);
  });
  rule('§5.2', 'S1DSS == 0b01: a transaction without a SubstreamID bypasses stage 1', () => {
    const { rig } = substreams({ S1CDMax: 4, S1DSS: 1 }, AT.cds);
    same([rig.pa(0x123n), rig.pa(VA, { substreamId: 0 })], [0x123, AT.data]);
  });
  rule('§5.2', 'S1DSS == 0b01 with stage 2: stage 2 alone translates', () => {
    const rig = new Rig();
    const { second } = rig.nested({ S1CDMax: 4, S1DSS: 1 });
    second.map(VA, BigInt(AT.data));
    same(rig.pa(VA), AT.data);
  });
  rule('§3.4', 'S1DSS == 0b01: an address beyond the IAS is F_ADDR_SIZE of stage 1', () => {
    const { rig } = substreams({ S1CDMax: 4, S1DSS: 1 }, AT.cds, { IDR5: { OAS: 1, DS: 0, VAX: 0 } });
    has(rig.fault(1n << 36n), { type: 'F_ADDR_SIZE', S2: 0, CLASS: 2 });
  });
  rule('§5.2', 'S1DSS == 0b10: a transaction without a SubstreamID uses CD 0', () => {
    same(substreams({ S1CDMax: 4, S1DSS: 2 }, AT.cds).rig.pa(VA), AT.data);
  });
  rule('§5.2', 'S1DSS == 0b10: SubstreamID 0 is F_STREAM_DISABLED', () => {
    const { rig } = substreams({ S1CDMax: 4, S1DSS: 2 }, AT.cds);
    has(rig.fault(VA, { substreamId: 0 }), { type: 'F_STREAM_DISABLED', SSV: 1, SubstreamID: 0 });
  });
  rule('§5.2', 'S1DSS == 0b11 is reserved and behaves as 0b00', () => {
    same(substreams({ S1CDMax: 4, S1DSS: 3 }, AT.cds).rig.type(VA), 'F_STREAM_DISABLED');
  });
  rule('§5.2', 'S1DSS does not count where S1CDMax == 0', () => {
    same(
      [0, 1, 2].map((S1DSS) => substreams({ S1DSS }, AT.cds).rig.pa(VA)),
      [AT.data, AT.data, AT.data],
    );
  });
  rule('§6.3.2', 'IDR1.SSIDSIZE == 0: no SubstreamID is taken', () => {
    const { rig } = substreams({ S1CDMax: 4 }, AT.cds, { IDR1: { SSIDSIZE: 0 } });
    same([rig.pa(VA), rig.type(VA, { substreamId: 1 })], [AT.data, 'C_BAD_SUBSTREAMID']);
  });

  // --- through stage 2 ---
  rule('§5.2', 'with stage 2, S1ContextPtr is an IPA', () => {
    const rig = new Rig();
    const { first, second } = rig.nested({ S1ContextPtr: 0x5000_0040 });
    first.map(VA, VA);
    second.map(VA, BigInt(AT.data));
    second.map(0x5000_0000n, BigInt(AT.cds2));
    rig.cd(rig.cdFor(first), 1, AT.cds2);
    same(rig.pa(VA), AT.data);
  });
  rule('§7.3.13', 'stage 2 refuses the CD: a stage 2 fault with CLASS == CD and the IPA of the CD', () => {
    const rig = new Rig();
    const { second } = rig.nested({ S1CDMax: 8, S1DSS: 0 });
    rig.unmap(second, BigInt(AT.cds), 2);
    has(rig.fault(VA, { substreamId: 70, write: true }), {
      type: 'F_TRANSLATION',
      S2: 1,
      CLASS: 0,
      IPA: AT.cds + 0x1000,
      RnW: 0,
      SSV: 1,
      SubstreamID: 70,
    });
  });
  rule('§7.3.13', 'the same for an L1CD', () => {
    const rig = new Rig();
    const { second } = rig.nested({ S1CDMax: 18, S1Fmt: 1, S1DSS: 0 });
    rig.unmap(second, BigInt(AT.cds), 2);
    has(rig.fault(VA, { substreamId: 64 * 1024 }), {
      type: 'F_TRANSLATION',
      S2: 1,
      CLASS: 0,
      IPA: AT.cds + 0x2000,
    });
  });
  rule(
    '§7.3.16',
    'a CD fetch is a read of data: without stage 2 read permission it is F_PERMISSION, CLASS == CD',
    () => {
      const rig = new Rig();
      const { second } = rig.nested();
      second.map(BigInt(AT.cds), BigInt(AT.cds), { level: 2, s2ap: 2 });
      has(rig.fault(VA), { type: 'F_PERMISSION', S2: 1, CLASS: 0 });
    },
  );
  rule(
    '§7.3.10',
    'stage 2 translates the CD, and its fetch aborts: F_CD_FETCH with the physical address',
    () => {
      const rig = new Rig();
      const { second } = rig.nested({ S1ContextPtr: 0x5000_0040 });
      second.map(0x5000_0000n, BigInt(AT.cds2));
      rig.memory.refuse(AT.cds2, 4096);
      has(rig.fault(VA), { type: 'F_CD_FETCH', FetchAddr: AT.cds2 + 0x40 });
    },
  );

  // --- validity (§5.4.2) ---
  rule('§5.4.2', 'V == 0: C_BAD_CD', () => same(cd({ V: 0 }), BAD));
  rule('§7.3.11', 'C_BAD_CD holds StreamID and SubstreamID', () => {
    const { rig } = substreams({ S1CDMax: 4 }, AT.cds + 640);
    rig.cd({ V: 0 }, 2);
    has(rig.fault(VA, { substreamId: 2 }), { type: BAD, StreamID: SID, SSV: 1, SubstreamID: 2 });
  });
  rule('§5.5', 'S == 1 with STE.S1STALLD: C_BAD_CD', () => same(cd({ S: 1 }, {}, { S1STALLD: 1 }), BAD));
  rule('§5.5', 'S == 1 where STALL_MODEL == 0b01: C_BAD_CD', () =>
    same(cd({ S: 1 }, { IDR0: { STALL_MODEL: 1 } }), BAD),
  );
  rule('§5.5', 'S == 0 where STALL_MODEL == 0b10: C_BAD_CD', () => {
    same(
      [0, 1].map((S) => cd({ S }, { IDR0: { STALL_MODEL: 2 } })),
      [BAD, null],
    );
  });
  rule('§5.5', 'A == 0 where IDR0.TERM_MODEL == 1: C_BAD_CD', () =>
    same(cd({ A: 0 }, { IDR0: { TERM_MODEL: 1 } }), BAD),
  );
  rule('§5.4.2', 'AA64 == 0 where IDR0.TTF has no AArch32 tables: C_BAD_CD', () =>
    same(cd({ AA64: 0 }), BAD),
  );
  rule('§5.4.2', 'HA or HD where IDR0.HTTU == 0: C_BAD_CD', () => {
    same([cd({ HA: 1 }, { IDR0: { HTTU: 0 } }), cd({ HD: 1 }, { IDR0: { HTTU: 0 } })], [BAD, BAD]);
  });
  rule('§5.4.2', 'HD where IDR0.HTTU == 1: C_BAD_CD', () => {
    same([cd({ HA: 1, HD: 1 }, { IDR0: { HTTU: 1 } }), cd({ HA: 1 }, { IDR0: { HTTU: 1 } })], [BAD, null]);
  });
  rule('§5.4.2', 'ASID[15:8] where IDR0.ASID16 == 0: C_BAD_CD', () => {
    same([cd({ ASID: 0x100 }, { IDR0: { ASID16: 0 } }), cd({ ASID: 0x100 })], [BAD, null]);
  });
  rule('§5.4.2', 'an ENDI that IDR0.TTENDIAN does not have: C_BAD_CD', () => {
    same([cd({ ENDI: 1 }, { IDR0: { TTENDIAN: 2 } }), cd({}, { IDR0: { TTENDIAN: 3 } })], [BAD, BAD]);
  });
  rule('§5.4', 'ENDI == 1: stage 1 tables are big-endian', () =>
    same(cd({ ENDI: 1 }, {}, {}, { bigEndian: true }), null),
  );
  rule('§5.4.2', 'a reserved TG0, or a granule that is not implemented: C_BAD_CD', () => {
    same([cd({ TG0: 3 }), cd({ TG0: 1 }, { IDR5: { GRAN64K: 0 } })], [BAD, BAD]);
  });
  rule('§5.4', 'TG0: 0b00 is 4K, 0b01 64K, 0b10 16K', () => {
    same(
      [cd({ TG0: 0 }), cd({ TG0: 1 }, {}, {}, { granule: 16 }), cd({ TG0: 2 }, {}, {}, { granule: 14 })],
      [null, null, null],
    );
  });
  rule('§5.4', 'TG1: 0b10 is 4K, 0b11 64K, 0b01 16K, and 0b00 is reserved', () => {
    const run = (TG1: number, granule: 12 | 14 | 16): string | null => {
      const rig = new Rig();
      const tables = rig.stage1({}, { EPD0: 1, EPD1: 0, T1SZ: 17, TG1 }, { granule, inputBits: 47 });
      tables.map(HIGH + VA, BigInt(AT.data));
      rig.cd(rig.cdFor(tables, { EPD0: 1, EPD1: 0, T1SZ: 17, TG1, TTB0: 0, TTB1: tables.root, MAIR0: 0xff }));
      return rig.type(HIGH + VA);
    };
    same([run(2, 12), run(3, 16), run(1, 14), run(0, 12)], [null, null, null, BAD]);
  });
  rule('§5.4', 'T0SZ below 16 with 4K and without DS: C_BAD_CD', () => same(cd({ T0SZ: 15 }), BAD));
  rule('§5.4', 'T0SZ above 39 where IDR3.STT == 0: C_BAD_CD', () => {
    same([cd({ T0SZ: 40 }, { IDR3: { STT: 0 } }), cd({ T0SZ: 49 })], [BAD, BAD]);
  });
  rule('§5.4.2', 'TTB0 beyond IPS: C_BAD_CD', () => same(cd({ TTB0: 2 ** 36, IPS: 1 }), BAD));
  rule('§5.4', 'IPS counts as the OAS at most', () => {
    same(cd({ TTB0: 2 ** 36, IPS: 5 }, { IDR5: { OAS: 1, DS: 0, VAX: 0 } }), BAD);
  });
  rule('§5.4', 'EPD1 == 1: the fields of TTB1 do not count', () => {
    same(cd({ EPD1: 1, T1SZ: 63, TG1: 0, TTB1: 2 ** 51, HAD1: 1 }), null);
  });
  rule('§5.4', 'EPD0 == 1: the fields of TTB0 do not count, and its half faults', () => {
    same(cd({ EPD0: 1, T0SZ: 63, TG0: 3, TTB0: 2 ** 51 }), 'F_TRANSLATION');
  });
  rule('§5.4', 'both EPD: the CD is valid and every address faults', () => {
    same(cd({ EPD0: 1, EPD1: 1, ENDI: 1 }, { IDR0: { TTENDIAN: 2 } }), 'F_TRANSLATION');
  });
  rule('§5.4', 'in EL2 without E2H, EPD0 and EPD1 do not count and there is no TTB1', () => {
    const rig = new Rig();
    const tables = rig.stage1({ STRW: 2 }, { EPD0: 1, EPD1: 0, TG1: 0, T1SZ: 63 });
    tables.map(VA, BigInt(AT.data));
    same(rig.pa(VA), AT.data);
  });

  // --- the cache of CDs ---
  rule('§3.21.3', 'a changed CD is seen after CMD_CFGI_CD, not before', () => {
    const rig = new Rig();
    const tables = rig.stage1();
    tables.map(VA, BigInt(AT.data));
    rig.pa(VA);
    rig.cd({ V: 0 });
    same(rig.pa(VA), AT.data);
    rig.run(command.cfgi('CFGI_CD'));
    same(rig.type(VA), BAD);
  });
  rule('§5.4.1', 'a CD with V == 0 may be cached: making it valid needs CMD_CFGI_CD', () => {
    const rig = new Rig();
    const tables = rig.stage1({}, { V: 0 });
    tables.map(VA, BigInt(AT.data));
    rig.type(VA);
    rig.cd(rig.cdFor(tables));
    same(rig.type(VA), BAD);
    rig.run(command.cfgi('CFGI_CD'));
    same(rig.pa(VA), AT.data);
  });
  rule('§4.3.3', 'CMD_CFGI_CD takes one SubstreamID alone', () => {
    const { rig, tables } = substreams({ S1CDMax: 4 }, AT.cds + 64);
    rig.cd(rig.cdFor(tables), 2);
    for (const substreamId of [1, 2]) {
      rig.pa(VA, { substreamId });
      rig.cd({ V: 0 }, substreamId);
    }
    rig.run(command.cfgi('CFGI_CD', { SubstreamID: 1 }));
    same([rig.type(VA, { substreamId: 1 }), rig.pa(VA, { substreamId: 2 })], [BAD, AT.data]);
  });
  rule('§4.3.3', 'CMD_CFGI_CD with Leaf == 1 leaves the L1CD in the cache', () => {
    const { rig } = substreams({ S1CDMax: 10, S1Fmt: 1 }, AT.cds2);
    rig.l1cd(0, 1, AT.cds2 + 0x1000);
    rig.type(VA, { substreamId: 0 });
    rig.l1cd(0, 1, AT.cds2);
    rig.run(command.cfgi('CFGI_CD', { Range: 1 }));
    same(rig.type(VA, { substreamId: 0 }), BAD);
    rig.run(command.cfgi('CFGI_CD'));
    same(rig.pa(VA, { substreamId: 0 }), AT.data);
  });
  rule('§4.3.4', 'CMD_CFGI_CD_ALL takes every CD and L1CD of the stream', () => {
    const { rig, tables } = substreams({ S1CDMax: 4 }, AT.cds + 64);
    rig.cd(rig.cdFor(tables), 2);
    for (const substreamId of [1, 2]) {
      rig.pa(VA, { substreamId });
      rig.cd({ V: 0 }, substreamId);
    }
    rig.run(command.cfgi('CFGI_CD_ALL'));
    same(
      [1, 2].map((substreamId) => rig.type(VA, { substreamId })),
      [BAD, BAD],
    );
  });
  rule('§4.3.3', 'CMD_CFGI_CD of another stream leaves the CD, though it is the same one', () => {
    const rig = new Rig();
    const tables = rig.stage1();
    tables.map(VA, BigInt(AT.data));
    rig.ste(SID + 1, { Config: STE_CONFIG.S1_TRANS, S1ContextPtr: AT.cds, SHCFG: 1 });
    rig.pa(VA);
    rig.pa(VA, { streamId: SID + 1 });
    rig.cd({ V: 0 });
    rig.run(command.cfgi('CFGI_CD', { StreamID: SID + 1 }));
    same([rig.pa(VA), rig.type(VA, { streamId: SID + 1 })], [AT.data, BAD]);
  });
  rule('§4.3.1', 'CMD_CFGI_STE takes the CDs that were reached through the STE', () => {
    const rig = new Rig();
    rig.stage1().map(VA, BigInt(AT.data));
    rig.pa(VA);
    rig.cd({ V: 0 });
    rig.run(command.cfgi('CFGI_STE', { Range: 1 }));
    same(rig.type(VA), BAD);
  });
});
