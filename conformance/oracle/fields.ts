import { Dice } from '../model/script/dice.ts';
import { AP, environment, VARIABLES } from './environment.ts';
import { TEST_REQUESTS } from './requests-test.ts';
import { UAPI_REQUESTS } from './requests-uapi.ts';

// Scripts that go through every field of every request: a request that works, with one field changed.

const WORDS = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16, 17, 24, 31, 32, 40, 63, 64, 72, 0x80, 0x100, 0x400, 0x800,
  0xfff, 0x1000, 0x1001, 0x10000, 0x10001, 0x20000, 0x80000, 0x80001, 0x100000, 0xfffff, 0x200000, 0x1000000,
  0x40000000, 0x7fffffff, 0x80000000, 0xffffffff, 0xdeadbeef,
];
const LONGS = [
  0x7ffn,
  0x800n,
  0xfffn,
  0x1000n,
  0x1001n,
  0x1800n,
  0x2000n,
  0x8000n,
  AP - 1n,
  AP,
  AP + 1n,
  AP + 0x800n,
  AP + 0x1000n,
  AP + 0x7fffn,
  AP + 0x8000n,
  AP + 0xc000n,
  AP + 0x10000n,
  AP + 0x10800n,
  AP + 0x12000n,
  AP + 0x20000n,
  AP + 0x2f000n,
  AP + 0x30000n,
  0x7fffffffn,
  0x7ffff000n,
  0x80000000n,
  0xffffffffn,
  1n << 32n,
  1n << 44n,
  0x200000010000n,
  0x200003fff000n,
  0x200003ffffffn,
  0x200004000000n,
  0x1ffffffff000n,
  (1n << 47n) - 4096n,
  1n << 47n,
  (1n << 47n) - 1n,
  1n << 63n,
  (1n << 63n) - 1n,
  0xffffffff00000000n,
  (1n << 64n) - 0x1000n,
  (1n << 64n) - 0x800n,
  (1n << 64n) - 0x1001n,
  (1n << 64n) - 1n,
];

function word(value: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes.toString('hex');
}

/** Every change of one field of a request. */
function changes(request: string): string[] {
  const [kind, slot, command, hex = '', ...fixes] = request.split(' ');
  const bytes = Buffer.from(hex, 'hex');
  const join = (b: Buffer, f: readonly string[]): string =>
    [kind, slot, command, b.toString('hex'), ...f].join(' ');
  const without = (from: number, to: number): string[] =>
    fixes.filter((fix) => {
      const at = Number(fix.split('=')[0]);
      const width = /=[pb]/.test(fix) ? 8 : 4;
      return at + width <= from || at >= to;
    });
  const found: string[] = [request];
  for (let at = 0; at + 4 <= bytes.length; at += 4) {
    for (const value of WORDS) {
      const b = Buffer.from(bytes);
      b.writeUInt32LE(value, at);
      found.push(join(b, without(at, at + 4)));
    }
    for (let bit = 0; bit < 32; bit++) {
      const b = Buffer.from(bytes);
      b.writeUInt32LE((b.readUInt32LE(at) ^ (1 << bit)) >>> 0, at);
      found.push(join(b, without(at, at + 4)));
    }
    for (let variable = 1; variable <= VARIABLES; variable++)
      found.push(join(bytes, [...without(at, at + 4), `${at}=v${variable}`]));
    if (at % 8 === 0 && at > 0) {
      for (const value of LONGS) {
        const b = Buffer.from(bytes);
        if (at + 8 > b.length) continue;
        b.writeBigUInt64LE(value, at);
        found.push(join(b, without(at, at + 8)));
      }
      for (const offset of ['10001', '11000', '3fff000', '3ffffff', '4000000', '3fff800', '3fffff8'])
        if (at + 8 <= bytes.length) found.push(join(bytes, [...without(at, at + 8), `${at}=p${offset}`]));
    }
  }
  for (const size of [
    0, 1, 2, 3, 4, 7, 8, 11, 12, 16, 17, 20, 24, 28, 32, 36, 40, 44, 48, 56, 64, 68, 72, 73, 76, 80, 96, 128,
    256, 504,
  ]) {
    const b = Buffer.alloc(Math.max(size, 4));
    bytes.copy(b);
    b.writeUInt32LE(size, 0);
    const fit = fixes.filter((fix) => Number(fix.split('=')[0]) + 8 <= b.length);
    found.push(join(b, fit));
    if (size > bytes.length) {
      b[size - 1] = 1;
      found.push(join(b, fit));
    }
  }
  // IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT would hold for the scripts behind it.
  return found.filter((each) => !/^I 0 a0 .{8}09000000/.test(each));
}

const PER_SCRIPT = 20;

/** Scripts of all changes of all requests; what a buffer holds is changed too. */
export function fieldScripts(seed: number): string[] {
  const dice = new Dice(seed);
  const scripts: string[] = [];
  const start = environment();
  for (const base of [...UAPI_REQUESTS, ...TEST_REQUESTS]) {
    const request = base.arg.line(0, base.command);
    const all: (readonly string[])[] = changes(request).map((each) => [each]);
    const fills = (base.before ?? []).flatMap((each, index) =>
      each.startsWith('A ') && each.length > 8 ? [index] : [],
    );
    for (const index of fills) {
      const [, buffer, hex = ''] = base.before![index]!.split(' ');
      for (let at = 0; at + 4 <= hex.length / 2; at += 4)
        for (const value of [...WORDS, 0x99, 0xbadbeef]) {
          const changed = hex.slice(0, at * 2) + word(value) + hex.slice(at * 2 + 8);
          all.push([`A ${buffer} ${changed}`, request]);
        }
    }
    // In a random order, so that those that change something meet others.
    for (let i = all.length - 1; i > 0; i--) {
      const j = dice.below(i + 1);
      [all[i], all[j]] = [all[j]!, all[i]!];
    }
    for (let i = 0; i < all.length; i += PER_SCRIPT) {
      const steps = all
        .slice(i, i + PER_SCRIPT)
        .flatMap((each) => [...(base.before ?? []), ...each, ...(base.after ?? [])]);
      scripts.push(`${[...start, ...steps, 'X 0'].join('\n')}\n`);
    }
  }
  return scripts;
}
