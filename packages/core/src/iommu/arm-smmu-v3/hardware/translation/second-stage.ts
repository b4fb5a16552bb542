// Stage 2 of an IPA: from the cache of IPA translations, or by a walk.

import { PERM_READ, PERM_WRITE, WALK_FAULT, type WalkFault } from '../../../../pagetable/armv8.ts';
import {
  DEFAULT_INPUT,
  applyStage2,
  applyStage2Fwb,
  stage2IsDevice,
} from '../../../../pagetable/armv8-attributes.ts';
import { type Stage2Config, Stage2Walker } from '../../../../pagetable/armv8-stage2.ts';
import { type TableSpace, aboveHi, aboveLo, addressOf } from '../../../../pagetable/walk.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import type { TableView } from '../../../caches/cache-tables.ts';
import { CLASS, EVENT } from '../../spec/events.ts';
import type { Context, TranslationFault } from '../configuration/context.ts';
import {
  ENTRY,
  IPA_SPACE,
  type Iotlb,
  STAGE2_SHIFT,
  type TlbStore,
  entryInfo,
  fastWord,
  tableInfo,
  traceFill,
} from './iotlb.ts';
import type { EventType } from '../transaction.ts';

export const FAULT_TYPES: Readonly<Record<WalkFault, EventType>> = {
  [WALK_FAULT.NONE]: EVENT.F_TRANSLATION,
  [WALK_FAULT.TRANSLATION]: EVENT.F_TRANSLATION,
  [WALK_FAULT.ADDRESS_SIZE]: EVENT.F_ADDR_SIZE,
  [WALK_FAULT.ACCESS_FLAG]: EVENT.F_ACCESS,
  [WALK_FAULT.PERMISSION]: EVENT.F_PERMISSION,
  [WALK_FAULT.EXTERNAL_ABORT]: EVENT.F_WALK_EABT,
};

/** Applies what is kept of a stage 2 descriptor: MemAttr in 3:0, Shareability in 5:4, FWB in 6. */
export function stage2Attributes(input: number, kept: number): number {
  const memAttr = kept & 15;
  const sh = (kept >>> 4) & 3;
  return (kept & 64) !== 0 ? applyStage2Fwb(input, memAttr, sh) : applyStage2(input, memAttr, sh);
}

/** The same for a transaction without attributes of its own. */
const READY = Uint16Array.from({ length: 128 }, (_, kept) => stage2Attributes(DEFAULT_INPUT, kept));

/** Finds one translation at a time; the answer is in the fields. */
export class SecondStage implements TableSpace {
  /** The start of the entry in physical memory, by word, and log2 of its bytes. */
  outHi = 0;
  outLo = 0;
  bits = 0;
  /** PERM bits. */
  granted = 0;
  /** A write must first make the descriptor dirty. */
  clean = false;
  /** For stage2Attributes(), and what it gives for a transaction without attributes of its own. */
  kept = 0;
  ready = 0;
  fault: TranslationFault | null = null;
  descriptorHi = 0;
  descriptorLo = 0;
  readonly #ipas: TlbStore;
  readonly #trace: Trace | null;
  readonly #walker: Stage2Walker;
  readonly #tables: TableView | null;
  /** The context whose stage 1 tables are being walked. */
  #context: Context | null = null;

  constructor(memory: PhysicalMemory, iotlb: Iotlb, trace: Trace | null) {
    this.#ipas = iotlb.ipas;
    this.#trace = trace;
    this.#walker = new Stage2Walker(memory);
    this.#tables = iotlb.tables?.view() ?? null;
    this.#walker.cache = this.#tables;
  }

  /** A stage 1 walk of this context begins: descriptor() finds its tables. */
  begin(context: Context): this {
    this.#context = context;
    return this;
  }

