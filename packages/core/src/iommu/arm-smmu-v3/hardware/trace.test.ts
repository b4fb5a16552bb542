import { expect, test } from 'vitest';
import { Trace, type TraceEvent } from '../../../trace/trace.ts';
import { OFFSET } from '../spec/registers.ts';
import { STE_CONFIG } from '../spec/ste.ts';
import { smmuV3Config } from './registers/config.ts';
import { SmmuV3 } from './smmu.ts';
import { AT, Rig, SID, VA, command } from './rules/rig.ts';

/** A rig's memory and tables under an SMMU that is being watched. */
function watched(tlb = 64): { smmu: SmmuV3; rig: Rig; events: TraceEvent[]; trace: Trace } {
  const rig = new Rig();
  const trace = new Trace();
  const smmu = new SmmuV3({
    memory: rig.memory,
    config: smmuV3Config({ caches: { tlb, streams: 1 } }),
    trace,
  });
  for (const name of ['STRTAB_BASE', 'STRTAB_BASE_CFG', 'CMDQ_BASE', 'EVENTQ_BASE', 'CR2', 'CR0'] as const) {
    smmu.writeRegister(OFFSET[name], name.endsWith('_BASE') ? 8 : 4, BigInt(rig.read(name)));
  }
  const events: TraceEvent[] = [];
  trace.subscribe((event) => events.push(event));
  return { smmu, rig, events, trace };
}

const at = (address: bigint, streamId = SID) => ({
  streamId,
  hi: Number(address >> 32n),
  lo: Number(address & 0xffff_ffffn),
});

test('an access tells of what the caches did for it', () => {
  const { smmu, rig, events } = watched();
  rig.stage1().map(VA, BigInt(AT.data));
  smmu.translate(at(VA));
  smmu.translate(at(VA + 8n));
  expect(events).toMatchObject([
    { kind: 'cache-fill', cache: 'ste', streamId: SID, illegal: null },
    { kind: 'cache-fill', cache: 'cd', streamId: SID, illegal: null },
    { kind: 'cache-fill', cache: 'iotlb', asid: 1, lo: Number(VA), bits: 12 },
    { kind: 'cache-hit', cache: 'iotlb', lo: Number(VA) + 8, pa: AT.data + 8 },
  ]);
});

test('so do both stages, and what gives way', () => {
  const { smmu, rig, events } = watched(4);
  const tables = rig.stage2();
  for (let i = 0n; i < 6n; i++) tables.map(VA + i * 4096n, BigInt(AT.data));
  for (let i = 0n; i < 6n; i++) smmu.translate(at(VA + i * 4096n));
  const kinds = events.map((event) => `${event.kind} ${String(event['cache'])}`);
  expect(kinds.filter((kind) => kind === 'cache-fill stage2-tlb').length).toBe(6);
  expect(kinds.filter((kind) => kind === 'cache-evict stage2-tlb').length).toBe(2);
  rig.ste(SID + 1, { Config: STE_CONFIG.BYPASS });
  smmu.translate(at(VA, SID + 1));
  expect(events.at(-2)).toMatchObject({ kind: 'cache-evict', cache: 'ste', key: SID });
});

test('a fault tells its record, a command its words, a register access its value', () => {
  const { smmu, rig, events } = watched();
  rig.ste(SID, { V: 0 });
  smmu.translate(at(VA));
  expect(events.at(-1)).toMatchObject({ kind: 'fault', event: 'C_BAD_STE', StreamID: SID });
  rig.memory.put(AT.cmdq, command.opcode(0xff));
  smmu.writeRegister(OFFSET.CMDQ_PROD, 4, 1n);
  expect(events.slice(-3)).toMatchObject([
    { kind: 'register', name: 'SMMU_CMDQ_PROD', write: true, value: 1 },
    { kind: 'command', words: [0xff, 0, 0, 0] },
    { kind: 'command-error', error: 'ILL' },
  ]);
  smmu.readRegister(OFFSET.GERROR, 4);
  expect(events.at(-1)).toMatchObject({ kind: 'register', name: 'SMMU_GERROR', write: false, value: 1 });
});

test('nobody is told where nobody listens', () => {
  const { smmu, events, trace } = watched();
  expect(trace.active).toBe(true);
  const quiet = new Trace();
  expect(quiet.active).toBe(false);
  smmu.readRegister(OFFSET.IDR0, 4);
  expect(events.length).toBe(1);
});
