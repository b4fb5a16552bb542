// Root, context and PASID tables: fetching entries, and the context-cache and PASID-cache (§6.2.2, §6.2.3). They are
// emptied by the descriptors that name them; with Caching Mode they also keep what is absent or wrong (§6.1).

import { readAddress, readField } from '../../../../base/bit-fields.ts';
import type { PhysicalMemory } from '../../../../memory/physical.ts';
import type { Trace } from '../../../../trace/trace.ts';
import {
  CONTEXT_ENTRY_BYTES,
  ROOT_ENTRY,
  ROOT_ENTRY_BYTES,
  SM_CONTEXT_ENTRY_BYTES,
  SM_ROOT_ENTRY,
  TT,
} from '../../spec/context.ts';
import { FAULT, type FaultCondition } from '../../spec/faults.ts';
import { PASID_DIR_ENTRY_BYTES, PASID_ENTRY_BYTES, PASID_ENTRY_WORDS, PGTT } from '../../spec/pasid.ts';
import { TTM, type Ttm } from '../../spec/registers.ts';
import type { IntelConfig, IntelFeatures } from '../registers/config.ts';
import {
  type Invalid,
  type LegacyContext,
  type ScalableContext,
  decodeContext,
  decodeScalableContext,
  isInvalid,
} from './context-config.ts';
import { type Domain, type Iotlb, NOWHERE, type Source } from '../translation/iotlb.ts';
import { type PasidConfig, decodeDirectory, decodePasidEntry } from './pasid-config.ts';
import { hasReserved, reservedMask } from './reserved.ts';
import type { Fault } from '../transaction.ts';

/** What the Set Root Table Pointer command put in effect. */
export interface RootTable {
  readonly address: number;
  readonly ttm: Ttm;
  /** RTADDR.SSIRWE */
  readonly ioReadWrite: boolean;
}

/** What a {@link Route} is made of. */
interface RouteParts {
  readonly entry: PasidConfig;
  readonly pasid: number;
  readonly ridPrivileged: boolean;
  readonly fpd: boolean;
  readonly source: Source;
  readonly domain: Domain;
}

/** Everything that translating an address needs: the entries of a source-id and PASID. */
export class Route {
  readonly entry: PasidConfig;
  /** The PASID that tables and caches know: the request's, or RID_PASID; -1 in legacy mode. */
  readonly pasid: number = 0;
  /** RID_PRIV, for requests-without-PASID. */
  readonly ridPrivileged: boolean;
  /** An FPD was met on the way. */
  readonly fpd: boolean;
  readonly source: Source;
  readonly domain: Domain;
  /** Whose requests: the source-id, and their PASID or NO_PASID. */
  readonly requesterId: number = 0;
  readonly requestPasid: number = 0;
  /** Bits of the upper word that addresses must not have for quick answers. */
  readonly quickTop: number = 0;
  /** Where those are looked for: Source.only, or NOWHERE. */
  quickSpace = NOWHERE;

  constructor(requesterId: number, requestPasid: number, parts: RouteParts) {
    this.entry = parts.entry;
    this.pasid = parts.pasid;
    this.ridPrivileged = parts.ridPrivileged;
    this.fpd = parts.fpd;
    this.source = parts.source;
    this.domain = parts.domain;
    this.requesterId = requesterId;
    this.requestPasid = requestPasid;
    const { firstStage, secondStage } = parts.entry;
    this.quickTop = firstStage?.canonicalHi ?? secondStage?.aboveHi ?? -1;
    this.lookAgain();
  }

  /** The source has another space. The IOTLB knows the addresses of quick answers by the words that requests have. */
  lookAgain(): void {
    const { pgtt, firstStage, secondStage } = this.entry;
    const narrow = firstStage === null && secondStage !== null && secondStage.aboveLo !== 0;
    const quick = pgtt !== PGTT.PASS_THROUGH && !this.ridPrivileged && !narrow;
    this.quickSpace = (quick ? this.source.only : null) ?? NOWHERE;
  }
}

/** The domain-id that faulting entries are kept under (§6.2.2). */
const FAULT_DID = 0;
const ROOT_RESERVED = reservedMask(ROOT_ENTRY.$);
const SM_ROOT_RESERVED = reservedMask(SM_ROOT_ENTRY.$);

/** Of requests without one. */
export const NO_PASID = -1;

interface CachedContext {
  readonly context: LegacyContext | ScalableContext | Invalid;
  readonly did: number;
}
interface CachedPasid {
  readonly requesterId: number;
  readonly pasid: number;
  readonly did: number;
  readonly entry: PasidConfig | Invalid;
  /** FPD of the directory entry. */
  readonly fpd: boolean;
}

