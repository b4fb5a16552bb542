// An SMMU whose software invalidates what it changes answers as one that has never cached anything. VIOMMU_LONG=1 runs
// a hundred times as many.

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { LONG } from '../../../../base/testing/long.ts';
import { STE_CONFIG } from '../../spec/ste.ts';
import type { TestMemory } from '../../../testing/memory.ts';
import { AT, Rig, command } from '../rules/rig.ts';
import type { Leaf, Tables } from '../rules/tables.ts';
import type { Outcome } from '../transaction.ts';

const VMID = { one: 7, nested: 8 } as const;
const BLOCK = 0x20_0000n;
const BASE = 0x4000_0000n;
/** The 512 pages of a block. */
const WHOLE = { TG: 1, NUM: 15, SCALE: 5 };

/** Which invalidation software picks, from those that are enough. */
const picks = fc.nat(5);
const PAGES = [0n, 0x1000n, BLOCK, BLOCK + 0x3000n].map((offset) => BASE + offset);
const pages = fc.constantFrom(...PAGES);
const leaves = fc.record({
  level: fc.constantFrom(2, 3, 3, 3),
  ap: fc.nat(3),
  nG: fc.constantFrom<0 | 1>(0, 1, 1),
  af: fc.constantFrom<0 | 1>(0, 1, 1, 1),
  dbm: fc.constantFrom<0 | 1>(0, 1),
  uxn: fc.constantFrom<0 | 1>(0, 1),
  sh: fc.constantFrom(0, 2, 3),
  s2ap: fc.constantFrom(1, 2, 3, 3, 3),
  xn: fc.nat(3),
  memAttr: fc.constantFrom(0, 5, 10, 15),
});
const steps = fc.array(
  fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({
        op: fc.constant('stage1' as const),
        stream: fc.nat(3),
        va: pages,
        to: pages,
        leaf: fc.option(leaves),
        pick: picks,
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        op: fc.constant('stage2' as const),
        ipa: pages,
        to: pages,
        leaf: fc.option(leaves),
        pick: picks,
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        op: fc.constant('cd' as const),
        stream: fc.nat(3),
        wxn: fc.nat(1),
        hd: fc.nat(1),
        pick: picks,
      }),
    },
  ),
  { minLength: 1, maxLength: 30 },
);

/**
 * Streams 0 and 1: stage 1 of one VMID with two ASIDs. 2: both stages. 3: EL2. 4: stage 2 alone, with the tables of 2.
 */
class System {
  readonly rig = new Rig();
  readonly first: readonly Tables[];
  readonly second: Tables;
  readonly #cds = [0, 1, 2, 3].map((index) => AT.cds + index * 64);

