// The SMMUv3 model beside C: accesses that hit the IOTLB against a GHashTable as QEMU uses it (peers/smmu-iotlb.c), cold
// walks against the same walks of the same tables in plain C (peers/smmu-walk.c), and 10^6 mixed invalidations.
//
//   node bench/smmu.mjs
//
// Ratios are taken in one run. A cold walk has no cache at all, here as there. A cold access is a whole transaction whose
// IOTLB has just been emptied: it looks up what is not there, walks, and fills the IOTLB; there is no such thing in the
// peer, and the ratio is to its bare walk. No table of a walk shares a stage 2 page with another. Needs cc, and pkg-config
// and libglib2.0-dev for the IOTLB's peer.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadCore } from './bundle.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));

const SOURCE = `
export { SmmuV3 } from '@viommu/core/iommu/arm-smmu-v3/hardware/smmu';
export { smmuV3Config } from '@viommu/core/iommu/arm-smmu-v3/hardware/config';
export { OFFSET } from '@viommu/core/iommu/arm-smmu-v3/spec/registers';
export { STE } from '@viommu/core/iommu/arm-smmu-v3/spec/ste';
export { CD } from '@viommu/core/iommu/arm-smmu-v3/spec/cd';
export { CMD, CMD_TLBI } from '@viommu/core/iommu/arm-smmu-v3/spec/commands';
export { encode } from '@viommu/core/base/bit-fields';
export { PERM, tableGeometry } from '@viommu/core/pagetable/armv8';
export { stage1Permissions, stage2Permissions } from '@viommu/core/pagetable/armv8-permissions';
export { Stage1Walker, topMasks } from '@viommu/core/pagetable/armv8-stage1';
export { Stage2Walker } from '@viommu/core/pagetable/armv8-stage2';
`;

/** Memory starts at physical address 0. */
const BASE = 0;
const BYTES = 64 << 20;
/** Offsets in memory. */
const STRTAB = 0;
const CD_TABLE = 0x1_0000;
const CMDQ = 0x2_0000;
const CMDQ_LOG2 = 10;
const TABLES = 0x10_0000;
const SID = { stage1: 1, stage2: 2, nested: 3 };
const PAGES = 4096;
const VMID = 7;
const INVALIDATIONS = 1_000_000;

/** All of memory in one array. */
class Flat {
  words = new Uint32Array(BYTES / 4);

  load64(pa, out) {
    if (pa >= BYTES) return false;
    const at = pa >>> 2;
    out[0] = this.words[at];
    out[1] = this.words[at + 1];
    return true;
  }

