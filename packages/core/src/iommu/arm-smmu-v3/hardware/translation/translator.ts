// From a context and an address to a physical address: IOTLB, walks, permissions. Configuration is config-table.ts.

import { NO_CACHE, POW2, type TranslationCache } from '../../../caches/cache.ts';
import type { TableView } from '../../../caches/cache-tables.ts';
import { PERM_READ, PERM_WRITE, WALK_FAULT } from '../../../../pagetable/armv8.ts';
import { aboveHi, aboveLo, addressOf } from '../../../../pagetable/walk.ts';
import { DEFAULT_INPUT, applyStage1, attributes, override } from '../../../../pagetable/armv8-attributes.ts';
import { Stage1Walker } from '../../../../pagetable/armv8-stage1.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { CLASS, EVENT } from '../../spec/events.ts';
import type { Context, TranslationFault } from '../configuration/context.ts';
import {
  ENTRY,
  IPA_SPACE,
  type Iotlb,
  SLOW,
  STAGE2_SHIFT,
  entryInfo,
  fastWord,
  tableInfo,
  traceFill,
} from './iotlb.ts';
import { FAULT_TYPES, SecondStage, stage2Attributes } from './second-stage.ts';
import type { EventType } from '../transaction.ts';

/** Attributes of stage 1 for a transaction without any of its own, by MAIR byte and Shareability. */
const FIRST = Uint16Array.from({ length: 1024 }, (_, stage1) => applyStage1(DEFAULT_INPUT, stage1));

/** Larger mappings are told of in parts: this way `bytes` is a small integer. */
const BYTES_MAX = 0x4000_0000;

/** Translates one address at a time; the answer is in the fields. */
export class Translator {
  pa = 0;
  /** Bytes from `pa` on that are mapped alike, or 2^30 of them. */
  bytes = 0;
  attributes = 0;
  /** PERM bits that all enabled stages grant. */
  granted = 0;
  /** log2 of the bytes of the translation, and its input address's offset in it. */
  sizeBits = 0;
  offset = 0;
  /** The IPA, where there are two stages. */
  ipa = 0;
  fault: TranslationFault | null = null;
  /** That of quick(). */
  readonly answer = { kind: 'translated' as const, pa: NaN, attributes: 0, bytes: 0 };
  readonly #iotlb: Iotlb;
  /** Of the cache of VA translations, one step nearer. */
  readonly #leaves: TranslationCache = NO_CACHE;
  readonly #ipas: TranslationCache = NO_CACHE;
  readonly #trace: Trace | null;
  readonly #stage1: Stage1Walker;
  readonly #second: SecondStage;
  readonly #tables: TableView | null;
  #pair = -1;
  #ofPair = 0;

  constructor(memory: PhysicalMemory, iotlb: Iotlb, trace: Trace | null) {
    this.#iotlb = iotlb;
    this.#leaves = iotlb.leaves.cache;
    this.#ipas = iotlb.ipas.cache;
    this.#trace = trace;
    this.#stage1 = new Stage1Walker(memory);
    this.#second = new SecondStage(memory, iotlb, trace);
    this.#tables = iotlb.tables?.view() ?? null;
    this.#stage1.cache = this.#tables;
  }

