// From a route and an address to a physical address: IOTLB, walks of both stages, permissions. Which tables apply is
// config-table.ts.

import type { PhysicalMemory } from '../../../../memory/physical.ts';
import {
  SS_FAULT,
  SS_RIGHTS,
  type SecondStageConfig,
  SecondStageWalker,
} from '../../../../pagetable/vtd-second-stage.ts';
import { type TableSpace, addressOf } from '../../../../pagetable/walk.ts';
import {
  X86_FAULT,
  X86_PERM,
  X86_READ,
  X86_WRITE,
  X86Walker,
  isCanonical,
} from '../../../../pagetable/x86-64.ts';
import type { Trace } from '../../../../trace/trace.ts';
import type { TranslationCache } from '../../../caches/cache.ts';
import type { TableView } from '../../../caches/cache-tables.ts';
import { FAULT, type FaultCondition, INTERRUPT_RANGE } from '../../spec/faults.ts';
import { PGTT } from '../../spec/pasid.ts';
import type { IntelFeatures } from '../registers/config.ts';
import { NO_PASID, type Route } from '../configuration/config-table.ts';
import { FirstTables } from './first-tables.ts';
import { ENTRY, type Iotlb, KIND, type Kind, type Space, TABLE_SPACE, highMask } from './iotlb.ts';

/** What a request needs of each stage. */
export interface Need {
  /** X86_PERM bits: the first stage. */
  readonly first: number;
  /** SS_RIGHTS: the second stage. */
  readonly second: number;
  /** Both as ENTRY has them, and what of an entry tells that there is nothing else to do: it must equal `entry`. */
  readonly entry: number;
  readonly mask: number;
}

function needs(first: number, second: number): Need {
  const entry = first | (second << ENTRY.RIGHTS_SHIFT);
  const clean = (second & SS_RIGHTS.WRITE) !== 0 ? ENTRY.CLEAN1 | ENTRY.CLEAN2 : 0;
  return { first, second, entry, mask: entry | clean | ENTRY.FAULT | ENTRY.INTERRUPT };
}

const { READ, WRITE } = SS_RIGHTS;
const { SR, SW, UR, UW } = X86_PERM;
/** Needs by what a request does; supervisors' are two bits lower in the first stage. */
export const NEED = {
  READ: needs(UR, READ),
  WRITE: needs(UW, WRITE),
  ATOMIC: needs(UR | UW, READ | WRITE),
  /** A zero-length read, where write-only pages of the second stage serve it too (CAP.ZLR). */
  ZERO_LENGTH: needs(UR, 0),
  SUPERVISOR_READ: needs(SR, READ),
  SUPERVISOR_WRITE: needs(SW, WRITE),
  SUPERVISOR_ATOMIC: needs(SR | SW, READ | WRITE),
  SUPERVISOR_ZERO_LENGTH: needs(SR, 0),
  /** An ATS request: nothing is denied, the answer tells what is granted. */
  NOTHING: needs(0, 0),
} as const satisfies Record<string, Need>;

const ALL_PERMISSIONS = 63;
const ALL_RIGHTS = 3;

/** Translates one address at a time; the answer is in the fields. */
export class Translator implements TableSpace {
  pa = 0;
  /** Bytes from `pa` on that are mapped alike. */
  bytes = 0;
  /** log2 of the bytes of the translation. */
  sizeBits = 0;
  snoop = false;
  /** What both stages grant: X86_PERM bits, SS_RIGHTS. */
  permissions = 0;
  rights = 0;
  fault: FaultCondition | null = null;
  descriptorHi = 0;
  descriptorLo = 0;
  readonly #features: IntelFeatures;
  readonly #iotlb: Iotlb;
  readonly #trace: Trace | null;
  readonly #first: X86Walker;
  readonly #second: SecondStageWalker;
  readonly #firstTables: FirstTables;
  readonly #secondTables: TableView | null;
  /** Of the IOTLB, one step nearer. */
  readonly #cache: TranslationCache;
  #route: Route | null = null;

