// PCIe ATS (§3.9, §13.6, §13.7): Translation Requests, and what is done with Translated transactions.

import { DEFAULT_INPUT, override } from '../../../../pagetable/armv8-attributes.ts';
import { PERM } from '../../../../pagetable/armv8.ts';
import { CLASS, EVENT } from '../../spec/events.ts';
import { EATS, INSTCFG } from '../../spec/ste.ts';
import type { SmmuV3Features } from '../registers/config.ts';
import { type CachedStream, type ConfigTable, aborts } from '../configuration/config-table.ts';
import { badAtsRequestEvent, configEvent, forbiddenEvent, translationEvent } from '../queues/events.ts';
import {
  type StreamConfig,
  effectiveEats,
  effectiveInstruction,
  effectivePrivilege,
  isIllegal,
} from '../configuration/stream-config.ts';
import type { EventRecord, Outcome, Terminated, Transaction } from '../transaction.ts';
import type { Context, TranslationFault } from '../configuration/context.ts';
import type { Translator } from './translator.ts';

/** An ATS Translation Request. `write` is NW == 0; the last two count with a PASID alone. */
export interface AtsRequest {
  readonly streamId: number;
  readonly substreamId?: number | null;
  /** The untranslated address, as two u32. */
  readonly hi: number;
  readonly lo: number;
  readonly write: boolean;
  readonly execute?: boolean;
  readonly privileged?: boolean;
  /** How many translations are asked for, of one STU each; 1 where absent. */
  readonly count?: number;
}

/** One Translation Completion Data Entry. */
export interface AtsTranslation {
  /** The translated address of the first byte of the aligned block of 2^sizeBits bytes. */
  readonly translated: number;
  readonly sizeBits: number;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  readonly privileged: boolean;
}

/** A Translation Completion: Unsupported Request and Completer Abort carry no entries. */
export interface AtsCompletion {
  readonly status: 'success' | 'UR' | 'CA';
  readonly entries: readonly AtsTranslation[];
  /** The event that was recorded or discarded, if any. */
  readonly event: EventRecord | null;
}

/** How the registers stand. */
export interface AtsState {
  readonly enabled: boolean;
  readonly atschk: boolean;
  readonly recordConfig: boolean;
  readonly recordStreamId: boolean;
}

export class Ats {
  readonly #features: SmmuV3Features;
  readonly #table: ConfigTable;
  readonly #translator: Translator;
  readonly #state: () => AtsState;
  readonly #record: (event: EventRecord, stream: StreamConfig | null) => boolean;
  /** log2 of the Smallest Translation Unit: the smallest granule (§3.9.1). */
  readonly #stu: number;

  constructor(
    features: SmmuV3Features,
    table: ConfigTable,
    translator: Translator,
    state: () => AtsState,
    record: (event: EventRecord, stream: StreamConfig | null) => boolean,
  ) {
    this.#features = features;
    this.#table = table;
    this.#translator = translator;
    this.#state = state;
    this.#record = record;
    this.#stu = Math.min(...features.granules);
  }

