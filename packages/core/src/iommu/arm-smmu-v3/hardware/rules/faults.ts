// §3.12, §4.7, §5.5, §7.3: what faults do, event records, stalls and CMD_SYNC.

import type { Msi } from '../registers/interrupts.ts';
import { STE_CONFIG } from '../../spec/ste.ts';
import { type CdFields, type SteFields, AT, QUEUE_LOG2, Rig, SID, VA, command } from './rig.ts';
import { has, same, topic } from '../../../testing/rules.ts';

const DATA = BigInt(AT.data);
const ENTRIES = 2 ** QUEUE_LOG2;

/** How an access to an unmapped page ends, and whether it is recorded. */
function ends(cd: CdFields): readonly [kind: string, abort: boolean | null, recorded: boolean] {
  const rig = new Rig();
  rig.stage1({}, cd);
  const outcome = rig.dma(VA);
  const abort = outcome.kind === 'terminated' ? outcome.abort : null;
  return [outcome.kind, abort, rig.events().length > 0];
}

function ends2(ste: SteFields): readonly [kind: string, abort: boolean | null, recorded: boolean] {
  const rig = new Rig();
  rig.stage2(ste);
  const outcome = rig.dma(VA);
  const abort = outcome.kind === 'terminated' ? outcome.abort : null;
  return [outcome.kind, abort, rig.events().length > 0];
}

/** A rig whose stream stalls stage 1 faults. */
function stalling(config = {}): Rig {
  const rig = new Rig({ config });
  rig.stage1({}, { S: 1 });
  return rig;
}

/** Corrects what a stall was about. */
function correct(rig: Rig): void {
  const tables = rig.tables();
  tables.map(VA, DATA);
  rig.cd(rig.cdFor(tables, { S: 1 }));
  rig.run(command.cfgi('CFGI_CD'), command.tlbi('TLBI_NSNH_ALL'));
}

const resume = (stag: number, Ac: number, Ab = 0, StreamID = SID): Uint32Array =>
  command.resume({ STAG: stag, Ac, Ab, StreamID });

