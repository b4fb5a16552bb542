// §3.5, §7.1, §7.2, §7.4, §7.5, §3.18: queues, global errors and interrupts.

import { CMD } from '../../spec/commands.ts';
import { OFFSET } from '../../spec/registers.ts';
import { STE_CONFIG } from '../../spec/ste.ts';
import { AT, QUEUE_LOG2, Rig, SID, VA, command } from './rig.ts';
import { has, same, topic } from '../../../testing/rules.ts';

const NOP = command.opcode(CMD.PREFETCH_CONFIG);
const BAD = command.opcode(0);
const ENTRIES = 2 ** QUEUE_LOG2;
const OVFLG = 0x8000_0000;

/** A rig whose stream `SID` has an STE with V == 0: every access leaves C_BAD_STE. */
function faulty(rig = new Rig()): Rig {
  rig.ste(SID, { V: 0 });
  return rig;
}

/** A rig in which a queue has other places or sizes. */
function queued(register: 'CMDQ_BASE' | 'EVENTQ_BASE', value: number | bigint, config = {}): Rig {
  const rig = new Rig({ off: true, config });
  rig.write('CMDQ_BASE', AT.cmdq + QUEUE_LOG2);
  rig.write('EVENTQ_BASE', AT.eventq + QUEUE_LOG2);
  rig.write('STRTAB_BASE', AT.strtab);
  rig.write('STRTAB_BASE_CFG', 8);
  rig.write(register, value);
  rig.write('CR0', 0b1101);
  return rig;
}

/** Fills the Event queue. */
function filled(): Rig {
  const rig = faulty();
  for (let i = 0; i < ENTRIES; i++) rig.dma(BigInt(i) << 12n);
  return rig;
}

