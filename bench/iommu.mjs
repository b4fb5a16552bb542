// The IOMMU models beside C. Every vendor's rows are the same, and taken in a process of their own:
//
//   node bench/iommu.mjs [smmu] [vtd] [amd]
//
// - A hit is a whole access: from the device's request to an outcome, out of the IOTLB. The peer is the IOTLB of QEMU's
//   model of that IOMMU, in a GHashTable with that model's keys (peers/*-iotlb.c). They differ in what they do: QEMU's
//   SMMU looks the device's configuration up and probes four levels, its VT-d the lowest level first, its AMD IOMMU one
//   page and device, without domain or PASID; the first two take a mutex. Goal: ratio 1.
// - A walk is cold: no cache at all, here as there. Stage 1, stage 2, and both, where every table of stage 1 is found
//   through stage 2: 24 loads. No table of a walk shares a stage 2 page with another (peers/*-walk.c). Goal: nested,
//   ratio 4.
// - A cold access is a whole access whose IOTLB has just been emptied, with the emptying: it looks up what is not there,
//   walks, and fills. So does the peer, with a cache that is emptied as this one, by a new tag (peers/walk.h).
// - Invalidations go through the queue in memory, those of C are calls. One row is of pages by address; in the mix eight
//   of ten are that, one is of 16 pages, one of another address space. All name what is not there: the fill stays.
//
// A peer needs cc, that of the IOTLB pkg-config and libglib2.0-dev too; a row goes without where they are not there.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PAGES } from './iommu/memory.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));

const VENDORS = ['smmu', 'vtd', 'amd'];
const WAYS = { stage1: 'stage 1', stage2: 'stage 2', nested: 'nested' };
const INVALIDATIONS = 1_000_000;
/** Pages that nothing maps. */
const ABSENT = 0x8000_0000;
/** Caches for hits and invalidations, and such as hold nothing for long. */
const WARM = { tlb: 16384, tables: true };
const COLD = { tlb: 64, tables: false };

