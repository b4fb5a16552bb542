// §3.4 and VMSAv8-64 as the SMMU has it: addresses, tables, permissions, hardware updates.

import type { ConfigOverrides } from '../registers/config.ts';
import { type CdFields, type SteFields, AT, Rig, SID, VA, command } from './rig.ts';
import type { Leaf, Tables, TablesOptions } from './tables.ts';
import { has, same, topic } from '../../../testing/rules.ts';

const HIGH = 0xffff_8000_0000_0000n;
const PAGE = 4096n;
const DATA = BigInt(AT.data);
const WIDE = 0x8_0000_4567_0000n;

interface Access {
  readonly write?: boolean;
  readonly instruction?: boolean;
  readonly privileged?: boolean;
}

/** What accesses through one stage 1 leaf end in: null where they are allowed. */
function leaf1(leaf: Leaf, cd: CdFields = {}, ste: SteFields = {}): (access?: Access) => string | null {
  const rig = new Rig();
  rig.stage1(ste, cd).map(VA, DATA, leaf);
  return (access = {}) => rig.type(VA, access);
}

/** The same at stage 2. */
function leaf2(
  leaf: Leaf,
  ste: SteFields = {},
  config: ConfigOverrides = {},
): (access?: Access) => string | null {
  const rig = new Rig({ config });
  rig.stage2(ste).map(VA, DATA, leaf);
  return (access = {}) => rig.type(VA, access);
}

const read = {};
const write = { write: true };
const fetch = { instruction: true };
const kernel = { privileged: true };

/** A stage 1 rig with tables of another shape, and its tables. */
function shaped(
  cd: CdFields,
  options: TablesOptions,
  config: ConfigOverrides = {},
): { rig: Rig; tables: Tables } {
  const rig = new Rig({ config });
  const tables = rig.stage1({}, cd, options);
  return { rig, tables };
}

const DENIED = 'F_PERMISSION';

