// The AMD IOMMU model beside C: accesses that hit the IOTLB against a GHashTable as QEMU uses it (peers/amd-iotlb.c),
// cold walks of the same tables against plain C without any cache (peers/amd-walk.c), and 10^6 mixed invalidations.
//
//   node bench/amd.mjs
//
// Ratios are taken in one run. QEMU has host tables alone, and one lookup finds a page; a nested hit here is two. Walks
// are cold: every translation is forgotten before the next, and no table is cached but the CR3. Needs cc, and pkg-config
// and libglib2.0-dev for the IOTLB's peer.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadCore } from './bundle.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));

const SOURCE = `
export { AmdIommu } from '@viommu/core/iommu/amd/hardware/amd-iommu';
export { amdIommuConfig } from '@viommu/core/iommu/amd/hardware/config';
export { CONTROL, OFFSET } from '@viommu/core/iommu/amd/spec/registers';
export { DTE } from '@viommu/core/iommu/amd/spec/dte';
export { CMD, CMD_INVALIDATE_PAGES } from '@viommu/core/iommu/amd/spec/commands';
export { encode } from '@viommu/core/base/bit-fields';
`;

const BASE = 0x4000_0000;
const BYTES = 64 << 20;
/** Offsets in memory. */
const DEVICE_TABLE = 0;
const GCR3_TABLE = 0x1_0000;
const COMMANDS = 0x2_0000;
const COMMANDS_LOG2 = 10;
const TABLES = 0x10_0000;
const DEVICE = { host: 1, guest: 2, nested: 3 };
const PAGES = 4096;
const PASID = 5;
const INVALIDATIONS = 1_000_000;

/** All of memory in one array. */
class Flat {
  words = new Uint32Array(BYTES / 4);

  load64(pa, out) {
    const at = (pa - BASE) >>> 2;
    if (pa < BASE || at >= this.words.length) return false;
    out[0] = this.words[at];
    out[1] = this.words[at + 1];
    return true;
  }

  store64(pa, lo, hi) {
    const at = (pa - BASE) >>> 2;
    if (pa < BASE || at >= this.words.length) return false;
    this.words[at] = lo;
    this.words[at + 1] = hi;
    return true;
  }

  read = () => false;
  write = () => false;

  put(offset, words) {
    this.words.set(words, offset / 4);
  }
}

/** Builds tables of four levels; their pages come from `take`, and directory entries are `directory(level)`, two words. */
class Tables {
  constructor(memory, take, directory) {
    this.memory = memory;
    this.take = take;
    this.directory = directory;
    this.root = take();
  }

  map(address, output, lo, hi) {
    const { words } = this.memory;
    let table = this.root;
    for (let level = 4; level > 1; level--) {
      const at = (table - BASE) / 4 + 2 * (Math.floor(address / 2 ** (3 + 9 * level)) % 512);
      if (words[at] === 0) {
        const [low, high] = this.directory(level);
        words[at] = this.take() | low;
        words[at + 1] = high;
      }
      table = words[at] & ~0xfff;
    }
    const at = (table - BASE) / 4 + 2 * (Math.floor(address / 4096) % 512);
    words[at] = (output | lo) >>> 0;
    words[at + 1] = hi;
  }
}

const IR_IW = 0x6000_0000;
/** P, R/W, U/S, A and D. */
const GUEST = 0x67;

