// Lines of VT-d: a root table, context entries, in scalable mode PASID entries, and page tables (D51397 §9), most of them
// as they should be.

import { DEVICE_ID } from './qtest.mjs';
import { PAGE, word } from './words.mjs';

export const name = 'vtd';
export const machines = [
  { iommu: 'intel-iommu', label: 'intel', mode: 'legacy' },
  { iommu: 'intel-iommu,scalable-mode=on,fsts=on', label: 'intel scalable', mode: 'scalable' },
];

const REGISTERS = 0xfed9_0000n;
const REGISTER = {
  CAPABILITIES: REGISTERS + 0x08n,
  EXTENDED: REGISTERS + 0x10n,
  COMMAND: REGISTERS + 0x18n,
  ROOT: REGISTERS + 0x20n,
  FAULT_STATUS: REGISTERS + 0x34n,
  FAULT: REGISTERS + 0x220n,
};
const COMMAND = { TRANSLATE: 1n << 31n, SET_ROOT: 1n << 30n };
const FAULTED = 1n << 63n;
const ALL_FAULTS = 0x7fn;
const SCALABLE_ROOT = 1n << 10n;

const hex = (value) => `0x${value.toString(16)}`;

export async function header(qtest) {
  return {
    cap: hex(await qtest.read(8, REGISTER.CAPABILITIES)),
    ecap: hex(await qtest.read(8, REGISTER.EXTENDED)),
  };
}

/** What the line's DMA write does; setting the root empties the caches. */
export async function play(qtest, line) {
  const mode = line.mode === 'scalable' ? SCALABLE_ROOT : 0n;
  await Promise.all([
    qtest.write(4, REGISTER.COMMAND, 0n),
    qtest.write(4, REGISTER.FAULT + 12n, FAULTED >> 32n),
    qtest.write(4, REGISTER.FAULT_STATUS, ALL_FAULTS),
    qtest.write(8, REGISTER.ROOT, BigInt(line.root) | mode),
    qtest.write(4, REGISTER.COMMAND, COMMAND.SET_ROOT),
    qtest.write(4, REGISTER.COMMAND, COMMAND.TRANSLATE),
  ]);
  const { result, landed } = await qtest.dma(BigInt(line.iova), BigInt(line.pa));
  const low = await qtest.read(8, REGISTER.FAULT);
  const high = await qtest.read(8, REGISTER.FAULT + 8n);
  return { result, landed, events: (high & FAULTED) === 0n ? [] : [word(low) + word(high)] };
}

const KINDS = {
  legacy: ['noroot', 'noctx', 'pass', 'second', 'second', 'second', 'second', 'second'],
  scalable: ['noroot', 'noctx', 'nopasid', 'pass', 'first', 'first', 'first', 'first', 'first'],
};
const DAMAGES = ['absent', 'readonly', 'noread', 'reserved', 'far', 'random', 'entry', 'address'];

const PRESENT = 1n;
const LARGE = 1n << 7n;
const WRITE = 1n << 1n;
const USER = 1n << 2n;
/** P, R/W, U/S, A and, in a leaf, D. */
const FIRST = { table: 0x67n, leaf: 0x67n };
const SECOND = { table: 0x3n, leaf: 0x3n };
const PGTT = { FIRST: 1n << 6n, PASS: 4n << 6n };
const TT_PASS = 2n << 2n;

/** One line, without QEMU's answer. */
export function line(random, layout, { mode }) {
  const { roll, pick } = random;
  const kind = pick(KINDS[mode]);
  const damage = roll(2) === 0 ? 'none' : pick(DAMAGES);
  const leaf = pick([1, 1, 1, 2, 3]);
  const levels = mode === 'scalable' ? 4 : pick([3, 4, 4]);
  const bits = 3 + 9 * leaf;
  const within = (1n << BigInt(bits)) - 1n;
  const start = leaf === 3 ? 0n : layout.page(1n << BigInt(bits));
  const pa = leaf === 3 ? layout.page() : start | (layout.number(bits) & within & ~3n);
  const width = mode === 'scalable' ? 47 : 12 + 9 * levels;
  let iova = kind === 'pass' ? pa : (layout.number(width) & ~within) | (pa & within);
  const { root, entries, structures } =
    mode === 'scalable'
      ? scalable(random, layout, { kind, leaf, levels, iova, pa })
      : legacy(random, layout, { kind, leaf, levels, iova, pa });
  if (damage === 'entry') layout.garble(pick(structures));
  else if (damage === 'address') iova |= 1n << BigInt(width + roll(64 - width));
  else if (damage !== 'none' && entries.length > 0) harm(random, layout, damage, pick(entries));
  return {
    rid: DEVICE_ID,
    mode,
    kind,
    damage,
    leaf,
    root: hex(root),
    iova: hex(iova),
    pa: hex(pa),
    mem: layout.mem,
  };
}

