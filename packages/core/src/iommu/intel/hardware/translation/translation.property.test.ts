// Translation against a second one, written plainly with bigint after §3.6 to §3.8 and Table 30. Page tables come out of a
// hash of their address, so that any shape of them occurs. Each case makes several requests: later ones meet caches.
// VIOMMU_LONG=1 makes two hundred times as many.

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { LONG } from '../../../../base/testing/long.ts';
import { u64 } from '../../../../base/u64.ts';
import { HashedMemory } from '../../../../pagetable/testing/hashed-memory.ts';
import { CONTEXT_ENTRY, SM_CONTEXT_ENTRY, SM_ROOT_ENTRY } from '../../spec/context.ts';
import { PASID_DIR_ENTRY, PASID_ENTRY } from '../../spec/pasid.ts';
import { GCMD, OFFSET } from '../../spec/registers.ts';
import { intelConfig } from '../registers/config.ts';
import { IntelIommu } from '../intel-iommu.ts';
import { structure } from '../rules/rig.ts';

/** Structures lie below 1 MiB; above, every word is an entry that the seed and its address decide. */
const ROOT = 0x1000n;
const CONTEXT = 0x2000n;
const DIRECTORY = 0x3000n;
const PASIDS = 0x4000n;
const STRUCTURES_END = 0x10_0000n;
const RID = 8;

class Tables extends HashedMemory {
  readonly #mask: bigint;
  readonly #calm: number;
  readonly #ioReadWrite: boolean;

  /** `calm`: how much rarer than usual the entries are that deny something. */
  constructor({ seed, calm, ioReadWrite }: Case, addressBits: number) {
    super(seed);
    this.#calm = calm;
    this.#ioReadWrite = ioReadWrite;
    this.#mask = (1n << BigInt(addressBits)) - 1n;
  }

