// Hardware whose software invalidates what it changes answers as hardware that has never cached anything; and a
// descriptor takes what Tables 23 and 24 name, nothing else. VIOMMU_LONG=1 runs a hundred times as many.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LONG } from '../../../../base/testing/long.ts';
import { SM_CONTEXT_ENTRY_BYTES } from '../../spec/context.ts';
import { PASID_ENTRY_BYTES, PGTT } from '../../spec/pasid.ts';
import { AT, DATA, RID, Rig, VA, descriptor } from '../rules/rig.ts';
import type { Tables } from '../rules/tables.ts';

const runs = LONG ? 10_000 : 100;

const { cc, pc, iotlb, pIotlb } = descriptor;
const PAGE = 0x1000n;
const BLOCK = 0x20_0000n;
const G1 = 1n << 30n;
const DIDS = { second: 7, first: 8, nested: 9 } as const;
const PASIDS = { second: 1, first: 2, nested: 3 } as const;
type Name = keyof typeof PASIDS;
const NAMES = ['second', 'first', 'nested'] as const;
const PAGES = [VA, VA + PAGE, VA + BLOCK, VA + BLOCK + 3n * PAGE];

/** One function with three PASIDs, one of each translation type; the nested one has guest pages at G1. */
class System {
  readonly rig = new Rig({ config: { CAP: { ESRTPS: 0 }, caches: { tlb: 64 } } });
  readonly guest: Tables;
  readonly host: Tables;
  readonly plain: Readonly<Record<'second' | 'first', Tables>>;

  constructor() {
    const { rig } = this;
    const { first, second } = rig.nested({ DID: DIDS.nested }, PASIDS.nested);
    this.guest = first;
    this.host = second;
    this.plain = { second: rig.tables({ stage: 2 }), first: rig.tables({ stage: 1 }) };
    const { second: two, first: one } = this.plain;
    rig.pasid({ PGTT: PGTT.SECOND_STAGE, AW: 2, SSPTPTR: two.root, DID: DIDS.second }, PASIDS.second);
    rig.pasid({ PGTT: PGTT.FIRST_STAGE, FSPTPTR: one.root, DID: DIDS.first }, PASIDS.first);
  }

  /** The tables that translate a PASID's own addresses. */
  tables(name: Name): Tables {
    return name === 'nested' ? this.guest : this.plain[name];
  }

  answer(name: Name, address: bigint, write: boolean): string {
    return ask(this.rig, name, address, write);
  }

  /** The same question to hardware that starts with these tables. */
  fresh(name: Name, address: bigint, write: boolean): string {
    const other = new Rig({ off: true, config: { caches: { tlb: 4 } } });
    // Its memory is this system's; flags that it would set do not matter.
    other.memory.load64 = (pa, out) => this.rig.memory.load64(pa, out);
    other.memory.store64 = () => true;
    other.write('RTADDR', AT.root + 0x400);
    other.command(0xc000_0000);
    return ask(other, name, address, write);
  }
}

/** What an access answers, as text: where it lands, or the condition. */
function ask(rig: Rig, name: Name, address: bigint, write: boolean): string {
  const outcome = rig.dma(address, { pasid: PASIDS[name], write });
  if (outcome.kind === 'translated') return outcome.pa.toString(16);
  return outcome.kind === 'blocked' ? (outcome.fault?.code ?? 'UR') : outcome.kind;
}

const steps = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        op: fc.constant('map' as const),
        name: fc.constantFrom<Name>(...NAMES),
        page: fc.nat(3),
        to: fc.nat(3),
        leaf: fc.option(
          fc.record({
            level: fc.constantFrom<1 | 2>(1, 1, 2),
            write: fc.boolean(),
            read: fc.boolean(),
            user: fc.boolean(),
          }),
        ),
        pick: fc.nat(5),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        op: fc.constant('host' as const),
        page: fc.nat(3),
        to: fc.nat(3),
        present: fc.boolean(),
        write: fc.boolean(),
        pick: fc.nat(3),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        op: fc.constant('pasid' as const),
        name: fc.constantFrom<Name>(...NAMES),
        present: fc.boolean(),
        pick: fc.nat(3),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ op: fc.constant('context' as const), present: fc.boolean(), pick: fc.nat(2) }),
    },
    {
      weight: 8,
      arbitrary: fc.record({
        op: fc.constant('access' as const),
        name: fc.constantFrom<Name>(...NAMES),
        page: fc.nat(3),
        write: fc.boolean(),
      }),
    },
  ),
  { minLength: 10, maxLength: 60 },
);
type Step = (typeof steps extends fc.Arbitrary<(infer S)[]> ? S : never) & { op: string };

