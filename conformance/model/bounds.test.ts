import { describe, expect, test } from 'vitest';
import { findProfile } from '@viommu/core/iommufd/profile';
import type { KernelOptions } from '@viommu/core/machine/kernel';
import type { OpenFile } from '@viommu/core/memory/file';
import { Player } from '../transcripts/play.ts';
import { StructWriter } from './script/script.ts';

// The largest numbers that a program can write into a struct: an errno, or an end within what the program has.

const LONG = process.env['VIOMMU_LONG'] !== undefined;
const MANY = LONG ? 1_000_000 : 100_000;
/** Holders of the same pages; each is looked for among the others. */
const SHARED = 10_000;

const ARENA = 0x2000_0000_0000n;
const ARENA_BYTES = 64n << 20n;
const AUX = 0x3000_0000_0000n;
const STRUCT = 0x4000_0000_0000n;
const LARGE = 0x5000_0000_0000n;
const APERTURE = 0x100_0000n;
const U32_MAX = 0xffff_ffff;
const U64_MAX = (1n << 64n) - 1n;

const EFAULT = 14;
const EINVAL = 22;
const ENOENT = 2;
const ENOMEM = 12;
const E2BIG = 7;
const EOVERFLOW = 75;

/** How many times core has looked at the program's memory. */
class Bench {
  readonly player: Player;
  readonly context: OpenFile;
  accesses = 0;

  constructor(options: KernelOptions = {}) {
    this.player = new Player(options);
    this.player.step('C 0');
    const file = this.player.process.file(this.player.slots[0]!);
    if (file === null || !('ioctl' in file)) throw new Error('no context');
    this.context = file;
    const { memory } = this.player.process;
    const read = memory.read.bind(memory);
    const write = memory.write.bind(memory);
    memory.read = (va, into) => {
      this.accesses++;
      return read(va, into);
    };
    memory.write = (va, from) => {
      this.accesses++;
      return write(va, from);
    };
  }

  /** Answers 0 or more, or a negative errno. */
  ioctl(command: number, struct: StructWriter | Uint8Array): number {
    const bytes = struct instanceof Uint8Array ? struct : struct.bytes;
    this.player.process.memory.write(STRUCT, bytes);
    this.accesses = 0;
    return this.context.ioctl(this.player.task, 0x3b00 | command, STRUCT);
  }

  test(op: number, fill: (struct: StructWriter) => void): number {
    const struct = new StructWriter(72).u32(4, op);
    fill(struct);
    return this.ioctl(0xa0, struct);
  }

