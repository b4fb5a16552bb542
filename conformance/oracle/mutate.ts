import type { Dice } from '../model/script/dice.ts';

// Changes scripts: fields to what breaks code, references to other objects, and the order of steps.

/** Steps that belong together: what fills a buffer, the request, what is kept and shown of its answer. */
export type Unit = readonly string[];

/** Takes a script apart; the steps of a unit stay together. */
export function units(script: string): Unit[] {
  const found: string[][] = [];
  let open = false;
  for (const line of script.split('\n')) {
    if (line.trim() === '') continue;
    const kind = line[0];
    const follows = kind === 'S' || kind === 'O' || kind === 'D';
    // A buffer's content goes with the request behind it.
    if (found.length > 0 && (follows || open)) found.at(-1)!.push(line.trimEnd());
    else found.push([line.trimEnd()]);
    open = kind === 'A';
  }
  return found;
}

const WORDS = [
  0, 1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 15, 16, 17, 20, 23, 24, 25, 31, 32, 33, 39, 40, 41, 47, 48, 63, 64, 71,
  72, 73, 80, 0xff, 0x100, 0x800, 0xfff, 0x1000, 0x1001, 0x2000, 0xffff, 0x10000, 0xfffff, 0x100000,
  0x1000000, 0x7fffffff, 0x80000000, 0xfffff000, 0xffffffff, 0xdead, 0xdeadbeef, 0xbeefbeef, 0xfeedbeef,
  0xbadbeef, 0xdadbeef,
];
const LONGS = [
  0n,
  1n,
  2n,
  0xfffn,
  0x1000n,
  0x1001n,
  0x800n,
  0x2000n,
  0x10000n,
  0x200000n,
  0xffffffn,
  0x1000000n,
  0x1000800n,
  0x1001000n,
  0x7ffff000n,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x100000000n,
  1n << 38n,
  (1n << 40n) - 1n,
  0x1fffffffffffn,
  0x200000000000n,
  0x200003fff000n,
  0x200004000000n,
  0x7ffffffff000n,
  0x800000000000n,
  1n << 63n,
  (1n << 63n) - 1n,
  (1n << 64n) - 1n,
  (1n << 64n) - 0x1000n,
  (1n << 64n) - 0x1001n,
  (1n << 64n) - 2n,
];

function editHex(dice: Dice, hex: string, from: number): string {
  const bytes = Buffer.from(hex === '-' ? '' : hex, 'hex');
  const words = Math.floor(bytes.length / 4);
  if (words <= from) return hex;
  const at = (from + dice.below(words - from)) * 4;
  const old = bytes.readUInt32LE(at);
  const wide = at + 8 <= bytes.length && dice.once(3);
  if (wide) {
    const value = bytes.readBigUInt64LE(at);
    const changed = dice.weighted<() => bigint>([
      [3, () => dice.pick(LONGS)],
      [4, () => value + dice.pick([1n, -1n, 8n, -8n, 0x800n, -0x800n, 0x1000n, -0x1000n, 0x10000n])],
      [2, () => value ^ (1n << BigInt(dice.below(64)))],
      [1, () => dice.u64()],
      [1, () => value * 2n],
      [1, () => value / 2n],
    ])();
    bytes.writeBigUInt64LE(BigInt.asUintN(64, changed), at);
  } else {
    const changed = dice.weighted<() => number>([
      [4, () => dice.pick(WORDS)],
      [3, () => old + dice.pick([1, -1, 2, 4, -4, 8, -8, 0x1000, -0x1000, 0x800])],
      [3, () => old ^ (1 << dice.below(32))],
      [2, () => old ^ (1 << dice.below(5))],
      [1, () => dice.u32()],
    ])();
    bytes.writeUInt32LE(changed >>> 0, at);
  }
  return bytes.toString('hex');
}

/** A struct of another size: cut off, or with a tail that is zero or not. */
function resize(dice: Dice, hex: string): string {
  const bytes = Buffer.from(hex, 'hex');
  if (bytes.length < 8) return hex;
  const size = Math.max(4, bytes.length + dice.pick([-8, -4, -1, 1, 4, 8, 16, 24, 64]));
  const changed = Buffer.alloc(size);
  bytes.copy(changed);
  if (size > bytes.length && dice.once(2))
    changed[bytes.length + dice.below(size - bytes.length)] = 1 << dice.below(8);
  if (!dice.once(4)) changed.writeUInt32LE(size, 0);
  return changed.toString('hex');
}

