import type { HashedMemory } from './hashed-memory.ts';

// For tests: a walker written plainly with bigint after the pseudocode of DDI 0487 (AArch64.S1Walk(), S2Walk() and what
// they call).

export interface Regime {
  granule: number;
  txsz: number;
  base: bigint;
  ps: number;
  pamax: number;
  ds: boolean;
  be: boolean;
  affd: boolean;
  ha: boolean;
  hd: boolean;
}
export interface S1Regime extends Regime {
  tbi: boolean;
  epd: boolean;
  had: boolean;
  unprivileged: boolean;
  wxn: boolean;
  pan: boolean;
  epan: boolean;
}
export interface S2Regime extends Regime {
  startlevel: number;
  xnx: boolean;
  ptw: boolean;
  fwb: boolean;
}
export interface Access {
  write: boolean;
  exec: boolean;
  priv: boolean;
}
export interface Found {
  pa: bigint;
  size: bigint;
  level: number;
  descriptor: bigint;
  r: boolean;
  w: boolean;
  x: boolean;
}
export type Outcome = Found | { fault: string; stage: number; fetch?: bigint };
export const isFault = (o: Outcome): o is { fault: string; stage: number; fetch?: bigint } => 'fault' in o;

const bit = (value: bigint, n: number): boolean => ((value >> BigInt(n)) & 1n) === 1n;
const bits = (value: bigint, msb: number, lsb: number): bigint =>
  (value >> BigInt(lsb)) & ((1n << BigInt(msb - lsb + 1)) - 1n);

function descriptorAddressBits(desc: bigint, r: Regime): bigint {
  let address = bits(desc, 47, r.granule) << BigInt(r.granule);
  if (r.granule === 16 && r.pamax >= 52) address |= bits(desc, 15, 12) << 48n;
  else if (r.granule !== 16 && r.ds) address |= ((bits(desc, 9, 8) << 2n) | bits(desc, 49, 48)) << 48n;
  return address;
}

function oaOutOfRange(address: bigint, r: Regime): boolean {
  const wide = r.pamax >= 52 && (r.granule === 16 || r.ds);
  const size = Math.min(r.ps, wide ? 52 : 48, r.pamax);
  return address >> BigInt(size) !== 0n;
}

function blockSupported(level: number, r: Regime): boolean {
  if (r.granule === 12) return (level === 0 && r.ds) || level === 1 || level === 2;
  if (r.granule === 14) return (level === 1 && r.ds) || level === 2;
  return (level === 1 && r.pamax >= 52) || level === 2;
}

function byteSwap(value: bigint): bigint {
  let out = 0n;
  for (let i = 0; i < 8; i++) out |= ((value >> BigInt(8 * i)) & 0xffn) << BigInt(56 - 8 * i);
  return out;
}

function tableBase(r: Regime, startlevel: number): bigint {
  const stride = r.granule - 3;
  const levels = 3 - startlevel;
  let tsize = 64 - r.txsz - (levels * stride + r.granule) + 3;
  tsize = Math.max(tsize, r.ps >= 52 && r.pamax >= 52 ? 6 : 4);
  return (r.base >> BigInt(tsize)) << BigInt(tsize);
}

function levelIndex(address: bigint, level: number, startlevel: number, r: Regime): bigint {
  const stride = r.granule - 3;
  const lsb = (3 - level) * stride + r.granule;
  const msb = level === startlevel ? 63 - r.txsz : lsb + stride - 1;
  return bits(address, msb, lsb) << 3n;
}

/** Both stages' common part: from the base to a leaf. `resolve` finds where a descriptor lies. */
function walkTables(
  memory: HashedMemory,
  r: Regime,
  address: bigint,
  startlevel: number,
  stage: number,
  resolve: (descaddr: bigint) => bigint | Outcome,
  onTable: (desc: bigint) => void,
): Outcome | { leaf: bigint; at: bigint; where: bigint; level: number; base: bigint; size: bigint } {
  let table = tableBase(r, startlevel);
  for (let level = startlevel; ; level++) {
    const at = table | levelIndex(address, level, startlevel, r);
    const where = resolve(at);
    if (typeof where !== 'bigint') return where;
    if (memory.refuses(where)) return { fault: 'EABT', stage, fetch: where };
    const raw = memory.word(where);
    const desc = r.be ? byteSwap(raw) : raw;
    if (!bit(desc, 0)) return { fault: 'TRANSLATION', stage };
    if (bit(desc, 1) && level < 3) {
      table = descriptorAddressBits(desc, r);
      if (oaOutOfRange(table, r)) return { fault: 'ADDRESS_SIZE', stage };
      onTable(desc);
      continue;
    }
    if (!bit(desc, 1) && !blockSupported(level, r)) return { fault: 'TRANSLATION', stage };
    const leafBits = BigInt((3 - level) * (r.granule - 3) + r.granule);
    const full = descriptorAddressBits(desc, r);
    const base = (full >> leafBits) << leafBits;
    if (oaOutOfRange(base, r)) return { fault: 'ADDRESS_SIZE', stage };
    return { leaf: desc, at, where, level, base, size: 1n << leafBits };
  }
}

function store(memory: HashedMemory, where: bigint, r: Regime, value: bigint): void {
  memory.stored.set(where, r.be ? byteSwap(value) : value);
}

