// What AMD's and Intel's tables are asked: drivers/iommu/generic_pt, as drivers/iommu/amd and drivers/iommu/intel have them.

import { big, dice, hex } from '../dice.mjs';
import { ask, compile } from './program.mjs';

export const name = 'generic-pt';

const TABLES = 160;
const REQUESTS = 45;

const LINUX_HEADERS = ['args', 'stringify', 'kconfig'];
const STUBS = [
  ...[
    'types',
    'build_bug',
    'bits',
    'atomic',
    'bug',
    'bitops',
    'log2',
    'export',
    'iommu',
    'cleanup',
    'dma-mapping',
  ],
  ...['bitfield', 'container_of', 'mem_encrypt', 'minmax', 'sizes', 'string', 'mm_types'],
];

/** enum pt_features */
const FEATURE = {
  DMA_INCOHERENT: 0,
  DYNAMIC_TOP: 2,
  SIGN_EXTEND: 3,
  FLUSH_RANGE: 4,
  FLUSH_RANGE_NO_GAPS: 5,
  AMDV1_ENCRYPT_TABLES: 7,
  AMDV1_FORCE_COHERENCE: 8,
  X86_64_AMD_ENCRYPT_TABLES: 7,
  VTDSS_FORCE_COHERENCE: 7,
  VTDSS_FORCE_WRITEABLE: 8,
};
const featureBits = (names) => names.reduce((sum, each) => sum | (1 << FEATURE[each]), 0);

const ALL_SIZES = (1n << 64n) - 1n;
const withoutSizes = (...bits) => bits.reduce((sum, each) => sum & ~(1n << big(each)), ALL_SIZES);
const OUT_BITS = 52;

/**
 * Hardware, by the fields of its registers, and what Linux's driver makes a table with for it: amd/iommu.c
 * amd_iommu_domain_alloc_paging_v1() and _v2(), intel/iommu.c intel_iommu_domain_alloc_first_stage() and
 * _second_stage().
 */
const KINDS = {
  amdV1({ pick }) {
    const va = pick([64, 64, 57, 48, 40]);
    const npCache = pick([0, 0, 1]);
    const flush = npCache === 1 ? 'FLUSH_RANGE_NO_GAPS' : 'FLUSH_RANGE';
    const features = featureBits(['DYNAMIC_TOP', 'AMDV1_ENCRYPT_TABLES', 'AMDV1_FORCE_COHERENCE', flush]);
    return { format: 'amdv1', hardware: { vaSize: va, npCache }, features, va, top: 2, sizes: ALL_SIZES };
  },
  amdV2({ pick }) {
    const levels = pick([4, 5]);
    const npCache = pick([0, 0, 1]);
    const flush = npCache === 1 ? 'FLUSH_RANGE_NO_GAPS' : 'FLUSH_RANGE';
    const features = featureBits(['X86_64_AMD_ENCRYPT_TABLES', flush]);
    const va = levels === 5 ? 56 : 47;
    return {
      format: 'x86_64',
      hardware: { levels, npCache },
      features,
      va,
      top: levels - 1,
      sizes: ALL_SIZES,
    };
  },
  vtdFirst({ pick }) {
    const [mgaw, fs5lp, va, top] = pick([
      [48, 0, 48, 3],
      [57, 0, 48, 3],
      [57, 1, 57, 4],
      [52, 1, 52, 4],
      [39, 1, 39, 3],
    ]);
    const [coherent, fs1gp] = [pick([0, 1]), pick([0, 1, 1])];
    const more = coherent === 1 ? [] : ['DMA_INCOHERENT'];
    const features = featureBits(['SIGN_EXTEND', 'FLUSH_RANGE', ...more]);
    const sizes = fs1gp === 1 ? ALL_SIZES : withoutSizes(30);
    return { format: 'x86_64', hardware: { mgaw, fs5lp, coherent, fs1gp }, features, va, top, sizes };
  },
  vtdSecond({ pick }) {
    const [mgaw, sagaw, va, top] = pick([
      [39, 0b0010, 39, 2],
      [39, 0b0110, 39, 3],
      [39, 0b0100, 39, 3],
      [45, 0b0100, 45, 3],
      [48, 0b0110, 48, 3],
      [57, 0b0110, 48, 3],
      [48, 0b1000, 48, 4],
      [52, 0b1100, 52, 4],
      [57, 0b1110, 57, 4],
    ]);
    const [coherent, parent] = [pick([0, 1]), pick([0, 0, 1])];
    const sslps = pick([0b00, 0b01, 0b11, 0b11, 0b11]);
    const more = [
      ...(coherent === 1 ? [] : ['DMA_INCOHERENT']),
      ...(parent === 1 ? ['VTDSS_FORCE_WRITEABLE'] : []),
    ];
    const features = featureBits(['FLUSH_RANGE', ...more]);
    const sizes = withoutSizes(...[21, 30].filter((_, i) => ((sslps >> i) & 1) === 0));
    return { format: 'vtdss', hardware: { mgaw, sagaw, coherent, parent, sslps }, features, va, top, sizes };
  },
};