export class ConfigTable {
  root: RootTable = { address: 0, ttm: TTM.LEGACY, ioReadWrite: false };
  /** Why the last lookup failed. */
  fault: Fault | null = null;
  readonly #memory: PhysicalMemory;
  readonly #config: IntelConfig;
  readonly #features: IntelFeatures;
  readonly #iotlb: Iotlb;
  readonly #trace: Trace | null;
  readonly #contexts = new Map<number, CachedContext>();
  readonly #pasids = new Map<number, CachedPasid>();
  /** What contexts and PASID entries give together, by source-id and PASID. Never outlives either. */
  readonly #routes = new Map<number, Route>();
  /** The one that was used last: most requests follow others of their function. */
  #last: Route | null = null;
  readonly #words = new Uint32Array(PASID_ENTRY_WORDS);
  readonly #pair = new Uint32Array(2);

  constructor(
    memory: PhysicalMemory,
    config: IntelConfig,
    features: IntelFeatures,
    iotlb: Iotlb,
    trace: Trace | null,
  ) {
    this.#memory = memory;
    this.#config = config;
    this.#features = features;
    this.#iotlb = iotlb;
    this.#trace = trace;
  }

  /** The route of a source-id and a PASID or NO_PASID, where both caches have what it needs. */
  cached(requesterId: number, pasid: number): Route | null {
    const last = this.#last;
    return last !== null && last.requesterId === requesterId && last.requestPasid === pasid
      ? last
      : this.#find(requesterId, pasid);
  }