  word(at: number): number {
    const bytes = new Uint8Array(4);
    this.player.process.memory.read(STRUCT + BigInt(at), bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  long(at: number): bigint {
    const bytes = new Uint8Array(8);
    this.player.process.memory.read(STRUCT + BigInt(at), bytes);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  ioas(): number {
    expect(this.ioctl(0x81, new StructWriter(12))).toBe(0);
    return this.word(8);
  }

  /** Asks for the same `count` times. Answers how often that was refused. */
  refusals(count: number, command: number, next: (index: number) => StructWriter | Uint8Array): number {
    let refused = 0;
    for (let i = 0; i < count; i++) if (this.ioctl(command, next(i)) !== 0) refused++;
    return refused;
  }

  /** A device on an IOAS. */
  device(ioas: number): { selftest: number; device: number } {
    expect(this.test(12, (struct) => struct.u32(8, ioas).u32(28, 4))).toBe(0);
    return { selftest: this.word(16), device: this.word(24) };
  }

  map(ioas: number, iova: bigint, length: bigint, va = ARENA): number {
    const struct = new StructWriter(40).u32(4, 7).u32(8, ioas);
    return this.ioctl(0x85, struct.u64(16, va).u64(24, length).u64(32, iova));
  }

  parent(device: number, ioas: number): number {
    const struct = new StructWriter(48).u32(4, 3).u32(8, device).u32(12, ioas);
    expect(this.ioctl(0x89, struct)).toBe(0);
    return this.word(16);
  }

  viommu(device: number, hwpt: number): number {
    const struct = new StructWriter(40).u32(8, 0xdeadbeef).u32(12, device).u32(16, hwpt);
    expect(this.ioctl(0x90, struct)).toBe(0);
    return this.word(20);
  }

  vdevice(viommu: number, device: number): void {
    expect(this.ioctl(0x91, new StructWriter(24).u32(4, viommu).u32(8, device).u64(16, 1n))).toBe(0);
  }

  nested(device: number, on: number): number {
    this.player.step('A 0 0500000000000000');
    const struct = new StructWriter(48).u32(8, device).u32(12, on).u32(24, 0xdead).u32(28, 8);
    expect(this.ioctl(0x89, struct.u64(32, AUX))).toBe(0);
    return this.word(16);
  }
}

function invalidate(id: number, va: bigint, entryLength: number, entries: number): StructWriter {
  return new StructWriter(32).u32(4, id).u64(8, va).u32(16, 0xdeadbeef).u32(20, entryLength).u32(24, entries);
}

describe('an invalidation', () => {
  function nestedAndViommu(options: KernelOptions = {}): { bench: Bench; nested: number; viommu: number } {
    const bench = new Bench(options);
    const ioas = bench.ioas();
    const { device } = bench.device(ioas);
    const viommu = bench.viommu(device, bench.parent(device, ioas));
    bench.vdevice(viommu, device);
    return { bench, viommu, nested: bench.nested(device, viommu) };
  }

  test.each([U32_MAX, (1 << 19) + 1])('of %i entries is refused before one of them is read', (entries) => {
    const { bench, nested, viommu } = nestedAndViommu();
    for (const [id, length] of [
      [nested, 8],
      [viommu, 12],
    ] as const) {
      expect(bench.ioctl(0x8d, invalidate(id, ARENA, length, entries))).toBe(-EINVAL);
      expect(bench.word(24)).toBe(0);
      expect(bench.accesses).toBeLessThan(8);
    }
  });

  test('of 2^32 - 1 entries ends where memory ends, in a kernel without a bound', () => {
    const { bench, nested } = nestedAndViommu({ profile: findProfile('linux-7.1')! });
    const mebibyte = 1n << 20n;
    expect(bench.ioctl(0x8d, invalidate(nested, ARENA + ARENA_BYTES - mebibyte, 8, U32_MAX))).toBe(-EFAULT);
    expect(bench.word(24)).toBe(Number(mebibyte) / 8);
  });

  test('that is copied as a whole is refused where kmalloc() refuses', () => {
    for (const profile of [findProfile('linux-7.1')!, findProfile('linux-7.3')!]) {
      const { bench, viommu } = nestedAndViommu({ profile });
      expect(bench.ioctl(0x8d, invalidate(viommu, ARENA, 12, 349_526))).toBe(-ENOMEM);
      // Linux tells how many entries were done, and has not yet said that there are none.
      expect(bench.word(24)).toBe(349_526);
      expect(bench.accesses).toBeLessThan(8);
      const old = nestedAndViommu({ profile: findProfile('linux-7.1')! });
      expect(old.bench.ioctl(0x8d, invalidate(old.viommu, ARENA, 12, U32_MAX))).toBe(-ENOMEM);
    }
  });

  test('of 2^19 entries is done', () => {
    const { bench, nested } = nestedAndViommu();
    expect(bench.ioctl(0x8d, invalidate(nested, ARENA, 8, 1 << 19))).toBe(0);
    expect(bench.word(24)).toBe(1 << 19);
    expect(bench.accesses).toBeLessThan(200);
  });
});

describe('a mapping', () => {
  const lengths = [
    U64_MAX,
    U64_MAX - 1n,
    U64_MAX - 4095n,
    U64_MAX - 4096n,
    1n << 63n,
    (1n << 63n) - 4096n,
    1n << 52n,
  ];

  test.each(lengths)('of 0x%x bytes is refused or takes no memory', (length) => {
    const bench = new Bench();
    const ioas = bench.ioas();
    for (const va of [0n, ARENA, U64_MAX - length, U64_MAX - 4095n])
      for (const iova of [0n, APERTURE, U64_MAX - length + 1n, 1n << 63n]) {
        const rc = bench.map(ioas, BigInt.asUintN(64, iova), length, BigInt.asUintN(64, va));
        expect([0, -EINVAL, -EOVERFLOW, -17]).toContain(rc);
        if (rc === 0) {
          // It has to be pinned for a domain, and is not all there.
          expect([-EFAULT, -98]).toContain(bench.test(2, (struct) => struct.u32(8, ioas)));
          expect(bench.ioctl(0x86, new StructWriter(24).u32(4, ioas).u64(16, U64_MAX))).toBe(0);
        }
      }
    expect(bench.player.kernel.physical.frames.chunks).toBe(0);
  });

  test('for a domain is refused where the arena ends, however long it is', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    bench.device(ioas);
    expect(bench.map(ioas, APERTURE, ARENA_BYTES + 4096n)).toBe(-EFAULT);
    expect(bench.player.kernel.physical.frames.pinned).toBe(0);
    expect(bench.map(ioas, APERTURE, ARENA_BYTES)).toBe(0);
    expect(bench.player.kernel.physical.frames.pinned).toBe(Number(ARENA_BYTES) / 4096);
  });
});

describe('a dirty bitmap', () => {
  test('of all IOVAs ends with what is mapped', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    const { device } = bench.device(ioas);
    const hwpt = bench.parent(device, ioas);
    expect(bench.map(ioas, APERTURE, 1n << 20n)).toBe(0);
    expect(bench.ioctl(0x8b, new StructWriter(16).u32(4, 1).u32(8, hwpt))).toBe(0);
    const dirty = (iova: bigint, length: bigint, pageSize: bigint): number =>
      bench.ioctl(
        0x8c,
        new StructWriter(48).u32(4, hwpt).u64(16, iova).u64(24, length).u64(32, pageSize).u64(40, AUX),
      );
    for (const pageSize of [2048n, 4096n, 1n << 24n]) {
      expect(dirty(0n, U64_MAX - pageSize + 1n, pageSize)).toBe(0);
      expect(dirty(APERTURE, 1n << 63n, pageSize)).toBe(0);
      expect(bench.accesses).toBeLessThan(16);
    }
  });
});

describe('a list of ranges', () => {
  test('has room for 2^32 - 1 and is as long as it is', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    expect(bench.ioctl(0x84, new StructWriter(32).u32(4, ioas).u32(8, U32_MAX).u64(16, AUX))).toBe(0);
    expect(bench.word(8)).toBe(1);
    expect(bench.accesses).toBeLessThan(8);
  });

  test('of 2^32 - 1 allowed ranges ends where memory does', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    const ranges = new BigUint64Array(4096 * 2);
    for (let i = 0; i < 4096; i++) ranges.set([BigInt(i) * 8192n, BigInt(i) * 8192n + 4095n], i * 2);
    bench.player.process.memory.map(LARGE, 65536n);
    bench.player.process.memory.write(LARGE, new Uint8Array(ranges.buffer));
    expect(bench.ioctl(0x82, new StructWriter(24).u32(4, ioas).u32(8, U32_MAX).u64(16, LARGE))).toBe(-EFAULT);
    expect(bench.accesses).toBeLessThan(5000);
    expect(bench.ioctl(0x82, new StructWriter(24).u32(4, ioas).u32(8, 4096).u64(16, LARGE))).toBe(0);
  });
});