  /**
   * Answers for a transaction without attributes of its own where the IOTLB has all that is needed; false says nothing
   * but that translate() has to be asked. `need` is not 0.
   */
  quick(context: Context, hi: number, lo: number, need: number): boolean {
    const upper = (hi & 0x80_0000) !== 0;
    const region = upper ? context.quickUpper : context.quickLower;
    if (region === null) return context.quickIpa && this.#quickIpa(context, hi, lo, need);
    if (((upper ? ~hi : hi) & region.topHi) !== 0 || ((upper ? ~lo : lo) & region.topLo) !== 0) return false;
    const { asid, global } = context;
    const answer = this.answer;
    const word = this.#leaves.answer(context.va, asid.id, global.id, hi, lo, need | SLOW, need, answer);
    answer.attributes = word >>> 16;
    return word !== 0 && (this.#trace === null || !this.#trace.active);
  }

  /**
   * Translates through every stage that the context has. `need` are the PERM bits that the access must have; with 0
   * there are no permission faults and `granted` tells what would be allowed. `input` are the transaction's attributes.
   */
  translate(context: Context, hi: number, lo: number, need: number, input: number): boolean {
    if (context.lower === null) return this.#stage2Only(context, hi, lo, need, input);
    const upper = (hi & 0x80_0000) !== 0 && context.upper !== null;
    const region = upper ? context.upper! : context.lower;
    const { topHi } = region;
    const outside = upper ? (~hi & topHi) | (~lo & region.topLo) : (hi & topHi) | (lo & region.topLo);
    if (outside !== 0) return this.#stage1Fault(EVENT.F_TRANSLATION);
    if (region.e0pd && (need & 0b111000) !== 0) return this.#stage1Fault(EVENT.F_TRANSLATION);
    // With TBI the tag is no part of the address: it reads as copies of bit 55 (§3.4.1).
    if (topHi > 0 && topHi <= 0x00ff_ffff) hi = upper ? hi | 0xff00_0000 : hi & 0x00ff_ffff;
    const slot = this.#leaves.lookup(context.va, context.asid.id, context.global.id, hi, lo);
    if (slot >= 0) {
      const done = this.#hit(context, slot, hi, lo, need, input);
      if (done >= 0) return done === 1;
    }
    return this.#miss(context, hi, lo, need, input);
  }

  #quickIpa(context: Context, hi: number, lo: number, need: number): boolean {
    if ((hi & context.ipaTop) !== 0) return false;
    const answer = this.answer;
    const word = this.#ipas.answer(context.regime.ipa, IPA_SPACE, 0, hi, lo, need | SLOW, need, answer);
    answer.attributes = word >>> 16;
    return word !== 0 && (this.#trace === null || !this.#trace.active);
  }

  /** 1 translated, 0 faulted, -1 the tables have to be walked. */
  #hit(context: Context, slot: number, hi: number, lo: number, need: number, input: number): number {
    const { leaves } = this.#iotlb;
    const permissions = leaves.permissions[slot]!;
    const flags = leaves.flags[slot]!;
    if ((permissions & need) !== need) {
      this.#stage1Fault(EVENT.F_PERMISSION);
      return 0;
    }
    if ((flags & ENTRY.CLEAN1) !== 0 && (need & PERM_WRITE) !== 0) return -1;
    this.#measure(hi, lo, leaves.cache.sizeOf(slot));
    this.ipa = leaves.ipa[slot]! + this.offset;
    if ((flags & ENTRY.SPLIT) !== 0) return this.#hitPart(context, slot, hi, lo, need, input);
    if ((flags & ENTRY.NESTED) !== 0) {
      if (((permissions >>> STAGE2_SHIFT) & need) !== need) {
        this.#stage2Fault(EVENT.F_PERMISSION, CLASS.IN, this.ipa, 0, true);
        return 0;
      }
      if ((flags & ENTRY.CLEAN2) !== 0 && (need & PERM_WRITE) !== 0) return -1;
      this.granted = permissions & (permissions >>> STAGE2_SHIFT) & 63;
    } else this.granted = permissions & 63;
    this.pa = leaves.cache.out(slot) + this.offset;
    this.attributes = this.#outputAttributes(
      context,
      input,
      leaves.attributes[slot]!,
      leaves.stage1[slot]!,
      leaves.stage2[slot]!,
    );
    if (this.#trace !== null && this.#trace.active) this.#traceHit('iotlb', hi, lo);
    return 1;
  }

