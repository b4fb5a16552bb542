// Configuration structures: fetching STEs and CDs, and the caches of them (§3.3, §16.2). What was fetched is kept in
// whatever state it was, invalid ones too (§5.2.1, §5.4.1), until a CMD_CFGI_* takes it.

import { readAddress, readField } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import { type Stage1Region, needsCare } from '../../../../pagetable/armv8-stage1.ts';
import { aboveHi } from '../../../../pagetable/walk.ts';
import type { Trace } from '../../../../trace/trace.ts';
import { CD_BYTES, CD_WORDS, L1CD, L1CD_BYTES } from '../../spec/cd.ts';
import { EVENT } from '../../spec/events.ts';
import { STRTAB_FMT } from '../../spec/registers.ts';
import { L1STD, S1DSS, S1FMT, STE_CONFIG, STE_WORDS } from '../../spec/ste.ts';
import type { SmmuV3Config, SmmuV3Features } from '../registers/config.ts';
import { type ContextConfig, decodeCd } from './context-config.ts';
import type { Iotlb } from '../translation/iotlb.ts';
import { type Illegal, type StreamConfig, decodeSte, isIllegal } from './stream-config.ts';
import type { EventType } from '../transaction.ts';
import type { Context } from './context.ts';
import { alignDown, type L1Std, locateSte, type StreamTableBase } from './stream-table.ts';
import type { Translator } from '../translation/translator.ts';

/** Why no context could be found. */
export interface ConfigFault {
  readonly type: EventType;
  /** F_STE_FETCH and F_CD_FETCH: the address of the structure. */
  readonly fetch: number;
  /** C_BAD_SUBSTREAMID: the SubstreamID to record. */
  readonly substreamId: number;
  /** For people. */
  readonly reason: string;
}

/** An STE in the cache, with what was fetched through it. */
export interface CachedStream {
  readonly streamId: number;
  readonly config: StreamConfig | Illegal;
  /** Context descriptors by index, and level 1 descriptors by theirs. */
  readonly cds: Map<number, ContextConfig | Illegal>;
  readonly l1cds: Map<number, CachedL1Cd>;
  /** Contexts by SubstreamID, -1 for none. */
  readonly contexts: Map<number, Context>;
}
interface CachedL1Cd {
  readonly valid: boolean;
  readonly l2ptr: number;
}
const NO_SUBSTREAM = -1;
const NO_STREAM = -1;

export class ConfigTable {
  /** The stream fault or CD fault of the last lookup that failed; null where `translator.fault` has it. */
  fault: ConfigFault | null = null;
  base: StreamTableBase = { base: 0, log2Size: 0, split: 6, fmt: STRTAB_FMT.LINEAR, e2h: false };
  readonly #memory: PhysicalMemory;
  readonly #features: SmmuV3Features;
  readonly #config: SmmuV3Config;
  readonly #iotlb: Iotlb;
  readonly #translator: Translator;
  readonly #trace: Trace | null;
  readonly #streams = new Map<number, CachedStream>();
  readonly #l1stds = new Map<number, L1Std>();
  readonly #words = new Uint32Array(STE_WORDS);
  readonly #pair = new Uint32Array(2);
  #contexts = 0;
  /** The context of the last transaction: most follow others of their stream. */
  #lastStream = NO_STREAM;
  #lastKey = 0;
  #last: Context | undefined = undefined;

  constructor(
    memory: PhysicalMemory,
    config: SmmuV3Config,
    features: SmmuV3Features,
    iotlb: Iotlb,
    translator: Translator,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#config = config;
    this.#features = features;
    this.#iotlb = iotlb;
    this.#translator = translator;
    this.#trace = trace;
  }

  /** The cached context of a stream and substream, or undefined. */
  cached(streamId: number, substreamId: number | null): Context | undefined {
    const key = substreamId ?? NO_SUBSTREAM;
    if (streamId === this.#lastStream && key === this.#lastKey) return this.#last;
    const context = this.#streams.get(streamId)?.contexts.get(key);
    if (context !== undefined) {
      this.#lastStream = streamId;
      this.#lastKey = key;
      this.#last = context;
    }
    return context;
  }

  /** A context may have gone: the last one used counts no longer. */
  #forgetLast(): void {
    this.#lastStream = NO_STREAM;
    this.#last = undefined;
  }