  /** Answers a Translation Request (§3.9.1.2). */
  request(request: AtsRequest): AtsCompletion {
    const refuse = (status: 'UR' | 'CA', event: EventRecord | null = null): AtsCompletion => ({
      status,
      entries: [],
      event,
    });
    if (!this.#features.ats) return refuse('UR');
    const transaction = asTransaction(request);
    const state = this.#state();
    const forbid = (stream: StreamConfig | null): AtsCompletion => {
      const event = badAtsRequestEvent(transaction, request.count ?? 1);
      this.#record(event, stream);
      return refuse('UR', event);
    };
    if (!state.enabled) return forbid(null);
    const stream = this.#table.stream(request.streamId);
    if (stream === null) return refuse('CA', this.#configEvent(transaction, state, null));
    if (isIllegal(stream.config)) {
      return refuse('CA', this.#illegalSte(stream, transaction, state));
    }
    const config = stream.config;
    if (aborts(config)) return refuse('UR');
    const eats = effectiveEats(config, state.atschk);
    if (eats === EATS.ABORT) return forbid(config);
    const context = this.#table.context(stream, request.substreamId ?? null);
    if (context === null) {
      if (this.#table.fault !== null) return refuse('CA', this.#configEvent(transaction, state, config));
      return this.#refuseOrDeny(this.#translator.fault!, transaction, state, config, [], request);
    }
    return this.#translate(context, request, transaction, state, eats);
  }

  /** C_BAD_STREAMID wants RECINVSID too (§3.9.1.2). */
  #configEvent(transaction: Transaction, state: AtsState, stream: StreamConfig | null): EventRecord | null {
    const fault = this.#table.fault!;
    if (!state.recordConfig || (fault.type === EVENT.C_BAD_STREAMID && !state.recordStreamId)) return null;
    const event = configEvent(fault, transaction);
    this.#record(event, stream);
    return event;
  }

  #illegalSte(stream: CachedStream, transaction: Transaction, state: AtsState): EventRecord | null {
    if (!state.recordConfig) return null;
    const reason = isIllegal(stream.config) ? stream.config.illegal : '';
    const event = configEvent({ type: EVENT.C_BAD_STE, fetch: 0, substreamId: 0, reason }, transaction);
    this.#record(event, null);
    return event;
  }

  /** Faults of translation deny access; only an abort of a walk is the Completer's. */
  #refuseOrDeny(
    fault: TranslationFault,
    transaction: Transaction,
    state: AtsState,
    stream: StreamConfig,
    before: readonly AtsTranslation[],
    request: AtsRequest,
  ): AtsCompletion {
    if (fault.type !== EVENT.F_WALK_EABT) {
      return { status: 'success', entries: [...before, this.#denied(request)], event: null };
    }
    if (before.length > 0) return { status: 'success', entries: before, event: null };
    let event: EventRecord | null = null;
    if (state.recordConfig) {
      event = translationEvent(
        fault,
        transaction,
        { write: false, instruction: false, privileged: false },
        null,
      );
      this.#record(event, stream);
    }
    return { status: 'CA', entries: [], event };
  }

  #denied(request: AtsRequest): AtsTranslation {
    const privileged = hasPasid(request) && request.privileged === true;
    return { translated: 0, sizeBits: this.#stu, read: false, write: false, execute: false, privileged };
  }

  #translate(
    context: Context,
    request: AtsRequest,
    transaction: Transaction,
    state: AtsState,
    eats: number,
  ): AtsCompletion {
    const entries: AtsTranslation[] = [];
    const unit = 2 ** this.#stu;
    for (let index = 0; index < (request.count ?? 1); index++) {
      const low = (request.lo >>> 0) + index * unit;
      const lo = low >>> 0;
      const hi = (request.hi + (low > 0xffff_ffff ? 1 : 0)) >>> 0;
      const entry = this.#one(context, request, hi, lo, eats);
      if (entry === null) {
        return this.#refuseOrDeny(
          this.#translator.fault!,
          transaction,
          state,
          context.stream,
          entries,
          request,
        );
      }
      entries.push(entry);
      // A completion ends where one entry denies everything or covers what was asked for.
      if (!(entry.read || entry.write) || entry.sizeBits > this.#stu) break;
    }
    return { status: 'success', entries, event: null };
  }

  /** One translation, or null with the translator's fault. */
  #one(context: Context, request: AtsRequest, hi: number, lo: number, eats: number): AtsTranslation | null {
    const { stream } = context;
    const translator = this.#translator;
    const bypassed = context.cd === null;
    if (bypassed && (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0) >= this.#features.physicalLimit) {
      return this.#denied(request);
    }
    const pasid = hasPasid(request);
    const privileged = effectivePrivilege(stream, pasid && request.privileged === true);
    if (bypassed && stream.stage2 === null) return this.#identity(request, hi, lo);
    if (!privileged && translator.unprivilegedDisabled(context, hi)) return this.#denied(request);
    if (!translator.translate(context, hi, lo, 0, DEFAULT_INPUT)) return null;
    const shift = privileged ? 0 : 3;
    // A write makes clean pages dirty, at the stages that manage the dirty state, before it is granted.
    if (request.write && ((translator.granted >>> shift) & PERM.PW) !== 0) {
      if (!translator.translate(context, hi, lo, PERM.PW << shift, DEFAULT_INPUT)) return null;
    }
    const granted = (translator.granted >>> shift) & 7;
    const r = (granted & PERM.PR) !== 0;
    const x = (granted & PERM.PX) !== 0;
    const exe = pasid && request.execute === true;
    const { read, execute } = readAndExecute(stream, r, x, exe);
    const write = request.write && (granted & PERM.PW) !== 0;
    if (!read && !write) return this.#denied(request);
    const base = eats === EATS.SPLIT ? translator.ipa : translator.pa;
    return {
      translated: base - translator.offset,
      sizeBits: translator.sizeBits,
      read,
      write,
      execute,
      privileged: pasid && request.privileged === true,
    };
  }

  /** Stage 1 skipped and no stage 2: the address is its own translation (§13.6.4). */
  #identity(request: AtsRequest, hi: number, lo: number): AtsTranslation {
    const address = (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);
    return {
      translated: address - (address % 2 ** this.#stu),
      sizeBits: this.#stu,
      read: true,
      write: request.write,
      execute: false,
      privileged: false,
    };
  }

  /** A Translated transaction (§3.9.1.3). */
  translated(transaction: Transaction): Outcome {
    const state = this.#state();
    if (!state.enabled || !this.#features.ats) return this.#forbid(transaction, null);
    const address = (transaction.hi >>> 0) * 0x1_0000_0000 + (transaction.lo >>> 0);
    if (!state.atschk) return this.#pass(address, transaction.lo);
    const stream = this.#table.stream(transaction.streamId);
    if (stream === null) return this.#abortConfig(transaction, state);
    if (isIllegal(stream.config)) {
      const event = this.#illegalSte(stream, transaction, state);
      return { kind: 'terminated', abort: true, event, recorded: event !== null };
    }
    if (aborts(stream.config)) return ABORTED;
    const eats = effectiveEats(stream.config, state.atschk);
    if (eats === EATS.ABORT) return this.#forbid(transaction, stream.config);
    if (eats === EATS.TRANS) return this.#pass(address, transaction.lo);
    return this.#splitStage(stream, transaction, address);
  }

  /** Address bits above the OAS abort without an event (§3.9.1.1). Attributes are the fixed, incoming ones. */
  #pass(address: number, lo: number): Outcome {
    if (address >= this.#features.physicalLimit) return ABORTED;
    return {
      kind: 'translated',
      pa: address,
      attributes: DEFAULT_INPUT,
      bytes: (1 << this.#stu) - (lo & ((1 << this.#stu) - 1)),
    };
  }

  #forbid(transaction: Transaction, stream: StreamConfig | null): Terminated {
    const event = forbiddenEvent(transaction);
    return { kind: 'terminated', abort: true, event, recorded: this.#record(event, stream) };
  }

  /** RECINVSID does not matter here (§3.9.1.3). */
  #abortConfig(transaction: Transaction, state: AtsState): Terminated {
    if (!state.recordConfig) return ABORTED;
    const event = configEvent(this.#table.fault!, withoutPasid(transaction));
    return { kind: 'terminated', abort: true, event, recorded: this.#record(event, null) };
  }

  /** The address is an IPA, and stage 2 translates it now (§13.6.3). */
  #splitStage(stream: CachedStream, transaction: Transaction, address: number): Outcome {
    const config = stream.config as StreamConfig;
    const plain = withoutPasid(transaction);
    const write = transaction.write === true;
    const attributes = {
      write,
      instruction: effectiveInstruction(config, false, write),
      privileged: effectivePrivilege(config, false),
    };
    const end = (fault: TranslationFault): Terminated => {
      const event = translationEvent(fault, plain, attributes, null);
      return { kind: 'terminated', abort: true, event, recorded: this.#record(event, config) };
    };
    if (address >= this.#features.physicalLimit) return end(ADDRESS_SIZE);
    const one = attributes.instruction ? PERM.PX : write ? PERM.PW : PERM.PR;
    const need = attributes.privileged ? one : one << 3;
    const context = this.#table.stage2Context(stream);
    const translator = this.#translator;
    if (!translator.translate(context, transaction.hi, transaction.lo, need, DEFAULT_INPUT)) {
      return end(translator.fault!);
    }
    return {
      kind: 'translated',
      pa: translator.pa,
      attributes: translator.attributes,
      bytes: translator.bytes,
    };
  }
}

const ABORTED: Terminated = { kind: 'terminated', abort: true, event: null, recorded: false };

/** A bypassed stage 1 whose input does not fit (§3.4). */
export const ADDRESS_SIZE: TranslationFault = {
  type: EVENT.F_ADDR_SIZE,
  stage2: false,
  class: CLASS.IN,
  ipa: 0,
  fetch: 0,
  ttRead: true,
};

/** §13.7.1: what R and Exe a completion grants, given the page's R and X and the STE's INSTCFG. */
function readAndExecute(
  stream: StreamConfig,
  r: boolean,
  x: boolean,
  exe: boolean,
): { read: boolean; execute: boolean } {
  if (stream.instCfg === INSTCFG.INSTRUCTION) return { read: x, execute: exe && x };
  if (stream.instCfg === INSTCFG.DATA) return { read: r, execute: exe && r };
  return { read: r, execute: exe && r && x };
}

function hasPasid(request: AtsRequest): boolean {
  return request.substreamId !== undefined && request.substreamId !== null;
}

function asTransaction(request: AtsRequest): Transaction {
  return {
    streamId: request.streamId,
    substreamId: request.substreamId ?? null,
    hi: request.hi,
    lo: request.lo,
    write: request.write,
    instruction: request.execute ?? false,
    privileged: request.privileged ?? false,
  };
}

/** Without PASIDTT a Translated transaction counts as data, unprivileged and without a SubstreamID (§3.9.1.3). */
function withoutPasid(transaction: Transaction): Transaction {
  return { ...transaction, substreamId: null, privileged: false, instruction: false };
}

/** The attributes of a transaction that bypasses translation in its stream (§13.3). */
export function bypassAttributes(stream: StreamConfig, input: number): number {
  return stream.overrides === null ? input : override(input, stream.overrides);
}
