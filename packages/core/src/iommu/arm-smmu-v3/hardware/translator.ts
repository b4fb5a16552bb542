// From a context and an address to a physical address: IOTLB, walks, permissions. Configuration is config-table.ts.

import { PERM_READ, PERM_WRITE, WALK_FAULT, type WalkFault } from '../../../pagetable/armv8.ts';
import {
  DEFAULT_INPUT,
  applyStage1,
  applyStage2,
  applyStage2Fwb,
  attributes,
  override,
  stage2IsDevice,
} from '../../../pagetable/armv8-attributes.ts';
import { Stage1Walker, type TableSpace } from '../../../pagetable/armv8-stage1.ts';
import { type Stage2Config, Stage2Walker } from '../../../pagetable/armv8-stage2.ts';
import type { PhysicalMemory } from '../../../memory/physical.ts';
import type { Trace } from '../../../trace/trace.ts';
import { CLASS, EVENT } from '../spec/events.ts';
import type { ContextConfig } from './context-config.ts';
import { ENTRY, IPA_SPACE, type Iotlb, type Regime, type TableView, type Tag, entryInfo } from './iotlb.ts';
import type { StreamConfig } from './stream-config.ts';
import type { EventType } from './transaction.ts';

/** Everything that translating an address needs, from the configuration of a stream and a substream. */
export interface Context {
  readonly stream: StreamConfig;
  /** Null where stage 1 is bypassed. */
  readonly cd: ContextConfig | null;
  readonly regime: Regime;
  readonly asid: Tag;
  readonly global: Tag;
}

/** A fault of translation. */
export interface TranslationFault {
  readonly type: EventType;
  readonly stage2: boolean;
  readonly class: number;
  /** Where `stage2`: the IPA that faulted. */
  readonly ipa: number;
  /** F_WALK_EABT: the descriptor's physical address. */
  readonly fetch: number;
  /** F_PERMISSION of class TT: stage 1 read (rather than updated) its descriptor. */
  readonly ttRead: boolean;
}

const TYPES: Readonly<Record<WalkFault, EventType>> = {
  [WALK_FAULT.NONE]: EVENT.F_TRANSLATION,
  [WALK_FAULT.TRANSLATION]: EVENT.F_TRANSLATION,
  [WALK_FAULT.ADDRESS_SIZE]: EVENT.F_ADDR_SIZE,
  [WALK_FAULT.ACCESS_FLAG]: EVENT.F_ACCESS,
  [WALK_FAULT.PERMISSION]: EVENT.F_PERMISSION,
  [WALK_FAULT.EXTERNAL_ABORT]: EVENT.F_WALK_EABT,
};

/** PERM bits of stage 2 in an entry's permissions. */
const STAGE2_SHIFT = 6;

/** Translates one address at a time; the answer is in the fields. */
export class Translator implements TableSpace {
  pa = 0;
  /** Bytes from `pa` on that are mapped alike. */
  bytes = 0;
  attributes = 0;
  /** PERM bits that all enabled stages grant. */
  granted = 0;
  /** log2 of the bytes of the translation, and its input address's offset in it. */
  sizeBits = 0;
  /** The IPA, where there are two stages. */
  ipa = 0;
  fault: TranslationFault | null = null;
  readonly #iotlb: Iotlb;
  readonly #trace: Trace | null;
  readonly #stage1: Stage1Walker;
  readonly #stage2: Stage2Walker;
  readonly #tables1: TableView | null;
  readonly #tables2: TableView | null;
  /** What the stage 2 lookup below found. */
  #s2Out = 0;
  #s2Bits = 0;
  #s2Granted = 0;
  #s2Clean = false;
  #s2Attributes = 0;
  /** The context whose stage 1 tables are being walked. */
  #context: Context | null = null;
  /** Bytes below `sizeBits` in the input address. */
  #offset = 0;

  constructor(memory: PhysicalMemory, iotlb: Iotlb, trace: Trace | null) {
    this.#iotlb = iotlb;
    this.#trace = trace;
    this.#stage1 = new Stage1Walker(memory);
    this.#stage2 = new Stage2Walker(memory);
    this.#tables1 = iotlb.tables?.view() ?? null;
    this.#tables2 = iotlb.tables?.view() ?? null;
    this.#stage1.cache = this.#tables1;
    this.#stage2.cache = this.#tables2;
  }

