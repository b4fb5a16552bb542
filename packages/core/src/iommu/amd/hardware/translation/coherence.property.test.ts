// An IOMMU whose software invalidates what it changes answers as one that has never cached anything, and one whose
// software does not answers as before. VIOMMU_LONG=1 runs a hundred times as many.

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { LONG } from '../../../../base/testing/long.ts';
import { hi32, lo32 } from '../../../../base/u64.ts';
import { CONTROL, OFFSET } from '../../spec/registers.ts';
import { AmdIommu } from '../amd-iommu.ts';
import { amdIommuConfig } from '../registers/config.ts';
import type { Outcome } from '../transaction.ts';
import {
  BASIC,
  type Fields,
  Rig,
  gcr3Fields,
  invalidateAll,
  invalidateDevice,
  invalidatePages,
  pte,
} from '../testing/rig.ts';

const GUEST = BASIC | CONTROL.GTEn.inPlace;
const BLOCK = 0x20_0000n;
const BASE = 0x8000_0000n;
const PAGES = [0n, 0x1000n, BLOCK, BLOCK + 0x3000n].map((offset) => BASE + offset);
const PASIDS = [5, 6] as const;

interface Leaf {
  readonly large: boolean;
  readonly read: 0 | 1;
  readonly write: 0 | 1;
  readonly user: boolean;
  readonly execute: boolean;
}
const PLAIN: Leaf = { large: false, read: 1, write: 1, user: true, execute: true };

/** Page tables as software keeps them: of either format. */
class Tables {
  readonly root: number;
  readonly #rig: Rig;
  readonly #levels: number;
  readonly #host: boolean;

  constructor(rig: Rig, host: boolean) {
    this.#rig = rig;
    this.#host = host;
    this.#levels = host ? 3 : 4;
    this.root = rig.page();
  }

  /** Maps the page or block around `at`, or unmaps the page; answers whether a directory has changed. */
  put(at: bigint, to: bigint, leaf: Leaf | null): boolean {
    const last = leaf?.large === true ? 2 : 1;
    let changed = last === 2;
    let table = BigInt(this.root);
    for (let level = this.#levels; ; level--) {
      const entry = table + ((at >> BigInt(3 + 9 * level)) & 511n) * 8n;
      if (level === last) {
        const start = last === 2 ? to & ~(BLOCK - 1n) : to;
        this.#rig.put(entry, leaf === null ? 0n : this.#leaf(start, leaf));
        return changed;
      }
      if (!this.#isDirectory(this.#rig.at(entry))) {
        const next = BigInt(this.#rig.page());
        this.#rig.put(entry, this.#host ? pte(next, { next: level - 1 }) : next | 7n);
        changed = true;
      }
      table = this.#rig.at(entry) & 0xf_ffff_ffff_f000n;
    }
  }

  #isDirectory(entry: bigint): boolean {
    if ((entry & 1n) === 0n) return false;
    return this.#host ? ((entry >> 9n) & 7n) !== 0n : (entry & 0x80n) === 0n;
  }

  #leaf(to: bigint, leaf: Leaf): bigint {
    if (this.#host) return pte(to, { ir: leaf.read, iw: leaf.write });
    const flags = 1 | (leaf.write << 1) | (leaf.user ? 4 : 0) | (leaf.large ? 0x80 : 0);
    return to | BigInt(flags) | (leaf.execute ? 0n : 1n << 63n);
  }
}

/** Devices 0 and 1 share domain 1; 2 has domain 2; 3 has guests on the host tables of domain 3. */
class System {
  readonly rig = new Rig();
  readonly host = [0, 1, 2].map(() => new Tables(this.rig, true));
  readonly guest = [0, 1, 2].map(() => new Tables(this.rig, false));
  readonly rights = [3, 3, 3, 3];
  readonly had = [0, 0, 0];
  readonly #gcr3 = this.rig.page();

  constructor() {
    const { rig } = this;
    // The guest's own tables are at their own addresses, which no page below is.
    for (let at = 0x10_0000n; at < 0x40_0000n; at += 4096n) {
      rig.map(this.host[2]!.root, 3, at, pte(at, { bits: 0x60n }));
    }
    this.setCr3(0, 0);
    this.setCr3(1, 1);
    for (let device = 0; device < 4; device++) this.writeDte(device);
    rig.control(GUEST);
    for (const at of PAGES) for (const each of [...this.host, ...this.guest]) each.put(at, at, PLAIN);
  }