  store64(pa, lo, hi) {
    if (pa >= BYTES) return false;
    const at = pa >>> 2;
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
  constructor(memory, take) {
    this.memory = memory;
    this.take = take;
    this.root = take();
  }

  map(address, output, leafLow) {
    let table = this.root;
    for (let shift = 39; shift > 12; shift -= 9) {
      const at = (table - BASE) / 4 + 2 * (Math.floor(address / 2 ** shift) % 512);
      if (this.memory.words[at] === 0) this.memory.words[at] = this.take() | 3;
      table = this.memory.words[at] & ~0xfff;
    }
    const at = (table - BASE) / 4 + 2 * (Math.floor(address / 4096) % 512);
    this.memory.words[at] = (output | leafLow) >>> 0;
  }
}

function build(core) {
  const memory = new Flat();
  const { encode, STE, CD } = core;
  let free = TABLES;
  const take = () => {
    free += 4096;
    return BASE + free - 4096;
  };
  const first = new Tables(memory, take);
  const second = new Tables(memory, take);
  // Stage 1 maps the pages to themselves, as stage 2 does: one image serves all three ways.
  for (let page = 0; page < PAGES; page++) first.map(BASE + page * 4096, BASE + page * 4096, 0x743);
  const tablesEnd = free;
  for (let page = 0; page < PAGES; page++) second.map(BASE + page * 4096, BASE + page * 4096, 0x7ff);
  for (let at = 0; at < tablesEnd; at += 4096) second.map(BASE + at, BASE + at, 0x7ff);
  const config = { V: 1, S1ContextPtr: (BASE + CD_TABLE) / 64, SHCFG: 1 };
  const stage2 = {
    S2VMID: VMID,
    S2T0SZ: 16,
    S2SL0: 2,
    S2PS: 5,
    S2AA64: 1,
    S2R: 1,
    S2TTB: second.root / 16,
  };
  memory.put(STRTAB + SID.stage1 * 64, encode(STE, { ...config, Config: 5, S2VMID: VMID }));
  memory.put(STRTAB + SID.stage2 * 64, encode(STE, { ...config, Config: 6, ...stage2 }));
  memory.put(STRTAB + SID.nested * 64, encode(STE, { ...config, Config: 7, ...stage2, S2VMID: VMID + 1 }));
  const cd = {
    V: 1,
    AA64: 1,
    A: 1,
    R: 1,
    ASID: 1,
    T0SZ: 16,
    EPD1: 1,
    IPS: 5,
    MAIR0: 0xff,
    TTB0: first.root / 16,
  };
  memory.put(CD_TABLE, encode(CD, cd));
  return { memory, ttb0: first.root, s2ttb: second.root };
}

function start(core, memory, caches) {
  const smmu = new core.SmmuV3({ memory, config: core.smmuV3Config({ caches }) });
  const set = (name, size, value) => smmu.writeRegister(core.OFFSET[name], size, BigInt(value));
  set('STRTAB_BASE', 8, BASE + STRTAB);
  set('STRTAB_BASE_CFG', 4, 4);
  set('CMDQ_BASE', 8, BASE + CMDQ + CMDQ_LOG2);
  set('CR0', 4, 0b1001);
  return smmu;
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
 * Nanoseconds per step of the fastest of many short rounds of `count` steps: what a machine that does other things as
 * well can still tell. A round has its own loop, so that no measurement's code is shared with another's.
 */
function fastest(count, rounds, round) {
  let best = Infinity;
  for (let i = -10; i < rounds; i++) {
    const before = performance.now();
    round();
    if (i >= 0) best = Math.min(best, ((performance.now() - before) * 1e6) / count);
  }
  return best;
}

function translated(outcome) {
  if (outcome.kind !== 'translated') throw new Error(JSON.stringify(outcome));
  return outcome.pa;
}

function hits(core, memory, entries) {
  const smmu = start(core, memory, { tlb: 16384, streams: 16, contexts: 16, tables: true });
  const order = shuffled(entries);
  const access = { streamId: SID.nested, hi: 0, lo: 0, write: true };
  const sum = new Float64Array(1);
  const ns = fastest(entries, Math.ceil(4_000_000 / entries), () => {
    for (const address of order) {
      access.lo = address;
      sum[0] += translated(smmu.translate(access));
    }
  });
  if (!(sum[0] > 0)) throw new Error('nothing was translated');
  return ns;
}

/** The walkers by themselves. */
function coldWalks(core, memory, ttb0, s2ttb) {
  const { PERM, Stage1Walker, Stage2Walker } = core;
  const shape = {
    granuleBits: 12,
    inputBits: 48,
    startLevel: 0,
    outputBits: 48,
    physicalBits: 48,
    ds: false,
  };
  const region = { ...core.topMasks(48, false), had: false, e0pd: false, sh: 0 };
  const common = { affd: false, ha: false, hd: false };
  const first = {
    ...common,
    regions: [
      { ...region, table: core.tableGeometry({ ...shape, base: ttb0 }) },
      { ...region, table: null },
    ],
    unprivileged: true,
    permissions: core.stage1Permissions({ unprivileged: true, wxn: false, pan: false, epan: false }),
    mair: new Uint8Array(8).fill(0xff),
  };
  const second = {
    ...common,
    table: core.tableGeometry({ ...shape, base: s2ttb }),
    permissions: core.stage2Permissions(true),
    ptw: false,
    fwb: false,
    sh: null,
  };
  const one = new Stage1Walker(memory);
  const two = new Stage2Walker(memory);
  const space = {
    descriptorHi: 0,
    descriptorLo: 0,
    descriptor(hi, lo) {
      if (!two.walk(second, hi, lo, PERM.PR | PERM.UR, true)) return false;
      this.descriptorHi = two.outHi;
      this.descriptorLo = two.outLo | (lo & 0xfff);
      return true;
    },
  };
  const order = shuffled(PAGES);
  const sum = new Int32Array(1);
  const must = (done) => {
    if (!done) throw new Error('a walk faulted');
  };
  return {
    stage1: fastest(PAGES, 200, () => {
      for (const address of order) {
        must(one.walk(first, 0, address, PERM.UW, null));
        sum[0] += one.outLo + one.permissions + one.mair;
      }
    }),
    stage2: fastest(PAGES, 200, () => {
      for (const address of order) {
        must(two.walk(second, 0, address, PERM.UW, false));
        sum[0] += two.outLo + two.permissions + two.memAttr;
      }
    }),
    nested: fastest(PAGES, 200, () => {
      for (const address of order) {
        must(one.walk(first, 0, address, PERM.UW, space));
        must(two.walk(second, one.outHi, one.outLo, PERM.UW, false));
        sum[0] += two.outLo + two.permissions + two.memAttr;
      }
    }),
  };
}

function coldAccesses(core, memory) {
  const smmu = start(core, memory, { tlb: 64, streams: 16, contexts: 16, tables: false });
  const order = shuffled(PAGES);
  const out = {};
  for (const way of ['stage1', 'stage2', 'nested']) {
    const access = { streamId: SID[way], hi: 0, lo: 0, write: true };
    const vmid = way === 'nested' ? VMID + 1 : VMID;
    out[way] = fastest(PAGES, 200, () => {
      for (const address of order) {
        smmu.iotlb.invalidateVmid(vmid, 0);
        access.lo = address;
        if (translated(smmu.translate(access)) !== address) throw new Error('translated elsewhere');
      }
    });
  }
  return out;
}

/** Eight of ten by page, one of a range, one of an ASID, of what is not there: the fill stays. */
function invalidations(core, memory, entries) {
  const smmu = start(core, memory, { tlb: 16384, streams: 16, contexts: 16, tables: true });
  const { CMD, CMD_TLBI, encode } = core;
  for (let i = 0; i < entries; i++) smmu.translate({ streamId: SID.stage1, hi: 0, lo: BASE + i * 4096 });
  const ring = 1 << CMDQ_LOG2;
  for (let i = 0; i < ring; i++) {
    const Address = (0x8000_0000 + (i & 0xffff) * 4096) / 4096;
    const page = { Opcode: CMD.TLBI_NH_VA, VMID, ASID: 1, TG: 1, TTL: 3, Address };
    const commands = { 8: { ...page, TTL: 0, NUM: 15 }, 9: { Opcode: CMD.TLBI_NH_ASID, VMID, ASID: 2 } };
    memory.put(CMDQ + i * 16, encode(CMD_TLBI, commands[i % 10] ?? page));
  }
  let prod = 0;
  const batch = ring / 2;
  const ns = fastest(batch, INVALIDATIONS / batch, () => {
    prod = (prod + batch) & (2 * ring - 1);
    smmu.writeRegister(core.OFFSET.CMDQ_PROD, 4, BigInt(prod));
  });
  if (Number(smmu.readRegister(core.OFFSET.CMDQ_CONS, 4)) !== prod) throw new Error('commands are left');
  return ns;
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
const { memory, ttb0, s2ttb } = build(core);
const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-smmu-'));
try {
  const iotlb = peer(scratch, 'smmu-iotlb', ['glib-2.0'], 'cc, pkg-config or libglib2.0-dev');
  const walk = peer(scratch, 'smmu-walk', [], 'cc');
  const image = join(scratch, 'image');
  writeFileSync(image, memory.words);
  const plain = walk?.(image, BASE, ttb0, s2ttb, PAGES, 200, BASE);
  const walks = coldWalks(core, memory, ttb0, s2ttb);
  line('stage 1 walk, cold', walks.stage1, plain?.stage1, '');
  line('stage 2 walk, cold', walks.stage2, plain?.stage2, '');
  line('nested walk, cold', walks.nested, plain?.nested, ' (goal 4)');
  const accesses = coldAccesses(core, memory);
  line('stage 1 access, cold', accesses.stage1, plain?.stage1, '');
  line('stage 2 access, cold', accesses.stage2, plain?.stage2, '');
  line('nested access, cold', accesses.nested, plain?.nested, '');
  for (const entries of [256, 4096]) {
    const other = iotlb?.(entries, Math.ceil(4_000_000 / entries), 0);
    line(`IOTLB hit, nested, ${entries} entries`, hits(core, memory, entries), other?.hit, ' (goal 1)');
  }
  for (const entries of [16, 256, 4096]) {
    const ns = invalidations(core, memory, entries);
    const other = iotlb?.(entries, 1, entries > 256 ? INVALIDATIONS / 10 : INVALIDATIONS);
    line(`10^6 mixed invalidations, ${entries} entries`, ns, other?.invalidate, '');
  }
} finally {
  rmSync(scratch, { recursive: true });
}