  descriptor(hi: number, lo: number, write: boolean): boolean {
    const need = write ? PERM_READ | PERM_WRITE : PERM_READ;
    if (!this.find(this.#context!, hi, lo, need, CLASS.TT, !write)) return false;
    this.descriptorHi = this.outHi | (hi & ~aboveHi(this.bits));
    this.descriptorLo = this.outLo | (lo & ~aboveLo(this.bits));
    return true;
  }

  /** The address of the entry's first byte. */
  get out(): number {
    return addressOf(this.outHi, this.outLo);
  }

  /** Translates an IPA (bits 51:32, and 31:0). `cls` is why, for the fault. */
  find(context: Context, hi: number, lo: number, need: number, cls: number, ttRead: boolean): boolean {
    const ipas = this.#ipas;
    const config = context.stream.stage2!;
    const implicit = cls !== CLASS.IN;
    const slot = ipas.cache.lookup(context.regime.ipa, IPA_SPACE, 0, hi, lo);
    if (slot >= 0) {
      const permissions = ipas.permissions[slot]! >>> STAGE2_SHIFT;
      const clean = (ipas.flags[slot]! & ENTRY.CLEAN2) !== 0;
      const kept = ipas.stage2[slot]!;
      if (!clean || (need & PERM_WRITE) === 0) {
        const device = implicit && config.ptw && stage2IsDevice(kept & 15, config.fwb);
        if ((permissions & need) !== need || device) {
          return this.#end(EVENT.F_PERMISSION, cls, hi, lo, 0, ttRead);
        }
        this.outHi = ipas.cache.outHi(slot);
        this.outLo = ipas.cache.outLo(slot);
        this.bits = ipas.cache.sizeOf(slot);
        this.granted = permissions;
        this.clean = clean;
        this.kept = kept;
        this.ready = ipas.attributes[slot]!;
        return true;
      }
    }
    const walker = this.#walker;
    this.#tables?.bind(context.regime.ipaTables, IPA_SPACE, hi, tableInfo(config.table.granuleBits));
    if (!walker.walk(config, hi, lo, need, implicit)) {
      return this.#end(FAULT_TYPES[walker.fault], cls, hi, lo, walker.fetchAddress, ttRead);
    }
    this.#keep(context, config, hi, lo, slot < 0);
    return true;
  }

  /** Keeps what the walk found; `missing` where nothing in the cache covers the address. */
  #keep(context: Context, config: Stage2Config, hi: number, lo: number, missing: boolean): void {
    const walker = this.#walker;
    let bits = walker.leafBits;
    let { outHi, outLo } = walker;
    const span = walker.spanBits;
    if (span > bits && span < config.table.inputBits) {
      // A contiguous run is one entry where it is aligned in both spaces, else the Contiguous bit is misprogrammed.
      const wrongHi = (hi ^ outHi) & aboveHi(bits) & ~aboveHi(span);
      const wrongLo = (lo ^ outLo) & aboveLo(bits) & ~aboveLo(span);
      if ((wrongHi | wrongLo) === 0) {
        outHi &= aboveHi(span);
        outLo &= aboveLo(span);
        bits = span;
      }
    }
    const ipas = this.#ipas;
    const domain = context.regime.ipa;
    const slot = missing
      ? ipas.cache.place(domain, IPA_SPACE, hi, lo, bits)
      : ipas.cache.insert(domain, IPA_SPACE, hi, lo, bits);
    const kept = walker.memAttr | (walker.sh << 4) | (config.fwb ? 64 : 0);
    const ready = READY[kept]!;
    ipas.cache.info[slot] = entryInfo(config.table.granuleBits, walker.level);
    ipas.permissions[slot] = walker.permissions << STAGE2_SHIFT;
    ipas.flags[slot] = walker.clean ? ENTRY.CLEAN2 : 0;
    ipas.stage2[slot] = kept;
    ipas.attributes[slot] = ready;
    ipas.cache.fill(slot, outHi, outLo, fastWord(walker.permissions, bits, ready, walker.clean));
    this.outHi = outHi;
    this.outLo = outLo;
    this.bits = bits;
    this.granted = walker.permissions;
    this.clean = walker.clean;
    this.kept = kept;
    this.ready = ready;
    if (this.#trace !== null && this.#trace.active) {
      traceFill(this.#trace, 'stage2-tlb', context, hi, lo, bits);
    }
  }

  #end(type: EventType, cls: number, hi: number, lo: number, fetch: number, ttRead: boolean): false {
    this.fault = { type, stage2: true, class: cls, ipa: addressOf(hi >>> 0, lo), fetch, ttRead };
    return false;
  }
}
