// Second-stage translation: §3.7, §9.8.

import { has, same, topic } from '../../../testing/rules.ts';
import type { ConfigOverrides } from '../registers/config.ts';
import { AT, DATA, Rig, VA } from './rig.ts';

const W = { write: true };
const A = 0x100n;
const D = 0x200n;
const SNP = 0x800n;
const BOTH = ['legacy', 'scalable'] as const;
const HAW40 = { hostAddressWidth: 40 };

/** A rig whose second stage maps VA to DATA. */
function mapped(
  mode: 'legacy' | 'scalable',
  leaf = {},
  fields = {},
  config: ConfigOverrides = {},
): { rig: Rig; tables: ReturnType<Rig['second']> } {
  const rig = new Rig({ mode, config });
  const tables = rig.second(fields);
  tables.map(VA, DATA, leaf);
  return { rig, tables };
}

/** The condition codes of both modes for the same tables. */
function codes(
  change: (tables: ReturnType<Rig['second']>, rig: Rig) => void,
  transaction = {},
  config: ConfigOverrides = {},
): (string | null)[] {
  return BOTH.map((mode) => {
    const { rig, tables } = mapped(mode, {}, {}, config);
    change(tables, rig);
    return rig.code(VA, transaction);
  });
}

export const SECOND_STAGE = topic('SS', (rule) => {
  rule('§3.7', 'tables of 3, 4 and 5 levels', () => {
    for (const mode of BOTH) {
      for (const [levels, address] of [
        [3, (1n << 39n) - 0x1000n],
        [4, (1n << 48n) - 0x1000n],
        [5, (1n << 57n) - 0x1000n],
      ] as const) {
        const rig = new Rig({ mode });
        rig.second({}, { levels }).map(address, DATA);
        same([mode, levels, rig.pa(address)], [mode, levels, AT.data]);
      }
    }
  });
  rule('§7.1.3 LGN.1.1', 'legacy mode: addresses above the width of the tables', () => {
    for (const levels of [3, 4] as const) {
      const rig = new Rig({ mode: 'legacy' });
      rig.second({}, { levels });
      has(rig.fault(1n << BigInt(12 + 9 * levels)), { FR: 0x04 });
    }
  });
  rule('§7.1.3 SGN.5', 'scalable mode: addresses above the width of the tables', () => {
    for (const levels of [3, 4] as const) {
      const rig = new Rig();
      rig.second({}, { levels });
      has(rig.fault(1n << BigInt(12 + 9 * levels)), { FR: 0x84 });
    }
  });
  rule('§11.4.2 MGAW', 'MGAW limits addresses where it is smaller', () => {
    for (const [mode, code] of [
      ['legacy', 'LGN.1.1'],
      ['scalable', 'SGN.5'],
    ] as const) {
      const rig = new Rig({ mode, config: { CAP: { MGAW: 39 } } });
      const tables = rig.second();
      tables.map((1n << 40n) - 0x1000n, DATA);
      same([rig.pa((1n << 40n) - 0x1000n), rig.code(1n << 40n)], [AT.data, code]);
    }
  });
  rule('§3.7', 'second stage: pages of 2 MiB and 1 GiB end the walk', () => {
    for (const mode of BOTH) {
      for (const level of [2, 3] as const) {
        const { rig } = mapped(mode, { level });
        same(rig.pa(VA + 0x1f_f008n), AT.data + 0x1f_f008);
      }
    }
  });
  rule('§11.4.2 SSLPS', 'PS is reserved at the sizes that are not supported', () => {
    for (const [level, SSLPS] of [
      [3, 1],
      [2, 0],
    ] as const) {
      same(
        BOTH.map((mode) => mapped(mode, { level }, {}, { CAP: { SSLPS } }).rig.code(VA)),
        ['LSS.2', 'SSS.3'],
      );
    }
  });
  rule('§3.7', 'entries with R=W=0 map nothing: LGN.2 or LGN.3, and SSS.2', () => {
    for (const level of [1, 2, 3, 4]) {
      const clear = (tables: ReturnType<Rig['second']>): void => tables.clear(VA, level, 3n);
      same(codes(clear), ['LGN.3', 'SSS.2']);
      same(codes(clear, W), ['LGN.2', 'SSS.2']);
    }
  });
  rule('§7.1.3 SSS.2', 'permissions that cancel each other out on the way are none', () => {
    const cancel = (tables: ReturnType<Rig['second']>): void => {
      tables.clear(VA, 2, 1n);
      tables.clear(VA, 1, 2n);
    };
    same(codes(cancel), ['LGN.3', 'SSS.2']);
  });
  rule('§3.7.1', 'read and write permission count at every level', () => {
    for (const level of [1, 2, 3, 4]) {
      same(
        codes((tables) => tables.clear(VA, level, 2n), W),
        ['LGN.2', 'SGN.6'],
      );
      same(
        codes((tables) => tables.clear(VA, level, 1n)),
        ['LGN.3', 'SGN.7'],
      );
      same(
        codes((tables) => tables.clear(VA, level, 1n), W),
        [null, null],
      );
    }
  });
  rule('§3.7.1', 'an atomic needs both', () => {
    for (const [bit, expected] of [
      [2n, ['LGN.2', 'SGN.6']],
      [1n, ['LGN.3', 'SGN.7']],
    ] as const) {
      same(
        codes((tables) => tables.clear(VA, 1, bit), { atomic: true }),
        expected,
      );
    }
  });
  rule('§3.14 ZLR', 'a zero-length read is served by write-only pages where ZLR says so', () => {
    const writeOnly = (tables: ReturnType<Rig['second']>): void => tables.clear(VA, 1, 1n);
    same(codes(writeOnly, { length: 0 }), [null, null]);
    same(codes(writeOnly, { length: 0 }, { CAP: { ZLR: 0 } }), ['LGN.3', 'SGN.7']);
    same(
      codes((tables) => tables.clear(VA, 1, 3n), { length: 0 }),
      ['LGN.3', 'SSS.2'],
    );
  });
  rule('§3.7', 'reserved bits: above HAW, PS of PML4E, low bits of large pages', () => {
    for (const [level, bits] of [
      [1, 1n << 40n],
      [3, 1n << 51n],
      [4, 0x80n],
    ] as const) {
      same(
        codes((tables) => tables.set(VA, level, bits), {}, HAW40),
        ['LSS.2', 'SSS.3'],
      );
    }
    for (const [level, bits] of [
      [2, 0x1000n],
      [3, 0x2000_0000n],
    ] as const) {
      same(
        BOTH.map((mode) => mapped(mode, { level, bits }).rig.code(VA)),
        ['LSS.2', 'SSS.3'],
      );
    }
  });
  rule('§3.7', 'SNP is reserved in tables, and in pages without Snoop Control', () => {
    same(
      codes((tables) => tables.set(VA, 2, SNP)),
      ['LSS.2', 'SSS.3'],
    );
    same(
      codes((tables) => tables.set(VA, 1, SNP)),
      [null, null],
    );
    same(
      codes((tables) => tables.set(VA, 1, SNP), {}, { ECAP: { SC: 0 } }),
      ['LSS.2', 'SSS.3'],
    );
  });
  rule('§9.8', 'IW (bit 62) is reserved and IR (bit 61) ignored where they do not count', () => {
    same(
      codes((tables) => tables.set(VA, 1, 1n << 62n)),
      ['LSS.2', 'SSS.3'],
    );
    same(
      codes((tables) => tables.set(VA, 1, 1n << 61n)),
      [null, null],
    );
  });
  rule('§9.8', 'bits 63, 60:52, 10 and 6:2, and 7 of a PTE, are ignored', () => {
    const bits = (1n << 63n) | (0x1ffn << 52n) | 0x4fcn;
    same(
      codes((tables) => tables.set(VA, 1, bits)),
      [null, null],
    );
    same(
      codes((tables) => tables.set(VA, 2, bits & ~0x80n)),
      [null, null],
    );
  });
  rule('§9.8', 'reserved bits of an entry that grants nothing do not matter', () => {
    const clear = (tables: ReturnType<Rig['second']>): void =>
      tables.put(tables.entry(VA, 1), 0xffff_ffff_ffff_fffcn);
    same(codes(clear), ['LGN.3', 'SSS.2']);
  });
  rule('§7.1.3 LSS.1, SSS.1', 'second stage: a lower table that cannot be read', () => {
    same(
      codes((tables, rig) => rig.memory.refuse(tables.entry(VA, 2), 8)),
      ['LSS.1', 'SSS.1'],
    );
  });
  rule('§7.1.3 LCT.4.3, SSS.4', 'second stage: a root table that cannot be read', () => {
    same(
      codes((tables, rig) => rig.memory.refuse(tables.root, 4096)),
      ['LCT.4.3', 'SSS.4'],
    );
  });
  rule('§3.7.2 SSADE', 'with SSADE walks set A, writes D; without it nothing is written', () => {
    const { rig, tables } = mapped('scalable', {}, { SSADE: 1 });
    const flags = (): bigint[] => [4, 3, 2, 1].map((level) => tables.get(tables.entry(VA, level)) & (A | D));
    rig.pa(VA);
    same(flags(), [A, A, A, A]);
    rig.pa(VA, W);
    same(flags(), [A, A, A, A | D]);
    const plain = mapped('scalable');
    plain.rig.pa(VA, W);
    same(plain.tables.get(plain.tables.entry(VA, 1)) & (A | D), 0n);
  });
  rule('§7.1.3 SSS.5', 'second stage: tables that are not snooped must have their flags set already', () => {
    const { rig, tables } = mapped('scalable', {}, { SSADE: 1, PWSNP: 0 });
    has(rig.fault(VA), { FR: 0x7c });
    for (const level of [1, 2, 3, 4]) tables.set(VA, level, A);
    same([rig.pa(VA), rig.code(VA, W)], [AT.data, 'SSS.5']);
  });
  rule('§7.1.3 SSS.6', 'second stage: an update of a flag that memory refuses', () => {
    const { rig, tables } = mapped('scalable', {}, { SSADE: 1 });
    rig.memory.refuse(tables.root, 4096, 'store');
    has(rig.fault(VA), { FR: 0x7d });
  });
  rule('§11.4.5 SSIRWE', 'with SSIRWE bits 61 and 62 grant, bits 0 and 1 do not', () => {
    const rig = new Rig();
    rig.write('RTADDR', AT.root + 0x480);
    rig.command(0xc400_0000);
    const tables = rig.second();
    for (const level of [4, 3, 2] as const) {
      tables.map(VA, DATA);
      tables.set(VA, level, 3n << 61n);
    }
    same(rig.code(VA), 'SSS.2');
    tables.put(tables.entry(VA, 1), DATA | (1n << 61n));
    same([rig.pa(VA), rig.code(VA, W)], [AT.data, 'SGN.6']);
  });
  rule('§3.7.2', 'a cached page that is not dirty is walked again for a write', () => {
    const { rig, tables } = mapped('scalable', {}, { SSADE: 1 });
    rig.pa(VA);
    rig.pa(VA, W);
    same(tables.get(tables.entry(VA, 1)) & D, D);
  });
  rule('§3.13', 'a transfer is as many requests as it has pages', () => {
    const { rig, tables } = mapped('scalable');
    tables.map(VA + 0x1000n, DATA + 0x5000n);
    const data = Uint8Array.from({ length: 16 }, (_, i) => i);
    const hi = 0;
    const lo = Number(VA) + 0xff8;
    same(rig.iommu.access({ requesterId: 0x20, hi, lo, write: true }, data), { done: 16, stopped: null });
    const back = new Uint8Array(8);
    rig.memory.read(AT.data + 0x5000, back);
    same([...back], [8, 9, 10, 11, 12, 13, 14, 15]);
    const blocked = rig.iommu.access({ requesterId: 0x20, hi, lo: lo + 0x1000 }, data);
    same([blocked.done, (blocked.stopped as { kind: string }).kind], [8, 'blocked']);
  });
});