export const FAULTS = topic('FLT', (rule) => {
  // --- A, R, S (§5.5) ---
  rule('§5.5', 'A == 1, R == 1: aborted and recorded', () =>
    same(ends({ A: 1, R: 1 }), ['terminated', true, true]),
  );
  rule('§5.5', 'A == 1, R == 0: aborted silently', () =>
    same(ends({ A: 1, R: 0 }), ['terminated', true, false]),
  );
  rule('§5.5', 'A == 0, R == 1: RAZ/WI and recorded', () =>
    same(ends({ A: 0, R: 1 }), ['terminated', false, true]),
  );
  rule('§5.5', 'A == 0, R == 0: RAZ/WI silently', () =>
    same(ends({ A: 0, R: 0 }), ['terminated', false, false]),
  );
  rule('§5.5', 'S == 1 stalls and records, whatever A and R say', () => {
    same(
      [ends({ S: 1, R: 0 }), ends({ S: 1, A: 0, R: 0 })],
      [
        ['stalled', null, true],
        ['stalled', null, true],
      ],
    );
  });
  rule('§5.5', 'stage 2 terminates by abort; S2R records', () => {
    same(
      [ends2({ S2R: 1 }), ends2({ S2R: 0 })],
      [
        ['terminated', true, true],
        ['terminated', true, false],
      ],
    );
  });
  rule('§5.5', 'S2S stalls stage 2 faults and records them, whatever S2R says', () => {
    same(ends2({ S2S: 1, S2R: 0 }), ['stalled', null, true]);
  });
  rule('§3.12.5', 'each stage has its own fault model: that of the stage that faults counts', () => {
    const run = (S: number, S2S: number, map: boolean): string => {
      const rig = new Rig();
      const { first } = rig.nested({ S2S }, { S });
      if (map) first.map(VA, VA);
      return rig.dma(VA).kind;
    };
    same(
      [run(0, 1, false), run(0, 1, true), run(1, 0, false), run(1, 0, true)],
      ['terminated', 'stalled', 'stalled', 'terminated'],
    );
  });
  rule('§3.12.2.3', 'a stage 2 fault of a CD fetch stalls as S2S says', () => {
    const rig = new Rig();
    const { second } = rig.nested({ S2S: 1 });
    rig.unmap(second, BigInt(AT.cds), 2);
    same([rig.dma(VA).kind, rig.events()[0]?.['Stall']], ['stalled', 1]);
  });
  rule('§5.5', 'configuration errors abort and are recorded whatever the CD of the stream says', () => {
    const rig = new Rig();
    rig.stage1({}, { V: 0, A: 0, R: 0, S: 1 });
    has(rig.dma(VA), { kind: 'terminated', abort: true });
    same(rig.events()[0]?.type, 'C_BAD_CD');
  });
  rule('§3.12.1', 'RAZ/WI: a read gives zeros, a write goes nowhere', () => {
    const rig = new Rig();
    rig.stage1({}, { A: 0 });
    const data = new Uint8Array(8).fill(0xaa);
    has(rig.smmu.access({ streamId: SID, hi: 0, lo: Number(VA) }, data), { done: 8, stopped: null });
    same([...data], [0, 0, 0, 0, 0, 0, 0, 0]);
  });
  rule('§3.12.2', 'a device that cannot wait is aborted, and recorded without Stall', () => {
    const rig = stalling();
    has(rig.fault(VA, { stallable: false }), { type: 'F_TRANSLATION', Stall: 0, STAG: 0 });
  });

  // --- stalls ---
  rule('§3.12.2', 'a stall record has Stall == 1 and a STAG', () => {
    const rig = stalling();
    const waiting = rig.stall(VA);
    has(rig.events()[0], { type: 'F_TRANSLATION', Stall: 1, STAG: waiting.stag, InputAddr: VA });
  });
  rule('§3.12.2', 'a STAG is not used again while its transaction waits', () => {
    const rig = stalling();
    const tags = Array.from({ length: 20 }, () => rig.stall(VA).stag);
    same(new Set(tags).size, 20);
  });
  rule('§6.3.6', 'at most IDR5.STALL_MAX transactions have a record', () => {
    const rig = stalling({ IDR5: { STALL_MAX: 2 } });
    for (let i = 0; i < 3; i++) rig.stall(VA);
    same([rig.events().length, rig.smmu.stalled], [2, 3]);
    rig.run(resume(0, 0, 1));
    same(rig.events().length, 1);
  });
  rule('§4.7.1', 'CMD_RESUME(Retry): the transaction is handled as though it had just arrived', () => {
    const rig = stalling();
    const waiting = rig.stall(VA + 8n);
    correct(rig);
    rig.run(resume(waiting.stag, 1));
    has(waiting.outcome, { kind: 'translated', pa: AT.data + 8 });
    same(rig.smmu.stalled, 0);
  });
  rule('§3.12.2.2', 'a retry that faults again stalls again, with another record', () => {
    const rig = stalling();
    const waiting = rig.stall(VA);
    rig.events();
    rig.run(resume(waiting.stag, 1));
    same([waiting.outcome, rig.events().length, rig.smmu.stalled], [null, 1, 1]);
  });
  rule('§4.7.1', 'CMD_RESUME(Terminate) with Abort: an abort; without: RAZ/WI', () => {
    const run = (Ab: number): unknown => {
      const rig = stalling();
      const waiting = rig.stall(VA);
      rig.run(resume(waiting.stag, 0, Ab));
      return waiting.outcome?.kind === 'terminated' ? waiting.outcome.abort : null;
    };
    same([run(1), run(0)], [true, false]);
  });
  rule('§4.7.1', 'TERM_MODEL == 1: termination is always by abort', () => {
    const rig = stalling({ IDR0: { TERM_MODEL: 1 } });
    const waiting = rig.stall(VA);
    rig.run(resume(waiting.stag, 0, 0));
    has(waiting.outcome, { abort: true });
  });
  rule('§4.7.1', 'a StreamID and STAG that do not belong together have no effect', () => {
    const rig = stalling();
    const waiting = rig.stall(VA);
    rig.run(resume(waiting.stag, 0, 1, SID + 1), resume(waiting.stag + 1, 0, 1));
    same([rig.cerror, waiting.outcome], ['NONE', null]);
  });
  rule('§4.7.1', 'CMD_RESUME while nothing waits is consumed', () =>
    same(new Rig().try(resume(3, 1)), 'NONE'),
  );
  rule('§4.7.2', 'CMD_STALL_TERM aborts every waiting transaction of the stream, and no other', () => {
    const rig = stalling();
    rig.ste(SID + 1, { Config: STE_CONFIG.S1_TRANS, S1ContextPtr: AT.cds, SHCFG: 1 });
    const mine = [rig.stall(VA), rig.stall(VA)];
    const other = rig.stall(VA, { streamId: SID + 1 });
    rig.run(command.stallTerm());
    same([mine.map((each) => each.outcome?.kind), other.outcome], [['terminated', 'terminated'], null]);
  });
  rule('§4.7.2', 'CMD_STALL_TERM aborts those too whose event could not be recorded', () => {
    const rig = stalling();
    rig.cr0({ EVENTQEN: 0 });
    const waiting = rig.stall(VA);
    rig.run(command.stallTerm());
    has(waiting.outcome, { kind: 'terminated', abort: true });
  });
  rule('§4.7.1', 'CMD_RESUME and CMD_STALL_TERM where STALL_MODEL == 0b01 are CERROR_ILL', () => {
    const config = { IDR0: { STALL_MODEL: 1 } };
    same(
      [new Rig({ config }).try(resume(0, 1)), new Rig({ config }).try(command.stallTerm())],
      ['ILL', 'ILL'],
    );
  });
  rule('§7.4', 'a stall that finds the queue full is no overflow: it is recorded when there is room', () => {
    const rig = stalling();
    for (let i = 0; i < ENTRIES; i++) rig.stall(VA);
    const waiting = rig.stall(VA + 0x1000n);
    same([rig.read('EVENTQ_PROD'), waiting.stag], [ENTRIES, -1]);
    rig.write('EVENTQ_CONS', 1);
    same(rig.read('EVENTQ_PROD'), ENTRIES + 1);
    has(rig.record(0), { InputAddr: VA + 0x1000n, STAG: waiting.stag });
  });
  rule(
    '§3.12.2',
    'a stall without a record is retried when the queue is writable: it may then succeed',
    () => {
      const rig = stalling();
      rig.cr0({ EVENTQEN: 0 });
      const waiting = rig.stall(VA);
      correct(rig);
      rig.cr0({ EVENTQEN: 1 });
      has(waiting.outcome, { kind: 'translated' });
      same(rig.read('EVENTQ_PROD'), 0);
    },
  );
  rule('§7.2.1', 'a stall waits for EVENTQ_ABT_ERR to be acknowledged', () => {
    const rig = stalling();
    rig.memory.refuse(AT.eventq, 32);
    const waiting = rig.stall(VA);
    same([rig.gerrors(), waiting.stag], [['EVENTQ_ABT_ERR'], -1]);
    rig.memory.mend();
    rig.acknowledge();
    same([waiting.stag >= 0, rig.read('EVENTQ_PROD')], [true, 1]);
  });

  // --- records (§7.3) ---
  rule('§7.3', 'a record names the stream and, with SSV, the SubstreamID', () => {
    const rig = new Rig();
    rig.stage1({ S1CDMax: 4, S1DSS: 2 });
    rig.memory.put(AT.cds + 3 * 64, rig.memory.words(AT.cds, 16));
    has(rig.fault(VA), { StreamID: SID, SSV: 0, SubstreamID: 0 });
    has(rig.fault(VA, { substreamId: 3 }), { StreamID: SID, SSV: 1, SubstreamID: 3 });
  });
  rule('§7.3.13', 'RnW, InD and PnU are those of the transaction', () => {
    const rig = new Rig();
    rig.stage1();
    has(rig.fault(VA), { RnW: 1, InD: 0, PnU: 0 });
    has(rig.fault(VA, { write: true, privileged: true }), { RnW: 0, InD: 0, PnU: 1 });
    has(rig.fault(VA, { instruction: true }), { RnW: 1, InD: 1, PnU: 0 });
  });
  rule('§13.1.2', 'InD == 0 for writes', () => {
    const rig = new Rig();
    rig.stage1();
    has(rig.fault(VA, { write: true, instruction: true }), { RnW: 0, InD: 0 });
  });
  rule('§7.3.13', 'InD and PnU are those after the overrides of the STE', () => {
    const rig = new Rig();
    rig.stage1({ PRIVCFG: 3, INSTCFG: 3 });
    has(rig.fault(VA), { InD: 1, PnU: 1 });
    const other = new Rig();
    other.stage1({ PRIVCFG: 2, INSTCFG: 2 });
    has(other.fault(VA, { privileged: true, instruction: true }), { InD: 0, PnU: 0 });
  });
  rule('§7.3.13', 'InputAddr is all 64 bits of the address', () => {
    const rig = new Rig();
    rig.stage1();
    has(rig.fault(0xfedc_ba98_7654_3210n), { InputAddr: 0xfedc_ba98_7654_3210n });
  });
  rule('§7.3.13', 'stage 1 faults: S2 == 0, CLASS == IN, IPA not given (zero)', () => {
    const rig = new Rig();
    rig.nested();
    has(rig.fault(VA), { S2: 0, CLASS: 2, IPA: 0 });
  });
  rule('§7.3.13', 'stage 2 faults: IPA[55:12] at bits 247:204, and zeros below', () => {
    const rig = new Rig();
    const { first } = rig.nested();
    first.map(VA, 0x12_3456_7000n);
    const seen = rig.fault(VA + 0xabcn);
    has(seen, { S2: 1, CLASS: 2, IPA: 0x12_3456_7000, InputAddr: VA + 0xabcn });
    same((seen!['words'] as number[]).slice(6), [0x3456_7000, 0x12]);
  });
  rule('§7.3.13', 'a stage 1 walk that faults at stage 2: CLASS == TT and the IPA of the descriptor', () => {
    const rig = new Rig();
    const { second } = rig.nested({}, { TTB0: 0x6000_0000 });
    same(second.root > 0, true);
    has(rig.fault(0x4080_0000_0000n), { S2: 1, CLASS: 1, IPA: 0x6000_0000, RnW: 1 });
  });
  rule('§7.3.13', 'the same in a table of 64K: the page of the descriptor, not the base of the table', () => {
    const rig = new Rig();
    rig.nested({}, { TTB0: 0x6000_0000, TG0: 1, T0SZ: 25 });
    has(rig.fault(0x7f_e000_0000n), {
      S2: 1,
      CLASS: 1,
      IPA: 0x6000_0000 + (((0x7f_e000_0000 / 2 ** 29) * 8) & ~0xfff),
    });
  });
  rule('§7.3.16', 'TTRnW is valid for CLASS == TT alone: zero elsewhere', () => {
    const rig = new Rig();
    rig.stage1().map(VA, DATA, { ap: 3 });
    has(rig.fault(VA, { write: true }), { type: 'F_PERMISSION', TTRnW: 0 });
  });
  rule('§7.3.2', 'F_UUT holds the address and the attributes as they came in', () => {
    const rig = new Rig();
    rig.ste(SID, { Config: STE_CONFIG.BYPASS, PRIVCFG: 2 });
    has(rig.fault(VA, { unsupported: 9, privileged: true, write: true }), {
      type: 'F_UUT',
      InputAddr: VA,
      RnW: 0,
      PnU: 1,
    });
  });
  rule('§7.3.3', 'C_BAD_STREAMID holds the StreamID as it came in', () => {
    has(new Rig().fault(VA, { streamId: 0xabcd_0123 }), { type: 'C_BAD_STREAMID', StreamID: 0xabcd_0123 });
  });
  rule('§7.3.9', 'C_BAD_SUBSTREAMID has its SubstreamID without SSV', () => {
    const rig = new Rig();
    rig.stage1();
    has(rig.fault(VA, { substreamId: 0xf_ffff }), {
      type: 'C_BAD_SUBSTREAMID',
      SSV: 0,
      SubstreamID: 0xf_ffff,
    });
  });
  rule('§7.3.19', 'E_PAGE_REQUEST tells of pages that a device will want, by rights and number', () => {
    const rig = new Rig();
    const none = { r: false, w: false, x: false };
    rig.smmu.hintPages({
      streamId: SID,
      hi: 0,
      lo: Number(VA) + 5,
      pages: 3,
      privileged: none,
      unprivileged: { ...none, r: true, w: true },
    });
    const [seen] = rig.events();
    has(seen, { type: 'E_PAGE_REQUEST', StreamID: SID, InputAddr: VA });
    same((seen!['words'] as number[])[3], 0b1100 | (3 << 12));
  });
  rule(
    '§7.3.22',
    'configuration is looked up before translation: the first error is the one recorded',
    () => {
      const rig = new Rig();
      rig.stage1({}, { V: 0 });
      same(rig.type(1n << 60n), 'C_BAD_CD');
      rig.ste(SID, { V: 0 });
      rig.run(command.cfgi('CFGI_STE'));
      same(rig.type(VA), 'C_BAD_STE');
    },
  );

  // --- CMD_SYNC (§4.7.3) ---
  rule('§4.7.3', 'CS == 0b00: no signal', () => {
    const rig = new Rig();
    same(
      [rig.try(command.sync({ msi: AT.data, MSIData: 1 })), rig.memory.get64(AT.data), rig.interrupts],
      ['NONE', 0n, []],
    );
  });
  rule('§4.7.3', 'CS == 0b01: MSIData is written to MSIAddress', () => {
    const rig = new Rig();
    rig.run(command.sync({ CS: 1, msi: AT.data + 4, MSIData: 0xdead_beef }));
    same(rig.memory.get64(AT.data), 0xdead_beef_0000_0000n);
  });
  rule('§4.7.3', 'CS == 0b01 with MSIAddress == 0: no MSI', () => {
    const sent: Msi[] = [];
    const rig = new Rig({ onMsi: (msi) => sent.push(msi) > 0 });
    rig.run(command.sync({ CS: 1, MSIData: 1 }));
    same([rig.cerror, sent], ['NONE', []]);
  });
  rule('§3.18', 'CS == 0b01: a wired interrupt, where that is implemented', () => {
    const rig = new Rig({ config: { IDR0: { MSI: 0 } } });
    rig.run(command.sync({ CS: 1, msi: AT.data, MSIData: 1 }));
    same([rig.interrupts, rig.memory.get64(AT.data)], [['cmd_sync'], 0n]);
  });
  rule('§4.7.3', 'CS == 0b10: the WFE wake-up event, where IDR0.SEV == 1', () => {
    const run = (SEV: number): unknown => {
      const rig = new Rig({ config: { IDR0: { SEV } } });
      rig.run(command.sync({ CS: 2 }));
      return [rig.cerror, rig.interrupts];
    };
    same(
      [run(1), run(0)],
      [
        ['NONE', ['sev']],
        ['NONE', []],
      ],
    );
  });
  rule('§4.7.3', 'CS == 0b11 is reserved: CERROR_ILL', () =>
    same(new Rig().try(command.sync({ CS: 3 })), 'ILL'),
  );
  rule('§4.7.3', 'consumption is visible before the signal of completion', () => {
    let seen = -1;
    const rig: Rig = new Rig({
      onMsi: () => {
        seen = rig.read('CMDQ_CONS');
        return true;
      },
    });
    rig.run(command.sync({ CS: 1, msi: AT.data }));
    same(seen, 1);
  });
  rule('§4.7.3', 'commands before it have taken effect when it completes', () => {
    let seen: unknown = null;
    const rig: Rig = new Rig({
      onMsi: () => {
        seen = rig.pa(VA);
        return true;
      },
    });
    rig.ste(SID, { Config: STE_CONFIG.BYPASS, SHCFG: 1 });
    rig.pa(VA);
    rig.ste(SID, { Config: STE_CONFIG.ABORT });
    seen = 'not yet';
    rig.run(command.cfgi('CFGI_STE'), command.sync({ CS: 1, msi: AT.data }));
    same(seen, null);
  });
  rule('§3.18', 'an MSI of CMD_SYNC that aborts activates MSI_CMDQ_ABT_ERR; the command is consumed', () => {
    const rig = new Rig();
    rig.memory.refuse(AT.data, 8);
    rig.run(command.sync({ CS: 1, msi: AT.data }), command.sync());
    same([rig.gerrors(), rig.read('CMDQ_CONS')], [['MSI_CMDQ_ABT_ERR'], 2]);
  });
  rule('§3.18', 'the Command queue going from full to not full is a WFE wake-up event', () => {
    const rig = new Rig();
    const nops = Array.from({ length: ENTRIES }, () => command.opcode(1));
    rig.run(...nops);
    same(rig.interrupts, ['sev']);
  });
});