export const QUEUES = topic('QUE', (rule) => {
  // --- the Command queue ---
  rule('§3.5.1', 'commands are consumed from CONS up to PROD, and CONS then equals PROD', () => {
    const rig = new Rig();
    rig.run(NOP, NOP, NOP);
    same([rig.read('CMDQ_CONS'), rig.read('CMDQ_PROD')], [3, 3]);
  });
  rule('§3.5.1', 'the index wraps to the first entry and toggles the wrap flag', () => {
    const rig = new Rig();
    for (let i = 0; i < ENTRIES + 1; i++) rig.run(NOP);
    same(rig.read('CMDQ_CONS'), ENTRIES | 1);
    for (let i = 0; i < ENTRIES; i++) rig.run(NOP);
    same(rig.read('CMDQ_CONS'), 1);
  });
  rule('§3.5.1', 'equal indexes with different wrap flags are a full queue', () => {
    const rig = new Rig();
    rig.run(...Array.from({ length: ENTRIES }, () => NOP));
    same(rig.read('CMDQ_CONS'), ENTRIES);
  });
  rule('§3.5.1', 'nothing is consumed while the indexes are inconsistent, as one permitted behaviour', () => {
    const rig = new Rig();
    rig.cr0({ CMDQEN: 0 });
    rig.write('CMDQ_CONS', 4);
    rig.write('CMDQ_PROD', 2);
    rig.cr0({ CMDQEN: 1 });
    same([rig.read('CMDQ_CONS'), rig.memory.loads], [4, 0]);
  });
  rule(
    '§3.5.1',
    'an output queue with inconsistent indexes counts as full, as one permitted behaviour',
    () => {
      const rig = faulty();
      rig.write('EVENTQ_CONS', 4);
      rig.dma(VA);
      same(rig.read('EVENTQ_PROD'), OVFLG);
    },
  );
  rule('§3.5.1', 'a queue may have one entry: bit 0 is then the wrap flag', () => {
    const rig = queued('CMDQ_BASE', AT.cmdq);
    rig.memory.put(AT.cmdq, command.sync());
    rig.write('CMDQ_PROD', 1);
    same(rig.read('CMDQ_CONS'), 1);
    rig.write('CMDQ_PROD', 0);
    same(rig.read('CMDQ_CONS'), 0);
  });
  rule('§6.3.26', 'the base is aligned to the size of the queue: lower address bits are ignored', () => {
    const rig = queued('CMDQ_BASE', AT.cmdq + 0x1e0 + QUEUE_LOG2);
    same(rig.try(command.sync()), 'NONE');
    same(rig.read('CMDQ_CONS'), 1);
  });
  rule('§6.3.26', 'the size is capped at IDR1.CMDQS', () => {
    const rig = queued('CMDQ_BASE', AT.cmdq + 19, { IDR1: { CMDQS: 2 } });
    rig.write('CMDQ_PROD', 4);
    // Four entries: index 4 is entry 0 with the wrap flag set, and all of them are zero, which is no command.
    for (let i = 0; i < 4; i++) rig.memory.put(AT.cmdq + i * 16, NOP);
    rig.acknowledge();
    same([rig.read('CMDQ_CONS') & 0xf_ffff, rig.cerror], [4, 'NONE']);
  });
  rule('§6.3.27', 'bits of CMDQ_PROD above the wrap flag do not count', () => {
    const rig = new Rig();
    rig.memory.put(AT.cmdq, NOP);
    rig.write('CMDQ_PROD', 0xf_ff41);
    same(rig.read('CMDQ_CONS'), 1);
  });
  rule('§4.1.2', 'the SMMU does not execute commands beyond PROD', () => {
    const rig = new Rig();
    rig.memory.put(AT.cmdq + 16, BAD);
    rig.run(NOP);
    same([rig.cerror, rig.read('CMDQ_CONS')], ['NONE', 1]);
  });
  rule(
    '§6.3.28',
    'one write may consume a part of the commands; the others are consumed in finite time',
    () => {
      const rig = new Rig({ config: { commandsPerStep: 2 } });
      rig.memory.put(AT.cmdq, NOP);
      for (let i = 0; i < 7; i++) rig.memory.put(AT.cmdq + i * 16, NOP);
      rig.write('CMDQ_PROD', 7);
      same(rig.smmu.step(), true);
      same(rig.read('CMDQ_CONS'), 6);
      same(rig.smmu.step(), false);
      same(rig.read('CMDQ_CONS'), 7);
    },
  );

  // --- its errors (§7.1) ---
  rule(
    '§7.1',
    'an error leaves CONS.RD at the command, gives the reason in ERR and activates CMDQ_ERR',
    () => {
      const rig = new Rig();
      rig.run(NOP, BAD, NOP);
      same([rig.read('CMDQ_CONS'), rig.gerrors()], [0x0100_0001, ['CMDQ_ERR']]);
    },
  );
  rule('§7.1', 'the reason is visible before the global error is', () => {
    const rig = new Rig();
    let seen = -1;
    const { interrupts } = rig;
    interrupts.push = () => (seen = rig.read('CMDQ_CONS'));
    rig.run(BAD);
    same(seen, 0x0100_0000);
  });
  rule('§7.1', 'older commands have been consumed, newer ones have no effect', () => {
    const rig = new Rig();
    rig.stage1().map(VA, BigInt(AT.data));
    rig.pa(VA);
    rig.ste(SID, { Config: STE_CONFIG.BYPASS, SHCFG: 1 });
    rig.run(NOP, BAD, command.cfgi('CFGI_STE'));
    same(rig.pa(VA), AT.data);
  });
  rule('§7.1', 'commands are not consumed while the error is active, whatever PROD says', () => {
    const rig = new Rig();
    rig.run(BAD);
    rig.run(NOP, NOP);
    same(rig.read('CMDQ_CONS') & 0xff, 0);
  });
  rule('§7.1', 'acknowledging through GERRORN restarts at the command, which is fetched again', () => {
    const rig = new Rig();
    rig.run(BAD, NOP);
    rig.memory.put(AT.cmdq, NOP);
    rig.acknowledge();
    same([rig.read('CMDQ_CONS') & 0xff, rig.cerror], [2, 'NONE']);
  });
  rule('§7.1', 'where the command is still wrong, the error is raised again', () => {
    const rig = new Rig();
    rig.run(BAD);
    rig.acknowledge();
    same([rig.cerror, rig.read('GERROR') & 1], ['ILL', 0]);
  });
  rule('§7.1', 'PROD may move back to CONS while the error is active: the command is gone', () => {
    const rig = new Rig();
    rig.run(BAD, NOP);
    rig.write('CMDQ_PROD', 0);
    rig.acknowledge();
    same([rig.cerror, rig.read('CMDQ_CONS') & 0xff], ['NONE', 0]);
  });
  rule('§7.1', 'an abort of the fetch is CERROR_ABT, and CONS stays', () => {
    const rig = new Rig();
    rig.memory.refuse(AT.cmdq + 16, 16);
    rig.run(NOP, NOP);
    same([rig.cerror, rig.read('CMDQ_CONS') & 0xff], ['ABT', 1]);
    rig.memory.mend();
    rig.acknowledge();
    same(rig.read('CMDQ_CONS') & 0xff, 2);
  });
  rule('§6.3.28', 'a change of CMDQEN neither clears nor acknowledges the error', () => {
    const rig = new Rig();
    rig.run(BAD);
    rig.cr0({ CMDQEN: 0 });
    rig.cr0({ CMDQEN: 1 });
    same(rig.cerror, 'ILL');
  });
  rule('§7.1', 'an error acknowledged while the queue is off: consumption goes on when it is enabled', () => {
    const rig = new Rig();
    rig.run(BAD);
    rig.cr0({ CMDQEN: 0 });
    rig.memory.put(AT.cmdq, NOP);
    rig.acknowledge();
    same(rig.read('CMDQ_CONS') & 0xff, 0);
    rig.cr0({ CMDQEN: 1 });
    same(rig.read('CMDQ_CONS') & 0xff, 1);
  });

  // --- the Event queue (§7.2, §7.4) ---
  rule('§7.2', 'a record is 32 bytes at PROD, and PROD moves on', () => {
    const rig = faulty();
    rig.dma(VA);
    has(rig.record(0), { type: 'C_BAD_STE', StreamID: SID });
    same([rig.read('EVENTQ_PROD'), rig.record(1)['StreamID']], [1, 0]);
  });
  rule('§6.3.29', 'the Event queue is aligned to its size: lower address bits are ignored', () => {
    const rig = faulty(queued('EVENTQ_BASE', AT.eventq + 0x2a0 + QUEUE_LOG2));
    rig.dma(VA);
    has(rig.record(0), { type: 'C_BAD_STE' });
  });
  rule('§6.3.29', 'the size of the Event queue is capped at IDR1.EVENTQS', () => {
    const rig = faulty(queued('EVENTQ_BASE', AT.eventq + 19, { IDR1: { EVENTQS: 1 } }));
    for (let i = 0; i < 3; i++) rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), OVFLG + 2);
  });
  rule('§3.5.1', 'an Event queue may have one entry', () => {
    const rig = faulty(queued('EVENTQ_BASE', AT.eventq));
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), 1);
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), OVFLG + 1);
  });
  rule('§7.2', 'a transaction leaves at most one record', () => {
    const rig = new Rig();
    rig.stage1();
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), 1);
  });
  rule(
    '§3.18',
    'the Event queue interrupts when it goes from empty to non-empty, not for every record',
    () => {
      const rig = faulty();
      rig.dma(VA);
      rig.dma(VA);
      same(rig.interrupts, ['eventq']);
      rig.events();
      rig.dma(VA);
      same(rig.interrupts, ['eventq', 'eventq']);
    },
  );
  rule('§7.4', 'a record that finds a full queue is discarded, and OVFLG differs from OVACKFLG', () => {
    const rig = filled();
    same(rig.read('EVENTQ_PROD'), ENTRIES);
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), OVFLG + ENTRIES);
  });
  rule('§7.4', 'overflow is not EVENTQ_ABT_ERR: no global error comes of it', () => {
    const rig = filled();
    rig.dma(VA);
    same(rig.gerrors(), []);
  });
  rule('§7.4', 'OVFLG toggles once: not again while the overflow is unacknowledged', () => {
    const rig = filled();
    rig.dma(VA);
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), OVFLG + ENTRIES);
  });
  rule('§7.4', 'an unacknowledged overflow does not keep records from coming once there is room', () => {
    const rig = filled();
    rig.dma(VA);
    rig.write('EVENTQ_CONS', 1);
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), OVFLG + ENTRIES + 1);
  });
  rule('§7.4', 'after OVACKFLG has acknowledged it, a new overflow toggles OVFLG back', () => {
    const rig = filled();
    rig.dma(VA);
    rig.write('EVENTQ_CONS', OVFLG);
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), ENTRIES);
  });
  rule('§7.4', 'EVENTQEN == 0: discarded records are no overflow', () => {
    const rig = filled();
    rig.cr0({ EVENTQEN: 0 });
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), ENTRIES);
  });
  rule(
    '§7.2.2',
    'an abort of the write activates EVENTQ_ABT_ERR; PROD stays and no queue interrupt comes',
    () => {
      const rig = faulty();
      rig.memory.refuse(AT.eventq, 32);
      rig.dma(VA);
      same([rig.gerrors(), rig.read('EVENTQ_PROD')], [['EVENTQ_ABT_ERR'], 0]);
      same(rig.interrupts, ['gerror']);
    },
  );
  rule(
    '§7.2.1',
    'the queue is not writable while EVENTQ_ABT_ERR is unacknowledged, and is again afterwards',
    () => {
      const rig = faulty();
      rig.memory.refuse(AT.eventq, 32);
      rig.dma(VA);
      rig.memory.mend();
      rig.dma(VA);
      same(rig.read('EVENTQ_PROD'), 0);
      rig.acknowledge();
      rig.dma(VA);
      same(rig.read('EVENTQ_PROD'), 1);
    },
  );
  rule('§7.2', 'prefetched configuration records no error', () => {
    const rig = faulty();
    rig.run(NOP, command.opcode(CMD.PREFETCH_ADDR));
    same(rig.read('EVENTQ_PROD'), 0);
  });

  // --- merging (§7.3.1) ---
  rule('§7.3.1', 'identical events of a stream with MEV may be merged into one record', () => {
    const rig = new Rig();
    rig.stage1({ MEV: 1 });
    rig.dma(VA);
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), 1);
  });
  rule('§7.3.1', 'events of a stream without MEV are not merged', () => {
    const rig = new Rig();
    rig.stage1();
    rig.dma(VA);
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), 2);
  });
  rule(
    '§7.3.13',
    'InputAddr[11:0] is ignored where events are compared for merging; other bits are not',
    () => {
      const rig = new Rig();
      rig.stage1({ MEV: 1 });
      rig.dma(VA);
      rig.dma(VA + 0x123n);
      same(rig.read('EVENTQ_PROD'), 1);
      rig.dma(VA + 0x1000n);
      same(rig.read('EVENTQ_PROD'), 2);
    },
  );
  rule('§7.3.1', 'events that differ in a field are not merged', () => {
    const rig = new Rig();
    rig.stage1({ MEV: 1 });
    rig.dma(VA);
    rig.dma(VA, { write: true });
    same(rig.read('EVENTQ_PROD'), 2);
  });
  rule('§7.3.1', 'a record that software has consumed takes no more events', () => {
    const rig = new Rig();
    rig.stage1({ MEV: 1 });
    rig.dma(VA);
    rig.events();
    rig.dma(VA);
    same(rig.read('EVENTQ_PROD'), 2);
  });
  rule('§7.3.1', 'events of stalled transactions are not merged', () => {
    const rig = new Rig();
    rig.stage1({ MEV: 1 }, { S: 1 });
    rig.stall(VA);
    rig.stall(VA);
    same(rig.read('EVENTQ_PROD'), 2);
  });

  // --- global errors and interrupts (§7.5, §3.18) ---
  rule('§7.5', 'an error is active while its bits in GERROR and GERRORN differ', () => {
    const rig = new Rig();
    rig.run(BAD);
    same([rig.read('GERROR'), rig.read('GERRORN')], [1, 0]);
    rig.memory.put(AT.cmdq, NOP);
    rig.write('GERRORN', 1);
    same(rig.gerrors(), []);
    rig.run(BAD);
    same([rig.read('GERROR'), rig.gerrors()], [0, ['CMDQ_ERR']]);
  });
  rule('§7.5', 'an error that is active already is not toggled', () => {
    const rig = new Rig();
    rig.memory.refuse(AT.data, 64, 'store');
    for (let i = 0; i < 2; i++) rig.run(command.sync({ CS: 1, msi: AT.data }));
    same(rig.gerrors(), ['MSI_CMDQ_ABT_ERR']);
  });
  rule('§7.5.1', 'GERROR interrupts when an error becomes active', () => {
    const rig = new Rig();
    rig.run(BAD);
    same(rig.interrupts, ['gerror']);
  });
  rule('§3.18', 'no interrupt comes where IRQ_CTRL does not enable it', () => {
    const rig = faulty();
    rig.write('IRQ_CTRL', 0);
    rig.dma(VA);
    rig.run(BAD);
    same(rig.interrupts, []);
  });
  rule('§3.18', 'an MSI is a 32-bit write of DATA to ADDR', () => {
    const rig = faulty();
    rig.write('IRQ_CTRL', 0);
    rig.write('EVENTQ_IRQ_CFG0', AT.data + 8);
    rig.write('EVENTQ_IRQ_CFG1', 0xfeed_beef);
    rig.write('IRQ_CTRL', 0b111);
    rig.memory.put64(AT.data + 8, -1n & 0xffff_ffff_ffff_ffffn);
    rig.dma(VA);
    same(rig.memory.get64(AT.data + 8), 0xffff_ffff_feed_beefn);
  });
  rule('§6.3.30', 'no MSI is sent where ADDR is 0', () => {
    const sent: number[] = [];
    const rig = faulty(new Rig({ onMsi: (msi) => sent.push(msi.address) > 0 }));
    rig.dma(VA);
    same(sent, []);
  });
  rule('§3.18', 'an Event queue MSI that aborts activates MSI_EVENTQ_ABT_ERR, and the queue goes on', () => {
    const rig = faulty();
    rig.write('IRQ_CTRL', 0);
    rig.write('EVENTQ_IRQ_CFG0', AT.data);
    rig.write('IRQ_CTRL', 0b111);
    rig.memory.refuse(AT.data, 4);
    rig.dma(VA);
    rig.dma(VA);
    same([rig.gerrors(), rig.read('EVENTQ_PROD')], [['MSI_EVENTQ_ABT_ERR'], 2]);
  });
  rule(
    '§7.5',
    'a GERROR MSI that aborts activates MSI_GERROR_ABT_ERR, and no other MSI tells of that',
    () => {
      const sent: number[] = [];
      const rig = new Rig({ onMsi: (msi) => sent.push(msi.address) === 0 });
      rig.write('IRQ_CTRL', 0);
      rig.write('GERROR_IRQ_CFG0', AT.data);
      rig.write('IRQ_CTRL', 0b111);
      rig.memory.refuse(AT.data, 4);
      rig.run(BAD);
      same([rig.gerrors(), sent], [['CMDQ_ERR', 'MSI_GERROR_ABT_ERR'], [AT.data]]);
    },
  );
  rule('§3.4.3', 'MSI addresses beyond the OAS are truncated', () => {
    const sent: number[] = [];
    const rig = new Rig({
      config: { IDR5: { OAS: 1, DS: 0, VAX: 0 } },
      onMsi: (msi) => sent.push(msi.address) > 0,
    });
    rig.run(command.sync({ CS: 1, msi: 2 ** 36 + 0x1000 }));
    same(sent, [0x1000]);
  });
  rule('§6.3.95', 'EVENTQ_PROD above the wrap flag reads as zero, but for OVFLG', () => {
    const rig = new Rig({ off: true });
    rig.write('EVENTQ_BASE', AT.eventq + 2);
    rig.write('EVENTQ_PROD', 0xffff_ffff);
    same(rig.smmu.readRegister(OFFSET.EVENTQ_PROD, 4), 0x8000_0007n);
  });
});
