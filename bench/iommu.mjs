// What the benchmarks of the IOMMU models share (smmu.mjs, vtd.mjs, amd.mjs): memory, tables, peers, and the rows, which
// are the same for all three. Each row is this model beside plain C, in one run:
//
// - A hit is a whole access: from the device's request to an outcome, out of the IOTLB. The peer finds the device, looks
//   into a GHashTable as QEMU does, and fills an answer in (peers/*-iotlb.c). Goal: ratio 1.
// - A walk is cold: no cache at all, here as there. Stage 1, stage 2, and both, where every table of stage 1 is found
//   through stage 2: 24 loads. No table of a walk shares a stage 2 page with another (peers/*-walk.c). Goal: nested,
//   ratio 4.
// - A cold access is a whole access whose IOTLB has just been emptied, with the emptying: it looks up what is not there,
//   walks, and fills. There is no such thing in the peer: the ratio is to its bare walk.
// - Invalidations go through the queue in memory, those of C are calls. One row is of pages by address; in the mix eight
//   of ten are that, one is of 16 pages, one of another address space. All name what is not there: the fill stays.
//
// A peer needs cc, that of the IOTLB pkg-config and libglib2.0-dev too; a row goes without where they are not there.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));

/** Memory starts at physical address 0. Page tables come from TABLES on; what is below is the vendor's. */
const BYTES = 64 << 20;
const TABLES = 0x10_0000;
const PAGES = 4096;
const INVALIDATIONS = 1_000_000;
/** Requests to fill caches with, and pages that nothing maps. */
export const ABSENT = 0x8000_0000;
/** Caches for hits and invalidations, and such as hold nothing for long. */
export const WARM = { tlb: 16384, tables: true };
export const COLD = { tlb: 64, tables: false };

/** All of memory in one array. */
export class Flat {
  words = new Uint32Array(BYTES / 4);
  #free = TABLES;

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

  put(pa, words) {
    this.words.set(words, pa / 4);
  }

  /** A page for a table. */
  take() {
    this.#free += 4096;
    return this.#free - 4096;
  }

  /** Where the next table will be: all that there are lie below. */
  get tablesEnd() {
    return this.#free;
  }
}

/** 4K tables of four levels. `table` and `leaf` give the two words that an entry has besides its address. */
class Tables {
  constructor(memory, { table, leaf }) {
    this.memory = memory;
    this.table = table;
    this.leaf = leaf;
    this.root = memory.take();
  }

  /** Maps a page to itself. */
  map(address) {
    const { words } = this.memory;
    let base = this.root;
    for (let level = 4; level > 1; level--) {
      const at = base / 4 + 2 * (Math.floor(address / 2 ** (3 + 9 * level)) % 512);
      if (words[at] === 0) this.#set(at, this.memory.take(), this.table(level));
      base = words[at] & ~0xfff;
    }
    this.#set(base / 4 + 2 * (Math.floor(address / 4096) % 512), address, this.leaf);
  }

  #set(at, address, [lo, hi]) {
    this.memory.words[at] = (address | lo) >>> 0;
    this.memory.words[at + 1] = hi;
  }
}

/** Tables of both stages; stage 2 maps those of stage 1 as well. All map pages to themselves: one image serves all ways. */
export function bothStages(memory, first, second) {
  const one = new Tables(memory, first);
  const two = new Tables(memory, second);
  for (let page = 0; page < PAGES; page++) one.map(page * 4096);
  const end = memory.tablesEnd;
  for (let page = 0; page < PAGES; page++) two.map(page * 4096);
  for (let at = TABLES; at < end; at += 4096) two.map(at);
  return { stage1: one.root, stage2: two.root };
}

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
export function translated(outcome) {
  if (outcome.kind !== 'translated') throw new Error(JSON.stringify(outcome));
  return outcome.pa;
}

export function must(done) {
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

function line(what, ns, other, goal = '') {
  const ratio =
    other === undefined
      ? ''
      : `  ${other.toFixed(1).padStart(7)} ns in C  ratio ${(ns / other).toFixed(2)}${goal}`;
  console.log(`${what.padEnd(40)} ${ns.toFixed(1).padStart(7)} ns${ratio}`);
}

const WAYS = { stage1: 'stage 1', stage2: 'stage 2', nested: 'nested' };

/**
 * Prints the rows of one vendor:
 *
 * - `name`: of its peers; `memory` and `roots`, as bothStages() gives them
 * - `walks`: by way, what walks all of `order`
 * - `accesses(way)`: what makes an access, with its IOTLB emptied before each, of all of `order`; it checks the outcome
 * - `hits(way)`: what makes an access of all of `order` and adds to `sum`
 * - `invalidations(mixed, entries)`: fills the IOTLB with `entries` pages; what it answers does `batch` invalidations
 */
export function report({ name, memory, roots, walks, accesses, hits, invalidations }) {
  const scratch = mkdtempSync(join(tmpdir(), `viommu-bench-${name}-`));
  try {
    const iotlb = peer(scratch, `${name}-iotlb`, ['glib-2.0'], 'cc, pkg-config or libglib2.0-dev');
    const walk = peer(scratch, `${name}-walk`, [], 'cc');
    const image = join(scratch, 'image');
    writeFileSync(image, memory.words);
    const order = shuffled(PAGES);
    const sum = new Int32Array(1);
    const bare = () => walk?.(image, 0, roots.stage1, roots.stage2, PAGES, 200, 0);
    const ours = {};
    let plain = bare();
    for (const way of Object.keys(WAYS)) ours[way] = fastest(PAGES, 200, () => walks[way](order, sum));
    plain = faster(plain, bare());
    for (const way of Object.keys(WAYS)) {
      line(`${WAYS[way]} walk, cold`, ours[way], plain?.[way], way === 'nested' ? ' (goal 4)' : '');
    }
    for (const way of ['stage2', 'nested']) {
      for (const entries of [256, 4096]) {
        const pages = shuffled(entries);
        const total = new Float64Array(1);
        const rounds = Math.ceil(4_000_000 / entries);
        const round = hits(way);
        const before = iotlb?.(entries, rounds, 0);
        const ns = fastest(entries, rounds, () => round(pages, total));
        if (!(total[0] > 0)) throw new Error('nothing was translated');
        const other = faster(before, iotlb?.(entries, rounds, 0));
        line(`${WAYS[way]} hit, ${entries} entries`, ns, other?.hit, ' (goal 1)');
      }
    }
    for (const way of Object.keys(WAYS)) {
      const round = accesses(way);
      line(
        `${WAYS[way]} access, cold`,
        fastest(PAGES, 200, () => round(order)),
        plain?.[way],
      );
    }
    for (const entries of [16, 256, 4096]) {
      const other = iotlb?.(entries, 1, entries > 256 ? INVALIDATIONS / 50 : INVALIDATIONS / 10);
      for (const mixed of [false, true]) {
        const { batch, round } = invalidations(mixed, entries);
        const ns = fastest(batch, INVALIDATIONS / batch, round);
        const what = mixed ? '10^6 mixed invalidations' : 'invalidation of a page';
        line(`${what}, ${entries} entries`, ns, mixed ? other?.mixed : other?.page);
      }
    }
  } finally {
    rmSync(scratch, { recursive: true });
  }
}
