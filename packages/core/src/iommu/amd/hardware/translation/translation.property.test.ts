// The IOMMU against a second translation, written plainly with bigint after §2.2.2, §2.2.3 and §2.2.6. Tables come out
// of a hash of their addresses, so that any shape of table occurs: bits 14:12 of an address say what a table there is
// likely to be. VIOMMU_LONG=1 runs a hundred times as many.

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { LONG } from '../../../../base/testing/long.ts';
import { decode, encode } from '../../../../base/bit-fields.ts';
import { hi32, lo32, u64 } from '../../../../base/u64.ts';
import { HashedMemory, type Random } from '../../../../pagetable/testing/hashed-memory.ts';
import { DTE } from '../../spec/dte.ts';
import { HARDWARE_ERROR_RECORD, IO_PAGE_FAULT_RECORD } from '../../spec/events.ts';
import { CONTROL, OFFSET } from '../../spec/registers.ts';
import { AmdIommu } from '../amd-iommu.ts';
import { amdIommuConfig } from '../registers/config.ts';
import { eventName } from '../queues/events.ts';

const field = (value: bigint, msb: number, lsb: number): bigint =>
  (value >> BigInt(lsb)) & ((1n << BigInt(msb - lsb + 1)) - 1n);

/** Bits 14:12 of an address: the level of a host table, or one of these. */
const GUEST_TABLE = 0;
const GCR3_TABLE = 7;
const DEVICE_TABLE = 2 ** 45;

class Tables extends HashedMemory {
  override refuses(address: bigint, store = false): boolean {
    return !store && address < BigInt(DEVICE_TABLE) && (address >> 12n) % 131n === 17n;
  }

  protected override untouched(address: bigint): bigint {
    // The entries of a page of Next Level 7 are all alike: 2^group of them in a table.
    const group = this.seed % 2 === 0 ? 0 : this.random(address >> 12n)(9);
    const random = this.random((address >> BigInt(3 + group)) << BigInt(3 + group));
    const kind = Number(field(address, 14, 12));
    const page = (of: number): bigint => (BigInt(random(1 << 25)) << 15n) | (BigInt(of) << 12n);
    if (kind === GUEST_TABLE) return guestEntry(random, page);
    if (kind === GCR3_TABLE) {
      const entry = page(random(3) === 0 ? GCR3_TABLE : GUEST_TABLE) | 1n;
      return random(24) === 0 ? entry ^ (1n << BigInt(random(64))) : entry;
    }
    return hostEntry(kind, group, group === 0 ? Number(field(address, 5, 3)) : 0, random, page);
  }
}

function guestEntry(random: Random, page: (kind: number) => bigint): bigint {
  let entry = page(GUEST_TABLE) | 7n | BigInt(random(32) << 3);
  if (random(8) !== 0) entry &= ~0x80n;
  else entry &= ~((1n << (random(2) === 0 ? 30n : 21n)) - 0x1000n);
  if (random(16) === 0) entry ^= 1n << BigInt(random(3));
  if (random(10) === 0) entry |= 1n << 63n;
  if (random(40) === 0) entry |= 1n << BigInt(12 + random(40));
  return entry;
}

function hostEntry(
  level: number,
  group: number,
  low: number,
  random: Random,
  page: (kind: number) => bigint,
): bigint {
  let next = level - 1;
  const choice = random(16);
  if (choice < 2) next = 0;
  else if (choice < 4) next = 7;
  else if (choice < 6) next = random(level);
  else if (choice === 6 && random(3) === 0) next = random(8);
  let entry = page(next === 0 || next === 7 ? low : next) | (BigInt(next) << 9n);
  if (next === 7) {
    // Without a group there is no size that is right.
    const size = BigInt(3 + 9 * level + (group > 0 && random(8) !== 0 ? group : -random(2) * 9));
    entry = (entry & ~(1n << (size - 1n))) | ((1n << (size - 1n)) - 0x1000n);
  }
  entry |= BigInt(random(4)) << 5n;
  entry |= (random(20) === 0 ? BigInt(random(4)) : 3n) << 61n;
  entry |= BigInt(random(2)) << 60n;
  if (random(60) === 0) entry |= 1n << BigInt(52 + random(9));
  return random(60) === 0 ? entry : entry | 1n;
}