  setCr3(pasid: number, tables: number): void {
    this.rig.put(this.#gcr3 + PASIDS[pasid]! * 8, BigInt(this.guest[tables]!.root) | 1n);
  }

  writeDte(device: number): void {
    const domain = domainOf(device);
    const guest: Fields = device === 3 ? { GV: 1, ...gcr3Fields(this.#gcr3) } : {};
    const rights = { IR: this.rights[device]! & 1, IW: this.rights[device]! >> 1 };
    const fields = { DomainID: domain + 1, HAD: this.had[domain]!, ...rights, ...guest };
    this.rig.hostDte(device, this.host[domain]!.root, 3, fields);
  }

  /** Commands that are enough for a change at one address. */
  invalidate(domain: number, pasid: number | null, at: bigint, directory: boolean, pick: number): void {
    const of = pasid === null ? {} : { pasid: PASIDS[pasid]! };
    const commands = [
      invalidatePages(domain + 1, 0n, { size: 64, ...of }),
      invalidateAll(),
      invalidatePages(domain + 1, at, { size: 21, ...of }),
      directory
        ? invalidatePages(domain + 1, at, { size: 21, ...of })
        : invalidatePages(domain + 1, at, { pde: 0, ...of }),
    ];
    this.rig.submit(commands[pick]!);
  }
}

const domainOf = (device: number): number => (device < 2 ? 0 : device - 1);

const bit = fc.constantFrom<0 | 1>(0, 1, 1, 1);
const leaf: fc.Arbitrary<Leaf> = fc.record({
  large: fc.constantFrom(true, false, false),
  read: bit,
  write: bit,
  user: fc.constantFrom(true, true, false),
  execute: fc.constantFrom(true, true, false),
});
const page = fc.constantFrom(...PAGES);
const step = fc.record({
  op: fc.constantFrom('host', 'host', 'guest', 'guest', 'dte', 'cr3'),
  /** Whose: a domain's, a PASID's, a device's. */
  of: fc.nat(11),
  at: page,
  to: page,
  leaf: fc.option(leaf),
  rights: fc.nat(3),
  had: fc.constantFrom(0, 1, 3),
  pick: fc.nat(3),
});

function run(system: System, { op, of, at, to, leaf: entry, rights, had, pick }: ValueOf<typeof step>): void {
  switch (op) {
    case 'host': {
      const domain = of % 3;
      const directory = system.host[domain]!.put(at, to, entry);
      return system.invalidate(domain, null, at, directory, pick);
    }
    case 'guest': {
      // Either PASID may use any of the tables.
      const directory = system.guest[of % 3]!.put(at, to, entry);
      for (const pasid of [0, 1]) system.invalidate(2, pasid, at, directory, pick);
      return;
    }
    case 'dte': {
      const device = of % 4;
      const domain = domainOf(device);
      const flags = system.had[domain] !== had;
      system.rights[device] = rights;
      system.had[domain] = had;
      for (const each of [0, 1, 2, 3].filter((other) => domainOf(other) === domain)) {
        system.writeDte(each);
        system.rig.submit(invalidateDevice(each));
      }
      // What was walked without HAD has left no flags: not in host tables, and not in those under guest tables.
      if (flags) system.rig.submit(invalidateAll());
      return;
    }
    case 'cr3':
      system.setCr3(of % 2, rights % 3);
      return system.invalidate(2, of % 2, 0n, true, pick % 2);
  }
}
type ValueOf<A> = A extends fc.Arbitrary<infer T> ? T : never;

/** What a device sees. */
function seen(outcome: Outcome): unknown {
  if (outcome.kind !== 'aborted') return outcome;
  return [outcome.event?.words, outcome.reason];
}

it('caches are coherent with software that invalidates', () => {
  let hits = 0;
  let accesses = 0;
  const sweep = ({ rig }: System, flags: number): void => {
    const config = amdIommuConfig({ caches: { tlb: 4, devices: 1, gcr3: 1, tables: false } });
    let loads = 0;
    let stores = 0;
    const counted = {
      load64: (at: number, out: Uint32Array) => rig.ram.load64(at, out),
      store64: (at: number, lo: number, hi: number) => {
        stores++;
        return rig.ram.store64(at, lo, hi);
      },
      read: () => false,
      write: () => false,
    };
    const other = new AmdIommu({ memory: counted, config });
    for (const offset of [OFFSET.DEV_TAB_BASE, OFFSET.CONTROL])
      other.writeRegister(offset, 8, rig.get(offset));
    other.writeRegister(OFFSET.CONTROL, 4, BigInt(CONTROL.IommuEn.inPlace | CONTROL.GTEn.inPlace));
    const load = rig.ram.load64.bind(rig.ram);
    for (let who = 0; who < 6; who++) {
      PAGES.forEach((at, index) => {
        const bits = flags >>> ((who + index) % 7);
        const request = {
          deviceId: Math.min(who, 3),
          pasid: who > 3 ? PASIDS[who - 4]! : null,
          hi: hi32(at),
          lo: lo32(at) + (flags & 0xfff),
          write: (bits & 1) !== 0,
          execute: (bits & 2) !== 0,
          privileged: (bits & 4) !== 0,
        };
        loads = 0;
        rig.ram.load64 = (address, out) => {
          loads++;
          return load(address, out);
        };
        const got = seen(rig.iommu.translate(request));
        rig.ram.load64 = load;
        if (loads === 0) hits++;
        accesses++;
        expect(got).toEqual(seen(other.translate(request)));
        // Every flag that had to be set was.
        expect(stores).toBe(0);
      });
    }
    rig.events();
  };
  fc.assert(
    fc.property(
      fc.array(step, { minLength: 1, maxLength: 20 }),
      fc.infiniteStream(fc.nat(0xffff)),
      (steps, flags) => {
        const system = new System();
        for (const each of steps) {
          sweep(system, flags.next().value!);
          sweep(system, flags.next().value!);
          run(system, each);
        }
        sweep(system, flags.next().value!);
      },
    ),
    { numRuns: LONG ? 10_000 : 100 },
  );
  expect(hits / accesses).toBeGreaterThan(0.3);
}, 3_600_000);

const command = fc.record({
  op: fc.constantFrom('pages', 'pages', 'pages', 'all', 'device'),
  domain: fc.nat(2),
  pasid: fc.option(fc.nat(1)),
  at: page,
  size: fc.constantFrom(12, 13, 21, 22, 64),
  pde: fc.nat(1),
});
const change = fc.record({ of: fc.nat(4), at: page, to: page, there: fc.constantFrom(true, true, false) });
const action = fc.oneof(
  { weight: 2, arbitrary: change.map((value) => ({ kind: 'change' as const, value })) },
  { weight: 2, arbitrary: command.map((value) => ({ kind: 'command' as const, value })) },
  { weight: 5, arbitrary: fc.tuple(fc.nat(5), page).map((value) => ({ kind: 'access' as const, value })) },
);

/** Pages by who they are of, as tables have them, or as caches do. */
type Pages = Map<string, bigint>;

it('caches keep what they have until a command names it', () => {
  fc.assert(
    fc.property(fc.array(action, { minLength: 10, maxLength: 80 }), (actions) => {
      const system = new System();
      const { rig } = system;
      const tables: Pages = new Map();
      const cache: Pages = new Map();
      // Who: the number of a domain, or that of a PASID behind 3.
      const key = (who: number, at: bigint): string => `${who} ${at}`;
      for (let who = 0; who < 5; who++) for (const at of PAGES) tables.set(key(who, at), at);
      const lookup = (who: number, at: bigint): bigint | undefined => {
        const name = key(who, at);
        const found = cache.get(name) ?? tables.get(name);
        if (found !== undefined) cache.set(name, found);
        return found;
      };
      const where = (who: number, at: bigint): bigint | string => {
        const gpa = who > 3 ? lookup(who - 1, at) : at;
        const pa = gpa === undefined ? undefined : lookup(domainOf(Math.min(who, 3)), gpa);
        return pa ?? 'IO_PAGE_FAULT';
      };
      for (const { kind, value } of actions) {
        if (kind === 'access') {
          const [who, at] = value;
          const rest = who > 3 ? { pasid: PASIDS[who - 4]! } : {};
          expect(rig.where(Math.min(who, 3), at, rest)).toBe(where(who, at));
        } else if (kind === 'change') {
          const { of, at, to, there } = value;
          (of < 3 ? system.host[of]! : system.guest[of - 3]!).put(at, to, there ? PLAIN : null);
          if (there) tables.set(key(of, at), to);
          else tables.delete(key(of, at));
        } else if (value.op === 'all') {
          rig.submit(invalidateAll());
          cache.clear();
        } else if (value.op === 'device') {
          rig.submit(invalidateDevice(value.domain + 1));
        } else {
          const { domain, pasid, at, size, pde } = value;
          const of = pasid === null ? {} : { pasid: PASIDS[pasid]! };
          rig.submit(invalidatePages(domain + 1, at, { size, pde, ...of }));
          for (const each of PAGES) {
            if (each >> BigInt(size) !== at >> BigInt(size)) continue;
            if (pasid === null) cache.delete(key(domain, each));
            else if (domain === 2) cache.delete(key(3 + pasid, each));
          }
        }
        rig.events();
      }
    }),
    { numRuns: LONG ? 30_000 : 300 },
  );
}, 3_600_000);