describe('a struct', () => {
  test('of 2^32 - 1 bytes is refused where the program has something behind it, or nothing', () => {
    const bench = new Bench();
    expect(bench.ioctl(0x81, new StructWriter(12).u32(0, U32_MAX))).toBe(-E2BIG);
    const { memory } = bench.player.process;
    memory.map(LARGE, 16n << 20n);
    memory.write(LARGE, new StructWriter(12).u32(0, U32_MAX).bytes);
    bench.accesses = 0;
    expect(bench.context.ioctl(bench.player.task, 0x3b81, LARGE)).toBe(-EFAULT);
    expect(bench.accesses).toBeLessThan(1000);
  });

  test('of hardware information for 2^32 - 1 bytes ends where memory does', () => {
    const bench = new Bench();
    const { device } = bench.device(bench.ioas());
    const struct = new StructWriter(40).u32(8, device).u32(12, U32_MAX).u64(16, AUX);
    expect(bench.ioctl(0x8a, struct)).toBe(-EFAULT);
    expect(bench.accesses).toBeLessThan(100);
  });
});

describe('a hardware queue', () => {
  test.each([
    [1n << 60n, -ENOMEM],
    [1n << 40n, -ENOMEM],
    [1n << 39n, -ENOENT],
    [U64_MAX - APERTURE, -ENOMEM],
  ])('of 0x%x bytes answers %i', (length, rc) => {
    const bench = new Bench();
    const ioas = bench.ioas();
    const { device } = bench.device(ioas);
    const viommu = bench.viommu(device, bench.parent(device, ioas));
    expect(bench.map(ioas, APERTURE, 1n << 20n)).toBe(0);
    const before = bench.player.kernel.physical.frames.pinned;
    const struct = new StructWriter(40).u32(8, viommu).u32(12, 0xdeadbeef).u64(24, APERTURE).u64(32, length);
    expect(bench.ioctl(0x94, struct)).toBe(rc);
    expect(bench.player.kernel.physical.frames.pinned).toBe(before);
  });
});

