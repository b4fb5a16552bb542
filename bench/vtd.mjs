// The VT-d model beside C: requests that hit the IOTLB against a GHashTable as QEMU uses it (peers/vtd-iotlb.c), cold
// walks of the same tables against plain C without any cache (peers/vtd-walk.c), and 10^6 mixed invalidations.
//
//   node bench/vtd.mjs
//
// Ratios are taken in one run. Walks are cold: every translation is forgotten before the next, and no table of a walk
// shares a second-stage page with another. Needs cc, and pkg-config and libglib2.0-dev for the IOTLB's peer.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadCore } from './bundle.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));

const SOURCE = `
export { IntelIommu } from '@viommu/core/iommu/intel/hardware/intel-iommu';
export { intelConfig } from '@viommu/core/iommu/intel/hardware/config';
export { OFFSET, GCMD, TTM } from '@viommu/core/iommu/intel/spec/registers';
export { SM_ROOT_ENTRY, SM_CONTEXT_ENTRY } from '@viommu/core/iommu/intel/spec/context';
export { PASID_DIR_ENTRY, PASID_ENTRY, PGTT } from '@viommu/core/iommu/intel/spec/pasid';
export { DESC, IOTLB_INV_DSC, P_IOTLB_INV_DSC } from '@viommu/core/iommu/intel/spec/invalidation';
export { encode } from '@viommu/core/base/bit-fields';
`;

const BASE = 0x4000_0000;
const BYTES = 64 << 20;
/** Offsets in memory. */
const ROOT = 0;
const CONTEXT = 0x1000;
const DIRECTORY = 0x2000;
const PASIDS = 0x3000;
const QUEUE = 0x2_0000;
const QUEUE_BYTES = 4096 << 2;
const TABLES = 0x10_0000;
/** Functions by device and function, and ways by PASID; a domain-id each. */
const RID = 0x20;
const PASID = { first: 1, second: 2, nested: 3 };
const DID = { first: 11, second: 12, nested: 13 };
const PAGES = 4096;
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

/** Builds 4K tables of four levels; pages of tables come from `take`. */
class Tables {
  constructor(memory, take, tableLow) {
    this.memory = memory;
    this.take = take;
    this.tableLow = tableLow;
    this.root = take();
  }

  map(address, output, leafLow) {
    let table = this.root;
    for (let shift = 39; shift > 12; shift -= 9) {
      const at = (table - BASE) / 4 + 2 * (Math.floor(address / 2 ** shift) % 512);
      if (this.memory.words[at] === 0) this.memory.words[at] = this.take() | this.tableLow;
      table = this.memory.words[at] & ~0xfff;
    }
    const at = (table - BASE) / 4 + 2 * (Math.floor(address / 4096) % 512);
    this.memory.words[at] = (output | leafLow) >>> 0;
  }
}

function build(core) {
  const memory = new Flat();
  const { encode, SM_ROOT_ENTRY, SM_CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, PGTT } = core;
  let free = TABLES;
  const take = () => {
    free += 4096;
    return BASE + free - 4096;
  };
  // P, R/W, U/S and Accessed; Dirty in leaves.
  const first = new Tables(memory, take, 0x27);
  const second = new Tables(memory, take, 3);
  // The first stage maps the pages to themselves, as the second does: one image serves all three ways.
  for (let page = 0; page < PAGES; page++) first.map(BASE + page * 4096, BASE + page * 4096, 0x67);
  const tablesEnd = free;
  for (let page = 0; page < PAGES; page++) second.map(BASE + page * 4096, BASE + page * 4096, 3);
  for (let at = 0; at < tablesEnd; at += 4096) second.map(BASE + at, BASE + at, 3);
  memory.put(ROOT, encode(SM_ROOT_ENTRY, { LP: 1, LCTP: (BASE + CONTEXT) / 4096 }));
  const context = { P: 1, PASIDE: 1, PASIDDIRPTR: (BASE + DIRECTORY) / 4096 };
  memory.put(CONTEXT + RID * 32, encode(SM_CONTEXT_ENTRY, context));
  memory.put(DIRECTORY, encode(PASID_DIR_ENTRY, { P: 1, SMPTBLPTR: (BASE + PASIDS) / 4096 }));
  const pgtt = { first: PGTT.FIRST_STAGE, second: PGTT.SECOND_STAGE, nested: PGTT.NESTED };
  for (const way of ['first', 'second', 'nested']) {
    const entry = { P: 1, PWSNP: 1, DID: DID[way], PGTT: pgtt[way], AW: 2 };
    const pointers = { FSPTPTR: first.root / 4096, SSPTPTR: second.root / 4096 };
    memory.put(PASIDS + PASID[way] * 64, encode(PASID_ENTRY, { ...entry, ...pointers }));
  }
  return { memory, first: first.root, second: second.root };
}