  /** Stage 1 hit, and stage 2 maps its block in pieces: the piece is cached, or stage 2 alone is looked up. */
  #hitPart(context: Context, slot: number, hi: number, lo: number, need: number, input: number): number {
    const { leaves, parts } = this.#iotlb;
    const space = leaves.part[slot]!;
    const permissions = leaves.permissions[slot]! & 63;
    const stage1 = leaves.stage1[slot]!;
    const ipa = this.ipa;
    const part = parts.cache.lookup(context.regime.parts, space, 0, hi, lo);
    if (part >= 0) {
      const second = parts.permissions[part]! >>> STAGE2_SHIFT;
      if ((second & need) !== need) {
        this.#stage2Fault(EVENT.F_PERMISSION, CLASS.IN, ipa, 0, true);
        return 0;
      }
      if ((parts.flags[part]! & ENTRY.CLEAN2) === 0 || (need & PERM_WRITE) === 0) {
        this.#measure(hi, lo, parts.cache.sizeOf(part));
        this.pa = parts.cache.out(part) + this.offset;
        this.granted = permissions & second;
        this.attributes = this.#outputAttributes(
          context,
          input,
          parts.attributes[part]!,
          stage1,
          parts.stage2[part]!,
        );
        if (this.#trace !== null && this.#trace.active) this.#traceHit('iotlb', hi, lo);
        return 1;
      }
    }
    if (!this.#stage2(context, (ipa / 0x1_0000_0000) | 0, ipa | 0, need)) return 0;
    this.#fillPart(context, space, hi, lo, permissions, stage1, input);
    return 1;
  }

  #miss(context: Context, hi: number, lo: number, need: number, input: number): boolean {
    const walker = this.#stage1;
    const second = this.#second;
    const nested = context.stream.stage2 !== null;
    const config = context.cd!.stage1;
    const table = ((hi & 0x80_0000) !== 0 && context.upper !== null ? context.upper : context.lower!).table;
    this.#tables?.bind(context.regime.vaTables, context.asid.id, hi, tableInfo(table?.granuleBits ?? 12));
    if (!walker.walk(config, hi, lo, need, nested ? second.begin(context) : null)) {
      this.#walkFailed();
      return false;
    }
    const stage1 = attributes(walker.mair, walker.sh);
    const info = entryInfo(table!.granuleBits, walker.level);
    // A contiguous run is one entry where it is aligned in both spaces, else the Contiguous bit is misprogrammed.
    let sizeBits = walker.leafBits;
    let { outHi, outLo } = walker;
    const span = walker.spanBits;
    if (span > sizeBits && span < table!.inputBits) {
      const wrongHi = (hi ^ outHi) & aboveHi(sizeBits) & ~aboveHi(span);
      const wrongLo = (lo ^ outLo) & aboveLo(sizeBits) & ~aboveLo(span);
      if ((wrongHi | wrongLo) === 0) {
        outHi &= aboveHi(span);
        outLo &= aboveLo(span);
        sizeBits = span;
      }
    }
    this.#measure(hi, lo, sizeBits);
    const permissions = walker.permissions;
    const clean1 = walker.clean ? ENTRY.CLEAN1 : 0;
    const space = walker.nonGlobal || !config.unprivileged ? context.asid.id : context.global.id;
    const out = addressOf(outHi, outLo);
    if (!nested) {
      this.pa = out + this.offset;
      this.granted = permissions;
      const entry = this.#fillLeaf(context, space, hi, lo, sizeBits, info);
      const { leaves } = this.#iotlb;
      leaves.permissions[entry] = permissions;
      leaves.flags[entry] = clean1;
      leaves.stage1[entry] = stage1;
      leaves.attributes[entry] = FIRST[stage1]!;
      const word = fastWord(permissions, sizeBits, FIRST[stage1]!, clean1 !== 0);
      leaves.cache.fill(entry, outHi, outLo, word);
      this.attributes = this.#outputAttributes(context, input, leaves.attributes[entry]!, stage1, 0);
      return true;
    }
    this.ipa = out + this.offset;
    // An ATS request that stage 1 grants nothing is not translated any further (§3.9.1.2).
    if (need === 0 && permissions === 0) {
      this.granted = 0;
      return true;
    }
    const ipaHi = outHi | (hi & ~aboveHi(sizeBits));
    const ipaLo = outLo | (lo & ~aboveLo(sizeBits));
    if (!this.#stage2(context, ipaHi, ipaLo, need)) return false;
    const { leaves } = this.#iotlb;
    const entry = this.#fillLeaf(context, space, hi, lo, sizeBits, info);
    leaves.ipa[entry] = out;
    leaves.stage1[entry] = stage1;
    if (second.bits < sizeBits) {
      leaves.flags[entry] = clean1 | ENTRY.SPLIT | ENTRY.NESTED;
      leaves.permissions[entry] = permissions;
      leaves.part[entry] = this.#iotlb.newPart();
      this.#fillPart(context, leaves.part[entry]!, hi, lo, permissions, stage1, input);
      return true;
    }
    // Where stage 1's leaf lies in stage 2's.
    const inHi = outHi & ~aboveHi(second.bits);
    const inLo = outLo & ~aboveLo(second.bits);
    const ready = this.#combined(stage1, second.kept);
    this.granted = permissions & second.granted;
    const word = fastWord(this.granted, sizeBits, ready, clean1 !== 0 || second.clean);
    leaves.cache.fill(entry, second.outHi | inHi, second.outLo | inLo, word);
    leaves.permissions[entry] = permissions | (second.granted << STAGE2_SHIFT);
    leaves.flags[entry] = clean1 | ENTRY.NESTED | (second.clean ? ENTRY.CLEAN2 : 0);
    leaves.stage2[entry] = second.kept;
    leaves.attributes[entry] = ready;
    this.pa = leaves.cache.out(entry) + this.offset;
    this.attributes = this.#outputAttributes(context, input, ready, stage1, second.kept);
    return true;
  }