  #find(requesterId: number, pasid: number): Route | null {
    const route = this.#routes.get(keyOf(requesterId, pasid));
    if (route === undefined) return null;
    this.#last = route;
    return route;
  }

  #fail(condition: FaultCondition, fpd = false): null {
    this.fault = { condition, fpd };
    return null;
  }

  /** What the root table address register says against every request (RTA.*), or null. */
  rootFault(pasid: boolean): FaultCondition | null {
    const { ttm, ioReadWrite } = this.root;
    const features = this.#features;
    if (ttm === TTM.RESERVED) return FAULT.RTA_1_2;
    if (ttm === TTM.ABORT) return features.adms ? FAULT.RTA_4 : FAULT.RTA_1_1;
    if (ttm === TTM.SCALABLE) return features.smts ? null : FAULT.RTA_1_3;
    if (pasid) return FAULT.RTA_2;
    return ioReadWrite ? FAULT.RTA_1_4 : null;
  }

  /** TTM has a value that the implementation does not know. */
  get rootModeInvalid(): boolean {
    const { ttm } = this.root;
    const { smts, adms } = this.#features;
    return ttm === TTM.RESERVED || (ttm === TTM.SCALABLE && !smts) || (ttm === TTM.ABORT && !adms);
  }

  /** The context of a source-id, or null with `fault`. The mode is one of the two with tables. */
  context(requesterId: number): LegacyContext | ScalableContext | null {
    const known = this.#contexts.get(requesterId);
    if (known !== undefined) {
      if (!isInvalid(known.context)) return known.context;
      return this.#fail(known.context.invalid, known.context.fpd);
    }
    const legacy = this.root.ttm === TTM.LEGACY;
    const found = legacy ? this.#fetchContext(requesterId) : this.#fetchScalableContext(requesterId);
    const invalid = isInvalid(found);
    if (!invalid || this.#features.cachingMode) {
      const did = !invalid && found.mode === 'legacy' ? found.did : FAULT_DID;
      this.#evictOldest(this.#contexts, this.#config.caches.contexts, 'context');
      this.#contexts.set(requesterId, { context: found, did });
      this.#traceFill('context', requesterId, null, invalid ? found.invalid : null);
    }
    return invalid ? this.#fail(found.invalid, found.fpd) : found;
  }

  #fetchContext(requesterId: number): LegacyContext | Invalid {
    const root = this.root.address + (requesterId >>> 8) * ROOT_ENTRY_BYTES;
    if (!this.#load(root, 4)) return invalid(FAULT.LRT_1);
    if (readField(ROOT_ENTRY.P, this.#words) === 0) return invalid(FAULT.LRT_2);
    const table = readAddress(ROOT_ENTRY.CTP, this.#words);
    if (hasReserved(this.#words, ROOT_RESERVED) || table >= 2 ** this.#features.haw)
      return invalid(FAULT.LRT_3);
    if (!this.#load(table + (requesterId & 0xff) * CONTEXT_ENTRY_BYTES, 4)) return invalid(FAULT.LCT_1);
    return decodeContext(this.#words, this.#features);
  }

  #fetchScalableContext(requesterId: number): ScalableContext | Invalid {
    const root = this.root.address + (requesterId >>> 8) * ROOT_ENTRY_BYTES;
    if (!this.#load(root, 4)) return invalid(FAULT.SRT_1);
    // Each half has its own Present; the other half does not matter.
    const half = (requesterId & 0x80) !== 0 ? 2 : 0;
    const words = this.#words.subarray(half, half + 2);
    if ((words[0]! & 1) === 0) return invalid(FAULT.SRT_2);
    const table = readAddress(half === 0 ? SM_ROOT_ENTRY.LCTP : SM_ROOT_ENTRY.UCTP, this.#words);
    const mask = SM_ROOT_RESERVED.subarray(half, half + 2);
    if (hasReserved(words, mask) || table >= 2 ** this.#features.haw) return invalid(FAULT.SRT_3);
    if (!this.#load(table + (requesterId & 0x7f) * SM_CONTEXT_ENTRY_BYTES, 8)) return invalid(FAULT.SCT_1);
    return decodeScalableContext(this.#words, this.#features);
  }

  /**
   * The route of a request, or null with `fault`. `context` is what context() gave. With a PASID the context must take
   * such requests.
   */
  route(requesterId: number, context: LegacyContext | ScalableContext, pasid: number | null): Route | null {
    const known = this.cached(requesterId, pasid ?? NO_PASID);
    if (known !== null) return known;
    const route =
      context.mode === 'legacy'
        ? this.#legacyRoute(requesterId, context)
        : this.#scalableRoute(requesterId, context, pasid);
    if (route !== null) this.#routes.set(keyOf(requesterId, pasid ?? NO_PASID), route);
    return route;
  }

  #legacyRoute(requesterId: number, context: LegacyContext): Route {
    const pgtt = context.tt === TT.PASS_THROUGH ? PGTT.PASS_THROUGH : PGTT.SECOND_STAGE;
    const source = this.#iotlb.source(requesterId, null);
    return new Route(requesterId, NO_PASID, {
      entry: {
        pgtt,
        did: context.did,
        fpd: context.fpd,
        legacy: true,
        supervisor: false,
        pageSnoop: false,
        firstStage: null,
        secondStage: context.secondStage,
      },
      pasid: -1,
      ridPrivileged: false,
      fpd: context.fpd,
      source,
      domain: this.#iotlb.domain(context.did),
    });
  }

  #scalableRoute(requesterId: number, context: ScalableContext, pasid: number | null): Route | null {
    if (pasid !== null && !this.acceptsPasid(context, pasid)) return null;
    if (pasid === null && context.inconsistent) return this.#fail(FAULT.SCT_4_3, context.fpd);
    const index = pasid ?? context.ridPasid;
    const found = this.#pasidEntry(requesterId, context, index);
    const fpd = context.fpd || found.fpd || found.entry.fpd;
    if (isInvalid(found.entry)) return this.#fail(found.entry.invalid, fpd);
    const { entry } = found;
    const ridPrivileged = pasid === null && context.ridPrivileged;
    const source = this.#iotlb.source(requesterId, pasid);
    return new Route(requesterId, pasid ?? NO_PASID, {
      entry,
      pasid: index,
      ridPrivileged,
      fpd,
      source,
      domain: this.#iotlb.domain(entry.did),
    });
  }

  /** SCT.6, SGN.10, SCT.7, SCT.9: whether the context takes a PASID; false with `fault`. */
  acceptsPasid(context: ScalableContext, pasid: number): boolean {
    const refused = !context.pasidEnabled
      ? FAULT.SCT_6
      : pasid >= this.#features.pasidLimit
        ? FAULT.SGN_10
        : pasid >= context.pasidLimit
          ? FAULT.SCT_7
          : pasid === context.ridPasid
            ? FAULT.SCT_9
            : null;
    if (refused !== null) this.#fail(refused, context.fpd);
    return refused === null;
  }

  #pasidEntry(requesterId: number, context: ScalableContext, pasid: number): CachedPasid {
    const key = keyOf(requesterId, pasid);
    const known = this.#pasids.get(key);
    if (known !== undefined) return known;
    const found = this.#fetchPasid(requesterId, context, pasid);
    if (!isInvalid(found.entry) || this.#features.cachingMode) {
      this.#evictOldest(this.#pasids, this.#config.caches.pasids, 'pasid');
      this.#pasids.set(key, found);
      this.#traceFill('pasid', requesterId, pasid, isInvalid(found.entry) ? found.entry.invalid : null);
    }
    return found;
  }

  #fetchPasid(requesterId: number, context: ScalableContext, pasid: number): CachedPasid {
    const fail = (condition: FaultCondition, fpd: boolean): CachedPasid => ({
      requesterId,
      pasid,
      did: FAULT_DID,
      entry: { invalid: condition, fpd },
      fpd,
    });
    const place = context.pasidDirectory + (pasid >>> 6) * PASID_DIR_ENTRY_BYTES;
    if (!this.#load(place, 2)) return fail(FAULT.SPD_1, false);
    const directory = decodeDirectory(this.#words, this.#features);
    if (isInvalid(directory)) return fail(directory.invalid, directory.fpd);
    if (!this.#load(directory.table + (pasid & 63) * PASID_ENTRY_BYTES, PASID_ENTRY_WORDS)) {
      return fail(FAULT.SPT_1, directory.fpd);
    }
    const entry = decodePasidEntry(this.#words, this.#features, this.root.ioReadWrite);
    const did = isInvalid(entry) ? FAULT_DID : entry.did;
    return { requesterId, pasid, did, entry, fpd: directory.fpd };
  }

  #load(address: number, words: number): boolean {
    for (let i = 0; i < words; i += 2) {
      if (!this.#memory.load64(address + i * 4, this.#pair)) return false;
      this.#words[i] = this.#pair[0]!;
      this.#words[i + 1] = this.#pair[1]!;
    }
    return true;
  }

  #evictOldest<V>(cache: Map<number, V>, limit: number, name: string): void {
    if (cache.size < limit) return;
    const oldest = cache.keys().next().value!;
    cache.delete(oldest);
    this.forgetTags();
    if (this.#trace !== null && this.#trace.active)
      this.#trace.emit({ kind: 'cache-evict', cache: name, key: oldest });
  }

  #traceFill(cache: string, requesterId: number, pasid: number | null, fault: FaultCondition | null): void {
    if (this.#trace === null || !this.#trace.active) return;
    this.#trace.emit({ kind: 'cache-fill', cache, requesterId, pasid, fault: fault?.code ?? null });
  }

  /** The IOTLB gave up its tags: routes that hold them are made anew. Entries stay. */
  forgetTags(): void {
    this.#routes.clear();
    this.#last = null;
  }

  // --- invalidation ---

  invalidateAllContexts(): void {
    this.#contexts.clear();
    this.forgetTags();
  }

  /** Domain-selective: in scalable mode contexts have no domain-id, and all go (§6.5.2.1). */
  invalidateContextsOfDomain(did: number): void {
    if (this.root.ttm !== TTM.LEGACY) return this.invalidateAllContexts();
    for (const [requesterId, cached] of this.#contexts) {
      if (cached.did === did) this.#contexts.delete(requesterId);
    }
    this.forgetTags();
  }

  /** Device-selective: the source-ids that FM leaves (Table 21), and in legacy mode the domain-id. */
  invalidateContextsOfDevice(did: number, requesterId: number, functionMask: number): void {
    const mask = [0xffff, 0xfffb, 0xfff9, 0xfff8][functionMask]!;
    for (const [id, cached] of this.#contexts) {
      if (((id ^ requesterId) & mask) !== 0) continue;
      if (this.root.ttm === TTM.LEGACY && cached.did !== did) continue;
      this.#contexts.delete(id);
    }
    this.forgetTags();
  }

  invalidateAllPasids(): void {
    this.#pasids.clear();
    this.forgetTags();
  }

  /** Domain-selective, or PASID-selective-within-domain where `pasid` is not null. */
  invalidatePasids(did: number, pasid: number | null): void {
    for (const [key, cached] of this.#pasids) {
      if (cached.did === did && (pasid === null || cached.pasid === pasid)) this.#pasids.delete(key);
    }
    this.forgetTags();
  }

  /** For looking in from outside. */
  get cachedContexts(): number {
    return this.#contexts.size;
  }

  get cachedPasids(): number {
    return this.#pasids.size;
  }
}

function keyOf(requesterId: number, pasid: number): number {
  return requesterId + (pasid + 1) * 0x1_0000;
}

/** Faults before there is any FPD. */
function invalid(condition: FaultCondition): Invalid {
  return { invalid: condition, fpd: false };
}