// --- the plain translation ---

interface Case {
  readonly seed: number;
  readonly mode: number;
  readonly root: bigint;
  readonly had: 0 | 1 | 3;
  readonly ir: boolean;
  readonly iw: boolean;
  readonly gv: boolean;
  readonly giov: boolean;
  readonly glx: number;
  readonly gcr3: bigint;
  readonly five: boolean;
  readonly domain: number;
  readonly gten: boolean;
  readonly trp: boolean;
  readonly noAccessed: boolean;
  readonly noDirty: boolean;
  readonly pasid: number | null;
  readonly address: bigint;
  readonly write: boolean;
  readonly execute: boolean;
  readonly privileged: boolean;
  readonly paSize: number;
}

interface Access {
  readonly r: boolean;
  readonly w: boolean;
}
interface Fault {
  readonly event: 'IO_PAGE_FAULT' | 'PAGE_TAB_HARDWARE_ERROR';
  readonly gn: boolean;
  readonly address: bigint;
  readonly pr?: boolean;
  readonly pe?: boolean;
  readonly rz?: boolean;
}
interface Found {
  readonly pa: bigint;
  /** log2 of the page. */
  readonly bits: number;
}
const isFault = (x: Found | Fault | bigint): x is Fault => typeof x === 'object' && 'event' in x;

const notPresent = (gn: boolean, address: bigint): Fault => ({ event: 'IO_PAGE_FAULT', gn, address });
const denied = (gn: boolean, address: bigint): Fault => ({ ...notPresent(gn, address), pr: true, pe: true });
const invalid = (gn: boolean, address: bigint, rz: boolean): Fault => ({
  ...notPresent(gn, address),
  pr: true,
  rz,
});
const refused = (gn: boolean, address: bigint): Fault => ({ event: 'PAGE_TAB_HARDWARE_ERROR', gn, address });

/** §2.2.3: GPA to SPA. `device` says that DTE.IR and DTE.IW count. */
function hostWalk(
  memory: HashedMemory,
  c: Case,
  gpa: bigint,
  access: Access,
  device: boolean,
): Found | Fault {
  if (device && ((access.r && !c.ir) || (access.w && !c.iw))) return denied(false, gpa);
  if (c.mode === 0) return { pa: gpa, bits: 12 };
  if (gpa >> BigInt(12 + 9 * c.mode) !== 0n) return notPresent(false, gpa);
  let level = c.mode;
  let table = c.root;
  let [r, w] = [true, true];
  for (;;) {
    const shift = 3 + 9 * level;
    const at = table + field(gpa, Math.min(63, shift + 8), shift) * 8n;
    if (memory.refuses(at)) return refused(false, at);
    let entry = memory.word(at);
    if (field(entry, 0, 0) === 0n) return notPresent(false, gpa);
    const next = Number(field(entry, 11, 9));
    r &&= field(entry, 61, 61) === 1n;
    w &&= field(entry, 62, 62) === 1n;
    if (next === 0 || next === 7) {
      if (level === 6) return invalid(false, gpa, false);
      if (field(entry, 58, 52) !== 0n) return invalid(false, gpa, true);
      let bits = shift;
      if (next === 7) {
        bits = 13;
        while (bits <= 52 && field(entry, bits - 1, bits - 1) === 1n) bits++;
        if (bits <= shift || bits >= shift + 9 || bits > 52) return invalid(false, gpa, false);
      }
      if ((access.r && !r) || (access.w && !w)) return denied(false, gpa);
      if (c.had !== 0) entry |= 1n << 5n;
      if (c.had === 3 && access.w) entry |= 1n << 6n;
      if (entry !== memory.word(at)) memory.stored.set(at, entry);
      const low = (1n << BigInt(bits)) - 1n;
      return { pa: (entry & 0xf_ffff_ffff_f000n & ~low) | (gpa & low), bits };
    }
    if (next >= level) return invalid(false, gpa, false);
    if (field(entry, 60, 52) !== 0n) return invalid(false, gpa, true);
    if (next < level - 1 && field(gpa, Math.min(63, shift - 1), 12 + 9 * next) !== 0n) {
      return invalid(false, gpa, false);
    }
    if (c.had !== 0 && field(entry, 5, 5) === 0n) memory.stored.set(at, entry | (1n << 5n));
    table = entry & 0xf_ffff_ffff_f000n;
    level = next;
  }
}