function build(core) {
  const memory = new Flat();
  const { encode, DTE } = core;
  let free = TABLES;
  const take = () => {
    free += 4096;
    return BASE + free - 4096;
  };
  const guest = new Tables(memory, take, () => [GUEST, 0]);
  const host = new Tables(memory, take, (level) => [((level - 1) << 9) | 1, IR_IW]);
  // Guest tables map the pages to themselves, as host tables do: one image serves all three ways.
  for (let page = 0; page < PAGES; page++) guest.map(BASE + page * 4096, BASE + page * 4096, GUEST, 0);
  const tablesEnd = free;
  for (let page = 0; page < PAGES; page++) host.map(BASE + page * 4096, BASE + page * 4096, 1, IR_IW);
  for (let at = 0; at < tablesEnd; at += 4096) host.map(BASE + at, BASE + at, 1, IR_IW);
  const gcr3 = BASE + GCR3_TABLE;
  const translated = { V: 1, TV: 1, IR: 1, IW: 1 };
  const guests = { GV: 1, GCR3_14_12: (gcr3 >>> 12) & 7, GCR3_30_15: (gcr3 >>> 15) & 0xffff };
  const hosts = { Mode: 4, HostPTRoot: host.root / 4096 };
  const dte = (way, fields) =>
    memory.put(
      DEVICE_TABLE + DEVICE[way] * 32,
      encode(DTE, { ...translated, DomainID: DEVICE[way], ...fields }),
    );
  dte('host', hosts);
  dte('guest', guests);
  dte('nested', { ...hosts, ...guests });
  memory.put(GCR3_TABLE + PASID * 8, [guest.root | 1, 0]);
  return { memory, cr3: guest.root, root: host.root };
}

function start(core, memory, caches) {
  const iommu = new core.AmdIommu({ memory, config: core.amdIommuConfig({ caches }) });
  const set = (name, value) => iommu.writeRegister(core.OFFSET[name], 8, BigInt(value));
  set('DEV_TAB_BASE', BASE + DEVICE_TABLE);
  set('CMD_BUF_BASE', BigInt(BASE + COMMANDS) | (BigInt(COMMANDS_LOG2) << 56n));
  const { IommuEn, CmdBufEn, GTEn } = core.CONTROL;
  set('CONTROL', IommuEn.inPlace | CmdBufEn.inPlace | GTEn.inPlace);
  return iommu;
}

