// What Arm's tables are asked: drivers/iommu/io-pgtable-arm.c.

import { big, dice, hex } from '../dice.mjs';
import { ask, compile } from './program.mjs';

export const name = 'arm-lpae';

const HEADERS = ['atomic', 'bitops', 'sizes', 'slab', 'types', 'dma-mapping', 'iommu'];
const TABLES = 80;

const SIZES = {
  all: [12, 21, 30, 14, 25, 16, 29],
  '4K': [12, 21, 30],
  '16K': [14, 25],
  '64K': [16, 29],
  wide: [16, 29, 42],
};

function configuration({ pick }) {
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
function requests({ roll, pick }, config, sizes, ias, oas) {
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

export function record(linux, directory, seed) {
  const program = compile({
    linux,
    directory,
    sources: {
      'include/linux/io-pgtable.h': 'include/linux/io-pgtable.h',
      'drivers/iommu/io-pgtable-arm.c': 'io-pgtable-arm.c',
      'drivers/iommu/io-pgtable-arm.h': 'io-pgtable-arm.h',
    },
    stubs: [...HEADERS.map((each) => `include/linux/${each}.h`), 'include/asm/barrier.h', 'iommu-pages.h'],
    shim: name,
  });
  const random = dice(seed);
  return Array.from({ length: TABLES }, () => {
    const config = configuration(random);
    const { stage, sizes, ias, oas, coherent, hd, fwb } = config;
    const first = `C ${stage} ${hex(ias)} ${hex(oas)} ${hex(bitmap(sizes))} ${coherent} ${hd} ${fwb}`;
    // What the table really has decides what it can be asked for.
    const made = ask(program, [first])[0].split(' ');
    const got = BigInt(`0x${made[7]}`);
    const usable = [...Array(64).keys()].filter((bit) => (got >> big(bit)) & 1n);
    const all = requests(random, config, usable, parseInt(made[8], 16), parseInt(made[9], 16));
    const lines = [first, ...all, 'X'];
    return { config, lines, answers: ask(program, lines) };
  });
}