/** The SPA of an entry of a guest's tables. */
function entryAddress(memory: HashedMemory, c: Case, gpa: bigint, write: boolean): bigint | Fault {
  const found = hostWalk(memory, c, gpa, { r: true, w: write }, false);
  return isFault(found) ? found : found.pa;
}

/** §2.2.6: the CR3 of a PASID. */
function guestRoot(memory: HashedMemory, c: Case, pasid: number): bigint | Fault {
  let table = c.gcr3;
  for (let level = c.glx; level >= 0; level--) {
    const index = (BigInt(pasid) >> BigInt(9 * level)) & 511n;
    let at: bigint | Fault = table + index * 8n;
    if (level < c.glx || c.trp) at = entryAddress(memory, c, at, false);
    if (isFault(at)) return at;
    if (memory.refuses(at)) return refused(true, at);
    const entry = memory.word(at);
    if (field(entry, 0, 0) === 0n) return notPresent(true, c.address);
    if ((entry & ~0xf_ffff_ffff_f019n) !== 0n) return invalid(true, c.address, true);
    table = entry & 0xf_ffff_ffff_f000n;
  }
  return table;
}

/** §2.2.6: GVA to GPA to SPA. */
function guestWalk(memory: HashedMemory, c: Case, pasid: number): Found | Fault {
  const { address: gva } = c;
  if (pasid >= 2 ** Math.min(16, 9 * (c.glx + 1))) return notPresent(true, gva);
  const width = c.five ? 57 : 48;
  const top = c.pasid === null ? gva >> BigInt(width) : BigInt.asIntN(64, gva) >> BigInt(width - 1);
  if (top !== 0n && !(c.pasid !== null && top === -1n)) return notPresent(true, gva);
  const root = guestRoot(memory, c, pasid);
  if (isFault(root)) return root;
  const rights = { w: true, u: true, x: true };
  const user = !(c.pasid !== null && c.privileged);
  const execute = c.pasid !== null && c.execute && !c.write;
  let table = root;
  for (let level = c.five ? 5 : 4; ; level--) {
    const shift = 3 + 9 * level;
    const gpa = table + field(gva, shift + 8, shift) * 8n;
    const at = entryAddress(memory, c, gpa, false);
    if (isFault(at)) return at;
    if (memory.refuses(at)) return refused(true, at);
    const entry = memory.word(at);
    if (field(entry, 0, 0) === 0n) return notPresent(true, gva);
    const leaf = level === 1 || (level <= 3 && field(entry, 7, 7) === 1n);
    let reserved = 0xf_ffff_ffff_ffffn & ~((1n << BigInt(c.paSize)) - 1n);
    if (leaf && level > 1) reserved |= (1n << BigInt(shift)) - (1n << 13n);
    if (level > 3) reserved |= 0x80n;
    if ((entry & reserved) !== 0n) return invalid(true, gva, true);
    rights.w &&= field(entry, 1, 1) === 1n;
    rights.u &&= field(entry, 2, 2) === 1n;
    rights.x &&= field(entry, 63, 63) === 0n;
    if (leaf && ((user && !rights.u) || (c.write && !rights.w) || (execute && !rights.x))) {
      return denied(true, gva);
    }
    let updated = entry;
    if (!c.noAccessed) updated |= 1n << 5n;
    if (leaf && c.write && !c.noDirty) updated |= 1n << 6n;
    if (updated !== entry) {
      const target = entryAddress(memory, c, gpa, true);
      if (isFault(target)) return target;
      memory.put(target, updated);
    }
    if (leaf) {
      const low = (1n << BigInt(shift)) - 1n;
      const out = (entry & 0xf_ffff_ffff_f000n & ~low) | (gva & low);
      const found = hostWalk(memory, c, out, { r: !c.write, w: c.write }, true);
      if (isFault(found) || c.mode === 0) return isFault(found) ? found : { ...found, bits: shift };
      return { ...found, bits: Math.min(shift, found.bits) };
    }
    table = entry & 0xf_ffff_ffff_f000n;
  }
}

