// §6: the register file, and what updating it does.

import { CMD } from '../../spec/commands.ts';
import { CR0, OFFSET } from '../../spec/registers.ts';
import { STE_CONFIG } from '../../spec/ste.ts';
import { type Register, AT, Rig, SID, VA, command } from './rig.ts';
import { has, same, topic } from '../../../testing/rules.ts';

const off = (config = {}): Rig => new Rig({ off: true, config });
const slow = (): Rig => new Rig({ off: true, config: { updates: 'later' } });

/** Writes ones to a register, and reads it back. */
function ones(rig: Rig, register: Register): number {
  rig.write(register, 0xffff_ffff);
  return rig.read(register);
}

export const REGISTER_RULES = topic('REG', (rule) => {
  // --- access (§6.2) ---
  rule('§6.2', 'undefined locations of page 0 are RES0', () => {
    const rig = off();
    rig.smmu.writeRegister(0x1f0, 4, 0xffff_ffffn);
    same(rig.smmu.readRegister(0x1f0, 4), 0n);
    same(rig.smmu.readRegister(0x8000, 4), 0n);
  });
  rule('§6.2', 'undefined locations of page 1 are RES0 or alias page 0: RES0 here', () => {
    same(off().smmu.readRegister(0x10000, 4), 0n);
  });
  rule('§6.2', 'Secure registers are RES0 where there is no Secure state', () => {
    const rig = off();
    for (const offset of [0x8000, 0x8020, 0x8080, 0x803c]) {
      rig.smmu.writeRegister(offset, 4, 0xffff_ffffn);
      same(rig.smmu.readRegister(offset, 4), 0n);
    }
  });
  rule('§6.2', 'both halves of a 64-bit register can be written and read as 32 bits', () => {
    const rig = off();
    rig.smmu.writeRegister(OFFSET.STRTAB_BASE + 4, 4, 0x1fn);
    rig.smmu.writeRegister(OFFSET.STRTAB_BASE, 4, 0x8000_0040n);
    same(rig.smmu.readRegister(OFFSET.STRTAB_BASE, 8), 0x1f_8000_0040n);
    same(rig.smmu.readRegister(OFFSET.STRTAB_BASE + 4, 4), 0x1fn);
  });
  rule(
    '§6.2',
    'a 64-bit access to two 32-bit registers reads and writes both, as one permitted behaviour',
    () => {
      const rig = off();
      same(rig.smmu.readRegister(OFFSET.IDR0, 8) >> 32n, rig.smmu.readRegister(OFFSET.IDR1, 4));
    },
  );
  rule('§6.2', 'an unaligned access is RAZ/WI, as one permitted behaviour', () => {
    const rig = off();
    same(rig.smmu.readRegister(OFFSET.IDR0 + 2, 4), 0n);
    rig.smmu.writeRegister(OFFSET.STRTAB_BASE + 4, 8, -1n & 0xffff_ffff_ffff_ffffn);
    same(rig.read('STRTAB_BASE_CFG'), 0);
  });
  rule('§6.2', 'an access of an unsupported size is RAZ/WI, as one permitted behaviour', () => {
    const rig = off();
    same(
      [1, 2, 16].map((size) => rig.smmu.readRegister(OFFSET.IDR0, size)),
      [0n, 0n, 0n],
    );
    rig.smmu.writeRegister(OFFSET.CR1, 2, 0xffffn);
    same(rig.read('CR1'), 0);
  });
  rule('§6.2', 'ID registers hold constant values', () => {
    const rig = off();
    const ids = ['IDR0', 'IDR1', 'IDR2', 'IDR3', 'IDR4', 'IDR5', 'IIDR', 'AIDR'] as const;
    const before = ids.map((id) => rig.read(id));
    same(
      ids.map((id) => ones(rig, id)),
      before,
    );
  });
  rule('§6.2', 'Event queue indexes live on page 1: their places on page 0 are RAZ/WI here', () => {
    const rig = off();
    rig.smmu.writeRegister(0xac, 4, 3n);
    same([rig.smmu.readRegister(0xa8, 4), rig.read('EVENTQ_CONS')], [0n, 0]);
  });

  // --- ID registers: what is not advertised is not there ---
  rule('§6.3.1', 'IDR0.Hyp == 0: CR2.E2H is RES0', () => same(ones(off({ IDR0: { Hyp: 0 } }), 'CR2') & 1, 0));
  rule('§6.3.1', 'IDR0.ATS == 0: CR0.ATSCHK is RES0', () => {
    same(ones(off({ IDR0: { ATS: 0, PRI: 0 } }), 'CR0') & CR0.ATSCHK.inPlace, 0);
  });
  rule(
    '§6.3.1',
    'IDR0.PRI == 0: the PRI queue registers are RES0, and CR0.PRIQEN and IRQ_CTRL.PRIQ_IRQEN',
    () => {
      const rig = off({ IDR0: { PRI: 0 } });
      const names = [
        'PRIQ_BASE',
        'PRIQ_IRQ_CFG0',
        'PRIQ_IRQ_CFG1',
        'PRIQ_IRQ_CFG2',
        'PRIQ_PROD',
        'PRIQ_CONS',
      ] as const;
      same(
        names.map((name) => ones(rig, name)),
        [0, 0, 0, 0, 0, 0],
      );
      same([ones(rig, 'IRQ_CTRL'), ones(rig, 'CR0') & CR0.PRIQEN.inPlace], [0b101, 0]);
    },
  );
  rule('§6.3.1', 'IDR0.MSI == 0: the IRQ_CFG registers are RES0, but for PRIQ_IRQ_CFG2.LO', () => {
    const rig = off({ IDR0: { MSI: 0 } });
    const names = [
      'GERROR_IRQ_CFG0',
      'GERROR_IRQ_CFG1',
      'GERROR_IRQ_CFG2',
      'EVENTQ_IRQ_CFG0',
      'PRIQ_IRQ_CFG1',
    ] as const;
    same(
      names.map((name) => ones(rig, name)),
      [0, 0, 0, 0, 0],
    );
    same(ones(rig, 'PRIQ_IRQ_CFG2'), 0x8000_0000);
  });
  rule('§6.3.1', 'IDR0.VMW == 0: CR0.VMW is RES0', () => {
    same(ones(off({ IDR0: { VMW: 0 } }), 'CR0') & CR0.VMW.inPlace, 0);
  });
  rule('§6.3.1', 'IDR0.ATSRECERR == 0: CR2.REC_CFG_ATS is RES0', () => {
    same(ones(off({ IDR0: { ATSRECERR: 0 } }), 'CR2') & 0b1000, 0);
  });
  rule('§6.3.1', 'IDR0.BTM == 0: CR2.PTM is RES0', () => same(ones(off(), 'CR2') & 0b100, 0));
  rule('§6.3.1', 'IDR0.ST_LEVEL == 0: STRTAB_BASE_CFG.FMT and SPLIT are RES0', () => {
    same(ones(off({ IDR0: { ST_LEVEL: 0 } }), 'STRTAB_BASE_CFG'), 0x3f);
  });
  rule('§6.3.1', 'IDR0.DORMHINT == 0: STATUSR.DORMANT reads as zero', () => same(off().read('STATUSR'), 0));
  rule('§6.3.6', 'address bits above IDR5.OAS are RES0 in base registers', () => {
    const rig = off({ IDR5: { OAS: 1, DS: 0, VAX: 0 } });
    rig.write('STRTAB_BASE', 0x00ff_ffff_ffff_ffc0n);
    same(rig.smmu.readRegister(OFFSET.STRTAB_BASE, 8), 0xf_ffff_ffc0n);
  });
  rule('§6.3.8', 'AIDR names SMMUv3.3', () => same(off().read('AIDR'), 3));

  // --- CR0 (§6.3.9) ---
  rule('§6.3.9', 'CR0ACK shows a field of CR0 when its update has completed', () => {
    const rig = slow();
    rig.write('CR0', 0b1000);
    same([rig.read('CR0'), rig.read('CR0ACK')], [0b1000, 0b1000]);
  });
  rule('§6.3.9', 'a field whose update is under way is read-only', () => {
    const rig = slow();
    rig.write('CR0', 0b1000);
    rig.write('CR0', 0b0000);
    same(rig.read('CR0'), 0b1000);
  });
  rule('§6.3.9', 'another field may change while one is under way', () => {
    const rig = slow();
    rig.write('CR0', 0b1000);
    rig.write('CR0', 0b1100);
    rig.smmu.step();
    same(rig.read('CR0ACK'), 0b1100);
  });
  rule('§6.3.9', 'what a field enables is off until the update completes', () => {
    const rig = slow();
    rig.write('CMDQ_BASE', AT.cmdq + 5);
    rig.write('CR0', 0b1000);
    rig.run(command.opcode(CMD.PREFETCH_CONFIG));
    const memory = rig.memory.loads;
    rig.smmu.step();
    same([memory, rig.memory.loads > 0], [0, true]);
  });
  rule('§6.3.9.6', 'SMMUEN == 0: transactions bypass as GBPA says, without a Stream table', () => {
    const rig = off();
    const outcome = rig.dma(0x1234_5678n);
    has(outcome, { kind: 'translated', pa: 0x1234_5678 });
    same(rig.memory.loads, 0);
  });
  rule('§6.3.9.6', 'SMMUEN to 1 takes effect with CR0ACK', () => {
    const rig = slow();
    rig.write('CR0', 1);
    has(rig.dma(VA), { kind: 'translated' });
    rig.smmu.step();
    has(rig.dma(VA), { kind: 'terminated' });
  });
  rule('§6.3.9.6', 'SMMUEN to 0 terminates stalled transactions', () => {
    const rig = new Rig();
    rig.stage1({}, { S: 1 });
    const waiting = rig.stall(VA);
    rig.cr0({ SMMUEN: 0 });
    has(waiting.outcome, { kind: 'terminated', abort: true });
    same(rig.smmu.stalled, 0);
  });
  rule('§6.3.9', 'SMMUEN to 0 and back keeps caches: only commands empty them', () => {
    const rig = new Rig();
    rig.stage1().map(VA, BigInt(AT.data));
    rig.pa(VA);
    rig.ste(SID, { Config: STE_CONFIG.BYPASS, SHCFG: 1 });
    rig.cr0({ SMMUEN: 0 });
    rig.cr0({ SMMUEN: 1 });
    same(rig.pa(VA), AT.data);
  });
  rule('§6.3.9.3', 'CMDQEN to 0 stops consumption, and to 1 goes on where it stopped', () => {
    const rig = new Rig();
    rig.cr0({ CMDQEN: 0 });
    rig.run(command.sync(), command.sync());
    same(rig.read('CMDQ_CONS'), 0);
    rig.cr0({ CMDQEN: 1 });
    same(rig.read('CMDQ_CONS'), 2);
  });
  rule('§6.3.9.4', 'EVENTQEN == 0: events are not delivered, and the queue does not overflow', () => {
    const rig = new Rig();
    rig.cr0({ EVENTQEN: 0 });
    rig.dma(VA);
    same([rig.read('EVENTQ_PROD'), rig.gerrors()], [0, []]);
  });

  // --- CR1, CR2, STRTAB, GBPA ---
  rule('§6.3.11', 'CR1.TABLE_* is guarded by SMMUEN, CR1.QUEUE_* by all three queue enables', () => {
    const rig = off();
    rig.write('CR0', 1);
    same(ones(rig, 'CR1'), 0b11_1111);
    rig.write('CR0', 0b1000);
    rig.write('CR1', 0);
    same(rig.read('CR1'), 0b11_1111);
  });
  rule('§6.3.12', 'CR2 is read-only while SMMUEN or its acknowledgement is 1', () => {
    const rig = slow();
    rig.write('CR0', 1);
    rig.write('CR2', 2);
    same(rig.read('CR2'), 0);
    rig.smmu.step();
    rig.write('CR0', 0);
    rig.write('CR2', 2);
    same(rig.read('CR2'), 0);
    rig.smmu.step();
    rig.write('CR2', 2);
    same(rig.read('CR2'), 2);
  });
  rule('§6.3.24', 'STRTAB_BASE and STRTAB_BASE_CFG ignore writes while SMMUEN == 1', () => {
    const rig = new Rig();
    rig.write('STRTAB_BASE', 0);
    rig.write('STRTAB_BASE_CFG', 0);
    same([rig.read('STRTAB_BASE'), rig.read('STRTAB_BASE_CFG')], [AT.strtab, 8]);
  });
  rule('§6.3.14.1', 'GBPA changes by a write with Update == 1, which reads as 0 when it is done', () => {
    const rig = off();
    rig.write('GBPA', 0x8010_0000);
    same(rig.read('GBPA'), 0x0010_0000);
  });
  rule('§6.3.14.1', 'GBPA ignores a write with Update == 0', () => {
    const rig = off();
    const before = rig.read('GBPA');
    rig.write('GBPA', 0x0010_0000);
    same(rig.read('GBPA'), before);
  });
  rule('§6.3.14.1', 'GBPA is read-only while its update is under way', () => {
    const rig = slow();
    rig.write('GBPA', 0x8010_0000);
    rig.write('GBPA', 0x8000_0000);
    same(rig.read('GBPA'), 0x0010_0000);
  });
  rule('§6.3.14', 'GBPA.ABORT aborts all transactions without an event while SMMUEN == 0', () => {
    const rig = off();
    rig.write('EVENTQ_BASE', AT.eventq + 5);
    rig.write('CR0', 0b0100);
    rig.write('GBPA', 0x8010_0000);
    has(rig.dma(VA), { kind: 'terminated', abort: true, event: null });
    same(rig.read('EVENTQ_PROD'), 0);
  });
  rule('§6.3.14', 'GBPA.MTCFG, MemAttr and SHCFG override the attributes of transactions in bypass', () => {
    const rig = off();
    // Device-nGnRE, and Normal Non-cacheable; both are Outer Shareable.
    rig.write('GBPA', 0x8000_1011);
    has(rig.dma(VA), { attributes: 0x204 });
    rig.write('GBPA', 0x8000_3015);
    has(rig.dma(VA), { attributes: 0x244 });
    // Write-Back, Inner Shareable.
    rig.write('GBPA', 0x8000_301f);
    has(rig.dma(VA), { attributes: 0x3ff });
  });
  rule('§6.3.14', 'GBPA.SHCFG == 0b01 and MTCFG == 0 keep the incoming attributes', () => {
    has(off().dma(VA, { attributes: 0x3bb }), { attributes: 0x3bb });
  });
  rule('§3.4', 'SMMUEN == 0: an address beyond the OAS is aborted without an event', () => {
    has(off({ IDR5: { OAS: 1, DS: 0, VAX: 0 } }).dma(1n << 36n), {
      kind: 'terminated',
      abort: true,
      event: null,
    });
  });

  // --- interrupts and errors: IRQ_CTRL, GERROR ---
  rule('§6.3.16', 'IRQ_CTRLACK follows IRQ_CTRL when the update completes', () => {
    const rig = slow();
    rig.write('IRQ_CTRL', 0b101);
    same(rig.read('IRQ_CTRLACK'), 0b101);
  });
  rule('§6.3.21', 'IRQ_CFG registers are guarded by their enable in IRQ_CTRL', () => {
    const rig = off();
    rig.write('EVENTQ_IRQ_CFG0', 0x1000);
    rig.write('IRQ_CTRL', 0b100);
    rig.write('EVENTQ_IRQ_CFG0', 0x2000);
    rig.write('EVENTQ_IRQ_CFG1', 1);
    rig.write('GERROR_IRQ_CFG1', 2);
    same(
      [rig.read('EVENTQ_IRQ_CFG0'), rig.read('EVENTQ_IRQ_CFG1'), rig.read('GERROR_IRQ_CFG1')],
      [0x1000, 0, 2],
    );
  });
  rule('§6.3.19', 'GERROR is read-only', () => same(ones(off(), 'GERROR'), 0));
  rule('§6.3.20', 'GERRORN stores what is written; bits that it has not are RES0', () => {
    same(ones(off(), 'GERRORN'), 0x1fd);
  });

  // --- queue registers ---
  rule('§6.3.26', 'CMDQ_BASE ignores writes while CMDQEN == 1', () => {
    const rig = new Rig();
    rig.write('CMDQ_BASE', 0);
    same(rig.read('CMDQ_BASE'), AT.cmdq + 5);
  });
  rule('§6.3.28', 'CMDQ_CONS is writable while CMDQEN == 0 alone', () => {
    const rig = new Rig();
    rig.write('CMDQ_CONS', 3);
    same(rig.read('CMDQ_CONS'), 0);
    rig.cr0({ CMDQEN: 0 });
    rig.write('CMDQ_CONS', 3);
    same(rig.read('CMDQ_CONS'), 3);
  });
  rule('§6.3.28', 'CMDQ_CONS has QS + 1 bits of index: those above are RAZ', () => {
    const rig = new Rig();
    rig.cr0({ CMDQEN: 0 });
    rig.write('CMDQ_CONS', 0xf_ffff);
    same(rig.read('CMDQ_CONS'), 0x3f);
  });
  rule('§6.3.28', 'CMDQ_CONS.ERR ignores writes, as one permitted behaviour', () => {
    const rig = off();
    rig.write('CMDQ_CONS', 0x7f00_0000);
    same(rig.read('CMDQ_CONS'), 0);
  });
  rule('§6.3.29', 'EVENTQ_BASE and EVENTQ_PROD ignore writes while EVENTQEN == 1', () => {
    const rig = new Rig();
    rig.write('EVENTQ_BASE', 0);
    rig.write('EVENTQ_PROD', 7);
    same([rig.read('EVENTQ_BASE'), rig.read('EVENTQ_PROD')], [AT.eventq + 5, 0]);
  });
  rule('§6.3.33', 'PRIQ_BASE and PRIQ_PROD ignore writes while PRIQEN == 1', () => {
    const rig = new Rig();
    rig.write('PRIQ_BASE', 0);
    rig.write('PRIQ_PROD', 7);
    same([rig.read('PRIQ_BASE'), rig.read('PRIQ_PROD')], [AT.priq + 5, 0]);
  });
  rule('§6.3.96', 'EVENTQ_CONS and PRIQ_CONS are writable at any time', () => {
    const rig = new Rig();
    rig.write('EVENTQ_CONS', 0x8000_0001);
    rig.write('PRIQ_CONS', 0x8000_0002);
    same([rig.read('EVENTQ_CONS'), rig.read('PRIQ_CONS')], [0x8000_0001, 0x8000_0002]);
  });
  rule('§6.3.29', 'LOG2SIZE reads back as written, though its use is capped', () => {
    const rig = off({ IDR1: { EVENTQS: 3 } });
    rig.write('EVENTQ_BASE', AT.eventq + 31);
    same(rig.read('EVENTQ_BASE'), AT.eventq + 31);
  });

  // --- reset ---
  rule('§3.11', 'reset turns everything off: enables, queues and errors', () => {
    const rig = new Rig();
    rig.run(command.opcode(0xff));
    rig.smmu.reset();
    const names = ['CR0', 'CR0ACK', 'IRQ_CTRL', 'IRQ_CTRLACK', 'GERROR', 'GERRORN', 'CMDQ_PROD'] as const;
    same(
      names.map((name) => rig.read(name)),
      [0, 0, 0, 0, 0, 0, 0],
    );
  });
  rule('§3.11', 'caches hold nothing after reset, as one permitted state', () => {
    const rig = new Rig();
    rig.stage1().map(VA, BigInt(AT.data));
    rig.pa(VA);
    rig.smmu.reset();
    same([...rig.smmu.cachedStreams()].length, 0);
  });
});