export const TRANSLATION = topic('TRN', (rule) => {
  // --- input addresses of stage 1 ---
  rule('§3.4', 'a VA outside of T0SZ is F_TRANSLATION of stage 1', () => {
    const { rig, tables } = shaped({ T0SZ: 25 }, { inputBits: 39 });
    tables.map(0x7f_ffff_f000n, DATA);
    same([rig.pa(0x7f_ffff_f000n), rig.type(0x80_0000_0000n)], [AT.data, 'F_TRANSLATION']);
    has(rig.fault(0x80_0000_0000n), { S2: 0, CLASS: 2 });
  });
  rule('§3.4.1', 'VA[55] selects TTB0 or TTB1', () => {
    const rig = new Rig();
    const [lower, upper] = [rig.stage1(), rig.tables({ inputBits: 47 })];
    rig.cd(rig.cdFor(lower, { EPD1: 0, T1SZ: 17, TG1: 2, TTB1: upper.root }));
    lower.map(VA, DATA);
    upper.map(HIGH + VA, DATA + PAGE);
    same([rig.pa(VA), rig.pa(HIGH + VA)], [AT.data, AT.data + 4096]);
  });
  rule('§3.4.1', 'a VA between the two halves is F_TRANSLATION', () => {
    const { rig } = shaped({ EPD1: 0, T1SZ: 17, TG1: 2, TTB1: AT.tables }, {});
    same(rig.type(0x00ff_0000_0000_0000n), 'F_TRANSLATION');
    same(rig.type(0xff00_0000_0000_0000n), 'F_TRANSLATION');
  });
  rule('§5.4', 'EPD1 == 1: the half of TTB1 is F_TRANSLATION without a walk', () => {
    const rig = new Rig();
    rig.stage1();
    rig.type(VA);
    const before = rig.memory.loads;
    same([rig.type(HIGH), rig.memory.loads], ['F_TRANSLATION', before]);
  });
  rule('§3.4.1', 'TBI0 == 1: VA[63:56] are ignored below', () => {
    const { rig, tables } = shaped({ TBI0: 1 }, {});
    tables.map(VA, DATA);
    same(rig.pa(0xab00_0000_0000_0000n + VA), AT.data);
  });
  rule('§3.4.1', 'TBI0 == 0: VA[63:56] must be copies', () => {
    const { rig, tables } = shaped({}, {});
    tables.map(VA, DATA);
    same(rig.type(0xab00_0000_0000_0000n + VA), 'F_TRANSLATION');
  });
  rule('§3.4.1', 'TBI1 == 1: VA[63:56] are ignored above', () => {
    const rig = new Rig();
    const upper = rig.stage1({}, {}, { inputBits: 47 });
    rig.cd(rig.cdFor(upper, { EPD0: 1, EPD1: 0, T1SZ: 17, TG1: 2, TTB1: upper.root, TBI1: 1 }));
    upper.map(HIGH + VA, DATA);
    same(rig.pa(0x00ff_8000_0000_0000n + VA), AT.data);
  });
  rule('§3.4.1', 'event records hold the address as it came in, tag and all', () => {
    const { rig } = shaped({ TBI0: 1 }, {});
    has(rig.fault(0xab00_0000_4000_0123n), { InputAddr: 0xab00_0000_4000_0123n });
  });

  // --- shapes of tables ---
  rule('§5.4', 'blocks of 4K tables: 1 GiB at level 1, 2 MiB at level 2', () => {
    const { rig, tables } = shaped({}, {});
    tables.map(VA, 0x1_0000_0000n, { level: 1 });
    tables.map(VA * 4n, 0x2_0020_0000n, { level: 2 });
    same([rig.pa(VA + 0x1234_5678n), rig.pa(VA * 4n + 0x1_2345n)], [0x1_1234_5678, 0x2_0021_2345]);
  });
  rule('§5.4', 'blocks of 16K tables: 32 MiB at level 2', () => {
    const { rig, tables } = shaped({ TG0: 2 }, { granule: 14 });
    tables.map(VA, 0x1_0000_0000n, { level: 2 });
    same(rig.pa(VA + 0x123_4567n), 0x1_0123_4567);
  });
  rule('§5.4', 'blocks of 64K tables: 512 MiB at level 2', () => {
    const { rig, tables } = shaped({ TG0: 1 }, { granule: 16 });
    tables.map(VA, 0x1_0000_0000n, { level: 2 });
    same(rig.pa(VA + 0x1234_5678n), 0x1_1234_5678);
  });
  rule('§5.4', 'a block at level 0 without DS is F_TRANSLATION', () => {
    const { rig, tables } = shaped({}, {});
    tables.put(tables.descriptor(0n, 0), 0x701n);
    same(rig.type(VA), 'F_TRANSLATION');
  });
  rule('§7.3.13', 'a descriptor with bit 0 clear is F_TRANSLATION', () => {
    const { rig, tables } = shaped({}, {});
    tables.put(tables.descriptor(VA, 3), DATA | 0x702n);
    same(rig.type(VA), 'F_TRANSLATION');
  });
  rule('§7.3.13', 'a level 3 descriptor that is 0b01 is F_TRANSLATION', () => {
    const { rig, tables } = shaped({}, {});
    tables.put(tables.descriptor(VA, 3), DATA | 0x701n);
    same(rig.type(VA), 'F_TRANSLATION');
  });
  rule('§5.4', 'DS == 1: 52-bit VAs and outputs of 4K tables, from level -1', () => {
    const { rig, tables } = shaped({ DS: 1, T0SZ: 12, IPS: 6 }, { inputBits: 52, lpa2: true });
    tables.map(0xc_0000_4000_0000n, WIDE);
    same(rig.pa(0xc_0000_4000_0000n), Number(WIDE));
  });
  rule('§5.4', "DS == 1: the Shareability is CD.SH0, not the descriptor's", () => {
    const { rig, tables } = shaped({ DS: 1, IPS: 6, SH0: 2 }, { lpa2: true });
    tables.map(VA, DATA);
    has(rig.dma(VA), { attributes: 0x2ff });
  });
  rule('§5.4', 'DS == 1: 52-bit outputs of 16K tables', () => {
    const { rig, tables } = shaped(
      { DS: 1, TG0: 2, T0SZ: 12, IPS: 6 },
      { granule: 14, inputBits: 52, lpa2: true },
    );
    tables.map(0xc_0000_4000_0000n, WIDE);
    same(rig.pa(0xc_0000_4000_0000n), Number(WIDE));
  });
  rule('§5.4', '64K tables have 52-bit outputs without DS', () => {
    const { rig, tables } = shaped({ TG0: 1, T0SZ: 12, IPS: 6 }, { granule: 16, inputBits: 52 });
    tables.map(0xc_0000_4000_0000n, WIDE);
    same(rig.pa(0xc_0000_4000_0000n), Number(WIDE));
  });
  rule('§6.3.6', 'IDR5.VAX == 0: T0SZ below 16 is not valid for 64K tables either', () => {
    const { rig } = shaped({ TG0: 1, T0SZ: 12 }, { granule: 16, inputBits: 52 }, { IDR5: { VAX: 0, DS: 0 } });
    same(rig.type(VA), 'C_BAD_CD');
  });
  rule('§6.3.4', 'IDR3.STT == 1: T0SZ of up to 48, a walk that starts at level 3', () => {
    const { rig, tables } = shaped({ T0SZ: 48 }, { inputBits: 16, startLevel: 3 });
    tables.map(0x3000n, DATA);
    same([rig.pa(0x3123n), rig.type(0x1_0000n)], [AT.data + 0x123, 'F_TRANSLATION']);
  });
  rule('§5.4', 'a contiguous run translates as its pages do', () => {
    const { rig, tables } = shaped({}, {});
    for (let i = 0n; i < 16n; i++) tables.map(VA + i * PAGE, DATA + i * PAGE, { contiguous: 1 });
    same([rig.pa(VA + 0x5123n), rig.pa(VA + 0xf000n)], [AT.data + 0x5123, AT.data + 0xf000]);
  });

  // --- output addresses ---
  rule('§3.4', 'a stage 1 output beyond IPS is F_ADDR_SIZE of stage 1', () => {
    const { rig, tables } = shaped({ IPS: 1 }, {});
    tables.map(VA, 1n << 36n);
    has(rig.fault(VA), { type: 'F_ADDR_SIZE', S2: 0, CLASS: 2, IPA: 0 });
  });
  rule('§7.3.14', 'a table address beyond IPS is F_ADDR_SIZE, not a walk that aborts', () => {
    const { rig, tables } = shaped({ IPS: 1 }, {});
    tables.put(tables.descriptor(VA, 1), (1n << 40n) | 3n);
    same(rig.type(VA), 'F_ADDR_SIZE');
  });
  rule('§3.4', 'an output beyond the OAS is F_ADDR_SIZE, though IPS would allow it', () => {
    const { rig, tables } = shaped({ IPS: 5 }, {}, { IDR5: { OAS: 1, DS: 0, VAX: 0 } });
    tables.map(VA, 1n << 36n);
    same(rig.type(VA), 'F_ADDR_SIZE');
  });
  rule('§3.4', 'a stage 2 output beyond S2PS is F_ADDR_SIZE of stage 2', () => {
    const rig = new Rig();
    rig.stage2({ S2PS: 1 }).map(VA, 1n << 36n);
    has(rig.fault(VA), { type: 'F_ADDR_SIZE', S2: 1, CLASS: 2, IPA: Number(VA) });
  });
  rule('§3.4', 'an IPA outside of S2T0SZ is F_TRANSLATION of stage 2', () => {
    const rig = new Rig();
    rig.stage2();
    has(rig.fault(1n << 39n), { type: 'F_TRANSLATION', S2: 1, CLASS: 2, IPA: 2 ** 39 });
  });
  rule('§3.4', 'stage 2 only: an input beyond the IAS is F_ADDR_SIZE of stage 1, whatever S2R says', () => {
    const rig = new Rig({ config: { IDR5: { OAS: 4, DS: 0, VAX: 0 } } });
    rig.stage2({ S2R: 0 });
    has(rig.fault(1n << 44n), { type: 'F_ADDR_SIZE', S2: 0, CLASS: 2 });
  });
  rule('§3.4', 'a stage 1 output that the IPS allows and stage 2 does not is a fault of stage 2', () => {
    const rig = new Rig();
    const { first } = rig.nested();
    first.map(VA, 1n << 40n);
    has(rig.fault(VA), { type: 'F_TRANSLATION', S2: 1, CLASS: 2, IPA: 2 ** 40 });
  });

  // --- permissions of stage 1 ---
  rule('§5.4', 'AP[2:1] == 0b00: privileged read and write, nothing unprivileged', () => {
    const access = leaf1({ ap: 0 });
    same(
      [access(kernel), access({ ...kernel, write: true }), access(read), access(write)],
      [null, null, DENIED, DENIED],
    );
  });
  rule('§5.4', 'AP[2:1] == 0b01: read and write by all', () => {
    const access = leaf1({ ap: 1 });
    same([access(kernel), access(write), access(read)], [null, null, null]);
  });
  rule('§5.4', 'AP[2:1] == 0b10: privileged read only', () => {
    const access = leaf1({ ap: 2 });
    same([access(kernel), access({ ...kernel, write: true }), access(read)], [null, DENIED, DENIED]);
  });
  rule('§5.4', 'AP[2:1] == 0b11: read only by all', () => {
    const access = leaf1({ ap: 3 });
    same([access(kernel), access(read), access(write)], [null, null, DENIED]);
  });
  rule('§5.4', 'UXN denies unprivileged, PXN privileged instruction fetches', () => {
    const [u, p] = [leaf1({ ap: 3, uxn: 1 }), leaf1({ ap: 3, pxn: 1 })];
    same(
      [u(fetch), u({ ...fetch, ...kernel }), p(fetch), p({ ...fetch, ...kernel })],
      [DENIED, null, null, DENIED],
    );
  });
  rule('§5.4', 'what is writable unprivileged is not executable privileged', () => {
    same(leaf1({ ap: 1 })({ ...fetch, ...kernel }), DENIED);
  });
  rule('§5.4', 'WXN == 1: what is writable is not executable', () => {
    same([leaf1({ ap: 1 }, { WXN: 1 })(fetch), leaf1({ ap: 3 }, { WXN: 1 })(fetch)], [DENIED, null]);
  });
  rule('§5.4', 'PAN == 1: privileged data accesses to what is accessible unprivileged are denied', () => {
    const access = leaf1({ ap: 1 }, { PAN: 1 });
    same([access(kernel), access(read), leaf1({ ap: 0 }, { PAN: 1 })(kernel)], [DENIED, null, null]);
  });
  rule('§5.4', 'APTable[0] takes unprivileged access, APTable[1] write access, away from all below', () => {
    same([leaf1({ apTable: 1 })(read), leaf1({ apTable: 1 })(kernel)], [DENIED, null]);
    same([leaf1({ apTable: 2 })(write), leaf1({ apTable: 2 })(read)], [DENIED, null]);
  });
  rule('§5.4', 'UXNTable and PXNTable take execution away from all below', () => {
    same(leaf1({ ap: 3, uxnTable: 1 })(fetch), DENIED);
    same(leaf1({ ap: 3, pxnTable: 1 })({ ...fetch, ...kernel }), DENIED);
  });
  rule('§5.4', 'HAD0 == 1: table bits do not count', () => {
    same(leaf1({ ap: 1, apTable: 3, uxnTable: 1 }, { HAD0: 1 })(write), null);
  });
  rule('§5.4', 'E0PD0 == 1: unprivileged accesses to the half are F_TRANSLATION', () => {
    const access = leaf1({}, { E0PD0: 1 });
    same([access(read), access(kernel)], ['F_TRANSLATION', null]);
  });
  rule('§3.3.3', 'in EL2 without E2H all accesses count as privileged: AP[1] does not matter', () => {
    same(leaf1({ ap: 0 }, {}, { STRW: 2 })(write), null);
  });
  rule('§13.1.1', 'an atomic access needs read and write: it faults as a write', () => {
    const rig = new Rig();
    rig.stage1().map(VA, DATA, { ap: 3 });
    has(rig.fault(VA, { atomic: true }), { type: DENIED, RnW: 0 });
  });

  // --- permissions of stage 2 ---
  rule('§5.2', 'S2AP: 0b00 nothing, 0b01 read, 0b10 write, 0b11 both', () => {
    const outcome = [0, 1, 2, 3].map((s2ap) => [leaf2({ s2ap })(read), leaf2({ s2ap })(write)]);
    same(outcome, [
      [DENIED, DENIED],
      [null, DENIED],
      [DENIED, null],
      [null, null],
    ]);
  });
  rule('§5.2', 'XN[1:0] with IDR3.XNX: 0b00 all, 0b01 unprivileged, 0b10 nobody, 0b11 privileged', () => {
    const outcome = [0, 1, 2, 3].map((xn) => [leaf2({ xn })(fetch), leaf2({ xn })({ ...fetch, ...kernel })]);
    same(outcome, [
      [null, null],
      [null, DENIED],
      [DENIED, DENIED],
      [DENIED, null],
    ]);
  });
  rule('§6.3.4', 'IDR3.XNX == 0: XN[1] alone counts', () => {
    const config = { IDR3: { XNX: 0 } };
    same(
      [0, 1, 2, 3].map((xn) => leaf2({ xn }, {}, config)(fetch)),
      [null, null, DENIED, DENIED],
    );
  });
  rule('§3.3.2', 'both stages must allow an access, and stage 1 is the first to say no', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    first.map(VA, VA, { ap: 3 });
    second.map(VA, DATA, { s2ap: 2 });
    has(rig.fault(VA, write), { type: DENIED, S2: 0 });
    has(rig.fault(VA, read), { type: DENIED, S2: 1, CLASS: 2, IPA: Number(VA) });
  });
  rule(
    '§7.3.16',
    'a stage 1 descriptor that stage 2 does not let be read: F_PERMISSION, CLASS == TT, TTRnW == 1',
    () => {
      const rig = new Rig();
      const { first, second } = rig.nested();
      const place = first.map(VA, VA);
      second.map(BigInt(AT.tables), BigInt(AT.tables), { level: 2, s2ap: 2 });
      const seen = rig.fault(VA, write);
      has(seen, { type: DENIED, S2: 1, CLASS: 1, TTRnW: 1, RnW: 0 });
      same([(seen!['IPA'] as number) >= AT.tables, (seen!['IPA'] as number) <= place], [true, true]);
    },
  );
  rule('§5.2', 'S2PTW == 1: a stage 1 table in Device memory of stage 2 is F_PERMISSION, CLASS == TT', () => {
    const rig = new Rig();
    const { first, second } = rig.nested({ S2PTW: 1 });
    first.map(VA, VA);
    second.map(BigInt(AT.tables), BigInt(AT.tables), { level: 2, memAttr: 0 });
    has(rig.fault(VA), { type: DENIED, S2: 1, CLASS: 1 });
  });
  rule('§5.2', 'S2PTW == 0: tables may be in Device memory of stage 2', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    first.map(VA, VA);
    second.map(VA, DATA);
    second.map(BigInt(AT.tables), BigInt(AT.tables), { level: 2, memAttr: 0 });
    same(rig.pa(VA), AT.data);
  });

  // --- Access flag and dirty state ---
  rule('§5.4', 'AF == 0 without HA: F_ACCESS', () => {
    same([leaf1({ af: 0 })(read), leaf2({ af: 0 })(read)], ['F_ACCESS', 'F_ACCESS']);
  });
  rule('§5.4', 'AFFD == 1: a clear Access flag is no fault, and stays clear', () => {
    same([leaf1({ af: 0 }, { AFFD: 1 })(read), leaf2({ af: 0 }, { S2AFFD: 1 })(read)], [null, null]);
  });
  rule('§3.13.2', 'HA == 1: the Access flag is set in the descriptor, and the access goes on', () => {
    const rig = new Rig();
    const tables = rig.stage1({}, { HA: 1 });
    const place = tables.map(VA, DATA, { af: 0 });
    same([rig.pa(VA), (tables.get(place) >> 10n) & 1n], [AT.data, 1n]);
  });
  rule('§3.13.2', 'S2HA == 1: the same at stage 2', () => {
    const rig = new Rig();
    const tables = rig.stage2({ S2HA: 1 });
    const place = tables.map(VA, DATA, { af: 0 });
    same([rig.pa(VA), (tables.get(place) >> 10n) & 1n], [AT.data, 1n]);
  });
  rule('§3.13.3', 'HD and DBM: a write to a clean page clears AP[2] and goes on; a read leaves it', () => {
    const rig = new Rig();
    const tables = rig.stage1({}, { HA: 1, HD: 1 });
    const place = tables.map(VA, DATA, { ap: 3, dbm: 1 });
    same([rig.pa(VA), (tables.get(place) >> 7n) & 1n], [AT.data, 1n]);
    same([rig.pa(VA, write), (tables.get(place) >> 7n) & 1n], [AT.data, 0n]);
  });
  rule('§3.13.3', 'S2HD and DBM: a write to a clean page sets S2AP[1]', () => {
    const rig = new Rig();
    const tables = rig.stage2({ S2HA: 1, S2HD: 1 });
    const place = tables.map(VA, DATA, { s2ap: 1, dbm: 1 });
    same([rig.pa(VA, write), (tables.get(place) >> 7n) & 1n], [AT.data, 1n]);
  });
  rule('§3.13.3', 'without DBM a read-only page stays read-only', () => {
    same(leaf1({ ap: 3, dbm: 0 }, { HA: 1, HD: 1 })(write), DENIED);
  });
  rule('§3.13.3', 'HD == 0: DBM does not count', () =>
    same(leaf1({ ap: 3, dbm: 1 }, { HA: 1 })(write), DENIED),
  );
  rule('§5.4', 'HD without HA is reserved and updates nothing', () => {
    same(leaf1({ ap: 3, dbm: 1 }, { HD: 1 })(write), DENIED);
  });
  rule('§3.13', 'an update of a descriptor that cannot be written is F_WALK_EABT', () => {
    const rig = new Rig();
    const tables = rig.stage1({}, { HA: 1 });
    const place = tables.map(VA, DATA, { af: 0 });
    rig.memory.refuse(place, 8, 'store');
    has(rig.fault(VA), { type: 'F_WALK_EABT', FetchAddr: place });
  });
  rule('§7.3.16', 'an update that stage 2 does not allow is F_PERMISSION, CLASS == TT, TTRnW == 0', () => {
    const rig = new Rig();
    const { first, second } = rig.nested({}, { HA: 1 });
    first.map(VA, VA, { af: 0 });
    second.map(VA, DATA);
    second.map(BigInt(AT.tables), BigInt(AT.tables), { level: 2, s2ap: 1 });
    has(rig.fault(VA), { type: DENIED, S2: 1, CLASS: 1, TTRnW: 0, RnW: 1 });
  });
  rule('§3.13.3', 'big-endian tables are updated in their own order', () => {
    const rig = new Rig();
    const tables = rig.stage1({}, { HA: 1, HD: 1, ENDI: 1 }, { bigEndian: true });
    const place = tables.map(VA, DATA, { ap: 3, dbm: 1, af: 0 });
    same([rig.pa(VA, write), tables.get(place) & 0x480n], [AT.data, 0x400n]);
  });

  // --- stage 2 start tables ---
  rule('§5.2', 'S2SL0 starts at a level, and up to 16 start tables are concatenated', () => {
    const rig = new Rig();
    const tables = rig.stage2({ S2T0SZ: 21, S2SL0: 1 }, { inputBits: 43, startLevel: 1 });
    tables.map(0x7ff_4000_0000n, DATA);
    same(rig.pa(0x7ff_4000_0000n), AT.data);
  });
  rule('§5.2', 'S2SL0_2 and S2DS: 52-bit IPAs of 4K from level -1', () => {
    const rig = new Rig();
    const tables = rig.stage2(
      { S2T0SZ: 12, S2SL0: 0, S2SL0_2: 1, S2DS: 1, S2PS: 6 },
      { inputBits: 52, startLevel: -1, lpa2: true },
    );
    tables.map(0xc_0000_4000_0000n, WIDE);
    same(rig.pa(0xc_0000_4000_0000n), Number(WIDE));
  });
  rule('§5.2', 'S2TTB is aligned to the size of the start tables', () => {
    const rig = new Rig();
    const tables = rig.stage2({ S2T0SZ: 21, S2SL0: 1, S2TTB: 0 }, { inputBits: 43, startLevel: 1 });
    rig.ste(SID, { Config: 6, ...rig.steFor(tables, { S2T0SZ: 21, S2SL0: 1, S2TTB: tables.root + 0x3ff0 }) });
    tables.map(VA, DATA);
    same(rig.pa(VA), AT.data);
  });

  // --- walks that abort ---
  rule('§7.3.12', 'a stage 1 walk that aborts: F_WALK_EABT, S2 == 0, CLASS == TT, FetchAddr', () => {
    const rig = new Rig();
    const tables = rig.stage1();
    const place = tables.map(VA, DATA);
    rig.memory.refuse(place, 8);
    has(rig.fault(VA, write), {
      type: 'F_WALK_EABT',
      S2: 0,
      CLASS: 1,
      FetchAddr: place,
      InputAddr: VA,
      RnW: 0,
    });
  });
  rule('§7.3.12', 'a stage 2 walk that aborts: S2 == 1, and CLASS tells whose address was translated', () => {
    const rig = new Rig();
    const { first, second } = rig.nested();
    first.map(VA, VA);
    const place = second.map(VA, DATA);
    rig.memory.refuse(place, 8);
    has(rig.fault(VA), { type: 'F_WALK_EABT', S2: 1, CLASS: 2, FetchAddr: place });
    const other = new Rig();
    const both = other.nested();
    other.memory.refuse(both.second.root, 4096);
    has(other.fault(VA), { type: 'F_WALK_EABT', S2: 1, CLASS: 0 });
  });
  rule(
    '§7.3.12',
    'nested: a stage 1 descriptor whose translated address aborts is S2 == 0, CLASS == TT',
    () => {
      const rig = new Rig();
      const { first, second } = rig.nested();
      const place = first.map(VA, VA);
      second.map(VA, DATA);
      rig.memory.refuse(place, 8);
      has(rig.fault(VA), { type: 'F_WALK_EABT', S2: 0, CLASS: 1, FetchAddr: place });
    },
  );
  rule('§5.5', 'F_WALK_EABT is recorded and aborts whatever R, A and S say', () => {
    const rig = new Rig();
    const tables = rig.stage1({}, { A: 0, R: 0, S: 1 });
    rig.memory.refuse(tables.map(VA, DATA), 8);
    same(rig.type(VA), 'F_WALK_EABT');
    has(rig.dma(VA), { kind: 'terminated', abort: true });
  });
  rule('§7.3.22', 'stage 1 checks come in the order translation, address size, access, permission', () => {
    const { rig, tables } = shaped({ IPS: 1 }, {});
    const place = tables.map(VA, 1n << 40n, { af: 0, ap: 0 });
    const after = (entry: bigint): string | null => {
      tables.put(place, entry);
      return rig.type(VA, write);
    };
    const leaf = tables.leaf(1n << 40n, { af: 0, ap: 3 });
    same(
      [after(leaf & ~1n), after(leaf), after((leaf & 0xfffn) | DATA), after((leaf & 0xfffn) | DATA | 0x400n)],
      ['F_TRANSLATION', 'F_ADDR_SIZE', 'F_ACCESS', DENIED],
    );
  });

  // --- a DMA ---
  rule('§3.4.2', 'an access is not checked for alignment, and each page translates on its own', () => {
    const rig = new Rig();
    const tables = rig.stage1();
    tables.map(VA, DATA);
    tables.map(VA + PAGE, DATA + 0x10_0000n);
    const data = Uint8Array.from({ length: 64 }, (_, i) => i);
    const at = { streamId: SID, hi: 0, lo: Number(VA) + 4096 - 13, write: true };
    has(rig.smmu.access(at, data), { done: 64, stopped: null });
    const back = new Uint8Array(64);
    rig.smmu.access({ ...at, write: false }, back);
    same([...back], [...data]);
    same(rig.memory.get64(AT.data + 0x10_0000) & 0xffn, 13n);
  });
  rule('§3.4.2', 'an access stops at the first page that faults', () => {
    const rig = new Rig();
    rig.stage1().map(VA, DATA);
    const at = { streamId: SID, hi: 0, lo: Number(VA) + 4096 - 13, write: true };
    const result = rig.smmu.access(at, new Uint8Array(64));
    same(
      [result.done, rig.events().map((seen) => [seen.type, seen['InputAddr']])],
      [13, [['F_TRANSLATION', VA + PAGE]]],
    );
  });
  rule('§3.17', 'what the IOTLB holds is used until a command takes it, whatever memory says', () => {
    const rig = new Rig();
    const tables = rig.stage1();
    const place = tables.map(VA, DATA);
    rig.pa(VA);
    tables.put(place, 0n);
    same(rig.pa(VA), AT.data);
    rig.run(command.tlbi('TLBI_NH_ALL', { VMID: 0 }));
    same(rig.type(VA), 'F_TRANSLATION');
  });
});