function shuffled(count) {
  const order = Uint32Array.from({ length: count }, (_, i) => BASE + i * 4096);
  let state = 88172645463325252n;
  for (let i = count - 1; i > 0; i--) {
    state ^= BigInt.asUintN(64, state << 13n);
    state ^= state >> 7n;
    state ^= BigInt.asUintN(64, state << 17n);
    const j = Number(state % BigInt(i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/**
 * Nanoseconds per call of `one` in the fastest of many short rounds: what a machine that does other things as well can
 * still tell.
 */
function fastest(count, rounds, one) {
  let best = Infinity;
  for (let round = -10; round < rounds; round++) {
    const before = performance.now();
    for (let i = 0; i < count; i++) one(i);
    if (round >= 0) best = Math.min(best, ((performance.now() - before) * 1e6) / count);
  }
  return best;
}

function translated(outcome) {
  if (outcome.kind !== 'translated') throw new Error(JSON.stringify(outcome));
  return outcome.pa;
}

function accessOf(way) {
  return { deviceId: DEVICE[way], pasid: way === 'host' ? null : PASID, hi: 0, lo: 0, write: true };
}

function hits(core, memory, way, entries) {
  const iommu = start(core, memory, { tlb: 16384, devices: 16, gcr3: 16, tables: true });
  const order = shuffled(entries);
  const access = accessOf(way);
  let sum = 0;
  const ns = fastest(entries, Math.ceil(4_000_000 / entries), (i) => {
    access.lo = order[i];
    sum += translated(iommu.translate(access));
  });
  if (!(sum > 0)) throw new Error('nothing was translated');
  return ns;
}

function coldWalks(core, memory) {
  const iommu = start(core, memory, { tlb: 64, devices: 16, gcr3: 16, tables: false });
  const order = shuffled(PAGES);
  const out = {};
  for (const way of ['host', 'guest', 'nested']) {
    const access = accessOf(way);
    out[way] = fastest(PAGES, 200, (i) => {
      if (way !== 'guest') iommu.iotlb.invalidateHost(DEVICE[way], null, false);
      if (way !== 'host') iommu.iotlb.invalidateGuest(DEVICE[way], PASID, null, false);
      access.lo = order[i];
      if (translated(iommu.translate(access)) !== order[i]) throw new Error('translated elsewhere');
    });
  }
  return out;
}

/** Eight of ten by page, one of a range, one of a domain, of what is not there: the fill stays. */
function invalidations(core, memory, entries) {
  const iommu = start(core, memory, { tlb: 16384, devices: 16, gcr3: 16, tables: true });
  const { CMD, CMD_INVALIDATE_PAGES, encode } = core;
  const access = accessOf('host');
  for (let i = 0; i < entries; i++) translated(iommu.translate({ ...access, lo: BASE + i * 4096 }));
  const ring = 1 << COMMANDS_LOG2;
  for (let i = 0; i < ring; i++) {
    const page = 0x8_0000 + (i & 0xffff);
    const common = { Opcode: CMD.INVALIDATE_IOMMU_PAGES, DomainID: DEVICE.host, PDE: 1 };
    const fields = {
      8: { ...common, S: 1, Address: BigInt((page & ~0xf) | 7) },
      9: { ...common, DomainID: 9, S: 1, Address: 0x7_ffff_ffff_ffffn },
    };
    const command = encode(CMD_INVALIDATE_PAGES, fields[i % 10] ?? { ...common, Address: BigInt(page) });
    memory.put(COMMANDS + i * 16, command);
  }
  let tail = 0;
  const batch = ring / 2;
  const ns = fastest(1, INVALIDATIONS / batch, () => {
    tail = (tail + batch * 16) % (ring * 16);
    iommu.writeRegister(core.OFFSET.CMD_TAIL, 8, BigInt(tail));
  });
  if (Number(iommu.readRegister(core.OFFSET.CMD_HEAD, 8)) !== tail) throw new Error('commands are left');
  return ns / batch;
}

function compile(scratch, name, libraries) {
  const program = join(scratch, name);
  const flags =
    libraries.length === 0
      ? []
      : execFileSync('pkg-config', ['--cflags', '--libs', ...libraries], { encoding: 'utf8', stdio: 'pipe' })
          .trim()
          .split(/\s+/);
  execFileSync('cc', ['-O2', '-o', program, join(here, `peers/${name}.c`), ...flags], { stdio: 'pipe' });
  return (...args) => JSON.parse(execFileSync(program, args.map(String), { encoding: 'utf8' }));
}

/** Compiles a peer; where it cannot be had, says why and answers null. */
function peer(scratch, name, libraries, needs) {
  try {
    return compile(scratch, name, libraries);
  } catch {
    console.log(`peers/${name}.c: not measured, for want of ${needs}`);
    return null;
  }
}

const line = (what, ns, other, goal) => {
  const ratio =
    other === undefined ? '' : `  ${other.toFixed(1)} ns in C  ratio ${(ns / other).toFixed(2)}${goal}`;
  console.log(`${what.padEnd(44)} ${ns.toFixed(1).padStart(8)} ns${ratio}`);
};

const core = await loadCore(SOURCE);
const { memory, cr3, root } = build(core);
const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-amd-'));
try {
  const iotlb = peer(scratch, 'amd-iotlb', ['glib-2.0'], 'cc, pkg-config or libglib2.0-dev');
  const walk = peer(scratch, 'amd-walk', [], 'cc');
  for (const entries of [256, 4096]) {
    const other = iotlb?.(entries, Math.ceil(4_000_000 / entries), 0);
    line(`IOTLB hit, host, ${entries} entries`, hits(core, memory, 'host', entries), other?.hit, ' (goal 1)');
    line(`IOTLB hit, nested, ${entries} entries`, hits(core, memory, 'nested', entries), other?.hit, '');
  }
  const image = join(scratch, 'image');
  writeFileSync(image, memory.words);
  const plain = walk?.(image, BASE, cr3, root, PAGES, 200, BASE);
  const walks = coldWalks(core, memory);
  line('host tables, cold', walks.host, plain?.host, '');
  line('guest tables, cold', walks.guest, plain?.guest, '');
  line('nested, cold', walks.nested, plain?.nested, ' (goal 4)');
  for (const entries of [16, 256, 4096]) {
    const ns = invalidations(core, memory, entries);
    const other = iotlb?.(entries, 1, entries > 256 ? INVALIDATIONS / 10 : INVALIDATIONS);
    line(`10^6 mixed invalidations, ${entries} entries`, ns, other?.invalidate, '');
  }
} finally {
  rmSync(scratch, { recursive: true });
}