function plain(memory: HashedMemory, c: Case): Found | Fault {
  if (c.mode === 7) return invalid(false, c.address, false);
  const guest = c.gv && c.gten;
  if (c.pasid !== null) return guest ? guestWalk(memory, c, c.pasid) : notPresent(true, c.address);
  if (guest && c.giov) return guestWalk(memory, c, 0);
  return hostWalk(memory, c, c.address, { r: !c.write, w: c.write }, true);
}

// --- the model ---

function model(memory: HashedMemory, c: Case): unknown {
  const config = amdIommuConfig({ caches: { tlb: 16, gcr3: 4 }, miscInfo0: { PAsize: c.paSize } });
  const iommu = new AmdIommu({ memory, config });
  const words = encode(DTE, {
    V: 1,
    TV: 1,
    HAD: c.had,
    Mode: c.mode,
    HostPTRoot: c.root >> 12n,
    GIOV: c.giov,
    GV: c.gv,
    GLX: c.glx,
    GCR3_14_12: field(c.gcr3, 14, 12),
    GCR3_30_15: field(c.gcr3, 30, 15),
    GCR3_51_31: field(c.gcr3, 51, 31),
    GuestPagingMode: c.five,
    IR: c.ir,
    IW: c.iw,
    DomainID: c.domain,
  });
  const table = new Map<bigint, bigint>();
  for (let i = 0; i < 4; i++) table.set(BigInt(DEVICE_TABLE + i * 8), u64(words[2 * i + 1]!, words[2 * i]!));
  for (const [at, value] of table) memory.stored.set(at, value);
  iommu.writeRegister(OFFSET.DEV_TAB_BASE, 8, BigInt(DEVICE_TABLE));
  const low = CONTROL.IommuEn.inPlace | (c.gten ? CONTROL.GTEn.inPlace : 0);
  const high =
    (c.trp ? CONTROL.GCR3TRPMode.inPlace : 0) |
    (c.noAccessed ? CONTROL.GAUpdateDis.inPlace : 0) |
    (c.noDirty ? CONTROL.GDUpdateDis.inPlace : 0);
  iommu.writeRegister(OFFSET.CONTROL, 8, u64(high, low));
  const request = { deviceId: 0, pasid: c.pasid, hi: hi32(c.address), lo: lo32(c.address) };
  const { write, execute, privileged } = c;
  const outcome = iommu.translate({ ...request, write, execute, privileged });
  for (const at of table.keys()) memory.stored.delete(at);
  if (outcome.kind === 'translated') return { pa: BigInt(outcome.pa), bytes: BigInt(outcome.bytes) };
  if (outcome.kind !== 'aborted' || outcome.event === null) return outcome;
  const page = outcome.event.type === 2;
  const { words: event } = outcome.event;
  const record = page ? decode(IO_PAGE_FAULT_RECORD, event) : decode(HARDWARE_ERROR_RECORD, event);
  return { event: eventName(outcome.event.type), ...record };
}

/** What the model says where the plain translation says this. */
function expected(c: Case, outcome: Found | Fault): unknown {
  if (!isFault(outcome)) {
    // A large page ends where the interrupt range begins, for requests that may mean that.
    const size = 1n << BigInt(outcome.bits);
    let bytes = size - (c.address & (size - 1n));
    const host = c.pasid === null && !(c.gv && c.gten && c.giov);
    if (host && c.address < 0xfee0_0000n && c.address + bytes > 0xfee0_0000n) {
      bytes = 0xfee0_0000n - c.address;
    }
    return { pa: outcome.pa, bytes };
  }
  const gn = outcome.gn ? 1 : 0;
  const pasid = c.pasid ?? 0;
  const common = {
    event: outcome.event,
    DeviceID: 0,
    DomainID: gn ? pasid & 0xffff : c.domain,
    PASID_19_16: gn ? pasid >> 16 : 0,
    GN: gn,
    I: 0,
    RW: c.write ? 1 : 0,
    TR: 0,
    Address: outcome.address,
  };
  if (outcome.event === 'PAGE_TAB_HARDWARE_ERROR') return { ...common, Type: 1, EventCode: 4 };
  return {
    ...common,
    NX: gn && c.pasid !== null && c.execute && !c.write ? 1 : 0,
    US: gn && !(c.pasid !== null && c.privileged) ? 1 : 0,
    PR: outcome.pr === true ? 1 : 0,
    PE: outcome.pe === true ? 1 : 0,
    RZ: outcome.rz === true ? 1 : 0,
    EventCode: 2,
  };
}