export function plainStage2(
  memory: HashedMemory,
  r: S2Regime,
  ipa: bigint,
  access: Access | 'read' | 'write',
): Outcome {
  if (ipa >> BigInt(64 - r.txsz) !== 0n) return { fault: 'TRANSLATION', stage: 2 };
  const found = walkTables(
    memory,
    r,
    ipa,
    r.startlevel,
    2,
    (a) => a,
    () => {},
  );
  if (!('leaf' in found)) return found;
  let desc = found.leaf;
  if (!bit(desc, 10) && !r.ha && !r.affd) return { fault: 'ACCESS_FLAG', stage: 2 };
  const readable = bit(desc, 6);
  const clean = r.hd && bit(desc, 51) && !bit(desc, 7);
  const writable = bit(desc, 7) || clean;
  const xn = `${+bit(desc, 54)}${+bit(desc, 53)}`;
  const [px, ux] = r.xnx
    ? { '00': [true, true], '01': [false, true], '10': [false, false], '11': [true, false] }[xn]!
    : [!bit(desc, 54), !bit(desc, 54)];
  const implicit = typeof access === 'string';
  const write = access === 'write' || (!implicit && access.write);
  const device = r.fwb ? !bit(desc, 4) : bits(desc, 5, 4) === 0n || bits(desc, 3, 2) === 0n;
  const x = implicit ? false : access.priv ? px! : ux!;
  const denied = implicit
    ? !readable || (write && !writable) || (r.ptw && device)
    : access.exec
      ? !x
      : write
        ? !writable
        : !readable;
  if (denied) return { fault: 'PERMISSION', stage: 2 };
  const before = desc;
  if (!bit(desc, 10) && r.ha) desc |= 1n << 10n;
  if (write && clean) desc |= 1n << 7n;
  if (desc !== before) store(memory, found.where, r, desc);
  return {
    pa: found.base | (ipa & (found.size - 1n)),
    size: found.size,
    level: found.level,
    descriptor: desc,
    r: readable,
    w: writable,
    x,
  };
}

export function plainStage1(
  memory: HashedMemory,
  regions: readonly [S1Regime, S1Regime | null],
  va: bigint,
  access: Access,
  s2: S2Regime | null,
): Outcome {
  const upper = regions[0].unprivileged && bit(va, 55);
  const r = upper ? regions[1]! : regions[0];
  const addrtop = r.tbi ? 55 : 63;
  const top = bits(va, addrtop, 64 - r.txsz);
  const allOnes = (1n << BigInt(addrtop - (64 - r.txsz) + 1)) - 1n;
  if (r.epd || top !== (upper ? allOnes : 0n)) return { fault: 'TRANSLATION', stage: 1 };
  const stride = r.granule - 3;
  const startlevel = 3 - Math.floor((64 - r.txsz - 1 - r.granule) / stride);
  let apTable = 0n;
  let xnTable = false;
  let pxnTable = false;
  const resolve = (write: boolean) => (at: bigint) => {
    if (s2 === null) return at;
    const out = plainStage2(memory, s2, at, write ? 'write' : 'read');
    return isFault(out) ? out : out.pa;
  };
  const found = walkTables(memory, r, va, startlevel, 1, resolve(false), (desc) => {
    if (r.had) return;
    apTable |= bits(desc, 62, 61);
    xnTable ||= bit(desc, 60);
    pxnTable ||= bit(desc, 59);
  });
  if (!('leaf' in found)) return found;
  let desc = found.leaf;
  if (!bit(desc, 10) && !r.ha && !r.affd) return { fault: 'ACCESS_FLAG', stage: 1 };
  const clean = r.hd && bit(desc, 51) && bit(desc, 7);
  const ap2 = bit(desc, 7) && !clean;
  const ap1 = bit(desc, 6);
  const xn = bit(desc, 54) || xnTable;
  let pr = true;
  let pw = !ap2 && !bit(apTable, 1);
  let ur: boolean, uw: boolean, px: boolean, ux: boolean;
  if (r.unprivileged) {
    ur = ap1 && !bit(apTable, 0);
    uw = ur && pw;
    px = !(bit(desc, 53) || pxnTable || uw);
    ux = !xn;
    if (r.pan && (ur || uw || (r.epan && ux))) {
      pr = false;
      pw = false;
    }
  } else {
    [ur, uw, px, ux] = [pr, pw, !xn, !xn];
  }
  const [rd, wr, execute] = access.priv ? [pr, pw, px] : [ur, uw, ux];
  const x = execute && !(r.wxn && wr);
  if (access.exec ? !x : access.write ? !wr : !rd) return { fault: 'PERMISSION', stage: 1 };
  const before = desc;
  if (!bit(desc, 10) && r.ha) desc |= 1n << 10n;
  if (access.write && clean) desc &= ~(1n << 7n);
  if (desc !== before) {
    const where = resolve(true)(found.at);
    if (typeof where !== 'bigint') return where;
    store(memory, where, r, desc);
  }
  return {
    pa: found.base | (va & (found.size - 1n)),
    size: found.size,
    level: found.level,
    descriptor: desc,
    r: rd,
    w: wr,
    x,
  };
}