/** Tables that lead `iova` to `pa`: the root, and where the entries are. */
function tables(layout, format, { leaf, levels, iova, pa }) {
  const entries = [];
  const root = layout.page();
  let table = root;
  for (let level = levels; level >= leaf; level--) {
    const shift = BigInt(3 + 9 * level);
    const at = table + ((iova >> shift) & 0x1ffn) * 8n;
    if (level === leaf) layout.set(at, format.leaf | ((pa >> shift) << shift) | (level > 1 ? LARGE : 0n));
    else {
      table = layout.page();
      layout.set(at, format.table | table);
    }
    entries.push({ at, level, first: format === FIRST });
  }
  return { root, entries };
}

function legacy(random, layout, options) {
  const { kind, levels } = options;
  const root = layout.page();
  const contexts = layout.page();
  const { root: table, entries } = tables(layout, SECOND, options);
  const context = contexts + BigInt(DEVICE_ID) * 16n;
  const type = kind === 'pass' ? TT_PASS : 0n;
  if (kind !== 'noctx') {
    layout.set(context, PRESENT | type | table);
    layout.set(context + 8n, BigInt(levels - 2) | (layout.number(16) << 8n));
  }
  if (kind !== 'noroot') layout.set(root, PRESENT | contexts);
  return { root, entries, structures: [root, root + 8n, context, context + 8n] };
}

function scalable(random, layout, options) {
  const { kind } = options;
  const root = layout.page();
  const contexts = layout.page();
  const directory = layout.page();
  const pasids = layout.page();
  const { root: table, entries } = tables(layout, FIRST, options);
  // Of 32 bytes each: the upper half of the bus's devices have a table of their own, this one is of the lower.
  const context = contexts + BigInt(DEVICE_ID) * 32n;
  const type = kind === 'pass' ? PGTT.PASS : PGTT.FIRST;
  // AW is that of four levels, as software writes it.
  layout.set(pasids, PRESENT | type | (kind === 'pass' ? 1n << 3n : 2n << 2n));
  layout.set(pasids + 8n, layout.number(16));
  if (kind !== 'pass') layout.set(pasids + 16n, table);
  if (kind === 'nopasid') layout.set(pasids, layout.get(pasids) & ~PRESENT);
  layout.set(directory, PRESENT | pasids);
  if (kind !== 'noctx') layout.set(context, PRESENT | directory);
  if (kind !== 'noroot') layout.set(root, PRESENT | contexts);
  const more = [context + 8n, pasids, pasids + 8n, pasids + 16n, directory];
  return { root, entries, structures: [root, root + 8n, context, ...more] };
}

function harm({ roll, pick }, layout, damage, { at, level, first }) {
  const entry = layout.get(at);
  const harms = {
    absent: () => layout.set(at, first ? entry & ~PRESENT : entry & ~3n),
    readonly: () => layout.set(at, entry & ~WRITE),
    noread: () => layout.set(at, entry & ~(first ? USER : PRESENT)),
    // A leaf where there is none, or an address that is not that of a large page.
    reserved: () => layout.set(at, entry | (level > 1 ? LARGE | PAGE : 1n << 11n)),
    far: () => layout.set(at, entry | (1n << BigInt(pick([39, 42, 46, 48, 50, 51])))),
    random: () => layout.garble(at),
  };
  harms[damage]();
  // The highest bits: hardware ignores most of them.
  if (roll(8) === 0) layout.set(at, layout.get(at) ^ (1n << BigInt(52 + roll(12))));
}
