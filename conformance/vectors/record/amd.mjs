// Lines of AMD's IOMMU: a device table entry and host tables (AMD 48882 §2.2.2, §2.2.3), most of them as they should be.

import { DEVICE_ID, OWN_MEMORY, RAM_END } from './qtest.mjs';
import { PAGE, word } from './words.mjs';

export const name = 'amd';
export const machines = [{ iommu: 'amd-iommu,dma-remap=on', label: 'amd' }];

const REGISTERS = 0xfed8_0000n;
const REGISTER = {
  DEVICE_TABLE: REGISTERS,
  COMMANDS: REGISTERS + 0x08n,
  EVENTS: REGISTERS + 0x10n,
  CONTROL: REGISTERS + 0x18n,
  FEATURES: REGISTERS + 0x30n,
  COMMAND_HEAD: REGISTERS + 0x2000n,
  COMMAND_TAIL: REGISTERS + 0x2008n,
  EVENT_HEAD: REGISTERS + 0x2010n,
  EVENT_TAIL: REGISTERS + 0x2018n,
};
const CONTROL = { ENABLE: 1n << 0n, EVENTS: 1n << 2n, COMMANDS: 1n << 12n };
/** Log2 of a ring's entries, 256, in its register. */
const RING = 8n << 56n;
const RING_BYTES = 0x1000n;
const EVENT_BYTES = 16;
const ALL_DEVICES = 0x1ffn;
const DEVICE_TABLE = OWN_MEMORY;
const EVENTS = OWN_MEMORY + 0x20_0000n;
const COMMANDS = EVENTS + RING_BYTES;
/** INVALIDATE_DEVTAB_ENTRY, from which QEMU learns whether the device's addresses are translated; INVALIDATE_IOMMU_ALL. */
const invalidate = (deviceId) => word((2n << 60n) | BigInt(deviceId)) + word(0n) + word(8n << 60n) + word(0n);
const COMMAND_BYTES = 16n;

export async function header(qtest) {
  return { efr: `0x${(await qtest.read(8, REGISTER.FEATURES)).toString(16)}` };
}

/** What the line's DMA write does, with nothing in any cache. */
export async function play(qtest, line) {
  await Promise.all([
    qtest.write(8, REGISTER.CONTROL, 0n),
    qtest.write(8, REGISTER.DEVICE_TABLE, DEVICE_TABLE | ALL_DEVICES),
    qtest.write(8, REGISTER.EVENTS, EVENTS | RING),
    qtest.write(8, REGISTER.COMMANDS, COMMANDS | RING),
    qtest.store(DEVICE_TABLE + BigInt(line.rid) * 32n, line.dte),
    qtest.store(COMMANDS, invalidate(line.rid)),
    qtest.write(8, REGISTER.CONTROL, CONTROL.ENABLE | CONTROL.EVENTS | CONTROL.COMMANDS),
    qtest.write(8, REGISTER.COMMAND_TAIL, 2n * COMMAND_BYTES),
  ]);
  const { result, landed } = await qtest.dma(BigInt(line.iova), BigInt(line.pa));
  const tail = Number(await qtest.read(8, REGISTER.EVENT_TAIL));
  const events = [];
  for (let at = 0; at < tail; at += EVENT_BYTES)
    events.push(await qtest.load(EVENTS + BigInt(at), EVENT_BYTES));
  return { result, landed, events };
}

const ENTRY = { PR: 1n, IR: 1n << 61n, IW: 1n << 62n, FC: 1n << 60n };
const NEXT_LEVEL = 9n;
const SIZED = 7n;
const DTE = { V: 1n << 0n, TV: 1n << 1n, MODE: 9n };

const KINDS = ['v1', 'v1', 'v1', 'v1', 'v1', 'v1', 'pass', 'notv', 'invalid', 'skip', 'sized', 'dte'];
/** Log2 of what output addresses are aligned to at most: RAM has more than one such block. */
const ALIGN_MAX = 27;
const DAMAGES = ['absent', 'readonly', 'noread', 'reserved', 'far', 'random', 'size', 'address'];

/** One line, without QEMU's answer. */
export function line(random, layout) {
  const { roll, pick } = random;
  const kind = pick(KINDS);
  const damage = roll(2) === 0 ? 'none' : pick(DAMAGES);
  const mode = 1 + roll(6);
  const leaf = Math.min(mode, pick([1, 1, 1, 2, 3]));
  const direct = kind === 'pass' || kind === 'invalid';
  const levels = kind === 'skip' ? skipped(random, mode, leaf) : countDown(mode, leaf);
  const bits = pageBits(random, kind, leaf);
  const pa = layout.page(1n << BigInt(Math.min(bits, ALIGN_MAX))) + (layout.number(Math.min(bits, 20)) & ~3n);
  let iova = direct ? pa : address(layout, mode, levels, bits, pa);
  const { root, entries } = tables(layout, levels, iova, pa, bits);
  const wide = !direct && mode < 6 && roll(20) === 0;
  if (damage === 'address') iova ^= 1n << BigInt(12 + roll(52));
  else if (damage !== 'none') harm(random, layout, damage, entries);
  const dte = deviceEntry(random, layout, kind, mode, root);
  return {
    rid: DEVICE_ID,
    kind,
    damage,
    leaf,
    mode,
    ...(wide && { wide }),
    dte,
    iova: `0x${(wide ? iova + (1n << BigInt(12 + 9 * mode + roll(3))) : iova).toString(16)}`,
    pa: `0x${pa.toString(16)}`,
    mem: layout.mem,
  };
}