const mostly = (value: boolean): fc.Arbitrary<boolean> =>
  fc.integer({ min: 0, max: 9 }).map((n) => (n === 0 ? !value : value));
const pageOf = (kind: number): fc.Arbitrary<bigint> =>
  fc.bigInt(0n, (1n << 25n) - 1n).map((n) => (n << 15n) | (BigInt(kind) << 12n));

/** Addresses with runs of zeros, so that levels can be skipped and widths are met. */
const address = fc
  .tuple(
    fc.bigInt(0n, (1n << 64n) - 1n),
    fc.integer({ min: 0, max: 255 }),
    fc.constantFrom(21, 30, 30, 39, 39, 48, 57, 64),
  )
  .map(([bits, groups, width]) => {
    let value = bits & ((1n << BigInt(width)) - 1n);
    for (let group = 0; group < 6; group++) {
      if ((groups & (1 << group)) !== 0) value &= ~(511n << BigInt(12 + 9 * group));
    }
    return groups >> 5 === 0 && width < 64 ? BigInt.asUintN(64, value - (1n << BigInt(width))) : value;
  });

const cases: fc.Arbitrary<Case> = fc
  .record({
    seed: fc.nat(),
    mode: fc.constantFrom(0, 0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 6, 6, 7),
    had: fc.constantFrom<0 | 1 | 3>(0, 1, 3),
    ir: mostly(true),
    iw: mostly(true),
    gv: mostly(true),
    giov: fc.boolean(),
    glx: fc.constantFrom(0, 0, 0, 1, 2),
    gcr3: pageOf(GCR3_TABLE),
    five: fc.boolean(),
    domain: fc.nat(0xffff),
    gten: mostly(true),
    trp: fc.boolean(),
    noAccessed: fc.boolean(),
    noDirty: fc.boolean(),
    pasid: fc.option(
      fc.oneof({ weight: 4, arbitrary: fc.nat(511) }, { weight: 1, arbitrary: fc.nat(0xf_ffff) }),
      { freq: 2 },
    ),
    address,
    write: fc.boolean(),
    execute: fc.boolean(),
    privileged: fc.boolean(),
    paSize: fc.constantFrom(40, 48, 52),
  })
  // Which of a page's entries gets the flags depends on which is used: none are where entries are alike.
  .map((c) => (c.seed % 2 === 0 ? c : { ...c, had: 0 as const }))
  .chain((c) => pageOf(c.mode % 7).map((root) => ({ ...c, root })));

it('every translation and every fault is that of a plain one, and so are the flags that it sets', () => {
  const seen = new Map<string, number>();
  fc.assert(
    fc.property(cases, (c) => {
      fc.pre(c.pasid !== null || c.address >> 20n !== 0xfeen);
      const [one, other] = [new Tables(c.seed), new Tables(c.seed)];
      const outcome = plain(one, c);
      const addressable = isFault(outcome) || outcome.pa >> 52n === 0n;
      const got = model(other, c);
      if (addressable) expect(got).toEqual(expected(c, outcome));
      else expect(got).toMatchObject({ kind: 'aborted', event: null });
      expect(other.stored).toEqual(one.stored);
      const kind = isFault(outcome)
        ? `${outcome.event} gn=${outcome.gn} pr=${outcome.pr} rz=${outcome.rz}`
        : 'found';
      const key = `${c.gv && c.gten && (c.giov || c.pasid !== null) ? 'guest' : 'host'} ${kind}`;
      seen.set(key, (seen.get(key) ?? 0) + 1);
    }),
    { numRuns: LONG ? 300_000 : 3_000 },
  );
  expect(seen.get('host found') ?? 0).toBeGreaterThan(100);
  expect(seen.get('guest found') ?? 0).toBeGreaterThan(30);
  expect(seen.size).toBeGreaterThanOrEqual(15);
}, 3_600_000);