describe('many', () => {
  test('objects have the lowest free ids, and all go', () => {
    const bench = new Bench();
    const alloc = new StructWriter(12).bytes;
    expect(bench.refusals(MANY, 0x81, () => alloc)).toBe(0);
    expect(bench.word(8)).toBe(MANY);
    for (const id of [MANY, 7, 5, 1000]) expect(bench.ioctl(0x80, new StructWriter(8).u32(4, id))).toBe(0);
    expect([bench.ioas(), bench.ioas(), bench.ioas(), bench.ioas(), bench.ioas()]).toEqual([
      5,
      7,
      1000,
      MANY,
      MANY + 1,
    ]);
    bench.player.process.exit();
  });

  test('reserved ranges leave room between them', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    const reserve = new StructWriter(72).u32(4, 1).u32(8, ioas).u64(24, 4096n);
    expect(bench.refusals(MANY, 0xa0, (i) => reserve.u64(16, BigInt(i) * 8192n))).toBe(0);
    const struct = new StructWriter(40).u32(4, 6).u32(8, ioas).u64(16, ARENA).u64(24, 4096n);
    expect(bench.ioctl(0x85, struct)).toBe(0);
    expect(bench.long(32)).toBe(4096n);
    expect(bench.ioctl(0x84, new StructWriter(32).u32(4, ioas).u32(8, 4).u64(16, AUX))).toBe(-90);
    expect(bench.word(8)).toBe(MANY);
  });

  test('mappings go at once', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    const map = new StructWriter(40).u32(4, 7).u32(8, ioas).u64(16, ARENA).u64(24, 4096n);
    expect(bench.refusals(MANY, 0x85, (i) => map.u64(32, APERTURE + BigInt(i) * 4096n))).toBe(0);
    expect(bench.ioctl(0x86, new StructWriter(24).u32(4, ioas).u64(16, U64_MAX))).toBe(0);
    expect(bench.long(16)).toBe(BigInt(MANY) * 4096n);
  });

  test('copies of the same pages go at once', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    bench.device(ioas);
    expect(bench.map(ioas, APERTURE, 4096n)).toBe(0);
    const copy = new StructWriter(40).u32(4, 7).u32(8, ioas).u32(12, ioas).u64(16, 4096n).u64(32, APERTURE);
    const next = (i: number): StructWriter => copy.u64(24, APERTURE + BigInt(i + 1) * 4096n);
    expect(bench.refusals(SHARED, 0x83, next)).toBe(0);
    expect(bench.player.kernel.physical.frames.pinned).toBe(1);
    expect(bench.ioctl(0x86, new StructWriter(24).u32(4, ioas).u64(16, U64_MAX))).toBe(0);
    expect(bench.player.kernel.physical.frames.pinned).toBe(0);
  });

  test('pinned parts of a mapping go with it', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    bench.player.process.memory.map(LARGE, 1n << 30n);
    expect(bench.map(ioas, APERTURE, 1n << 30n, LARGE)).toBe(0);
    expect(bench.test(5, (struct) => struct.u32(8, ioas).u32(20, 1))).toBe(0);
    const pin = new StructWriter(72).u32(4, 7).u32(8, bench.word(16)).u64(32, 4096n);
    // From the middle outwards, so that no order helps.
    const page = (i: number): bigint => BigInt(SHARED + (i % 2 === 0 ? i : -i));
    expect(bench.refusals(SHARED, 0xa0, (i) => pin.u64(24, APERTURE + page(i) * 8192n))).toBe(0);
    expect(bench.player.kernel.physical.frames.pinned).toBe(SHARED);
    expect(bench.ioctl(0x86, new StructWriter(24).u32(4, ioas).u64(16, U64_MAX))).toBe(0);
    expect(bench.player.kernel.physical.frames.pinned).toBe(0);
  });

  test('events are read at once, and the last of them says that some are lost', () => {
    const depth = 1 << 19;
    const bench = new Bench();
    const ioas = bench.ioas();
    const { selftest, device } = bench.device(ioas);
    const viommu = bench.viommu(device, bench.parent(device, ioas));
    bench.vdevice(viommu, device);
    const nested = bench.nested(device, viommu);
    expect(bench.test(10, (struct) => struct.u32(8, selftest).u32(16, nested))).toBe(0);
    const queue = new StructWriter(32).u32(8, viommu).u32(12, 0xbeefbeef).u32(16, depth);
    expect(bench.ioctl(0x93, queue)).toBe(0);
    const file = bench.player.process.file(bench.word(24)) as OpenFile;
    const trigger = new StructWriter(72).u32(4, 17).u32(16, device).bytes;
    expect(bench.refusals(depth + 3, 0xa0, () => trigger)).toBe(0);
    bench.player.process.memory.map(LARGE, 16n << 20n);
    bench.accesses = 0;
    expect(file.read!(bench.player.task, LARGE, 16 << 20)).toBe(depth * 12 + 8);
    expect(bench.accesses).toBeLessThanOrEqual(depth + 1);
    const last = new Uint8Array(8);
    bench.player.process.memory.read(LARGE + BigInt(depth * 12), last);
    expect([...new Uint32Array(last.buffer)]).toEqual([1, depth + 2]);
  });
});

