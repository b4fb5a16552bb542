#!/usr/bin/env node
// Compiles Linux's io-pgtable-arm.c into a program, plays random requests on it, and writes requests and answers to
// arm-lpae.jsonl, which arm-lpae.test.ts compares with our page tables. Nothing of Linux is kept.
//
// record.mjs --linux DIRECTORY [--seed N]
//   --linux   an unpacked linux-source tree with drivers/iommu and include/linux

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const here = fileURLToPath(new URL('.', import.meta.url));
const { values } = parseArgs({
  options: { linux: { type: 'string' }, seed: { type: 'string', default: '1' } },
});
const linux = values.linux;
if (linux === undefined || !existsSync(join(linux, 'drivers/iommu/io-pgtable-arm.c'))) {
  console.error('record.mjs: --linux must name a Linux source tree that has drivers/iommu/io-pgtable-arm.c');
  process.exit(2);
}

/** Headers that the file asks for and kernel.h stands for. */
const STUBS = ['atomic', 'bitops', 'sizes', 'slab', 'types', 'dma-mapping', 'iommu'];

function compile(directory) {
  mkdirSync(join(directory, 'include/linux'), { recursive: true });
  mkdirSync(join(directory, 'include/asm'), { recursive: true });
  for (const name of STUBS) writeFileSync(join(directory, `include/linux/${name}.h`), '');
  writeFileSync(join(directory, 'include/asm/barrier.h'), '');
  writeFileSync(join(directory, 'iommu-pages.h'), '');
  copyFileSync(join(linux, 'include/linux/io-pgtable.h'), join(directory, 'include/linux/io-pgtable.h'));
  for (const name of ['io-pgtable-arm.c', 'io-pgtable-arm.h'])
    copyFileSync(join(linux, 'drivers/iommu', name), join(directory, name));
  const program = join(directory, 'arm-lpae');
  const flags = ['-O1', '-std=gnu11', '-w', '-include', join(here, 'kernel.h')];
  const paths = ['-I', join(directory, 'include'), '-I', directory, '-o', program];
  const done = spawnSync('cc', [...flags, ...paths, join(here, 'arm-lpae.c')], { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`cc: ${done.stderr}`);
  return program;
}

/** A generator of numbers from a seed: xorshift32. */
function dice(seed) {
  let state = (Number(seed) * 2654435761) >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
}

const roll = dice(values.seed);
const pick = (list) => list[roll(list.length)];
const hex = (value) => value.toString(16);
const big = (value) => BigInt(value);

const SIZES = {
  all: [12, 21, 30, 14, 25, 16, 29],
  '4K': [12, 21, 30],
  '16K': [14, 25],
  '64K': [16, 29],
  wide: [16, 29, 42],
};

function configuration() {
  const stage = pick([1, 2]);
  const sizes = pick(Object.values(SIZES));
  const oas = sizes.includes(42) ? 52 : pick([32, 36, 40, 42, 44, 48, 48, 52]);
  const ias = stage === 2 ? oas : pick([48, 48, 39, 52]);
  return {
    stage,
    sizes,
    ias,
    oas,
    coherent: pick([1, 1, 0]),
    hd: stage === 1 ? pick([0, 1]) : 0,
    fwb: stage === 2 ? pick([0, 1]) : 0,
  };
}

const bitmap = (sizes) => sizes.reduce((sum, bits) => sum | (1n << big(bits)), 0n);

/** Requests that collide often: a few places, sizes of the granule in use. */
function requests(config, sizes, ias, oas) {
  const limit = 1n << big(ias);
  const places = [0n, 1n << 30n, limit - (1n << 31n), (limit >> 1n) - (1n << 22n)].map((at) =>
    at < 0n ? 0n : at,
  );
  const lines = [];
  for (let i = 0; i < 40; i++) {
    const bits = roll(3) > 0 ? sizes[0] : pick(sizes);
    const size = 1n << big(bits);
    const iova = ((pick(places) + big(roll(2048)) * (1n << big(sizes[0]))) / size) * size;
    const wanted =
      bits === sizes[0] ? pick([1, 1, 2, 2, 3, 7, 7, 40, roll(4) === 0 ? 530 : 5]) : pick([1, 1, 2]);
    // Nobody asks for more than the table has.
    const room = Number((limit - iova) / size);
    const count = Math.max(1, Math.min(wanted, room));
    const pa =
      (((big(roll(0xffffffff)) << 20n) ^ big(roll(0xffffffff))) & ((1n << big(oas)) - 1n) & ~(size - 1n)) %
      (1n << big(oas));
    // READ, WRITE, CACHE, NOEXEC, MMIO in all combinations that a mapping may have.
    const prot = pick([1, 2, 3, 3, 3]) | pick([0, 4, 4, 4]) | pick([0, 0, 8]) | pick([0, 0, 0, 16]);
    const action = roll(10);
    if (action < 6) lines.push(`M ${hex(iova)} ${hex(pa)} ${hex(size)} ${hex(count)} ${hex(prot)}`);
    else if (action < 8) lines.push(`U ${hex(iova)} ${hex(size)} ${hex(count)}`);
    else if (action < 9 && config.stage === 1)
      lines.push(`D ${hex(iova)} ${hex(size * big(count))} ${roll(2)}`);
    else lines.push(`P ${hex(iova + big(roll(4096)))}`);
  }
  return lines;
}

function run(program, lines) {
  const done = spawnSync(program, [], {
    input: `${lines.join('\n')}\n`,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (done.status !== 0) throw new Error(`the program ended with ${done.status ?? done.signal}`);
  return done.stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => line.trim());
}

const directory = mkdtempSync(join(tmpdir(), 'golden-'));
try {
  const program = compile(directory);
  const records = [];
  for (let i = 0; i < 80; i++) {
    const config = configuration();
    const { stage, sizes, ias, oas, coherent, hd, fwb } = config;
    const first = `C ${stage} ${hex(ias)} ${hex(oas)} ${hex(bitmap(sizes))} ${coherent} ${hd} ${fwb}`;
    // What the table really has decides what it can be asked for.
    const made = run(program, [first])[0].split(' ');
    const got = BigInt(`0x${made[7]}`);
    const usable = [...Array(64).keys()].filter((bit) => (got >> big(bit)) & 1n);
    const lines = [first, ...requests(config, usable, parseInt(made[8], 16), parseInt(made[9], 16)), 'X'];
    records.push({ config, lines, answers: run(program, lines) });
  }
  writeFileSync(
    join(here, 'arm-lpae.jsonl'),
    records.map((record) => `${JSON.stringify(record)}\n`).join(''),
  );
  console.log(`${records.length} tables`);
} finally {
  rmSync(directory, { recursive: true });
}