  /**
   * Translates through every stage that the context has. `need` are the PERM bits that the access must have; with 0
   * there are no permission faults and `granted` tells what would be allowed. `input` are the transaction's attributes.
   */
  translate(context: Context, hi: number, lo: number, need: number, input: number): boolean {
    if (context.cd === null) return this.#stage2Only(context, hi, lo, need, input);
    const config = context.cd.stage1;
    const upper = config.unprivileged && (hi & 0x80_0000) !== 0;
    const region = upper ? config.regions[1]! : config.regions[0];
    if (!Stage1Walker.inRange(config, hi, lo)) return this.#stage1Fault(EVENT.F_TRANSLATION);
    if (region.e0pd && (need & 0b111000) !== 0) return this.#stage1Fault(EVENT.F_TRANSLATION);
    // With TBI the tag is no part of the address: it reads as copies of bit 55 (§3.4.1).
    if (region.topHi !== 0 && region.topHi >>> 0 <= 0x00ff_ffff)
      hi = upper ? hi | 0xff00_0000 : hi & 0x00ff_ffff;
    const { leaves } = this.#iotlb;
    const slot = leaves.cache.lookup(context.regime.va, context.asid.id, context.global.id, hi, lo);
    if (slot >= 0) {
      const done = this.#hit(context, slot, hi, lo, need, input);
      if (done >= 0) return done === 1;
    }
    return this.#miss(context, hi, lo, need, input);
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
    this.ipa = leaves.ipa[slot]! + this.#offset;
    if ((flags & ENTRY.SPLIT) !== 0) return this.#hitPart(context, slot, hi, lo, need, input);
    if ((flags & ENTRY.NESTED) !== 0) {
      if (((permissions >>> STAGE2_SHIFT) & need) !== need) {
        this.#stage2Fault(EVENT.F_PERMISSION, CLASS.IN, this.ipa, 0, true);
        return 0;
      }
      if ((flags & ENTRY.CLEAN2) !== 0 && (need & PERM_WRITE) !== 0) return -1;
      this.granted = permissions & (permissions >>> STAGE2_SHIFT) & 63;
    } else this.granted = permissions & 63;
    this.pa = leaves.out[slot]! + this.#offset;
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
        this.pa = parts.out[part]! + this.#offset;
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
    if (!this.#secondStage(context, ipa, need, CLASS.IN, true)) return 0;
    this.#fillPart(context, space, hi, lo, permissions, stage1, input);
    return 1;
  }

  #miss(context: Context, hi: number, lo: number, need: number, input: number): boolean {
    const walker = this.#stage1;
    const nested = context.stream.stage2 !== null;
    this.#context = context;
    const table =
      context.cd!.stage1.regions[(hi & 0x80_0000) !== 0 && context.cd!.stage1.unprivileged ? 1 : 0]!.table;
    this.#tables1?.bind(context.regime.vaTables, context.asid.id, table?.granuleBits ?? 12);
    if (!walker.walk(context.cd!.stage1, hi, lo, need, nested ? this : null)) {
      if (walker.nestedFault) return false;
      if (walker.fault === WALK_FAULT.EXTERNAL_ABORT) {
        this.fault = {
          type: EVENT.F_WALK_EABT,
          stage2: false,
          class: CLASS.TT,
          ipa: 0,
          fetch: walker.fetchAddress,
          ttRead: true,
        };
        return false;
      }
      return this.#stage1Fault(TYPES[walker.fault]);
    }
    const stage1 = attributes(walker.mair, walker.sh);
    const info = entryInfo(table!.granuleBits, walker.level);
    // A contiguous run is one entry where the run is aligned in both spaces, else the Contiguous bit is misprogrammed.
    const leafBits = walker.leafBits;
    let sizeBits = leafBits;
    let out = walker.out;
    if (walker.spanBits > leafBits && walker.spanBits < table!.inputBits) {
      this.#measure(hi, lo, walker.spanBits);
      const within = this.#offset - lowBits(this.#offset, leafBits);
      if (lowBits(walker.out - within, walker.spanBits) === 0) {
        out -= within;
        sizeBits = walker.spanBits;
      }
    }
    this.#measure(hi, lo, sizeBits);
    const permissions = walker.permissions;
    const clean1 = walker.clean ? ENTRY.CLEAN1 : 0;
    const space = walker.nonGlobal || !context.cd!.stage1.unprivileged ? context.asid.id : context.global.id;
    if (!nested) {
      this.pa = out + this.#offset;
      this.granted = permissions;
      const entry = this.#fillLeaf(context, space, hi, lo, sizeBits, info);
      const { leaves } = this.#iotlb;
      leaves.out[entry] = out;
      leaves.permissions[entry] = permissions;
      leaves.flags[entry] = clean1;
      leaves.stage1[entry] = stage1;
      leaves.attributes[entry] = applyStage1(DEFAULT_INPUT, stage1);
      this.attributes = this.#outputAttributes(context, input, leaves.attributes[entry]!, stage1, 0);
      return true;
    }
    return this.#missNested(
      context,
      hi,
      lo,
      need,
      input,
      out,
      sizeBits,
      info,
      permissions,
      clean1,
      stage1,
      space,
    );
  }

  #missNested(
    context: Context,
    hi: number,
    lo: number,
    need: number,
    input: number,
    out: number,
    sizeBits: number,
    info: number,
    permissions: number,
    clean1: number,
    stage1: number,
    space: number,
  ): boolean {
    const ipa = out + this.#offset;
    this.ipa = ipa;
    // An ATS request that stage 1 grants nothing is not translated any further (§3.9.1.2).
    if (need === 0 && permissions === 0) {
      this.granted = 0;
      return true;
    }
    if (!this.#secondStage(context, ipa, need, CLASS.IN, true)) return false;
    const { leaves } = this.#iotlb;
    const entry = this.#fillLeaf(context, space, hi, lo, sizeBits, info);
    leaves.ipa[entry] = out;
    leaves.stage1[entry] = stage1;
    if (this.#s2Bits < sizeBits) {
      leaves.flags[entry] = clean1 | ENTRY.SPLIT | ENTRY.NESTED;
      leaves.permissions[entry] = permissions;
      leaves.part[entry] = this.#iotlb.newPart();
      this.ipa = ipa;
      this.#fillPart(context, leaves.part[entry]!, hi, lo, permissions, stage1, input);
      return true;
    }
    const offset = lowBits(ipa - this.#offset, this.#s2Bits);
    this.granted = permissions & this.#s2Granted;
    leaves.out[entry] = this.#s2Out + offset;
    leaves.permissions[entry] = permissions | (this.#s2Granted << STAGE2_SHIFT);
    leaves.flags[entry] = clean1 | ENTRY.NESTED | (this.#s2Clean ? ENTRY.CLEAN2 : 0);
    leaves.stage2[entry] = this.#s2Attributes;
    leaves.attributes[entry] = stage2Attributes(applyStage1(DEFAULT_INPUT, stage1), this.#s2Attributes);
    this.pa = leaves.out[entry]! + this.#offset;
    this.attributes = this.#outputAttributes(
      context,
      input,
      leaves.attributes[entry]!,
      stage1,
      this.#s2Attributes,
    );
    return true;
  }

  #fillLeaf(context: Context, space: number, hi: number, lo: number, sizeBits: number, info: number): number {
    const { leaves } = this.#iotlb;
    const slot = leaves.cache.insert(context.regime.va, space, hi, lo, sizeBits);
    leaves.cache.info[slot] = info;
    if (this.#trace !== null && this.#trace.active) this.#traceFill('iotlb', context, hi, lo, sizeBits);
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
    const bits = this.#s2Bits;
    const slot = parts.cache.insert(context.regime.parts, space, hi, lo, bits);
    parts.out[slot] = this.#s2Out;
    parts.permissions[slot] = this.#s2Granted << STAGE2_SHIFT;
    parts.flags[slot] = this.#s2Clean ? ENTRY.CLEAN2 : 0;
    parts.stage2[slot] = this.#s2Attributes;
    parts.attributes[slot] = stage2Attributes(applyStage1(DEFAULT_INPUT, stage1), this.#s2Attributes);
    this.#measure(hi, lo, bits);
    this.pa = this.#s2Out + this.#offset;
    this.granted = permissions & this.#s2Granted;
    this.attributes = this.#outputAttributes(
      context,
      input,
      parts.attributes[slot]!,
      stage1,
      this.#s2Attributes,
    );
    if (this.#trace !== null && this.#trace.active) this.#traceFill('iotlb', context, hi, lo, bits);
  }

  #stage2Only(context: Context, hi: number, lo: number, need: number, input: number): boolean {
    const ipa = (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);
    this.ipa = ipa;
    if (!this.#secondStage(context, ipa, need, CLASS.IN, true)) return false;
    this.#measure(hi, lo, this.#s2Bits);
    this.pa = this.#s2Out + this.#offset;
    this.granted = this.#s2Granted;
    this.attributes = stage2Attributes(this.#inputAttributes(context, input), this.#s2Attributes);
    return true;
  }

  /** Whether E0PD keeps unprivileged accesses away from the half that the address lies in. */
  unprivilegedDisabled(context: Context, hi: number): boolean {
    if (context.cd === null) return false;
    const { regions, unprivileged } = context.cd.stage1;
    return unprivileged && ((hi & 0x80_0000) !== 0 ? regions[1]! : regions[0]).e0pd;
  }

  /** Finds the physical address of a stage 1 descriptor. */
  descriptorAddress(ipa: number, write: boolean): number {
    const need = write ? PERM_READ | PERM_WRITE : PERM_READ;
    if (!this.#secondStage(this.#context!, ipa, need, CLASS.TT, !write)) return -1;
    return this.#s2Out + lowBits(ipa, this.#s2Bits);
  }

  /** The physical address of a context descriptor, or -1 with the fault. */
  contextAddress(context: Context, ipa: number): number {
    if (!this.#secondStage(context, ipa, PERM_READ, CLASS.CD, true)) return -1;
    return this.#s2Out + lowBits(ipa, this.#s2Bits);
  }

  /** Stage 2 of an IPA: from the cache or by a walk. */
  #secondStage(context: Context, ipa: number, need: number, cls: number, ttRead: boolean): boolean {
    const config = context.stream.stage2!;
    const { ipas } = this.#iotlb;
    const hi = (ipa / 0x1_0000_0000) >>> 0;
    const lo = ipa >>> 0;
    const implicit = cls !== CLASS.IN;
    const slot = ipas.cache.lookup(context.regime.ipa, IPA_SPACE, 0, hi, lo);
    if (slot >= 0) {
      const permissions = ipas.permissions[slot]! >>> STAGE2_SHIFT;
      const clean = (ipas.flags[slot]! & ENTRY.CLEAN2) !== 0;
      const kept = ipas.stage2[slot]!;
      if (!clean || (need & PERM_WRITE) === 0) {
        if (
          (permissions & need) !== need ||
          (implicit && config.ptw && stage2IsDevice(kept & 15, config.fwb))
        ) {
          return this.#stage2Fault(EVENT.F_PERMISSION, cls, ipa, 0, ttRead);
        }
        this.#s2Out = ipas.out[slot]!;
        this.#s2Bits = ipas.cache.sizeOf(slot);
        this.#s2Granted = permissions;
        this.#s2Clean = clean;
        this.#s2Attributes = kept;
        return true;
      }
    }
    const walker = this.#stage2;
    this.#tables2?.bind(context.regime.ipaTables, IPA_SPACE, config.table.granuleBits);
    if (!walker.walk(config, ipa, need, implicit)) {
      return this.#stage2Fault(TYPES[walker.fault], cls, ipa, walker.fetchAddress, ttRead);
    }
    this.#keepStage2(context, config, hi, lo, ipa);
    return true;
  }

  #keepStage2(context: Context, config: Stage2Config, hi: number, lo: number, ipa: number): void {
    const walker = this.#stage2;
    let bits = walker.leafBits;
    let out = walker.pa;
    if (walker.spanBits > bits && walker.spanBits < config.table.inputBits) {
      const within = lowBits(ipa, walker.spanBits) - lowBits(ipa, bits);
      if (lowBits(out - within, walker.spanBits) === 0) {
        out -= within;
        bits = walker.spanBits;
      }
    }
    const { ipas } = this.#iotlb;
    const slot = ipas.cache.insert(context.regime.ipa, IPA_SPACE, hi, lo, bits);
    ipas.cache.info[slot] = entryInfo(config.table.granuleBits, walker.level);
    const kept = walker.memAttr | (walker.sh << 4) | (config.fwb ? 64 : 0);
    ipas.out[slot] = out;
    ipas.permissions[slot] = walker.permissions << STAGE2_SHIFT;
    ipas.flags[slot] = walker.clean ? ENTRY.CLEAN2 : 0;
    ipas.stage2[slot] = kept;
    this.#s2Out = out;
    this.#s2Bits = bits;
    this.#s2Granted = walker.permissions;
    this.#s2Clean = walker.clean;
    this.#s2Attributes = kept;
    if (this.#trace !== null && this.#trace.active) this.#traceFill('stage2-tlb', context, hi, lo, bits);
  }

  /** Splits the address at `bits`: the offset below, and how many bytes are left above it. */
  #measure(hi: number, lo: number, bits: number): void {
    this.sizeBits = bits;
    if (bits <= 31) this.#offset = lo & ((1 << bits) - 1);
    else {
      const high = bits >= 64 ? hi >>> 0 : hi & (2 ** (bits - 32) - 1);
      this.#offset = (high >>> 0) * 0x1_0000_0000 + (lo >>> 0);
    }
    this.bytes = 2 ** bits - this.#offset;
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

  #traceFill(cache: string, context: Context, hi: number, lo: number, bits: number): void {
    this.#trace!.emit({
      kind: 'cache-fill',
      cache,
      vmid: context.regime.vmid,
      asid: context.cd?.asid ?? null,
      hi: hi >>> 0,
      lo: lo >>> 0,
      bits,
    });
  }
}

/** The low `bits` bits of an address. */
function lowBits(address: number, bits: number): number {
  if (bits <= 31) return address & ((1 << bits) - 1);
  const high = (address / 0x1_0000_0000) & (2 ** (bits - 32) - 1);
  return (high >>> 0) * 0x1_0000_0000 + (address >>> 0);
}

function stage2Attributes(input: number, kept: number): number {
  const memAttr = kept & 15;
  const sh = (kept >>> 4) & 3;
  return (kept & 64) !== 0 ? applyStage2Fwb(input, memAttr, sh) : applyStage2(input, memAttr, sh);
}