  /** The STE of a stream, from the cache or the table; null with `fault`. */
  stream(streamId: number): CachedStream | null {
    const known = this.#streams.get(streamId);
    if (known !== undefined) return known;
    const address = this.#steAddress(streamId);
    if (address < 0) return null;
    if (address >= this.#features.physicalLimit || !this.#load(address, STE_WORDS)) {
      return this.#fail(EVENT.F_STE_FETCH, 'the STE could not be read', address);
    }
    const config = decodeSte(this.#words, this.#features, this.base.e2h);
    const stream = { streamId, config, cds: new Map(), l1cds: new Map(), contexts: new Map() };
    if (this.#streams.size >= this.#config.caches.streams) {
      const [oldest] = this.#streams.keys();
      this.#drop(oldest!);
      this.#traceEvict('ste', oldest!);
    }
    this.#streams.set(streamId, stream);
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({
        kind: 'cache-fill',
        cache: 'ste',
        streamId,
        illegal: isIllegal(config) ? config.illegal : null,
      });
    }
    return stream;
  }

  /** The address of an STE, or -1 with C_BAD_STREAMID or F_STE_FETCH. */
  #steAddress(streamId: number): number {
    const { sidSize } = this.#features;
    const where = locateSte(this.base, sidSize, streamId, (index, address) => this.#l1std(index, address));
    if (typeof where === 'number') return where;
    if (where !== null) {
      const whole = where === 'table' ? 'Stream table' : 'level 2 Stream table';
      this.#fail(EVENT.C_BAD_STREAMID, `the StreamID is outside of the ${whole}`);
    }
    return -1;
  }

