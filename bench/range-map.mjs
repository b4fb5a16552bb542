// RangeMap (packages/core/src/base/range-map.ts) beside GLib's GTree used as QEMU's iova-tree uses it (peers/gtree.c).
//
//   node bench/range-map.mjs [COUNT...]
//
// Maps COUNT ranges of 4 KiB in random order, looks each up, unmaps each, all in different random orders, and prints
// nanoseconds per call. map includes making the value and refusing overlaps; unmap finds what overlaps and deletes it
// until nothing does. Needs cc and libglib2.0-dev.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { build } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
const MEMORY = '--memory';
const MEMORY_MAPPINGS = 200_000;
const measureMemory = process.argv[2] === MEMORY;
const counts = process.argv.length > 2 ? process.argv.slice(2).map(Number) : [1_000, 100_000, 1_000_000];
setFlagsFromString('--expose_gc');
const collect = runInNewContext('gc');

let state = 88172645463325252n;
function random(below) {
  state ^= BigInt.asUintN(64, state << 13n);
  state ^= state >> 7n;
  state ^= BigInt.asUintN(64, state << 17n);
  return Number(state % BigInt(below));
}

function shuffledNumbers(count) {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random(i + 1);
    const swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
  return order;
}

function shuffled(count) {
  return Array.from(shuffledNumbers(count), (number) => BigInt(number) * 8192n);
}

const now = () => Number(process.hrtime.bigint());

/** One round: nanoseconds in all for [map, find, unmap]. */
function round(map, orders) {
  const [into, look, out] = orders;
  const t0 = now();
  for (let i = 0; i < into.length; i++) {
    const start = into[i];
    map.insert({ start, last: start + 4095n, translated: i * 4096, perm: 3 });
  }
  const t1 = now();
  let found = 0;
  for (const iova of look) if (map.find(iova + 100n) !== null) found++;
  const t2 = now();
  for (const start of out) {
    const last = start + 4095n;
    for (let value = map.first(start, last); value !== null; value = map.next(value, last)) map.delete(value);
  }
  const t3 = now();
  if (found !== into.length || map.size !== 0) throw new Error('wrong answers');
  return [t1 - t0, t2 - t1, t3 - t2];
}

function heldBytes() {
  for (let i = 0; i < 3; i++) collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** Bytes per mapping: the tree alone, and with the values and their bigints. Wants a process of its own. */
function memory(RangeMap, count) {
  round(new RangeMap(), [shuffled(1000), shuffled(1000), shuffled(1000)]);
  const order = shuffledNumbers(count);
  const maps = Array.from({ length: Math.ceil(MEMORY_MAPPINGS / count) }, () => new RangeMap());
  const total = maps.length * count;
  const values = Array.from({ length: total }, () => null);
  const before = heldBytes();
  for (let i = 0; i < total; i++) {
    const start = BigInt(order[i % count]) * 8192n;
    values[i] = { start, last: start + 4095n, translated: i, perm: 3 };
  }
  const between = heldBytes();
  for (let i = 0; i < total; i++) maps[Math.floor(i / count)].insert(values[i]);
  const after = heldBytes();
  if (maps.some((map) => map.size !== count)) throw new Error('wrong size');
  return { tree: (after - between) / total, all: (after - before) / total };
}

function ours(RangeMap, count, rounds) {
  const orders = [shuffled(count), shuffled(count), shuffled(count)];
  const map = new RangeMap();
  for (let i = 0; i < Math.max(1, 20_000 / count); i++) round(map, orders);
  collect();
  const spent = [0, 0, 0];
  for (let i = 0; i < rounds; i++) round(map, orders).forEach((ns, phase) => (spent[phase] += ns));
  const [mapNs, findNs, unmapNs] = spent.map((ns) => ns / count / rounds);
  return { map: mapNs, find: findNs, unmap: unmapNs };
}

async function load(into) {
  const bundle = join(into, 'range-map.mjs');
  const source = join(here, '../packages/core/src/base/range-map.ts');
  await build({ entryPoints: [source], bundle: true, format: 'esm', target: 'es2023', outfile: bundle });
  return (await import(pathToFileURL(bundle).href)).RangeMap;
}

function compilePeer(into) {
  const gtree = join(into, 'gtree');
  const flags = execFileSync('pkg-config', ['--cflags', '--libs', 'glib-2.0'], { encoding: 'utf8' });
  execFileSync('cc', ['-O2', '-o', gtree, join(here, 'peers/gtree.c'), ...flags.trim().split(/\s+/)]);
  return gtree;
}

function json(command, args) {
  return JSON.parse(execFileSync(command, args.map(String), { encoding: 'utf8' }));
}

const cell = (value) => String(value).padStart(10);

function report(count, peer, own, bytes) {
  const line = (name, cells) =>
    console.log(`${String(count).padEnd(9)}${name.padEnd(13)}${cells.map(cell).join('')}`);
  const times = (r) => [r.map, r.find, r.unmap, r.map + r.unmap];
  line('GTree', [...times(peer).map((ns) => ns.toFixed(0)), peer.bytes.toFixed(0)]);
  line('RangeMap', [
    ...times(own).map((ns) => ns.toFixed(0)),
    `${bytes.tree.toFixed(0)}/${bytes.all.toFixed(0)}`,
  ]);
  const ratios = times(own).map((ns, i) => ns / times(peer)[i]);
  line(
    'ratio',
    [...ratios, bytes.all / peer.bytes].map((ratio) => ratio.toFixed(2)),
  );
}

try {
  const RangeMap = await load(scratch);
  if (measureMemory) {
    console.log(JSON.stringify(memory(RangeMap, Number(process.argv[3]))));
  } else {
    const gtree = compilePeer(scratch);
    console.log('ns per call'.padEnd(22) + ['map', 'find', 'unmap', 'map+unmap', 'bytes'].map(cell).join(''));
    for (const count of counts) {
      const rounds = Math.max(1, Math.round(1_000_000 / count));
      const peer = json(gtree, [count, rounds]);
      const own = ours(RangeMap, count, rounds);
      report(count, peer, own, json(process.execPath, [fileURLToPath(import.meta.url), MEMORY, count]));
    }
    console.log('bytes per mapping; RangeMap: tree / tree, values and bigints; GTree: nodes and values');
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
