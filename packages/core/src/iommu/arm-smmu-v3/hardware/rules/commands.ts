// §4.1 to §4.4: opcodes, configuration and TLB invalidation.

import type { ConfigOverrides } from '../registers/config.ts';
import { CMD } from '../../spec/commands.ts';
import { STE_CONFIG } from '../../spec/ste.ts';
import { type CdFields, type SteFields, AT, Rig, SID, VA, command } from './rig.ts';
import type { Leaf, Tables, TablesOptions } from './tables.ts';
import { same, topic } from '../../../testing/rules.ts';

const DATA = BigInt(AT.data);
const PAGE = 0x1000n;
const VMID = 7;

const cerror = (words: Uint32Array, config: ConfigOverrides = {}): string => new Rig({ config }).try(words);

/** A page in the IOTLB whose descriptor is gone: whether it still translates tells whether the entry is there. */
class Cached {
  readonly rig: Rig;
  readonly tables: Tables;

  constructor(tables: (rig: Rig) => Tables, rig = new Rig()) {
    this.rig = rig;
    this.tables = tables(rig);
  }

  /** Maps, uses and unmaps a page, and leaves its translation in the IOTLB. */
  page(address: bigint = VA, leaf: Leaf = {}): this {
    const place = this.tables.map(address, DATA, leaf);
    this.rig.pa(address);
    this.tables.put(place, 0n);
    return this;
  }

  run(...commands: readonly Uint32Array[]): this {
    this.rig.run(...commands);
    if (this.rig.cerror !== 'NONE') throw new Error(`CERROR_${this.rig.cerror}`);
    return this;
  }

  has(address: bigint = VA): boolean {
    return this.rig.pa(address) !== null;
  }
}

const first = (ste: SteFields = {}, cd: CdFields = {}, options: TablesOptions = {}): Cached =>
  new Cached((rig) => rig.stage1({ S2VMID: VMID, ...ste }, cd, options));
const second = (ste: SteFields = {}, options: TablesOptions = {}): Cached =>
  new Cached((rig) => rig.stage2(ste, options));
const el2 = (e2h: 0 | 1, cd: CdFields = {}): Cached => {
  const rig = new Rig();
  rig.cr0({ SMMUEN: 0 });
  rig.write('CR2', 0b1010 | e2h);
  rig.cr0({ SMMUEN: 1 });
  return new Cached((of) => of.stage1({ STRW: 2 }, cd), rig);
};

/** A nested stream with VA in the IOTLB, and both of its last descriptors gone. */
function both(): { rig: Rig; has: () => string | null; stage1: () => void; stage2: () => void } {
  const rig = new Rig();
  const tables = rig.nested();
  const one = tables.first.map(VA, VA);
  const two = tables.second.map(VA, DATA);
  rig.pa(VA);
  return {
    rig,
    has: () => rig.type(VA),
    stage1: () => tables.first.put(one, 0n),
    stage2: () => tables.second.put(two, 0n),
  };
}

const VA1 = VA + PAGE;