  constructor() {
    const { rig } = this;
    this.second = rig.tables({ stage: 2 });
    this.first = [0, 1, 2, 3].map(() => rig.tables());
    for (const at of [AT.cds, AT.tables]) this.second.map(BigInt(at), BigInt(at), { level: 2 });
    const second = rig.steFor(this.second, { S2VMID: VMID.nested, S2HA: 1, S2HD: 1 });
    const one = { Config: STE_CONFIG.S1_TRANS, SHCFG: 1 };
    rig.ste(0, { ...one, S1ContextPtr: this.#cds[0]!, S2VMID: VMID.one });
    rig.ste(1, { ...one, S1ContextPtr: this.#cds[1]!, S2VMID: VMID.one });
    rig.ste(2, { Config: STE_CONFIG.NESTED, S1ContextPtr: this.#cds[2]!, ...second });
    rig.ste(3, { ...one, S1ContextPtr: this.#cds[3]!, STRW: 2 });
    rig.ste(4, { Config: STE_CONFIG.S2_TRANS, ...second });
    for (let stream = 0; stream < 4; stream++) this.cd(stream, 0, 1);
  }

  cd(stream: number, WXN: number, HD: number): void {
    // Global pages of one are not those of the other: ASIDs of different sets.
    const fields = { ASID: stream === 1 ? 2 : 1, ASET: stream === 1 ? 1 : 0, WXN, HD, HA: 1 };
    this.rig.cd(this.rig.cdFor(this.first[stream]!, fields), stream);
  }

  /** The commands after a change at one address of stage 1. */
  invalidate1(stream: number, at: bigint, level: number, global: boolean, pick: number): void {
    const address = level === 2 ? { address: at & ~(BLOCK - 1n), ...WHOLE } : { address: at };
    const ASID = stream === 1 ? 2 : 1;
    if (stream === 3) {
      const some = [command.tlbi('TLBI_EL2_ALL'), command.tlbi('TLBI_EL2_VA', address)];
      return this.rig.run(some[pick % 2]!);
    }
    const where = { VMID: stream === 2 ? VMID.nested : VMID.one, ...address };
    const enough = [
      command.tlbi('TLBI_NH_ALL', where),
      command.tlbi('TLBI_NSNH_ALL'),
      command.tlbi('TLBI_NH_VA', { ...where, ASID }),
      command.tlbi('TLBI_NH_VAA', where),
      command.tlbi('TLBI_NH_VA', { ...where, address: at & ~(BLOCK - 1n), ASID, ...WHOLE }),
      global ? command.tlbi('TLBI_S12_VMALL', where) : command.tlbi('TLBI_NH_ASID', { ...where, ASID }),
    ];
    this.rig.run(enough[pick]!);
  }

  invalidate2(at: bigint, level: number, pick: number): void {
    const address = level === 2 ? { address: at & ~(BLOCK - 1n), ...WHOLE } : { address: at };
    const where = { VMID: VMID.nested, ...address };
    const one = command.tlbi('TLBI_S2_IPA', where);
    if (pick < 2) this.rig.run(command.tlbi('TLBI_S12_VMALL', where));
    else if (pick === 2) this.rig.run(command.tlbi('TLBI_NSNH_ALL'));
    else this.rig.run(one, command.tlbi('TLBI_NH_ALL', where));
  }
}

/** What software sees of an outcome. */
function seen(outcome: Outcome): unknown {
  if (outcome.kind === 'translated') return [outcome.pa, outcome.attributes];
  return outcome.kind === 'terminated' ? [outcome.abort, outcome.event?.words] : 'stalled';
}

/** The same memory, and an SMMU that has seen nothing of it. */
function fresh(memory: TestMemory): Rig {
  return new Rig({ memory, config: { caches: { tlb: 4, streams: 8, contexts: 8, tables: false } } });
}

function change(tables: Tables, address: bigint, to: bigint, leaf: Leaf | null): void {
  const level = leaf?.level ?? 3;
  if (leaf === null) tables.put(tables.descriptor(address, level), 0n);
  else tables.map(address, level === 2 ? to & ~(BLOCK - 1n) : to, leaf);
}

it('caches are coherent with software that invalidates', () => {
  let hits = 0;
  let accesses = 0;
  const sweep = ({ rig }: System, flags: number): void => {
    const other = fresh(rig.memory);
    for (let stream = 0; stream < 5; stream++) {
      PAGES.forEach((page, index) => {
        const bits = (flags >>> ((stream + index) % 7)) & 7;
        const write = (bits & 1) !== 0;
        const access = {
          streamId: stream,
          write,
          instruction: (bits & 2) !== 0,
          privileged: (bits & 4) !== 0,
        };
        const address = page + BigInt(flags & 0xfff);
        const loads = rig.memory.loads;
        const got = seen(rig.dma(address, access));
        if (rig.memory.loads === loads) hits++;
        accesses++;
        expect(got).toEqual(seen(other.dma(address, access)));
      });
    }
    rig.events();
  };
  fc.assert(
    fc.property(steps, fc.infiniteStream(fc.nat(0xffff)), (all, flags) => {
      const system = new System();
      const { rig } = system;
      for (const page of PAGES) {
        for (const tables of system.first) tables.map(page, page);
        system.second.map(page, page + 0x4000_0000n);
      }
      // Whether a stream's tables have ever had a global entry: those take more than an ASID.
      const global = [false, false, false, false];
      for (const step of all) {
        sweep(system, flags.next().value!);
        sweep(system, flags.next().value!);
        if (step.op === 'stage1') {
          change(system.first[step.stream]!, step.va, step.to, step.leaf);
          global[step.stream] ||= step.leaf?.nG === 0;
          system.invalidate1(step.stream, step.va, step.leaf?.level ?? 3, global[step.stream]!, step.pick);
        } else if (step.op === 'stage2') {
          change(system.second, step.ipa, step.to + 0x4000_0000n, step.leaf);
          system.invalidate2(step.ipa, step.leaf?.level ?? 3, step.pick);
        } else {
          system.cd(step.stream, step.wxn, step.hd);
          rig.run(command.cfgi('CFGI_CD', { StreamID: step.stream }));
          rig.run(command.tlbi('TLBI_NSNH_ALL'), command.tlbi('TLBI_EL2_ALL'));
        }
        expect(rig.cerror).toBe('NONE');
      }
      sweep(system, flags.next().value!);
    }),
    { numRuns: LONG ? 20_000 : 200 },
  );
  expect(hits / accesses).toBeGreaterThan(0.3);
}, 3_600_000);