  constructor(memory: PhysicalMemory, features: IntelFeatures, iotlb: Iotlb, trace: Trace | null) {
    this.#features = features;
    this.#iotlb = iotlb;
    this.#trace = trace;
    this.#first = new X86Walker(memory);
    this.#second = new SecondStageWalker(memory);
    this.#firstTables = new FirstTables(iotlb.tables);
    this.#secondTables = iotlb.tables?.view() ?? null;
    this.#cache = iotlb.cache;
    this.#first.cache = this.#firstTables;
    this.#second.cache = this.#secondTables;
  }

  /**
   * Translates through every stage that the route has. `want` is what the request will use where it is granted: `need`
   * itself, but for ATS. Answers false with `fault`.
   */
  translate(route: Route, hi: number, lo: number, need: Need, want: Need = need): boolean {
    const { entry } = route;
    const { pgtt } = entry;
    if (pgtt === PGTT.PASS_THROUGH) return this.#passThrough(route, hi, lo);
    let tag = hi;
    if (pgtt === PGTT.SECOND_STAGE) {
      if (!within(entry.secondStage!, hi, lo))
        return this.#refuse(entry.legacy ? FAULT.LGN_1_1 : FAULT.SGN_5);
    } else {
      if (!isCanonical(entry.firstStage!, hi)) return this.#refuse(FAULT.SGN_1);
      tag &= highMask(inputBits(route));
    }
    const slot = this.#iotlb.lookup(route.source, tag, lo);
    if (slot >= 0) {
      const done = this.#hit(route, slot, tag, lo, need, want);
      if (done >= 0) return done === 1;
    }
    return pgtt === PGTT.SECOND_STAGE
      ? this.#missSecond(route, hi, lo, need, want)
      : this.#missFirst(route, hi, lo, need, want);
  }