export const COMMANDS = topic('CMD', (rule) => {
  // --- opcodes ---
  rule('§4.1.1', 'reserved opcodes are CERROR_ILL', () => {
    const reserved = [
      0x00, 0x08, 0x0f, 0x14, 0x1f, 0x24, 0x29, 0x2b, 0x31, 0x42, 0x47, 0x54, 0x61, 0x74, 0x90, 0xff,
    ];
    same(
      reserved.map((opcode) => cerror(command.opcode(opcode))),
      reserved.map(() => 'ILL'),
    );
  });
  rule('§4.1.1', 'IMPLEMENTATION DEFINED opcodes that are not implemented are CERROR_ILL', () => {
    same(
      [0x80, 0x8f].map((opcode) => cerror(command.opcode(opcode))),
      ['ILL', 'ILL'],
    );
  });
  rule('§7.1', 'commands of Secure state and EL3 on the Non-secure queue are CERROR_ILL', () => {
    const secure = [
      CMD.TLBI_EL3_ALL,
      CMD.TLBI_EL3_VA,
      CMD.TLBI_S_EL2_ALL,
      CMD.TLBI_S_EL2_ASID,
      CMD.TLBI_S_EL2_VA,
      CMD.TLBI_S_EL2_VAA,
      CMD.TLBI_S_S12_VMALL,
      CMD.TLBI_S_S2_IPA,
      CMD.TLBI_SNH_ALL,
    ];
    same(
      secure.map((opcode) => cerror(command.opcode(opcode))),
      secure.map(() => 'ILL'),
    );
  });
  rule('§4.1.6', 'SSec == 1 on the Non-secure queue is CERROR_ILL', () => {
    const names = ['CFGI_STE', 'CFGI_STE_RANGE', 'CFGI_CD', 'CFGI_CD_ALL'] as const;
    same(
      names.map((name) => cerror(command.cfgi(name, { SSec: 1 }))),
      ['ILL', 'ILL', 'ILL', 'ILL'],
    );
    same(cerror(command.resume({ SSec: 1 })), 'ILL');
  });
  rule('§4.1.1', 'commands of features that are not there are CERROR_ILL: DPT, MPAM', () => {
    same(
      [CMD.DPTI_ALL, CMD.DPTI_PA, CMD.CFGI_VMS_PIDM].map((opcode) => cerror(command.opcode(opcode))),
      ['ILL', 'ILL', 'ILL'],
    );
  });
  rule('§4.4.2', 'stage 1 invalidation where IDR0.S1P == 0 is CERROR_ILL', () => {
    const names = ['TLBI_NH_ALL', 'TLBI_NH_ASID', 'TLBI_NH_VA', 'TLBI_NH_VAA'] as const;
    same(
      names.map((name) => cerror(command.tlbi(name), { IDR0: { S1P: 0, Hyp: 0 } })),
      ['ILL', 'ILL', 'ILL', 'ILL'],
    );
  });
  rule('§4.4.3', 'stage 2 invalidation where IDR0.S2P == 0 is CERROR_ILL', () => {
    const names = ['TLBI_S12_VMALL', 'TLBI_S2_IPA'] as const;
    same(
      names.map((name) => cerror(command.tlbi(name), { IDR0: { S2P: 0, Hyp: 0 } })),
      ['ILL', 'ILL'],
    );
  });
  rule('§4.4.2', 'EL2 invalidation where IDR0.Hyp == 0 is CERROR_ILL', () => {
    const names = ['TLBI_EL2_ALL', 'TLBI_EL2_ASID', 'TLBI_EL2_VA', 'TLBI_EL2_VAA'] as const;
    same(
      names.map((name) => cerror(command.tlbi(name), { IDR0: { Hyp: 0 } })),
      ['ILL', 'ILL', 'ILL', 'ILL'],
    );
  });
  rule('§4.3.3', 'CMD_CFGI_CD and CMD_CFGI_CD_ALL where IDR0.S1P == 0 are CERROR_ILL', () => {
    const config = { IDR0: { S1P: 0, Hyp: 0 } };
    same(
      [cerror(command.cfgi('CFGI_CD'), config), cerror(command.cfgi('CFGI_CD_ALL'), config)],
      ['ILL', 'ILL'],
    );
  });
  rule('§4.1.5', 'Reserved fields may be ignored, and are', () => {
    const words = command.tlbi('TLBI_NSNH_ALL');
    words[2] = 0xffff_ffff;
    same(cerror(words), 'NONE');
  });

  // --- prefetch ---
  rule('§4.2', 'prefetch commands are consumed, and need do nothing', () => {
    const rig = new Rig();
    rig.stage1();
    same(rig.try(command.opcode(CMD.PREFETCH_CONFIG)), 'NONE');
    same([rig.try(command.opcode(CMD.PREFETCH_ADDR)), [...rig.smmu.cachedStreams()].length], ['NONE', 0]);
  });

  // --- configuration caches ---
  rule('§4.3.2', 'CMD_CFGI_STE_RANGE takes 2^(Range+1) aligned StreamIDs', () => {
    const rig = new Rig();
    for (const sid of [3, 4, 7, 8]) {
      rig.ste(sid, { Config: STE_CONFIG.BYPASS, SHCFG: 1 });
      rig.pa(VA, { streamId: sid });
      rig.ste(sid, { Config: STE_CONFIG.ABORT });
    }
    rig.run(command.cfgi('CFGI_STE_RANGE', { StreamID: 6, Range: 1 }));
    same(
      [3, 4, 7, 8].map((streamId) => rig.pa(VA, { streamId }) !== null),
      [true, false, false, true],
    );
  });
  rule('§4.3.6', 'CMD_CFGI_ALL (Range == 31) takes everything, whatever the StreamID', () => {
    const rig = new Rig();
    for (const sid of [0, 255]) {
      rig.ste(sid, { Config: STE_CONFIG.BYPASS, SHCFG: 1 });
      rig.pa(VA, { streamId: sid });
      rig.ste(sid, { Config: STE_CONFIG.ABORT });
    }
    rig.run(command.cfgiAll());
    same(
      [0, 255].map((streamId) => rig.pa(VA, { streamId })),
      [null, null],
    );
  });
  rule('§4.3', 'configuration invalidation leaves the IOTLB alone', () => {
    same(first().page().run(command.cfgi('CFGI_STE'), command.cfgiAll()).has(), true);
  });
  rule('§4.4', 'TLB invalidation leaves configuration caches alone', () => {
    const rig = new Rig();
    rig.ste(SID, { Config: STE_CONFIG.BYPASS, SHCFG: 1 });
    rig.pa(VA);
    rig.ste(SID, { Config: STE_CONFIG.ABORT });
    rig.run(command.tlbi('TLBI_NSNH_ALL'), command.tlbi('TLBI_EL2_ALL'));
    same(rig.pa(VA), Number(VA));
  });

  // --- NS-EL1, stage 1 ---
  rule('§4.4.2.1', 'CMD_TLBI_NH_ALL takes the stage 1 entries of its VMID, global ones too', () => {
    same(first().page().page(VA1, { nG: 0 }).run(command.tlbi('TLBI_NH_ALL', { VMID })).has(), false);
    same(first().page(VA1, { nG: 0 }).run(command.tlbi('TLBI_NH_ALL', { VMID })).has(VA1), false);
  });
  rule('§4.4.2.1', 'CMD_TLBI_NH_ALL of another VMID takes nothing', () => {
    same(
      first()
        .page()
        .run(command.tlbi('TLBI_NH_ALL', { VMID: 8 }))
        .has(),
      true,
    );
  });
  rule('§4.4.2.2', 'CMD_TLBI_NH_ASID takes the non-global entries of VMID and ASID', () => {
    const tlb = first().page().page(VA1, { nG: 0 });
    tlb.run(command.tlbi('TLBI_NH_ASID', { VMID, ASID: 1 }));
    same([tlb.has(), tlb.has(VA1)], [false, true]);
  });
  rule('§4.4.2.2', 'CMD_TLBI_NH_ASID of another ASID or VMID takes nothing', () => {
    const tlb = first().page();
    tlb.run(
      command.tlbi('TLBI_NH_ASID', { VMID, ASID: 2 }),
      command.tlbi('TLBI_NH_ASID', { VMID: 8, ASID: 1 }),
    );
    same(tlb.has(), true);
  });
  rule('§4.4.2.3', 'CMD_TLBI_NH_VAA takes the entries of the address for every ASID', () => {
    const tlb = first().page().page(VA1);
    tlb.run(command.tlbi('TLBI_NH_VAA', { VMID, ASID: 99, address: VA }));
    same([tlb.has(), tlb.has(VA1)], [false, true]);
  });
  rule('§4.4.2.4', 'CMD_TLBI_NH_VA takes the entry of VMID, ASID and address', () => {
    const tlb = first().page().page(VA1);
    tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA }));
    same([tlb.has(), tlb.has(VA1)], [false, true]);
  });
  rule('§4.4.2.4', 'CMD_TLBI_NH_VA of another ASID takes nothing but global entries', () => {
    const tlb = first().page().page(VA1, { nG: 0 });
    tlb.run(...[VA, VA1].map((address) => command.tlbi('TLBI_NH_VA', { VMID, ASID: 2, address })));
    same([tlb.has(), tlb.has(VA1)], [true, false]);
  });
  rule('§4.4.2.4', 'an address anywhere in a block takes the block', () => {
    const tlb = first().page(VA, { level: 2 });
    tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA + 0x12_3000n }));
    same(tlb.has(), false);
  });
  rule('§4.4.2.4', 'all 64 bits of the address count: entries of TTB1 are reached', () => {
    const high = 0xffff_ffff_4000_0000n;
    const tlb = new Cached((rig) => {
      const tables = rig.stage1({ S2VMID: VMID }, {}, { inputBits: 47 });
      rig.cd(rig.cdFor(tables, { EPD0: 1, EPD1: 0, T1SZ: 17, TG1: 2, TTB1: tables.root }));
      return tables;
    }).page(high);
    tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: high & 0x7fff_ffff_ffffn }));
    same(tlb.has(high), true);
    same(tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: high })).has(high), false);
  });
  rule('§4.4.1', 'Leaf == 1 takes the leaf and leaves tables on the way cached', () => {
    const run = (Leaf: 0 | 1): string | null => {
      const rig = new Rig();
      const tables = rig.stage1({ S2VMID: VMID });
      tables.map(VA, DATA);
      rig.pa(VA);
      tables.put(tables.descriptor(VA, 1), 0n);
      rig.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA, Leaf }));
      return rig.type(VA);
    };
    same([run(1), run(0)], [null, 'F_TRANSLATION']);
  });
  rule('§3.17', 'VMIDs count in CMD_TLBI_NH_* where IDR0.S2P == 1 alone', () => {
    const tlb = new Cached((rig) => rig.stage1(), new Rig({ config: { IDR0: { S2P: 0, Hyp: 0 } } })).page();
    same(tlb.run(command.tlbi('TLBI_NH_ALL', { VMID: 9 })).has(), false);
  });

  // --- EL2 ---
  rule('§4.4.2.7', 'CMD_TLBI_EL2_ALL takes the entries of EL2, with and without E2H, and no others', () => {
    same(
      [0, 1].map((e2h) =>
        el2(e2h as 0 | 1)
          .page()
          .run(command.tlbi('TLBI_EL2_ALL'))
          .has(),
      ),
      [false, false],
    );
    same(first().page().run(command.tlbi('TLBI_EL2_ALL')).has(), true);
  });
  rule('§4.4.4.1', 'CMD_TLBI_NH_ALL and CMD_TLBI_NSNH_ALL leave EL2 alone', () => {
    const all = [command.tlbi('TLBI_NH_ALL'), command.tlbi('TLBI_NSNH_ALL')];
    same(
      [0, 1].map((e2h) =>
        el2(e2h as 0 | 1)
          .page()
          .run(...all)
          .has(),
      ),
      [true, true],
    );
  });
  rule('§4.4.2.8', 'CMD_TLBI_EL2_VA with E2H == 0 takes the address, whatever the ASID', () => {
    const tlb = el2(0).page().page(VA1);
    tlb.run(command.tlbi('TLBI_EL2_VA', { ASID: 44, address: VA }));
    same([tlb.has(), tlb.has(VA1)], [false, true]);
  });
  rule('§4.4.2.8', 'CMD_TLBI_EL2_VA with E2H == 1 takes the address of its ASID', () => {
    const tlb = el2(1).page();
    same(tlb.run(command.tlbi('TLBI_EL2_VA', { ASID: 44, address: VA })).has(), true);
    same(tlb.run(command.tlbi('TLBI_EL2_VA', { ASID: 1, address: VA })).has(), false);
  });
  rule('§4.4.2.9', 'CMD_TLBI_EL2_VAA with E2H == 1 takes the address of every ASID', () => {
    same(
      el2(1)
        .page()
        .run(command.tlbi('TLBI_EL2_VAA', { address: VA }))
        .has(),
      false,
    );
  });
  rule('§4.4.2.10', 'CMD_TLBI_EL2_ASID takes the non-global entries of EL2-E2H of its ASID', () => {
    same(
      el2(1)
        .page()
        .run(command.tlbi('TLBI_EL2_ASID', { ASID: 2 }))
        .has(),
      true,
    );
    same(
      el2(1)
        .page()
        .run(command.tlbi('TLBI_EL2_ASID', { ASID: 1 }))
        .has(),
      false,
    );
  });
  rule('§3.3.3', 'entries of EL2 have no VMID: two streams with different S2VMID share them', () => {
    const tlb = el2(0).page();
    tlb.rig.ste(SID + 1, {
      Config: STE_CONFIG.S1_TRANS,
      S1ContextPtr: AT.cds,
      STRW: 2,
      S2VMID: 99,
      SHCFG: 1,
    });
    same(tlb.rig.pa(VA, { streamId: SID + 1 }), AT.data);
  });

  // --- stage 2 ---
  rule('§4.4.3.1', 'CMD_TLBI_S2_IPA takes stage 2 entries of VMID and IPA', () => {
    const tlb = second().page().page(VA1);
    tlb.run(command.tlbi('TLBI_S2_IPA', { VMID, address: VA }));
    same([tlb.has(), tlb.has(VA1)], [false, true]);
  });
  rule('§4.4.3.1', 'CMD_TLBI_S2_IPA of another VMID takes nothing', () => {
    same(
      second()
        .page()
        .run(command.tlbi('TLBI_S2_IPA', { VMID: 8, address: VA }))
        .has(),
      true,
    );
  });
  rule(
    '§4.4.3.1',
    'CMD_TLBI_S2_IPA need not take entries that combine both stages: CMD_TLBI_NH_ALL does',
    () => {
      const nested = both();
      nested.stage2();
      nested.rig.run(command.tlbi('TLBI_S2_IPA', { VMID, address: VA }));
      same(nested.has(), null);
      nested.rig.run(command.tlbi('TLBI_NH_ALL', { VMID }));
      same(nested.has(), 'F_TRANSLATION');
    },
  );
  rule('§4.4.2.1', 'CMD_TLBI_NH_ALL takes nested entries, and leaves IPA entries', () => {
    const nested = both();
    nested.stage2();
    nested.rig.run(command.tlbi('TLBI_NH_ALL', { VMID }));
    same(nested.has(), null);
    nested.stage1();
    nested.rig.run(command.tlbi('TLBI_NH_ALL', { VMID }));
    same(nested.has(), 'F_TRANSLATION');
  });
  rule('§4.4.2.4', 'CMD_TLBI_NH_VA leaves stage 2-only entries', () => {
    same(
      second()
        .page()
        .run(command.tlbi('TLBI_NH_VA', { VMID, address: VA }), command.tlbi('TLBI_NH_ALL', { VMID }))
        .has(),
      true,
    );
  });
  rule('§4.4.3.2', 'CMD_TLBI_S12_VMALL takes all entries of its VMID, of either stage', () => {
    const all = command.tlbi('TLBI_S12_VMALL', { VMID });
    same([first().page().run(all).has(), second().page().run(all).has()], [false, false]);
    const nested = both();
    nested.stage2();
    nested.rig.run(all);
    same(nested.has(), 'F_TRANSLATION');
  });
  rule('§4.4.3.2', 'CMD_TLBI_S12_VMALL of another VMID takes nothing', () => {
    same(
      second()
        .page()
        .run(command.tlbi('TLBI_S12_VMALL', { VMID: 8 }))
        .has(),
      true,
    );
  });
  rule('§4.4.4.1', 'CMD_TLBI_NSNH_ALL takes all entries of all VMIDs, of either stage', () => {
    const all = command.tlbi('TLBI_NSNH_ALL');
    same([first().page().run(all).has(), second().page().run(all).has()], [false, false]);
  });

  // --- VMW ---
  rule('§6.3.9.1', 'CR0.VMW: invalidations match VMID[N:VMW]', () => {
    const run = (VMW: number, target: number): boolean => {
      const tlb = second().page();
      tlb.rig.cr0({ VMW });
      return tlb.run(command.tlbi('TLBI_S12_VMALL', { VMID: target })).has();
    };
    same(
      [run(0, 6), run(1, 6), run(1, 4), run(2, 4), run(3, 0), run(4, 15), run(4, 16)],
      [true, false, true, false, false, false, true],
    );
  });
  rule('§6.3.9', 'reserved VMW behaves as 0', () => {
    const tlb = second().page();
    tlb.rig.cr0({ VMW: 5 });
    same(tlb.run(command.tlbi('TLBI_S12_VMALL', { VMID: 6 })).has(), true);
  });
  rule('§6.3.9', 'VMW has no effect on lookups', () => {
    const tlb = second().page();
    tlb.rig.cr0({ VMW: 4 });
    tlb.rig.ste(SID + 1, { Config: STE_CONFIG.S2_TRANS, ...tlb.rig.steFor(tlb.tables, { S2VMID: 6 }) });
    same(tlb.rig.type(VA, { streamId: SID + 1 }), 'F_TRANSLATION');
  });

  // --- ranges (§4.4.1.1) ---
  rule('§4.4.1.1', 'TG != 0: (NUM + 1) * 2^SCALE granules from the address on', () => {
    const tlb = first();
    for (let i = 0n; i < 9n; i++) tlb.page(VA + i * PAGE);
    tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA + PAGE, TG: 1, NUM: 2, SCALE: 1 }));
    const left = Array.from({ length: 9 }, (_, i) => tlb.has(VA + BigInt(i) * PAGE));
    same(left, [true, false, false, false, false, false, false, true, true]);
  });
  rule('§4.4.1.1', 'TG == 0: one address, and NUM, SCALE and TTL do not count', () => {
    const tlb = first().page().page(VA1);
    tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA, NUM: 9, SCALE: 4, TTL: 1 }));
    same([tlb.has(), tlb.has(VA1)], [false, true]);
  });
  rule('§4.4.1.1', 'IDR3.RIL == 0: TG, NUM, SCALE and TTL do not count', () => {
    const tlb = new Cached((rig) => rig.stage1(), new Rig({ config: { IDR3: { RIL: 0 } } })).page().page(VA1);
    tlb.run(command.tlbi('TLBI_NH_VA', { ASID: 1, address: VA, TG: 1, NUM: 9, SCALE: 4, TTL: 1 }));
    same([tlb.has(), tlb.has(VA1)], [false, true]);
  });
  rule('§4.4.1.1', 'TG names the granule: entries of other granules may stay, and do', () => {
    const tlb = first().page();
    tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA & ~0xffffn, TG: 3, NUM: 1 }));
    same(tlb.has(), true);
  });
  rule('§4.4.1.1', 'ranges of 16K and 64K granules', () => {
    const run = (TG: number, TG0: number, granule: 14 | 16): boolean => {
      const tlb = first({}, { TG0 }, { granule }).page(VA + (3n << BigInt(granule)));
      tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA, TG, NUM: 1, SCALE: 1 }));
      return tlb.has(VA + (3n << BigInt(granule)));
    };
    same([run(2, 2, 14), run(3, 1, 16)], [false, false]);
  });
  rule('§4.4.1.1', 'TTL names the level of the leaf: entries of other levels may stay, and do', () => {
    const run = (level: number, TTL: number): boolean => {
      const tlb = first().page(VA, { level });
      return tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA, TG: 1, TTL })).has();
    };
    same([run(3, 3), run(3, 2), run(2, 2), run(2, 3), run(1, 1)], [false, true, false, true, false]);
  });
  rule('§4.4.1.1', 'TTL == 0 with TG != 0: entries of every level', () => {
    const run = (level: number): boolean => {
      const tlb = first().page(VA, { level });
      return tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA, TG: 1, NUM: 1 })).has();
    };
    same([run(1), run(2), run(3)], [false, false, false]);
  });
  rule('§4.4.1.1', 'TG != 0 with TTL == 0, NUM == 0 and SCALE == 0 is reserved: CERROR_ILL', () => {
    same(cerror(command.tlbi('TLBI_NH_VA', { TG: 1 })), 'ILL');
    same(cerror(command.tlbi('TLBI_S2_IPA', { TG: 2 })), 'ILL');
  });
  rule('§4.4.1.1', 'a range does not wrap at the top of the address space', () => {
    const tlb = first().page(0n);
    tlb.run(
      command.tlbi('TLBI_NH_VA', {
        VMID,
        ASID: 1,
        address: 0xffff_ffff_ffff_f000n,
        TG: 1,
        NUM: 31,
        SCALE: 3,
      }),
    );
    same(tlb.has(0n), true);
  });
  rule('§4.4.1.1', 'a range that touches a block takes the block', () => {
    const tlb = first().page(VA, { level: 2 });
    tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: VA + 0x1f_f000n, TG: 1, NUM: 3 }));
    same(tlb.has(), false);
  });
  rule('§4.4.1.1', 'ranges of stage 2: CMD_TLBI_S2_IPA', () => {
    const tlb = second();
    for (let i = 0n; i < 4n; i++) tlb.page(VA + i * PAGE);
    tlb.run(command.tlbi('TLBI_S2_IPA', { VMID, address: VA, TG: 1, NUM: 1 }));
    same(
      [0n, 1n, 2n, 3n].map((i) => tlb.has(VA + i * PAGE)),
      [false, false, true, true],
    );
  });
  rule('§4.4.1.1', 'the widest range takes everything of its granule', () => {
    const tlb = first().page(0x7fff_ffff_f000n);
    tlb.run(command.tlbi('TLBI_NH_VA', { VMID, ASID: 1, address: 0n, TG: 1, NUM: 31, SCALE: 31 }));
    same(tlb.has(0x7fff_ffff_f000n), false);
  });

  // --- what shares entries ---
  rule('§3.17', 'streams with the same VMID and ASID share entries', () => {
    const tlb = first().page();
    tlb.rig.ste(SID + 1, { Config: STE_CONFIG.S1_TRANS, S1ContextPtr: AT.cds, S2VMID: VMID, SHCFG: 1 });
    same(tlb.rig.pa(VA, { streamId: SID + 1 }), AT.data);
  });
  rule('§3.17', 'another VMID, or another ASID, does not hit', () => {
    const tlb = first().page();
    tlb.rig.ste(SID + 1, { Config: STE_CONFIG.S1_TRANS, S1ContextPtr: AT.cds, S2VMID: 8, SHCFG: 1 });
    tlb.rig.ste(SID + 2, { Config: STE_CONFIG.S1_TRANS, S1ContextPtr: AT.cds2, S2VMID: VMID, SHCFG: 1 });
    tlb.rig.cd(tlb.rig.cdFor(tlb.tables, { ASID: 2 }), 0, AT.cds2);
    same(
      [1, 2].map((add) => tlb.rig.type(VA, { streamId: SID + add })),
      ['F_TRANSLATION', 'F_TRANSLATION'],
    );
  });
  rule('§3.17.1', 'a global entry hits for another ASID of its VMID and ASET', () => {
    const tlb = first().page(VA, { nG: 0 });
    for (const ASET of [0, 1]) {
      tlb.rig.ste(SID + 1 + ASET, {
        Config: STE_CONFIG.S1_TRANS,
        S1ContextPtr: AT.cds2 + ASET * 64,
        S2VMID: VMID,
        SHCFG: 1,
      });
      tlb.rig.cd(tlb.rig.cdFor(tlb.tables, { ASID: 2, ASET }), ASET, AT.cds2);
    }
    same(
      [1, 2].map((add) => tlb.rig.pa(VA, { streamId: SID + add })),
      [AT.data, null],
    );
  });
  rule('§16.2', 'a fault leaves nothing in the IOTLB', () => {
    const rig = new Rig();
    const tables = rig.stage1();
    rig.type(VA);
    tables.map(VA, DATA);
    same(rig.pa(VA), AT.data);
  });
});