function start(core, memory, caches) {
  const { OFFSET, GCMD, TTM } = core;
  const iommu = new core.IntelIommu({ memory, config: core.intelConfig({ caches }) });
  iommu.writeRegister(OFFSET.RTADDR, 8, BigInt(BASE + ROOT + TTM.SCALABLE * 1024));
  iommu.writeRegister(OFFSET.IQA, 8, BigInt(BASE + QUEUE + 0x802));
  iommu.writeRegister(OFFSET.GCMD, 4, BigInt(GCMD.SRTP.inPlace));
  iommu.writeRegister(OFFSET.GCMD, 4, BigInt((GCMD.TE.inPlace | GCMD.QIE.inPlace) >>> 0));
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

const caches = (tlb, tables) => ({ tlb, contexts: 16, pasids: 16, tables });

function hits(core, memory, entries) {
  const iommu = start(core, memory, caches(16384, true));
  const order = shuffled(entries);
  const request = { requesterId: RID, pasid: PASID.nested, hi: 0, lo: 0, write: true };
  let sum = 0;
  const ns = fastest(entries, Math.ceil(4_000_000 / entries), (i) => {
    request.lo = order[i];
    sum += translated(iommu.translate(request));
  });
  if (!(sum > 0)) throw new Error('nothing was translated');
  return ns;
}

function coldWalks(core, memory) {
  const iommu = start(core, memory, caches(64, false));
  const order = shuffled(PAGES);
  const out = {};
  for (const way of ['first', 'second', 'nested']) {
    const request = { requesterId: RID, pasid: PASID[way], hi: 0, lo: 0, write: true };
    out[way] = fastest(PAGES, 200, (i) => {
      iommu.iotlb.invalidateDomain(DID[way]);
      request.lo = order[i];
      if (translated(iommu.translate(request)) !== order[i]) throw new Error('translated elsewhere');
    });
  }
  return out;
}

/** Eight of ten by page, one of a range, one of a PASID, of what is not there: the fill stays. */
function invalidations(core, memory, entries) {
  const iommu = start(core, memory, caches(16384, true));
  const { DESC, P_IOTLB_INV_DSC, OFFSET, encode } = core;
  const fill = { requesterId: RID, pasid: PASID.first, hi: 0, lo: 0, write: true };
  for (let i = 0; i < entries; i++) translated(iommu.translate({ ...fill, lo: BASE + i * 4096 }));
  const of = { TypeLo: DESC.P_IOTLB_INV, DID: DID.first, PASID: PASID.first };
  const ring = QUEUE_BYTES / 32;
  for (let i = 0; i < ring; i++) {
    const page = { ...of, G: 3, ADDR: (0x8000_0000 + i * 4096) / 4096 };
    const others = { 8: { ...page, AM: 4 }, 9: { ...of, G: 2, PASID: 9 } };
    memory.put(QUEUE + i * 32, encode(P_IOTLB_INV_DSC, others[i % 10] ?? page));
  }
  let tail = 0;
  const batch = ring / 2;
  const ns = fastest(1, INVALIDATIONS / batch, () => {
    tail = (tail + batch * 32) % QUEUE_BYTES;
    iommu.writeRegister(OFFSET.IQT, 8, BigInt(tail));
  });
  if (Number(iommu.readRegister(OFFSET.IQH, 8)) !== tail) throw new Error('descriptors are left');
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

const line = (what, ns, other) => {
  const ratio = other === undefined ? '' : `  ${other.toFixed(1)} ns in C  ratio ${(ns / other).toFixed(2)}`;
  console.log(`${what.padEnd(44)} ${ns.toFixed(1).padStart(8)} ns${ratio}`);
};

const core = await loadCore(SOURCE);
const { memory, first, second } = build(core);
const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-vtd-'));
try {
  const iotlb = peer(scratch, 'vtd-iotlb', ['glib-2.0'], 'cc, pkg-config or libglib2.0-dev');
  const walk = peer(scratch, 'vtd-walk', [], 'cc');
  for (const entries of [256, 4096]) {
    const other = iotlb?.(entries, Math.ceil(4_000_000 / entries), 0);
    line(`IOTLB hit, nested, ${entries} entries`, hits(core, memory, entries), other?.hit);
  }
  const image = join(scratch, 'image');
  writeFileSync(image, memory.words);
  const plain = walk?.(image, BASE, first, second, PAGES, 200, BASE);
  const walks = coldWalks(core, memory);
  line('first stage, cold', walks.first, plain?.first);
  line('second stage, cold', walks.second, plain?.second);
  line('nested, cold', walks.nested, plain?.nested);
  for (const entries of [16, 256, 4096]) {
    const ns = invalidations(core, memory, entries);
    const other = iotlb?.(entries, 1, entries > 256 ? INVALIDATIONS / 50 : INVALIDATIONS / 10);
    line(`10^6 mixed invalidations, ${entries} entries`, ns, other?.invalidate);
  }
} finally {
  rmSync(scratch, { recursive: true });
}