/** Descriptors that are enough for a change of the page at `address` (Table 28). */
function pageFlush(name: Name, address: bigint, large: boolean, pick: number): Uint32Array[] {
  const did = DIDS[name];
  const pasid = PASIDS[name];
  const am = large ? 9 : 0;
  if (name === 'second') {
    return [[iotlb({ G: 3, DID: did, address, AM: am })], [iotlb({ G: 2, DID: did })], [iotlb()]][pick % 3]!;
  }
  return [
    [pIotlb({ G: 3, DID: did, PASID: pasid, address, AM: am })],
    [pIotlb({ DID: did, PASID: pasid })],
    [iotlb({ G: 2, DID: did })],
    [iotlb({ G: 3, DID: did, address: 0n })],
    [iotlb()],
  ][pick % 5]!;
}

function map(system: System, step: Extract<Step, { op: 'map' }>): void {
  const { rig } = system;
  const tables = system.tables(step.name);
  const address = PAGES[step.page]!;
  const block = address & ~(BLOCK - 1n);
  const to = step.name === 'nested' ? G1 : DATA;
  const before = tables.get(tables.entry(address, 2));
  if (step.leaf === null) {
    if ((before & 0x80n) !== 0n) tables.put(tables.entry(address, 2), 0n);
    else tables.put(tables.entry(address, 1), 0n);
  } else if (step.leaf.level === 2) tables.map(block, to + BigInt(step.to) * BLOCK, step.leaf);
  else {
    if ((before & 0x80n) !== 0n) tables.put(tables.entry(address, 2), 0n);
    tables.map(address, to + BigInt(step.to) * PAGE, step.leaf);
  }
  // Where the size of the page may have changed the whole block goes.
  rig.run(...pageFlush(step.name, block, true, step.pick));
}

function apply(system: System, step: Step): void {
  const { rig } = system;
  if (step.op === 'map') map(system, step);
  else if (step.op === 'host') {
    const address = G1 + BigInt(step.page) * PAGE;
    if (step.present) system.host.map(address, DATA + BigInt(step.to) * PAGE, { write: step.write });
    else system.host.put(system.host.entry(address, 1), 0n);
    rig.run(
      [iotlb({ G: 3, DID: DIDS.nested, address }), iotlb({ G: 2, DID: DIDS.nested }), iotlb(), iotlb()][
        step.pick
      ]!,
    );
  } else if (step.op === 'pasid') {
    rig.repasid({ P: step.present ? 1 : 0 }, PASIDS[step.name]);
    const did = DIDS[step.name];
    const pasid = PASIDS[step.name];
    const first = [pc({ G: 1, DID: did, PASID: pasid }), pc({ G: 0, DID: did }), pc(), pc()][step.pick]!;
    rig.run(first, step.pick === 0 ? pIotlb({ DID: did, PASID: pasid }) : iotlb({ G: 2, DID: did }));
  } else if (step.op === 'context') {
    rig.smContext({ P: step.present ? 1 : 0 });
    rig.run([cc({ G: 3, SID: RID }), cc({ G: 2 }), cc()][step.pick]!, pc(), iotlb());
  } else {
    const address = PAGES[step.page]! + 8n;
    expect(system.answer(step.name, address, step.write)).toBe(system.fresh(step.name, address, step.write));
  }
}