  #refuse(condition: FaultCondition): false {
    this.fault = condition;
    return false;
  }

  /** §3.9: the address is its own translation, below the host address width. */
  #passThrough(route: Route, hi: number, lo: number): boolean {
    const address = (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);
    if (address >= 2 ** this.#features.haw) {
      return this.#refuse(route.entry.legacy ? FAULT.LGN_1_3 : FAULT.SGN_4_2);
    }
    this.sizeBits = 12;
    this.pa = address;
    this.bytes = 4096 - (address & 4095);
    this.snoop = route.entry.pageSnoop;
    this.permissions = ALL_PERMISSIONS;
    this.rights = ALL_RIGHTS;
    return true;
  }

  /** 1 translated, 0 faulted, -1 the tables have to be walked. */
  #hit(route: Route, slot: number, hi: number, lo: number, need: Need, want: Need): number {
    const iotlb = this.#iotlb;
    const word = this.#cache.wordOf(slot);
    if ((word & ENTRY.FAULT) !== 0) {
      this.fault = iotlb.faultOf(slot);
      // What is absent in legacy mode is a fault of the kind of access.
      if (this.fault === FAULT.LGN_2 || this.fault === FAULT.LGN_3) this.fault = absent(need.second);
      return 0;
    }
    const permissions = word & ENTRY.PERMISSIONS;
    const rights = (word >>> ENTRY.RIGHTS_SHIFT) & ALL_RIGHTS;
    const denied = this.#denied(route, permissions, rights, need.first, need.second);
    if (denied !== null) {
      this.fault = denied;
      return 0;
    }
    const writes =
      (permissions & want.first & X86_WRITE) !== 0 && (rights & want.second & SS_RIGHTS.WRITE) !== 0;
    if (writes && (word & (ENTRY.CLEAN1 | ENTRY.CLEAN2)) !== 0) return -1;
    const bits = this.#cache.sizeOf(slot);
    this.#place(slot, lo, bits);
    this.permissions = permissions;
    this.rights = rights;
    this.snoop = (word & ENTRY.SNOOP) !== 0;
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({ kind: 'cache-hit', cache: 'iotlb', hi: hi >>> 0, lo: lo >>> 0, bits, pa: this.pa });
    }
    return 1;
  }

  /** What the permissions do not allow, or null. The first stage is judged first. */
  #denied(
    route: Route,
    permissions: number,
    rights: number,
    first: number,
    second: number,
  ): FaultCondition | null {
    const missing = first & ~permissions;
    if (missing !== 0) {
      // Users are denied everything where a U/S is 0; supervisors can only lack write permission.
      if (
        (missing & X86_READ) !== 0 ||
        ((missing & X86_PERM.UW) !== 0 && (permissions & X86_PERM.UR) === 0)
      ) {
        return FAULT.SGN_2;
      }
      return FAULT.SGN_6;
    }
    const refused = second & ~rights;
    if (refused === 0) return null;
    const write = (refused & SS_RIGHTS.WRITE) !== 0;
    if (route.entry.legacy) return write ? FAULT.LGN_2 : FAULT.LGN_3;
    return write ? FAULT.SGN_6 : FAULT.SGN_7;
  }

  #missSecond(route: Route, hi: number, lo: number, need: Need, want: Need): boolean {
    const { entry } = route;
    if (!this.#walkSecond(route, hi, lo, need.second, want.second)) {
      this.fault = this.#secondFault(route, need.second);
      this.#keepFault(route, KIND.SECOND, hi, lo);
      return false;
    }
    const walker = this.#second;
    const space = this.#spaceOf(route, KIND.SECOND, 57);
    this.permissions = ALL_PERMISSIONS;
    this.rights = walker.rights;
    this.snoop = walker.snoop || entry.pageSnoop;
    const { outHi, outLo, leafBits } = walker;
    this.#keep(route, space, hi, lo, leafBits, outHi, outLo, walker.clean ? ENTRY.CLEAN2 : 0);
    return true;
  }

  /** Walks second-stage tables for an address that is within them. */
  #walkSecond(route: Route, hi: number, lo: number, need: number, want: number): boolean {
    this.#secondTables?.bind(route.domain.secondTables, TABLE_SPACE, hi);
    return this.#second.walk(route.entry.secondStage!, hi, lo, need, want);
  }

  /** The condition of the second walker's fault, for the access to a page. */
  #secondFault(route: Route, need: number): FaultCondition {
    const walker = this.#second;
    const { legacy, secondStage } = route.entry;
    const root = walker.level === secondStage!.levels;
    switch (walker.fault) {
      case SS_FAULT.FETCH:
        if (legacy) return root ? FAULT.LCT_4_3 : FAULT.LSS_1;
        return root ? FAULT.SSS_4 : FAULT.SSS_1;
      case SS_FAULT.RESERVED:
        return legacy ? FAULT.LSS_2 : FAULT.SSS_3;
      case SS_FAULT.UPDATE:
        return FAULT.SSS_6;
      case SS_FAULT.UPDATE_BLOCKED:
        return FAULT.SSS_5;
      case SS_FAULT.ADDRESS:
        return legacy ? FAULT.LGN_1_1 : FAULT.SGN_5;
      case SS_FAULT.NOT_PRESENT:
        return legacy ? absent(need) : FAULT.SSS_2;
      default: {
        const write = (need & ~walker.rights & SS_RIGHTS.WRITE) !== 0;
        if (legacy) return write ? FAULT.LGN_2 : FAULT.LGN_3;
        return write ? FAULT.SGN_6 : FAULT.SGN_7;
      }
    }
  }

  #missFirst(route: Route, hi: number, lo: number, need: Need, want: Need): boolean {
    const tables = route.entry.firstStage!;
    const nested = route.entry.secondStage !== null;
    const walker = this.#first;
    const { domain, pasid } = route;
    const bits = inputBits(route);
    const tag = hi & highMask(bits);
    this.#route = route;
    this.#firstTables.bind(domain.firstTables, this.#iotlb.tableTag(domain, pasid, bits).id, tag, nested);
    // Nested, a write makes the page dirty only when the second stage has allowed it too.
    const use = nested ? want.first & ~X86_WRITE : want.first;
    if (!walker.walk(tables, hi, lo, need.first, nested ? this : null, use))
      return this.#refuseFirst(route, need);
    this.permissions = walker.permissions;
    if (nested && !this.#finalPage(route, tag, lo, need, want)) return false;
    const space = this.#spaceOf(route, KIND.FIRST, bits);
    const clean = walker.clean ? ENTRY.CLEAN1 : 0;
    if (!nested) {
      this.rights = ALL_RIGHTS;
      this.snoop = route.entry.pageSnoop;
      this.#keep(route, space, tag, lo, walker.leafBits, walker.outHi, walker.outLo, clean);
      return true;
    }
    const second = this.#second;
    const size = Math.min(walker.leafBits, second.leafBits);
    const page = walker.outLo | offsetIn(lo, walker.leafBits);
    const start = (second.outLo | offsetIn(page, second.leafBits)) & (-1 << size);
    const flags = clean | (second.clean ? ENTRY.CLEAN2 : 0);
    this.rights = second.rights;
    this.snoop = second.snoop || route.entry.pageSnoop;
    this.#keep(route, space, tag, lo, size, second.outHi, start, flags);
    return true;
  }

  #refuseFirst(route: Route, need: Need): false {
    if (!this.#first.nestedFault) this.fault = this.#firstFault(route, need.first);
    return false;
  }

  /** Nested: the access to the page itself, through the second stage, and the dirty flags of both. */
  #finalPage(route: Route, tag: number, lo: number, need: Need, want: Need): boolean {
    const first = this.#first;
    const hi = first.outHi;
    if (!within(route.entry.secondStage!, hi, first.outLo)) return this.#refuse(FAULT.SFS_5);
    const low = first.outLo | offsetIn(lo, first.leafBits);
    if (!this.#walkSecond(route, hi, low, need.second, want.second & SS_RIGHTS.READ)) {
      this.fault = this.#secondFault(route, need.second);
      this.#keepFault(route, KIND.FIRST, tag, lo);
      return false;
    }
    const writes =
      (first.permissions & want.first & X86_WRITE) !== 0 &&
      (this.#second.rights & want.second & SS_RIGHTS.WRITE) !== 0;
    if (!writes) return true;
    if (first.clean) {
      if (!first.setDirty(route.entry.firstStage!, this)) return this.#refuseFirst(route, need);
      // Setting it may have walked the second stage for the table.
      if (!this.#walkSecond(route, hi, low, need.second, want.second)) {
        return this.#refuse(this.#secondFault(route, need.second));
      }
    } else if (this.#second.clean && !this.#walkSecond(route, hi, low, need.second, want.second)) {
      return this.#refuse(this.#secondFault(route, need.second));
    }
    return true;
  }

  /** The condition of the first walker's fault. */
  #firstFault(route: Route, need: number): FaultCondition {
    const walker = this.#first;
    const root = walker.level === route.entry.firstStage!.levels;
    switch (walker.fault) {
      case X86_FAULT.NOT_CANONICAL:
        return FAULT.SGN_1;
      case X86_FAULT.NOT_PRESENT:
        return FAULT.SFS_2;
      case X86_FAULT.RESERVED:
        return FAULT.SFS_3;
      case X86_FAULT.FETCH:
        return root ? FAULT.SFS_4 : FAULT.SFS_1;
      case X86_FAULT.UPDATE:
        return FAULT.SFS_10;
      case X86_FAULT.UPDATE_BLOCKED:
        return FAULT.SFS_9;
      default:
        return this.#denied(route, walker.permissions, ALL_RIGHTS, need, 0)!;
    }
  }

  /**
   * Finds the physical address of a first-stage entry at a guest physical address (§3.8.1). Reads need read permission, and
   * write permission too where the second stage keeps Accessed and Dirty flags; updates need both.
   */
  descriptor(hi: number, lo: number, write: boolean): boolean {
    const route = this.#route!;
    const stage = route.entry.secondStage!;
    const tables = this.#firstTables;
    const page = lo & ~0xfff;
    const needed = write || stage.accessedDirty ? ALL_RIGHTS : SS_RIGHTS.READ;
    if (!tables.knows(hi, page)) {
      if (!within(stage, hi, page)) return this.#refuse(FAULT.SFS_5);
      const second = this.#second;
      if (!this.#walkSecond(route, hi, page, needed, needed)) {
        return this.#refuse(this.#tableCondition(route, needed));
      }
      tables.settle(hi, page, second.outHi, second.outLo | offsetIn(page, second.leafBits), second.rights);
    }
    if ((tables.rights & needed) !== needed) return this.#refuse(FAULT.SFS_8);
    this.descriptorHi = tables.physicalHi;
    this.descriptorLo = tables.physicalLo | (lo & 0xfff);
    return true;
  }

  #tableCondition(route: Route, needed: number): FaultCondition {
    const second = this.#second;
    if (second.fault !== SS_FAULT.PERMISSION) return this.#secondFault(route, needed);
    if ((second.rights & SS_RIGHTS.READ) !== 0) return FAULT.SFS_8;
    return this.#first.level === route.entry.firstStage!.levels ? FAULT.SFS_6 : FAULT.SFS_7;
  }

  /** The space that entries made for a route go to. */
  #spaceOf(route: Route, kind: Kind, bits: number): Space {
    const space = this.#iotlb.space(route.source, route.domain, kind, route.pasid, bits);
    route.lookAgain();
    return space;
  }

  /** Keeps what was found, and answers with it. `outHi` and `outLo` are where the entry's first byte leads. */
  #keep(
    route: Route,
    space: Space,
    hi: number,
    lo: number,
    bits: number,
    outHi: number,
    outLo: number,
    flags: number,
  ): void {
    const cache = this.#cache;
    const slot = this.#iotlb.insert(space, hi, lo, bits);
    const granted = this.permissions | (this.rights << ENTRY.RIGHTS_SHIFT);
    const interrupt =
      meetsInterrupts(outHi, outLo, bits) ||
      (route.requestPasid === NO_PASID && meetsInterrupts(hi, lo, bits));
    const other = (this.snoop ? ENTRY.SNOOP : 0) | (interrupt ? ENTRY.INTERRUPT : 0);
    cache.fill(slot, outHi, outLo, granted | flags | other);
    this.#place(slot, lo, bits);
    if (this.#trace !== null && this.#trace.active) this.#traceFill(space, hi, lo, bits, null);
  }

  /** §6.2.4.1: with Caching Mode a fault of second-stage tables stays until it is invalidated. */
  #keepFault(route: Route, kind: Kind, tag: number, lo: number): void {
    if (!this.#features.cachingMode || !KEPT_FAULTS.has(this.#second.fault)) return;
    const bits = kind === KIND.FIRST ? inputBits(route) : 57;
    const space = this.#spaceOf(route, kind, bits);
    this.#iotlb.setFault(this.#iotlb.insert(space, tag, lo, 12), this.fault!);
    if (this.#trace !== null && this.#trace.active) this.#traceFill(space, tag, lo, 12, this.fault);
  }

  #traceFill(space: Space, hi: number, lo: number, bits: number, fault: FaultCondition | null): void {
    this.#trace!.emit({
      kind: 'cache-fill',
      cache: 'iotlb',
      did: space.domain?.did,
      pasid: space.pasid < 0 ? null : space.pasid,
      hi: hi >>> 0,
      lo: lo >>> 0,
      bits,
      fault: fault?.code ?? null,
    });
  }

  /** Answers with where the entry in a slot has an address. */
  #place(slot: number, lo: number, bits: number): void {
    this.sizeBits = bits;
    const offset = offsetIn(lo, bits);
    this.pa = addressOf(this.#cache.outHi(slot), this.#cache.outLo(slot) | offset);
    this.bytes = (1 << bits) - offset;
  }
}