function shuffled(count) {
  const order = Uint32Array.from({ length: count }, (_, i) => i * 4096);
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

/** The peer's best of two runs, one before and one after this model's: neither has the machine's better moments alone. */
function faster(one, other) {
  if (!one || !other) return undefined;
  return Object.fromEntries(Object.keys(one).map((key) => [key, Math.min(one[key], other[key])]));
}

/** The address of an outcome; stops the benchmark where there is none. */
function translated(outcome) {
  if (outcome.kind !== 'translated') throw new Error(JSON.stringify(outcome));
  return outcome.pa;
}

function must(done) {
  if (!done) throw new Error('a walk faulted');
}

function compile(scratch, name, libraries) {
  const program = join(scratch, name);
  const flags =
    libraries.length === 0
      ? []
      : execFileSync('pkg-config', ['--cflags', '--libs', ...libraries], { encoding: 'utf8', stdio: 'pipe' })
          .trim()
          .split(/\s+/);
  execFileSync('cc', ['-O2', '-pthread', '-o', program, join(here, `peers/${name}.c`), ...flags], {
    stdio: 'pipe',
  });
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

function line(what, ns, other, goal = '') {
  const ratio =
    other === undefined
      ? ''
      : `  ${other.toFixed(1).padStart(7)} ns in C  ratio ${(ns / other).toFixed(2)}${goal}`;
  console.log(`${what.padEnd(40)} ${ns.toFixed(1).padStart(7)} ns${ratio}`);
}

/** By way, what walks to all of `order`. */
function walks({ one, two, first, second, table }) {
  const space = {
    descriptorHi: 0,
    descriptorLo: 0,
    descriptor(hi, lo) {
      if (!table(hi, lo)) return false;
      this.descriptorHi = two.outHi;
      this.descriptorLo = two.outLo | (lo & 0xfff);
      return true;
    },
  };
  return {
    stage1(order, sum) {
      for (let i = 0; i < order.length; i++) {
        must(first(order[i], null));
        sum[0] += one.outLo;
      }
    },
    stage2(order, sum) {
      for (let i = 0; i < order.length; i++) {
        must(second(0, order[i]));
        sum[0] += two.outLo;
      }
    },
    nested(order, sum) {
      for (let i = 0; i < order.length; i++) {
        must(first(order[i], space));
        must(second(one.outHi, one.outLo));
        sum[0] += two.outLo;
      }
    },
  };
}

/** The sum of where accesses to all of `order` lead. */
function hits(iommu, access, order) {
  let sum = 0;
  for (let i = 0; i < order.length; i++) {
    access.lo = order[i];
    sum += translated(iommu.translate(access));
  }
  return sum;
}

function coldAccesses(vendor, way) {
  const iommu = vendor.start(COLD);
  const access = vendor.accessOf(way);
  return (order) => {
    for (let i = 0; i < order.length; i++) {
      vendor.empty(iommu, way);
      access.lo = order[i];
      if (translated(iommu.translate(access)) !== order[i]) throw new Error('translated elsewhere');
    }
  };
}

/** Fills the IOTLB with `entries` pages; the round that it answers does half a queue of invalidations. */
function invalidations({ start, accessOf, commands }, mixed, entries) {
  const iommu = start(WARM);
  for (let i = 0; i < entries; i++) {
    translated(iommu.translate({ ...accessOf(commands.way), lo: i * 4096 }));
  }
  for (let i = 0; i < commands.count; i++) {
    const kind = (mixed ? { 8: 'pages', 9: 'other' }[i % 10] : undefined) ?? 'page';
    commands.put(i, kind, ABSENT + i * 4096);
  }
  let total = 0;
  const batch = commands.count / 2;
  const round = () => {
    total += batch;
    if (!commands.run(iommu, total)) throw new Error('commands are left');
  };
  return { batch, round };
}

function walkRows(vendor, order, bare) {
  const sum = new Int32Array(1);
  const walk = walks(vendor.walkers());
  const ours = {};
  const before = bare();
  for (const way of Object.keys(WAYS)) ours[way] = fastest(PAGES, 200, () => walk[way](order, sum));
  const plain = faster(before, bare());
  for (const way of Object.keys(WAYS)) {
    line(`${WAYS[way]} walk, cold`, ours[way], plain?.[way], way === 'nested' ? ' (goal 4)' : '');
  }
}

function hitRows(vendor, iotlb) {
  for (const way of ['stage2', 'nested']) {
    const iommu = vendor.start(WARM);
    const access = vendor.accessOf(way);
    for (const entries of [256, 4096]) {
      const pages = shuffled(entries);
      const rounds = Math.ceil(4_000_000 / entries);
      const before = iotlb?.(entries, rounds, 0);
      let sum = 0;
      const ns = fastest(entries, rounds, () => {
        sum += hits(iommu, access, pages);
      });
      if (!(sum > 0)) throw new Error('nothing was translated');
      const other = faster(before, iotlb?.(entries, rounds, 0));
      line(`${WAYS[way]} hit, ${entries} entries`, ns, other?.hit, ' (goal 1)');
    }
  }
}

function coldRows(vendor, order, bare) {
  for (const way of Object.keys(WAYS)) {
    const round = coldAccesses(vendor, way);
    const before = bare();
    const ns = fastest(PAGES, 200, () => round(order));
    line(`${WAYS[way]} access, cold`, ns, faster(before, bare())?.[`${way}Access`]);
  }
}

function invalidationRows(vendor, iotlb) {
  for (const entries of [16, 256, 4096]) {
    const other = iotlb?.(entries, 1, entries > 256 ? INVALIDATIONS / 50 : INVALIDATIONS / 10);
    for (const mixed of [false, true]) {
      const { batch, round } = invalidations(vendor, mixed, entries);
      const ns = fastest(batch, INVALIDATIONS / batch, round);
      const what = mixed ? '10^6 mixed invalidations' : 'invalidation of a page';
      line(`${what}, ${entries} entries`, ns, mixed ? other?.mixed : other?.page);
    }
  }
}

/** Prints the rows of one vendor. */
async function report(name) {
  const { vendor } = await import(`./iommu/${name}.mjs`);
  const { memory, roots } = vendor;
  const scratch = mkdtempSync(join(tmpdir(), `viommu-bench-${name}-`));
  try {
    const iotlb = peer(scratch, `${name}-iotlb`, ['glib-2.0'], 'cc, pkg-config or libglib2.0-dev');
    const walk = peer(scratch, `${name}-walk`, [], 'cc');
    const image = join(scratch, 'image');
    writeFileSync(image, memory.words);
    const order = shuffled(PAGES);
    const bare = () => walk?.(image, 0, roots.stage1, roots.stage2, PAGES, 200, 0);
    walkRows(vendor, order, bare);
    hitRows(vendor, iotlb);
    coldRows(vendor, order, bare);
    invalidationRows(vendor, iotlb);
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : VENDORS;
const unknown = wanted.find((name) => !VENDORS.includes(name));
if (unknown !== undefined) {
  console.error(`bench: there is no ${unknown}; there are ${VENDORS.join(', ')}`);
  process.exit(2);
}
if (wanted.length === 1) await report(wanted[0]);
else {
  for (const name of wanted) {
    console.log(name);
    const { status } = spawnSync(process.execPath, [join(here, 'iommu.mjs'), name], { stdio: 'inherit' });
    if (status !== 0) process.exitCode = 1;
  }
}