function editRequest(dice: Dice, line: string): string {
  const [kind, slot, command, hex = '-', ...fixes] = line.split(/ +/);
  const join = (newHex: string, newFixes: readonly string[]): string =>
    [kind, slot, command, newHex, ...newFixes].join(' ').trimEnd();
  const given = fixes.filter((fix) => fix !== '');
  switch (dice.below(12)) {
    case 0:
      return join(resize(dice, hex), given);
    case 1:
      return join(editHex(dice, hex, 0), given);
    case 2:
    case 3:
    case 4: {
      if (given.length === 0) return join(editHex(dice, hex, 1), given);
      const index = dice.below(given.length);
      return join(hex, given.with(index, editFix(dice, given[index]!)));
    }
    case 5:
      return join(
        hex,
        given.filter((_, index) => index !== dice.below(given.length)),
      );
    default:
      return join(editHex(dice, hex, 1), given);
  }
}

function editFix(dice: Dice, fix: string): string {
  const [at, value] = fix.split('=') as [string, string];
  switch (value[0]) {
    case 'p': {
      const offset = parseInt(value.slice(1), 16);
      const moved = dice.weighted<() => number>([
        [4, () => offset + dice.pick([1, -1, 0x800, -0x800, 0x1000, -0x1000, 8])],
        [2, () => (64 << 20) - dice.pick([0, 1, 0x800, 0x1000, 0x2000])],
        [2, () => dice.below(64 << 20)],
        [1, () => 0],
      ])();
      return `${at}=p${(moved >>> 0).toString(16)}`;
    }
    case 'b':
      return `${at}=b${dice.below(8)}`;
    case 'm':
      return `${at}=m${dice.below(8)}`;
    default:
      return `${at}=v${dice.below(dice.once(6) ? 256 : 48)}`;
  }
}

function editLine(dice: Dice, line: string): string {
  const words = line.split(/ +/);
  switch (words[0]) {
    case 'I':
      return editRequest(dice, line);
    case 'A':
      return `A ${words[1]} ${editHex(dice, words[2] ?? '', 0)}`;
    case 'T':
      return `T ${words[1]} ${editHex(dice, words[2] ?? '', 0)}`;
    case 'R':
      return `R ${words[1]} ${dice.pick([0, 1, 7, 8, 9, 12, 15, 16, 20, 24, 36, 39, 40, 41, 64, 80, 120, 1024])}`;
    case 'S':
      return `S ${dice.pick([4, 8, 12, 16, 20, 24])} ${words[2]}`;
    case 'Z':
      return `Z ${dice.below(48)}`;
    case 'M':
      return `M ${words[1]} ${dice.pick(['0', '1', '800', '1000', '1800', '2000', '10000', '200000', '400000'])}`;
    default:
      return line;
  }
}

function editUnit(dice: Dice, unit: Unit): Unit {
  const index = dice.once(2) ? unit.findIndex((line) => line[0] === 'I') : dice.below(unit.length);
  return index < 0 ? unit : unit.with(index, editLine(dice, unit[index]!));
}

/** Variables renamed, so that what comes from another script finds objects here. */
function renamed(dice: Dice, unit: Unit): Unit {
  return unit.map((line) => line.replace(/=v(\d+)/g, () => `=v${1 + dice.below(40)}`));
}

/** A changed script; `other` lends steps. */
export function mutate(dice: Dice, script: string, other: string): string {
  let list = units(script);
  const guests = units(other);
  const count = 1 + dice.below(dice.once(3) ? 40 : 8);
  const anywhere = (): number => 1 + dice.below(Math.max(1, list.length - 2));
  for (let i = 0; i < count; i++) {
    const at = anywhere();
    const unit = list[at];
    if (unit === undefined) break;
    const insert = (what: Unit): void => void (list = list.toSpliced(at, 0, what));
    switch (dice.below(10)) {
      case 0:
        list = list.toSpliced(at, 1);
        break;
      case 1: {
        const to = anywhere();
        list = list.toSpliced(at, 1).toSpliced(to, 0, unit);
        break;
      }
      case 2:
        insert(unit);
        break;
      case 3:
        insert(renamed(dice, dice.pick(guests)));
        break;
      case 4:
        insert(dice.pick(guests));
        break;
      case 5:
        insert(editUnit(dice, unit));
        break;
      default:
        list = list.with(at, editUnit(dice, unit));
    }
  }
  return `${list
    .flat()
    .filter((line) => !isUnfit(line))
    .join('\n')}\n`;
}

/** What changes the kernel for the scripts behind it: IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT. */
function isUnfit(line: string): boolean {
  return /^I \d+ a0 .{8}09000000/.test(line);
}