/** Faults of tables rather than of permissions: a page that denies one access may allow another. */
const KEPT_FAULTS: ReadonlySet<number> = new Set([SS_FAULT.FETCH, SS_FAULT.RESERVED, SS_FAULT.NOT_PRESENT]);

/** Legacy mode: neither read nor write is granted. */
function absent(need: number): FaultCondition {
  return (need & SS_RIGHTS.WRITE) !== 0 ? FAULT.LGN_2 : FAULT.LGN_3;
}

/** Whether the block of 2^bits bytes (30 at most) that an address lies in meets the interrupt address range. */
function meetsInterrupts(hi: number, lo: number, bits: number): boolean {
  return hi === 0 && (lo ^ INTERRUPT_RANGE.START) >>> Math.max(bits, INTERRUPT_RANGE.BITS) === 0;
}

/** Address bits that first-stage tables translate. */
function inputBits(route: Route): number {
  return route.entry.firstStage!.levels === 4 ? 48 : 57;
}

/** The low `bits` (at most 30) of an address. */
function offsetIn(address: number, bits: number): number {
  return address & ((1 << bits) - 1);
}

function within(config: SecondStageConfig, hi: number, lo: number): boolean {
  return ((hi & config.aboveHi) | (lo & config.aboveLo)) === 0;
}