function countDown(from, to) {
  return Array.from({ length: from - to + 1 }, (_, i) => from - i);
}

/** Some of the levels between are left out. */
function skipped({ roll }, mode, leaf) {
  return countDown(mode, leaf).filter((level) => level === mode || level === leaf || roll(2) === 0);
}

/** Log2 of the bytes that the leaf maps. */
function pageBits({ roll }, kind, leaf) {
  const own = 3 + 9 * leaf;
  return kind === 'sized' ? own + 1 + roll(8) : own;
}

/** An address of the mode's width: like `pa` within the page, and zero where levels are left out. */
function address(layout, mode, levels, bits, pa) {
  const within = (1n << BigInt(bits)) - 1n;
  let iova = (layout.number(Math.min(63, 12 + 9 * mode)) & ~within) | (pa & within);
  for (let i = 1; i < levels.length; i++) {
    const [above, below] = [levels[i - 1], levels[i]];
    for (let level = below + 1; level < above; level++) iova &= ~(0x1ffn << BigInt(3 + 9 * level));
  }
  return iova;
}

/** Tables at `levels` that lead `iova` to `pa`: the root, and where their entries are with the level of each. */
function tables(layout, levels, iova, pa, bits) {
  const entries = [];
  const root = layout.page();
  let table = root;
  for (const [i, level] of levels.entries()) {
    const at = table + ((iova >> BigInt(3 + 9 * level)) & 0x1ffn) * 8n;
    const next = levels[i + 1];
    const rights = ENTRY.PR | ENTRY.IR | ENTRY.IW;
    if (next === undefined) layout.set(at, rights | ENTRY.FC | leafBits(pa, bits, level));
    else {
      table = layout.page();
      layout.set(at, rights | table | (BigInt(next) << NEXT_LEVEL));
    }
    entries.push({ at, level });
  }
  return { root, entries };
}

/** §2.2.3, table 14: a size other than the level's own is a row of ones below the address. */
function leafBits(pa, bits, level) {
  const start = pa & ~((1n << BigInt(bits)) - 1n);
  if (bits === 3 + 9 * level) return start;
  return start | ((1n << BigInt(bits - 1)) - PAGE) | (SIZED << NEXT_LEVEL);
}

function harm(random, layout, damage, entries) {
  const { roll, pick } = random;
  const { at, level } = pick(entries);
  const entry = layout.get(at);
  const nextLevel = (value) => (entry & ~(7n << NEXT_LEVEL)) | (BigInt(value) << NEXT_LEVEL);
  const harms = {
    absent: () => layout.set(at, entry & ~ENTRY.PR),
    readonly: () => layout.set(at, entry & ~ENTRY.IW),
    noread: () => layout.set(at, entry & ~ENTRY.IR),
    reserved: () => layout.set(at, nextLevel(level + roll(8 - level))),
    far: () => layout.set(at, entry | (1n << BigInt(pick([40, 44, 47, 51])))),
    random: () => layout.garble(at),
    size: () => layout.set(at, nextLevel(SIZED) | (((1n << BigInt(roll(40))) - 1n) << 12n)),
  };
  harms[damage]();
}

function deviceEntry(random, layout, kind, mode, root) {
  const { roll, pick } = random;
  const rights = ENTRY.IR | ENTRY.IW;
  const whole = DTE.V | DTE.TV | (BigInt(mode) << DTE.MODE) | root | rights;
  const words = [whole, layout.number(16), 0n, 0n];
  // All but V means nothing then.
  if (kind === 'invalid') words[0] = roll(2) === 0 ? 0n : layout.number(63) << 1n;
  if (kind === 'pass') words[0] = DTE.V | DTE.TV | rights;
  if (kind === 'notv') words[0] = whole & ~DTE.TV;
  if (kind === 'dte') {
    const changes = [
      () => (words[0] ^= ENTRY.IW),
      () => (words[0] ^= ENTRY.IR),
      () => (words[0] &= ~DTE.TV),
      () => (words[0] &= ~DTE.V),
      () => (words[0] = (words[0] & ~(7n << DTE.MODE)) | (BigInt(roll(8)) << DTE.MODE)),
      () => (words[0] = BigInt.asUintN(64, words[0]) ^ (1n << BigInt(roll(64)))),
      () => (words[1] ^= 1n << BigInt(roll(64))),
      () => (words[1] |= 1n << BigInt(32 + roll(11))),
      () => (words[2] ^= 1n << BigInt(roll(64))),
      () => (words[3] ^= 1n << BigInt(roll(64))),
      // The root is where no memory is.
      () => (words[0] |= RAM_END << BigInt(roll(12))),
    ];
    for (let i = 0; i <= roll(2); i++) pick(changes)();
  }
  return words.map(word).join('');
}