describe('an access', () => {
  test('of 16 MiB is done, one of a byte more is refused', () => {
    const bench = new Bench();
    const ioas = bench.ioas();
    bench.player.process.memory.map(LARGE, 32n << 20n);
    expect(bench.map(ioas, APERTURE, 32n << 20n)).toBe(0);
    expect(bench.test(5, (struct) => struct.u32(8, ioas).u32(20, 1))).toBe(0);
    const fd = bench.word(16);
    const rw = (length: bigint, flags: number): number =>
      bench.test(8, (struct) =>
        struct.u32(8, fd).u64(16, APERTURE).u64(24, length).u64(32, LARGE).u32(40, flags),
      );
    const pages = (length: bigint): number =>
      bench.test(7, (struct) => struct.u32(8, fd).u64(24, APERTURE).u64(32, length));
    for (const flags of [0, 1, 4, 5]) {
      expect(rw(16n << 20n, flags)).toBe(0);
      expect(rw((16n << 20n) + 1n, flags)).toBe(-ENOMEM);
      expect(rw(U64_MAX, flags)).toBe(-ENOMEM);
    }
    expect(pages(16n << 20n)).toBe(0);
    expect(bench.player.kernel.physical.frames.pinned).toBe(4096);
    expect(pages((16n << 20n) + 1n)).toBe(-ENOMEM);
  });
});