describe('caches', () => {
  it('are not seen by software that invalidates what it changes', () => {
    fc.assert(
      fc.property(steps, (all) => {
        const system = new System();
        for (const step of all) apply(system, step as Step);
        for (const name of NAMES) {
          for (const page of PAGES) {
            expect(system.answer(name, page, false)).toBe(system.fresh(name, page, false));
          }
        }
        expect(system.rig.iqei).toBe('OK');
      }),
      { numRuns: runs },
    );
  });

  it('lose what a descriptor names, and keep everything else', () => {
    const invalidation = fc.record({
      type: fc.constantFrom('iotlb' as const, 'pIotlb' as const),
      g: fc.constantFrom(1, 2, 3),
      did: fc.constantFrom(7, 8, 9, 10),
      pasid: fc.constantFrom(1, 2, 3, 4),
      page: fc.nat(3),
      am: fc.constantFrom(0, 0, 1, 9, 18),
    });
    fc.assert(
      fc.property(invalidation, ({ type, g, did, pasid, page, am }) => {
        const system = new System();
        const { rig } = system;
        for (const name of NAMES) {
          for (const [i, address] of PAGES.entries()) {
            system.tables(name).map(address, (name === 'nested' ? G1 : DATA) + BigInt(i) * PAGE);
            system.host.map(G1 + BigInt(i) * PAGE, DATA + BigInt(i) * PAGE);
          }
          for (const address of PAGES) expect(system.answer(name, address, false)).not.toMatch(/[A-Z]/);
        }
        // Every last entry goes: what still answers is cached.
        for (const name of NAMES) {
          for (const address of PAGES) system.tables(name).put(system.tables(name).entry(address, 1), 0n);
        }
        const address = PAGES[page]!;
        const byPasid = type === 'pIotlb' && g !== 1;
        rig.run(
          byPasid
            ? pIotlb({ G: g, DID: did, PASID: pasid, address, AM: am })
            : iotlb({ G: g, DID: did, address, AM: am }),
        );
        expect(rig.iqei).toBe('OK');
        const mask = (PAGE << BigInt(am)) - 1n;
        for (const name of NAMES) {
          for (const each of PAGES) {
            const inRange = (each & ~mask) === (address & ~mask);
            const sameDomain = DIDS[name] === did;
            const gone = byPasid
              ? sameDomain && PASIDS[name] === pasid && (g === 2 || (name !== 'second' && inRange))
              : g === 1 || (sameDomain && (g === 2 || name !== 'second' || inRange));
            expect([name, each, /[A-Z]/.test(system.answer(name, each, false))]).toEqual([name, each, gone]);
          }
        }
      }),
      { numRuns: runs },
    );
  });

  it('lose contexts and PASID entries that a descriptor names, and keep the others', () => {
    const invalidation = fc.record({
      type: fc.constantFrom('cc' as const, 'pc' as const),
      g: fc.nat(3),
      did: fc.constantFrom(7, 8, 9),
      pasid: fc.constantFrom(1, 2, 3),
      sid: fc.constantFrom(RID, RID + 1, RID + 4),
      fm: fc.nat(3),
    });
    fc.assert(
      fc.property(invalidation, ({ type, g, did, pasid, sid, fm }) => {
        const rig = new Rig();
        rig.passThrough();
        for (const name of NAMES) rig.pasid({ PGTT: PGTT.PASS_THROUGH, DID: DIDS[name] }, PASIDS[name]);
        const functions = [RID, RID + 1, RID + 4];
        const ask = (requesterId: number, each: number): boolean =>
          rig.pa(VA, { requesterId, pasid: each }) !== null;
        for (const requesterId of functions) {
          rig.smContext({}, requesterId);
          for (const name of NAMES) ask(requesterId, PASIDS[name]);
        }
        if (type === 'cc' ? g === 0 : g === 2) return;
        if (type === 'cc') {
          for (const requesterId of functions) {
            rig.memory.put(AT.context + requesterId * SM_CONTEXT_ENTRY_BYTES, new Uint32Array(8));
          }
        } else
          for (const name of NAMES)
            rig.memory.put(AT.pasids + PASIDS[name] * PASID_ENTRY_BYTES, new Uint32Array(16));
        rig.run(
          type === 'cc' ? cc({ G: g, DID: did, SID: sid, FM: fm }) : pc({ G: g, DID: did, PASID: pasid }),
        );
        const masks = [0xffff, 0xfffb, 0xfff9, 0xfff8];
        for (const requesterId of functions) {
          for (const name of NAMES) {
            const gone =
              type === 'cc'
                ? g !== 3 || ((requesterId ^ sid) & masks[fm]!) === 0
                : g === 3 || (DIDS[name] === did && (g === 0 || PASIDS[name] === pasid));
            expect([requesterId, name, !ask(requesterId, PASIDS[name])]).toEqual([requesterId, name, gone]);
          }
        }
      }),
      { numRuns: runs },
    );
  });
});