  protected override untouched(address: bigint): bigint {
    if (address < STRUCTURES_END) return 0n;
    const random = this.random(address);
    const chance = (n: number): boolean => random(n) === 0;
    // Mostly present, mostly permissive, mostly in range, now and then large, now and then with anything reserved.
    let value = u64(random(2 ** 32), random(2 ** 32)) & this.#mask & ~0xfffn;
    const rare = this.#calm;
    if (!chance(24 * rare)) value |= 1n;
    if (!chance(8 * rare)) value |= 2n;
    if (!chance(8 * rare)) value |= 4n;
    if (!chance(3)) value |= 0x20n;
    if (chance(2)) value |= 0x40n;
    if (chance(rare > 1 ? 40 : 8)) value = (value | 0x80n) & ~0x3fff_f000n;
    if (!chance(3)) value |= 0x100n;
    if (chance(2)) value |= 0x200n;
    if (chance(60 * rare)) value |= 0x800n;
    if (!chance(8 * rare)) value |= 1n << 61n;
    if (this.#ioReadWrite && !chance(8 * rare)) value |= 1n << 62n;
    if (chance(80 * rare)) value |= 1n << BigInt(random(64));
    return value;
  }

  override refuses(address: bigint, store = false): boolean {
    if (address < STRUCTURES_END) return false;
    return (address >> 4n) % BigInt(211 * this.#calm) === 7n || (store && this.readOnly(address));
  }

  /** Loads there work, stores do not. */
  readOnly(address: bigint): boolean {
    return address >= STRUCTURES_END && (address >> 12n) % BigInt(97 * this.#calm) === 5n;
  }

  putWords(address: bigint, words: ArrayLike<number>): void {
    for (let i = 0; i < words.length; i += 2) this.store64(Number(address) + i * 4, words[i]!, words[i + 1]!);
  }
}

interface Case {
  readonly seed: number;
  readonly calm: number;
  readonly legacy: boolean;
  readonly pgtt: 1 | 2 | 3;
  readonly firstLevels: 4 | 5;
  readonly secondLevels: 3 | 4 | 5;
  readonly haw: number;
  readonly mgaw: number;
  readonly sslps: 0 | 1 | 3;
  readonly fs1gp: boolean;
  readonly sc: boolean;
  readonly zlr: boolean;
  readonly ioReadWrite: boolean;
  readonly ssade: boolean;
  readonly eafe: boolean;
  readonly pwsnp: boolean;
  readonly wpe: boolean;
  readonly firstRoot: bigint;
  readonly secondRoot: bigint;
  readonly tables: boolean;
  readonly requests: readonly Request[];
}

interface Request {
  readonly address: bigint;
  readonly kind: 'read' | 'write' | 'atomic' | 'flush';
  readonly privileged: boolean;
}

type Landed = { readonly pa: bigint; readonly size: bigint };
/** `rights` are what the second stage has for a page that it denies. */
interface Fault {
  readonly code: string;
  readonly rights?: string;
}
type Result = Landed | Fault;
const failed = (result: Result): result is Fault => 'code' in result;
const bit = (value: bigint, n: number): boolean => ((value >> BigInt(n)) & 1n) === 1n;

/** The plain translation. */
class Plain {
  readonly #memory: Tables;
  readonly #case: Case;

  constructor(memory: Tables, of: Case) {
    this.#memory = memory;
    this.#case = of;
  }

  get #limit(): bigint {
    return 1n << BigInt(Math.min(this.#case.mgaw, 12 + 9 * this.#case.secondLevels));
  }

  #set(address: bigint, value: bigint): 'ok' | 'blocked' | 'refused' {
    if (!this.#case.pwsnp) return 'blocked';
    if (this.#memory.refuses(address) || this.#memory.readOnly(address)) return 'refused';
    this.#memory.stored.set(address, value);
    return 'ok';
  }

  #reserved(value: bigint, level: number, leaf: boolean, second: boolean): boolean {
    const of = this.#case;
    if ((value & ((1n << 52n) - (1n << BigInt(of.haw)))) !== 0n) return true;
    if (second && !of.ioReadWrite && bit(value, 62)) return true;
    if (second && bit(value, 11) && !(leaf && of.sc)) return true;
    if (!leaf) return bit(value, 7);
    const from = second ? 12 : 13;
    for (let n = from; n < 3 + 9 * level; n++) if (bit(value, n)) return true;
    return false;
  }

  #isLeaf(value: bigint, level: number, second: boolean): boolean {
    const of = this.#case;
    const highest = second ? (of.sslps === 3 ? 3 : of.sslps === 1 ? 2 : 1) : of.fs1gp ? 3 : 2;
    return level === 1 || (bit(value, 7) && level <= highest);
  }

  second(address: bigint, need: string, use: string): (Landed & { rights: string; clean: boolean }) | Fault {
    const of = this.#case;
    const name = (legacy: string, scalable: string): { code: string } => ({
      code: of.legacy ? legacy : scalable,
    });
    const denied = (): Fault => (need.includes('w') ? name('LGN.2', 'SGN.6') : name('LGN.3', 'SGN.7'));
    if (address >= this.#limit) return name('LGN.1.1', 'SGN.5');
    let table = of.secondRoot;
    let rights = 'rw';
    for (let level: number = of.secondLevels; ; level--) {
      const place = table + ((address >> BigInt(3 + 9 * level)) & 0x1ffn) * 8n;
      if (this.#memory.refuses(place)) {
        return level === of.secondLevels ? name('LCT.4.3', 'SSS.4') : name('LSS.1', 'SSS.1');
      }
      const value = this.#memory.word(place);
      const [r, w] = of.ioReadWrite ? [bit(value, 61), bit(value, 62)] : [bit(value, 0), bit(value, 1)];
      if (!r && !w) return of.legacy ? denied() : { code: 'SSS.2' };
      const leaf = this.#isLeaf(value, level, true);
      if (this.#reserved(value, level, leaf, true)) return name('LSS.2', 'SSS.3');
      if (!r) rights = rights.replace('r', '');
      if (!w) rights = rights.replace('w', '');
      let flags = of.ssade ? 0x100n : 0n;
      if (leaf) {
        if (rights === '') return of.legacy ? denied() : { code: 'SSS.2' };
        for (const one of ['w', 'r']) {
          if (!need.includes(one) || rights.includes(one)) continue;
          const fault = one === 'w' ? name('LGN.2', 'SGN.6') : name('LGN.3', 'SGN.7');
          return { ...fault, rights };
        }
        if (of.ssade && use.includes('w') && rights.includes('w')) flags |= 0x200n;
      }
      if ((value & flags) !== flags) {
        const done = this.#set(place, value | flags);
        if (done !== 'ok') return { code: done === 'blocked' ? 'SSS.5' : 'SSS.6' };
      }
      if (leaf) {
        const size = 1n << BigInt(3 + 9 * level);
        const base = value & 0xf_ffff_ffff_f000n & ~(size - 1n);
        const clean = of.ssade && !bit(value | flags, 9);
        return { pa: base | (address & (size - 1n)), size, rights, clean };
      }
      table = value & 0xf_ffff_ffff_f000n;
    }
  }

  /** Where a first-stage entry lies, or a fault. */
  #entry(place: bigint, update: boolean, root: boolean): bigint | Fault {
    const of = this.#case;
    if (of.pgtt !== 3) return place;
    if (place >= this.#limit) return { code: 'SFS.5' };
    const need = update || of.ssade ? 'rw' : 'r';
    const found = this.second(place, need, need);
    if (!failed(found)) return found.pa;
    if (found.rights === undefined) return found;
    return { code: found.rights.includes('r') ? 'SFS.8' : root ? 'SFS.6' : 'SFS.7' };
  }

  first(address: bigint, request: Request): Result {
    const of = this.#case;
    const bits = of.firstLevels === 4 ? 48 : 57;
    if (BigInt.asUintN(64, BigInt.asIntN(bits, address)) !== address) return { code: 'SGN.1' };
    const write = request.kind === 'write' || request.kind === 'atomic';
    let table = of.firstRoot;
    let user = true;
    let writable = true;
    for (let level: number = of.firstLevels; ; level--) {
      const root = level === of.firstLevels;
      const guest = table + ((address >> BigInt(3 + 9 * level)) & 0x1ffn) * 8n;
      const place = this.#entry(guest, false, root);
      if (typeof place !== 'bigint') return place;
      if (this.#memory.refuses(place)) return { code: root ? 'SFS.4' : 'SFS.1' };
      const value = this.#memory.word(place);
      if (!bit(value, 0)) return { code: 'SFS.2' };
      const leaf = this.#isLeaf(value, level, false);
      if (this.#reserved(value, level, leaf, false)) return { code: 'SFS.3' };
      user &&= bit(value, 2);
      writable &&= bit(value, 1);
      let flags = 0x20n | (of.eafe ? 0x400n : 0n);
      if (leaf) {
        if (!request.privileged && !user) return { code: 'SGN.2' };
        if (write && !writable && !(request.privileged && !of.wpe)) return { code: 'SGN.6' };
        if (write && of.pgtt === 1) flags |= 0x40n;
      }
      if ((value & flags) !== flags) {
        const wrong = this.#update(guest, place, value | flags, root);
        if (wrong !== null) return wrong;
      }
      if (!leaf) {
        table = value & 0xf_ffff_ffff_f000n;
        continue;
      }
      const size = 1n << BigInt(3 + 9 * level);
      const page = (value & 0xf_ffff_ffff_f000n & ~(size - 1n)) | (address & (size - 1n));
      if (of.pgtt === 1) return { pa: page, size };
      return this.#nested(page, size, request, () => this.#dirty(guest, place, root));
    }
  }

  #update(guest: bigint, place: bigint, value: bigint, root: boolean): Fault | null {
    const target = this.#entry(guest, true, root);
    const of = this.#case;
    // Hardware that may not write does not ask the second stage.
    if (!of.pwsnp) return { code: 'SFS.9' };
    if (typeof target !== 'bigint') return target;
    const done = this.#set(place, value);
    return done === 'ok' ? null : { code: done === 'blocked' ? 'SFS.9' : 'SFS.10' };
  }

  #dirty(guest: bigint, place: bigint, root: boolean): Fault | null {
    const value = this.#memory.word(place);
    return bit(value, 6) ? null : this.#update(guest, place, value | 0x40n, root);
  }

  #nested(page: bigint, size: bigint, request: Request, dirty: () => Fault | null): Result {
    const of = this.#case;
    if (page >= this.#limit) return { code: 'SFS.5' };
    const need = needs(request, of.zlr);
    const found = this.second(page, need, '');
    if (failed(found)) return found;
    if (need.includes('w')) {
      const wrong = dirty();
      if (wrong !== null) return wrong;
      const again = this.second(page, need, need);
      if (failed(again)) return again;
    }
    return { pa: found.pa, size: found.size < size ? found.size : size };
  }

  translate(request: Request): Result {
    const need = needs(request, this.#case.zlr);
    const found =
      this.#case.pgtt === 2 ? this.second(request.address, need, need) : this.first(request.address, request);
    if (failed(found)) return found;
    if (found.pa >= 0xfee0_0000n && found.pa <= 0xfeef_ffffn) {
      return { code: this.#case.legacy ? 'LGN.4' : 'SGN.8.1' };
    }
    return found;
  }
}

/** What the second stage must grant. */
function needs({ kind }: Request, zlr: boolean): string {
  if (kind === 'write') return 'w';
  if (kind === 'atomic') return 'rw';
  return kind === 'flush' && zlr ? '' : 'r';
}

function setUp(of: Case, memory: Tables): IntelIommu {
  const iommu = new IntelIommu({
    memory,
    config: intelConfig({
      hostAddressWidth: of.haw,
      CAP: {
        MGAW: of.mgaw - 1,
        SSLPS: of.sslps,
        FS1GP: Number(of.fs1gp),
        ZLR: Number(of.zlr),
      },
      ECAP: { SC: Number(of.sc) },
      caches: { tlb: 16, tables: of.tables },
    }),
  });
  const { legacy } = of;
  memory.putWords(ROOT, structure(SM_ROOT_ENTRY, { LP: 1, LCTP: Number(CONTEXT) }));
  const AW = of.secondLevels - 2;
  const SSPTPTR = Number(of.secondRoot);
  if (legacy)
    memory.putWords(CONTEXT + BigInt(RID * 16), structure(CONTEXT_ENTRY, { P: 1, AW, DID: 3, SSPTPTR }));
  else {
    const fields = { P: 1, PASIDE: 1, PASIDDIRPTR: Number(DIRECTORY) };
    memory.putWords(CONTEXT + BigInt(RID * 32), structure(SM_CONTEXT_ENTRY, fields));
    memory.putWords(DIRECTORY, structure(PASID_DIR_ENTRY, { P: 1, SMPTBLPTR: Number(PASIDS) }));
    const entry = structure(PASID_ENTRY, {
      P: 1,
      DID: 3,
      PGTT: of.pgtt,
      AW,
      SSPTPTR,
      FSPTPTR: Number(of.firstRoot),
      FSPM: of.firstLevels - 4,
      SRE: 1,
      WPE: Number(of.wpe),
      EAFE: Number(of.eafe),
      PWSNP: Number(of.pwsnp),
      SSADE: Number(of.ssade),
    });
    memory.putWords(PASIDS + 64n, entry);
  }
  const mode = legacy ? 0n : 0x400n | (of.ioReadWrite ? 0x80n : 0n);
  iommu.writeRegister(OFFSET.RTADDR, 8, ROOT | mode);
  iommu.writeRegister(OFFSET.GCMD, 4, BigInt(GCMD.SRTP.inPlace));
  iommu.writeRegister(OFFSET.GCMD, 4, BigInt(GCMD.TE.inPlace));
  return iommu;
}

const address = fc.oneof(
  {
    weight: 2,
    arbitrary: fc
      .bigInt({ min: 0n, max: (1n << 64n) - 1n })
      .map((value) => BigInt.asUintN(64, BigInt.asIntN(48, value))),
  },
  { weight: 5, arbitrary: fc.bigInt({ min: 0n, max: (1n << 37n) - 1n }) },
  fc.bigInt({ min: 0n, max: (1n << 57n) - 1n }),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);
const table = fc.bigInt({ min: STRUCTURES_END >> 12n, max: (1n << 20n) - 1n }).map((page) => page << 12n);
const cases = fc
  .record({
    seed: fc.nat(0xffff_ffff),
    legacy: fc.boolean(),
    pgtt: fc.constantFrom<1 | 2 | 3>(1, 2, 3, 3),
    calm: fc.constantFrom(1, 16),
    firstLevels: fc.constantFrom<4 | 5>(4, 4, 5),
    secondLevels: fc.constantFrom<3 | 4 | 5>(3, 4, 4, 5),
    haw: fc.constantFrom(36, 40, 46, 52),
    mgaw: fc.constantFrom(38, 40, 48, 57),
    sslps: fc.constantFrom<0 | 1 | 3>(0, 1, 3, 3),
    fs1gp: fc.boolean(),
    sc: fc.boolean(),
    zlr: fc.boolean(),
    ioReadWrite: fc.boolean(),
    ssade: fc.boolean(),
    eafe: fc.boolean(),
    pwsnp: fc.constantFrom(true, true, true, false),
    wpe: fc.boolean(),
    firstRoot: table,
    secondRoot: table,
    tables: fc.boolean(),
    near: address,
    requests: fc.array(
      fc.record({
        address: fc.option(address),
        offset: fc.constantFrom(0n, 8n, 0x1000n, 0x200_0000n, 0x4000_0000n),
        kind: fc.constantFrom<Request['kind']>('read', 'write', 'write', 'atomic', 'flush'),
        privileged: fc.boolean(),
      }),
      { minLength: 1, maxLength: 6 },
    ),
  })
  .map(({ near, requests, ...rest }): Case => {
    const legacy = rest.legacy && rest.pgtt === 2;
    return {
      ...rest,
      legacy,
      ioReadWrite: rest.ioReadWrite && !legacy,
      ssade: rest.ssade && !legacy && rest.pgtt !== 1,
      pwsnp: rest.pwsnp && !legacy,
      requests: requests.map(({ address: own, offset, kind, privileged }) => ({
        address: BigInt.asUintN(64, own ?? near + offset),
        kind,
        privileged: privileged && !legacy,
      })),
    };
  });

/** The first word that only one has, or null. */
function difference(a: ReadonlyMap<bigint, bigint>, b: ReadonlyMap<bigint, bigint>): string | null {
  for (const [at, value] of a) if (b.get(at) !== value) return `${at}: ${value} is not ${b.get(at)}`;
  return a.size === b.size ? null : `${a.size} words are not ${b.size}`;
}

/** What both answered, in the same words. */
function compare(of: Case): void {
  // Half of the time what tables say fits the second stage, for a nested walk to get through.
  const fitting = of.calm > 1 ? Math.min(of.mgaw, 12 + 9 * of.secondLevels) : 46;
  const addressBits = Math.min(of.haw, 46, fitting);
  const [mine, theirs] = [1, 2].map(() => new Tables(of, addressBits)) as [Tables, Tables];
  const iommu = setUp(of, mine);
  for (const [at, value] of mine.stored) theirs.stored.set(at, value);
  const plain = new Plain(theirs, of);
  for (const request of of.requests) {
    const outcome = iommu.translate({
      requesterId: RID,
      pasid: of.legacy ? null : 1,
      hi: Number(request.address >> 32n),
      lo: Number(request.address & 0xffff_ffffn),
      write: request.kind === 'write',
      atomic: request.kind === 'atomic',
      length: request.kind === 'flush' ? 0 : 8,
      privileged: request.privileged,
    });
    if (of.legacy && request.address >= 0xfee0_0000n && request.address <= 0xfeef_ffffn) continue;
    const want = plain.translate(request);
    if (failed(want)) {
      expect([outcome.kind, outcome.kind === 'blocked' && outcome.fault?.code]).toEqual([
        'blocked',
        want.code,
      ]);
    } else {
      const left = want.size - (request.address & (want.size - 1n));
      expect(outcome).toMatchObject({ kind: 'translated', pa: Number(want.pa), bytes: Number(left) });
    }
    expect(difference(mine.stored, theirs.stored)).toBe(null);
  }
}

it('translates as a plain reading of the specification does, flags in memory included', () => {
  fc.assert(fc.property(cases, compare), { numRuns: LONG ? 200_000 : 1000 });
});