/** No permission; an address that is too wide; within a page; of no bytes; beyond the end. */
const REFUSED = [
  'M 0 0 1000 0',
  'M 0 10000000000000 1000 3',
  'M 800 0 1000 3',
  'M 0 800 2000 3',
  'M 0 0 0 3',
  'U 0 0',
  'M fffffffffffff000 0 2000 3',
];

/** Requests that collide often: a few places, and of each size a few pages, more or less. */
class Requests {
  #random;
  #sizes;
  #limit;
  #dirty;
  /** Places that were mapped, to be unmapped and looked at. */
  #ranges = [];

  constructor(random, { sizes, limit, dirty }) {
    this.#random = random;
    this.#sizes = sizes;
    this.#limit = limit;
    this.#dirty = dirty;
  }

  next(kind) {
    const { roll, pick } = this.#random;
    const action = roll(100);
    if (action < 50 || this.#ranges.length === 0) return this.#map();
    if (action < 72) return this.#unmap();
    if (action < 80) return `P ${hex(this.#address())}`;
    if (action < 84) return roll(3) === 0 ? `A ${roll(4)}` : 'A 7fffffff';
    if (action < 86 && kind === 'vtdSecond') return `F ${FEATURE.VTDSS_FORCE_COHERENCE}`;
    if (action < 88) return pick([...REFUSED, `M ${hex(this.#limit % (1n << 64n))} 0 1000 3`]);
    if (!this.#dirty) return this.#unmap();
    if (action < 93) return `W ${hex(this.#address())}`;
    const [iova, size] = this.#within();
    return `D ${hex(iova)} ${hex(size)} ${roll(2)}`;
  }

  /** An address in or near what was mapped. */
  #address() {
    const { roll, pick } = this.#random;
    const [iova, size] = pick(this.#ranges);
    const at = iova + pick([0n, size - 1n, size / 2n + big(roll(4096)), size]);
    return at < this.#limit ? at : iova;
  }

  #map() {
    const { roll, pick } = this.#random;
    const bits = big(pick(this.#sizes));
    const page = 1n << bits;
    // Some have small pages before or behind the large ones.
    const lead = pick([0n, 0n, 0n, big(roll(7))]) << 12n;
    const tail = pick([0n, 0n, 0n, big(roll(7))]) << 12n;
    const places = [
      0n,
      0n,
      page,
      3n * page,
      1n << 21n,
      1n << 30n,
      1n << 39n,
      this.#limit / 2n,
      this.#limit - 4n * page,
    ];
    const place = pick(places);
    let start = ((place < 0n ? 0n : place) / page) * page + lead * pick([0n, 1n]);
    const count = big(pick([1, 1, 1, 2, 3, 5]));
    let size = count * page + tail;
    if (start + size > this.#limit) [start, size] = [0n, page];
    if (start + size > this.#limit) return `P ${hex(start)}`;
    // Like `start` below some bit, but not so that the range falls into very many pages.
    const alike = pick([bits, bits, bits + 1n, bits + 3n, bits > 16n ? bits - 4n : 12n]);
    // The page at the start may be as large as its alignment only.
    const unit = 1n << (alike > 12n ? alike : 12n);
    const random = ((big(roll(0xffffffff)) << 20n) ^ (big(roll(0xffffffff)) << 8n)) & ((1n << 51n) - 1n);
    const pa = ((random / unit) * unit + (start % unit)) % (1n << 51n);
    this.#ranges.push([start, size]);
    const prot = pick([1, 2, 3, 3, 3]) | pick([0, 4]) | pick([0, 0, 16]);
    return `M ${hex(start)} ${hex(pa)} ${hex(size)} ${hex(prot)}`;
  }

  #unmap() {
    const [iova, size] = this.#within();
    return `U ${hex(iova)} ${hex(size)}`;
  }

  /** What was mapped, or a part of it, or more. */
  #within() {
    const { roll, pick } = this.#random;
    const [iova, size] = pick(this.#ranges);
    const pages = size >> 12n;
    const some = pages > 1n ? ((big(roll(0x7fffffff)) % (pages - 1n)) + 1n) << 12n : size;
    const [at, length] = pick([
      [iova, size],
      [iova, size],
      [iova, some],
      [iova + size - some, some],
      [iova, size + 0x4000n],
    ]);
    return at + length <= this.#limit ? [at, length] : [iova, size];
  }
}

export function record(linux, directory, seed) {
  // Fields of struct pt_iommu_*_cfg and struct pt_iommu_*_hw_info.
  const formats = {
    amdv1: { TOP: 'starting_level', LEVELS: 'mode' },
    x86_64: { TOP: 'top_level', LEVELS: 'levels' },
    vtdss: { TOP: 'top_level', LEVELS: 'aw' },
  };
  const programs = Object.fromEntries(
    Object.entries(formats).map(([format, names]) => [format, program(linux, directory, format, names)]),
  );
  const random = dice(seed);
  return Array.from({ length: TABLES }, (_, i) => {
    const kind = Object.keys(KINDS)[i % 4];
    const { format, hardware, features, va, top, sizes } = KINDS[kind](random);
    const first = `C ${hex(features)} ${hex(va)} ${hex(OUT_BITS)} ${hex(top)} ${hex(sizes)}`;
    // What the table really has decides what it can be asked for.
    const [, got, last] = ask(programs[format], [first])[0].split(' ');
    const has = [...Array(64).keys()].filter((bit) => (BigInt(`0x${got}`) >> big(bit)) & 1n);
    const dirty = format !== 'x86_64';
    const requests = new Requests(random, { sizes: has, limit: BigInt(`0x${last}`) + 1n, dirty });
    const lines = [first, ...Array.from({ length: REQUESTS }, () => requests.next(kind)), 'X'];
    return { kind, hardware, lines, answers: ask(programs[format], lines) };
  });
}

function program(linux, directory, format, { TOP, LEVELS }) {
  const header = (each) => `include/linux/${each}.h`;
  return compile({
    linux,
    directory,
    sources: {
      'drivers/iommu/generic_pt': 'generic_pt',
      'include/linux/generic_pt': 'include/linux/generic_pt',
      ...Object.fromEntries(LINUX_HEADERS.map((each) => [header(each), header(each)])),
    },
    stubs: [...STUBS.map(header), 'include/generated/autoconf.h', 'include/asm/page.h', 'iommu-pages.h'],
    shim: name,
    name: format,
    flags: [
      `-DGENERIC_PT_FORMAT="generic_pt/fmt/iommu_${format}.c"`,
      `-DGENERIC_PT_TOP=${TOP}`,
      `-DGENERIC_PT_LEVELS=${LEVELS}`,
    ],
  });
}