  #walkFailed(): void {
    const walker = this.#stage1;
    if (walker.nestedFault) {
      this.fault = this.#second.fault;
      return;
    }
    const abort = walker.fault === WALK_FAULT.EXTERNAL_ABORT;
    this.#stage1Fault(FAULT_TYPES[walker.fault]);
    if (abort) this.fault = { ...this.fault!, class: CLASS.TT, fetch: walker.fetchAddress };
  }

  /** Stage 2 of what stage 1 gives, or of the input. */
  #stage2(context: Context, hi: number, lo: number, need: number): boolean {
    if (this.#second.find(context, hi, lo, need, CLASS.IN, true)) return true;
    this.fault = this.#second.fault;
    return false;
  }

  #fillLeaf(context: Context, space: number, hi: number, lo: number, sizeBits: number, info: number): number {
    const { leaves } = this.#iotlb;
    const slot = leaves.cache.insert(context.regime.va, space, hi, lo, sizeBits);
    leaves.cache.info[slot] = info;
    leaves.cache.fill(slot, 0, 0, SLOW);
    if (this.#trace !== null && this.#trace.active)
      traceFill(this.#trace, 'iotlb', context, hi, lo, sizeBits);
    return slot;
  }

  /** Keeps what secondStage() found as a piece of a stage 1 entry, and answers with it. */
  #fillPart(
    context: Context,
    space: number,
    hi: number,
    lo: number,
    permissions: number,
    stage1: number,
    input: number,
  ): void {
    const { parts } = this.#iotlb;
    const second = this.#second;
    const { bits } = second;
    const slot = parts.cache.insert(context.regime.parts, space, hi, lo, bits);
    const ready = this.#combined(stage1, second.kept);
    parts.cache.fill(slot, second.outHi, second.outLo, SLOW);
    parts.permissions[slot] = second.granted << STAGE2_SHIFT;
    parts.flags[slot] = second.clean ? ENTRY.CLEAN2 : 0;
    parts.stage2[slot] = second.kept;
    parts.attributes[slot] = ready;
    this.#measure(hi, lo, bits);
    this.pa = second.out + this.offset;
    this.granted = permissions & second.granted;
    this.attributes = this.#outputAttributes(context, input, ready, stage1, second.kept);
    if (this.#trace !== null && this.#trace.active) traceFill(this.#trace, 'iotlb', context, hi, lo, bits);
  }

  #stage2Only(context: Context, hi: number, lo: number, need: number, input: number): boolean {
    const second = this.#second;
    this.ipa = addressOf(hi >>> 0, lo);
    if (!this.#stage2(context, hi, lo, need)) return false;
    this.#measure(hi, lo, second.bits);
    this.pa = second.out + this.offset;
    this.granted = second.granted;
    this.attributes =
      input === DEFAULT_INPUT && context.plain
        ? second.ready
        : stage2Attributes(this.#inputAttributes(context, input), second.kept);
    return true;
  }

  /** Whether E0PD keeps unprivileged accesses away from the half that the address lies in. */
  unprivilegedDisabled(context: Context, hi: number): boolean {
    if (context.cd === null) return false;
    const { regions, unprivileged } = context.cd.stage1;
    return unprivileged && ((hi & 0x80_0000) !== 0 ? regions[1]! : regions[0]).e0pd;
  }

  /** The physical address of a context descriptor, or -1 with the fault. */
  contextAddress(context: Context, ipa: number): number {
    const second = this.#second;
    const [hi, lo] = [(ipa / 0x1_0000_0000) | 0, ipa | 0];
    if (!second.find(context, hi, lo, PERM_READ, CLASS.CD, true)) {
      this.fault = second.fault;
      return -1;
    }
    return addressOf(
      second.outHi | (hi & ~aboveHi(second.bits)),
      second.outLo | (lo & ~aboveLo(second.bits)),
    );
  }

  /** Splits the address at `bits`: the offset below, and how many bytes are left above it. */
  #measure(hi: number, lo: number, bits: number): void {
    this.sizeBits = bits;
    if (bits <= 30) {
      this.offset = lo & ((1 << bits) - 1);
      this.bytes = (1 << bits) - this.offset;
      return;
    }
    const high = bits >= 64 ? hi >>> 0 : bits <= 32 ? 0 : hi & (POW2[bits - 32]! - 1);
    this.offset = (high >>> 0) * 0x1_0000_0000 + (bits === 31 ? lo & 0x7fff_ffff : lo >>> 0);
    this.bytes = Math.min(BYTES_MAX, POW2[bits]! - this.offset) | 0;
  }

  /** Attributes of both stages for a transaction without any of its own. Few pairs occur: the last one is remembered. */
  #combined(stage1: number, stage2: number): number {
    const pair = stage1 | (stage2 << 10);
    if (pair !== this.#pair) {
      this.#pair = pair;
      this.#ofPair = stage2Attributes(FIRST[stage1]!, stage2);
    }
    return this.#ofPair;
  }

  #inputAttributes(context: Context, input: number): number {
    const { overrides } = context.stream;
    return overrides === null ? input : override(input, overrides);
  }

  /** `ready` is right for a transaction without attributes and a stream without overrides. */
  #outputAttributes(context: Context, input: number, ready: number, stage1: number, stage2: number): number {
    if (input === DEFAULT_INPUT && context.stream.overrides === null) return ready;
    const first = applyStage1(this.#inputAttributes(context, input), stage1);
    return context.stream.stage2 === null ? first : stage2Attributes(first, stage2);
  }

  #stage1Fault(type: EventType): false {
    this.fault = { type, stage2: false, class: CLASS.IN, ipa: 0, fetch: 0, ttRead: true };
    return false;
  }

  #stage2Fault(type: EventType, cls: number, ipa: number, fetch: number, ttRead: boolean): false {
    this.fault = { type, stage2: true, class: cls, ipa, fetch, ttRead };
    return false;
  }

  #traceHit(cache: string, hi: number, lo: number): void {
    this.#trace!.emit({
      kind: 'cache-hit',
      cache,
      hi: hi >>> 0,
      lo: lo >>> 0,
      bits: this.sizeBits,
      pa: this.pa,
    });
  }
}