  #l1std(index: number, address: number): L1Std | null {
    const known = this.#l1stds.get(index);
    if (known !== undefined) return known;
    if (address >= this.#features.physicalLimit || !this.#memory.load64(address, this.#pair)) {
      return this.#fail(EVENT.F_STE_FETCH, 'the level 1 Stream table could not be read', address);
    }
    const l1 = { span: readField(L1STD.Span, this.#pair), l2ptr: readAddress(L1STD.L2Ptr, this.#pair) };
    if (this.#l1stds.size >= this.#config.caches.streams) {
      const [oldest] = this.#l1stds.keys();
      this.#l1stds.delete(oldest!);
      this.#traceEvict('l1std', oldest!);
    }
    this.#l1stds.set(index, l1);
    return l1;
  }

  /**
   * The context of a transaction: configuration is looked up in the order of §7.3.22. Null with `fault`, or with the
   * translator's fault where stage 2 refused the CD. The STE is legal and does not abort.
   */
  context(stream: CachedStream, substreamId: number | null): Context | null {
    const key = substreamId ?? NO_SUBSTREAM;
    const known = stream.contexts.get(key);
    if (known !== undefined) return known;
    this.fault = null;
    const config = stream.config as StreamConfig;
    const index = this.#cdIndex(config, substreamId);
    if (index === FAULTED) return null;
    let cd: ContextConfig | null = null;
    if (index !== NO_CD) {
      const found = this.#cd(stream, config, index, substreamId);
      if (found === null) return null;
      if (isIllegal(found)) return this.#fail(EVENT.C_BAD_CD, found.illegal);
      cd = found;
    }
    const context = this.#makeContext(config, cd);
    if (this.#contexts >= this.#config.caches.contexts) this.#forgetContexts();
    this.#contexts++;
    stream.contexts.set(key, context);
    return context;
  }

  #makeContext(stream: StreamConfig, cd: ContextConfig | null): Context {
    const regime = this.#iotlb.regime(stream.world, stream.vmid);
    const asid = this.#iotlb.asid(regime, cd?.asid ?? 0);
    const plain = stream.overrides === null;
    const lower = cd?.stage1.regions[0] ?? null;
    const upper = cd?.stage1.regions[1] ?? null;
    const quick = (region: Stage1Region | null): Stage1Region | null =>
      region === null || !plain || needsCare(region) ? null : region;
    return {
      stream,
      cd,
      regime,
      asid,
      global: regime.globals[cd?.aset === 1 ? 1 : 0],
      plain,
      lower,
      upper,
      quickLower: quick(lower),
      // With one half, bit 55 says nothing: its own check sees it.
      quickUpper: quick(upper),
      va: regime.va,
      quickIpa: cd === null && stream.stage2 !== null && plain,
      ipaTop: aboveHi(this.#features.oas),
    };
  }

  /** Stage 2 alone, whatever stage 1 is: Translated transactions of split-stage ATS (§13.6.3). */
  stage2Context(stream: CachedStream): Context {
    return this.#makeContext(stream.config as StreamConfig, null);
  }

  /** Which CD a transaction uses: NO_CD where stage 1 is bypassed, FAULTED where it must not be there at all. */
  #cdIndex(config: StreamConfig, substreamId: number | null): number {
    if (substreamId === null) {
      if (!config.stage1) return NO_CD;
      if (config.s1CdMax === 0) return 0;
      if (config.s1Dss === S1DSS.BYPASS) return NO_CD;
      if (config.s1Dss === S1DSS.SSID0) return 0;
      this.#fail(EVENT.F_STREAM_DISABLED, 'the stream wants a SubstreamID (S1DSS)');
      return FAULTED;
    }
    if (!config.stage1 || config.s1CdMax === 0 || substreamId >= 2 ** config.s1CdMax) {
      this.#fail(EVENT.C_BAD_SUBSTREAMID, 'the stream has no such SubstreamID', 0, substreamId);
      return FAULTED;
    }
    if (substreamId === 0 && config.s1Dss === S1DSS.SSID0) {
      this.#fail(EVENT.F_STREAM_DISABLED, 'SubstreamID 0 is kept for transactions without one (S1DSS)');
      return FAULTED;
    }
    return substreamId;
  }

  #cd(
    stream: CachedStream,
    config: StreamConfig,
    index: number,
    substreamId: number | null,
  ): ContextConfig | Illegal | null {
    const known = stream.cds.get(index);
    if (known !== undefined) return known;
    const address = this.#cdAddress(stream, config, index, substreamId);
    if (address < 0) return null;
    const physical = this.#translateStructure(config, address);
    if (physical < 0) return null;
    if (!this.#load(physical, CD_WORDS))
      return this.#fail(EVENT.F_CD_FETCH, 'the CD could not be read', physical);
    const cd = decodeCd(this.#words, this.#features, config);
    if (this.#contexts >= this.#config.caches.contexts) this.#forgetContexts();
    this.#contexts++;
    stream.cds.set(index, cd);
    if (this.#trace !== null && this.#trace.active) {
      this.#trace.emit({
        kind: 'cache-fill',
        cache: 'cd',
        streamId: stream.streamId,
        substreamId: index,
        illegal: isIllegal(cd) ? cd.illegal : null,
      });
    }
    return cd;
  }

  /** §5.2 S1Fmt: the address (an IPA with stage 2) of the CD at `index`, or -1. */
  #cdAddress(stream: CachedStream, config: StreamConfig, index: number, substreamId: number | null): number {
    const max = config.s1CdMax;
    const pointer = config.s1ContextPtr;
    if (max === 0) return pointer;
    if (config.s1Fmt === S1FMT.LINEAR) return alignDown(pointer, max + 6) + index * CD_BYTES;
    const leafLog2 = config.s1Fmt === S1FMT.TWO_LEVEL_4K ? 6 : 10;
    const l1index = max <= leafLog2 ? 0 : index >>> leafLog2;
    let l1 = stream.l1cds.get(l1index);
    if (l1 === undefined) {
      const address = alignDown(pointer, Math.max(6, max - leafLog2 + 3)) + l1index * L1CD_BYTES;
      const physical = this.#translateStructure(config, address);
      if (physical < 0) return -1;
      if (!this.#memory.load64(physical, this.#pair)) {
        this.#fail(EVENT.F_CD_FETCH, 'the level 1 CD table could not be read', physical);
        return -1;
      }
      l1 = { valid: readField(L1CD.V, this.#pair) !== 0, l2ptr: readAddress(L1CD.L2Ptr, this.#pair) };
      stream.l1cds.set(l1index, l1);
    }
    // The SubstreamID that came in, or 0 where S1DSS led here (§7.3.9).
    if (!l1.valid || l1.l2ptr >= this.#features.physicalLimit) {
      this.#fail(EVENT.C_BAD_SUBSTREAMID, 'the level 1 CD descriptor is invalid', 0, substreamId ?? 0);
      return -1;
    }
    const within = index & (2 ** leafLog2 - 1);
    return alignDown(l1.l2ptr, leafLog2 + 6) + within * CD_BYTES;
  }

  /** Stage 2 of a structure's address, where the stream has one. */
  #translateStructure(config: StreamConfig, address: number): number {
    if (config.stage2 === null) return address;
    this.fault = null;
    return this.#translator.contextAddress(this.#makeContext(config, null), address);
  }

  #load(address: number, words: number): boolean {
    for (let i = 0; i < words; i += 2) {
      if (!this.#memory.load64(address + i * 4, this.#pair)) return false;
      this.#words[i] = this.#pair[0]!;
      this.#words[i + 1] = this.#pair[1]!;
    }
    return true;
  }

  #fail(type: EventType, reason: string, fetch = 0, substreamId = 0): null {
    this.fault = { type, fetch, substreamId, reason };
    return null;
  }

  #traceEvict(cache: string, key: number | string): void {
    if (this.#trace !== null && this.#trace.active) this.#trace.emit({ kind: 'cache-evict', cache, key });
  }

  #drop(streamId: number): void {
    this.#forgetLast();
    const stream = this.#streams.get(streamId);
    if (stream === undefined) return;
    this.#contexts -= stream.cds.size + stream.contexts.size;
    this.#streams.delete(streamId);
  }

  /** Lets every CD go where there is no more room for them. */
  #forgetContexts(): void {
    this.#forgetLast();
    this.#contexts = 0;
    for (const stream of this.#streams.values()) {
      stream.cds.clear();
      stream.l1cds.clear();
      stream.contexts.clear();
    }
    this.#traceEvict('cd', 'all');
  }

  /** The IOTLB gave up its tags: contexts that hold them are made anew. CDs stay. */
  forgetTags(): void {
    this.#forgetLast();
    for (const stream of this.#streams.values()) {
      this.#contexts -= stream.contexts.size;
      stream.contexts.clear();
    }
  }

  /** CMD_CFGI_STE (§4.3.1). */
  invalidateSte(streamId: number, leaf: boolean): void {
    this.#drop(streamId);
    if (!leaf) this.#l1stds.delete(Math.floor(streamId / 2 ** this.base.split));
  }

  /** CMD_CFGI_STE_RANGE (§4.3.2): 2^(range + 1) StreamIDs; 31 is CMD_CFGI_ALL. */
  invalidateRange(streamId: number, range: number): void {
    if (range === 31) return this.invalidateAll();
    const span = 2 ** (range + 1);
    const first = streamId - (streamId % span);
    for (const id of this.#streams.keys()) if (id >= first && id < first + span) this.#drop(id);
    const per = 2 ** this.base.split;
    for (const index of this.#l1stds.keys()) {
      if (index * per < first + span && (index + 1) * per > first) this.#l1stds.delete(index);
    }
  }

  /** CMD_CFGI_CD (§4.3.3). */
  invalidateCd(streamId: number, substreamId: number, leaf: boolean): void {
    this.#forgetLast();
    const stream = this.#streams.get(streamId);
    if (stream === undefined) return;
    if (stream.cds.delete(substreamId)) this.#contexts--;
    if (stream.contexts.delete(substreamId)) this.#contexts--;
    // CD 0 also serves transactions without a SubstreamID.
    if (substreamId === 0 && stream.contexts.delete(NO_SUBSTREAM)) this.#contexts--;
    if (leaf || isIllegal(stream.config)) return;
    const leafLog2 = stream.config.s1Fmt === S1FMT.TWO_LEVEL_4K ? 6 : 10;
    stream.l1cds.delete(stream.config.s1CdMax <= leafLog2 ? 0 : substreamId >>> leafLog2);
  }

  /** CMD_CFGI_CD_ALL (§4.3.4). */
  invalidateCds(streamId: number): void {
    this.#forgetLast();
    const stream = this.#streams.get(streamId);
    if (stream === undefined) return;
    this.#contexts -= stream.cds.size;
    stream.cds.clear();
    stream.l1cds.clear();
    for (const [key, context] of stream.contexts) {
      if (context.cd !== null && stream.contexts.delete(key)) this.#contexts--;
    }
  }

  invalidateAll(): void {
    this.#forgetLast();
    this.#streams.clear();
    this.#l1stds.clear();
    this.#contexts = 0;
  }

  /** The streams in the cache; for looking in from outside. */
  streams(): Iterable<CachedStream> {
    return this.#streams.values();
  }
}

const NO_CD = -1;
const FAULTED = -2;

/** True when an STE terminates everything without a word (§5.2, Config 0b0xx). */
export function aborts(config: StreamConfig): boolean {
  return config.config === STE_CONFIG.ABORT;
}
